//! Guest memory in a shared file (memfd, a file in tmpfs or hugetlbfs, any file mapped `MAP_SHARED`).
//!
//! The file is mapped read-only, and a page is read through the mapping only when it is known to exist; touching one that
//! does not would allocate it in the guest's name. Every other page, and what is long, is read with `pread`, which on
//! shmem returns zeros for a hole without filling it, and brings back what was swapped out.
//!
//! What exists is asked of `mincore`, for some pages at a time, once a look, and what exists not again until pages may have been taken
//! out of the file (`removals`). `mincore` says "everything" of a file that the
//! caller could not write to (mm/mincore.c, `can_do_mincore`), and of hugetlbfs only what we mapped ourselves; so at opening its word
//! is held against `SEEK_HOLE`, and where it lies, or cannot be checked, the VMM's page map is asked instead: what the VMM
//! has in its page table exists.
//!
//! Between the question and the load a page can vanish again (a balloon inflates, the host swaps): the load then makes one
//! page of zeros exist, or waits for the swap. A file that is made shorter under a mapping turns loads into `SIGBUS`; no
//! VMM does that to a running guest, and [`SharedMem::begin_look`] checks the length before each look.

use super::pagemap::{PRESENT, Pagemap};
use super::presence::{CHUNK_BYTES, CHUNK_PAGES, ChunkBits, PAGE, Presence, set};
use super::removals::Removals;
use crate::copy::copy_volatile;
use crate::sparse::{data_extents, first_hole};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, access};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use vmi_core::{PAGE_SIZE, Page};

/// Bytes from which on one `pread` costs less than mapping the pages, and asking whether they exist.
const LONG: usize = 4 * PAGE;

/// Bytes that the processor fetches at once.
const LINE: usize = 64;

const _: () = assert!(LINE as u64 == vmi_core::LINE);

/// Who is asked whether a page exists.
#[derive(Debug)]
enum Oracle {
    /// The kernel, about the file.
    Mincore,
    /// The VMM's page table, at this address for the first byte of the block.
    Pagemap(Pagemap, u64),
    /// Nobody: everything is read with `pread`.
    Nobody,
}

/// Has the processor fetch the line at `at`.
fn fetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect that a program could see, whatever its address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Has the processor fetch lines of a page, one for each bit that is set.
pub(crate) fn prefetch_of(page: &Page, lines: u64) {
    let mut left = lines;
    while left != 0 {
        fetch(page.place(u64::from(left.trailing_zeros()) * LINE as u64));
        left &= left.wrapping_sub(1);
    }
}

