//! dpkg's database: which package a file is from (`/var/lib/dpkg/status`, `info/PACKAGE.list`).
//!
//! It is what the image says of itself; nothing proves it. The digests in a certificate are those of the files.

use super::TEXT_MAX;
use crate::{Error, Tree};
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

impl Packages {
    pub(super) fn read(tree: &Tree) -> Result<Self, Error> {
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
