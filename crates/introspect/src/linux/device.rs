//! Names of network interfaces, ``struct net_device``, by their index in a namespace.
//!
//! Few sockets are bound to one, so a namespace's list is read when the first of them asks.

use super::layout::Resolver;
use super::list;
use crate::session::{Session, member};
use facts::SocketInterface;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use vmi_core::{Gva, ReadError};

/// ``IFNAMSIZ``, include/uapi/linux/if.h.
const NAME: usize = 16;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    list: u64,
    node: u64,
    index: u64,
    name: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            list: resolver.offset("net", "dev_base_head"),
            node: resolver.offset("net_device", "dev_list"),
            index: resolver.offset("net_device", "ifindex"),
            name: resolver.offset("net_device", "name"),
        }
    }
}

/// Interfaces of the namespaces that were asked for.
#[derive(Debug, Default)]
pub(super) struct Interfaces(HashMap<Gva, HashMap<u32, String>>);

impl Interfaces {
    /// The interface `index` of the ``struct net *`` at `net`.
    pub(super) fn get(
        &mut self,
        session: &Session<'_>,
        net: Gva,
        index: u32,
    ) -> Result<SocketInterface, ReadError> {
        let names = match self.0.entry(net) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                unknown.insert(session.known("net", net, names(session, net))?.unwrap_or_default())
            }
        };
        Ok(SocketInterface { index, name: names.get(&index).cloned() })
    }
}

fn names(session: &Session<'_>, net: Gva) -> Result<HashMap<u32, String>, ReadError> {
    let layout = &session.kernel.layouts().net.device;
    let mut names = HashMap::new();
    for device in all(session, net)? {
        let index = session.space.u32(member(device, layout.index)?)?;
        names.insert(index, name(session, device)?);
    }
    Ok(names)
}

/// ``struct net_device *`` of all interfaces of the ``struct net *`` at `net`.
pub(super) fn all(session: &Session<'_>, net: Gva) -> Result<Vec<Gva>, ReadError> {
    let layout = &session.kernel.layouts().net.device;
    let nodes = list::list(session, "network interface list", member(net, layout.list)?)?;
    Ok(nodes.into_iter().filter_map(|node| node.checked_sub(layout.node)).collect())
}

/// The name of the ``struct net_device *`` at `device`.
pub(super) fn name(session: &Session<'_>, device: Gva) -> Result<String, ReadError> {
    let at = member(device, session.kernel.layouts().net.device.name)?;
    Ok(String::from_utf8_lossy(&session.space.c_string(at, NAME)?).into_owned())
}
