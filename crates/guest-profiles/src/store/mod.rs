//! The host's profiles: directories of small files, one for each kernel build.
//!
//! A build is told by release, build id and BTF digest together, because some kernels have a build id that is garbage. Two
//! profiles of one release that disagree stay beside each other, whatever their ids are, and whoever looks takes the one
//! that agrees with the guest: nothing can make one kernel's profile stand in for another's. A profile that only knows more
//! than an older one of its build (a newer Birthmark asks for more) takes the older one's place.
//!
//! `outlines.json` lists what tells each kernel in memory; it is made when a profile is added.
//!
//! Files are read when a kernel of their release is first met, and shared from then on. What is damaged, or what others could
//! have written, is named and passed over; it never stops a look, because the guest's own memory is still there.

mod file;
mod outlines;

pub use file::{json, pack, unpack};

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::{Outline, Profile};

/// Most files looked at in a directory.
const FILES_MAX: usize = 10_000;
/// Most profiles kept in memory that nobody uses.
const UNUSED_MAX: usize = 32;

/// A profile and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The profile, shared by all who ask for it.
    pub profile: Arc<Profile>,
    /// Its file.
    pub path: PathBuf,
}

/// What a question found.
#[derive(Debug, Default)]
pub struct Found {
    /// Profiles that can be used, in the order of the directories and then by name.
    pub profiles: Vec<Stored>,
    /// Why others cannot; each error names the file.
    pub refused: Vec<Error>,
}

/// What came of [`Store::add`].
#[derive(Debug)]
pub struct Added {
    /// The profile's file.
    pub path: PathBuf,
    /// Whether the very same was there before.
    pub known: bool,
    /// Files whose place it took.
    pub replaced: Vec<PathBuf>,
}

/// The store. Cheap to make; shared by threads.
#[derive(Debug, Default)]
pub struct Store {
    directories: Vec<PathBuf>,
    cache: Mutex<BTreeMap<PathBuf, Cached>>,
}

/// A file that was read, and by what it is known to be the same.
#[derive(Debug)]
struct Cached {
    version: Version,
    profile: Arc<Profile>,
}

/// Device, inode, length, and the time of the last change in nanoseconds.
type Version = (u64, u64, u64, i64, i64);

impl Store {
    /// Where profiles are kept that this host made or was given.
    pub const WRITABLE: &str = "/var/lib/birthmark/profiles";
    /// Where those are that came with the program.
    pub const SHIPPED: &str = "/usr/share/birthmark/profiles";

