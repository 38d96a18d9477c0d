//! Whether a look may be believed at once: a VM that is reset keeps its memory.
//!
//! After a reset the tables of the kernel that ran stay where they were until firmware, loader and the next kernel write over them,
//! bit by bit. A look at such remains shows processes that are broken and hidden in every way, and two looks agree on it. But
//! nothing runs in them: no process has used the CPU since the look before. And the next kernel, once it is found, comes up with
//! programs and gaps that no certificate of a running system names.
//!
//! So a finding is confirmed only after something has run since it was first seen (a process that was seen to be born has run), and not within the grace after a boot that was
//! seen to begin. Neither ever dismisses a finding, and neither lasts: a guest that stands still is believed after [`STILL`], and no
//! more than [`GRACES`] boots an hour have a grace, so that nobody can hide by standing still or by booting again and again.

use facts::{Address, Finding, Snapshot, rule};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// How long it delays a finding that nothing ran since it was first seen.
const STILL: Duration = Duration::from_secs(30);
/// Boots that have a grace, in [`HOUR`].
const GRACES: usize = 5;
const HOUR: Duration = Duration::from_secs(3600);
/// No process starts later than that after its system's boot, in nanoseconds: ten years.
const LATEST: u64 = 10 * 365 * 86_400 * 1_000_000_000;
/// CPU time that one process can have used is that many times what has passed, and a little more.
const CPUS: u32 = 1024;
const SLACK: Duration = Duration::from_secs(1);

/// What is known of one VM's boots.
#[derive(Clone, Debug, Default)]
pub struct Boots {
    /// Where the kernel was in the last look.
    boot: Option<(Address, Address)>,
    /// A look found no kernel yet: the next one that does shows a boot.
    came_up: bool,
    /// When graces began, the oldest first.
    graces: VecDeque<Instant>,
    /// CPU time of each process in the last look, by pid and start. Empty: not known.
    cpu: BTreeMap<(u32, u64), u64>,
    /// Those of them that were seen to be born.
    born: BTreeSet<(u32, u64)>,
    /// When that look began.
    looked: Option<Instant>,
    /// Start of the last look that showed that something had run since the look before.
    ran: Option<Instant>,
}

/// How far a look may be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belief {
    /// Within the grace after a boot.
    pub booting: bool,
    /// Whether something has run since the look before. `None`: not known, and then nothing is doubted for that.
    pub runs: Option<bool>,
    /// Nothing has run, and there are other processes: somebody else writes over them.
    pub overwritten: bool,
    /// Start of the last look of which it is known that something had run.
    ran: Option<Instant>,
    /// Pids of processes that began after an earlier look of this boot.
    born: BTreeSet<u32>,
}

impl Boots {
    /// No kernel was found: the machine is on its way.
    pub fn not_yet(&mut self) {
        self.came_up = true;
        self.forget();
    }

    /// Takes a look that began at `started`. A boot that it shows has so much grace.
    pub fn take(&mut self, snapshot: &Snapshot, started: Instant, grace: Duration) -> Belief {
        let boot = (snapshot.kernel.page_table_root, snapshot.kernel.kaslr_offset);
        let another = self.boot.replace(boot).is_some_and(|before| before != boot);
        if std::mem::take(&mut self.came_up) || another {
            self.forget();
            self.graces.retain(|began| started.saturating_duration_since(*began) < HOUR);
            if self.graces.len() < GRACES {
                self.graces.push_back(started);
            }
        }
        let booting =
            self.graces.back().is_some_and(|began| started.saturating_duration_since(*began) < grace);
        let cpu: BTreeMap<(u32, u64), u64> = snapshot
            .processes
            .iter()
            .filter_map(|process| Some(((process.pid, process.start_time_ns?), process.cpu_time_ns?)))
            .collect();
        let before = std::mem::replace(&mut self.cpu, cpu);
        let elapsed = self.looked.replace(started).map(|last| started.saturating_duration_since(last));
        let known = !before.is_empty() && !self.cpu.is_empty();
        // What was written over has any number.
        let most = elapsed.unwrap_or_default().saturating_mul(CPUS).saturating_add(SLACK).as_nanos();
        let has_run = |(key, now): (&(u32, u64), &u64)| {
            let used = before.get(key).and_then(|before| now.checked_sub(*before));
            used.is_some_and(|used| used > 0 && u128::from(used) <= most)
        };
        let runs = known.then(|| self.cpu.iter().any(has_run));
        let overwritten = runs == Some(false) && !before.keys().eq(self.cpu.keys());
        if runs == Some(true) {
            self.ran = Some(started);
        }
        // A pid and a start that are new, and a start that is later than all others were: nothing that is written over has those.
        let latest = before.keys().map(|(_, start)| *start).max().unwrap_or(LATEST);
        let is_born = |key: &&(u32, u64)| !before.contains_key(*key) && key.1 > latest && key.1 < LATEST;
        self.born.retain(|key| self.cpu.contains_key(key));
        self.born.extend(self.cpu.keys().filter(is_born).copied());
        let born = self.born.iter().map(|(pid, _)| *pid).collect();
        Belief { booting, runs, overwritten, ran: self.ran, born }
    }

    fn forget(&mut self) {
        self.cpu.clear();
        self.born.clear();
    }
}

impl Belief {
    /// Whether a finding that was first seen in the look that began at `first` has to wait, in one that began at `now`.
    pub(crate) fn doubts(&self, finding: &Finding, first: Instant, now: Instant) -> bool {
        // Another kernel is no matter of how far it has come up.
        let comes_up = self.booting && finding.rule != rule::KERNEL_CHANGED;
        let stands = self.runs.is_some()
            && !self.is_about_the_born(finding)
            && self.ran.is_none_or(|ran| ran <= first)
            && now.saturating_duration_since(first) < STILL;
        comes_up || stands
    }

    /// Whether the finding is that some processes run which were seen to be born.
    fn is_about_the_born(&self, finding: &Finding) -> bool {
        let pids = finding.evidence.get("pids").filter(|_| finding.rule == rule::PROCESS_UNKNOWN);
        pids.is_some_and(|pids| {
            pids.split(", ").all(|pid| pid.parse().is_ok_and(|pid: u32| self.born.contains(&pid)))
        })
    }

    /// Whether it shows nothing that is worth telling yet.
    pub(crate) fn is_vague(&self) -> bool {
        self.booting || self.runs == Some(false)
    }
}
