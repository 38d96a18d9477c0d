//! The host-side network devices of a domain: `vifDOMID.N` of netback, and the tap that a device model adds to a card it
//! emulates. A device model that runs in a domain of its own (a stub domain) has no tap: its cards are those of that domain.

use super::store::Store;
use crate::Error;
use facts::Nic;
use std::fs;
use std::io;
use std::path::Path;

/// Devices of this domain that are here, by name. Empty when it has none, or another domain has their other end.
pub(crate) fn nics(domid: u32) -> Result<Vec<Nic>, Error> {
    let failed = |source| Error::Xenstore { source };
    let mut found = Store::open().and_then(|mut store| names(&mut store, domid)).map_err(failed)?;
    let devices = Path::new("/sys/class/net");
    found.retain(|name| !name.contains('/') && fs::exists(devices.join(name)).unwrap_or(false));
    found.sort();
    let nic = |interface| Nic { interface, namespace: "/proc/self/ns/net".to_owned() };
    Ok(found.into_iter().map(nic).collect())
}

/// What its devices are called, if they are here.
fn names(store: &mut Store, domid: u32) -> io::Result<Vec<String>> {
    let mut domains = vec![domid.to_string()];
    // Where libxl writes the number of the domain that its device model is in (`libxl_get_stubdom_id`).
    domains.extend(store.read(&format!("/local/domain/{domid}/image/device-model-domid"))?);
    let mut found = Vec::new();
    for domain in domains {
        let backends = format!("/local/domain/0/backend/vif/{domain}");
        for number in store.list(&backends)?.unwrap_or_default() {
            // `vifname=` of the domain's configuration.
            let named = store.read(&format!("{backends}/{number}/vifname"))?;
            let name =
                named.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("vif{domain}.{number}"));
            found.push(format!("{name}-emu"));
            found.push(name);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulated_card_is_a_tap_or_a_card_of_the_domain_that_emulates_it() {
        let mut store = Store::of(&[
            ("/local/domain/0/backend/vif/5/0/mac", "52:54:00:00:00:01"),
            ("/local/domain/0/backend/vif/5/1/vifname", "web-b"),
            ("/local/domain/0/backend/vif/6/0/mac", "52:54:00:00:00:01"),
            ("/local/domain/0/backend/vif/7/0/mac", "52:54:00:00:00:03"),
            ("/local/domain/5/image/device-model-domid", "6"),
        ]);
        let expected = ["vif5.0-emu", "vif5.0", "web-b-emu", "web-b", "vif6.0-emu", "vif6.0"];
        assert_eq!(names(&mut store, 5).unwrap(), expected);
        assert_eq!(names(&mut store, 7).unwrap(), ["vif7.0-emu", "vif7.0"]);
        assert_eq!(names(&mut store, 8).unwrap(), [""; 0]);
    }
}
