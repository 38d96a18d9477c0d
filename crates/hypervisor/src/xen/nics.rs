//! The host-side network devices of a domain: `vifDOMID.N` of netback, and the tap that a device model adds to a card it
//! emulates.

use super::store::Store;
use crate::Error;
use facts::Nic;
use std::fs;
use std::path::Path;

/// Devices of this domain that are here, by name. Empty when it has none, or another domain has their other end.
pub(crate) fn nics(domid: u32) -> Result<Vec<Nic>, Error> {
    let failed = |source| Error::Xenstore { source };
    let mut store = Store::open().map_err(failed)?;
    let backends = format!("/local/domain/0/backend/vif/{domid}");
    let mut found = Vec::new();
    for number in store.list(&backends).map_err(failed)?.unwrap_or_default() {
        // `vifname=` of the domain's configuration.
        let named = store.read(&format!("{backends}/{number}/vifname")).map_err(failed)?;
        let name = named.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("vif{domid}.{number}"));
        found.push(format!("{name}-emu"));
        found.push(name);
    }
    let devices = Path::new("/sys/class/net");
    found.retain(|name| !name.contains('/') && fs::exists(devices.join(name)).unwrap_or(false));
    found.sort();
    let nic = |interface| Nic { interface, namespace: "/proc/self/ns/net".to_owned() };
    Ok(found.into_iter().map(nic).collect())
}
