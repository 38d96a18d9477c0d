//! The one door to guest memory: [`GuestMemory`], read-only by type.
//!
//! Backends differ in what a read costs (a load from a mapping, or a system call) and in what is *present*: most of a
//! guest's memory was never touched by it, and touching it from outside could allocate host memory for it. So a backend
//! must answer a read of an absent page with zeros without making the page present (facts/vmi.md 3.2), and tells through
//! [`GuestMemory::populated`] where a search is worth its while.

use crate::{Gpa, PAGE_SIZE, Page};
use std::fmt;

/// A run of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    /// First address.
    pub start: Gpa,
    /// Length in bytes, never 0.
    pub len: u64,
}

impl Region {
    /// First address behind the region; `u64::MAX` when the region reaches the end of the address space.
    #[must_use]
    pub fn end(&self) -> Gpa {
        Gpa(self.start.0.saturating_add(self.len))
    }

    /// Whether `[at, at + len)` lies inside.
    #[must_use]
    pub fn contains(&self, at: Gpa, len: u64) -> bool {
        at.0.checked_add(len).is_some_and(|end| at >= self.start && end <= self.end().0)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start.0, self.end().0)
    }
}

/// What a small read costs, so that a [`crate::Look`] knows whether to keep copies of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load from a mapping: tens of nanoseconds. Keeping copies would be slower.
    Mapped,
    /// A system call or worse: about a microsecond whatever the size. A whole page costs little more than a byte.
    PerCall,
}

/// Why a backend could not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The range is not guest memory (a hole, a device, or beyond the end).
    #[error("Guest-physical {at}, {len} bytes, is not memory of this guest")]
    Outside {
        /// First address.
        at: Gpa,
        /// Bytes asked for.
        len: u64,
    },
    /// The guest has a page there, which the host keeps elsewhere; reading it would bring it back. What it holds is unknown.
    #[error("The page at guest-physical {at} is paged out by the hypervisor; looking does not bring it back")]
    PagedOut {
        /// The page.
        at: Gpa,
    },
    /// The VM ended, or its memory was taken away, while it was looked at.
    #[error("The VM is gone: {what}")]
    Gone {
        /// What was found missing.
        what: String,
    },
    /// The operating system refused.
    #[error("Reading {len} bytes at guest-physical {at} failed")]
    Io {
        /// First address.
        at: Gpa,
        /// Bytes asked for.
        len: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Physical memory of one guest. Reading is all that can be done with it.
pub trait GuestMemory: Send + Sync + fmt::Debug {
    /// The guest's memory, ascending and without overlap. Firmware and ROM count; device windows do not.
    fn regions(&self) -> &[Region];

    /// Copies `buf.len()` bytes out of the guest. The whole range must lie in [`Self::regions`]; it may span two that
    /// touch. Bytes that change meanwhile come out as some mix of old and new. Allocates nothing for the guest: absent
    /// pages read as zeros, but for [`MemoryError::PagedOut`].
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError>;

    /// The same of bytes near which nobody will read again in this look, so that nothing is prepared for it: where a kernel could
    /// be and is not.
    fn read_once(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.read(at, buf)
    }

    /// The page that `at` is in, where it is mapped and known to exist, to be loaded from for the rest of the look. `None`: read what is
    /// wanted of it.
    fn page(&self, _at: Gpa) -> Option<&Page> {
        None
    }

    /// Says that these bytes will be read soon, so that a backend that can has them fetched meanwhile. Reads nothing, and asks
    /// for nothing that is not there.
    fn expect(&self, _at: Gpa, _len: u64) {}

    /// The same of lines of a page that it has lent: bit `n` is for the [`LINE`](crate::LINE) bytes from byte `n * LINE` on.
    fn expect_of(&self, _page: &Page, _lines: u64) {}

    /// The parts of `within` that may hold anything but zeros: ascending, page-aligned, inside the regions. Parts that
    /// are left out were never touched by the guest.
    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError>;

    /// What a small read costs.
    fn access(&self) -> Access;

    /// Starts a new look: forgets what was known about presence and may not hold any more, and says [`MemoryError::Gone`] when the VM ended.
    fn begin_look(&self) -> Result<(), MemoryError>;

    /// Bytes of guest memory, holes not counted.
    fn size(&self) -> u64 {
        self.regions().iter().map(|region| region.len).fold(0, u64::saturating_add)
    }

    /// The region that holds all of `[at, at + len)`, as an index into [`Self::regions`].
    fn region_of(&self, at: Gpa, len: u64) -> Option<usize> {
        let regions = self.regions();
        let after = regions.partition_point(|region| region.start <= at);
        let index = after.checked_sub(1)?;
        regions.get(index)?.contains(at, len).then_some(index)
    }

    /// Whether the page at `at` is guest memory.
    fn has_page(&self, at: Gpa) -> bool {
        self.region_of(at.page_base(), PAGE_SIZE).is_some()
    }
}
