//! Sockets that see packets before any protocol does: IP raw sockets and packet sockets (`AF_PACKET`).

use super::layout::Resolver;
use super::list::{self, HashTable};
use super::net::socks_of_nodes;
use crate::session::{Session, member};
use facts::ProblemKind;
use guest_profiles::FieldKind;
use vmi_core::{Gva, ReadError};

/// Bytes of a bucket: ``struct hlist_head`` or ``struct hlist_nulls_head``, one pointer either way.
const BUCKET: u64 = 8;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    table: u64,
    count: u64,
    /// Whether the kernel has IPv6.
    ipv6: bool,
    /// ``net->packet.sklist``; absent without `CONFIG_PACKET`.
    packets: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let table = resolver.profile().field("raw_hashinfo", "ht").ok();
        let (table, count) = match table.map(|field| (field.offset, field.kind)) {
            Some((offset, FieldKind::Array { count, .. })) => (offset, count),
            _ => {
                resolver.lacks("raw_hashinfo.ht as an array".to_owned());
                (0, 0)
            }
        };
        Self {
            table,
            count,
            ipv6: resolver.optional("net", "ipv6").is_some(),
            packets: resolver.optional("net", "packet.sklist"),
        }
    }
}

/// All raw socks, and the packet socks of all namespaces.
pub(crate) fn socks(session: &Session<'_>, namespaces: &[Gva]) -> Result<Vec<Gva>, ReadError> {
    let layout = &session.kernel.layouts().net.raw;
    let mut nodes = Vec::new();
    for (symbol, expected) in [("raw_v4_hashinfo", true), ("raw_v6_hashinfo", layout.ipv6)] {
        if let Some(at) = session.kernel.symbol(symbol) {
            let table =
                HashTable { base: member(at, layout.table)?, count: layout.count, stride: BUCKET, head: 0 };
            nodes.append(&mut list::hash_table(session, "raw hash table", table)?);
        } else if expected {
            session.problem(ProblemKind::Profile, symbol, "The kernel has no such symbol.");
        }
    }
    if let Some(offset) = layout.packets {
        for namespace in namespaces {
            nodes.append(&mut list::hlist(session, "packet socket list", member(*namespace, offset)?)?);
        }
    }
    Ok(socks_of_nodes(session, nodes))
}
