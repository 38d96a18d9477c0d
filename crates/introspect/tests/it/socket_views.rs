//! Sockets that hide themselves, and sockets that only seem to: on a stopped guest, one view of a socket at a time is taken
//! from the kernel, and the snapshot must say which; held in odd ways, a socket must never be called hidden.
//!
//! Runs in the guests of [`crate::tables`], which have every kind of socket.

use crate::opened::{Opened, PATIENT};
use facts::{Family, FilterKind, Names, Ownership, Snapshot, Socket, SocketState, Text, rule};
use guest_profiles::{Profile, Wanted, WantedType};
use introspect::Options;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use vmi_core::{AddressSpace, Budget, Gva, Look};

/// Where the node of a list or chain is: members of records, from a socket through the pointers in all but the last.
type Node = &'static [(&'static str, &'static str)];

/// A kind of socket of the menagerie.
struct Kind {
    name: &'static str,
    /// What to find one by.
    is_one: fn(&Socket) -> bool,
    /// What it is in its first table by.
    hash: &'static [Node],
    /// What it is in its second table by.
    address: &'static [Node],
    /// Whether a kernel keeps such sockets in a table that is known.
    has: fn(&introspect::Kernel) -> bool,
}

impl Kind {
    const fn new(name: &'static str, is_one: fn(&Socket) -> bool) -> Self {
        Self { name, is_one, hash: &[&[("sock_common", "skc_node")]], address: &[], has: |_| true }
    }
}

const fn some(name: &'static str, members: &'static [&'static str]) -> WantedType {
    WantedType { name, members }
}

const OF_MODULES: Wanted = Wanted {
    types: &[
        some("vsock_sock", &["bound_table", "connected_table"]),
        some("sctp_sock", &["ep"]),
        some("sctp_endpoint", &["node", "base"]),
        some("sctp_ep_common", &["node"]),
    ],
    symbols: &[],
    enums: &[],
};

/// Modules have types since 5.11.
fn modules_have_types(kernel: &introspect::Kernel) -> bool {
    kernel.profile().has("btf_module", "btf")
}

fn has_mptcp(kernel: &introspect::Kernel) -> bool {
    kernel.profile().has("mptcp_sock", "token")
}

fn is(socket: &Socket, protocol: &str, state: SocketState) -> bool {
    socket.protocol.as_deref() == Some(protocol) && socket.state == Some(state)
}

/// What a process made for itself is in the first table too.
fn is_bound(socket: &Socket) -> bool {
    socket.vsock_local.as_ref().is_some_and(|local| local.port != u32::MAX)
}

const BY_ADDRESS: &[Node] = &[&[("sock_common", "skc_portaddr_node")]];
const VSOCK_NODES: &[Node] = &[&[("vsock_sock", "bound_table")], &[("vsock_sock", "connected_table")]];

const KINDS: [Kind; 14] = [
    Kind::new("TCP listener", |socket| socket.local_port == Some(22)),
    Kind::new("TCP connection", |socket| {
        socket.protocol.as_deref() == Some("tcp")
            && socket.receive_queue == Some(1000)
            && socket.remote_port.is_some()
    }),
    Kind {
        address: BY_ADDRESS,
        ..Kind::new("UDP", |socket| {
            socket.protocol.as_deref() == Some("udp") && socket.local_port == Some(123)
        })
    },
    Kind::new("ping", |socket| {
        socket.protocol.as_deref() == Some("icmp") && socket.kind.as_deref() == Some("dgram")
    }),
    Kind::new("raw", |socket| socket.family == Family::Inet && socket.kind.as_deref() == Some("raw")),
    Kind::new("unix", |socket| socket.path.as_deref() == Some("/run/stream.sock")),
    Kind::new("packet", |socket| {
        socket.filter.as_ref().is_some_and(|filter| filter.kind == FilterKind::Classic)
    }),
    Kind::new("XDP", |socket| socket.family == Family::Xdp),
    Kind {
        has: has_mptcp,
        ..Kind::new("MPTCP connection", |socket| is(socket, "mptcp", SocketState::Established))
    },
    Kind {
        has: has_mptcp,
        // The TCP socket that listens for it.
        hash: &[&[("mptcp_sock", "first"), ("sock_common", "skc_node")]],
        ..Kind::new("MPTCP listener", |socket| is(socket, "mptcp", SocketState::Listen))
    },
    Kind {
        has: modules_have_types,
        hash: &[&[("sock_common", "skc_bind_node")]],
        address: &[&[("sctp_sock", "ep"), ("sctp_endpoint", "node|base.node")]],
        ..Kind::new("SCTP listener", |socket| is(socket, "sctp", SocketState::Listen))
    },
    Kind {
        has: modules_have_types,
        hash: VSOCK_NODES,
        ..Kind::new("vsock listener", |socket| is(socket, "vsock", SocketState::Listen))
    },
    Kind {
        has: modules_have_types,
        hash: VSOCK_NODES,
        ..Kind::new("vsock connection", |socket| is(socket, "vsock", SocketState::Established))
    },
    Kind {
        has: modules_have_types,
        hash: VSOCK_NODES,
        ..Kind::new("vsock that is not bound", |socket| {
            is(socket, "vsock", SocketState::Unconnected) && !is_bound(socket)
        })
    },
];

/// A stopped guest whose memory is changed and put back.
pub struct Stopped<'o> {
    pub opened: &'o Opened,
    /// Types of the modules that make sockets.
    modules: OnceCell<Vec<Profile>>,
}

