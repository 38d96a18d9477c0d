//! A guest that changes as fast as it can while it is looked at.

use crate::opened::Opened;
use attest::{Policy, Tracker};
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use testkit::{Activity, Backing, GuestSpec, Kernel, Need, Spawn};

/// At least so many looks, during which the guest started so many processes that live for a moment only, loaded so many eBPF programs
/// that do, and loaded and unloaded a module so often.
const LOOKS: u32 = 10_000;
const STRANGERS: usize = 300;
const PROGRAMS: usize = 100;
const ROUNDS: u32 = 4;

/// Between two looks while something is seen that is not confirmed.
const BETWEEN: Duration = Duration::from_millis(20);

/// Everything that lives through the storm is in every look, once, and whole, and nothing is taken for hidden.
fn storm(kernel: Kernel, backing: Backing, looks: u32) {
    if !testkit::require(&[Need::Guest(kernel)]) {
        return;
    }
    let opened = Opened::boot(GuestSpec::new(kernel).backing(backing)).unwrap();
    let steady =
        opened.guest.spawn_many(20, Spawn { exe: "/usr/bin/steady".into(), ..Spawn::default() }).unwrap();
    let steady: BTreeSet<u32> = steady.iter().map(|process| process.pid).collect();
    opened.guest.fork_storm(4, 600).unwrap();
    let programs =
        Spawn { activity: Activity::ProgramStorm, exe: "/usr/bin/programs".into(), ..Spawn::default() };
    opened.guest.spawn(programs).unwrap();
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

fn watch(opened: &Opened, steady: &BTreeSet<u32>, looks: u32, rounds: &AtomicU32) {
    let policy = Policy::default();
    let mut tracker = Tracker::default();
    let (mut strangers, mut programs) = (BTreeSet::new(), BTreeSet::new());
    // Until the guest has demonstrably changed under many looks, however slow its emulation is today.
    let started = Instant::now();
    let mut look = 0;
    let changed = |strangers: usize, programs: usize| {
        strangers >= STRANGERS && programs >= PROGRAMS && rounds.load(Ordering::Relaxed) >= ROUNDS
    };
    while look < looks
        || (!changed(strangers.len(), programs.len()) && started.elapsed() < Duration::from_secs(40))
    {
        look += 1;
        let snapshot = opened.snapshot().unwrap();
        let pids: Vec<u32> = snapshot.processes.iter().map(|process| process.pid).collect();
        let unique: BTreeSet<u32> = pids.iter().copied().collect();
        assert_eq!(unique.len(), pids.len(), "look {look}: a pid twice");
        let missed: Vec<_> = steady.difference(&unique).collect();
        assert!(missed.is_empty(), "look {look} missed {missed:?}: {:?}", snapshot.problems);
        for process in snapshot.processes.iter().filter(|process| steady.contains(&process.pid)) {
            assert_eq!(process.exe.as_deref(), Some("/usr/bin/steady"), "look {look}");
            assert!(process.args.is_some(), "look {look}");
        }
        let found = attest::cross_views(&snapshot, &policy);
        let progress = tracker.feed(found, &policy, snapshot.consistency.mode);
        assert_eq!(progress.confirmed(), [], "look {look} confirmed what is not true");
        programs.extend(snapshot.ebpf_programs.iter().flatten().filter_map(|program| program.id));
        strangers.extend(unique.difference(steady).copied());
        if !progress.pending.is_empty() {
            // As `birthmark audit` does. A module is on one list and not yet on the next for some instructions, and a busy
            // host may leave the guest's CPU standing between them for longer than a look takes.
            std::thread::sleep(BETWEEN);
        }
    }
    let loaded = rounds.load(Ordering::Relaxed);
    assert!(loaded >= ROUNDS, "the guest loaded its module {loaded} times");
    assert!(programs.len() >= PROGRAMS, "the guest did not load programs: {} in all", programs.len());
    assert!(strangers.len() >= STRANGERS, "the guest did not fork: {} pids in all", strangers.len());
}

#[test]
fn a_storm_of_forks_modules_and_programs_hides_nothing_and_is_no_finding_in_ten_thousand_looks() {
    storm(Kernel::V6_12, Backing::Memfd, LOOKS);
}

#[test]
fn a_storm_hides_nothing_in_a_guest_that_is_read_by_calls() {
    storm(Kernel::V6_1, Backing::Anonymous, 300);
}
