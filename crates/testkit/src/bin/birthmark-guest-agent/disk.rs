//! What an initramfs is for: brings up the disk that the kernel's command line names (`DISK=/dev/vda`), and hands over to the
//! system on it. That system's own init then starts this program once more, as a service that serves the command port.
//!
//! The program is put on the disk here, so that the disk, which takes a minute to make, is not made anew for every change of
//! this program.

use crate::init::{Result, context, load_module, module_needs};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execve};
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Environment variable with the disk, as the kernel hands it to its first process.
pub(crate) const VARIABLE: &str = "DISK";

/// Where the disk's system expects this program.
const PROGRAM: &str = "/disk/usr/local/sbin/birthmark-guest-agent";

/// How long a disk may take to appear after its driver was loaded.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Becomes the init of the system on the disk.
pub(crate) fn hand_over(disk: &str) -> Result<Infallible> {
    let no_data = None::<&str>;
    for (kind, place) in [("devtmpfs", "/dev"), ("sysfs", "/sys")] {
        context(mount(Some(kind), place, Some(kind), MsFlags::empty(), no_data), place)?;
    }
    // The file system's checksums ask the kernel for `crc32c` by name, and there is no modprobe here to answer.
    let needs = module_needs()?;
    for module in ["crc32c_generic", "virtio_pci", "virtio_blk", "ext4"] {
        // What is not there is built in.
        if needs.contains_key(module) {
            load_module(module, &needs, 0)?;
        }
    }
    let deadline = Instant::now() + LONGEST_WAIT;
    while !Path::new(disk).exists() {
        if Instant::now() > deadline {
            return Err(format!("{disk} did not appear"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    context(fs::create_dir_all("/disk"), "/disk")?;
    context(mount(Some(disk), "/disk", Some("ext4"), MsFlags::MS_NOATIME, no_data), disk)?;
    context(fs::copy("/init", PROGRAM), PROGRAM)?;
    context(fs::set_permissions(PROGRAM, fs::Permissions::from_mode(0o755)), PROGRAM)?;
    for place in ["/dev", "/sys"] {
        let target = format!("/disk{place}");
        context(mount(Some(place), target.as_str(), None::<&str>, MsFlags::MS_MOVE, no_data), &target)?;
    }
    context(chdir("/disk"), "/disk")?;
    context(mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, no_data), "Cannot make the disk the root")?;
    context(chroot("."), "chroot")?;
    let no_environment: [&std::ffi::CStr; 0] = [];
    context(execve(c"/sbin/init", &[c"/sbin/init"], &no_environment), "/sbin/init")
}