/// A read-only mapping of `len` bytes.
#[derive(Debug)]
struct Mapped {
    base: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping is only ever read, by volatile or atomic loads, and lives until it is dropped; any thread may do both.
unsafe impl Send for Mapped {}
// SAFETY: as above; there is no interior state.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(file: &File, offset: u64, len: NonZeroUsize) -> io::Result<Self> {
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
                file,
                offset,
            )
        }?;
        let mapped = Self { base, len };
        // SAFETY: both are advice about our own mapping and change no contents. A refusal costs nothing but speed, or a
        // larger core dump of this process.
        unsafe {
            let _ = madvise(base, len.get(), MmapAdvise::MADV_RANDOM);
            let _ = madvise(base, len.get(), MmapAdvise::MADV_DONTDUMP);
        }
        Ok(mapped)
    }

    /// Which of the pages `[page, page + count)` are in memory. `count` is at most [`CHUNK_PAGES`].
    fn mincore(&self, page: usize, count: usize) -> io::Result<ChunkBits> {
        let mut answer = [0_u8; CHUNK_PAGES];
        let mut bits = ChunkBits::default();
        let count = count.min(CHUNK_PAGES).min(self.len.get().div_ceil(PAGE).saturating_sub(page));
        if count == 0 {
            return Ok(bits);
        }
        // SAFETY: `page` is inside the mapping, as `count` is not 0.
        let start = unsafe { self.base.byte_add(page.saturating_mul(PAGE)) };
        // SAFETY: the pages are inside the mapping, and `answer` has a byte for each.
        let result =
            unsafe { nix::libc::mincore(start.as_ptr(), count.saturating_mul(PAGE), answer.as_mut_ptr()) };
        Errno::result(result)?;
        for (index, byte) in answer.iter().take(count).enumerate() {
            if byte & 1 == 1 {
                set(&mut bits, index);
            }
        }
        Ok(bits)
    }

    /// Has the processor fetch what is mapped here already. A page that is not is left alone: a prefetch never faults.
    fn prefetch(&self, offset: usize, len: usize) {
        let end = offset.saturating_add(len).min(self.len.get());
        for line in (offset / LINE * LINE..end).step_by(LINE) {
            fetch(self.base.as_ptr().cast::<u8>().wrapping_add(line));
        }
    }

    /// The page at `offset`, one that exists. `None` when it is not inside the mapping, or `offset` is no multiple of eight.
    #[inline]
    fn page(&self, offset: usize) -> Option<&Page> {
        let end = offset.checked_add(size_of::<Page>())?;
        if end > self.len.get() || !offset.is_multiple_of(align_of::<Page>()) {
            return None;
        }
        // SAFETY: it is inside the mapping, which is readable as long as `self` lives (see `copy`) and begins at a multiple of a page's
        // size, so its words are aligned. A `Page` is an array of atomic words that are only ever loaded, which is allowed where they cannot be
        // stored to, and while others store to them.
        Some(unsafe { self.base.byte_add(offset).cast::<Page>().as_ref() })
    }

    /// Copies out of pages that exist. `false` when the range is not inside the mapping.
    #[inline]
    fn copy(&self, offset: usize, out: &mut [u8]) -> bool {
        if offset.checked_add(out.len()).is_none_or(|end| end > self.len.get()) {
            return false;
        }
        // SAFETY: the range was just found to be inside the mapping, which is readable as long as `self` lives and the
        // file keeps its length (see the module). `out` is ours, so it does not overlap.
        unsafe { copy_volatile(self.base.as_ptr().cast::<u8>().add(offset), out) };
        true
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and no reference into it outlives `self`.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}

/// One block of guest memory in a shared file.
#[derive(Debug)]
pub struct SharedMem {
    file: File,
    mapped: Mapped,
    /// Offset in the file of the block's first byte.
    offset: u64,
    len: u64,
    presence: Presence,
    removals: Removals,
    oracle: Oracle,
}

