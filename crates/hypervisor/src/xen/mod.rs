//! Xen domains: found through xenstore and the hypervisor, read through foreign mappings of `/dev/xen/privcmd`.
//!
//! Pure Rust over the kernel's `privcmd` device and xenstore's wire protocol; nothing of Xen's libraries is linked or loaded.
//! Looking changes nothing: no altp2m, no monitor ring, no `setmaxmem`, no pause (unless one is asked for), and every mapping is read-only by the
//! descriptor it comes from.

mod abi;
mod control;
mod discover;
mod layout;
mod memory;
mod nics;
mod open;
pub(crate) mod pause;
mod privcmd;
mod pv;
mod store;

pub(crate) use discover::{Domain, all};
pub use memory::XenMemory;
pub(crate) use nics::nics;
pub(crate) use open::{open, registers};
