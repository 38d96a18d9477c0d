//! Compares the sockets of a snapshot with the guest's own `/proc/net` and with what `ss` would be told, line by line.

use super::equal::differ;
use facts::{Family, FilterKind, Ownership, Shutdown, Snapshot};
use std::collections::HashMap;
use testkit::Truth;
use testkit::truth::{self, Table};

/// A socket in the words of `/proc/net/*`, for both sides.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    table: Table,
    net_namespace: Option<u32>,
    inode: Option<u64>,
    state: Option<String>,
    local: Option<(String, u16)>,
    remote: Option<(String, u16)>,
    path: Option<String>,
    protocol: Option<String>,
    uid: Option<u32>,
    queues: (Option<u64>, Option<u64>),
    interface: Option<u32>,
    peer: Option<u64>,
    filter: Option<u32>,
    netlink: Option<(u32, Vec<u32>)>,
    processes: Vec<u32>,
    /// With the number of each descriptor.
    descriptors: Vec<(u32, u32)>,
}

/// Tables of modules, whose sockets are found by their holders only where modules have no types: before 5.11.
const OF_MODULES: [Table; 2] = [Table::Sctp, Table::Vsock];

pub fn sockets(truth: &Truth, snapshot: &Snapshot, found: &mut Vec<String>) {
    // Modules have types since 5.11; without them the addresses of vsock, which is one, are not known.
    let modules = !snapshot.kernel.release.starts_with("5.10.");
    let mut guest: Vec<Line> = truth.sockets.iter().map(|socket| guest_line(socket, modules)).collect();
    let mut seen: Vec<Line> = Vec::new();
    for socket in &snapshot.sockets {
        let hashed = socket.views.iter().any(|view| view == "hash_table");
        match table(socket).filter(|table| truth.tables.contains(table)) {
            Some(table) if hashed || !modules && OF_MODULES.contains(&table) => {
                seen.push(seen_line(table, socket, truth))
            }
            None if hashed && socket.family != Family::Xdp => {
                found.push(format!("a socket that belongs in no table of /proc/net: {socket:?}"));
            }
            _ => {}
        }
        views(socket, found);
        group(socket, snapshot, found);
    }
    asked(truth, snapshot, found);
    guest.sort();
    seen.sort();
    for line in guest.iter().filter(|line| seen.binary_search(line).is_err()) {
        found.push(format!("socket of the guest not seen so: {line:?}"));
    }
    for line in seen.iter().filter(|line| guest.binary_search(line).is_err()) {
        found.push(format!("socket seen that the guest does not have so: {line:?}"));
    }
    differ(found, "number of sockets", guest.len(), seen.len());
}

/// In an honest guest no view lacks anything, and whoever says that nobody holds a socket is wrong.
fn views(socket: &facts::Socket, found: &mut Vec<String>) {
    let held =
        matches!(socket.ownership, Some(Ownership::Process | Ownership::IoUring | Ownership::InFlight));
    let by_file = socket.views.iter().any(|view| view == "file_table");
    let unbound = socket.local_port.is_none_or(|port| port == 0) && socket.path.is_none();
    let wrong = !socket.views_missing.is_empty()
        || socket.ownership.is_none()
        || socket.ownership == Some(Ownership::Nobody)
        || (held && socket.processes.is_empty())
        || (by_file && !held)
        // Nothing but descriptors leads to it: then it is bound to nothing, or no table of its kind is known.
        || (socket.views == ["file_table"]
            && matches!(socket.family, Family::Unix | Family::Packet | Family::Xdp))
        || (socket.views == ["file_table"]
            && !unbound
            && matches!(socket.protocol.as_deref(), Some("tcp" | "udp" | "udplite" | "icmp" | "icmpv6")));
    if wrong {
        found.push(format!("views that cannot be: {socket:?}"));
    }
}

/// In guests whose first process is the agent, who has a socket made it, and has not changed its control group since. (systemd makes
/// sockets for others; there `ss` says of which group they are.)
fn group(socket: &facts::Socket, snapshot: &Snapshot, found: &mut Vec<String>) {
    if snapshot.processes.iter().any(|process| process.pid == 1 && process.name == "systemd") {
        return;
    }
    let [pid] = socket.processes.as_slice() else { return };
    let holder = snapshot.processes.iter().find(|process| process.pid == *pid);
    if socket.ownership == Some(Ownership::Process)
        && socket.cgroup != holder.and_then(|holder| holder.cgroup.clone())
    {
        found.push(format!("made in another control group than its process is in: {socket:?}"));
    }
}

