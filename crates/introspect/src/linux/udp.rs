//! UDP and UDP-Lite: ``struct udp_table``.
//!
//! Every bound socket is in ``hash``; the other tables index the same sockets. The size of a bucket changed in 6.13, so
//! it is the size of what ``hash`` points at, as the type information has it.

use super::layout::Resolver;
use super::list::{self, HashTable};
use super::net::{add_table, pointer, socks_of_nodes};
use crate::session::{Session, member};
use facts::ProblemKind;
use guest_profiles::FieldKind;
use vmi_core::{Gva, ReadError};

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// ``net->ipv4.udp_table``, since 6.2.
    of_namespace: Option<u64>,
    hash: u64,
    mask: u64,
    stride: u64,
    head: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let stride = match resolver.profile().field("udp_table", "hash").map(|field| field.kind) {
            Ok(FieldKind::Pointer { target_size: Some(size), .. }) => size,
            _ => {
                resolver.lacks("udp_table.hash as a pointer to buckets".to_owned());
                0
            }
        };
        Self {
            of_namespace: resolver.optional("net", "ipv4.udp_table"),
            hash: resolver.offset("udp_table", "hash"),
            mask: resolver.offset("udp_table", "mask"),
            stride,
            head: resolver.offset("udp_hslot", "head"),
        }
    }
}

/// All bound UDP and UDP-Lite socks of all namespaces.
pub(crate) fn socks(session: &Session<'_>, namespaces: &[Gva]) -> Result<Vec<Gva>, ReadError> {
    let layout = &session.kernel.layouts().net.udp;
    let mut tables = Vec::new();
    for symbol in ["udp_table", "udplite_table"] {
        if let Some(at) = session.kernel.symbol(symbol) {
            add_table(session, "udp_table", at, &mut tables, table(session, at))?;
        }
    }
    if let Some(offset) = layout.of_namespace {
        for namespace in namespaces {
            let of_namespace = pointer(session, *namespace, offset)
                .and_then(|at| if at.is_null() { Ok(None) } else { table(session, at) });
            add_table(session, "net", *namespace, &mut tables, of_namespace)?;
        }
    }
    if tables.is_empty() {
        session.problem(
            ProblemKind::Profile,
            "udp_table",
            "Neither a symbol nor a network namespace leads to the table of UDP sockets.",
        );
    }
    let mut socks = Vec::new();
    for table in tables {
        let nodes = list::hash_table(session, "UDP hash table", table)?;
        socks.append(&mut socks_of_nodes(session, nodes));
    }
    Ok(socks)
}

/// The ``struct udp_table`` at `at`. `None` before it was set up.
fn table(session: &Session<'_>, at: Gva) -> Result<Option<HashTable>, ReadError> {
    let layout = &session.kernel.layouts().net.udp;
    let base = pointer(session, at, layout.hash)?;
    let mask = session.space.u32(member(at, layout.mask)?)?;
    Ok((!base.is_null()).then(|| HashTable {
        base,
        count: u64::from(mask).saturating_add(1),
        stride: layout.stride,
        head: layout.head,
    }))
}
