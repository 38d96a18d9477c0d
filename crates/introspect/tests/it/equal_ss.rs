//! Compares the sockets of a snapshot with what `ss -tuxanpe` prints in the guest, in each of its network namespaces, line by
//! line and column by column.

use crate::equal::differ;
use facts::{Family, Ownership, Shutdown, Snapshot, Socket, SocketState};
use std::collections::{BTreeMap, BTreeSet};
use testkit::{Guest, debian};

/// One line of `ss`, in its own words, for both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    net_namespace: u32,
    netid: String,
    state: String,
    queues: (String, String),
    local: String,
    peer: String,
    /// Names, pids, and numbers of descriptors.
    users: BTreeSet<(String, u32, u32)>,
    /// `ss` leaves root out, and does not say it of unix sockets.
    uid: u32,
    inode: u64,
    /// `ss` does not ask for those of unix sockets.
    cookie: Option<u64>,
    /// Of what it sends, as `ss` prints it.
    mark: Option<String>,
    /// In which group it was made, as far as `ss` prints that.
    cgroup: Option<String>,
    /// Which directions are open.
    arrow: Option<String>,
}

impl Line {
    /// Whether `ss` told all that it tells of a socket, and not of the root group.
    pub fn is_told_whole(&self) -> bool {
        self.cookie.is_some()
            && !self.users.is_empty()
            && self.cgroup.as_ref().is_some_and(|path| path != "/")
    }

    /// Whether it marks what it sends.
    pub fn is_marked(&self) -> bool {
        self.mark.is_some()
    }

    /// Whether it is shut down in some direction.
    pub fn is_shut(&self) -> bool {
        self.arrow.as_ref().is_some_and(|arrow| arrow != "<->")
    }
}

const ARROWS: [&str; 4] = ["<->", "-->", "<--", "---"];

/// What `ss` prints in each network namespace of the snapshot.
pub fn lines(guest: &Guest, snapshot: &Snapshot) -> Vec<Line> {
    let mut namespaces = BTreeMap::new();
    for process in &snapshot.processes {
        if let Some(namespace) = process.namespaces.net {
            namespaces.entry(namespace).or_insert(process.pid);
        }
    }
    let mut lines = Vec::new();
    for (namespace, pid) in namespaces {
        let script = format!("nsenter --net=/proc/{pid}/ns/net ss -HOtuxanpe");
        for line in debian::succeed(guest, &script).unwrap().lines() {
            lines.push(parse(namespace, line).unwrap_or_else(|| panic!("not a line of ss: {line}")));
        }
    }
    lines.sort();
    lines
}

fn parse(net_namespace: u32, line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let unix = words.first()?.starts_with("u_");
    // Unix sockets have path and inode number, others an address.
    let (local, peer, rest) = match unix {
        true => (words.get(4)?, words.get(7)?, words.get(8..)?),
        false => (words.get(4)?, words.get(5)?, words.get(6..)?),
    };
    let field = |name: &str| rest.iter().find_map(|word| word.strip_prefix(name));
    let number = |name: &str| field(name).map_or(Some(0), |word| word.parse().ok());
    let users = line.split_once("users:((").map_or("", |(_, users)| users);
    let users = users.split_once("))").map_or("", |(users, _)| users);
    let user = |user: &str| {
        let (name, rest) = user.trim_start_matches('"').split_once("\",pid=")?;
        let (pid, fd) = rest.split_once(",fd=")?;
        Some((name.to_owned(), pid.parse().ok()?, fd.parse().ok()?))
    };
    Some(Line {
        net_namespace,
        netid: words[0].to_owned(),
        state: words.get(1)?.to_lowercase(),
        queues: (words.get(2)?.to_string(), words.get(3)?.to_string()),
        local: address(local),
        peer: address(peer),
        users: users.split("),(").filter(|text| !text.is_empty()).map(user).collect::<Option<_>>()?,
        uid: if unix { 0 } else { number("uid:")? },
        inode: if unix { words.get(5)?.parse().ok()? } else { number("ino:")?.into() },
        cookie: field("sk:").map(|word| u64::from_str_radix(word, 16).ok()).filter(|_| !unix).flatten(),
        mark: field("fwmark:").map(str::to_owned),
        cgroup: field("cgroup:").map(str::to_owned),
        arrow: rest.iter().find(|word| ARROWS.contains(word)).map(|arrow| (*arrow).to_owned()),
    })
}

/// `ss` prints `*` for "any" of both versions of IP, `[::]` where it is of the sixth only; a snapshot does not tell them apart.
fn address(printed: &str) -> String {
    match printed.strip_prefix("*:") {
        Some(port) => format!("[::]:{port}"),
        None => printed.to_owned(),
    }
}

