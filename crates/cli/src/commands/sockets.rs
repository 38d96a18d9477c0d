//! `sockets`: the sockets of a guest and who holds them, chosen as with `ss`.
//!
//! Which sockets are shown is decided in [`super::socket_filter`]; here they become rows. The same rows are part of
//! `snapshot`.

use super::tables::{NOTHING, look, tell};
use super::words;
use crate::Outcome;
use crate::args::SocketsArgs;
use crate::output::{Cell, Output, Paint, Table};
use facts::{Family, FilterKind, Ownership, Process, Rows, Socket, Text, VsockAddress};
use introspect::Tables;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What an address of IPv4 with its port needs, but for the longest few.
const ADDRESS_WIDTH: usize = 15;

pub(crate) fn sockets(args: &SocketsArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let selection = args.choice.selection().map_err(anyhow::Error::msg)?;
    let mut snapshot = look(&args.target, Tables { sockets: true, ..NOTHING })?;
    let read = snapshot.sockets.len();
    let names = names(&snapshot.processes);
    snapshot.sockets.retain(|socket| selection.shows(socket, &names));
    if out.json {
        out.json(&snapshot.sockets)?;
    } else {
        out.table(&table(&snapshot.sockets, &snapshot.processes, args.choice.extended))?;
    }
    tell(&args.target.target, &snapshot, attest::Table::Sockets, read)
}

/// Names of processes by pid.
fn names(processes: &[Process]) -> BTreeMap<u32, String> {
    processes.iter().map(|process| (process.pid, process.name.to_string())).collect()
}

/// The sockets as rows, `extended` with what `ss -e` adds.
pub(super) fn table(sockets: &Rows<Socket>, processes: &[Process], extended: bool) -> Table {
    let names = names(processes);
    let mut titles =
        vec!["PROTO", "STATE", ">RECV-Q", ">SEND-Q", "LOCAL", "REMOTE", ">NETNS", "PROCESSES", "NOTES"];
    if extended {
        titles.extend([">UID", ">INODE", "COOKIE", "CGROUP"]);
    }
    // An address without its port says little, nor does the beginning of a path.
    let mut table =
        Table::new(&titles).ending(&["LOCAL", "REMOTE"], ADDRESS_WIDTH).spare(&["RECV-Q", "SEND-Q", "NETNS"]);
    for socket in sockets {
        let holders: Vec<String> = socket
            .processes
            .iter()
            .map(|pid| names.get(pid).map_or_else(|| pid.to_string(), |name| format!("{name}({pid})")))
            .collect();
        let (local, remote) = ends(socket);
        let hides = if socket.views_missing.is_empty() { Paint::Plain } else { Paint::Red };
        let mut row = vec![
            Cell::new(protocol(socket)).paint(hides),
            Cell::known(socket.state.as_ref().map(words::serde_name)),
            Cell::some(socket.receive_queue),
            Cell::some(socket.send_queue),
            local,
            remote,
            Cell::known(socket.net_namespace),
            if holders.is_empty() { Cell::new("-") } else { Cell::new(holders.join(",")) },
            notes(socket),
        ];
        if extended {
            row.extend([
                Cell::known(socket.uid),
                Cell::some(socket.inode),
                Cell::some(socket.cookie.map(|cookie| format!("{cookie:x}"))),
                Cell::some(socket.cgroup.as_ref()),
            ]);
        }
        table.row(row);
    }
    table
}

/// `tcp`, `tcp6`, `unix/stream`, `netlink/route`, `packet/0x0003`, …
pub(super) fn protocol(socket: &Socket) -> String {
    let protocol = socket.protocol.as_deref();
    let family = || words::serde_name(&socket.family);
    match socket.family {
        // `icmpv6` says it already.
        Family::Inet6 if protocol == Some("icmpv6") => "icmpv6".to_owned(),
        Family::Inet => protocol.unwrap_or("inet").to_owned(),
        Family::Inet6 => format!("{}6", protocol.unwrap_or("inet")),
        Family::Other => format!("family-{}", socket.protocol_family),
        Family::Unix => format!("unix/{}", socket.kind.as_deref().unwrap_or("?")),
        Family::Vsock => format!("vsock/{}", socket.kind.as_deref().unwrap_or("?")),
        _ => protocol.map_or_else(family, |protocol| format!("{}/{protocol}", family())),
    }
}

