//! What came and went between two looks is counted.

use crate::fixture::{ebpf, process, web};
use attest::Tasks;
use facts::{
    Address, EbpfProgram, Problem, ProblemKind, Process, ProcessState, Snapshot, TaskKind, Thread, Turnover,
};

fn with_forks(forks: u64) -> Snapshot {
    let mut snapshot = web();
    snapshot.activity.forks = Some(forks);
    snapshot
}

fn turnover(before: &Snapshot, after: &Snapshot) -> Option<Turnover> {
    Tasks::of(before).turnover(after)
}

#[test]
fn what_the_second_look_shows_is_not_unseen() {
    let before = with_forks(100);
    let mut after = with_forks(107);
    // A process with three threads and one more thread of another.
    after.processes.push(Process { threads: Some(3), ..process(2000, "new", "/bin/new") });
    after.processes[0].threads = Some(2);
    assert_eq!(
        turnover(&before, &after),
        Some(Turnover { since: before.taken_at.clone(), created: 7, unseen: 3 })
    );
}

#[test]
fn a_pid_that_was_given_again_is_a_new_process() {
    let before = with_forks(100);
    let mut after = with_forks(101);
    after.processes[0].start_time_ns = Some(77);
    assert_eq!(
        turnover(&before, &after),
        Some(Turnover { since: before.taken_at.clone(), created: 1, unseen: 0 })
    );
}

#[test]
fn a_thread_that_took_the_place_of_another_is_seen_where_threads_are_listed() {
    let thread = |tid| Thread {
        tid,
        name: "t".into(),
        kind: TaskKind::User,
        state: None,
        start_time_ns: Some(u64::from(tid)),
        task: Address(0),
    };
    let (mut before, mut after) = (with_forks(100), with_forks(101));
    assert_eq!(turnover(&before, &after).unwrap().unseen, 1);
    before.processes[0].thread_list = Some(vec![thread(1), thread(2)]);
    after.processes[0].thread_list = Some(vec![thread(1), thread(3)]);
    assert_eq!(turnover(&before, &after).unwrap().unseen, 0);
}

#[test]
fn what_is_not_known_is_no_number() {
    let (before, after) = (with_forks(100), with_forks(101));
    assert_eq!(turnover(&after, &before), None, "the counter went back");
    let mut unknown = after.clone();
    unknown.activity.forks = None;
    assert_eq!(turnover(&before, &unknown), None);
    let mut other_boot = after.clone();
    other_boot.kernel.page_table_root = Address(0x1234_5000);
    assert_eq!(turnover(&before, &other_boot), None);
    let mut blind = after;
    blind.processes.clear();
    assert_eq!(turnover(&before, &blind), None);
}

#[test]
fn a_guest_in_which_nothing_ran_stood_still_and_one_of_which_that_is_not_known_did_not() {
    let mut before = with_forks(100);
    before.processes.iter_mut().for_each(|process| process.cpu_time_ns = Some(5_000));
    assert!(Tasks::of(&before).is_same_moment(&before.clone()));
    let moved = |change: &dyn Fn(&mut Snapshot)| {
        let mut after = before.clone();
        change(&mut after);
        !Tasks::of(&before).is_same_moment(&after)
    };
    assert!(moved(&|s| s.processes[3].cpu_time_ns = Some(5_001)));
    assert!(moved(&|s| s.activity.forks = Some(101)));
    assert!(moved(&|s| drop(s.processes.pop())));
    assert!(moved(&|s| s.processes[3].start_time_ns = Some(77)));
    assert!(moved(&|s| s.kernel.kaslr_offset = Address(0x99)));
    // The order of rows is nothing that happened.
    assert!(!moved(&|s| s.processes.reverse()));
    for unknown in
        [|s: &mut Snapshot| s.activity.forks = None, |s: &mut Snapshot| s.processes[3].cpu_time_ns = None]
    {
        let mut same = before.clone();
        unknown(&mut same);
        assert!(!Tasks::of(&same).is_same_moment(&same.clone()));
    }
}

#[test]
fn a_look_is_at_the_same_moment_until_whoever_is_about_to_run_has_run_twice_or_wants_no_cpu_any_more() {
    let mut before = with_forks(100);
    before.processes.iter_mut().for_each(|process| process.cpu_time_ns = Some(5_000));
    let mut after = before.clone();
    after.processes[2].state = Some(ProcessState::Running);
    // Others go on meanwhile.
    after.activity.forks = Some(140);
    after.processes[3].cpu_time_ns = Some(9_000);
    let mut tasks = Tasks::of(&before);
    assert!(tasks.is_same_moment(&after));
    after.processes[2].cpu_time_ns = Some(5_500);
    assert!(tasks.is_same_moment(&after), "what it had used by then may be counted only now");
    assert!(tasks.is_same_moment(&after), "it did not run again");
    after.processes[2].cpu_time_ns = Some(5_600);
    assert!(!tasks.is_same_moment(&after));
    let ends = |change: &dyn Fn(&mut Snapshot)| {
        let mut later = after.clone();
        later.processes[2].cpu_time_ns = Some(5_000);
        change(&mut later);
        !Tasks::of(&before).is_same_moment(&later)
    };
    assert!(!ends(&|_| ()));
    assert!(ends(&|s| s.processes[2].state = Some(ProcessState::Sleeping)));
    assert!(ends(&|s| drop(s.processes.remove(2))));
    assert!(ends(&|s| s.processes[2].start_time_ns = Some(77)), "another process of this number");
    assert!(ends(&|s| s.processes[2].cpu_time_ns = None), "what is not known proves nothing");
    assert!(ends(&|s| s.kernel.kaslr_offset = Address(0x99)));
}

#[test]
fn a_look_is_at_the_same_moment_while_the_same_program_may_be_on_its_way_out() {
    // Whether its link is missing or that is not known.
    let missing = |program: u64, forks| {
        let mut snapshot = with_forks(forks);
        let views_missing = vec!["link".into()];
        let program = EbpfProgram {
            program: Address(program),
            views_missing,
            ..ebpf("raw", "raw_tracepoint", "0000000000000001")
        };
        snapshot.ebpf_programs.get_or_insert_default().push(program);
        snapshot
    };
    let unknown = |program: u64, forks| {
        let mut snapshot = with_forks(forks);
        let location = format!("bpf_prog (link) {}", Address(program));
        snapshot.problems.push(Problem { kind: ProblemKind::Inconsistent, location, detail: String::new() });
        snapshot
    };
    for first in [missing(0x1000, 100), unknown(0x1000, 100)] {
        let mut tasks = Tasks::of(&first);
        assert!(tasks.is_same_moment(&missing(0x1000, 101)));
        assert!(tasks.is_same_moment(&unknown(0x1000, 102)));
        assert!(!tasks.is_same_moment(&missing(0x2000, 103)), "another program");
        assert!(!tasks.is_same_moment(&unknown(0x2000, 103)), "another program");
        assert!(!tasks.is_same_moment(&with_forks(103)), "it is out");
        let mut other_boot = unknown(0x1000, 104);
        other_boot.kernel.kaslr_offset = Address(0x99);
        assert!(!tasks.is_same_moment(&other_boot));
    }
    assert!(!Tasks::of(&with_forks(100)).is_same_moment(&missing(0x1000, 101)), "it was not leaving then");
}
