//! Netlink sockets: ``nl_table``, one resizable hash table per netlink protocol (net/netlink/af_netlink.c).

use super::layout::Resolver;
use super::net::pointer;
use crate::session::{Session, member};
use facts::ProblemKind;
use std::collections::HashSet;
use vmi_core::{Gva, ReadError};

/// ``MAX_LINKS``, include/uapi/linux/netlink.h: entries of ``nl_table``.
const PROTOCOLS: u64 = 32;
/// Most buckets of one table; they grow with the number of sockets.
const BUCKETS_MAX: u32 = 1 << 22;
/// Buckets that are read at once.
const CHUNK: u32 = 1024;
/// Most sockets in all tables.
const SOCKETS_MAX: usize = 1 << 20;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    entry_size: u64,
    table: u64,
    size: u64,
    nest: u64,
    buckets: u64,
    node: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            entry_size: resolver.size("netlink_table"),
            table: resolver.offset("netlink_table", "hash.tbl"),
            size: resolver.offset("bucket_table", "size"),
            nest: resolver.offset("bucket_table", "nest"),
            buckets: resolver.offset("bucket_table", "buckets"),
            node: resolver.offset("netlink_sock", "node"),
        }
    }
}

/// All netlink socks that have an address, the kernel's own included.
pub(crate) fn socks(session: &Session<'_>) -> Result<Vec<Gva>, ReadError> {
    let layout = &session.kernel.layouts().net.netlink;
    let Some(symbol) = session.kernel.symbol("nl_table") else {
        session.problem(ProblemKind::Profile, "nl_table", "The kernel has no such symbol.");
        return Ok(Vec::new());
    };
    let Some(tables) = session.known("nl_table", symbol, session.space.pointer(symbol))? else {
        return Ok(Vec::new());
    };
    let mut socks = Vec::new();
    for protocol in 0..PROTOCOLS {
        let Some(entry) = tables.element(protocol, layout.entry_size) else { break };
        let nodes = pointer(session, entry, layout.table).and_then(|table| chains(session, table));
        for node in session.known("netlink_table", entry, nodes)?.unwrap_or_default() {
            socks.extend(node.checked_sub(layout.node));
        }
    }
    Ok(socks)
}

/// Nodes of a ``struct bucket_table``, each once. Chains link forwards only, so what was seen is remembered.
fn chains(session: &Session<'_>, table: Gva) -> Result<Vec<Gva>, ReadError> {
    let layout = &session.kernel.layouts().net.netlink;
    let space = &session.space;
    if table.is_null() {
        // A protocol that nobody registered.
        return Ok(Vec::new());
    }
    let size = space.u32(member(table, layout.size)?)?;
    let nest = space.u32(member(table, layout.nest)?)?;
    if size > BUCKETS_MAX || nest != 0 {
        session.problem(
            ProblemKind::Implausible,
            format_args!("bucket_table {table}"),
            format_args!(
                "It has {size} buckets and is nested {nest} deep; flat tables of netlink are read only."
            ),
        );
        return Ok(Vec::new());
    }
    let mut seen = HashSet::new();
    let mut nodes = Vec::new();
    let buckets = member(table, layout.buckets)?;
    for first in (0..size).step_by(CHUNK as usize) {
        let Some(at) = buckets.element(u64::from(first), 8) else { break };
        let count = usize::try_from(CHUNK.min(size - first)).unwrap_or(0);
        for head in space.bytes(at, count.saturating_mul(8))?.as_chunks::<8>().0 {
            // Bit 0 of a bucket is its lock; bit 0 of a node's ``next`` ends the chain.
            let mut at = Gva(u64::from_le_bytes(*head) & !1);
            while !at.is_null() && at.0 & 1 == 0 {
                if nodes.len() >= SOCKETS_MAX || !seen.insert(at) {
                    session.problem(
                        ProblemKind::Cycle,
                        format_args!("bucket_table {table}"),
                        format_args!("A chain comes back to {at}."),
                    );
                    return Ok(nodes);
                }
                nodes.push(at);
                at = space.pointer(at)?;
            }
        }
    }
    Ok(nodes)
}

/// Names of `ss` for netlink protocols (include/uapi/linux/netlink.h).
pub(crate) fn protocol(number: u16) -> String {
    match number {
        0 => "route",
        2 => "usersock",
        4 => "sock_diag",
        6 => "xfrm",
        7 => "selinux",
        9 => "audit",
        10 => "fib_lookup",
        11 => "connector",
        12 => "netfilter",
        15 => "kobject_uevent",
        16 => "generic",
        18 => "scsitransport",
        20 => "rdma",
        21 => "crypto",
        other => return other.to_string(),
    }
    .to_owned()
}
