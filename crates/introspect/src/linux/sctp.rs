//! SCTP sockets. The types and tables are a module's in most kernels ([`super::module_layout`]): ``sctp_globals`` (include/net/sctp/structs.h)
//! has three tables of all network namespaces.
//!
//! By port: every socket that is bound. What packets are looked up in: the endpoints of those that listen, and the transports of
//! associations, each of which leads to a socket. `/proc/net/sctp` and `ss` go through the latter two. An association may be on its way
//! in or out, so that it is not there says nothing.

use super::list::{self, HashTable};
use super::net::pointer;
use super::{rhashtable, sock};
use crate::session::{Session, container, member};
use guest_profiles::{FieldKind, Profile};
use std::collections::HashSet;
use vmi_core::{Gva, ReadError};

/// ``IPPROTO_SCTP``, include/uapi/linux/in.h: its place in ``inet_protos``.
const IPPROTO_SCTP: u16 = 132;
/// How often the owners of a port are followed that change meanwhile.
const RETRIES: u32 = 8;
/// Most transports of one address and port.
const DUPLICATES_MAX: usize = 1 << 16;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    ports: Buckets,
    endpoints: Buckets,
    transports: u64,
    bucket_node: u64,
    owner: u64,
    endpoint_node: u64,
    endpoint_sock: u64,
    transport_node: u64,
    association: u64,
    association_sock: u64,
    duplicate: u64,
    /// A module's own ``sctp_globals``, where it is in the running guest.
    globals: Option<Gva>,
}

/// A table in ``sctp_globals``: its pointer and the number of its buckets; and of a bucket the size and where its chain begins.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    table: u64,
    count: u64,
    stride: u64,
    head: u64,
}

impl Layout {
    /// Of a kernel that has SCTP built in: ``sctp_globals`` is among the kernel's own symbols.
    pub(crate) fn built_in(profile: &Profile) -> Option<Self> {
        Self::of(profile).map(|layout| Self { globals: None, ..layout })
    }

    /// Of a module.
    pub(super) fn of(profile: &Profile) -> Option<Self> {
        let offset = |name, member| profile.field(name, member).ok().map(|field| field.offset);
        let buckets = |table, count, bucket| {
            let stride = match profile.field("sctp_globals", table).ok()?.kind {
                FieldKind::Pointer { target_size, .. } => target_size?,
                _ => return None,
            };
            Some(Buckets {
                table: offset("sctp_globals", table)?,
                count: offset("sctp_globals", count)?,
                stride,
                head: offset(bucket, "chain")?,
            })
        };
        Some(Self {
            ports: buckets("port_hashtable", "port_hashsize", "sctp_bind_hashbucket")?,
            endpoints: buckets("ep_hashtable", "ep_hashsize", "sctp_hashbucket")?,
            transports: offset("sctp_globals", "transport_hashtable")?,
            bucket_node: offset("sctp_bind_bucket", "node")?,
            owner: offset("sctp_bind_bucket", "owner")?,
            // Of endpoints only since 6.2.
            endpoint_node: offset("sctp_endpoint", "node")
                .or_else(|| offset("sctp_endpoint", "base.node"))?,
            endpoint_sock: offset("sctp_endpoint", "base.sk")?,
            transport_node: offset("sctp_transport", "node")?,
            association: offset("sctp_transport", "asoc")?,
            association_sock: offset("sctp_association", "base.sk")?,
            duplicate: offset("rhlist_head", "next")?,
            globals: profile.optional_symbol("sctp_globals").map(Gva),
        })
    }
}

/// What the kernel or its module tells, and where ``sctp_globals`` is. `None`: nothing, or there is no SCTP now.
fn layout(session: &Session<'_>) -> Result<Option<(Layout, Gva)>, ReadError> {
    if let Some(layout) = session.kernel.layouts().net.sctp {
        return Ok(session.kernel.symbol("sctp_globals").map(|globals| (layout, globals)));
    }
    let Some(protocols) = session.kernel.symbol("inet_protos") else { return Ok(None) };
    let registered = pointer(session, protocols, u64::from(IPPROTO_SCTP) * 8);
    let registered =
        session.known("inet_protos", protocols, registered)?.filter(|protocol| !protocol.is_null());
    let layout = registered.and_then(|registered| session.kernel.modules().sctp(session, registered));
    Ok(layout.and_then(|layout| Some((layout, layout.globals?))))
}

/// All SCTP socks that are bound. `None`: this kernel's tables are not known, or the module is not loaded.
pub(crate) fn socks(session: &Session<'_>) -> Result<Option<Vec<Gva>>, ReadError> {
    let Some((layout, globals)) = layout(session)? else { return Ok(None) };
    let node_of_sock = session.kernel.layouts().net.sock.bind_node;
    let mut socks = Vec::new();
    for port in table(session, "SCTP port table", globals, layout.ports)? {
        let nodes = owners(session, layout, port)?;
        socks.extend(nodes.into_iter().filter_map(|node| node.checked_sub(node_of_sock)));
    }
    only_sctp(session, socks).map(Some)
}