impl<'o> Stopped<'o> {
    pub fn new(opened: &'o Opened) -> Self {
        Self { opened, modules: OnceCell::new() }
    }

    /// Address of a member: the first that there is of those that `paths` names, with bars between.
    pub fn member(&self, object: u64, record: &str, paths: &str) -> u64 {
        let field = |profile: &Profile| paths.split('|').find_map(|path| profile.field(record, path).ok());
        let of_module = || self.modules.get_or_init(|| self.modules()).iter().find_map(field);
        let field = field(self.opened.kernel.profile()).or_else(of_module);
        object + field.unwrap_or_else(|| panic!("{record} has no {paths}")).offset
    }

    fn modules(&self) -> Vec<Profile> {
        let Opened { vm, kernel, .. } = self.opened;
        let profile = |module| kernel.module_profile(&*vm.memory, module, &OF_MODULES, PATIENT).unwrap();
        ["vsock", "sctp"].into_iter().filter_map(profile).collect()
    }

    pub fn physical(&self, at: u64) -> u64 {
        let look = Look::begin(&*self.opened.vm.memory, Budget::default()).unwrap();
        let space = AddressSpace::new(&look, self.opened.kernel.root(), self.opened.kernel.levels());
        space.translate(Gva(at)).unwrap().at.0
    }