    /// A store of these directories. New profiles go into the first. A directory that does not exist is empty.
    #[must_use]
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, cache: Mutex::default() }
    }

    /// The directories.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// All profiles of a release (`uname -r`), shared with whoever asked before.
    pub fn of_release(&self, release: &str) -> Found {
        let mut found = Found::default();
        let Some(wanted) = file::release_part(release) else { return found };
        self.visit(&mut found, |name| file::parts(name).is_some_and(|(release, _)| release == wanted));
        found
    }

    /// Whether there is any file of a release; reads none.
    #[must_use]
    pub fn has_release(&self, release: &str) -> bool {
        let Some(wanted) = file::release_part(release) else { return false };
        let is_one = |path: &PathBuf| {
            name_of(path).and_then(file::parts).is_some_and(|(release, _)| release == wanted)
        };
        self.directories.iter().any(|directory| files(directory).is_ok_and(|all| all.iter().any(is_one)))
    }

    /// What tells the kernels of the store in memory, each read when it is its turn; what cannot be read is left out.
    pub fn outlines(&self) -> impl Iterator<Item = Outline> + '_ {
        self.directories.iter().flat_map(|directory| {
            let paths = profiles(directory).unwrap_or_default();
            let mut listed = if paths.is_empty() { BTreeMap::new() } else { outlines::read(directory) };
            paths.into_iter().filter_map(move |path| {
                let known = name_of(&path).and_then(|name| listed.remove(name));
                known.or_else(|| file::outline(&path).ok())
            })
        })
    }

    /// Every profile.
    pub fn all(&self) -> Found {
        let mut found = Found::default();
        self.visit(&mut found, |name| name.ends_with(file::ENDING));
        found
    }

    fn visit(&self, found: &mut Found, wanted: impl Fn(&str) -> bool) {
        for directory in &self.directories {
            let paths = match files(directory) {
                Ok(paths) => paths,
                Err(error) => {
                    found.refused.push(error);
                    continue;
                }
            };
            for path in paths {
                if !name_of(&path).is_some_and(&wanted) {
                    continue;
                }
                match self.load(&path) {
                    Ok(profile) => found.profiles.push(Stored { profile, path }),
                    Err(error) => found.refused.push(error),
                }
            }
        }
    }

    /// The profile of a file, read once for as long as the file stays the same.
    fn load(&self, path: &Path) -> Result<Arc<Profile>, Error> {
        let version = version(path).map_err(|source| Error::StoreRead { path: path.to_owned(), source })?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cache.get(path).filter(|cached| cached.version == version) {
            return Ok(Arc::clone(&cached.profile));
        }
        let profile = Arc::new(file::read(path)?);
        let unused = cache.values().filter(|cached| Arc::strong_count(&cached.profile) == 1).count();
        if unused >= UNUSED_MAX {
            cache.retain(|_, cached| Arc::strong_count(&cached.profile) > 1);
        }
        cache.insert(path.to_owned(), Cached { version, profile: Arc::clone(&profile) });
        Ok(profile)
    }

    /// Puts a profile into the first directory, whole or not at all. Older ones of the same build that it agrees with are
    /// removed from there.
    pub fn add(&self, profile: &Profile) -> Result<Added, Error> {
        let directory = self.directories.first().ok_or(Error::StoreNone)?;
        let path = directory.join(file::name(profile)?);
        if file::read(&path).is_ok_and(|there| there == *profile) {
            list(directory);
            return Ok(Added { path, known: true, replaced: Vec::new() });
        }
        let failed = |source| Error::StoreWrite { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        let metadata = fs::metadata(directory).map_err(failed)?;
        file::trusted(directory, &metadata)?;
        write(directory, &path, &file::pack(profile)?).map_err(failed)?;
        let mut replaced = Vec::new();
        for other in self.of_release(&profile.release).profiles {
            let older = other.path != path && other.path.parent() == Some(directory);
            let agrees = || profile.disagreements("one", &other.profile, "the other").is_empty();
            if older && same_build(&other.profile, profile) && agrees() {
                fs::remove_file(&other.path).map_err(failed)?;
                replaced.push(other.path);
            }
        }
        list(directory);
        Ok(Added { path, known: false, replaced })
    }
}

/// Brings the list of outlines of a directory up to date. That it could not be written costs later looks some time, and is no error.
fn list(directory: &Path) {
    if let Ok(paths) = profiles(directory) {
        let _ = outlines::update(directory, &paths);
    }
}

/// Whether all that tells a build says the same of both.
fn same_build(one: &Profile, other: &Profile) -> bool {
    one.release == other.release
        && one.build_id == other.build_id
        && one.btf_digest == other.btf_digest
        && one.banner == other.banner
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The files of a directory that are profiles by their names, by name.
fn profiles(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = files(directory)?;
    paths.retain(|path| name_of(path).is_some_and(|name| name.ends_with(file::ENDING)));
    Ok(paths)
}

/// Files of a directory by name. One that does not exist has none; one that others can write in is an error.
fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::StoreRead { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    file::trusted(directory, &fs::metadata(directory).map_err(failed)?)?;
    let mut paths = Vec::new();
    for entry in entries {
        if paths.len() >= FILES_MAX {
            return Err(Error::StoreTooMany { path: directory.to_owned(), limit: FILES_MAX });
        }
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn version(path: &Path) -> io::Result<Version> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
}

/// Writes under a temporary name, flushes, and puts it in place in one step.
fn write(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(ErrorKind::InvalidInput)?);
    name.push(format!(".{}.new", std::process::id()));
    let temporary = directory.join(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .mode(0o644)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // Best effort: the name is a hidden one, which nobody reads.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}
