//! Which parts of a file hold data, by `SEEK_DATA` and `SEEK_HOLE`.
//!
//! On shmem and memfd a hole is a page that nobody ever touched; asking does not allocate it. A file system that knows no
//! holes answers "all data", which is correct and only slower to search.

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::ops::Range;

/// The data extents of `file` inside `within` (byte offsets), ascending. Extents that touch are joined.
pub(crate) fn data_extents(file: &File, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut extents: Vec<Range<u64>> = Vec::new();
    let mut at = within.start;
    while at < within.end {
        let Some(start) = seek(file, at, Whence::SeekData)? else { break };
        if start >= within.end {
            break;
        }
        let end = seek(file, start, Whence::SeekHole)?.unwrap_or(within.end).min(within.end);
        // A file that changes meanwhile must not keep us here.
        if end <= start {
            break;
        }
        match extents.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => extents.push(start..end),
        }
        at = end;
    }
    Ok(extents)
}

/// `None` when there is nothing of the kind behind `at`.
fn seek(file: &File, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match lseek(file, at, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
