//! A resizable hash table that is being moved to another while it is read: the one of SCTP's transports, in a stopped guest, so that it
//! stands still between any two steps, and with memory in front of it that changes between any two readings.

use crate::changing::{Changing, Words};
use crate::opened::{Opened, PATIENT};
use crate::socket_views::Stopped;
use facts::{ProblemKind, Snapshot};
use guest_profiles::{Profile, Wanted, WantedType};
use introspect::{Options, Tables};
use testkit::{GuestSpec, Kernel, Need, SocketSpec, Spawn};
use vmi_core::{Access, GuestMemory};

const SCTP: Wanted = Wanted {
    types: &[
        WantedType { name: "sctp_globals", members: &["transport_hashtable"] },
        WantedType { name: "sctp_transport", members: &["node", "asoc"] },
    ],
    enums: &[],
    symbols: &["sctp_globals"],
};

/// No memory of the kernel's.
const WILD: u64 = 0x4141_4141_4141_4140;

/// A chain of the table.
struct Chain {
    bucket: u64,
    nodes: Vec<u64>,
}

fn boot() -> (Opened, Profile) {
    let opened = Opened::boot(GuestSpec::new(Kernel::V6_1).memory_mib(256)).unwrap();
    for module in ["crc32c_generic", "sctp"] {
        // What is built in need not be loaded.
        let loaded = opened.guest.load_module(module);
        assert!(loaded.is_ok() || module == "crc32c_generic", "{loaded:?}");
    }
    opened.guest.spawn(Spawn { sockets: vec![SocketSpec::SctpPairs], ..Spawn::default() }).unwrap();
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let profile = opened.kernel.module_profile(&*opened.vm.memory, "sctp", &SCTP, PATIENT).unwrap();
    (opened, profile.unwrap())
}

fn chains(stopped: &Stopped<'_>, table: u64) -> Vec<Chain> {
    let size = stopped.peek(stopped.member(table, "bucket_table", "size")) & 0xffff_ffff;
    let buckets = stopped.member(table, "bucket_table", "buckets");
    let mut chains = Vec::new();
    for bucket in (0..size).map(|index| buckets + index * 8) {
        let mut nodes = Vec::new();
        let mut at = stopped.peek(bucket) & !1;
        while at != 0 && at & 1 == 0 {
            nodes.push(at);
            at = stopped.peek(at);
        }
        chains.push(Chain { bucket, nodes });
    }
    chains
}

fn look(opened: &Opened, memory: &dyn GuestMemory) -> Snapshot {
    let tables = Tables { processes: false, sockets: true, modules: false, ebpf: false };
    let options = Options { budget: PATIENT, tables, ..Options::default() };
    introspect::snapshot(memory, &opened.kernel, opened.facts(), &options).unwrap()
}

/// Memory that nobody has, by the addresses that the kernel would have it at.
fn free_pages(opened: &Opened, stopped: &Stopped<'_>, known: u64) -> [u64; 2] {
    let memory = &*opened.vm.memory;
    let region = memory.regions().iter().find(|region| region.len > 0x100_0000).unwrap();
    let used = memory.populated(*region).unwrap();
    let mut free = (region.start.0 + 0x10_0000..region.end().0)
        .step_by(4096)
        .filter(|at| !used.iter().any(|extent| extent.contains(vmi_core::Gpa(*at), 1)));
    // All memory is in one piece at the addresses of objects.
    let direct = known - stopped.physical(known);
    [free.next().unwrap(), free.next().unwrap()].map(|page| page + direct)
}

