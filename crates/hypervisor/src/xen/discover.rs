//! Finds the domains of this host: which there are and how they run is the hypervisor's word, what they are called is
//! xenstore's.

use super::control::{Control, Info, Interface};
use super::store::Store;
use crate::Error;
use facts::{Hypervisor, Vm, VmState};
use std::fs;

/// Domains of a host; Xen numbers them below 0x7ff0 (`DOMID_FIRST_RESERVED`).
const DOMID_END: u16 = 0x7ff0;
/// Bytes of a frame.
const FRAME: u64 = 4096;

/// A domain.
#[derive(Debug)]
pub(crate) struct Domain {
    /// As `birthmark list` shows it.
    pub(crate) vm: Vm,
    pub(super) info: Info,
    /// How it was asked about, and is.
    pub(super) interface: Interface,
    /// `memory/static-max` of xenstore: the most memory it can have, in KiB.
    pub(super) static_max_kib: Option<u64>,
}

/// Every domain but the one this runs in. Empty where this is no control domain of a Xen host.
pub(crate) fn all(interface: Interface) -> Result<Vec<Domain>, Error> {
    if !is_control_domain() {
        return Ok(Vec::new());
    }
    let control = Control::open(interface)?;
    let mut store = Store::open().map_err(|source| Error::Xenstore { source })?;
    let mut domains = Vec::new();
    let mut from = 1;
    while from < DOMID_END {
        let found = control.domain_from(from).map_err(|source| Error::XenRefused { domid: from, source })?;
        let Some(info) = found else { break };
        from = info.domid.saturating_add(1);
        // One that has ended and is held by somebody's mappings, or that shut down and is kept for its owner to look at.
        if !info.is_dying && !info.has_shut_down {
            domains.push(domain(info, interface, &mut store)?);
        }
    }
    Ok(domains)
}

/// Whether this system may ask the hypervisor about others: the kernel says `control_d` (drivers/xen/xenfs/super.c).
fn is_control_domain() -> bool {
    fs::read_to_string("/proc/xen/capabilities").is_ok_and(|text| text.contains("control_d"))
}

fn domain(info: Info, interface: Interface, store: &mut Store) -> Result<Domain, Error> {
    let domid = info.domid;
    let mut value = |name: &str| {
        store.read(&format!("/local/domain/{domid}/{name}")).map_err(|source| Error::Xenstore { source })
    };
    let name = value("name")?.filter(|name| !name.is_empty());
    let static_max_kib = value("memory/static-max")?.and_then(|text| text.parse().ok());
    let uuid = uuid(&info.handle);
    // `/vm/UUID`: what the tools call the domain, and so a check of what the hypervisor's answer was taken for.
    if let Some(path) = value("vm")?
        && !path.starts_with(&format!("/vm/{uuid}"))
    {
        return Err(Error::XenContradiction { domid, hypervisor: uuid, xenstore: path });
    }
    let vm = Vm {
        name: name.unwrap_or_else(|| format!("xen-{domid}")),
        id: format!("uuid:{uuid}"),
        hypervisor: Hypervisor::Xen,
        pid: None,
        domid: Some(domid.into()),
        memory_bytes: info.total_pages.checked_mul(FRAME),
        vcpus: Some(info.vcpus),
        state: if info.is_paused { VmState::Paused } else { VmState::Running },
        libvirt: None,
    };
    Ok(Domain { vm, info, interface, static_max_kib })
}

/// Lower case with hyphens.
fn uuid(handle: &[u8; 16]) -> String {
    let digits: String = handle.iter().map(|byte| format!("{byte:02x}")).collect();
    crate::kvm::machine::normal_uuid(&digits).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use super::uuid;

    #[test]
    fn a_handle_is_written_as_a_uuid() {
        let handle = *b"\x7b\x0e\x7b\x5e\x00\x00\x40\x00\x80\x00\x00\x00\x00\x00\x00\x2a";
        assert_eq!(uuid(&handle), "7b0e7b5e-0000-4000-8000-00000000002a");
    }
}
