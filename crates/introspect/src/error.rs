//! Why a guest could not be looked at.

use vmi_core::{Gpa, Gva, MemoryError, ReadError};

/// Why a kernel was not found, or a look failed as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend failed, or the VM is gone.
    #[error("The guest's memory could not be read")]
    Memory(#[from] MemoryError),
    /// Nothing was ever written to the guest's memory.
    #[error("All {bytes} bytes of guest memory are zero: the guest has not started, or the image is empty")]
    Empty {
        /// Size of the memory.
        bytes: u64,
    },
    /// No trace of a Linux kernel that has come far enough in its boot.
    #[error(
        "No running Linux kernel found in {searched} bytes of populated guest memory: the guest may still be in its \
         firmware or boot loader, run another operating system, or have a kernel without CONFIG_VMCORE_INFO"
    )]
    NoKernel {
        /// Bytes that were searched.
        searched: u64,
    },
    /// The guest has not come far enough in its boot to have processes. Not an error of the guest's: ask again later.
    #[error("The guest is still booting: {what}")]
    NotYet {
        /// How far it has come.
        what: String,
    },
    /// The kernel image that page tables lead to could not be read.
    #[error("The kernel image that the page tables at {root} map could not be read")]
    Image {
        /// The top-level page table.
        root: Gpa,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// A kernel image is mapped, but its symbol table was not found.
    #[error(
        "The symbol table of the kernel image at {at} could not be read (a kernel without CONFIG_KALLSYMS?)"
    )]
    ImageSymbols {
        /// Where the image starts.
        at: Gva,
        /// Why.
        #[source]
        source: guest_profiles::Error,
    },
    /// A kernel image is mapped, but does not hold together.
    #[error("The kernel image at {at} does not hold together: {reason}")]
    ImageContradicted {
        /// Where the image starts.
        at: Gva,
        /// What was wrong.
        reason: String,
    },
    /// There is something like a kernel, but it does not hold together.
    #[error("A Linux kernel description at guest-physical {at} (release {release}) does not hold: {reason}")]
    Contradicted {
        /// Where the description was found.
        at: Gpa,
        /// Release that it names.
        release: String,
        /// What was wrong.
        reason: String,
    },
    /// Two kernels, both of which hold together. One of them may be a decoy.
    #[error(
        "Two kernels hold together, with page tables at {first} and {second}: one of them is a decoy, so neither is believed"
    )]
    Ambiguous {
        /// Page-table root of one.
        first: Gpa,
        /// Page-table root of the other.
        second: Gpa,
    },
    /// The kernel is there, but what the engine needs to know about it is not.
    #[error("Kernel {release} is not supported: it has no {}", missing.join(", no "))]
    Unsupported {
        /// Its release.
        release: String,
        /// Types, members and symbols that are missing.
        missing: Vec<String>,
    },
    /// The guest's symbol table or type information is damaged.
    #[error("The {what} of kernel {release} could not be read")]
    Profile {
        /// Which part.
        what: &'static str,
        /// Release of the kernel.
        release: String,
        /// Why.
        #[source]
        source: guest_profiles::Error,
    },
    /// The kernel's type information is not what it was when the kernel was located.
    #[error("The type information of kernel {release} was altered since the kernel was located")]
    TypesChanged {
        /// Release of the kernel.
        release: String,
    },
    /// A table of the kernel could not be read from memory.
    #[error("The {what} of kernel {release} could not be read")]
    Read {
        /// Which part.
        what: &'static str,
        /// Release of the kernel.
        release: String,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The host's idea of where guest memory is does not agree with the guest kernel's.
    #[error(
        "The guest's kernel uses memory at {start:#x}-{end:#x}, which is not in the layout that the host gave: the \
         layout is wrong, and nothing read through it can be trusted"
    )]
    Layout {
        /// First address that is missing.
        start: u64,
        /// Behind its last address.
        end: u64,
    },
}

impl Error {
    /// Whether the look is over, because the backend failed or the budget is spent: then nothing was refused, and no other
    /// reason may be told in its place.
    pub(crate) fn ends_the_look(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Image { source, .. } | Self::Read { source, .. } => source.ends_the_look(),
            _ => false,
        }
    }

    /// Whether a guest that was just started may be the reason: nothing in memory yet, no kernel in it yet, one of which only
    /// a part is unpacked yet, or a kernel that has not come far enough. The same is to be seen of a guest that is no Linux at all, so nobody should wait for ever.
    #[must_use]
    pub fn may_be_booting(&self) -> bool {
        matches!(
            self,
            Self::Empty { .. } | Self::NoKernel { .. } | Self::NotYet { .. } | Self::ImageSymbols { .. }
        )
    }
}
