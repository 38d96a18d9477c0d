//! What one VM's looks add up to: findings that open, are confirmed, stay, close, and when to act. Pure: no clock, no I/O.
//!
//! It can be written and read again (`memory.rs` does), and goes on where it was: what was told before is not told as new.

use crate::boot::Belief;
use crate::events::{Event, LookRef, VmRef};
use attest::{Certificate, Policy, Tasks, Tracker, compare, judge};
use facts::{Finding, Snapshot, Verdict, Vm};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Follows the findings of one VM.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Watch {
    tracker: Tracker,
    /// What was told and is neither closed nor dismissed, by its id.
    told: BTreeMap<String, Told>,
    /// What the last look showed of tasks.
    #[serde(skip)]
    tasks: Option<Tasks>,
    /// Start of the look that first saw each finding that is not confirmed.
    #[serde(skip)]
    first_seen: BTreeMap<String, Instant>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    rule: String,
    /// When the look that first saw it began (RFC 3339).
    since: String,
    /// The same on the clock that never jumps. `None`: that was in an earlier run.
    #[serde(skip)]
    first_seen: Option<Instant>,
    /// Whether it was told by an earlier run only, which is so for what was read from disk.
    #[serde(skip, default = "yes")]
    of_earlier_run: bool,
}

fn yes() -> bool {
    true
}

/// What one look led to.
#[derive(Debug)]
pub struct Outcome {
    /// What to tell, in order.
    pub events: Vec<Event>,
    /// The look.
    pub look: LookRef,
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
    #[expect(clippy::too_many_arguments, reason = "each is another thing that a look brings")]
    pub fn take(
        &mut self,
        vm: &Vm,
        snapshot: &Snapshot,
        certificate: &Certificate,
        confirmations: u32,
        belief: &Belief,
        started: Instant,
        ended: Instant,
    ) -> Outcome {
        let policy = at_least(&certificate.policy, confirmations);
        let findings = compare(certificate, snapshot);
        for finding in &findings {
            self.first_seen.entry(finding.id.clone()).or_insert(started);
        }
        let first_seen = |finding: &Finding| self.first_seen.get(&finding.id).copied().unwrap_or(started);
        let progress = self.tracker.feed_doubting(
            findings,
            &policy,
            snapshot.consistency.mode,
            |finding| belief.doubts(finding, first_seen(finding), started),
            !belief.is_vague(),
        );
        let turnover = self.tasks.replace(Tasks::of(snapshot)).and_then(|tasks| tasks.turnover(snapshot));
        let look = LookRef { taken_at: snapshot.taken_at.clone(), elapsed_us: snapshot.elapsed_us, turnover };
        let vm = VmRef::from(vm);
        let mut events = Vec::new();

        let told_at_once = progress.pending.iter().filter(|_| !belief.is_vague());
        for finding in told_at_once.chain(&progress.opened) {
            if !self.told.contains_key(&finding.id) {
                let (rule, since) = (finding.rule.clone(), snapshot.taken_at.clone());
                let first_seen = self.first_seen.get(&finding.id).copied().or(Some(started));
                self.told.insert(finding.id.clone(), Told { rule, since, first_seen, of_earlier_run: false });
                let (vm, finding, look) = (vm.clone(), finding.clone(), look.clone());
                events.push(Event::FindingOpened { vm, finding, look });
            }
        }
        for finding in &progress.opened {
            let first_seen = self.told.get(&finding.id).and_then(|told| told.first_seen);
            let seconds_to_confirm =
                first_seen.map(|first| ended.saturating_duration_since(first).as_secs_f64());
            let (vm, finding, look) = (vm.clone(), finding.clone(), look.clone());
            events.push(Event::FindingConfirmed { vm, finding, look, seconds_to_confirm });
        }
        for finding in &progress.still_open {
            if let Some(told) = self.told.get_mut(&finding.id).filter(|told| told.of_earlier_run) {
                told.of_earlier_run = false;
                let (vm, finding, since, look) =
                    (vm.clone(), finding.clone(), told.since.clone(), look.clone());
                events.push(Event::FindingStillOpen { vm, finding, since, look });
            }
        }
        for Finding { id, rule, .. } in &progress.closed {
            self.told.remove(id);
            events.push(Event::FindingClosed { vm: vm.clone(), id: id.clone(), rule: rule.clone() });
        }
        let pending: BTreeSet<&String> = progress.pending.iter().map(|finding| &finding.id).collect();
        self.first_seen.retain(|id, _| pending.contains(id));
        let confirmed = progress.confirmed();
        let alive: BTreeSet<&str> =
            progress.pending.iter().chain(&confirmed).map(|finding| finding.id.as_str()).collect();
        let dismissed: Vec<String> =
            self.told.keys().filter(|id| !alive.contains(id.as_str())).cloned().collect();
        for id in dismissed {
            if let Some(Told { rule, .. }) = self.told.remove(&id) {
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
        Outcome { events, look, verdict, confirmed, pending: progress.pending, looks_to_confirm, grounds }
    }

    /// Start of the look that first saw the earliest of these findings. `None`: one of them is older than this run.
    #[must_use]
    pub fn first_seen(&self, ids: &[String]) -> Option<Instant> {
        let first: Option<Vec<Instant>> = ids.iter().map(|id| self.told.get(id)?.first_seen).collect();
        first?.into_iter().min()
    }

    /// When the look began that first saw each finding that is neither closed nor dismissed (RFC 3339), by its id.
    #[must_use]
    pub fn since(&self) -> BTreeMap<String, String> {
        self.told.iter().map(|(id, told)| (id.clone(), told.since.clone())).collect()
    }

    /// Ids of the findings that are followed, and whether they are confirmed.
    pub fn states(&self) -> impl Iterator<Item = (&str, bool)> {
        self.tracker.followed().map(|(finding, open)| (finding.id.as_str(), open))
    }

    /// Findings that are confirmed and those that are not, as last seen.
    #[must_use]
    pub fn findings(&self) -> (Vec<Finding>, Vec<Finding>) {
        let of = |wanted| {
            self.tracker
                .followed()
                .filter(move |(_, open)| *open == wanted)
                .map(|(finding, _)| finding.clone())
        };
        (of(true).collect(), of(false).collect())
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
