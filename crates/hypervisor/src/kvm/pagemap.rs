//! Which pages of a process exist, from `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst).
//!
//! One little-endian u64 per page: bit 63 is "present", bit 62 "swapped out". Both are shown without privilege beyond
//! opening the file. A page with neither was never touched, if its memory is private and anonymous.

use super::process::{proc_error, proc_path};
use crate::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use vmi_core::PAGE_SIZE;

/// The page is in memory and in the page table.
pub(crate) const PRESENT: u64 = 1 << 63;
/// The page was private and is in swap (or its entry is a marker; only private anonymous memory makes this a proof).
pub(crate) const SWAPPED: u64 = 1 << 62;
/// Entries per read: 64 KiB of them tell about 32 MiB.
const BATCH: usize = 8192;

/// The page map of one process.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Opens it; it stays with the memory the process has now.
    pub(crate) fn open(pid: u32) -> Result<Self, Error> {
        let path = proc_path(pid, "pagemap");
        let file = File::open(&path).map_err(|source| proc_error(pid, &path, source))?;
        Ok(Self { file })
    }

    /// Calls `page(index, marked)` for `pages` pages from the one that holds `address` on, in order; `marked` is whether
    /// any bit of `mask` is set.
    pub(crate) fn for_each(
        &self,
        address: u64,
        pages: usize,
        mask: u64,
        mut page: impl FnMut(usize, bool),
    ) -> io::Result<()> {
        let mut buffer = vec![0_u8; pages.min(BATCH).saturating_mul(8)];
        let mut done = 0;
        while done < pages {
            let batch = (pages - done).min(BATCH);
            let bytes = buffer.get_mut(..batch.saturating_mul(8)).unwrap_or_default();
            let offset = (address / PAGE_SIZE).saturating_add(done as u64).saturating_mul(8);
            self.file.read_exact_at(bytes, offset)?;
            for (index, entry) in bytes.as_chunks::<8>().0.iter().enumerate() {
                page(done.saturating_add(index), u64::from_le_bytes(*entry) & mask != 0);
            }
            done = done.saturating_add(batch);
        }
        Ok(())
    }

    /// Whether the page at `address` exists.
    pub(crate) fn exists(&self, address: u64) -> io::Result<bool> {
        let mut entry = [0; 8];
        self.file.read_exact_at(&mut entry, (address / PAGE_SIZE).saturating_mul(8))?;
        Ok(u64::from_le_bytes(entry) & (PRESENT | SWAPPED) != 0)
    }
}
