//! A full Debian as a guest: systemd, sshd, nginx, PostgreSQL, cron, timers and a container, booted from a disk under emulation.
//!
//! It answers on the same command port as every guest of the lab, and its word about itself is the same [`crate::Truth`]. Its
//! disk is thrown away with it. One boot takes most of a minute and is meant to be shared by all that is to be shown on it.

mod image;

use crate::command::Output;
use crate::guest::{Boot, Guest, GuestSpec};
use crate::{Kernel, initramfs};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// Where programs are.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether the disk is in the cache.
pub(crate) fn is_cached() -> bool {
    image::cached().is_some()
}

/// Makes the disk, if it is not in the cache. For set-up.
pub(crate) fn prepare() -> Result<()> {
    initramfs::build(&image::build()?.kernel).map(drop)
}

/// The disk that a guest boots from, raw, with one ext4 file system. Not to be changed.
pub fn disk() -> Result<PathBuf> {
    Ok(image::build()?.disk)
}

/// Boots one, and returns once all its services run.
pub fn boot() -> Result<Guest> {
    let image = image::build()?;
    let initrd = initramfs::build(&image.kernel)?.into();
    let boot = Boot { kernel: image.kernel.vmlinuz.clone(), initrd, parameters: None };
    let spec = GuestSpec::new(Kernel::V6_1)
        .memory_mib(1024)
        .kernel_parameter("DISK=/dev/vda")
        .qemu_argument("-drive")
        .qemu_argument(format!("if=none,id=disk,format=raw,snapshot=on,file={}", image.disk.display()))
        .qemu_argument("-device")
        .qemu_argument("virtio-blk-pci,drive=disk")
        // A network without anybody in it but the one that gives addresses.
        .qemu_argument("-netdev")
        .qemu_argument("user,id=net,restrict=on")
        .qemu_argument("-device")
        .qemu_argument("virtio-net-pci,netdev=net,romfile=");
    Guest::boot_files(spec, &image.kernel, &boot)
}

/// Runs a shell script in a guest whose system is a full one.
pub fn run(guest: &Guest, script: &str) -> Result<Output> {
    guest.run(&["env", PATH, "/bin/sh", "-c", script])
}

/// The same where it must succeed; gives what it printed.
pub fn succeed(guest: &Guest, script: &str) -> Result<String> {
    let output = run(guest, script).with_context(|| format!("Cannot run `{script}`"))?;
    ensure!(
        output.status == Some(0),
        "`{script}` ended with {:?}: {}{}",
        output.status,
        output.stdout,
        output.stderr
    );
    Ok(output.stdout)
}
