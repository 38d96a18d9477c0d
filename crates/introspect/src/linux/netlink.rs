//! Netlink sockets: ``nl_table``, one resizable hash table per netlink protocol (net/netlink/af_netlink.c).

use super::layout::Resolver;
use super::net::pointer;
use super::rhashtable;
use crate::session::{Session, member};
use facts::{NetlinkAddress, ProblemKind, Text};
use vmi_core::{Gva, ReadError};

/// ``MAX_LINKS``, include/uapi/linux/netlink.h: entries of ``nl_table``.
const PROTOCOLS: u64 = 32;
/// Most multicast groups of one protocol; generic netlink has the most, a few hundred.
const GROUPS_MAX: u32 = 1 << 16;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    entry_size: u64,
    hash: u64,
    node: u64,
    port: u64,
    group_count: u64,
    groups: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            entry_size: resolver.size("netlink_table"),
            hash: resolver.offset("netlink_table", "hash"),
            node: resolver.offset("netlink_sock", "node"),
            port: resolver.offset("netlink_sock", "portid"),
            group_count: resolver.offset("netlink_sock", "ngroups"),
            groups: resolver.offset("netlink_sock", "groups"),
        }
    }
}

/// All netlink socks that have an address, the kernel's own included. `None`: this kernel's tables are not known.
pub(crate) fn socks(session: &Session<'_>) -> Result<Option<Vec<Gva>>, ReadError> {
    let layout = &session.kernel.layouts().net.netlink;
    let Some(symbol) = session.kernel.symbol("nl_table") else {
        session.problem(ProblemKind::Profile, "nl_table", "The kernel has no such symbol.");
        return Ok(None);
    };
    let Some(tables) = session.known("nl_table", symbol, session.space.pointer(symbol))? else {
        return Ok(None);
    };
    let mut socks = Vec::new();
    for protocol in 0..PROTOCOLS {
        let Some(entry) = tables.element(protocol, layout.entry_size) else { break };
        let nodes = member(entry, layout.hash)
            .and_then(|table| rhashtable::nodes(session, "netlink socket table", table));
        for node in session.known("netlink_table", entry, nodes)?.unwrap_or_default() {
            socks.extend(node.checked_sub(layout.node));
        }
    }
    Ok(Some(socks))
}

/// What the ``struct netlink_sock *`` at `sk` is bound to.
pub(super) fn address(session: &Session<'_>, sk: Gva) -> Result<NetlinkAddress, ReadError> {
    let layout = &session.kernel.layouts().net.netlink;
    let space = &session.space;
    let port = space.u32(member(sk, layout.port)?)?;
    let count = space.u32(member(sk, layout.group_count)?)?;
    let bitmap = pointer(session, sk, layout.groups)?;
    let mut groups = Vec::new();
    if !bitmap.is_null() && count > 0 {
        if count > GROUPS_MAX {
            session.problem(
                ProblemKind::Implausible,
                format_args!("netlink_sock {sk}"),
                format_args!("It claims {count} groups."),
            );
            return Ok(NetlinkAddress { port, groups });
        }
        // Longs, least significant bit first: on this machine the same as bytes.
        let bytes = space.bytes(bitmap, usize::try_from(count.div_ceil(8)).unwrap_or(0))?;
        groups.extend((1..=count).zip(0..).filter_map(|(group, bit): (u32, usize)| {
            (bytes.get(bit / 8)? >> (bit % 8) & 1 == 1).then_some(group)
        }));
    }
    Ok(NetlinkAddress { port, groups })
}

/// Names of `ss` for netlink protocols (include/uapi/linux/netlink.h).
pub(crate) fn protocol(number: u16) -> Text {
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
        other => return other.to_string().into(),
    }
    .into()
}
