//! Sockets without ports, which IP hands all packets of a protocol to: raw sockets, and the ``ping`` sockets of ICMP.

use super::layout::Resolver;
use super::list::{self, HashTable};
use super::net::socks_of_nodes;
use crate::session::{Session, member};
use facts::ProblemKind;
use guest_profiles::FieldKind;
use vmi_core::{Gva, ReadError};

/// Bytes of a bucket: ``struct hlist_head`` or ``struct hlist_nulls_head``, one pointer either way.
const BUCKET: u64 = 8;

/// Where an array of buckets is in its table: bytes, and number.
type Buckets = (u64, u64);

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    raw: Buckets,
    /// Whether the kernel has IPv6.
    ipv6: bool,
    /// `None`: no table of this shape.
    ping: Option<Buckets>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let buckets = |resolver: &Resolver<'_>, table: &str, member: &str| {
            let field = resolver.profile().field(table, member).ok()?;
            match field.kind {
                FieldKind::Array { count, .. } => Some((field.offset, count)),
                _ => None,
            }
        };
        let raw = buckets(resolver, "raw_hashinfo", "ht").unwrap_or_else(|| {
            resolver.lacks("raw_hashinfo.ht as an array".to_owned());
            (0, 0)
        });
        Self {
            raw,
            ipv6: resolver.optional("net", "ipv6").is_some(),
            ping: buckets(resolver, "ping_table", "hash"),
        }
    }
}

/// All raw socks. `None`: this kernel's tables are not known.
pub(crate) fn socks(session: &Session<'_>) -> Result<Option<Vec<Gva>>, ReadError> {
    let layout = &session.kernel.layouts().net.raw;
    for (symbol, expected) in [("raw_v4_hashinfo", true), ("raw_v6_hashinfo", layout.ipv6)] {
        if expected && session.kernel.symbol(symbol).is_none() {
            session.problem(ProblemKind::Profile, symbol, "The kernel has no such symbol.");
        }
    }
    of_symbols(session, "raw hash table", &["raw_v4_hashinfo", "raw_v6_hashinfo"], layout.raw)
}

/// All bound ping socks. `None`: this kernel's table is not known.
pub(crate) fn ping_socks(session: &Session<'_>) -> Result<Option<Vec<Gva>>, ReadError> {
    match session.kernel.layouts().net.raw.ping {
        Some(buckets) => of_symbols(session, "ping hash table", &["ping_table"], buckets),
        None => Ok(None),
    }
}

fn of_symbols(
    session: &Session<'_>,
    what: &str,
    symbols: &[&str],
    (offset, count): Buckets,
) -> Result<Option<Vec<Gva>>, ReadError> {
    let mut socks = None;
    for at in symbols.iter().filter_map(|symbol| session.kernel.symbol(symbol)) {
        let table = HashTable { base: member(at, offset)?, count, stride: BUCKET, head: 0 };
        let nodes = list::hash_table(session, what, table)?;
        socks.get_or_insert_with(Vec::new).append(&mut socks_of_nodes(session, nodes));
    }
    Ok(socks)
}
