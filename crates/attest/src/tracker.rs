//! The life of findings across looks: seen, confirmed, still there, gone.
//!
//! A running guest changes while it is read, so one look proves nothing: a finding opens when it was seen in as many
//! looks in a row as its rule's policy asks for (at least two), and closes when it was missing in as many. A look that
//! was partly blind proves the absence of nothing, so in it nothing is closed and nothing starts over. There is no clock
//! here; when to look is the caller's affair. The state can be stored (it is serde) and survives a restart, since the ids
//! are stable. Must never grow without bound, whatever a guest does.

use crate::policy::Policy;
use facts::{ConsistencyMode, Finding, rule};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most findings that are followed at a time. A guest that stays blind and drifts in new ways every second would
/// otherwise fill the memory: beyond this, what was not seen for the longest time is forgotten (not closed).
const FOLLOWED_LIMIT: usize = 4096;

/// Follows the findings of one VM.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tracker {
    followed: BTreeMap<String, Followed>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Followed {
    finding: Finding,
    /// Looks in a row without it that were not blind.
    missing: u32,
    /// Looks in a row without it.
    unseen: u32,
    open: bool,
}

/// What one look changed. In each list, in the order of `compare`: worst first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Seen, and not yet in enough looks.
    pub pending: Vec<Finding>,
    /// Confirmed by this look: report them, act on them.
    pub opened: Vec<Finding>,
    /// Confirmed earlier and not closed, also when this very look did not see them.
    pub still_open: Vec<Finding>,
    /// Were open, and are gone.
    pub closed: Vec<Finding>,
}

impl Progress {
    /// All findings that are open now, worst first.
    #[must_use]
    pub fn confirmed(&self) -> Vec<Finding> {
        sorted(self.opened.iter().chain(&self.still_open).cloned().collect())
    }
}

impl Tracker {
    /// Takes the findings of one look. A look at a guest that stands still (a file, a paused VM) needs no second one.
    pub fn feed(&mut self, findings: Vec<Finding>, policy: &Policy, mode: ConsistencyMode) -> Progress {
        self.feed_doubting(findings, policy, mode, |_| false, true)
    }

    /// The same for a look that is not to be believed in everything: a doubted finding is not confirmed however often it was seen,
    /// and where absence proves nothing, nothing is closed.
    pub fn feed_doubting(
        &mut self,
        findings: Vec<Finding>,
        policy: &Policy,
        mode: ConsistencyMode,
        doubted: impl Fn(&Finding) -> bool,
        absence_counts: bool,
    ) -> Progress {
        let needed = |rule: &str| match mode {
            ConsistencyMode::Still => 1,
            ConsistencyMode::Live | ConsistencyMode::Paused => policy.decide(rule).confirmations,
        };
        let blind = findings.iter().any(|finding| finding.rule == rule::GUEST_BLIND);
        let mut progress = Progress::default();
        let mut seen = BTreeSet::new();
        for mut finding in findings {
            // Twice in one look is not two looks.
            if !seen.insert(finding.id.clone()) {
                continue;
            }
            let known = self.followed.get(&finding.id);
            finding.confirmations = known.map_or(0, |known| known.finding.confirmations).saturating_add(1);
            let was_open = known.is_some_and(|known| known.open);
            let open = was_open || (finding.confirmations >= needed(&finding.rule) && !doubted(&finding));
            let list = match (was_open, open) {
                (true, _) => &mut progress.still_open,
                (false, true) => &mut progress.opened,
                (false, false) => &mut progress.pending,
            };
            list.push(finding.clone());
            self.followed.insert(finding.id.clone(), Followed { finding, missing: 0, unseen: 0, open });
        }
        self.followed.retain(|id, followed| {
            if seen.contains(id) {
                return true;
            }
            followed.unseen = followed.unseen.saturating_add(1);
            // What was not confirmed starts over: the looks have to agree in a row.
            if !blind && !followed.open {
                return false;
            }
            if !blind && absence_counts {
                followed.missing = followed.missing.saturating_add(1);
                if followed.missing >= needed(&followed.finding.rule) {
                    progress.closed.push(followed.finding.clone());
                    return false;
                }
            }
            if followed.open {
                progress.still_open.push(followed.finding.clone());
            }
            true
        });
        self.forget_oldest();
        progress.still_open = sorted(progress.still_open);
        progress.closed = sorted(progress.closed);
        progress
    }

    /// What is followed, as last seen, and whether it is open (confirmed and not closed).
    pub fn followed(&self) -> impl Iterator<Item = (&Finding, bool)> {
        self.followed.values().map(|followed| (&followed.finding, followed.open))
    }

    fn forget_oldest(&mut self) {
        let excess = self.followed.len().saturating_sub(FOLLOWED_LIMIT);
        if excess == 0 {
            return;
        }
        let mut by_age: Vec<_> = self.followed.iter().map(|(id, f)| (f.unseen, id.clone())).collect();
        by_age.sort_unstable_by(|a, b| b.cmp(a));
        for (_, id) in by_age.into_iter().take(excess) {
            self.followed.remove(&id);
        }
    }
}

fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.id.cmp(&b.id)));
    findings
}
