//! A guest that lies: what it claims becomes a problem, and never a crash, a hang, or a clean table.
//!
//! The guest is stopped and its memory is changed from outside, so that every lie is exact and every kernel the same.

use crate::opened::{Opened, PATIENT};
use facts::{Family, Ownership, ProblemKind, Snapshot, Socket};
use introspect::{Error, Options};
use std::collections::BTreeSet;
use std::time::Duration;
use testkit::{Filter, GuestSpec, Kernel, Need, SocketSpec, Spawn};
use vmi_core::{Access, AddressSpace, Budget, Gpa, GuestMemory, Gva, Look, MemoryError, Region};

struct Liar {
    opened: Opened,
}

impl Liar {
    /// A stopped guest with a process `victim`, pid as given back.
    fn boot(kernel: Kernel) -> (Self, u32) {
        let opened = Opened::boot(GuestSpec::new(kernel).memory_mib(256)).unwrap();
        let address = "127.0.0.1:7777".parse().unwrap();
        let sockets = vec![
            SocketSpec::TcpListen { address },
            SocketSpec::TcpInFlight { address: "127.0.0.1:7778".parse().unwrap() },
            SocketSpec::TcpRegistered { address: "127.0.0.1:7779".parse().unwrap() },
            SocketSpec::Capture { filter: Filter::Classic, interface: None },
            SocketSpec::Netlink { protocol: 0, groups: 1 },
        ];
        let victim =
            opened.guest.spawn(Spawn { exe: "/usr/bin/victim".into(), sockets, ..Spawn::default() }).unwrap();
        opened.guest.spawn_many(5, Spawn::default()).unwrap();
        opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
        (Self { opened }, victim.pid)
    }

    fn member(&self, object: u64, record: &str, path: &str) -> u64 {
        object + self.opened.kernel.profile().field(record, path).unwrap().offset
    }

    fn physical(&self, at: u64) -> u64 {
        let memory = &*self.opened.vm.memory;
        let look = Look::begin(memory, Budget::default()).unwrap();
        let space = AddressSpace::new(&look, self.opened.kernel.root(), self.opened.kernel.levels());
        space.translate(Gva(at)).unwrap().at.0
    }

    fn peek(&self, at: u64) -> u64 {
        let bytes = self.opened.guest.peek_physical(self.physical(at), 8).unwrap();
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    /// Looks while `at` holds `value`, then puts back what was there.
    fn look_with(&self, at: u64, value: u64) -> Snapshot {
        self.look_by(at, value, Opened::snapshot)
    }

    fn look_by(&self, at: u64, value: u64, look: fn(&Opened) -> anyhow::Result<Snapshot>) -> Snapshot {
        let physical = self.physical(at);
        let before = self.peek(at);
        self.opened.guest.poke_physical(physical, &value.to_le_bytes()).unwrap();
        let started = std::time::Instant::now();
        let snapshot = look(&self.opened).unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "a look must end by itself");
        self.opened.guest.poke_physical(physical, &before.to_le_bytes()).unwrap();
        snapshot
    }

    fn task(&self, pid: u32) -> u64 {
        let snapshot = self.opened.snapshot().unwrap();
        snapshot.processes.iter().find(|process| process.pid == pid).unwrap().task.0
    }
}

fn has(snapshot: &Snapshot, kind: ProblemKind, location: &str) -> bool {
    snapshot.problems.iter().any(|problem| problem.kind == kind && problem.location.starts_with(location))
}

