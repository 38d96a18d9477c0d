//! Small JSON files of the daemon's own memory: highest serials seen, findings, those that an operator accepted.
//!
//! Replaced whole and flushed, like the quarantine journal, so that a crash leaves the old content or the new. A file
//! that cannot be understood is an error, not an empty memory: forgetting a serial would let an old certificate in.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Most bytes of a file.
const MAX_FILE: u64 = 16 << 20;

/// Reads a file; the default when there is none.
pub(crate) fn read<T: DeserializeOwned + Default>(path: &Path) -> io::Result<T> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_FILE).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&text).map_err(io::Error::from)
}

/// Removes a file that may not be there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => flush(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces a file that [`read`] can read again.
pub(crate) fn write<T: Serialize>(path: &Path, content: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE) {
        let why = format!("{} bytes are more than the {MAX_FILE} that a file may have", text.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    replace(path, &text)
}

/// Replaces a file, whatever is in it.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    flush(path)
}

/// Flushes the directory of a file.
fn flush(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
