//! Which parts of a file hold data, by `SEEK_DATA` and `SEEK_HOLE`.
//!
//! On shmem and memfd a hole is a page that nobody ever touched; asking does not allocate it. A file system that knows no
//! holes answers "all data", which is correct and only slower to search.

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::ops::Range;

/// Extents end on a multiple of this. The kernel looks for a hole page by page (0.2 us each on shmem: 50 ms for a GiB
/// without one), but finds the next data behind any place at once; so each step of a full area is one question, and an
/// extent may end with up to this much of a hole, which reads as zeros.
const STEP: u64 = 256 << 10;

/// Where `file` may hold anything but zeros inside `within` (byte offsets): ascending, each starting with data. Extents that
/// touch are joined.
pub(crate) fn data_extents(file: &File, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut extents: Vec<Range<u64>> = Vec::new();
    let mut at = within.start;
    while at < within.end {
        let Some(start) = seek(file, at, Whence::SeekData)?.filter(|&start| start < within.end) else {
            break;
        };
        let start = start.max(at);
        let end = (start | (STEP - 1)).saturating_add(1).min(within.end);
        match extents.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => extents.push(start..end),
        }
        at = end;
    }
    Ok(extents)
}

/// The first hole inside `within`, if there is one.
pub(crate) fn first_hole(file: &File, within: Range<u64>) -> io::Result<Option<u64>> {
    Ok(seek(file, within.start, Whence::SeekHole)?.filter(|&hole| hole < within.end))
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