#[test]
fn lies_in_lists_tables_and_pointers_become_problems() {
    for kernel in Kernel::OLDEST_AND_NEWEST {
        if !testkit::require(&[Need::Guest(kernel)]) {
            return;
        }
        let (liar, pid) = Liar::boot(kernel);
        let clean = liar.opened.snapshot().unwrap();
        assert_eq!(clean.problems, [], "an honest guest has no problems");
        let task = liar.task(pid);
        let next = liar.member(task, "task_struct", "tasks");
        let first = liar.member(liar.task(2), "task_struct", "tasks");

        // A task that is its own successor; a list that comes back to its second element; a wild pointer.
        for (value, kind) in [
            (next, ProblemKind::Inconsistent),
            (first, ProblemKind::Inconsistent),
            (0x4141_4141_4141_4141, ProblemKind::Unmapped),
            (0, ProblemKind::Unmapped),
        ] {
            let snapshot = liar.look_with(next, value);
            assert!(has(&snapshot, kind, "task list"), "{value:#x}: {:?}", snapshot.problems);
            assert!(snapshot.processes.len() > 10, "what was read before the break is kept");
            assert!(snapshot.consistency.retries > 0);
            assert!(!snapshot.modules.is_empty() || clean.modules.is_empty(), "other tables do not suffer");
        }

        // A task list that is empty is not a guest without processes.
        let init = liar.opened.kernel.symbol("init_task").unwrap().0;
        let head = liar.member(init, "task_struct", "tasks");
        let snapshot = liar.look_with(head, head);
        assert!(has(&snapshot, ProblemKind::Inconsistent, "task list"), "{:?}", snapshot.problems);

        // A descriptor table that claims four thousand million entries.
        let files = liar.peek(liar.member(task, "task_struct", "files"));
        let fdt = liar.peek(liar.member(files, "files_struct", "fdt"));
        let max_fds = liar.member(fdt, "fdtable", "max_fds");
        let snapshot = liar.look_with(max_fds, u64::MAX);
        assert!(has(&snapshot, ProblemKind::Implausible, "fdtable"), "{:?}", snapshot.problems);

        lies_about_a_process(&liar, pid, task);

        // Arguments that lie in no memory are unknown, not empty.
        let mm = liar.peek(liar.member(task, "task_struct", "mm"));
        let arg_start = liar.member(mm, "mm_struct", "arg_start");
        let snapshot = liar.look_with(arg_start, 0x10_0000);
        let victim = snapshot.processes.iter().find(|process| process.pid == pid).unwrap();
        assert_eq!(victim.args, None);
        assert!(has(&snapshot, ProblemKind::Partial, "arguments"), "{:?}", snapshot.problems);

        // An executable that leads nowhere is unknown, not none.
        let exe = liar.member(mm, "mm_struct", "exe_file");
        let snapshot = liar.look_with(exe, 0xffff_ffff_ffff_f000);
        let victim = snapshot.processes.iter().find(|process| process.pid == pid).unwrap();
        assert_eq!((victim.exe.as_deref(), victim.exe_state), (None, None));
        assert!(has(&snapshot, ProblemKind::Unmapped, "file"), "{:?}", snapshot.problems);

        // A directory that is its own parent's child for ever.
        let file = liar.peek(exe);
        let dentry = liar.peek(liar.member(file, "file", "f_path") + liar.member(0, "path", "dentry"));
        let name_len = liar.member(dentry, "dentry", "d_name.len");
        let snapshot = liar.look_with(name_len, u64::MAX);
        assert!(has(&snapshot, ProblemKind::Implausible, "dentry"), "{:?}", snapshot.problems);

        // A hash chain whose socket is its own successor.
        let listener = clean.sockets.iter().find(|socket| socket.local_port == Some(7777)).unwrap();
        let node = liar.member(listener.sock.0, "sock_common", "skc_nulls_node");
        let snapshot = liar.look_with(node, node);
        assert!(has(&snapshot, ProblemKind::Inconsistent, "TCP hash table"), "{:?}", snapshot.problems);
        assert_nothing_is_called_hidden(&snapshot);
        lies_about_sockets(&liar, &clean, pid);
    }
}

/// A wild pointer.
const WILD: u64 = 0x4141_4141_4141_4141;

