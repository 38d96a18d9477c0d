//! The lab, for tests, benches and the demo only: real Debian kernels under QEMU's software emulation, a workload in the
//! guest that does odd things when told to, and the guest's own `/proc` as the truth that every table is compared with.
//!
//! ```no_run
//! use testkit::{Guest, GuestSpec, Kernel, SocketSpec, Spawn};
//!
//! fn a_listener_is_found() -> anyhow::Result<()> {
//!     let Some(guest) = Guest::boot_or_skip(GuestSpec::new(Kernel::V6_1))? else {
//!         return Ok(()); // it said on stderr what is missing
//!     };
//!     let address = "127.0.0.1:4444".parse()?;
//!     let rogue = guest.spawn(Spawn {
//!         exe: "/tmp/rogue".into(),
//!         sockets: vec![SocketSpec::TcpListen { address }],
//!         ..Spawn::default()
//!     })?;
//!     assert!(guest.truth()?.process(rogue.pid).is_some());
//!     Ok(())
//! }
//! ```
//!
//! It must never depend on the engine (`hypervisor`, `introspect`, …): a truth that is read with the code under test is none.
//! `unsafe` is used to start processes (here) and by the programs (there); each block says why it is sound.
#![allow(unsafe_code)]

mod agent;
mod archive;
pub mod command;
mod cpio;
pub mod crowd;
pub mod debian;
mod guest;
pub mod host;
mod hugepages;
mod initramfs;
pub mod kernels;
pub mod lab;
pub mod lime;
mod needs;
pub mod net;
mod packages;
pub mod python;
pub mod truth;
mod vmlinux;
pub mod vmm;
pub mod volatility;

pub use command::{
    Activity, Command, Filter, MountSpec, Namespace, ProgramSpec, SocketSpec, Spawn, Spawned, TracingWay,
    Traffic, Transport, UnixType,
};
pub use guest::{Backing, Guest, GuestSpec, Machine, Nic, PagingLevels, RamRange};
pub use hugepages::HugePages;
pub use kernels::{Kernel, KernelFiles};
pub use needs::{Need, require, skipped};
pub use truth::Truth;

/// Makes the disk of a full Debian, as [`prepare`] does for other guests. Only root can.
pub fn prepare_debian() -> anyhow::Result<()> {
    debian::prepare()
}

/// Fetches and builds what hosts of the lab run, as [`prepare`] does for guests.
pub fn prepare_hosts() -> anyhow::Result<()> {
    vmm::prepare()?;
    host::prepare()
}

/// Fetches the newest package of this kernel and builds what its guests run, so that no test has to wait for it (a minute
/// with an empty cache). For set-up; a test that finds the cache empty does the same.
pub fn prepare(kernel: Kernel) -> anyhow::Result<kernels::KernelFiles> {
    let files = kernels::fetch(kernel)?;
    initramfs::build(&files)?;
    Ok(files)
}

/// Unpacks what guests of this kernel boot from, as a root file system in `directory`. Only root can: it has devices.
pub fn unpack_root(kernel: &KernelFiles, directory: &std::path::Path) -> anyhow::Result<()> {
    initramfs::unpack(kernel, directory)
}
