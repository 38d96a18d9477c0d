//! Bytes by offset, whatever they are stored in, and what is found in them.
//!
//! Must never write, and must never give bytes from outside of what it stands for.

mod filesystem;
mod partition;
mod qcow2;

pub(crate) use filesystem::FileSystem;
pub(crate) use partition::partitions;
pub(crate) use qcow2::{Qcow2, is_qcow2};

use crate::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// Something with bytes at offsets.
pub(crate) trait Blocks {
    /// How many bytes it has.
    fn len(&self) -> u64;

    /// Fills `buffer` with what is at `offset`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error>;
}

/// `Err` unless all of `len` bytes at `offset` are within `size`.
fn inside(what: &'static str, offset: u64, len: usize, size: u64) -> Result<(), Error> {
    let len = len as u64;
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::Outside { what, offset, len, size }),
    }
}

/// A file of the host.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    len: u64,
}

impl Disk {
    pub(crate) fn new(file: File) -> Result<Self, Error> {
        let read = |source| Error::Read { what: "size of the file".to_owned(), source };
        let len = file.metadata().map_err(read)?.len();
        Ok(Self { file, len })
    }
}

impl Blocks for Disk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        inside("file", offset, buffer.len(), self.len)?;
        let read = |source| Error::Read { what: format!("file at {offset}"), source };
        self.file.read_exact_at(buffer, offset).map_err(read)
    }
}

/// A part of something larger: a partition.
pub(crate) struct Part {
    whole: Rc<dyn Blocks>,
    start: u64,
    len: u64,
}

impl Part {
    /// `Err`: it is not within the whole.
    pub(crate) fn new(whole: Rc<dyn Blocks>, start: u64, len: u64) -> Result<Self, Error> {
        match start.checked_add(len) {
            Some(end) if end <= whole.len() => Ok(Self { whole, start, len }),
            _ => Err(Error::Outside { what: "partition", offset: start, len, size: whole.len() }),
        }
    }
}

impl Blocks for Part {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        inside("partition", offset, buffer.len(), self.len)?;
        self.whole.read_at(self.start.saturating_add(offset), buffer)
    }
}

/// The `N` bytes at `offset` of a slice, as far as it has them.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