/// What a process is said to be: each lie leaves that one fact unknown, and everything else as it is.
fn lies_about_a_process(liar: &Liar, pid: u32, task: u64) {
    let count = liar.opened.snapshot().unwrap().processes.len();
    let lie = |at: u64, value: u64| {
        let snapshot = liar.look_by(at, value, Opened::everything);
        assert_eq!(snapshot.processes.len(), count, "no process is lost: {:?}", snapshot.problems);
        let victim = snapshot.processes.iter().find(|process| process.pid == pid).unwrap().clone();
        (snapshot, victim)
    };
    let told = |snapshot: &Snapshot, kind, location: &str| {
        assert!(has(snapshot, kind, location), "{location}: {:?}", snapshot.problems);
    };

    let cred = liar.peek(liar.member(task, "task_struct", "real_cred"));
    let group_info = liar.peek(liar.member(cred, "cred", "group_info"));
    let (snapshot, victim) = lie(liar.member(group_info, "group_info", "ngroups"), u64::from(u32::MAX));
    told(&snapshot, ProblemKind::Implausible, "group_info");
    assert_eq!((victim.groups, victim.uid), (None, Some(0)));

    let signal = liar.peek(liar.member(task, "task_struct", "signal"));
    let (snapshot, victim) = lie(liar.member(signal, "signal_struct", "thread_head"), WILD);
    told(&snapshot, ProblemKind::Unmapped, "thread list");
    assert_eq!(victim.thread_list.unwrap(), []);
    let (snapshot, victim) = lie(liar.member(signal, "signal_struct", "nr_threads"), u64::MAX);
    told(&snapshot, ProblemKind::Inconsistent, "signal_struct");
    assert_eq!(victim.cpu_time_ns, None);
    let (snapshot, victim) = lie(liar.member(signal, "signal_struct", "tty"), WILD);
    told(&snapshot, ProblemKind::Unmapped, "tty_struct");
    assert_eq!(victim.terminal, None);
    let (snapshot, victim) = lie(liar.member(signal, "signal_struct", "pids") + 3 * 8, WILD);
    told(&snapshot, ProblemKind::Unmapped, "signal_struct");
    assert_eq!((victim.session, victim.process_group.is_some()), (None, true));

    let (_, victim) = lie(liar.member(task, "task_struct", "seccomp.mode"), 77);
    assert_eq!(victim.seccomp, None, "a mode that nobody knows");
    let css_set = liar.peek(liar.member(task, "task_struct", "cgroups"));
    let links = liar.member(css_set, "css_set", "cgrp_links");
    let (snapshot, _) = lie(links, links + 8);
    told(&snapshot, ProblemKind::Inconsistent, "css_set links");

    // Memory that ends before the vector does: what is there is kept apart from what is whole.
    let mm = liar.peek(liar.member(task, "task_struct", "mm"));
    let arg_end = liar.member(mm, "mm_struct", "arg_end");
    let (snapshot, victim) = lie(arg_end, liar.peek(arg_end) + (1 << 20));
    told(&snapshot, ProblemKind::Partial, "arguments");
    assert_eq!((victim.args, &*victim.args_partial.unwrap()[0]), (None, "/usr/bin/victim"));
    for value in [0x10_0000, 0] {
        // The second makes it longer than any environment can be.
        let (snapshot, victim) = lie(liar.member(mm, "mm_struct", "env_start"), value);
        told(&snapshot, ProblemKind::Partial, "environment");
        assert_eq!(victim.environment, None);
    }

    // Clocks and counters.
    let profile = liar.opened.kernel.profile();
    // An array of clocks since 6.17, whose type has a name since 6.13.
    let symbol = |name| liar.opened.kernel.symbol(name);
    let data = symbol("tk_core").or_else(|| symbol("timekeeper_data")).unwrap().0;
    let inside = profile.field("tk_data", "timekeeper").map(|field| field.offset);
    let clock =
        data + inside.unwrap_or_else(|_| profile.size("seqcount_raw_spinlock").unwrap().next_multiple_of(8));
    let (snapshot, victim) = lie(liar.member(clock, "timekeeper", "offs_real"), u64::MAX);
    told(&snapshot, ProblemKind::Implausible, "timekeeper");
    assert_eq!((victim.started_at, snapshot.kernel.booted_at), (None, None));
    let (snapshot, _) = lie(liar.opened.kernel.symbol("nr_cpu_ids").unwrap().0, u64::MAX);
    told(&snapshot, ProblemKind::Implausible, "process_counts");
    assert_eq!((snapshot.activity.processes, snapshot.activity.forks.is_some()), (None, true));
}

