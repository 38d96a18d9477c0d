//! The host-side network devices of a VMM: the tap devices it has open.
//!
//! `/proc/PID/fdinfo/N` of a `/dev/net/tun` descriptor names its device in the line `iff:` (drivers/net/tun.c,
//! `tun_chr_show_fdinfo`). A VMM with vhost-net keeps that descriptor too.

use super::process::{descriptors, read_proc};
use crate::Error;
use facts::Nic;
use std::path::Path;

/// Tap devices that process `pid` has attached, by name. Empty when it has none (user-mode networking, or no network).
pub(crate) fn nics(pid: u32) -> Result<Vec<Nic>, Error> {
    let mut found = Vec::new();
    for descriptor in descriptors(pid)? {
        if descriptor.link != Path::new("/dev/net/tun") {
            continue;
        }
        let info = match read_proc(pid, &format!("fdinfo/{}", descriptor.number)) {
            Ok(info) => info,
            // Closed meanwhile.
            Err(Error::Proc { .. }) => continue,
            Err(error) => return Err(error),
        };
        // A descriptor that is not attached to a device has no such line.
        if let Some(interface) = interface(&String::from_utf8_lossy(&info)) {
            found.push(Nic { interface, namespace: format!("/proc/{pid}/ns/net") });
        }
    }
    found.sort_by(|one, other| one.interface.cmp(&other.interface));
    // Every queue of a device is a descriptor of its own.
    found.dedup();
    Ok(found)
}

fn interface(fdinfo: &str) -> Option<String> {
    let name = fdinfo.lines().find_map(|line| line.strip_prefix("iff:"))?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_read_off_fdinfo() {
        assert_eq!(interface("pos:\t0\nflags:\t0104002\nmnt_id:\t1\niff:\ttap0\n"), Some("tap0".to_owned()));
        assert_eq!(interface("pos:\t0\nflags:\t02\n"), None);
        assert_eq!(interface("iff:\t\n"), None);
    }
}
