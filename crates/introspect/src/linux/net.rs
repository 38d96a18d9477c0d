//! Sockets of all families and network namespaces, from two independent views.
//!
//! *file_table*: what the descriptors of processes lead to, which also says who owns a socket. *hash_table*: where the
//! protocols keep their sockets to find them for incoming packets. A socket that only the second knows has no owner any
//! more (time-wait, a request, a closing connection) or never had one (the kernel's own); one that only the first knows
//! is not bound to anything yet.

use super::layout::Resolver;
use super::task::Seen;
use super::{file, list, namespace, netlink, raw, sock, tcp, udp, unix};
use crate::session::{Session, member};
use facts::{ProblemKind, Socket};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use vmi_core::{Gva, ReadError};

/// Names of the views in [`Socket::views`].
const FILE_TABLE: &str = "file_table";
const HASH_TABLE: &str = "hash_table";
/// Most sockets of one look.
const SOCKETS_MAX: usize = 4 << 20;

/// Offsets in bytes, for this file and all families.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    list: u64,
    ns: u64,
    pub(super) sock: sock::Layout,
    pub(super) tcp: tcp::Layout,
    pub(super) udp: udp::Layout,
    pub(super) raw: raw::Layout,
    pub(super) unix: unix::Layout,
    pub(super) netlink: netlink::Layout,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            list: resolver.offset("net", "list"),
            ns: resolver.offset("net", "ns"),
            sock: sock::Layout::resolve(resolver),
            tcp: tcp::Layout::resolve(resolver),
            udp: udp::Layout::resolve(resolver),
            raw: raw::Layout::resolve(resolver),
            unix: unix::Layout::resolve(resolver),
            netlink: netlink::Layout::resolve(resolver),
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    in_files: bool,
    in_hash: bool,
    owners: BTreeSet<u32>,
}

/// Adds all sockets of the guest whose processes are `processes`.
pub(crate) fn sockets(
    session: &Session<'_>,
    processes: &[Seen],
    sockets: &mut Vec<Socket>,
) -> Result<(), ReadError> {
    let mut entries: BTreeMap<Gva, Entry> = BTreeMap::new();

    let mut files = file::SocketFiles::default();
    for process in processes {
        for sk in files.socks(session, process.files)? {
            let entry = entries.entry(sk).or_default();
            entry.in_files = true;
            entry.owners.insert(process.facts.pid);
        }
    }

    let namespaces = namespaces(session)?;
    let mut hashed = tcp::socks(session, &namespaces)?;
    hashed.append(&mut udp::socks(session, &namespaces)?);
    hashed.append(&mut raw::socks(session, &namespaces)?);
    hashed.append(&mut unix::socks(session, &namespaces)?);
    hashed.append(&mut netlink::socks(session)?);
    for sk in hashed {
        entries.entry(sk).or_default().in_hash = true;
    }
    if entries.len() > SOCKETS_MAX {
        session.problem(
            ProblemKind::Budget,
            "sockets",
            format_args!("The guest has {}, of which {SOCKETS_MAX} are listed.", entries.len()),
        );
    }

    let mut inodes: HashMap<Gva, Option<u32>> = HashMap::new();
    for (sk, entry) in entries.into_iter().take(SOCKETS_MAX) {
        let read = match sock::read(session, sk) {
            Ok(Some(read)) => read,
            Ok(None) => {
                session.torn();
                continue;
            }
            Err(error) => {
                session.unreadable("sock", sk, error)?;
                continue;
            }
        };
        let mut socket = read.facts;
        socket.net_namespace = match inodes.get(&read.net) {
            Some(known) => *known,
            None => {
                let inode = namespace::inode(session, read.net, session.kernel.layouts().net.ns)?;
                inodes.insert(read.net, inode);
                inode
            }
        };
        socket.processes = entry.owners.into_iter().collect();
        socket.views = [(entry.in_files, FILE_TABLE), (entry.in_hash, HASH_TABLE)]
            .into_iter()
            .filter(|(seen, _)| *seen)
            .map(|(_, view)| view.to_owned())
            .collect();
        sockets.push(socket);
    }
    Ok(())
}

/// The order of the table: by namespace, family, protocol and address; stable for the same guest.
pub(crate) fn order(socket: &Socket) -> impl Ord + '_ {
    (
        socket.net_namespace,
        socket.protocol_family,
        &socket.protocol,
        socket.local_address,
        socket.local_port,
        socket.remote_address,
        socket.remote_port,
        &socket.path,
        socket.inode,
        socket.sock,
    )
}

/// ``struct net *`` of all network namespaces (``net_namespace_list``).
fn namespaces(session: &Session<'_>) -> Result<Vec<Gva>, ReadError> {
    let Some(head) = session.kernel.symbol("net_namespace_list") else {
        session.problem(ProblemKind::Profile, "net_namespace_list", "The kernel has no such symbol.");
        return Ok(Vec::new());
    };
    let offset = session.kernel.layouts().net.list;
    let nodes = list::list(session, "network namespace list", head)?;
    if nodes.is_empty() {
        session.problem(
            ProblemKind::Inconsistent,
            format_args!("network namespace list {head}"),
            "It has no namespace: a running Linux has at least one.",
        );
    }
    Ok(nodes.into_iter().filter_map(|node| node.checked_sub(offset)).collect())
}

/// ``struct sock *`` of hash chain nodes (``sk_node``, ``sk_nulls_node``).
pub(super) fn socks_of_nodes(session: &Session<'_>, nodes: Vec<Gva>) -> Vec<Gva> {
    let offset = session.kernel.layouts().net.sock.node;
    nodes.into_iter().filter_map(|node| node.checked_sub(offset)).collect()
}

/// Adds to `tables` what `read` finds, unless it is known: namespaces share tables.
pub(super) fn add_table<T: PartialEq>(
    session: &Session<'_>,
    what: &str,
    at: Gva,
    tables: &mut Vec<T>,
    read: Result<Option<T>, ReadError>,
) -> Result<(), ReadError> {
    if let Some(table) = session.known(what, at, read)?.flatten()
        && !tables.contains(&table)
    {
        tables.push(table);
    }
    Ok(())
}

/// A pointer member of the object at `at`.
pub(super) fn pointer(session: &Session<'_>, at: Gva, offset: u64) -> Result<Gva, ReadError> {
    session.space.pointer(member(at, offset)?)
}
