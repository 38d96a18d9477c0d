//! Guest memory and a profile become facts.
//!
//! Two entry points. [`locate`] finds the kernel of a guest that nobody has described to us and learns its layouts from
//! its own memory; it is done once per boot. [`snapshot`] walks the kernel's tables with that knowledge; it is done at
//! every look.
//!
//! Everything read here is hostile. A walker follows only pointers that the guest's page tables map into guest memory,
//! counts every step against a budget, checks that links agree with each other in both directions, and reports what it
//! could not read as a [`facts::Problem`]. Only a failing memory backend makes a look fail as a whole.
//!
//! This crate performs no I/O except through [`vmi_core::GuestMemory`], knows no hypervisor and no certificate.

mod apart;
mod error;
mod first_look;
mod linux;
mod session;
mod sources;

pub use error::Error;
pub use linux::clock::Pulse;
pub use linux::description::Description;
pub use linux::hint::Hint;
pub use linux::kernel::Kernel;
pub use linux::module_info::ModuleSymbol;
pub use session::{Environment, Options, Tables};
pub use sources::Sources;

use facts::{Snapshot, Vm};
use vmi_core::{Budget, GuestMemory};

/// Finds the Linux kernel in a guest's memory, proves that it is the one that runs, and reads its symbols and layouts.
///
/// Costs one pass over the guest's populated memory and the parsing of a few MiB; keep the result for as long as
/// [`Pulse::holds`].
pub fn locate(memory: &dyn GuestMemory, budget: Budget) -> Result<Kernel, Error> {
    linux::locate::locate(memory, &Sources::default(), budget)
}

/// The same with more to go by than memory. See [`Sources`].
pub fn locate_with(memory: &dyn GuestMemory, sources: &Sources<'_>, budget: Budget) -> Result<Kernel, Error> {
    linux::locate::locate(memory, sources, budget)
}

/// Finds the kernel as [`locate_with`] does, and reads the tables of its guest as [`snapshot`] does: the same, and sooner where the
/// host has the kernel's profile, because the one is then done beside the other.
pub fn first_look(
    memory: &dyn GuestMemory,
    sources: &Sources<'_>,
    budget: Budget,
    vm: &Vm,
    options: &Options,
) -> Result<(Kernel, Snapshot), Error> {
    first_look::first_look(memory, sources, budget, vm, options)
}

/// Reads the tables of a guest whose kernel is known.
///
/// `Err` only when the memory backend failed or the VM is gone. Whatever else goes wrong is in the snapshot's
/// `problems`, beside everything that could be read.
pub fn snapshot(
    memory: &dyn GuestMemory,
    kernel: &Kernel,
    vm: &Vm,
    options: &Options,
) -> Result<Snapshot, Error> {
    session::snapshot(memory, kernel, vm, options)
}
