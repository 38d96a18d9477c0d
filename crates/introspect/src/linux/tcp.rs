//! TCP: ``struct inet_hashinfo`` with its established (``ehash``) and listening (``lhash2``) tables.
//!
//! ``ehash`` also holds time-wait and request socks, which no descriptor leads to. Network namespaces share one set of
//! tables unless they were given their own (6.1).

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
    /// ``net->ipv4.tcp_death_row.hashinfo``; where that is no pointer path, the symbol ``tcp_hashinfo`` is all there is.
    of_namespace: Option<u64>,
    ehash: u64,
    ehash_mask: u64,
    ehash_stride: u64,
    ehash_head: u64,
    listening: Listening,
}

/// Where listeners are.
#[derive(Clone, Debug)]
enum Listening {
    /// ``lhash2``, a pointer with a mask: the only table since 5.19.
    Hash2 { table: u64, mask: u64, stride: u64, head: u64 },
    /// ``listening_hash``, an array in ``struct inet_hashinfo``, before.
    Array { table: u64, count: u64, stride: u64, head: u64 },
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let bucket_head = resolver.first_of("inet_listen_hashbucket", &["nulls_head", "head"]);
        let stride = resolver.size("inet_listen_hashbucket");
        let array = resolver.profile().field("inet_hashinfo", "listening_hash").ok().and_then(|field| {
            match field.kind {
                FieldKind::Array { count, .. } => Some((field.offset, count)),
                _ => None,
            }
        });
        let listening = match array {
            Some((table, count)) => Listening::Array { table, count, stride, head: bucket_head },
            None => Listening::Hash2 {
                table: resolver.offset("inet_hashinfo", "lhash2"),
                mask: resolver.offset("inet_hashinfo", "lhash2_mask"),
                stride,
                head: bucket_head,
            },
        };
        Self {
            of_namespace: resolver.optional("net", "ipv4.tcp_death_row.hashinfo"),
            ehash: resolver.offset("inet_hashinfo", "ehash"),
            ehash_mask: resolver.offset("inet_hashinfo", "ehash_mask"),
            ehash_stride: resolver.size("inet_ehash_bucket"),
            ehash_head: resolver.offset("inet_ehash_bucket", "chain"),
            listening,
        }
    }
}

/// All TCP socks of all namespaces but those that are closed. `None`: this kernel's tables are not known.
pub(crate) fn socks(session: &Session<'_>, namespaces: &[Gva]) -> Result<Option<Vec<Gva>>, ReadError> {
    let layout = &session.kernel.layouts().net.tcp;
    let mut infos: Vec<Gva> = session.kernel.symbol("tcp_hashinfo").into_iter().collect();
    if let Some(offset) = layout.of_namespace {
        for namespace in namespaces {
            let info =
                pointer(session, *namespace, offset).map(|info| Some(info).filter(|info| !info.is_null()));
            add_table(session, "net", *namespace, &mut infos, info)?;
        }
    }
    if infos.is_empty() {
        session.problem(
            ProblemKind::Profile,
            "tcp_hashinfo",
            "Neither a symbol nor a network namespace leads to the tables of TCP sockets.",
        );
    }
    let mut tables = Vec::new();
    for info in infos {
        add_table(session, "inet_hashinfo", info, &mut tables, established(session, info).map(Some))?;
        add_table(session, "inet_hashinfo", info, &mut tables, listening(session, info).map(Some))?;
    }
    let known = !tables.is_empty();
    let mut socks = Vec::new();
    for table in tables {
        let nodes = list::hash_table(session, "TCP hash table", table)?;
        socks.append(&mut socks_of_nodes(session, nodes));
    }
    Ok(known.then_some(socks))
}

fn established(session: &Session<'_>, info: Gva) -> Result<HashTable, ReadError> {
    let layout = &session.kernel.layouts().net.tcp;
    let mask = session.space.u32(member(info, layout.ehash_mask)?)?;
    Ok(HashTable {
        base: pointer(session, info, layout.ehash)?,
        count: u64::from(mask).saturating_add(1),
        stride: layout.ehash_stride,
        head: layout.ehash_head,
    })
}

fn listening(session: &Session<'_>, info: Gva) -> Result<HashTable, ReadError> {
    match session.kernel.layouts().net.tcp.listening {
        Listening::Array { table, count, stride, head } => {
            Ok(HashTable { base: member(info, table)?, count, stride, head })
        }
        Listening::Hash2 { table, mask, stride, head } => {
            let mask = session.space.u32(member(info, mask)?)?;
            Ok(HashTable {
                base: pointer(session, info, table)?,
                count: u64::from(mask).saturating_add(1),
                stride,
                head,
            })
        }
    }
}
