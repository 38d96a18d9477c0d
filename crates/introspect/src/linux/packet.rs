//! Packet sockets (`AF_PACKET`): what sees packets before any protocol does. Each network namespace has a list of them.

use super::layout::Resolver;
use super::list;
use super::net::socks_of_nodes;
use crate::session::{Session, member};
use facts::Socket;
use vmi_core::{Gva, ReadError};

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// ``net->packet.sklist``. `None`: a kernel without `CONFIG_PACKET`.
    list: Option<u64>,
    own: Option<Own>,
}

/// Offsets in ``struct packet_sock``, in bytes. `None` as a whole where packet sockets are a module's.
#[derive(Clone, Debug)]
struct Own {
    num: u64,
    interface: u64,
    mapped: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let own = |member| resolver.optional("packet_sock", member);
        let own = match (own("num"), own("ifindex"), own("mapped")) {
            (Some(num), Some(interface), Some(mapped)) => Some(Own { num, interface, mapped }),
            _ => None,
        };
        Self { list: resolver.optional("net", "packet.sklist"), own }
    }
}

/// All packet socks of all namespaces. `None`: this kernel's lists are not known.
pub(crate) fn socks(session: &Session<'_>, namespaces: &[Gva]) -> Result<Option<Vec<Gva>>, ReadError> {
    let Some(offset) = session.kernel.layouts().net.packet.list else { return Ok(None) };
    let mut nodes = Vec::new();
    for namespace in namespaces {
        nodes.append(&mut list::hlist(session, "packet socket list", member(*namespace, offset)?)?);
    }
    Ok(Some(socks_of_nodes(session, nodes)))
}

/// What only packet sockets have, into `facts`. Gives back the index of the interface it listens on (0: all).
pub(super) fn decode(session: &Session<'_>, sk: Gva, facts: &mut Socket) -> Result<u32, ReadError> {
    let Some(own) = &session.kernel.layouts().net.packet.own else { return Ok(0) };
    // __be16: an EtherType.
    let ether_type = session.space.u16(member(sk, own.num)?)?.swap_bytes();
    facts.protocol = Some(format!("{ether_type:#06x}").into());
    session.space.u32(member(sk, own.interface)?)
}

/// Whether a process has its ring mapped, which holds the socket without any descriptor.
pub(super) fn is_mapped(session: &Session<'_>, sk: Gva) -> Result<bool, ReadError> {
    match &session.kernel.layouts().net.packet.own {
        Some(own) => Ok(session.space.u64(member(sk, own.mapped)?)?.cast_signed() > 0),
        None => Ok(false),
    }
}
