//! UDP and UDP-Lite: ``struct udp_table``.
//!
//! Every bound socket is in two of its tables: by its port in ``hash``, which is what `/proc/net/udp` and `ss` go through, and by
//! port and address in ``hash2``, which is where an incoming packet's socket is looked up. So a socket that is taken off the
//! first one is hidden, and still gets its packets. The size of a bucket changed in 6.13, so it is the size of what a table
//! points at, as the type information has it.

use super::layout::Resolver;
use super::list::{self, HashTable};
use super::net::{add_table, pointer};
use crate::session::{Session, member};
use facts::ProblemKind;
use guest_profiles::FieldKind;
use vmi_core::{Gva, ReadError};

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// ``net->ipv4.udp_table``, since 6.2.
    of_namespace: Option<u64>,
    by_port: Buckets,
    by_address: Buckets,
    mask: u64,
    head: u64,
}

/// A table in ``struct udp_table``: its pointer, the bytes of a bucket, and where in a ``struct sock`` its chains go through.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    table: u64,
    stride: u64,
    node: u64,
}

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    Port,
    Address,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let mut buckets = |table: &str, node: &str| {
            let stride = match resolver.profile().field("udp_table", table).map(|field| field.kind) {
                Ok(FieldKind::Pointer { target_size: Some(size), .. }) => size,
                _ => {
                    resolver.lacks(format!("udp_table.{table} as a pointer to buckets"));
                    0
                }
            };
            Buckets {
                table: resolver.offset("udp_table", table),
                stride,
                node: resolver.offset("sock_common", node),
            }
        };
        let by_port = buckets("hash", "skc_node");
        let by_address = buckets("hash2", "skc_portaddr_node");
        Self {
            of_namespace: resolver.optional("net", "ipv4.udp_table"),
            by_port,
            by_address,
            mask: resolver.offset("udp_table", "mask"),
            head: resolver.offset("udp_hslot", "head"),
        }
    }
}

/// All bound UDP and UDP-Lite socks of all namespaces, as one of their tables has them. `None`: this kernel's tables are not
/// known.
pub(super) fn socks(
    session: &Session<'_>,
    namespaces: &[Gva],
    index: Index,
) -> Result<Option<Vec<Gva>>, ReadError> {
    let layout = &session.kernel.layouts().net.udp;
    let buckets = match index {
        Index::Port => layout.by_port,
        Index::Address => layout.by_address,
    };
    let mut tables = Vec::new();
    for symbol in ["udp_table", "udplite_table"] {
        if let Some(at) = session.kernel.symbol(symbol) {
            add_table(session, "udp_table", at, &mut tables, table(session, at, buckets))?;
        }
    }
    if let Some(offset) = layout.of_namespace {
        for namespace in namespaces {
            let of_namespace = pointer(session, *namespace, offset)
                .and_then(|at| if at.is_null() { Ok(None) } else { table(session, at, buckets) });
            add_table(session, "net", *namespace, &mut tables, of_namespace)?;
        }
    }
    if tables.is_empty() && index == Index::Port {
        session.problem(
            ProblemKind::Profile,
            "udp_table",
            "Neither a symbol nor a network namespace leads to the table of UDP sockets.",
        );
    }
    let known = !tables.is_empty();
    let mut socks = Vec::new();
    for table in tables {
        let nodes = list::hash_table(session, "UDP hash table", table)?;
        socks.extend(nodes.into_iter().filter_map(|node| node.checked_sub(buckets.node)));
    }
    Ok(known.then_some(socks))
}

/// A table of the ``struct udp_table`` at `at`. `None` before it was set up.
fn table(session: &Session<'_>, at: Gva, buckets: Buckets) -> Result<Option<HashTable>, ReadError> {
    let layout = &session.kernel.layouts().net.udp;
    let base = pointer(session, at, buckets.table)?;
    let mask = session.space.u32(member(at, layout.mask)?)?;
    Ok((!base.is_null()).then(|| HashTable {
        base,
        count: u64::from(mask).saturating_add(1),
        stride: buckets.stride,
        head: layout.head,
    }))
}
