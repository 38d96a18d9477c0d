//! All facts seen in one look.

use crate::{EbpfProgram, Kernel, Module, Process, Rows, Socket, Text, Vm};
use serde::{Deserialize, Serialize};

/// How the look was kept consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsistencyMode {
    /// The guest ran; what did not hold together was read again.
    Live,
    /// The guest was stopped, or is a file.
    Still,
    /// The guest stood from before the look began until after it ended, because it was asked for.
    Paused,
}

/// What it took to get a consistent look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistency {
    /// How.
    pub mode: ConsistencyMode,
    /// Tables that were read again from their start because a link changed under the reader.
    pub retries: u32,
    /// Objects that were dropped because they changed while they were read, after all retries.
    pub torn: u32,
    /// For how long the guest stood because of the look, in microseconds: also when it ran again before the look ended
    /// (`live`). `None`: it was not paused, or nobody could tell.
    #[serde(default)]
    pub paused_us: Option<u64>,
}

/// Why something is not known. `kind` is stable; `detail` is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// An address that no page table maps, or that lies outside guest memory.
    Unmapped,
    /// A list whose links contradict each other, also after reading it again.
    Inconsistent,
    /// A list that comes back to an element that is not its head.
    Cycle,
    /// A walk reached its limit of elements, bytes or time.
    Budget,
    /// A value that cannot be right (a pid below zero, a state nobody knows).
    Implausible,
    /// The profile has no such type, member or symbol.
    Profile,
    /// Only part of a string or vector could be read (a page is not resident).
    Partial,
    /// The memory layout that the host gave and the one the guest's kernel uses differ.
    Layout,
}

/// One thing that could not be read as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// What kind.
    pub kind: ProblemKind,
    /// Where: the C object and its address, `task_struct 0xffff…`.
    #[serde(rename = "where")]
    pub location: String,
    /// What happened, with the values.
    pub detail: String,
}

/// The views that this kernel has and that must agree: an object that is in one of them and not in another is hidden from
/// somebody. Views that only ever have some of the objects (run queues) are in an object's own list and not here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Views {
    /// Names in [`Process::views`]. A zombie may have left `cgroup`.
    pub processes: Vec<Text>,
    /// Names in [`Module::views`].
    pub modules: Vec<Text>,
}

/// What the kernel itself counted of tasks until now. Two looks tell with it how many were made between them, also of those
/// that were never seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Tasks made since boot, threads included: `processes` of `/proc/stat`.
    pub forks: Option<u64>,
    /// Threads that there are, idle ones left out: behind the `/` of `/proc/loadavg`.
    pub threads: Option<u64>,
    /// Processes that there are, zombies included, as every CPU has counted them.
    pub processes: Option<u64>,
    /// The pid given last in the initial pid namespace: the last number of `/proc/loadavg`.
    pub last_pid: Option<u32>,
}

/// Tasks (processes and threads) that were made between two looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turnover {
    /// When the earlier look began, host clock, RFC 3339.
    pub since: String,
    /// All that the kernel made.
    pub created: u64,
    /// Of those, what the later look does not show: it came and went unseen.
    pub unseen: u64,
}

/// All facts of one look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`crate::SNAPSHOT_SCHEMA`].
    pub schema: String,
    /// The VM.
    pub vm: Vm,
    /// When the look began, host clock, RFC 3339.
    pub taken_at: String,
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
    /// How consistent it is.
    pub consistency: Consistency,
    /// The kernel.
    pub kernel: Kernel,
    /// The views that every process and module must be in. Empty: the look did not compare views.
    #[serde(default)]
    pub views: Views,
    /// What the kernel counted of tasks, read after the processes.
    #[serde(default)]
    pub activity: Activity,
    /// Processes, by pid.
    pub processes: Vec<Process>,
    /// Sockets, by namespace, family, protocol, address.
    pub sockets: Rows<Socket>,
    /// Modules, by name.
    pub modules: Vec<Module>,
    /// eBPF programs, by id. `None`: nobody looked, or the kernel does not say where they are.
    #[serde(default)]
    pub ebpf_programs: Option<Vec<EbpfProgram>>,
    /// What could not be read, and why.
    pub problems: Vec<Problem>,
}