    pub fn peek(&self, at: u64) -> u64 {
        let bytes = self.opened.guest.peek_physical(self.physical(at), 8).unwrap();
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    fn poke(&self, at: u64, value: u64) {
        self.opened.guest.poke_physical(self.physical(at), &value.to_le_bytes()).unwrap();
    }

    /// Looks while each of these addresses holds its value.
    pub fn look_with(&self, changes: &[(u64, u64)]) -> Snapshot {
        self.with(changes, || self.opened.snapshot().unwrap())
    }

    /// The same with a search of memory.
    fn search_with(&self, changes: &[(u64, u64)]) -> Snapshot {
        let options = Options { scan: true, ..Options::default() };
        let Opened { vm, kernel, .. } = self.opened;
        self.with(changes, || introspect::snapshot(&*vm.memory, kernel, &vm.vm, &options).unwrap())
    }

    pub fn with(&self, changes: &[(u64, u64)], look: impl Fn() -> Snapshot) -> Snapshot {
        let before: Vec<(u64, u64)> = changes.iter().map(|(at, _)| (*at, self.peek(*at))).collect();
        changes.iter().for_each(|(at, value)| self.poke(*at, *value));
        let snapshot = look();
        before.iter().for_each(|(at, value)| self.poke(*at, *value));
        snapshot
    }

    /// What takes the socket off a table, as ``hlist_del()`` and ``list_del()`` do it.
    fn off(&self, socket: &Socket, nodes: &[Node]) -> Vec<(u64, u64)> {
        let mut changes = BTreeMap::new();
        for node in nodes {
            let mut at = socket.sock.0;
            for (hop, (record, path)) in node.iter().enumerate() {
                at = self.member(if hop == 0 { at } else { self.peek(at) }, record, path);
            }
            let (next, back) = (self.peek(at), self.peek(at + 8));
            // Not on a list at all.
            if next == at {
                continue;
            }
            changes.insert(back, next);
            // The end of a chain is null or odd.
            if next != 0 && next & 1 == 0 {
                changes.insert(next + 8, back);
            }
        }
        changes.into_iter().collect()
    }

    /// What takes the socket's file out of the descriptors of its processes.
    pub fn off_the_descriptors(&self, snapshot: &Snapshot, socket: &Socket) -> Vec<(u64, u64)> {
        let file = socket.file.unwrap().0;
        let mut changes = Vec::new();
        for pid in &socket.processes {
            let task = snapshot.processes.iter().find(|process| process.pid == *pid).unwrap().task.0;
            let files = self.peek(self.member(task, "task_struct", "files"));
            let table = self.peek(self.member(files, "files_struct", "fdt"));
            let descriptors = self.peek(self.member(table, "fdtable", "fd"));
            let held = (0..64).map(|number| descriptors + number * 8).filter(|at| self.peek(*at) == file);
            changes.extend(held.map(|at| (at, 0)));
        }
        assert!(!changes.is_empty(), "no descriptor of {socket:?}");
        changes
    }
}

/// The socket in the snapshot, in all its views but these; nothing else is hidden, and a judge who has no certificate says so.
fn hidden_from<'s>(snapshot: &'s Snapshot, like: &Socket, missing: &[&str], kind: &str) -> &'s Socket {
    let seen = snapshot.sockets.iter().find(|socket| socket.sock == like.sock);
    let seen = seen.unwrap_or_else(|| panic!("{kind}: gone, and only {missing:?} should lack it"));
    assert_eq!(seen.views_missing, missing, "{kind}");
    let left: Vec<&Text> = like.views.iter().filter(|view| !missing.contains(&view.as_str())).collect();
    assert_eq!(seen.views.iter().collect::<Vec<_>>(), left, "{kind}");
    for socket in snapshot.sockets.iter().filter(|socket| socket.sock != like.sock) {
        // What works for it (a subflow of MPTCP) has nobody either.
        let shares = socket.file.is_some() && socket.file == like.file;
        let lacks: &[&str] = if shares && missing.contains(&"file_table") { &["file_table"] } else { &[] };
        assert_eq!(socket.views_missing, lacks, "{kind}: {socket:?}");
    }
    assert_eq!(snapshot.problems, [], "a socket that hides is no problem of reading");
    let findings = attest::cross_views(snapshot, &attest::Policy::default());
    let (own, others): (Vec<_>, Vec<_>) =
        findings.iter().partition(|finding| finding.evidence["socks"] == like.sock.to_string());
    let [finding] = own.as_slice() else { panic!("{kind}: expected one finding: {findings:#?}") };
    for other in others {
        assert_eq!(other.evidence["files"], like.file.unwrap().to_string(), "{kind}: {other:#?}");
        assert!(kind.starts_with("MPTCP"), "{kind}: {other:#?}");
    }
    assert_eq!(finding.rule, rule::SOCKET_HIDDEN, "{kind}");
    assert_eq!(finding.views_missing.len(), missing.len(), "{kind}");
    assert_eq!(finding.evidence["socks"], like.sock.to_string(), "{kind}");
    assert_eq!(finding.evidence["files"], like.file.unwrap().to_string(), "{kind}");
    seen
}

