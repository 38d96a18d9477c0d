//! One look at a guest: the only way walkers reach memory.
//!
//! A look bounds what a hostile guest can cost us ([`Budget`]), and, where a read is a system call, keeps each page it
//! has read: the pages of one look then also stay the same for the whole look. It is made, used by one thread, and
//! dropped; a cache that outlived it would be stale evidence.

use crate::{Access, Gpa, GuestMemory, MemoryError, PAGE_SIZE, Page, ReadError};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What one look may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Wall-clock time.
    pub time: Duration,
    /// Bytes copied out of the guest. A quarter of it is what texts may take in the host's memory ([`Look::keep`]).
    pub bytes: u64,
}

impl Default for Budget {
    /// One second and 1 GiB: a hundred times what a large healthy guest takes.
    fn default() -> Self {
        Self { time: Duration::from_secs(1), bytes: 1 << 30 }
    }
}

/// What a look did cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookStats {
    /// Reads asked for by walkers, page-table entries included.
    pub reads: u64,
    /// Bytes that these reads asked for.
    pub bytes: u64,
    /// Pages held by the cache at the end.
    pub cached_pages: u64,
}

/// The cache stops growing here (64 MiB); reads beyond it go to the backend each time.
const CACHED_PAGES_MAX: usize = 16 * 1024;
/// A read of at least this many bytes goes past the cache: it is a bulk copy that nobody asks for twice.
pub(crate) const BULK: usize = 16 * 1024;
/// [`PAGE_SIZE`] as the length of an array.
const PAGE_BYTES: usize = 4096;
/// The clock is asked once in so many bytes that are read, which mostly come eight at a time.
const CLOCK_EVERY: u64 = 2048;

#[derive(Debug, Default)]
struct PageCache {
    index: HashMap<u64, usize, std::hash::BuildHasherDefault<PageHasher>>,
    pages: Vec<Box<[u8; PAGE_BYTES]>>,
}

/// Page numbers are small and nearly sequential; one multiplication spreads them well enough. A guest that makes them
/// collide slows its own look only up to its budget.
#[derive(Debug, Default)]
struct PageHasher(u64);

impl std::hash::Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// One look. Not shared between threads: each has one of its own ([`Look::beside`]).
#[derive(Debug)]
pub struct Look<'m> {
    memory: &'m dyn GuestMemory,
    budget: Budget,
    deadline: Option<Instant>,
    reads: Cell<u64>,
    bytes: Cell<u64>,
    kept: Cell<u64>,
    exhausted: Cell<Option<&'static str>>,
    /// Bytes up to which nobody need ask whether the look costs too much.
    checked: Cell<u64>,
    cache: Option<RefCell<PageCache>>,
}

impl<'m> Look<'m> {
    /// Starts a look. `Err` when the VM is gone.
    pub fn begin(memory: &'m dyn GuestMemory, budget: Budget) -> Result<Self, MemoryError> {
        memory.begin_look()?;
        Ok(Self {
            memory,
            budget,
            deadline: Instant::now().checked_add(budget.time),
            reads: Cell::new(0),
            bytes: Cell::new(0),
            kept: Cell::new(0),
            exhausted: Cell::new(None),
            checked: Cell::new(0),
            cache: (memory.access() == Access::PerCall).then(RefCell::default),
        })
    }

    /// A look beside this one, for another thread to do a part of its work: at the same memory, over when this one is, and with one of
    /// `parts` equal parts of the bytes that this one may still read, which it may no longer. See [`Self::rejoin`].
    #[must_use]
    pub fn beside(&self, parts: u64) -> Self {
        let left = self.budget.bytes.saturating_sub(self.bytes.get());
        let bytes = left.checked_div(parts).unwrap_or(left);
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        Self {
            memory: self.memory,
            budget: Budget { bytes, ..self.budget },
            deadline: self.deadline,
            reads: Cell::new(0),
            bytes: Cell::new(0),
            kept: Cell::new(0),
            exhausted: self.exhausted.clone(),
            checked: Cell::new(0),
            cache: self.cache.is_some().then(RefCell::default),
        }
    }

    /// Takes back what a look beside this one did not read, and counts what it did. Where that one cost too much, this one did.
    pub fn rejoin(&self, beside: &Self) {
        if let Some(limit) = beside.exhausted.get() {
            self.exhausted.set(Some(limit));
        }
        self.checked.set(0);
        let unread = beside.budget.bytes.saturating_sub(beside.bytes.get());
        self.bytes.set(self.bytes.get().saturating_sub(unread));
        self.reads.set(self.reads.get().saturating_add(beside.reads.get()));
        self.kept.set(self.kept.get().saturating_add(beside.kept.get()));
    }

    /// Counts `bytes` of host memory that the caller is about to fill for what the look shows: one text that was read once may be shown
    /// for every process. `Err(Budget)` once that is more than a quarter of the bytes that the look may read, from then on always.
    pub fn keep(&self, bytes: u64) -> Result<(), ReadError> {
        if let Some(limit) = self.exhausted.get() {
            return Err(ReadError::Budget { limit });
        }
        let kept = self.kept.get().saturating_add(bytes);
        self.kept.set(kept);
        if kept > self.budget.bytes / 4 {
            self.exhausted.set(Some("memory"));
            self.checked.set(0);
            return Err(ReadError::Budget { limit: "memory" });
        }
        Ok(())
    }