impl SharedMem {
    /// Maps `len` bytes of `file` from `offset` on (both multiples of 4096; `file` opened for reading only). `vmm` is the
    /// process that has the block mapped and where, if known: its page map is asked where `mincore` cannot be trusted.
    pub fn new(file: File, offset: u64, len: u64, vmm: Option<(u32, u64)>) -> io::Result<Self> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size =
            usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or(io::ErrorKind::InvalidInput)?;
        let mapped = Mapped::new(&file, offset, size)?;
        let presence = Presence::new(len)?;
        let removals = Removals::new(&file)?;
        let mut memory = Self { file, mapped, offset, len, presence, removals, oracle: Oracle::Mincore };
        if !memory.mincore_is_true()? {
            let pagemap = vmm.and_then(|(pid, address)| Some((Pagemap::open(pid).ok()?, address)));
            memory.oracle =
                pagemap.map_or(Oracle::Nobody, |(pagemap, address)| Oracle::Pagemap(pagemap, address));
        }
        Ok(memory)
    }

    /// Bytes of the block.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the block is empty, which [`Self::new`] does not allow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether reads of existing pages are loads from the mapping. If not, all are `pread`.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        !matches!(self.oracle, Oracle::Nobody)
    }

    /// Starts a new look: forgets which pages exist, unless none can have been taken out of the file. Says what is wrong when the file no longer holds the block.
    pub fn begin_look(&self) -> Result<(), String> {
        let end = self.offset.saturating_add(self.len);
        match self.removals.ask(&self.file, |kept| self.presence.begin_look(kept)) {
            Ok(metadata) if metadata.len() >= end => Ok(()),
            Ok(metadata) => Err(format!("its memory file has {:#x} bytes left of {end:#x}", metadata.len())),
            Err(error) => Err(format!("its memory file does not answer: {error}")),
        }
    }

    /// Copies out of the block. Pages that do not exist read as zeros and still do not exist afterwards.
    #[inline]
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Nearly every read lies in one page, about which was asked already.
        if start % PAGE + out.len() <= PAGE
            && self.presence.known(start / PAGE) == Some(true)
            && self.mapped.copy(start, out)
        {
            return Ok(());
        }
        self.read_parts(start, out)
    }

    /// The page at `offset`, a multiple of its size. `None`: it is not known that it exists, or it is not in the block.
    #[inline]
    pub(crate) fn page(&self, offset: u64) -> Option<&Page> {
        let start = usize::try_from(offset).ok().filter(|start| start.is_multiple_of(PAGE))?;
        self.presence.known(start / PAGE).filter(|exists| *exists)?;
        self.mapped.page(start)
    }

    /// The same by one call, which asks about no page and maps none. For bytes near which nobody will read again.
    pub fn read_once(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.read_exact_at(out, self.offset.saturating_add(offset))
    }

    #[cold]
    fn read_parts(&self, start: usize, out: &mut [u8]) -> io::Result<()> {
        if start.checked_add(out.len()).is_none_or(|end| end as u64 > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if out.len() >= LONG {
            return self.file.read_exact_at(out, self.offset.saturating_add(start as u64));
        }
        let mut at = start;
        let mut out = out;
        while !out.is_empty() {
            // As many pages as share the same answer, in one copy.
            let exists = self.exists(at / PAGE)?;
            let mut len = (PAGE - at % PAGE).min(out.len());
            while len < out.len() && self.exists((at + len) / PAGE)? == exists {
                len = len.saturating_add(PAGE).min(out.len());
            }
            let (part, rest) = std::mem::take(&mut out).split_at_mut(len);
            if !(exists && self.mapped.copy(at, part)) {
                self.file.read_exact_at(part, self.offset.saturating_add(at as u64))?;
            }
            at = at.saturating_add(len);
            out = rest;
        }
        Ok(())
    }

    /// Has the processor fetch bytes of the block that will be read soon. No page is asked about for it, and none made.
    pub(crate) fn expect(&self, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) {
            self.mapped.prefetch(offset, len);
        }
    }

    /// The parts of the block inside `within` that may hold anything but zeros, as offsets. Each may end with some
    /// of a hole.
    pub fn populated(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let shift = |at: u64| at.saturating_add(self.offset);
        let extents = data_extents(&self.file, shift(within.start)..shift(within.end.min(self.len)))?;
        let back = |at: u64| at.saturating_sub(self.offset);
        Ok(extents.into_iter().map(|extent| back(extent.start)..back(extent.end)).collect())
    }

    fn exists(&self, page: usize) -> io::Result<bool> {
        match &self.oracle {
            Oracle::Nobody => Ok(false),
            Oracle::Mincore => self
                .presence
                .exists(page, |chunk| self.mapped.mincore(chunk.saturating_mul(CHUNK_PAGES), CHUNK_PAGES)),
            Oracle::Pagemap(pagemap, address) => self.presence.exists(page, |chunk| {
                let first = (chunk as u64).saturating_mul(CHUNK_BYTES);
                let mut bits = ChunkBits::default();
                // A page map that no longer answers proves nothing, so nothing is touched.
                let answered =
                    pagemap.for_each(address.saturating_add(first), CHUNK_PAGES, PRESENT, |index, exists| {
                        if exists {
                            set(&mut bits, index);
                        }
                    });
                Ok(if answered.is_ok() { bits } else { ChunkBits::default() })
            }),
        }
    }

    /// Whether `mincore` tells the truth about the file: it does for who may write to it (mm/mincore.c, `can_do_mincore`).
    /// Failing that, its word is held against `SEEK_HOLE`: a page in a hole must not be reported as existing.
    fn mincore_is_true(&self) -> io::Result<bool> {
        if fstatfs(&self.file)?.filesystem_type() == HUGETLBFS_MAGIC {
            return Ok(false);
        }
        if access(format!("/proc/self/fd/{}", self.file.as_raw_fd()).as_str(), AccessFlags::W_OK).is_ok() {
            return Ok(true);
        }
        let end = self.offset.saturating_add(self.len);
        let Some(hole) = first_hole(&self.file, self.offset..end)? else {
            // Nothing to test on, and holes may come later.
            return Ok(false);
        };
        let page = usize::try_from(hole.saturating_sub(self.offset) / PAGE_SIZE);
        let page = page.map_err(|_| io::ErrorKind::InvalidInput)?;
        // A "yes" is a lie, or the guest filled the hole just now. Taking it for a lie is the safe mistake.
        let bits = self.mapped.mincore(page, 1)?;
        Ok(bits & 1 == 0)
    }
}