/// What only `sock_diag` tells: the cookie, the mark, whether the kernel chose the port, and what is shut down.
fn asked(truth: &Truth, snapshot: &Snapshot, found: &mut Vec<String>) {
    // A connection of MPTCP and its parts of TCP have one inode.
    let key = |table, inode, namespace| Some((table?, inode?, namespace?));
    let seen: HashMap<(Table, u64, u32), &facts::Socket> = snapshot
        .sockets
        .iter()
        .filter_map(|socket| Some((key(table(socket), socket.inode, socket.net_namespace)?, socket)))
        .collect();
    for socket in &truth.sockets {
        // What is not seen at all is told elsewhere.
        let of_inode = |inode| seen.get(&(socket.table, inode, socket.net_namespace));
        let Some(seen) = socket.inode.and_then(of_inode) else { continue };
        if socket.cookie.is_some() && seen.cookie != socket.cookie {
            found.push(format!("not the cookie {:?} that the kernel tells: {seen:?}", socket.cookie));
        }
        if socket.mark.is_some_and(|mark| mark != seen.mark.unwrap_or(0)) {
            found.push(format!("not the mark {:?} that the kernel tells: {seen:?}", socket.mark));
        }
        if socket.autobound.is_some_and(|autobound| autobound != seen.autobound.unwrap_or(false)) {
            found.push(format!("autobound is {:?} for the kernel: {seen:?}", socket.autobound));
        }
        let word = match socket.shutdown {
            None => continue,
            Some(0) => None,
            Some(1) => Some(Shutdown::Receive),
            Some(2) => Some(Shutdown::Send),
            Some(_) => Some(Shutdown::Both),
        };
        if seen.shutdown != word {
            found.push(format!("not shut down as the kernel tells, {word:?}: {seen:?}"));
        }
    }
}

/// ``SS_CONNECTING``, include/uapi/linux/net.h.
const SS_CONNECTING: u8 = 2;

/// Has no ports, but a protocol where others have theirs.
fn is_raw(table: Table) -> bool {
    matches!(table, Table::Raw | Table::Raw6)
}

fn guest_line(socket: &truth::Socket, knows_vsock: bool) -> Line {
    use Table::{Mptcp, Netlink, Packet, Sctp, Unix, Vsock, Xdp};
    let port = |port: u16| if is_raw(socket.table) { 0 } else { port };
    let address =
        |address: Option<std::net::IpAddr>, number: Option<u16>| Some((address?.to_string(), port(number?)));
    let numbers = |[cid, port, ..]: [u32; 4]| (format!("{cid}:{port}"), 0);
    let local = match socket.table {
        // Its addresses are a list that is not read.
        Sctp => socket.local_port.map(|port| (String::new(), port)),
        _ => address(socket.local_address, socket.local_port)
            .or(socket.vsock.filter(|_| knows_vsock).map(numbers)),
    };
    Line {
        table: socket.table,
        net_namespace: Some(socket.net_namespace),
        inode: socket.inode,
        // /proc/net has no such column for these.
        state: match (socket.table, socket.state_code) {
            (Packet | Netlink | Xdp, _) => None,
            // A connection that was not accepted yet has no file, and /proc calls that SS_CONNECTING; its own state, and
            // what `ss` shows, is established (unix_seq_show() and unix_diag's sk_diag_fill()).
            (Unix, Some(SS_CONNECTING)) => Some("established".to_owned()),
            _ => socket.state.clone(),
        },
        local,
        remote: address(socket.remote_address, socket.remote_port)
            .filter(|_| socket.remote_address.is_some_and(|address| !address.is_unspecified())),
        path: socket.path.as_ref().map(ToString::to_string),
        protocol: match socket.table {
            Packet => socket.protocol.map(|number| format!("{number:#06x}")),
            _ => None,
        },
        // An orphan is printed as root's; its last owner is still known to the kernel.
        uid: socket.uid.filter(|_| socket.inode.is_some()),
        queues: match socket.table {
            Sctp | Mptcp | Vsock | Xdp => (None, None),
            // The netlink socket that asks is gone, and with it its memory; unix and packet sockets without a file are not
            // told apart in the answers of sock_diag.
            Unix | Packet if socket.inode.is_none() => (None, None),
            _ => (socket.receive_queue.map(u64::from), socket.send_queue.map(u64::from)),
        },
        interface: socket.interface.filter(|index| *index != 0),
        peer: socket.peer_inode,
        filter: socket.filter_instructions,
        netlink: socket.netlink_port.zip(socket.netlink_group_numbers.clone()),
        processes: socket.processes.clone(),
        descriptors: socket.descriptors.clone(),
    }
}

