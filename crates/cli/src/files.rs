//! Files in and out: bounded reads, and writes that are whole or not at all.
//!
//! A file is written under a temporary name in its own directory, flushed, and put in place in one step: a crash or a
//! signal never leaves half a certificate or half a key under the final name.

use anyhow::{Context, bail};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Reads at most `limit` bytes; a longer file is an error. `what` is what it should hold: `certificate`.
pub(crate) fn read(path: &Path, what: &str, limit: usize) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("Cannot read the {what} {}", path.display());
    // Without O_NONBLOCK the opening of a named pipe would wait for ever.
    let file =
        OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).with_context(failed)?;
    if !file.metadata().with_context(failed)?.is_file() {
        bail!("{}: it is no regular file", failed());
    }
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).with_context(failed)?;
    if bytes.len() > limit {
        bail!("{}: it has more than {limit} bytes", failed());
    }
    Ok(bytes)
}

/// Writes a file. `replace`: whether a file that is there already is replaced; else it is an error and stays untouched.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32, replace: bool) -> anyhow::Result<()> {
    let failed = || format!("Cannot write {}", path.display());
    let temporary = Temporary::create(path, mode).with_context(failed)?;
    let mut file = &temporary.file;
    file.write_all(bytes).with_context(failed)?;
    file.sync_all().with_context(failed)?;
    if replace {
        fs::rename(&temporary.path, path).with_context(failed)?;
    } else {
        // Unlike a rename, a link fails when the name is taken.
        match fs::hard_link(&temporary.path, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(exists(path)),
            result => result.with_context(failed)?,
        }
    }
    File::open(directory(path)).and_then(|directory| directory.sync_all()).with_context(failed)
}

/// Fails if there is something of this name already.
pub(crate) fn must_not_exist(path: &Path) -> anyhow::Result<()> {
    if fs::symlink_metadata(path).is_ok() { Err(exists(path)) } else { Ok(()) }
}

fn exists(path: &Path) -> anyhow::Error {
    anyhow::anyhow!("{} exists already and is not replaced", path.display())
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file under a temporary name, which is gone when this is dropped.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn create(target: &Path, mode: u32) -> std::io::Result<Self> {
        let name = target.file_name().ok_or(ErrorKind::InvalidInput)?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.new", std::process::id()));
        let path = directory(target).join(temporary);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        Ok(Self { path, file })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_exists_is_only_replaced_when_that_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"one", 0o600, false).unwrap();
        let error = write(&path, b"two", 0o600, false).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error:#}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"three", 0o600, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left behind");
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, [0; 11]).unwrap();
        assert!(read(&path, "thing", 10).is_err());
        assert_eq!(read(&path, "thing", 11).unwrap().len(), 11);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&pipe, "thing", 10).unwrap_err().to_string().contains("no regular file"));
        assert!(read(dir.path(), "thing", 10).is_err());
    }
}