/// An association of SCTP leads to its socket, which need not be known by anything else, also behind another of the same key: the two
/// clients of the workload have one port and one server.
fn associations(stopped: &Stopped<'_>, clean: &Snapshot) {
    let connected = |socket: &&Socket| is(socket, "sctp", SocketState::Established);
    let connections: Vec<&Socket> = clean.sockets.iter().filter(connected).collect();
    assert_eq!(connections.len(), 4, "{connections:#?}");
    let server = clean.sockets.iter().find(|socket| {
        let is_its_client = |other: &&Socket| other.remote_port == socket.local_port;
        is(socket, "sctp", SocketState::Listen) && connections.iter().any(is_its_client)
    });
    let server = server.unwrap().local_port;
    let clients = connections.iter().filter(|socket| socket.local_port != server);
    assert_eq!(clients.clone().count(), 2, "{connections:#?}");
    for socket in clients {
        assert_eq!(socket.views, ["file_table", "hash_table", "address_table"]);
        let off_hash = stopped.off(socket, &[&[("sock_common", "skc_bind_node")]]);
        let off = [off_hash, stopped.off_the_descriptors(clean, socket)].concat();
        let snapshot = stopped.look_with(&off);
        hidden_from(&snapshot, socket, &["file_table", "hash_table"], "SCTP connection");
    }
}

/// A connection that comes in starts as a copy of its listener's sock, and has no references yet: it is no second socket of that file.
fn half_copied(stopped: &Stopped<'_>, clean: &Snapshot) {
    let one = |name: &str| {
        let Kind { is_one, .. } = KINDS.iter().find(|kind| kind.name == name).unwrap();
        clean.sockets.iter().find(|socket| is_one(socket)).unwrap()
    };
    let (listener, copy) = (one("TCP listener"), one("TCP connection"));
    let of = |socket: &Socket| stopped.member(socket.sock.0, "sock", "sk_socket");
    let references = stopped.member(copy.sock.0, "sock_common", "skc_refcnt");
    let same_file = (of(copy), stopped.peek(of(listener)));
    let seen = |snapshot: &Snapshot| snapshot.sockets.iter().any(|seen| seen.sock == copy.sock);
    assert!(seen(&stopped.look_with(&[same_file])), "what has references works for another");
    let none = (references, stopped.peek(references) & !0xffff_ffff);
    let snapshot = stopped.look_with(&[same_file, none]);
    assert!(!seen(&snapshot), "{:#?}", snapshot.sockets);
    assert!(snapshot.consistency.torn > 0, "and it says that one kept changing");
}

/// A process that ends lets go of its table before it has closed what is in it, and nothing leads to its sockets meanwhile.
fn closing(stopped: &Stopped<'_>, clean: &Snapshot) {
    let threads =
        |pid| clean.processes.iter().find(|process| process.pid == pid).and_then(|process| process.threads);
    let alone = |socket: &&Socket| {
        matches!(*socket.processes, [pid] if threads(pid) == Some(1)) && socket.family == Family::Inet
    };
    let socket = clean.sockets.iter().find(alone).unwrap();
    let process = clean.processes.iter().find(|process| process.pid == socket.processes[0]).unwrap();
    let files = stopped.member(process.task.0, "task_struct", "files");
    let flags = stopped.member(process.task.0, "task_struct", "flags");
    let gone = stopped.look_with(&[(files, 0)]);
    let of =
        |snapshot: &Snapshot| snapshot.sockets.iter().find(|seen| seen.sock == socket.sock).unwrap().clone();
    assert_eq!(of(&gone).views_missing, ["file_table"], "who does not end has a table");
    let ending = stopped.look_with(&[(files, 0), (flags, stopped.peek(flags) | 4)]);
    assert_eq!((of(&ending).ownership, of(&ending).views_missing), (None, Names::default()));
    assert_eq!(attest::cross_views(&ending, &attest::Policy::default()), []);
}

