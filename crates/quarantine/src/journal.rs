//! What is wanted, on disk before it is done.
//!
//! One JSON file per VM in one directory. A file is only ever replaced whole: written under a temporary name, flushed,
//! renamed over the old one, and the directory flushed. So after a crash at any point there is the old state or the new
//! one, and every state says what to do next: `intent` and `applied` mean *cut it off (again)*, `releasing` means
//! *finish the release*, no file means *leave it alone*.
//!
//! What it must never do: drop what it cannot read. A damaged file is an error that names it, and it stays.

use crate::{Error, Place, Policy};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Value of `schema` in a journal file.
const SCHEMA: &str = "birthmark.quarantine/v1";
/// Most bytes of one file.
const MAX_FILE: u64 = 1 << 20;
/// Longest file name, less room for the ending; the limit of Linux file systems is 255.
const MAX_STEM: usize = 240;

/// Where a quarantine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Wanted; not known to be in place.
    Intent,
    /// In place, read back from the kernel.
    Applied,
    /// To be lifted; not known to be gone.
    Releasing,
}

/// One VM that is, should be, or is about to stop being cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    schema: String,
    /// Stable identity of the VM.
    pub vm_id: String,
    /// Its name, for people.
    pub vm_name: String,
    /// Where it stands.
    pub state: State,
    /// What stays open.
    pub management: Policy,
    /// Devices that are or may be cut off.
    pub places: Vec<Place>,
    /// Host boot that the places belong to (`/proc/sys/kernel/random/boot_id`): namespaces do not outlive it.
    pub boot_id: String,
    /// When it was first wanted.
    pub since: Timestamp,
    /// When this file was written.
    pub updated: Timestamp,
}

impl Entry {
    /// A new intent, now.
    #[must_use]
    pub fn intent(vm_id: &str, vm_name: &str, policy: &Policy, places: Vec<Place>, boot_id: &str) -> Self {
        let now = Timestamp::now();
        Self {
            schema: SCHEMA.to_owned(),
            vm_id: vm_id.to_owned(),
            vm_name: vm_name.to_owned(),
            state: State::Intent,
            management: policy.clone(),
            places,
            boot_id: boot_id.to_owned(),
            since: now,
            updated: now,
        }
    }
}

/// The journal. Only one process at a time has a directory open.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    /// Holds the lock until the journal is dropped, or the process ends in whatever way.
    _lock: File,
}

impl Journal {
    /// Opens the journal in `directory`, which is created (mode 0700) if it is not there.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
            let path = path.to_owned();
            move |source| Error::Journal { action, path, source }
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("create", directory))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::JournalLocked { path: directory.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every file of the journal: its entry, or why it cannot be read. Temporary files that a crash left are ignored:
    /// what they were to replace still stands.
    pub fn read_all(&self) -> Result<Vec<Result<Entry, Error>>, Error> {
        let failed = |source| Error::Journal { action: "read", path: self.directory.clone(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths.iter().map(|path| self.read(path)).collect())
    }

    /// The entry of one VM; `None` when there is none.
    pub fn get(&self, vm_id: &str) -> Result<Option<Entry>, Error> {
        let path = self.path(vm_id)?;
        match self.read(&path) {
            Err(Error::Journal { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Puts an entry on disk. When this returns it survives a crash of the process and of the host.
    pub fn write(&self, entry: &Entry) -> Result<(), Error> {
        let path = self.path(&entry.vm_id)?;
        let temporary = path.with_extension("new");
        let failed = |action, source| Error::Journal { action, path: path.clone(), source };
        let mut text = serde_json::to_vec_pretty(entry)
            .map_err(|source| Error::JournalCorrupt { path: path.clone(), source })?;
        text.push(b'\n');
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(|source| failed("write", source))?;
        fs::rename(&temporary, &path).map_err(|source| failed("replace", source))?;
        self.flush()
    }

    /// Removes the entry of one VM. When this returns the removal survives a crash.
    pub fn remove(&self, vm_id: &str) -> Result<(), Error> {
        let path = self.path(vm_id)?;
        fs::remove_file(&path).map_err(|source| Error::Journal { action: "remove", path, source })?;
        self.flush()
    }

    fn flush(&self) -> Result<(), Error> {
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| Error::Journal { action: "flush", path: self.directory.clone(), source })
    }

    fn read(&self, path: &Path) -> Result<Entry, Error> {
        let failed = |source| Error::Journal { action: "read", path: path.to_owned(), source };
        let refuse = |why: String| Error::JournalRefused { path: path.to_owned(), why };
        let mut text = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_FILE.saturating_add(1)).read_to_end(&mut text).map_err(failed)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE) {
            return Err(refuse(format!("it is longer than {MAX_FILE} bytes")));
        }
        let entry: Entry = serde_json::from_slice(&text)
            .map_err(|source| Error::JournalCorrupt { path: path.to_owned(), source })?;
        if entry.schema != SCHEMA {
            return Err(refuse(format!("its schema is {:?}, not {SCHEMA:?}", entry.schema)));
        }
        if self.path(&entry.vm_id)? != path {
            return Err(refuse(format!(
                "it is about VM {:?}, which has a file of another name",
                entry.vm_id
            )));
        }
        Ok(entry)
    }

    /// File of one VM.
    fn path(&self, vm_id: &str) -> Result<PathBuf, Error> {
        Ok(self.directory.join(file_stem(vm_id)? + ".json"))
    }
}

/// The name of a VM's file, without its ending: letters, digits, `-` and `_` stand for themselves, every other byte is
/// `%XX`. Two VMs never have the same.
pub fn file_stem(vm_id: &str) -> Result<String, Error> {
    let refuse = |why| Err(Error::VmId { id: vm_id.chars().take(64).collect(), why });
    if vm_id.is_empty() {
        return refuse("it is empty");
    }
    let mut stem = String::new();
    for byte in vm_id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            stem.push(char::from(byte));
        } else {
            stem.push_str(&format!("%{byte:02X}"));
        }
        if stem.len() > MAX_STEM {
            return refuse("it is too long for a file name");
        }
    }
    Ok(stem)
}
