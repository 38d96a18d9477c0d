//! Sockets that a view of the kernel lacks and must have.
//!
//! A snapshot says of each socket which views it should be in ([`Socket::views_missing`]), because that depends on its kind
//! and state. Whatever that is, it needs no certificate: a socket that its protocol does not list is hidden from `ss`, and one
//! that nothing holds is a hidden process's. Must never count what no process need hold; the snapshot has a word for that.

use super::draft::{Cause, Draft, Drafts, cause};
use super::socket::family_text;
use crate::text::{list, shown};
use facts::{Snapshot, Socket, SocketState, Text, VsockAddress, rule};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

pub(super) fn compare(snapshot: &Snapshot, drafts: &mut Drafts<'_>) {
    let mut hidden: BTreeMap<Cause, Vec<&Socket>> = BTreeMap::new();
    for socket in snapshot.sockets.iter().filter(|socket| !socket.views_missing.is_empty()) {
        let (kind, place) = (kind(socket), place(socket));
        // What has no name and no owner, and is not the very same one in the next look, was on its way.
        // Memory is used again at once, inode numbers are not.
        let which =
            [socket.sock.to_string(), socket.inode.map_or_else(String::new, |inode| inode.to_string())];
        let which = if place == NAMELESS && socket.processes.is_empty() { which.as_slice() } else { &[] };
        let parts = [kind.as_str(), &place].into_iter().chain(which.iter().map(String::as_str));
        let parts = parts.chain(socket.views_missing.iter().map(Text::as_str));
        hidden.entry(cause("socket", parts)).or_default().push(socket);
    }
    for (cause, sockets) in hidden {
        let Some(first) = sockets.first() else { continue };
        drafts.add(rule::SOCKET_HIDDEN, &cause, || draft(first, &sockets));
    }
}

fn draft(first: &Socket, sockets: &[&Socket]) -> Draft {
    let (kind, place) = (shown(&kind(first)), shown(&place(first)));
    let missing = list(first.views_missing.iter());
    let pids: BTreeSet<u32> = sockets.iter().flat_map(|socket| socket.processes.iter().copied()).collect();
    let files: BTreeSet<String> =
        sockets.iter().filter_map(|socket| socket.file).map(|file| file.to_string()).collect();
    let seen: BTreeSet<&Text> = sockets.iter().flat_map(|socket| &socket.views).collect();
    let holder = match pids.is_empty() {
        true => "nothing that was seen holds it".to_owned(),
        false => format!("pid {} holds it", list(&pids)),
    };
    let draft = Draft::new(
        format!("socket {kind} {place}"),
        format!("The socket {kind} {place} is missing in {missing}: it is hidden from whoever looks there; {holder}"),
    )
    .expected(format!("in {}", list(seen.iter().copied().chain(&first.views_missing).collect::<BTreeSet<_>>())))
    .seen(format!("in {}", list(seen.iter())))
    .with("socks", list(sockets.iter().map(|socket| socket.sock)))
    .views(seen)
    .missing(&first.views_missing);
    let draft = if files.is_empty() { draft } else { draft.with("files", list(&files)) };
    if pids.is_empty() { draft } else { draft.with("pids", list(&pids)) }
}

/// Place of a socket that has none.
const NAMELESS: &str = "without a name";

/// Family and protocol: `inet tcp`.
fn kind(socket: &Socket) -> String {
    let family = family_text(socket.family);
    match socket.protocol.as_deref() {
        Some(protocol) if protocol != family => format!("{family} {protocol}"),
        _ => family,
    }
}

/// Where it is, in words that another look finds too: a path; the port of one that waits; the peer of a connection, whose own
/// port the kernel chose.
fn place(socket: &Socket) -> String {
    if let Some(path) = &socket.path {
        return path.to_string();
    }
    let vsock = |address: &Option<VsockAddress>| address.clone().filter(|address| address.port != u32::MAX);
    match (vsock(&socket.vsock_local), vsock(&socket.vsock_remote)) {
        (_, Some(peer)) => return format!("to {}:{}", peer.cid, peer.port),
        (Some(own), None) => return own.port.to_string(),
        (None, None) => {}
    }
    let waits = matches!(socket.state, Some(SocketState::Listen | SocketState::Unconnected));
    match (socket.remote_address, socket.remote_port, socket.local_port) {
        (Some(address), Some(port), _) if !waits => format!("to {}", SocketAddr::new(address, port)),
        (.., Some(port)) => port.to_string(),
        _ => NAMELESS.to_owned(),
    }
}
