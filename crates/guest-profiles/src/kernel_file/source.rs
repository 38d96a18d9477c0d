//! Bytes of a kernel file, by offset: in memory or on disk.
//!
//! A vmlinux with debug information has a gigabyte, of which some ten MiB are needed: what is on disk is read piece by piece and
//! never mapped, because a file that somebody shortens while it is mapped kills the reader. No piece is larger than
//! [`PIECE_MAX`].

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Error;

/// Largest piece that is read at once, in bytes: the text of a kernel with everything built in has 60 MiB.
pub(super) const PIECE_MAX: u64 = 96 << 20;

/// Where a file's bytes come from.
pub(super) trait Source {
    /// Bytes in the file.
    fn len(&self) -> u64;

    /// The bytes from `offset` on. `what` they are, for the error: they do not lie within the file, are more than
    /// [`PIECE_MAX`], or cannot be read.
    fn bytes(&self, what: &'static str, offset: u64, len: u64) -> Result<Cow<'_, [u8]>, Error>;
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn bytes(&self, what: &'static str, offset: u64, len: u64) -> Result<Cow<'_, [u8]>, Error> {
        check(what, offset, len, Source::len(self))?;
        let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        let piece = range.and_then(|(start, len)| self.get(start..start.checked_add(len)?));
        piece.map(Cow::Borrowed).ok_or(Error::FilePiece { what, offset, len, size: Source::len(self) })
    }
}

/// A file on disk.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    len: u64,
}

impl Disk {
    /// Opens a regular file. Anything else (a pipe, a device) may never end, and is refused before it is opened.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::FileRead { offset: 0, len: 0, source };
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::FileNotRegular);
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Ok(Self { file, len })
    }
}

impl Source for Disk {
    fn len(&self) -> u64 {
        self.len
    }

    fn bytes(&self, what: &'static str, offset: u64, len: u64) -> Result<Cow<'_, [u8]>, Error> {
        check(what, offset, len, self.len)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, offset).map_err(|source| Error::FileRead {
            offset,
            len,
            source,
        })?;
        Ok(Cow::Owned(bytes))
    }
}

fn check(what: &'static str, offset: u64, len: u64, size: u64) -> Result<(), Error> {
    if offset.checked_add(len).is_none_or(|end| end > size) {
        return Err(Error::FilePiece { what, offset, len, size });
    }
    if len > PIECE_MAX {
        return Err(Error::FileTooLarge { what: what.to_owned(), size: len, limit: PIECE_MAX });
    }
    Ok(())
}

/// A part of a file, from its start to its end.
#[derive(Clone, Copy)]
pub(super) struct Part<'s> {
    source: &'s dyn Source,
    what: &'static str,
    at: u64,
    end: u64,
}

impl<'s> Part<'s> {
    /// `len` bytes from `offset` on; less where the file ends before.
    pub(super) fn new(source: &'s dyn Source, what: &'static str, offset: u64, len: u64) -> Self {
        Self { source, what, at: offset, end: offset.saturating_add(len).min(source.len()) }
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = (buffer.len() as u64).min(self.end.saturating_sub(self.at)).min(PIECE_MAX);
        let bytes = self.source.bytes(self.what, self.at, len).map_err(io::Error::other)?;
        if let Some(target) = buffer.get_mut(..bytes.len()) {
            target.copy_from_slice(&bytes);
        }
        self.at = self.at.saturating_add(len);
        Ok(bytes.len())
    }
}