    /// The memory that is looked at.
    #[must_use]
    pub fn memory(&self) -> &'m dyn GuestMemory {
        self.memory
    }

    /// What it may cost.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// What the look has cost so far.
    #[must_use]
    pub fn stats(&self) -> LookStats {
        LookStats {
            reads: self.reads.get(),
            bytes: self.bytes.get(),
            cached_pages: self.cache.as_ref().map_or(0, |cache| cache.borrow().pages.len() as u64),
        }
    }

    /// Whether pages are kept once they were read: what is read a second time is then as it was.
    #[must_use]
    pub fn keeps_pages(&self) -> bool {
        self.cache.is_some()
    }

    /// Drops all kept pages, so that what is read next is fresh. For a walk that starts again.
    pub fn forget_pages(&self) {
        if let Some(cache) = &self.cache {
            let mut cache = cache.borrow_mut();
            cache.index.clear();
            cache.pages.clear();
        }
    }

    /// Copies physical memory. `Err(Budget)` once the look has cost too much, from then on always.
    #[inline]
    pub fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), PhysicalReadError> {
        self.charge(buf.len() as u64)?;
        match &self.cache {
            Some(cache) if buf.len() < BULK => self.read_cached(cache, at, buf),
            _ => self.memory.read(at, buf).map_err(PhysicalReadError::Memory),
        }
    }

    /// The page that `at` is in, to be loaded from. What is loaded is charged by who loads it. `None`: [`Self::read`] it.
    #[inline]
    pub(crate) fn page(&self, at: Gpa) -> Option<&'m Page> {
        if self.cache.is_some() { None } else { self.memory.page(at) }
    }

    /// The same past what is kept: as it is now.
    pub fn read_again(&self, at: Gpa, buf: &mut [u8]) -> Result<(), PhysicalReadError> {
        self.charge(buf.len() as u64)?;
        self.memory.read(at, buf).map_err(PhysicalReadError::Memory)
    }

    /// Counts a read of so many bytes. `None`, and nothing is counted: it is time to ask whether the look costs too much, with
    /// [`Self::charge`].
    #[inline]
    pub(crate) fn charge_unasked(&self, bytes: u64) -> Option<()> {
        let total = self.bytes.get().saturating_add(bytes);
        if total > self.checked.get() {
            return None;
        }
        self.reads.set(self.reads.get().wrapping_add(1));
        self.bytes.set(total);
        Some(())
    }

    /// Counts a read of so many bytes. `Err(Budget)` once the look has cost too much, from then on always.
    #[inline]
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), PhysicalReadError> {
        match self.charge_unasked(bytes) {
            Some(()) => Ok(()),
            None => self.check(bytes),
        }
    }

    #[cold]
    fn check(&self, bytes: u64) -> Result<(), PhysicalReadError> {
        let total = self.bytes.get().saturating_add(bytes);
        self.reads.set(self.reads.get().wrapping_add(1));
        self.bytes.set(total);
        let late = || self.deadline.is_some_and(|deadline| Instant::now() > deadline);
        let limit = match self.exhausted.get() {
            Some(limit) => limit,
            None if total > self.budget.bytes => "bytes",
            None if late() => "time",
            None => {
                self.checked.set(total.saturating_add(CLOCK_EVERY).min(self.budget.bytes));
                return Ok(());
            }
        };
        self.exhausted.set(Some(limit));
        self.checked.set(0);
        Err(PhysicalReadError::Budget(limit))
    }

    fn read_cached(
        &self,
        cache: &RefCell<PageCache>,
        at: Gpa,
        buf: &mut [u8],
    ) -> Result<(), PhysicalReadError> {
        let mut cache = cache.borrow_mut();
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let in_page = PAGE_SIZE - at.page_offset();
            let step = usize::try_from(in_page).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(step);
            self.copy_from_page(&mut cache, at, now)?;
            rest = later;
            if !rest.is_empty() {
                at = at
                    .checked_add(in_page)
                    .ok_or(PhysicalReadError::Memory(MemoryError::Outside { at, len: step as u64 }))?;
            }
        }
        Ok(())
    }

    /// Copies `buf.len()` bytes that lie in one page.
    fn copy_from_page(
        &self,
        cache: &mut PageCache,
        at: Gpa,
        buf: &mut [u8],
    ) -> Result<(), PhysicalReadError> {
        let number = at.page_base().0 / PAGE_SIZE;
        let slot = match cache.index.get(&number) {
            Some(slot) => *slot,
            None => {
                // A region may begin or end inside a page (dumps do); such a page is read as asked, and not kept.
                if cache.pages.len() >= CACHED_PAGES_MAX || !self.memory.has_page(at) {
                    return self.memory.read(at, buf).map_err(PhysicalReadError::Memory);
                }
                let mut page = Box::new([0; PAGE_BYTES]);
                self.memory.read(at.page_base(), page.as_mut_slice()).map_err(PhysicalReadError::Memory)?;
                cache.pages.push(page);
                let slot = cache.pages.len() - 1;
                cache.index.insert(number, slot);
                slot
            }
        };
        let offset = usize::try_from(at.page_offset()).unwrap_or(0);
        let bytes = cache.pages.get(slot).and_then(|page| page.get(offset..offset.checked_add(buf.len())?));
        if let Some(bytes) = bytes {
            buf.copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// Why a physical read gave nothing; [`crate::AddressSpace`] adds the virtual address to it.
#[derive(Debug)]
pub enum PhysicalReadError {
    /// The look cost too much.
    Budget(&'static str),
    /// The backend failed, or the address is not memory.
    Memory(MemoryError),
}

impl PhysicalReadError {
    /// The same, said of the virtual address that led here.
    pub(crate) fn at(self, at: crate::Gva) -> ReadError {
        match self {
            Self::Budget(limit) => ReadError::Budget { limit },
            Self::Memory(MemoryError::Outside { .. }) => ReadError::Outside { at },
            Self::Memory(MemoryError::PagedOut { .. }) => ReadError::PagedOut { at },
            Self::Memory(error) => ReadError::Memory(error),
        }
    }
}