/// What could not be read is unknown, and never a reason to say that something hides.
fn assert_nothing_is_called_hidden(snapshot: &Snapshot) {
    for socket in &snapshot.sockets {
        assert!(socket.views_missing.is_empty(), "{socket:?}");
        assert_ne!(socket.ownership, Some(Ownership::Nobody), "{socket:?}");
    }
}

/// Lies in what leads to the holders of sockets, and in what sockets have besides their addresses.
fn lies_about_sockets(liar: &Liar, clean: &Snapshot, pid: u32) {
    let find = |what: &str, wanted: &dyn Fn(&Socket) -> bool| {
        clean.sockets.iter().find(|socket| wanted(socket)).unwrap_or_else(|| panic!("no {what}")).sock.0
    };
    let kernel = &liar.opened.kernel;

    // A message that is its own successor, and one that claims 32,767 files.
    let receiver = find("unix socket with a message", &|socket| {
        socket.family == Family::Unix && socket.receive_queue == Some(7)
    });
    let head = liar.member(receiver, "sock", "sk_receive_queue");
    let message = liar.peek(head);
    let snapshot = liar.look_with(message, message);
    assert!(has(&snapshot, ProblemKind::Inconsistent, "unix receive queue"), "{:?}", snapshot.problems);
    assert_nothing_is_called_hidden(&snapshot);
    let control = liar.member(message, "sk_buff", "cb");
    let files = liar.peek(liar.member(control, "unix_skb_parms", "fp"));
    let count = liar.member(files, "scm_fp_list", "count");
    let snapshot = liar.look_with(count, u64::MAX >> 1);
    assert!(has(&snapshot, ProblemKind::Implausible, "scm_fp_list"), "{:?}", snapshot.problems);
    assert_nothing_is_called_hidden(&snapshot);

    // A ring that claims four thousand million registered files; a descriptor that leads nowhere.
    let task = liar.task(pid);
    let files = liar.peek(liar.member(task, "task_struct", "files"));
    let table = liar.peek(liar.member(files, "files_struct", "fdt"));
    let descriptors = liar.peek(liar.member(table, "fdtable", "fd"));
    let operations = kernel.symbol("io_uring_fops").unwrap().0;
    let ring = (0..64)
        .map(|number| liar.peek(descriptors + number * 8))
        .find(|file| *file != 0 && liar.peek(liar.member(*file, "file", "f_op")) == operations)
        .map(|file| liar.peek(liar.member(file, "file", "private_data")))
        .expect("the victim has a ring");
    let of_ring = |path| kernel.profile().field("io_ring_ctx", path).map(|field| ring + field.offset);
    let count = of_ring("file_table.data.nr").or_else(|_| of_ring("nr_user_files")).unwrap();
    let snapshot = liar.look_with(count, u64::MAX);
    assert!(has(&snapshot, ProblemKind::Implausible, "io_ring_ctx"), "{:?}", snapshot.problems);
    assert_nothing_is_called_hidden(&snapshot);
    let listener = find("listener", &|socket| socket.local_port == Some(7777));
    let file = clean.sockets.iter().find(|socket| socket.sock.0 == listener).unwrap().file.unwrap().0;
    let slot = (0..64).map(|number| descriptors + number * 8).find(|at| liar.peek(*at) == file).unwrap();
    let snapshot = liar.look_with(slot, 0x4141_4141_4141_4141);
    assert!(has(&snapshot, ProblemKind::Unmapped, "file"), "{:?}", snapshot.problems);
    assert_nothing_is_called_hidden(&snapshot);
    let seen = snapshot.sockets.iter().find(|socket| socket.sock.0 == listener).unwrap();
    assert_eq!((seen.ownership, seen.processes.len()), (None, 0), "its holder is unknown");

    // A filter that leads nowhere, and more multicast groups than there is memory.
    let packet = find("packet socket", &|socket| socket.filter.is_some());
    let snapshot = liar.look_with(liar.member(packet, "sock", "sk_filter"), 0xffff_ffff_ffff_f000);
    assert!(has(&snapshot, ProblemKind::Unmapped, "sk_filter"), "{:?}", snapshot.problems);
    assert_eq!(snapshot.sockets.len(), clean.sockets.len());
    let netlink = find("netlink socket", &|socket| {
        socket.netlink.as_ref().is_some_and(|netlink| netlink.groups == [1] && netlink.port != 0)
    });
    let count = liar.member(netlink, "netlink_sock", "ngroups");
    let snapshot = liar.look_with(count, u64::MAX);
    assert!(has(&snapshot, ProblemKind::Implausible, "netlink_sock"), "{:?}", snapshot.problems);

    // A table that claims four thousand million buckets is not read, and not held against anybody.
    let table = kernel.symbol("tcp_hashinfo").unwrap().0;
    let snapshot = liar.look_with(liar.member(table, "inet_hashinfo", "ehash_mask"), u64::from(u32::MAX));
    assert!(has(&snapshot, ProblemKind::Implausible, "TCP hash table"), "{:?}", snapshot.problems);
    assert_nothing_is_called_hidden(&snapshot);
}

