//! What came and went between two looks without being seen, and whether anything happened at all.
//!
//! The kernel counts every task that it makes. What two looks show of it is subtracted; the rest ran and ended between
//! them. It is a number and not a finding: a busy shell script makes hundreds of them a second. Must never give a number that is
//! not known, and never keep more of a look than it takes to subtract.

use crate::blind::{LINK_ON_ITS_WAY, object};
use facts::{EbpfProgram, Process, ProcessState, Snapshot, Turnover};
use std::collections::{BTreeSet, HashMap, HashSet};

/// What one look showed of the tasks there were: enough to tell later which are new.
#[derive(Clone, Debug)]
pub struct Tasks {
    taken_at: String,
    boot: Boot,
    forks: Option<u64>,
    /// In order.
    processes: Vec<(Key, Threads)>,
    /// CPU time of each, in the same order.
    cpu_times: Vec<Option<u64>>,
    /// Those that may stand where they stood then.
    standing: Vec<Standing>,
    /// eBPF programs that may have been on their way out, as a problem names them.
    leaving: BTreeSet<String>,
}

/// A process that wants a CPU, or did then.
#[derive(Clone, Debug)]
struct Standing {
    process: Key,
    cpu_time: u64,
    /// How often its CPU time was seen to have grown. What it had used before the first look may be counted only after it, so once
    /// is not enough.
    ran: u32,
}

/// How often its CPU time must grow until a process has run for certain.
const RAN: u32 = 2;

/// What makes a boot the same: the boot id is made up when somebody first asks for it; the page tables' place is chosen at
/// boot.
type Boot = (facts::Address, facts::Address);

/// What makes a process the same in two looks: a pid alone is given again.
type Key = (u32, Option<u64>);

/// Threads of one process.
#[derive(Clone, Debug)]
enum Threads {
    Number(u64),
    /// Their ids and starts.
    Each(HashSet<Key>),
}

impl Tasks {
    /// Those of a look.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut processes: Vec<&Process> = snapshot.processes.iter().collect();
        processes.sort_by_key(|process| key(process));
        let cpu_times = processes.iter().map(|process| process.cpu_time_ns).collect();
        let processes = processes.into_iter().map(|process| (key(process), threads(process))).collect();
        let (taken_at, boot) = (snapshot.taken_at.clone(), boot(snapshot));
        // A process that slept when its row was read may have been in the middle of something when the last row was.
        let standing = |process: &Process| {
            Some(Standing { process: key(process), cpu_time: process.cpu_time_ns?, ran: 0 })
        };
        let standing = snapshot.processes.iter().filter_map(standing).collect();
        let leaving = leaving(snapshot).collect();
        Self { taken_at, boot, forks: snapshot.activity.forks, processes, cpu_times, standing, leaving }
    }

    /// Compares the kernel's counters at that look and a later one with what the looks show. `None`: a counter or the process
    /// table is not known, or the looks are not of the same boot in this order.
    ///
    /// Without lists of threads, a thread that took the place of one that ended counts as unseen too; what was made while a
    /// look was under way can count for the look after it.
    #[must_use]
    pub fn turnover(&self, later: &Snapshot) -> Option<Turnover> {
        if self.boot != boot(later) || later.processes.is_empty() {
            return None;
        }
        let created = later.activity.forks?.checked_sub(self.forks?)?;
        let seen: u64 = later.processes.iter().map(|process| self.new_tasks(process)).sum();
        Some(Turnover { since: self.taken_at.clone(), created, unseen: created.saturating_sub(seen) })
    }

    /// Whether a later look shows the moment of that look again, for all of the guest, for one process or for one eBPF program: then
    /// it confirms nothing. A host gives a guest's CPU to somebody else, and a guest a process's, wherever either stands: also between
    /// two steps that belong together. Whoever takes an eBPF program off its place sleeps meanwhile. What is not known is no such proof.
    ///
    /// To be asked with each look that follows, because it remembers who has run.
    pub fn is_same_moment(&mut self, later: &Snapshot) -> bool {
        let now: HashMap<Key, &Process> =
            later.processes.iter().map(|process| (key(process), process)).collect();
        self.standing.retain_mut(|standing| {
            let process = now.get(&standing.process);
            let process = process.filter(|process| process.state == Some(ProcessState::Running));
            let Some(cpu_time) = process.and_then(|process| process.cpu_time_ns) else { return false };
            if cpu_time != standing.cpu_time {
                standing.cpu_time = cpu_time;
                standing.ran += 1;
            }
            standing.ran < RAN
        });
        self.boot == boot(later)
            && (!self.standing.is_empty()
                || leaving(later).any(|program| self.leaving.contains(&program))
                || self.stood_still(later))
    }

    /// Whether the guest did nothing between that look and a later one.
    fn stood_still(&self, later: &Snapshot) -> bool {
        let now = Self::of(later);
        let same = |(before, now): (&Option<u64>, &Option<u64>)| before.is_some() && before == now;
        self.boot == now.boot
            && self.forks.is_some()
            && self.forks == now.forks
            && self.processes.iter().map(|(key, _)| key).eq(now.processes.iter().map(|(key, _)| key))
            && self.cpu_times.iter().zip(&now.cpu_times).all(same)
    }

    /// Tasks of a process that it did not have then.
    fn new_tasks(&self, process: &Process) -> u64 {
        let now = u64::from(process.threads.unwrap_or(1));
        let found = self.processes.binary_search_by_key(&key(process), |(key, _)| *key).ok();
        let Some((_, before)) = found.and_then(|index| self.processes.get(index)) else { return now };
        match (before, &process.thread_list) {
            (Threads::Each(old), Some(new)) => {
                new.iter().filter(|thread| !old.contains(&(thread.tid, thread.start_time_ns))).count() as u64
            }
            (Threads::Each(old), None) => now.saturating_sub(old.len() as u64),
            (Threads::Number(old), _) => now.saturating_sub(*old),
        }
    }
}

/// eBPF programs that may be on their way out, as a problem names them. A link is off its table before its program is off its place.
fn leaving(snapshot: &Snapshot) -> impl Iterator<Item = String> {
    let locations = snapshot.problems.iter().map(|problem| &problem.location);
    let unknown = locations.filter(|location| object(location) == LINK_ON_ITS_WAY).cloned();
    let lacks_link = |program: &&EbpfProgram| program.views_missing.iter().any(|view| view == "link");
    let missing = snapshot.ebpf_programs.iter().flatten().filter(lacks_link);
    unknown.chain(missing.map(|program| format!("{LINK_ON_ITS_WAY} {}", program.program)))
}

fn boot(snapshot: &Snapshot) -> Boot {
    (snapshot.kernel.page_table_root, snapshot.kernel.kaslr_offset)
}

fn key(process: &Process) -> Key {
    (process.pid, process.start_time_ns)
}

fn threads(process: &Process) -> Threads {
    match &process.thread_list {
        Some(list) => Threads::Each(list.iter().map(|thread| (thread.tid, thread.start_time_ns)).collect()),
        None => Threads::Number(u64::from(process.threads.unwrap_or(1))),
    }
}
