//! Unix sockets: the table of each network namespace (6.0), or the global one before, and their names.

use super::layout::Resolver;
use super::list::{self, HashTable};
use super::net::{add_table, pointer, socks_of_nodes};
use super::record::Members;
use crate::session::{Session, member};
use facts::{ProblemKind, Text};
use vmi_core::{Gva, ReadError};

/// ``UNIX_HASH_SIZE``, include/net/af_unix.h: 256 buckets for names and 256 for sockets without one.
const BUCKETS: u64 = 512;
/// Bytes of ``struct hlist_head``.
const BUCKET: u64 = 8;
/// ``offsetof(struct sockaddr_un, sun_path)``: behind the family.
const SUN_PATH: u32 = 2;
/// ``sizeof(struct sockaddr_un)``; no address is longer.
const SOCKADDR_MAX: u32 = 110;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// ``net->unx.table.buckets``, since 6.0.
    of_namespace: Option<u64>,
    peer: u64,
    address: u64,
    /// What is read of a ``struct unix_sock``.
    members: Members,
    address_len: u64,
    address_name: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let peer = resolver.offset("unix_sock", "peer");
        let address = resolver.offset("unix_sock", "addr");
        Self {
            of_namespace: resolver.optional("net", "unx.table.buckets"),
            peer,
            address,
            members: Members::at([peer, address]),
            address_len: resolver.offset("unix_address", "len"),
            address_name: resolver.offset("unix_address", "name"),
        }
    }
}

/// All unix socks of all namespaces. `None`: this kernel's tables are not known.
pub(crate) fn socks(session: &Session<'_>, namespaces: &[Gva]) -> Result<Option<Vec<Gva>>, ReadError> {
    let layout = &session.kernel.layouts().net.unix;
    let table = |base: Gva| HashTable { base, count: BUCKETS, stride: BUCKET, head: 0 };
    let mut tables: Vec<HashTable> =
        session.kernel.symbol("unix_socket_table").map(table).into_iter().collect();
    if let Some(offset) = layout.of_namespace {
        for namespace in namespaces {
            let buckets = pointer(session, *namespace, offset)
                .map(|buckets| if buckets.is_null() { None } else { Some(table(buckets)) });
            add_table(session, "net", *namespace, &mut tables, buckets)?;
        }
    }
    if tables.is_empty() {
        session.problem(
            ProblemKind::Profile,
            "unix_socket_table",
            "Neither a symbol nor a network namespace leads to the table of unix sockets: only those that a process has \
             open are known.",
        );
    }
    let known = !tables.is_empty();
    let mut socks = Vec::new();
    for table in tables {
        let nodes = list::hash_table(session, "unix hash table", table)?;
        socks.append(&mut socks_of_nodes(session, nodes));
    }
    Ok(known.then_some(socks))
}

/// Has fetched what [`peer`] and [`path`] read of the ``struct sock *`` at `sk`.
pub(super) fn expect(session: &Session<'_>, sk: Gva) {
    session.kernel.layouts().net.unix.members.expect(session, sk);
}

/// ``struct sock *`` of the socket that the one at `sk` is connected to.
pub(super) fn peer(session: &Session<'_>, sk: Gva) -> Result<Option<Gva>, ReadError> {
    let peer = pointer(session, sk, session.kernel.layouts().net.unix.peer)?;
    Ok(Some(peer).filter(|peer| !peer.is_null()))
}

/// The name a ``struct unix_sock`` is bound to, `@…` for the abstract namespace, NULs in it shown as `@` as
/// `/proc/net/unix` does. `None`: not bound.
pub(crate) fn path(session: &Session<'_>, sk: Gva) -> Result<Option<Text>, ReadError> {
    let layout = &session.kernel.layouts().net.unix;
    let space = &session.space;
    let address = pointer(session, sk, layout.address)?;
    if address.is_null() {
        return Ok(None);
    }
    // ``int len``: of the whole sockaddr.
    let len = space.u32(member(address, layout.address_len)?)?;
    if !(SUN_PATH..=SOCKADDR_MAX).contains(&len) {
        return Ok(None);
    }
    let at = member(address, layout.address_name.saturating_add(u64::from(SUN_PATH)))?;
    let mut name = [0; SOCKADDR_MAX as usize];
    let name = name.get_mut(..usize::try_from(len - SUN_PATH).unwrap_or(0)).unwrap_or_default();
    space.read(at, name)?;
    let text = match name.first_mut() {
        None => return Ok(None),
        Some(abstract_name @ 0) => {
            *abstract_name = b'@';
            name.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'@');
            name
        }
        Some(_) => {
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            name.get_mut(..end).unwrap_or_default()
        }
    };
    Ok(Some(String::from_utf8_lossy(text).into()))
}
