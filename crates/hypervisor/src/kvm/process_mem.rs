//! Guest memory that only the VMM has mapped (anonymous, or a private copy of a file), through `/proc/PID/mem`.
//!
//! One descriptor, opened read-only, is the whole capability; it stays with the memory the process had when it was opened,
//! and reads end-of-file once that is gone. Private anonymous pages that the VMM never touched are not read: the answer is
//! zeros, known from the page map. (Reading them would allocate no guest memory, only page tables of the VMM; not even
//! that is ours to do.) In a private mapping of a file such a page is still the file's, so it is read from the file: through the
//! process it would be brought into the page cache, which for a memfd means allocated.

use super::pagemap::{PRESENT, Pagemap, SWAPPED};
use super::presence::{CHUNK_BYTES, CHUNK_PAGES, ChunkBits, PAGE, Presence, set};
use super::process::{proc_error, proc_path};
use crate::Error;
use crate::sparse::data_extents;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vmi_core::PAGE_SIZE;

/// `/proc/PID/mem`, opened once for all blocks of a VM. Needs `PTRACE_MODE_ATTACH`: root or `CAP_SYS_PTRACE`.
pub fn open_mem(pid: u32) -> Result<Arc<File>, Error> {
    let path = proc_path(pid, "mem");
    File::open(&path).map(Arc::new).map_err(|source| proc_error(pid, &path, source))
}

/// What a page holds that is not in the VMM's page table.
#[derive(Debug)]
pub enum Absent {
    /// Zeros: the memory is private and anonymous.
    Zeros,
    /// The bytes of a file that is mapped privately, opened for reading only.
    File {
        /// The file.
        file: File,
        /// Offset in it of the block's first byte.
        offset: u64,
    },
    /// Not known: such a page is read through the process, which may bring it into memory.
    Unknown,
}

/// One block of guest memory at an address of the VMM.
#[derive(Debug)]
pub struct ProcessMem {
    mem: Arc<File>,
    /// `None` when the page map cannot be read or is of no use: then every page is read through the process.
    pagemap: Option<Pagemap>,
    absent: Absent,
    presence: Presence,
    address: u64,
    len: u64,
}

impl ProcessMem {
    /// `len` bytes at `address` of process `pid` (both multiples of 4096).
    pub fn new(pid: u32, mem: Arc<File>, address: u64, len: u64, absent: Absent) -> io::Result<Self> {
        address.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let pagemap = if matches!(absent, Absent::Unknown) { None } else { Pagemap::open(pid).ok() };
        Ok(Self { mem, pagemap, absent, presence: Presence::new(len)?, address, len })
    }

    /// Starts a new look: forgets which pages exist.
    pub fn begin_look(&self) {
        self.presence.begin_look(false);
    }

    /// Copies out of the block. End-of-file means that the process's memory is gone.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut at = offset;
        let mut out = out;
        while !out.is_empty() {
            let exists = self.exists(at)?;
            let mut len = usize::try_from(PAGE_SIZE - at % PAGE_SIZE).unwrap_or(usize::MAX).min(out.len());
            while len < out.len() && self.exists(at.saturating_add(len as u64))? == exists {
                len = len.saturating_add(PAGE).min(out.len());
            }
            let (part, rest) = std::mem::take(&mut out).split_at_mut(len);
            if exists {
                self.mem.read_exact_at(part, self.address.saturating_add(at))?;
            } else if let Absent::File { file, offset } = &self.absent {
                file.read_exact_at(part, offset.saturating_add(at))?;
            } else {
                part.fill(0);
            }
            at = at.saturating_add(len as u64);
            out = rest;
        }
        Ok(())
    }

    /// The same, with the page map asked about just these pages. For bytes near which nobody will read again.
    pub fn read_once(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let one_page = offset % PAGE_SIZE + out.len() as u64 <= PAGE_SIZE;
        let is_inside = offset.checked_add(out.len() as u64).is_some_and(|end| end <= self.len);
        match (&self.pagemap, &self.absent) {
            (Some(pagemap), Absent::Zeros) if one_page && is_inside => {
                let at = self.address.saturating_add(offset);
                if pagemap.exists(at)? {
                    return self.mem.read_exact_at(out, at);
                }
                out.fill(0);
                Ok(())
            }
            _ => self.read(offset, out),
        }
    }

    /// The parts of the block inside `within` that may hold anything but zeros, as offsets, by their start. They may
    /// overlap.
    pub fn populated(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let within = within.start..within.end.min(self.len);
        if within.is_empty() {
            return Ok(Vec::new());
        }
        let Some(pagemap) = &self.pagemap else { return Ok(vec![within]) };
        let first = within.start & !(PAGE_SIZE - 1);
        let pages = usize::try_from((within.end - first).div_ceil(PAGE_SIZE))
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut extents: Vec<Range<u64>> = Vec::new();
        let collect = |index: usize, exists: bool| {
            if !exists {
                return;
            }
            let start = first.saturating_add((index as u64).saturating_mul(PAGE_SIZE));
            let page = start.max(within.start)..start.saturating_add(PAGE_SIZE).min(within.end);
            match extents.last_mut() {
                Some(last) if last.end == page.start => last.end = page.end,
                _ => extents.push(page),
            }
        };
        match pagemap.for_each(self.address.saturating_add(first), pages, PRESENT | SWAPPED, collect) {
            Ok(()) => {
                if let Absent::File { file, offset } = &self.absent {
                    let shifted = offset.saturating_add(within.start)..offset.saturating_add(within.end);
                    let in_file = data_extents(file, shifted)?;
                    extents
                        .extend(in_file.into_iter().map(|extent| extent.start - offset..extent.end - offset));
                    extents.sort_unstable_by_key(|extent| extent.start);
                }
                Ok(extents)
            }
            // The page map ends early only when the process's memory is gone; reading will say so.
            Err(_) => Ok(vec![within]),
        }
    }

    /// Whether the page of `offset` must be read. One that did not exist earlier in this look is asked about again: the
    /// guest may have touched it since.
    fn exists(&self, offset: u64) -> io::Result<bool> {
        let Some(pagemap) = &self.pagemap else { return Ok(true) };
        let page = usize::try_from(offset / PAGE_SIZE).map_err(|_| io::ErrorKind::InvalidInput)?;
        let known = self.presence.exists(page, |chunk| {
            let first = self.address.saturating_add((chunk as u64).saturating_mul(CHUNK_BYTES));
            let mut bits = ChunkBits::default();
            pagemap.for_each(first, CHUNK_PAGES, PRESENT | SWAPPED, |index, exists| {
                if exists {
                    set(&mut bits, index);
                }
            })?;
            Ok(bits)
        })?;
        if known { Ok(true) } else { pagemap.exists(self.address.saturating_add(offset)) }
    }
}
