//! The lab tested against itself: guests boot, and each command of the workload shows in the guest's own `/proc`.
//!
//! Skipped with a reason where QEMU or the kernels are missing (`testkit::require`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod boot;
mod memory;
mod network;
mod processes;
mod sockets;

use testkit::{Guest, GuestSpec, Kernel};

/// A guest as specified, or `None` with the reason on stderr.
fn guest(kernel: Kernel, spec: impl FnOnce(GuestSpec) -> GuestSpec) -> Option<Guest> {
    Guest::boot_or_skip(spec(GuestSpec::new(kernel))).unwrap()
}