/// What owns the port whose ``struct sctp_bind_bucket`` has its node at `port`. It is gone with its last owner.
fn owners(session: &Session<'_>, layout: Layout, port: Gva) -> Result<Vec<Gva>, ReadError> {
    let Some(owner) = port.checked_sub(layout.bucket_node).and_then(|port| port.checked_add(layout.owner))
    else {
        return Ok(Vec::new());
    };
    for _ in 0..RETRIES {
        if let Some(nodes) = list::hlist_of_one_walk(session, owner)? {
            return Ok(nodes);
        }
        session.retry();
        match list::is_linked(session, port) {
            Ok(true) => {}
            Err(error) if error.ends_the_look() => return Err(error),
            _ => return Ok(Vec::new()),
        }
    }
    list::hlist(session, "owners of an SCTP port", owner)
}

/// All SCTP socks that packets find. `None`: this kernel's tables are not known, or the module is not loaded.
pub(super) fn addressed(session: &Session<'_>) -> Result<Option<Vec<Gva>>, ReadError> {
    let Some((layout, globals)) = layout(session)? else { return Ok(None) };
    let mut socks = Vec::new();
    let mut retries = RETRIES;
    for node in table(session, "SCTP endpoint table", globals, layout.endpoints)? {
        let read = |socks: &mut Vec<Gva>| of_endpoint(session, layout, node, socks);
        let is_there = || list::is_linked(session, node);
        follow(session, "sctp_endpoint", node, (&mut socks, &mut retries), read, is_there)?;
    }
    if let Some(transports) =
        session.known("SCTP transport table", globals, member(globals, layout.transports))?
    {
        let nodes = || rhashtable::nodes(session, "SCTP transport table", transports);
        let first = session.known("SCTP transport table", globals, nodes())?;
        for node in first.unwrap_or_default() {
            let read = |socks: &mut Vec<Gva>| of_transports(session, layout, node, socks);
            let is_there = || Ok(nodes()?.binary_search(&node).is_ok());
            follow(session, "sctp_transport", node, (&mut socks, &mut retries), read, is_there)?;
        }
    }
    socks.sort_unstable();
    socks.dedup();
    Ok(Some(socks))
}

/// Adds the socks that `read` finds from the `node` of a table. What is taken off its table meanwhile is freed, and leads anywhere: who
/// does so is followed again as long as it is in the table, and told if that does not end, of one look so often.
fn follow(
    session: &Session<'_>,
    what: &str,
    node: Gva,
    (socks, retries): (&mut Vec<Gva>, &mut u32),
    read: impl Fn(&mut Vec<Gva>) -> Result<(), ReadError>,
    is_there: impl Fn() -> Result<bool, ReadError>,
) -> Result<(), ReadError> {
    loop {
        let error = match read(socks) {
            Ok(()) => return Ok(()),
            Err(error) if error.ends_the_look() => return Err(error),
            Err(error) => error,
        };
        if *retries == 0 {
            return session.unreadable(what, node, error);
        }
        *retries -= 1;
        session.retry();
        match is_there() {
            Ok(true) => {}
            Err(error) if error.ends_the_look() => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// Adds the sock of the endpoint whose node is at `node`.
fn of_endpoint(
    session: &Session<'_>,
    layout: Layout,
    node: Gva,
    socks: &mut Vec<Gva>,
) -> Result<(), ReadError> {
    let endpoint = container(node, layout.endpoint_node)?;
    add(session, pointer(session, endpoint, layout.endpoint_sock)?, socks)
}

/// Adds the socks of the transports of one key, the first of which has its ``struct rhlist_head`` at `node`.
fn of_transports(
    session: &Session<'_>,
    layout: Layout,
    node: Gva,
    socks: &mut Vec<Gva>,
) -> Result<(), ReadError> {
    let mut seen = HashSet::new();
    let mut at = node;
    // A node that is taken away meanwhile leads to where it led.
    while !at.is_null() && seen.len() < DUPLICATES_MAX && seen.insert(at) {
        let transport = container(at, layout.transport_node)?;
        let association = pointer(session, transport, layout.association)?;
        add(session, pointer(session, association, layout.association_sock)?, socks)?;
        at = pointer(session, at, layout.duplicate)?;
    }
    Ok(())
}

/// Adds `sk` if it is one of SCTP's.
fn add(session: &Session<'_>, sk: Gva, socks: &mut Vec<Gva>) -> Result<(), ReadError> {
    if sock::protocol_of(session, sk)? == IPPROTO_SCTP {
        socks.push(sk);
    }
    Ok(())
}

/// Those of `socks` that are SCTP's: what leads to one may be something else by the time that it is read.
fn only_sctp(session: &Session<'_>, mut socks: Vec<Gva>) -> Result<Vec<Gva>, ReadError> {
    let protocols = session.each(&socks, &[|session, sk, ()| sock::expect_protocol(session, sk)], |sk| {
        session.known("sock", sk, sock::protocol_of(session, sk))
    })?;
    let mut protocols = protocols.into_iter();
    socks.retain(|_| protocols.next().flatten() == Some(IPPROTO_SCTP));
    Ok(socks)
}

/// Nodes of all chains of a table in the ``sctp_globals`` at `globals`.
fn table(session: &Session<'_>, what: &str, globals: Gva, buckets: Buckets) -> Result<Vec<Gva>, ReadError> {
    let read = || {
        let base = pointer(session, globals, buckets.table)?;
        let count = session.space.u32(member(globals, buckets.count)?)?;
        Ok(HashTable { base, count: u64::from(count), stride: buckets.stride, head: buckets.head })
    };
    match session.known(what, globals, read())? {
        Some(table) => list::hash_table(session, what, table),
        None => Ok(Vec::new()),
    }
}
