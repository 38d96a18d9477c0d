//! KVM and QEMU guests: found by their VMM process, read through its memory (DESIGN 3, facts/vmi.md 3). Where QEMU has its guest's
//! memory is told by its command line (`machine`, `layout`, `locate`), of other VMMs by their rules (`vmm`).

mod boot_map;
pub mod cmdline;
mod discover;
pub mod layout;
pub mod libvirt;
pub mod locate;
pub mod machine;
pub mod maps;
mod memory;
pub mod monitor;
mod nics;
mod open;
mod pagemap;
pub(crate) mod pause;
pub mod plugged;
mod presence;
mod process;
mod process_mem;
mod removals;
pub(crate) mod run_page;
mod shared_mem;
mod slots;
pub mod vmm;

pub(crate) use discover::{Found, Vmm, all, inspect};
pub use memory::KvmMemory;
pub(crate) use memory::{joined, page_aligned};
pub(crate) use nics::nics;
pub(crate) use open::open;
pub(crate) use process::Process;
pub use process_mem::{Absent, ProcessMem, open_mem};
pub use shared_mem::SharedMem;
pub use slots::SlotsUnusable;
pub(crate) use slots::check as slots_check;
