//! A guest that changes as fast as it can while it is looked at.

use crate::opened::Opened;
use attest::{Policy, Tasks, Tracker};
use facts::{Family, Ownership, Snapshot, Socket};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use testkit::command::{SocketSpec, UnixType};
use testkit::{Activity, Backing, GuestSpec, Kernel, Need, Spawn};

/// At least so many looks, during which the guest started so many processes that live for a moment only, opened and closed so
/// many sockets of each kind, loaded so many eBPF programs that it let go again, and loaded and unloaded a module so often.
const LOOKS: u32 = 10_000;
const STRANGERS: usize = 300;
const STRANGE_SOCKETS: usize = 40;
const PROGRAMS: usize = 100;
const ROUNDS: u32 = 4;

/// Between two looks while something is seen that is not confirmed.
const BETWEEN: Duration = Duration::from_millis(20);
/// How often a look that shows the same moment as the last one is put off, as `birthmark audit` does it.
const STANDING_MAX: u32 = 50;

/// Whose the sockets of each process are that opens and closes them: a row with one's user and another as its process is of
/// two sockets.
const MARKS: [u32; 3] = [2001, 2002, 2003];

/// Kinds of sockets that come and go.
const KINDS: [(Family, &str, &str); 9] = [
    (Family::Inet, "stream", "tcp"),
    (Family::Inet, "dgram", "udp"),
    (Family::Unix, "stream", "unix"),
    (Family::Unix, "dgram", "unix"),
    (Family::Packet, "raw", "0x0000"),
    (Family::Netlink, "raw", "route"),
    (Family::Inet, "stream", "mptcp"),
    (Family::Inet, "stream", "sctp"),
    (Family::Vsock, "stream", "vsock"),
];

/// Places that eBPF programs are attached to and taken off again.
const PLACES: [&str; 8] = [
    "cgroup",
    "kprobe_multi",
    "netfilter",
    "netns",
    "perf_event",
    "raw_tracepoint",
    "tracing",
    "uprobe_multi",
];

/// What lives through the storm, and who makes it.
struct Steady {
    pids: BTreeSet<u32>,
    /// By their addresses.
    sockets: BTreeMap<u64, Socket>,
    /// User of their sockets, by the pid of who opens and closes them.
    marks: BTreeMap<u32, u32>,
}

/// What of the guest changed under the looks, and what it took.
#[derive(Default)]
struct Seen {
    pids: BTreeSet<u32>,
    /// Inode numbers of sockets, by kind.
    sockets: BTreeMap<usize, BTreeSet<u64>>,
    /// Ids of eBPF programs, and kinds of places that they were attached to.
    programs: BTreeSet<u32>,
    places: BTreeSet<String>,
    retries: u32,
    torn: u32,
}

impl Seen {
    fn enough(&self) -> bool {
        let of_each = KINDS.iter().enumerate().all(|(kind, _)| self.of_kind(kind) >= STRANGE_SOCKETS);
        self.pids.len() >= STRANGERS && self.programs.len() >= PROGRAMS && of_each
    }

    fn of_kind(&self, kind: usize) -> usize {
        self.sockets.get(&kind).map_or(0, BTreeSet::len)
    }
}

