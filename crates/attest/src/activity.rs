//! What came and went between two looks without being seen.
//!
//! The kernel counts every task that it makes. What two looks show of it is subtracted; the rest ran and ended between
//! them. It is a number and not a finding: a busy shell script makes hundreds of them a second.

use facts::{Process, Snapshot};
use std::collections::{HashMap, HashSet};

/// Tasks (processes and threads) that were made between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// All that the kernel made.
    pub created: u64,
    /// Of those, what the second look does not show. Without lists of threads, a thread that took the place of one that
    /// ended counts here too; what was made while a look was under way can count for the look after it.
    pub unseen: u64,
}

/// Compares the kernel's counters at two looks with what the looks show. `None`: a counter or the process table is not
/// known, or the looks are not of the same boot in this order.
#[must_use]
pub fn activity(before: &Snapshot, after: &Snapshot) -> Option<Activity> {
    // The boot id is made up when somebody first asks for it; the page tables' place is chosen at boot.
    let boot = |snapshot: &Snapshot| (snapshot.kernel.page_table_root, snapshot.kernel.kaslr_offset);
    if boot(before) != boot(after) || after.processes.is_empty() {
        return None;
    }
    let created = after.activity.forks?.checked_sub(before.activity.forks?)?;
    let known: HashMap<_, &Process> =
        before.processes.iter().map(|process| (key(process), process)).collect();
    let seen: u64 =
        after.processes.iter().map(|process| new_tasks(known.get(&key(process)).copied(), process)).sum();
    Some(Activity { created, unseen: created.saturating_sub(seen) })
}

/// What makes a process the same in two looks: a pid alone is given again.
fn key(process: &Process) -> (u32, Option<u64>) {
    (process.pid, process.start_time_ns)
}

/// Tasks of a process that it did not have before.
fn new_tasks(before: Option<&Process>, after: &Process) -> u64 {
    let threads = |process: &Process| u64::from(process.threads.unwrap_or(1));
    let Some(before) = before else { return threads(after) };
    match (&before.thread_list, &after.thread_list) {
        (Some(old), Some(new)) => {
            let old: HashSet<_> = old.iter().map(|thread| (thread.tid, thread.start_time_ns)).collect();
            new.iter().filter(|thread| !old.contains(&(thread.tid, thread.start_time_ns))).count() as u64
        }
        _ => threads(after).saturating_sub(threads(before)),
    }
}