#[test]
fn a_copy_of_the_kernels_own_description_is_not_believed() {
    if !testkit::require(&[Need::Guest(Kernel::V6_12)]) {
        return;
    }
    let (liar, _) = Liar::boot(Kernel::V6_12);
    let memory = &*liar.opened.vm.memory;
    let data = liar.opened.kernel.symbol("vmcoreinfo_data").unwrap().0;
    let real = liar.physical(liar.peek(data));
    let page = liar.opened.guest.peek_physical(real, 4096).unwrap();

    // Anybody in the guest can fill a page with these bytes: put copies on both sides of the real one.
    let region = memory.regions().iter().find(|region| region.len > 0x100_0000).unwrap();
    let used = memory.populated(*region).unwrap();
    let free: Vec<u64> = (region.start.0..region.end().0)
        .step_by(4096)
        .filter(|at| *at > 0x10_0000 && !used.iter().any(|extent| extent.contains(Gpa(*at), 1)))
        .collect();
    let free = [free[0], free[free.len() / 2], free[free.len() - 1]];
    assert!(free[0] < real || free[2] > real);
    for at in &free {
        liar.opened.guest.poke_physical(*at, &page).unwrap();
    }
    let kernel = introspect::locate(memory, PATIENT).unwrap();
    assert_eq!(kernel.root(), liar.opened.kernel.root());
    assert!(kernel.is_current(memory).unwrap());

    // Without the real one the copies are not believed either: the kernel is found by its page tables, and is no copy's.
    liar.opened.guest.poke_physical(real, &[0; 16]).unwrap();
    let kernel = introspect::locate(memory, PATIENT).unwrap();
    assert_eq!(kernel.root(), liar.opened.kernel.root());
    assert!(kernel.is_current(memory).unwrap());

    // Where the image proves nothing either, nothing is believed, and the error says why.
    let banner = liar.opened.kernel.symbol("linux_banner").unwrap().0;
    liar.opened.guest.poke_physical(liar.physical(banner), &[0; 16]).unwrap();
    match introspect::locate(memory, PATIENT) {
        Err(Error::Contradicted { release, reason, .. }) => {
            assert_eq!(release, liar.opened.kernel.release());
            assert!(reason.contains("VMCOREINFO"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_thousand_random_changes_of_kernel_memory_never_stop_the_reader() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let (liar, _) = Liar::boot(Kernel::V6_1);
    let clean = liar.opened.snapshot().unwrap();
    let objects: Vec<u64> = clean
        .processes
        .iter()
        .map(|process| process.task.0)
        .chain(clean.sockets.iter().map(|socket| socket.sock.0))
        .chain(clean.modules.iter().map(|module| module.module.0))
        .collect();
    // A small generator with a fixed seed (xorshift): the same changes at every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let options = Options {
        budget: Budget { time: Duration::from_secs(2), ..Budget::default() },
        ..Options::default()
    };
    for round in 0..100 {
        for _ in 0..10 {
            let object = objects[usize::try_from(random()).unwrap() % objects.len()];
            let at = object + (random() % 2600) / 8 * 8;
            let value = match random() % 4 {
                0 => random(),
                1 => objects[usize::try_from(random()).unwrap() % objects.len()],
                2 => 0,
                _ => at,
            };
            liar.opened.guest.poke_physical(liar.physical(at), &value.to_le_bytes()).unwrap();
        }
        let started = std::time::Instant::now();
        let snapshot =
            introspect::snapshot(&*liar.opened.vm.memory, &liar.opened.kernel, liar.opened.facts(), &options)
                .unwrap();
        assert!(started.elapsed() < Duration::from_secs(10), "round {round} took {:?}", started.elapsed());
        assert!(snapshot.problems.len() <= 257, "the list of problems is bounded");
    }
}

#[test]
fn a_look_that_may_read_next_to_nothing_says_so() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let (liar, _) = Liar::boot(Kernel::V6_1);
    let options = Options { budget: Budget { bytes: 10_000, ..Budget::default() }, ..Options::default() };
    let snapshot =
        introspect::snapshot(&*liar.opened.vm.memory, &liar.opened.kernel, liar.opened.facts(), &options)
            .unwrap();
    for table in ["processes", "sockets", "modules"] {
        assert!(has(&snapshot, ProblemKind::Budget, table), "{table}: {:?}", snapshot.problems);
    }
}

#[test]
fn a_long_text_that_every_process_shows_is_in_memory_once() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    const DEPTH: usize = 200;
    const PROCESSES: usize = 400;
    let opened = Opened::boot(GuestSpec::new(Kernel::V6_1).memory_mib(512)).unwrap();
    // A group deep in others, further down than a path may be long: nobody needs to forge anything for that.
    let name = "g".repeat(250);
    let script = format!(
        "cd /sys/fs/cgroup; i=0; while [ $i -lt {DEPTH} ]; do mkdir {name} && cd -P {name} || exit 1; i=$((i+1)); done; \
         i=0; while [ $i -lt {PROCESSES} ]; do sleep 10000 >/dev/null 2>&1 </dev/null & echo $! >cgroup.procs || exit 2; \
         i=$((i+1)); done"
    );
    let made = opened.guest.run(&["sh", "-c", &script]).unwrap();
    assert_eq!(made.status, Some(0), "{made:?}");
    let options = Options { budget: PATIENT, ..Options::default() };
    let snapshot =
        introspect::snapshot(&*opened.vm.memory, &opened.kernel, opened.facts(), &options).unwrap();
    assert_eq!(snapshot.problems, []);
    let long: Vec<&str> = snapshot
        .processes
        .iter()
        .filter_map(|process| process.cgroup.as_deref())
        .filter(|path| path.len() > DEPTH * 250)
        .collect();
    assert_eq!(long.len(), PROCESSES, "all of it is shown for each");
    let places: BTreeSet<*const u8> = long.iter().map(|path| path.as_ptr()).collect();
    assert_eq!(places.len(), 1, "they share it");
}

/// Memory in which a long run of words says something when it is read at once, and nothing when it is looked at closer.
#[derive(Debug)]
struct Full<'m> {
    memory: &'m dyn GuestMemory,
    run: Region,
    word: u64,
}

