//! Xen domains: found through xenstore and the hypervisor, read through foreign mappings of `/dev/xen/privcmd`.
//!
//! Pure Rust over the kernel's `privcmd` device and xenstore's wire protocol; nothing of Xen's libraries is linked, and none is loaded unless
//! the hypervisor is of a version whose commands only its own libxenctrl knows (`library.rs`).
//! Looking changes nothing: no altp2m, no monitor ring, no `setmaxmem`, no pause (unless one is asked for), and every mapping is read-only by the
//! descriptor it comes from.

mod abi;
mod control;
mod discover;
mod domctl;
#[cfg(feature = "xenctrl")]
mod gpl;
mod layout;
mod library;
mod memory;
mod nics;
mod open;
pub(crate) mod pause;
mod privcmd;
mod pv;
mod store;

pub use control::Interface;
pub(crate) use discover::{Domain, all};
pub use memory::XenMemory;
pub(crate) use nics::nics;
pub(crate) use open::{open, registers};