/// A search finds every socket that is held, and in an honest guest nothing that no view has: neither what is free nor what the
/// kernel made for itself.
fn everything_is_in_memory(clean: &Snapshot, searched: &Snapshot) {
    assert_eq!(searched.problems, []);
    let mut same = searched.sockets.clone();
    // A subflow of MPTCP has the file of the socket that it works for, which alone is that file's.
    let mptcp = same.iter().filter(|socket| socket.protocol.as_deref() == Some("mptcp"));
    let lent: Vec<_> = mptcp.filter_map(|socket| socket.file).collect();
    for socket in same.list() {
        let (views, found) = match socket.views.split_last() {
            Some((last, views)) if last == "slab" => (views.to_vec(), true),
            _ => (socket.views.to_vec(), false),
        };
        socket.views = views.into();
        let works_for_another = !found && socket.file.is_some_and(|file| lent.contains(&file));
        assert!(found || works_for_another || socket.file.is_none(), "not found in memory: {socket:?}");
    }
    assert_eq!(same, clean.sockets);
}

pub fn check(opened: &Opened) {
    let program = filter_program(opened);
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let stopped = Stopped::new(opened);
    let clean = opened.snapshot().unwrap();
    odd_holders(&clean, program);
    assert_eq!(attest::cross_views(&clean, &attest::Policy::default()), [], "an honest guest hides nothing");
    let searched = stopped.search_with(&[]);
    everything_is_in_memory(&clean, &searched);
    for Kind { name: kind, is_one, hash, address, .. } in
        KINDS.iter().filter(|kind| (kind.has)(&opened.kernel))
    {
        let found = clean.sockets.iter().find(|socket| is_one(socket) && socket.views.len() >= 2);
        let socket = found.unwrap_or_else(|| panic!("no socket of kind {kind}"));
        let off_hash = stopped.off(socket, hash);
        let off_files = stopped.off_the_descriptors(&clean, socket);

        let snapshot = stopped.look_with(&off_hash);
        let seen = hidden_from(&snapshot, socket, &["hash_table"], kind);
        assert_eq!(
            (&seen.processes, seen.ownership),
            (&socket.processes, Some(Ownership::Process)),
            "{kind}"
        );

        let snapshot = stopped.look_with(&off_files);
        let seen = hidden_from(&snapshot, socket, &["file_table"], kind);
        assert_eq!((seen.processes.len(), seen.ownership), (0, Some(Ownership::Nobody)), "{kind}");
        assert_eq!(seen.file, socket.file, "{kind}: the file is the evidence");

        // Off all of them, and heard of nowhere: its memory is still there.
        let mut views: Vec<&str> = socket.views.iter().map(Text::as_str).collect();
        let in_memory = searched.sockets.iter().find(|known| known.sock == socket.sock).unwrap();
        let mut off = [&off_hash[..], &off_files].concat();
        off.append(&mut stopped.off(socket, address));
        let snapshot = stopped.look_with(&off);
        assert!(!snapshot.sockets.iter().any(|seen| seen.sock == socket.sock), "{kind}: no view has it");
        let snapshot = stopped.search_with(&off);
        views.sort_by_key(|view| {
            ["file_table", "hash_table", "address_table"].iter().position(|name| name == view)
        });
        let seen = hidden_from(&snapshot, in_memory, &views, kind);
        assert_eq!((&seen.views, seen.file), (&["slab"].into(), socket.file), "{kind}");

        // UDP and SCTP have a table more, and need no other to get their packets.
        assert_eq!(socket.views.iter().any(|view| view == "address_table"), !address.is_empty(), "{kind}");
        if !address.is_empty() {
            let off_address = stopped.off(socket, address);
            let snapshot = stopped.look_with(&off_address);
            hidden_from(&snapshot, socket, &["address_table"], kind);
            let snapshot = stopped.look_with(&[&off_hash[..], &off_files].concat());
            hidden_from(&snapshot, socket, &["file_table", "hash_table"], kind);
            let snapshot = stopped.look_with(&[&off_hash[..], &off_address].concat());
            hidden_from(&snapshot, socket, &["hash_table", "address_table"], kind);
        }
    }
    if modules_have_types(&opened.kernel) {
        associations(&stopped, &clean);
    }
    half_copied(&stopped, &clean);
    closing(&stopped, &clean);
    let again = opened.snapshot().unwrap();
    assert_eq!(again.sockets, clean.sockets, "what was changed is put back");
    opened.guest.qmp(&serde_json::json!({"execute": "cont"})).unwrap();
}

