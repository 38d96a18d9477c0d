//! Guest memory: addresses, the read-only memory trait, page tables, the per-look cache and budgets.
//!
//! This crate knows no operating system and no hypervisor. A backend (`hypervisor`) implements [`GuestMemory`]; a walker
//! (`introspect`) opens a [`Look`] on it, derives an [`AddressSpace`], and copies bytes out of it.
//!
//! Three things are deliberately absent. There is no method that writes guest memory. There is no way to borrow guest
//! bytes: they change while we look, so every read is a copy, also out of a [`Page`] that a backend lends. And no address has
//! an arithmetic operator: an address read out of a guest is hostile, so every step is checked ([`Gva::checked_add`]).

mod addr;
mod look;
mod memory;
mod observed;
mod page;
mod paging;
mod registers;
mod space;

pub use addr::{Gpa, Gva, PAGE_SIZE};
pub use look::{Budget, Look, LookStats};
pub use memory::{Access, GuestMemory, MemoryError, Region};
pub use observed::{Observed, ReadError};
pub use page::{LINE, Page};
pub use paging::{Approach, Levels, Translation};
pub use registers::Registers;
pub use space::AddressSpace;