#[test]
fn a_table_that_is_on_the_move_or_gone_by_the_time_it_is_read_loses_nobody_and_is_no_problem() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let (opened, profile) = boot();
    let stopped = Stopped::new(&opened);
    let clean = opened.snapshot().unwrap();
    assert_eq!(clean.problems, []);
    let addressed = |snapshot: &Snapshot| {
        let has = |socket: &&facts::Socket| socket.protocol.as_deref() == Some("sctp");
        let views = snapshot.sockets.iter().filter(has);
        views.filter(|socket| socket.views.iter().any(|view| view == "address_table")).count()
    };
    assert_eq!(addressed(&clean), 5);

    let offset = |record, path| profile.field(record, path).unwrap().offset;
    let head = profile.symbol("sctp_globals").unwrap() + offset("sctp_globals", "transport_hashtable");
    let head = stopped.member(head, "rhashtable", "tbl");
    let table = stopped.peek(head);
    let chains = chains(&stopped, table);
    let used: Vec<&Chain> = chains.iter().filter(|chain| !chain.nodes.is_empty()).collect();
    assert!(used.len() >= 2, "there are two chains");
    let [other, page] = free_pages(&opened, &stopped, clean.sockets.get(0).unwrap().sock.0);
    let buckets = stopped.member(other, "bucket_table", "buckets");
    let last = |chain: &Chain| *chain.nodes.last().unwrap();
    let leads_to_last = |chain: &Chain| match chain.nodes.as_slice() {
        [.., before, _] => *before,
        _ => chain.bucket,
    };
    let end = |bucket: u64| bucket | 1;
    // Two buckets, flat.
    let future = [
        (stopped.member(other, "bucket_table", "size"), 2),
        (stopped.member(table, "bucket_table", "future_tbl"), other),
    ];
    let with = |changes: &[(u64, u64)]| stopped.look_with(&[&future[..], changes].concat());

    // The steps in which the last one of a chain is moved.
    let moved = used[0];
    let leads_there = (last(moved), end(buckets));
    let is_there = (buckets, last(moved));
    let is_away = match moved.nodes.len() {
        1 => (moved.bucket, 0),
        _ => (leads_to_last(moved), end(moved.bucket)),
    };
    for steps in [&[leads_there][..], &[leads_there, is_there], &[leads_there, is_there, is_away]] {
        let snapshot = with(steps);
        assert_eq!(snapshot.problems, [], "{} steps", steps.len());
        assert_eq!(snapshot.sockets, clean.sockets, "{} steps", steps.len());
    }
    // One is moved at a time, and nobody is moved where there is no other table.
    let told = |snapshot: &Snapshot| {
        let of_table = |problem: &&facts::Problem| problem.location.starts_with("SCTP transport table");
        snapshot.problems.iter().filter(of_table).map(|problem| problem.kind).collect::<Vec<_>>()
    };
    let another = (last(used[1]), end(buckets + 8));
    assert_eq!(told(&with(&[leads_there, another])), [ProblemKind::Inconsistent]);
    assert_eq!(told(&stopped.look_with(&[leads_there])), [ProblemKind::Inconsistent]);
    assert_eq!(
        told(&with(&[(last(moved), end(buckets + 16))])),
        [ProblemKind::Inconsistent],
        "behind its end"
    );

    // A table that is freed and used again while it is read, once the other one is the table.
    let physical = |(at, value): (u64, u64)| (stopped.physical(at), value);
    let size = stopped.member(other, "bucket_table", "size");
    let next = stopped.member(other, "bucket_table", "future_tbl");
    let empty = chains.iter().find(|chain| chain.nodes.is_empty()).unwrap().bucket;
    let node = page + offset("sctp_transport", "node");
    let association = page + offset("sctp_transport", "asoc");
    for access in [Access::Mapped, Access::PerCall] {
        let changing = |first: &[(u64, u64)], then: &[(u64, u64)], watched: u64| {
            let words = |words: &[(u64, u64)]| words.iter().copied().map(physical).collect::<Words>();
            let watched = stopped.physical(watched);
            let memory = Changing::new(&*opened.vm.memory, access, &words(first), &words(then), watched, 1);
            let snapshot = look(&opened, &memory);
            assert!(memory.reads() >= 1, "{access:?}: it never changed");
            assert_eq!(addressed(&snapshot), 5, "{access:?}: {:?}", snapshot.problems);
            assert_eq!(snapshot.sockets, clean.sockets, "{access:?}");
            snapshot
        };
        let gone: [&[(u64, u64)]; 4] = [
            &[(size, u64::MAX)],
            &[(size, 1), (buckets, WILD)],
            &[(size, 1), (buckets, last(moved)), (next, WILD)],
            &[(size, 0), (next, other)],
        ];
        for words in gone {
            let first = [&[(head, other)], words].concat();
            let snapshot = changing(&first, words, head);
            assert_eq!(snapshot.problems, [], "{access:?}: {words:x?}");
            assert!(snapshot.consistency.retries > 0);
        }

        // A transport that is taken off its chain and freed before it is followed.
        let garbage = [(node, end(empty)), (association, WILD)];
        let first = [&garbage[..], &[(empty, node)]].concat();
        let snapshot = changing(&first, &garbage, association);
        assert_eq!(snapshot.problems, [], "{access:?}");
        // One that is still there is told.
        let snapshot = changing(&first, &first, association);
        let [problem] = snapshot.problems.as_slice() else { panic!("{:?}", snapshot.problems) };
        assert!(problem.location.starts_with("sctp_transport"), "{problem:?}");
    }
}