fn table(socket: &facts::Socket) -> Option<Table> {
    let v6 = socket.family == Family::Inet6;
    let version = |v4, v6_table| Some(if v6 { v6_table } else { v4 });
    match (socket.family, socket.kind.as_deref(), socket.protocol.as_deref()) {
        (Family::Unix, ..) => Some(Table::Unix),
        (Family::Packet, ..) => Some(Table::Packet),
        (Family::Netlink, ..) => Some(Table::Netlink),
        (Family::Vsock, ..) => Some(Table::Vsock),
        (Family::Xdp, ..) => Some(Table::Xdp),
        (Family::Inet | Family::Inet6, Some("raw"), _) => version(Table::Raw, Table::Raw6),
        (Family::Inet | Family::Inet6, _, Some("tcp")) => version(Table::Tcp, Table::Tcp6),
        (Family::Inet | Family::Inet6, _, Some("udp")) => version(Table::Udp, Table::Udp6),
        (Family::Inet | Family::Inet6, _, Some("udplite")) => version(Table::Udplite, Table::Udplite6),
        (Family::Inet | Family::Inet6, _, Some("icmp" | "icmpv6")) => version(Table::Icmp, Table::Icmp6),
        (Family::Inet | Family::Inet6, _, Some("sctp")) => Some(Table::Sctp),
        (Family::Inet | Family::Inet6, _, Some("mptcp")) => Some(Table::Mptcp),
        _ => None,
    }
}

fn seen_line(table: Table, socket: &facts::Socket, truth: &Truth) -> Line {
    use Table::{Mptcp, Netlink, Packet, Sctp, Unix, Vsock, Xdp};
    let port = |port: u16| if is_raw(table) { 0 } else { port };
    let address =
        |address: Option<std::net::IpAddr>, number: Option<u16>| Some((address?.to_string(), port(number?)));
    let word = socket.state.map(|state| serde_json::to_value(state).unwrap().as_str().unwrap().to_owned());
    // Where the guest could not be asked, there is nothing to compare with.
    let asked = |module: &str| truth.modules.iter().any(|known| known.name == module);
    let listens = word.as_deref() == Some("listen");
    let internet = !matches!(table, Packet | Netlink | Unix | Sctp | Mptcp | Vsock | Xdp);
    let queues = match table {
        Sctp | Mptcp | Vsock | Xdp => (None, None),
        Unix if socket.inode.is_none() || !asked("unix_diag") => (None, None),
        Packet if socket.inode.is_none() => (None, None),
        Packet if !asked("af_packet_diag") => (socket.receive_queue, None),
        _ if internet && listens && !asked("tcp_diag") => (socket.receive_queue, None),
        _ => (socket.receive_queue, socket.send_queue),
    };
    let tells_interface = match table {
        Packet => true,
        Table::Icmp | Table::Icmp6 => false,
        _ => internet && socket.inode.is_some() && asked("tcp_diag"),
    };
    Line {
        table,
        net_namespace: socket.net_namespace,
        inode: socket.inode,
        local: match table {
            Sctp => socket.local_port.map(|port| (String::new(), port)),
            Vsock => socket.vsock_local.as_ref().map(|local| (format!("{}:{}", local.cid, local.port), 0)),
            _ => address(socket.local_address, socket.local_port),
        },
        remote: address(socket.remote_address, socket.remote_port),
        path: socket.path.as_ref().map(ToString::to_string),
        protocol: socket.protocol.as_ref().filter(|_| table == Packet).map(ToString::to_string),
        uid: socket.uid.filter(|_| socket.inode.is_some() && !matches!(table, Unix | Netlink | Vsock | Xdp)),
        queues,
        interface: socket.interface.as_ref().map(|interface| interface.index).filter(|_| tells_interface),
        peer: match &socket.peer {
            Some(peer) if table == Unix && socket.inode.is_some() && asked("unix_diag") => peer.inode,
            _ => None,
        },
        // sock_diag shows the instructions of a classic filter only, and of packet sockets only.
        filter: match &socket.filter {
            Some(filter)
                if filter.kind == FilterKind::Classic && table == Packet && asked("af_packet_diag") =>
            {
                filter.instructions
            }
            _ => None,
        },
        netlink: match &socket.netlink {
            Some(netlink) if asked("netlink_diag") && socket.inode.is_some() => {
                Some((netlink.port, netlink.groups.clone()))
            }
            _ => None,
        },
        state: word.filter(|_| !matches!(table, Packet | Netlink | Xdp)),
        // /proc/PID/fd does not show what is held in other ways.
        processes: match socket.ownership {
            Some(Ownership::IoUring | Ownership::InFlight) => Vec::new(),
            _ => socket.processes.to_vec(),
        },
        descriptors: socket.descriptors.iter().map(|descriptor| (descriptor.pid, descriptor.fd)).collect(),
    }
}
