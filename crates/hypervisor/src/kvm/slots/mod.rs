//! The memory slots of a VM as the host's kernel has them: which guest-physical addresses are at which addresses of the VMM. Exact,
//! of every VMM alike, and nothing of the guest's own word in it.
//!
//! A small eBPF program copies them out of kernel memory (`program`); where they are is told by the kernel's own types (`types`,
//! `walk`). It takes CAP_BPF and CAP_PERFMON (root has both), a kernel from 5.8 on with BTF, and no lockdown. Without any of these
//! there are no slots, and a reason. What they mean for a guest's layout is `layout`'s (decision 0029).

#[cfg(feature = "memslots")]
mod kernel;
pub(super) mod layout;
#[cfg(feature = "memslots")]
mod program;
#[cfg(feature = "memslots")]
mod types;
#[cfg(feature = "memslots")]
mod walk;

use std::io;
use std::path::PathBuf;
use vmi_core::Region;

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Guest-physical addresses.
    pub(crate) guest: Region,
    /// The first one's address in the VMM.
    pub(crate) address: u64,
    /// The guest cannot write to it: firmware.
    pub(crate) read_only: bool,
    /// What the guest sees may be in a guest_memfd instead.
    pub(crate) private: bool,
}

/// Why the kernel's slots cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SlotsUnusable {
    /// Left out of this build.
    #[error("this program was built without them (feature `memslots`)")]
    NotBuilt,
    /// Not on this kernel, or not for this user.
    #[error("{path} cannot be read")]
    NoTypes {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Other types than those that are known.
    #[error("the kernel's types do not say where slots are")]
    Types,
    /// The numbers of processes are other ones in the kernel.
    #[error("this program runs in a pid namespace of its own")]
    Namespace,
    /// No capability, a lockdown, or a verifier that thinks otherwise.
    #[error("the kernel refused {step}")]
    Refused {
        /// What was being done.
        step: &'static str,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// Emulated, or gone.
    #[error("the process has no VM of KVM")]
    NoVm,
    /// Not one VM but several.
    #[error("the process has {count} VMs")]
    SeveralVms {
        /// How many.
        count: usize,
    },
    /// The process, its descriptor, or the memory is no more.
    #[error("what was read is gone")]
    Gone,
    /// Numbers that cannot be.
    #[error("what was read are no slots")]
    Nonsense,
    /// Never the same twice.
    #[error("the slots did not stop changing")]
    Changing,
}

/// The slots of the VM that a process has, by guest-physical address.
#[cfg(feature = "memslots")]
pub(super) fn read(pid: u32) -> Result<Vec<Slot>, SlotsUnusable> {
    kernel::read(pid)
}

/// Whether slots could be read of a VM here: all but reading them is tried.
#[cfg(feature = "memslots")]
pub(crate) fn check() -> Result<(), SlotsUnusable> {
    kernel::check()
}

/// The slots of the VM that a process has.
#[cfg(not(feature = "memslots"))]
pub(super) fn read(_pid: u32) -> Result<Vec<Slot>, SlotsUnusable> {
    Err(SlotsUnusable::NotBuilt)
}

/// Whether slots could be read of a VM here.
#[cfg(not(feature = "memslots"))]
pub(crate) fn check() -> Result<(), SlotsUnusable> {
    Err(SlotsUnusable::NotBuilt)
}