/// Everything that lives through the storm is in every look, once, and whole, and nothing is taken for hidden.
fn storm(kernel: Kernel, backing: Backing, looks: u32) {
    if !testkit::require(&[Need::Guest(kernel)]) {
        return;
    }
    let opened = Opened::boot(GuestSpec::new(kernel).backing(backing)).unwrap();
    for module in ["crc32c_generic", "sctp", "vsock_loopback"] {
        // What is built in need not be loaded.
        let loaded = opened.guest.load_module(module);
        assert!(loaded.is_ok() || module == "crc32c_generic", "{loaded:?}");
    }
    let local = "127.0.0.1".parse().unwrap();
    let held = vec![
        SocketSpec::TcpPair { ip: local },
        SocketSpec::UdpBind { address: (local, 0).into() },
        SocketSpec::UnixPair { unix_type: UnixType::Stream },
        // A kind of packet that nobody sends, so that its queue stays as it is.
        SocketSpec::Packet { ethertype: 0x88b5, cooked: false },
        SocketSpec::Netlink { protocol: 0, groups: 0 },
    ];
    let steady = |sockets| Spawn { exe: "/usr/bin/steady".into(), sockets, ..Spawn::default() };
    let rare = vec![SocketSpec::VsockPair, SocketSpec::SctpPairs];
    let rare = opened.guest.spawn(steady(rare)).unwrap();
    let mut steady = opened.guest.spawn_many(20, steady(held)).unwrap();
    steady.push(rare);
    let pids: BTreeSet<u32> = steady.iter().map(|process| process.pid).collect();
    let is_steady = |socket: &Socket| socket.processes.iter().any(|pid| pids.contains(pid));
    let before = opened.snapshot().unwrap();
    let sockets = before.sockets.into_iter().filter(is_steady);
    let sockets: BTreeMap<u64, Socket> = sockets.map(|socket| (socket.sock.0, socket)).collect();
    assert_eq!(sockets.len(), 20 * 8 + 9, "sockets that are held for ever");
    let marks = MARKS.map(|mark| {
        let activity = Activity::SocketStorm { mark };
        let spawn = Spawn { exe: "/usr/bin/opener".into(), activity, ..Spawn::default() };
        (opened.guest.spawn(spawn).unwrap().pid, mark)
    });
    opened.guest.fork_storm(4, 600).unwrap();
    let programs =
        Spawn { activity: Activity::ProgramStorm, exe: "/usr/bin/programs".into(), ..Spawn::default() };
    opened.guest.spawn(programs).unwrap();
    let steady = Steady { pids, sockets, marks: marks.into() };
    let (done, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        // Modules come and go meanwhile.
        let modules = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                opened.guest.load_module("dummy").unwrap();
                opened.guest.unload_module("dummy").unwrap();
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let watched = std::panic::catch_unwind(AssertUnwindSafe(|| watch(&opened, &steady, looks, &rounds)));
        done.store(true, Ordering::Relaxed);
        modules.join().unwrap();
        watched.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn watch(opened: &Opened, steady: &Steady, looks: u32, rounds: &AtomicU32) {
    let policy = Policy::default();
    let mut tracker = Tracker::default();
    let mut strangers = Seen::default();
    // Until the guest has demonstrably changed under many looks, however slow its emulation is today.
    let started = Instant::now();
    let mut look = 0;
    // Of a look that saw what is not confirmed.
    let mut last: Option<Tasks> = None;
    let mut standing = 0;
    // Of the rest the kernel of the shorter storm has few, and few looks see them.
    let places: &[&str] = if looks < LOOKS { &["raw_tracepoint", "cgroup"] } else { &PLACES };
    let changed = |strangers: &Seen| {
        strangers.enough()
            && rounds.load(Ordering::Relaxed) >= ROUNDS
            && places.iter().all(|place| strangers.places.contains(*place))
    };
    while look < looks || (!changed(&strangers) && started.elapsed() < Duration::from_secs(40)) {
        look += 1;
        let snapshot = opened.snapshot().unwrap();
        processes(&snapshot, steady, look, &mut strangers);
        sockets(&snapshot, steady, look, &mut strangers);
        for program in snapshot.ebpf_programs.iter().flatten() {
            strangers.programs.extend(program.id);
            strangers.places.extend(program.attached_to.iter().map(|place| place.kind.clone()));
        }
        strangers.retries += snapshot.consistency.retries;
        strangers.torn += snapshot.consistency.torn;
        // A busy host has given the guest's CPU to somebody else, or the guest has.
        if standing < STANDING_MAX && last.as_mut().is_some_and(|last| last.is_same_moment(&snapshot)) {
            standing += 1;
            std::thread::sleep(BETWEEN);
            continue;
        }
        standing = 0;
        let found = attest::cross_views(&snapshot, &policy);
        let progress = tracker.feed(found, &policy, snapshot.consistency.mode);
        assert_eq!(progress.confirmed(), [], "look {look} confirmed what is not true");
        last = (!progress.pending.is_empty()).then(|| Tasks::of(&snapshot));
        if last.is_some() {
            // As `birthmark audit` does. A module is on one list and not yet on the next for some instructions, and a busy
            // host may leave the guest's CPU standing between them for longer than a look takes.
            std::thread::sleep(BETWEEN);
        }
    }
    let loaded = rounds.load(Ordering::Relaxed);
    assert!(loaded >= ROUNDS, "the guest loaded its module {loaded} times");
    assert!(
        strangers.pids.len() >= STRANGERS,
        "the guest did not fork: {} pids in all",
        strangers.pids.len()
    );
    let programs = strangers.programs.len();
    assert!(programs >= PROGRAMS, "the guest did not load programs: {programs} in all");
    for place in places {
        assert!(strangers.places.contains(*place), "no program at a {place}: {:?}", strangers.places);
    }
    for (kind, name) in KINDS.iter().enumerate() {
        let seen = strangers.of_kind(kind);
        assert!(seen >= STRANGE_SOCKETS, "the guest opened {seen} sockets that are {name:?}");
    }
    // In such a guest no list holds still for thousands of looks, and whoever looks says so.
    assert!(strangers.retries > 0 || look < LOOKS, "{look} looks, {} torn, and no retry", strangers.torn);
}

fn processes(snapshot: &Snapshot, steady: &Steady, look: u32, strangers: &mut Seen) {
    let pids: Vec<u32> = snapshot.processes.iter().map(|process| process.pid).collect();
    let unique: BTreeSet<u32> = pids.iter().copied().collect();
    assert_eq!(unique.len(), pids.len(), "look {look}: a pid twice");
    let missed: Vec<_> = steady.pids.difference(&unique).collect();
    assert!(missed.is_empty(), "look {look} missed {missed:?}: {:?}", snapshot.problems);
    for process in snapshot.processes.iter().filter(|process| steady.pids.contains(&process.pid)) {
        assert_eq!(process.exe.as_deref(), Some("/usr/bin/steady"), "look {look}");
        assert!(process.args.is_some(), "look {look}");
    }
    strangers.pids.extend(unique.difference(&steady.pids).copied());
}

fn sockets(snapshot: &Snapshot, steady: &Steady, look: u32, strangers: &mut Seen) {
    let mut places = BTreeSet::new();
    let mut inodes = BTreeSet::new();
    let mut found = 0;
    for socket in &snapshot.sockets {
        assert!(places.insert(socket.sock.0), "look {look}: twice: {socket:#?}");
        // A subflow of MPTCP, which is one of TCP, has the number of the socket that it works for.
        let fresh = socket.inode.is_none_or(|inode| inodes.insert((&socket.protocol, inode)));
        assert!(fresh, "look {look}: another socket has its inode number too: {socket:#?}");
        if let Some(known) = steady.sockets.get(&socket.sock.0) {
            assert_eq!(socket, known, "look {look}: {:?}", snapshot.problems);
            found += 1;
            continue;
        }
        if socket.ownership == Some(Ownership::Process) {
            let [pid] = socket.processes.as_slice() else { panic!("look {look}: {socket:#?}") };
            // Those that are there from the start are no process's that opens and closes.
            let Some(mark) = steady.marks.get(pid) else { continue };
            assert_eq!(socket.uid, Some(*mark), "look {look}: half of one and half of another: {socket:#?}");
            let kind = KINDS.iter().position(|(family, kind, protocol)| {
                socket.family == *family
                    && socket.kind.as_deref() == Some(kind)
                    && socket.protocol.as_deref() == Some(protocol)
            });
            let kind = kind.unwrap_or_else(|| panic!("look {look}: nobody opened {socket:#?}"));
            strangers.sockets.entry(kind).or_default().extend(socket.inode);
        }
    }
    assert_eq!(found, steady.sockets.len(), "look {look} missed sockets: {:?}", snapshot.problems);
}

#[test]
fn a_storm_of_forks_sockets_modules_and_programs_hides_nothing_and_is_no_finding_in_ten_thousand_looks() {
    storm(Kernel::V6_12, Backing::Memfd, LOOKS);
}

#[test]
fn a_storm_hides_nothing_in_a_guest_that_is_read_by_calls() {
    storm(Kernel::V6_1, Backing::Anonymous, 300);
}
