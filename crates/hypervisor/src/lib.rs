//! Finds the VMs of this host and opens their memory, read-only.
//!
//! Two doors: [`list`] says which VMs there are, [`open`] gives one guest's memory as a [`vmi_core::GuestMemory`] (a
//! running KVM, QEMU or Xen guest, or a memory image). Everything that is opened is opened before `open` returns, so that what
//! parses guest bytes afterwards can be jailed with nothing but those descriptors (DESIGN 3).
//!
//! What this crate must never do: write to a guest or to its VMM, open anything of a guest for writing, pause a guest (unless that is asked for),
//! make a page of guest memory exist by looking at it, or guess a layout ("the largest mapping is the RAM"). What is
//! ambiguous is an error that says what was seen.
// This is the one library that maps foreign memory and calls what the safe wrappers lack (mincore, pidfd_open); every
// block says why it is sound. Everything else in the workspace denies `unsafe`.
#![allow(unsafe_code)]

mod copy;
pub mod dump;
mod error;
mod host;
pub mod kvm;
mod open;
pub mod pause;
mod sparse;
mod target;
pub mod xen;

pub use dump::RawLayout;
pub use error::Error;
pub use host::{Check, host_checks};
pub use kvm::SlotsUnusable;
pub use open::{
    LayoutOrigin, LayoutSource, ListProblem, Listing, OpenOptions, OpenedVm, find, list, nics, open,
    open_with,
};
pub use target::Target;
