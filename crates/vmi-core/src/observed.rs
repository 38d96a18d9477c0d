//! What a walk returns: what it got, and what it could not get.
//!
//! A hostile or merely busy guest makes single reads fail all the time. That must neither lose the rest of a table nor
//! pass silently, so walkers return [`Observed`] instead of `Result`.

use crate::{Gva, MemoryError};

/// Items of a table plus the problems met on the way. An empty table with problems is *unknown*, not *empty*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed<T, P> {
    /// What was read.
    pub items: Vec<T>,
    /// What was not, and why.
    pub problems: Vec<P>,
}

impl<T, P> Default for Observed<T, P> {
    fn default() -> Self {
        Self { items: Vec::new(), problems: Vec::new() }
    }
}

/// Why one read of guest memory gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No page table entry maps the address. Everyday for user memory; for kernel structures it means a wild pointer.
    #[error("Guest-virtual {at} is not mapped")]
    NotMapped {
        /// The address.
        at: Gva,
    },
    /// The address or the range is not canonical or wraps around.
    #[error("Guest-virtual {at} plus {len} bytes is not an address range")]
    NotAnAddress {
        /// First address.
        at: Gva,
        /// Bytes asked for.
        len: u64,
    },
    /// The page tables or the page lead outside guest memory.
    #[error("Guest-virtual {at} leads outside guest memory")]
    Outside {
        /// The address.
        at: Gva,
    },
    /// The page tables or the page are with the hypervisor's pager.
    #[error(
        "Guest-virtual {at} leads to a page that the hypervisor has paged out; looking does not bring it back"
    )]
    PagedOut {
        /// The address.
        at: Gva,
    },
    /// The look has used up its time or bytes.
    #[error("The look's budget is used up: {limit}")]
    Budget {
        /// Which limit.
        limit: &'static str,
    },
    /// The backend failed; the look cannot go on.
    #[error("The guest's memory could not be read")]
    Memory(#[source] MemoryError),
}

impl ReadError {
    /// Whether nothing further can be read in this look: the backend failed or the budget is gone.
    #[must_use]
    pub fn ends_the_look(&self) -> bool {
        matches!(self, Self::Memory(_) | Self::Budget { .. })
    }
}