/// Local and remote end: address and port where there are, else a path, an inode, or whatever the family has.
fn ends(socket: &Socket) -> (Cell, Cell) {
    let end = |address: Option<IpAddr>, port: Option<u16>| {
        let port = port.map_or_else(|| "*".to_owned(), |port| port.to_string());
        Cell::some(address.map(|address| match address {
            IpAddr::V4(address) => format!("{address}:{port}"),
            IpAddr::V6(address) => format!("[{address}]:{port}"),
        }))
    };
    let inode = |inode: Option<u64>| inode.map(|inode| format!("inode {inode}"));
    let vsock = |address: Option<&VsockAddress>| {
        let any = |number: u32| if number == u32::MAX { "*".to_owned() } else { number.to_string() };
        Cell::known(address.map(|address| format!("{}:{}", any(address.cid), any(address.port))))
    };
    match socket.family {
        Family::Inet | Family::Inet6 => {
            (end(socket.local_address, socket.local_port), end(socket.remote_address, socket.remote_port))
        }
        Family::Unix => (
            Cell::some(socket.path.as_ref().map(Text::to_string).or_else(|| inode(socket.inode))),
            Cell::some(socket.peer.as_ref().and_then(|peer| inode(peer.inode))),
        ),
        Family::Netlink => (
            Cell::some(socket.netlink.as_ref().map(|netlink| format!("port {}", netlink.port))),
            Cell::new("-"),
        ),
        Family::Vsock => (vsock(socket.vsock_local.as_ref()), vsock(socket.vsock_remote.as_ref())),
        _ => (Cell::new("-"), Cell::new("-")),
    }
}

/// What is special about a socket. That it hides comes first.
fn notes(socket: &Socket) -> Cell {
    let mut notes = Vec::new();
    if !socket.views_missing.is_empty() {
        notes.push(format!("HIDDEN from {}", socket.views_missing.join(" and ")));
    }
    let ownership = match socket.ownership {
        None => Some("holder unknown"),
        Some(Ownership::Process | Ownership::TimeWait | Ownership::Request | Ownership::Nobody) => None,
        Some(Ownership::IoUring) => Some("registered with an io_uring"),
        Some(Ownership::InFlight) => Some("on its way in a unix socket"),
        Some(Ownership::Mapping) => Some("held by a mapping"),
        Some(Ownership::Kernel) => Some("the kernel's"),
        Some(Ownership::Pending) => Some("not accepted yet"),
        Some(Ownership::Orphan) => Some("closed by its process"),
    };
    notes.extend(ownership.map(str::to_owned));
    if let Some(interface) = &socket.interface {
        let name = interface.name.clone().unwrap_or_else(|| format!("interface {}", interface.index));
        notes.push(format!("on {name}"));
    }
    notes.extend(socket.mark.map(|mark| format!("mark {mark:#x}")));
    if let Some(filter) = &socket.filter {
        notes.push(match (filter.kind, filter.instructions, filter.program) {
            (FilterKind::Classic, Some(count), _) => format!("filter of {count} instructions"),
            (FilterKind::Classic, None, _) => "filter".to_owned(),
            (FilterKind::Ebpf, _, Some(id)) => format!("filter program {id}"),
            (FilterKind::Ebpf, ..) => "filter program".to_owned(),
        });
    }
    if let Some(netlink) = socket.netlink.as_ref().filter(|netlink| !netlink.groups.is_empty()) {
        let groups: Vec<String> = netlink.groups.iter().map(u32::to_string).collect();
        notes.push(format!("groups {}", groups.join(",")));
    }
    let cell = Cell::new(if notes.is_empty() { "-".to_owned() } else { notes.join(", ") });
    if socket.views_missing.is_empty() { cell } else { cell.paint(Paint::Red) }
}
