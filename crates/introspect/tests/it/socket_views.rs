//! Sockets that hide themselves, and sockets that only seem to: on a stopped guest, one view of a socket at a time is taken
//! from the kernel, and the snapshot must say which; held in odd ways, a socket must never be called hidden.
//!
//! Runs in the guests of [`crate::tables`], which have every kind of socket.

use crate::opened::Opened;
use facts::{Family, FilterKind, Ownership, Snapshot, Socket, rule};
use introspect::Options;
use vmi_core::{AddressSpace, Budget, Gva, Look};

/// A kind of socket of the menagerie, and what to find one by.
type Kind = (&'static str, fn(&Socket) -> bool);

const KINDS: [Kind; 8] = [
    ("TCP listener", |socket| socket.local_port == Some(22)),
    ("TCP connection", |socket| {
        socket.protocol.as_deref() == Some("tcp")
            && socket.receive_queue == Some(1000)
            && socket.remote_port.is_some()
    }),
    ("UDP", |socket| socket.protocol.as_deref() == Some("udp") && socket.local_port == Some(123)),
    ("ping", |socket| socket.protocol.as_deref() == Some("icmp") && socket.kind.as_deref() == Some("dgram")),
    ("raw", |socket| socket.family == Family::Inet && socket.kind.as_deref() == Some("raw")),
    ("unix", |socket| socket.path.as_deref() == Some("/run/stream.sock")),
    ("packet", |socket| socket.filter.as_ref().is_some_and(|filter| filter.kind == FilterKind::Classic)),
    ("XDP", |socket| socket.family == Family::Xdp),
];

/// A stopped guest whose memory is changed and put back.
pub struct Stopped<'o> {
    pub opened: &'o Opened,
}

impl Stopped<'_> {
    pub fn member(&self, object: u64, record: &str, path: &str) -> u64 {
        object + self.opened.kernel.profile().field(record, path).unwrap().offset
    }

    fn physical(&self, at: u64) -> u64 {
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
    fn look_with(&self, changes: &[(u64, u64)]) -> Snapshot {
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

    /// What takes the socket off its hash chain or list, as ``hlist_del()`` does.
    fn off_the_hash_table(&self, socket: &Socket, node: &str) -> Vec<(u64, u64)> {
        let node = self.member(socket.sock.0, "sock_common", node);
        let (next, back) = (self.peek(node), self.peek(node + 8));
        let mut changes = vec![(back, next)];
        // The end of a chain is null or odd.
        if next != 0 && next & 1 == 0 {
            changes.push((next + 8, back));
        }
        changes
    }

    /// What takes the socket's file out of the descriptors of its processes.
    fn off_the_descriptors(&self, snapshot: &Snapshot, socket: &Socket) -> Vec<(u64, u64)> {
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
    let left: Vec<&String> = like.views.iter().filter(|view| !missing.contains(&view.as_str())).collect();
    assert_eq!(seen.views.iter().collect::<Vec<_>>(), left, "{kind}");
    for socket in snapshot.sockets.iter().filter(|socket| socket.sock != like.sock) {
        assert_eq!(socket.views_missing, [""; 0], "{kind}: {socket:?}");
    }
    assert_eq!(snapshot.problems, [], "a socket that hides is no problem of reading");
    let findings = attest::cross_views(snapshot, &attest::Policy::default());
    let [finding] = findings.as_slice() else { panic!("{kind}: expected one finding: {findings:#?}") };
    assert_eq!(finding.rule, rule::SOCKET_HIDDEN, "{kind}");
    assert_eq!(finding.views_missing.len(), missing.len(), "{kind}");
    assert_eq!(finding.evidence["socks"], like.sock.to_string(), "{kind}");
    assert_eq!(finding.evidence["files"], like.file.unwrap().to_string(), "{kind}");
    seen
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
    assert_eq!((of(&ending).ownership, of(&ending).views_missing), (None, Vec::new()));
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
    for socket in &mut same {
        let found = socket.views.pop_if(|view| view == "slab").is_some();
        let works_for_another = !found && socket.file.is_some_and(|file| lent.contains(&file));
        assert!(found || works_for_another || socket.file.is_none(), "not found in memory: {socket:?}");
    }
    assert_eq!(same, clean.sockets);
}

pub fn check(opened: &Opened) {
    let program = filter_program(opened);
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let stopped = Stopped { opened };
    let clean = opened.snapshot().unwrap();
    odd_holders(&clean, program);
    assert_eq!(attest::cross_views(&clean, &attest::Policy::default()), [], "an honest guest hides nothing");
    let searched = stopped.search_with(&[]);
    everything_is_in_memory(&clean, &searched);
    for (kind, wanted) in KINDS {
        let found = clean.sockets.iter().find(|socket| wanted(socket) && socket.views.len() >= 2);
        let socket = found.unwrap_or_else(|| panic!("no socket of kind {kind}"));
        let off_hash = stopped.off_the_hash_table(socket, "skc_node");
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
        let mut views: Vec<&str> = socket.views.iter().map(String::as_str).collect();
        let in_memory = searched.sockets.iter().find(|known| known.sock == socket.sock).unwrap();
        let mut off = [&off_hash[..], &off_files].concat();
        if views.contains(&"address_table") {
            off.append(&mut stopped.off_the_hash_table(socket, "skc_portaddr_node"));
        }
        let snapshot = stopped.look_with(&off);
        assert!(!snapshot.sockets.iter().any(|seen| seen.sock == socket.sock), "{kind}: no view has it");
        let snapshot = stopped.search_with(&off);
        views.sort_by_key(|view| {
            ["file_table", "hash_table", "address_table"].iter().position(|name| name == view)
        });
        let seen = hidden_from(&snapshot, in_memory, &views, kind);
        assert_eq!(
            (seen.views.as_slice(), seen.file),
            (["slab".to_owned()].as_slice(), socket.file),
            "{kind}"
        );

        // UDP has a table more, and needs no other to get its packets.
        if socket.views.iter().any(|view| view == "address_table") {
            let off_address = stopped.off_the_hash_table(socket, "skc_portaddr_node");
            let snapshot = stopped.look_with(&off_address);
            hidden_from(&snapshot, socket, &["address_table"], kind);
            let snapshot = stopped.look_with(&[&off_hash[..], &off_files].concat());
            hidden_from(&snapshot, socket, &["file_table", "hash_table"], kind);
            let snapshot = stopped.look_with(&[&off_hash[..], &off_address].concat());
            hidden_from(&snapshot, socket, &["hash_table", "address_table"], kind);
        }
    }
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
    assert_eq!((registered.ownership, &registered.processes), (Some(Ownership::IoUring), &vec![holder]));
    let in_flight = port(9102);
    assert_eq!((in_flight.ownership, &in_flight.processes), (Some(Ownership::InFlight), &vec![holder]));
    let in_thread = port(9103);
    assert_eq!(
        (in_thread.ownership, &in_thread.processes),
        (Some(Ownership::Process), &vec![pid("/usr/sbin/threaded")])
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
    assert_eq!((peer.inode, &peer.processes), (other.inode, &vec![odd]));
    assert_eq!(other.peer.as_ref().unwrap().inode, socket.inode);
    assert_eq!(port(9101).backlog, Some(128));
}