impl GuestMemory for Full<'_> {
    fn regions(&self) -> &[Region] {
        self.memory.regions()
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        if buf.len() < 16 << 10 || !self.run.contains(at, buf.len() as u64) {
            return self.memory.read(at, buf);
        }
        buf.as_chunks_mut::<8>().0.fill(self.word.to_le_bytes());
        Ok(())
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        self.memory.populated(within)
    }

    fn access(&self) -> Access {
        self.memory.access()
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        self.memory.begin_look()
    }
}

/// The most memory that this process has had, and what it has, in KiB.
fn most_memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (value("VmHWM:"), value("VmRSS:"))
}

#[test]
fn the_largest_table_that_a_guest_can_claim_takes_little_memory_and_a_larger_one_is_not_believed() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    const BUCKETS: u64 = 1 << 24;
    let opened = Opened::boot(GuestSpec::new(Kernel::V6_1).memory_mib(448)).unwrap();
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let liar = Liar { opened };
    let clean = liar.opened.snapshot().unwrap();
    assert_eq!(clean.problems, []);
    let memory = &*liar.opened.vm.memory;

    // Where the guest has next to nothing, so that reading it makes nothing of it this process's.
    let region = memory.regions().iter().max_by_key(|region| region.len).unwrap();
    let runs = (region.start.0..region.end().0 - BUCKETS * 8).step_by(16 << 20);
    let used = |start: u64| {
        let run = Region { start: Gpa(start), len: BUCKETS * 8 };
        let used: u64 = memory.populated(run).unwrap().iter().map(|extent| extent.len).sum();
        (used, run)
    };
    let (used, run) = runs.map(used).min_by_key(|(used, _)| *used).unwrap();
    assert!(used < 16 << 20, "{used} bytes");
    let known = clean.sockets.get(0).unwrap().sock.0;
    let direct = known - liar.physical(known);
    let full = Full { memory, run, word: known };

    let table = liar.opened.kernel.symbol("tcp_hashinfo").unwrap().0;
    let (base, mask) =
        (liar.member(table, "inet_hashinfo", "ehash"), liar.member(table, "inet_hashinfo", "ehash_mask"));
    for (at, value) in [(base, direct + run.start.0), (mask, liar.peek(mask) & !0xffff_ffff | (BUCKETS - 1))]
    {
        liar.opened.guest.poke_physical(liar.physical(at), &value.to_le_bytes()).unwrap();
    }
    let (_, before) = most_memory();
    let budget = Budget { time: Duration::from_secs(60), bytes: 1 << 30 };
    let options = Options { budget, ..Options::default() };
    let snapshot = introspect::snapshot(&full, &liar.opened.kernel, liar.opened.facts(), &options).unwrap();
    let (most, _) = most_memory();
    assert_eq!(snapshot.problems, [], "all of it was read");
    let took = most.saturating_sub(before);
    assert!(took < 64 << 10, "reading it took {took} KiB");

    // Buckets of UDP are twice as large, and leave no room for anything else.
    let table = liar.opened.kernel.symbol("udp_table").unwrap().0;
    let mask = liar.member(table, "udp_table", "mask");
    let snapshot = liar.look_with(mask, liar.peek(mask) & !0xffff_ffff | (BUCKETS - 1));
    assert!(has(&snapshot, ProblemKind::Implausible, "UDP hash table"), "{:?}", snapshot.problems);
    assert_nothing_is_called_hidden(&snapshot);
}
