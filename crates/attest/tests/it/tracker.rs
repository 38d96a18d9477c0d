//! Two looks that agree: opened, confirmed, closed.

use crate::fixture::*;
use attest::{Policy, Progress, RulePolicy, Tracker};
use facts::*;

fn rogue() -> Vec<Finding> {
    drift(|s| s.processes.push(process(600, "rogue", "/tmp/rogue")))
}

fn blind() -> Vec<Finding> {
    drift(|s| s.problems.push(problem(ProblemKind::Unmapped, "task list 0xffffffff82e1b3c0")))
}

fn live(tracker: &mut Tracker, findings: Vec<Finding>) -> Progress {
    tracker.feed(findings, &Policy::default(), ConsistencyMode::Live)
}

/// Lengths of pending, opened, still open, closed.
fn counts(progress: &Progress) -> [usize; 4] {
    [progress.pending.len(), progress.opened.len(), progress.still_open.len(), progress.closed.len()]
}

#[test]
fn a_finding_opens_in_the_second_look_in_a_row_stays_and_closes() {
    let mut tracker = Tracker::default();
    assert_eq!(counts(&live(&mut tracker, rogue())), [1, 0, 0, 0]);
    let second = live(&mut tracker, rogue());
    assert_eq!(counts(&second), [0, 1, 0, 0]);
    assert_eq!(second.opened[0].confirmations, 2);
    assert_eq!(second.confirmed().len(), 1);
    let third = live(&mut tracker, rogue());
    assert_eq!(counts(&third), [0, 0, 1, 0]);
    assert_eq!(third.still_open[0].confirmations, 3);
    assert_eq!(counts(&live(&mut tracker, vec![])), [0, 0, 1, 0]);
    assert_eq!(counts(&live(&mut tracker, vec![])), [0, 0, 0, 1]);
    assert_eq!(counts(&live(&mut tracker, vec![])), [0, 0, 0, 0]);
    assert_eq!(counts(&live(&mut tracker, rogue())), [1, 0, 0, 0]);
}

#[test]
fn a_finding_that_flickers_is_a_race_and_never_opens() {
    let mut tracker = Tracker::default();
    for _ in 0..5 {
        assert_eq!(counts(&live(&mut tracker, rogue())), [1, 0, 0, 0]);
        assert_eq!(counts(&live(&mut tracker, vec![])), [0, 0, 0, 0]);
    }
}

#[test]
fn an_open_finding_that_was_missed_once_stays_open() {
    let mut tracker = Tracker::default();
    live(&mut tracker, rogue());
    live(&mut tracker, rogue());
    for _ in 0..5 {
        assert_eq!(counts(&live(&mut tracker, vec![])), [0, 0, 1, 0]);
        assert_eq!(counts(&live(&mut tracker, rogue())), [0, 0, 1, 0]);
    }
}

#[test]
fn a_blind_look_neither_closes_nor_starts_over() {
    let mut tracker = Tracker::default();
    live(&mut tracker, rogue());
    assert_eq!(counts(&live(&mut tracker, blind())), [1, 0, 0, 0]);
    assert_eq!(counts(&live(&mut tracker, rogue())), [0, 1, 0, 0]);
    for _ in 0..9 {
        let progress = live(&mut tracker, blind());
        assert!(progress.closed.is_empty());
        assert!(progress.still_open.iter().any(|f| f.rule == rule::PROCESS_UNKNOWN));
    }
}

#[test]
fn the_policy_says_how_many_looks() {
    let mut policy = Policy::default();
    let three = RulePolicy { confirmations: Some(3), ..RulePolicy::default() };
    policy.rules.insert(rule::PROCESS_UNKNOWN.to_owned(), three);
    let mut tracker = Tracker::default();
    let mut look = || counts(&tracker.feed(rogue(), &policy, ConsistencyMode::Live));
    assert_eq!([look(), look(), look()], [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]);
}

#[test]
fn one_look_at_what_stands_still_is_enough() {
    let progress = Tracker::default().feed(rogue(), &Policy::default(), ConsistencyMode::Still);
    assert_eq!(counts(&progress), [0, 1, 0, 0]);
}

#[test]
fn a_stored_tracker_goes_on_after_a_restart() {
    let mut tracker = Tracker::default();
    live(&mut tracker, rogue());
    let stored = serde_json::to_string(&tracker).unwrap();
    let mut restored: Tracker = serde_json::from_str(&stored).unwrap();
    assert_eq!(counts(&live(&mut restored, rogue())), [0, 1, 0, 0]);
}

#[test]
fn a_guest_that_stays_blind_and_changes_cannot_fill_the_memory() {
    let mut tracker = Tracker::default();
    let [template] = rogue().try_into().unwrap();
    for look in 0..40 {
        let mut findings = blind();
        findings.extend((0..256).map(|n| Finding { id: format!("{look}-{n}"), ..template.clone() }));
        live(&mut tracker, findings);
    }
    let stored = serde_json::to_value(&tracker).unwrap();
    let followed = stored["followed"].as_object().unwrap();
    assert_eq!(followed.len(), 4096);
    assert!(followed.contains_key("39-0") && !followed.contains_key("0-0"));
}

#[test]
fn a_finding_twice_in_one_look_is_one_look() {
    let mut tracker = Tracker::default();
    let twice: Vec<_> = rogue().into_iter().chain(rogue()).collect();
    assert_eq!(counts(&live(&mut tracker, twice)), [1, 0, 0, 0]);
}
