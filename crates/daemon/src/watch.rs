//! What one VM's looks add up to: findings that open, are confirmed, close, and when to act. Pure: no clock, no I/O.

use crate::events::{Event, LookRef, VmRef};
use attest::{Certificate, Policy, Tracker, compare, judge};
use facts::{Finding, Snapshot, Verdict, Vm};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Follows the findings of one running VM.
#[derive(Debug, Default)]
pub struct Watch {
    tracker: Tracker,
    /// Start of the look that first saw each finding that is not closed, and its rule.
    first_seen: BTreeMap<String, (Instant, String)>,
}

/// What one look led to.
#[derive(Debug)]
pub struct Outcome {
    /// What to tell, in order.
    pub events: Vec<Event>,
    /// What holds now.
    pub verdict: Verdict,
    /// Findings that are confirmed and not closed, worst first.
    pub confirmed: Vec<Finding>,
    /// Findings that a further look has to confirm: look again soon.
    pub pending: Vec<Finding>,
    /// How many looks after the first it takes to confirm the pending ones; 0 when there are none.
    pub looks_to_confirm: u32,
    /// Ids of confirmed findings for which the certificate wants the VM cut off.
    pub grounds: Vec<String>,
}

impl Watch {
    /// Takes a look that began at `started`. `confirmations` is the least number of looks that must agree.
    pub fn take(
        &mut self,
        vm: &Vm,
        snapshot: &Snapshot,
        certificate: &Certificate,
        confirmations: u32,
        started: Instant,
        ended: Instant,
    ) -> Outcome {
        let policy = at_least(&certificate.policy, confirmations);
        let findings = compare(certificate, snapshot);
        let progress = self.tracker.feed(findings, &policy, snapshot.consistency.mode);
        let look = LookRef { taken_at: snapshot.taken_at.clone(), elapsed_us: snapshot.elapsed_us };
        let vm = VmRef::from(vm);
        let mut events = Vec::new();

        for finding in progress.pending.iter().chain(&progress.opened) {
            if !self.first_seen.contains_key(&finding.id) {
                self.first_seen.insert(finding.id.clone(), (started, finding.rule.clone()));
                let (vm, finding, look) = (vm.clone(), finding.clone(), look.clone());
                events.push(Event::FindingOpened { vm, finding, look });
            }
        }
        for finding in &progress.opened {
            let seconds_to_confirm = self
                .first_seen
                .get(&finding.id)
                .map_or(0.0, |(first, _)| ended.saturating_duration_since(*first).as_secs_f64());
            let (vm, finding, look) = (vm.clone(), finding.clone(), look.clone());
            events.push(Event::FindingConfirmed { vm, finding, look, seconds_to_confirm });
        }
        for Finding { id, rule, .. } in &progress.closed {
            self.first_seen.remove(id);
            events.push(Event::FindingClosed { vm: vm.clone(), id: id.clone(), rule: rule.clone() });
        }
        let confirmed = progress.confirmed();
        let alive: BTreeSet<&str> =
            progress.pending.iter().chain(&confirmed).map(|finding| finding.id.as_str()).collect();
        let dismissed: Vec<String> =
            self.first_seen.keys().filter(|id| !alive.contains(id.as_str())).cloned().collect();
        for id in dismissed {
            if let Some((_, rule)) = self.first_seen.remove(&id) {
                events.push(Event::FindingDismissed { vm: vm.clone(), id, rule });
            }
        }
        let grounds = confirmed
            .iter()
            .filter(|finding| policy.decide(&finding.rule).quarantines())
            .map(|finding| finding.id.clone())
            .collect();
        let looks_to_confirm = progress
            .pending
            .iter()
            .map(|finding| policy.decide(&finding.rule).confirmations.saturating_sub(1))
            .max()
            .unwrap_or(0);
        let verdict = judge(Some(certificate), &confirmed, Some(snapshot));
        Outcome { events, verdict, confirmed, pending: progress.pending, looks_to_confirm, grounds }
    }

    /// Start of the look that first saw the earliest of these findings.
    #[must_use]
    pub fn first_seen(&self, ids: &[String]) -> Option<Instant> {
        ids.iter().filter_map(|id| self.first_seen.get(id)).map(|(first, _)| *first).min()
    }
}

/// The policy with no rule asking for fewer looks than `confirmations`.
fn at_least(policy: &Policy, confirmations: u32) -> Policy {
    let mut policy = policy.clone();
    policy.confirmations = policy.confirmations.max(confirmations);
    for rule in policy.rules.values_mut() {
        rule.confirmations = rule.confirmations.map(|stated| stated.max(confirmations));
    }
    policy
}
