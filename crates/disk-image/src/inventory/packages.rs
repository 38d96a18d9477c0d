//! Which package a file is from: dpkg's database (`/var/lib/dpkg/status`, `info/PACKAGE.list`) and RPM's.
//!
//! It is what the image says of itself; nothing proves it. The digests in a certificate are those of the files.

use super::TEXT_MAX;
use crate::{Error, Tree, rpm};
use std::collections::HashMap;

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Which package a file is from.
#[derive(Debug, Default)]
pub struct Packages {
    packages: Vec<Package>,
    /// Paths without links to the place in `packages`.
    owners: HashMap<String, usize>,
}

const INFO: &str = "/var/lib/dpkg/info";
/// Where RPM's database is: as Fedora and openSUSE have it, as all others, as an ostree.
const RPM: [&str; 3] = ["/usr/lib/sysimage/rpm", "/var/lib/rpm", "/usr/share/rpm"];
/// What it is called, the newest format first: one that was converted may have left the older file.
const RPM_FILES: [&str; 3] = ["rpmdb.sqlite", "Packages.db", "Packages"];
/// Most bytes of RPM's database and of its log.
const RPM_MAX: u64 = 512 << 20;
/// Longest path, as in Linux (`PATH_MAX`).
const PATH_MAX: usize = 4096;

impl Packages {
    pub(super) fn read(tree: &Tree, notes: &mut Vec<String>) -> Result<Self, Error> {
        let mut all = Self::dpkg(tree)?;
        all.add_rpm(tree, notes)?;
        Ok(all)
    }

    fn dpkg(tree: &Tree) -> Result<Self, Error> {
        let mut all = Self::default();
        let status = tree.text("/var/lib/dpkg/status", TEXT_MAX)?.unwrap_or_default();
        for stanza in status.split("\n\n") {
            let field = |key: &str| {
                stanza.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim))
            };
            let installed = field("Status").is_some_and(|status| status.ends_with(" installed"));
            let (Some(name), Some(version), true) = (field("Package"), field("Version"), installed) else {
                continue;
            };
            let index = all.packages.len();
            all.packages.push(Package { name: name.to_owned(), version: version.to_owned() });
            // A package that may be there for several architectures has its own in the name of the list.
            let architecture = field("Architecture").unwrap_or_default();
            let lists = [format!("{INFO}/{name}.list"), format!("{INFO}/{name}:{architecture}.list")];
            for list in lists {
                let list = tree.text(&list, TEXT_MAX)?.unwrap_or_default();
                for path in list.lines().filter_map(|path| tree.resolve(path)) {
                    all.owners.entry(path.to_owned()).or_insert(index);
                }
            }
        }
        Ok(all)
    }

    /// Adds what RPM's database says. One that is damaged is as if there were none, and is noted.
    fn add_rpm(&mut self, tree: &Tree, notes: &mut Vec<String>) -> Result<(), Error> {
        let places = RPM_FILES.iter().flat_map(|name| RPM.iter().map(move |place| format!("{place}/{name}")));
        let found = places.into_iter().find(|path| tree.get(path).is_some());
        let Some(path) = found else { return Ok(()) };
        let read = |path: &str| match tree.read(path, RPM_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NoSuchFile { .. }) => Ok(Some(Vec::new())),
            Err(Error::FileTooLarge { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        let (Some(database), Some(log)) = (read(&path)?, read(&format!("{path}-wal"))?) else {
            notes.push(format!(
                "Its RPM database {path} or its log has more than {RPM_MAX} bytes and is not read: no file carries its package."
            ));
            return Ok(());
        };
        let (packages, mut owners) = (self.packages.len(), HashMap::new());
        let read = rpm::read(&database, &log, |installed| {
            let index = self.packages.len();
            let directories: Vec<Option<&str>> =
                installed.directories.iter().map(|path| tree.resolve(path)).collect();
            for (directory, name) in &installed.files {
                let Some(directory) = directories.get(*directory).copied().flatten() else { continue };
                if directory.len().saturating_add(name.len()) > PATH_MAX {
                    continue;
                }
                if let Some(path) = tree.file(&format!("{}/{name}", directory.trim_end_matches('/'))) {
                    owners.entry(path).or_insert(index);
                }
            }
            self.packages.push(Package { name: installed.name, version: installed.version });
        });
        if let Err(error) = read {
            notes
                .push(format!("Its RPM database {path} is not read ({error}): no file carries its package."));
            self.packages.truncate(packages);
            return Ok(());
        }
        for (path, index) in owners {
            self.owners.entry(path.to_owned()).or_insert(index);
        }
        Ok(())
    }

    /// How many are installed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packages.len()
    }

    /// Whether none is installed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// The package that a file is from; its path is one without links.
    #[must_use]
    pub fn owner(&self, path: &str) -> Option<&Package> {
        self.packages.get(*self.owners.get(path)?)
    }
}