/// The id of the one eBPF program that a process of the guest has a descriptor of.
fn filter_program(opened: &Opened) -> u32 {
    let search = ["sh", "-c", "grep -h prog_id /proc/[0-9]*/fdinfo/*"];
    let said = opened.guest.run(&search).unwrap().stdout;
    said.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What no descriptor leads to, and is held all the same; and what is special about each odd kind.
fn odd_holders(snapshot: &Snapshot, program: u32) {
    let of = |what: &str, wanted: &dyn Fn(&Socket) -> bool| {
        let found = snapshot.sockets.iter().find(|socket| wanted(socket));
        found.unwrap_or_else(|| panic!("no socket that is {what}"))
    };
    let pid = |exe: &str| {
        let process = snapshot.processes.iter().find(|process| process.exe.as_deref() == Some(exe));
        process.unwrap().pid
    };
    let (odd, holder) = (pid("/usr/sbin/odd"), pid("/usr/sbin/holder"));
    let port = |port: u16| of("at a port", &|socket| socket.local_port == Some(port));

    let registered = port(9101);
    assert_eq!(
        (registered.ownership, registered.processes.as_slice()),
        (Some(Ownership::IoUring), [holder].as_slice())
    );
    let in_flight = port(9102);
    assert_eq!(
        (in_flight.ownership, in_flight.processes.as_slice()),
        (Some(Ownership::InFlight), [holder].as_slice())
    );
    let in_thread = port(9103);
    assert_eq!(
        (in_thread.ownership, in_thread.processes.as_slice()),
        (Some(Ownership::Process), [pid("/usr/sbin/threaded")].as_slice())
    );
    let mapped = of("mapped", &|socket| socket.ownership == Some(Ownership::Mapping));
    assert_eq!((mapped.family, mapped.views_missing.len()), (Family::Packet, 0));
    for ownership in [Ownership::Kernel, Ownership::Request, Ownership::Pending, Ownership::Orphan] {
        let socket = of(&format!("{ownership:?}"), &|socket| socket.ownership == Some(ownership));
        assert!(socket.processes.is_empty(), "{socket:?}");
    }

    // A connection over IPv4 to an IPv6 socket keeps both of its forms.
    let v4_mapped = |address: Option<std::net::IpAddr>| match address {
        Some(std::net::IpAddr::V6(address)) => address.to_ipv4_mapped().is_some(),
        _ => false,
    };
    let socket = of("v4-mapped", &|socket| v4_mapped(socket.remote_address));
    assert_eq!((socket.family, v4_mapped(socket.local_address)), (Family::Inet6, true));

    // An eBPF filter is told by the id that the guest knows its program by.
    let filter = of("filtered", &|socket| {
        socket.filter.as_ref().is_some_and(|filter| filter.kind == FilterKind::Ebpf)
    });
    let interface = filter.interface.as_ref().unwrap();
    assert_eq!((interface.index, interface.name.as_deref()), (1, Some("lo")));
    let filter = filter.filter.as_ref().unwrap();
    assert_eq!(filter.instructions, Some(2));
    assert_eq!(filter.program, Some(program));

    // Both ends of a pair of unix sockets know each other, and who holds them.
    let socket =
        of("half read", &|socket| socket.family == Family::Unix && socket.receive_queue == Some(240));
    let peer = socket.peer.as_ref().unwrap();
    let other = of("the peer", &|socket| socket.sock == peer.sock);
    assert_eq!((peer.inode, peer.processes.as_slice()), (other.inode, [odd].as_slice()));
    assert_eq!(other.peer.as_ref().unwrap().inode, socket.inode);
    assert_eq!(port(9101).backlog, Some(128));
}