/// Every difference, as a line.
pub fn differences(guest: &[Line], snapshot: &Snapshot) -> Vec<String> {
    let names: BTreeMap<u32, &str> =
        snapshot.processes.iter().map(|process| (process.pid, process.name.as_str())).collect();
    let mut seen: Vec<Line> = snapshot.sockets.iter().filter_map(|socket| rendered(socket, &names)).collect();
    seen.sort();
    let mut found = Vec::new();
    for line in guest.iter().filter(|line| !seen.contains(line)) {
        found.push(format!("ss prints what was not seen so: {line:?}"));
    }
    for line in seen.iter().filter(|line| !guest.contains(line)) {
        found.push(format!("ss does not print so: {line:?}"));
    }
    differ(&mut found, "number of lines of ss", guest.len(), seen.len());
    found
}

/// As `ss` prints it. `None`: not with these options.
fn rendered(socket: &Socket, names: &BTreeMap<u32, &str>) -> Option<Line> {
    let netid = match (socket.family, socket.kind.as_deref(), socket.protocol.as_deref()) {
        (Family::Unix, Some("stream"), _) => "u_str",
        (Family::Unix, Some("dgram"), _) => "u_dgr",
        (Family::Unix, Some("seqpacket"), _) => "u_seq",
        (Family::Inet | Family::Inet6, Some("raw"), _) => return None,
        (Family::Inet | Family::Inet6, _, Some("tcp")) => "tcp",
        (Family::Inet | Family::Inet6, _, Some("udp")) => "udp",
        _ => return None,
    };
    // What is neither bound nor connected is in no table that `ss` is told of.
    if socket.family != Family::Unix && !socket.views.iter().any(|view| view == "hash_table") {
        return None;
    }
    let queue = |queue: Option<u64>| queue.map_or_else(|| "0".to_owned(), |queue| queue.to_string());
    let (local, peer) = match socket.family {
        Family::Unix => (
            socket.path.as_deref().unwrap_or("*").to_owned(),
            socket.peer.as_ref().and_then(|peer| peer.inode).unwrap_or(0).to_string(),
        ),
        _ => ends(socket)?,
    };
    let users = socket.descriptors.iter().map(|descriptor| {
        let name = names.get(&descriptor.pid).unwrap_or(&"?");
        (name.to_string(), descriptor.pid, descriptor.fd)
    });
    let full = !matches!(socket.ownership, Some(Ownership::TimeWait | Ownership::Request));
    let arrow = match socket.shutdown {
        None => "<->",
        Some(Shutdown::Receive) => "-->",
        Some(Shutdown::Send) => "<--",
        Some(Shutdown::Both) => "---",
    };
    Some(Line {
        net_namespace: socket.net_namespace?,
        netid: netid.to_owned(),
        state: state(socket)?.to_owned(),
        queues: (queue(socket.receive_queue), queue(socket.send_queue)),
        local,
        peer,
        users: users.collect(),
        uid: if socket.family == Family::Unix || socket.inode.is_none() { 0 } else { socket.uid? },
        inode: socket.inode.unwrap_or(0),
        cookie: socket.cookie.filter(|_| socket.family != Family::Unix),
        mark: socket.mark.filter(|_| tells_mark(socket)).map(|mark| format!("{mark:#x}")),
        cgroup: socket.cgroup.as_ref().filter(|_| socket.family != Family::Unix).map(ToString::to_string),
        arrow: full.then(|| arrow.to_owned()),
    })
}

fn state(socket: &Socket) -> Option<&'static str> {
    Some(match socket.state? {
        SocketState::Established => "estab",
        SocketState::SynSent => "syn-sent",
        SocketState::SynRecv => "syn-recv",
        SocketState::FinWait1 => "fin-wait-1",
        SocketState::FinWait2 => "fin-wait-2",
        SocketState::TimeWait => "time-wait",
        SocketState::CloseWait => "close-wait",
        SocketState::LastAck => "last-ack",
        SocketState::Listen => "listen",
        SocketState::Closing => "closing",
        SocketState::Close | SocketState::Unconnected => "unconn",
    })
}

fn ends(socket: &Socket) -> Option<(String, String)> {
    let v6 = socket.family == Family::Inet6;
    let interface = socket.interface.as_ref().and_then(|interface| interface.name.as_deref());
    let interface = interface.map(|name| format!("%{name}")).unwrap_or_default();
    let printed = |address: std::net::IpAddr, interface: &str, port: String| match v6 {
        true => format!("[{address}]{interface}:{port}"),
        false => format!("{address}{interface}:{port}"),
    };
    let local = printed(socket.local_address?, &interface, socket.local_port?.to_string());
    let peer = match (socket.remote_address, socket.remote_port) {
        (Some(address), Some(port)) => printed(address, "", port.to_string()),
        _ if v6 => "[::]:*".to_owned(),
        _ => "0.0.0.0:*".to_owned(),
    };
    Some((local, peer))
}

/// Whether `ss` prints a mark: of what is no full socket it only chooses by it.
fn tells_mark(socket: &Socket) -> bool {
    let mini = matches!(socket.ownership, Some(Ownership::TimeWait | Ownership::Request));
    socket.family != Family::Unix && !mini
}
