//! One process of a guest (a thread group: its leader's facts).

use crate::Address;
use serde::{Deserialize, Serialize};

/// What became of the file a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExeState {
    /// The file is where `exe` says.
    Present,
    /// The file was unlinked after it was started.
    Deleted,
    /// It never had a name in any file system: `memfd_create`.
    Memfd,
    /// There is no executable: a kernel thread, or a process that gave its memory back (zombie).
    None,
}

/// Scheduler state, the words behind `/proc/PID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// `R`
    Running,
    /// `S`
    Sleeping,
    /// `D`
    DiskSleep,
    /// `T`
    Stopped,
    /// `t`
    TracingStop,
    /// `X`
    Dead,
    /// `Z`
    Zombie,
    /// `P`
    Parked,
    /// `I`
    Idle,
    /// It was made and never ran yet; `/proc` shows `R`.
    New,
}

/// Inode numbers of the namespaces a process is in, as in `/proc/PID/ns/*`. `None`: gone (zombie) or unreadable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// The namespace the process has its pid in.
    pub pid: Option<u32>,
    /// Network namespace.
    pub net: Option<u32>,
    /// Mount namespace.
    pub mnt: Option<u32>,
    /// User namespace.
    pub user: Option<u32>,
    /// Host and domain name namespace.
    pub uts: Option<u32>,
    /// System V IPC and POSIX queues.
    pub ipc: Option<u32>,
    /// Cgroup namespace.
    pub cgroup: Option<u32>,
}

/// One process. `None` everywhere means *unknown*, with the reason among the snapshot's problems where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Pid in the guest's initial pid namespace.
    pub pid: u32,
    /// Pid of the real parent; 0 for the first process and for `kthreadd`.
    pub ppid: Option<u32>,
    /// Threads in the group, this one included.
    pub threads: Option<u32>,
    /// The kernel's `comm`: at most 15 bytes, and the process can change it. Never an identity.
    pub name: String,
    /// Path of the executable in the guest, without any ` (deleted)`.
    pub exe: Option<String>,
    /// What became of that file.
    pub exe_state: Option<ExeState>,
    /// Argument vector as in `/proc/PID/cmdline`. Empty for kernel threads and zombies.
    pub args: Option<Vec<String>>,
    /// Real user id (initial user namespace).
    pub uid: Option<u32>,
    /// Effective user id.
    pub euid: Option<u32>,
    /// Real group id.
    pub gid: Option<u32>,
    /// Effective group id.
    pub egid: Option<u32>,
    /// Effective capabilities, one bit each (`CAP_CHOWN` is bit 0).
    pub capabilities_effective: Option<Address>,
    /// Told by `PF_KTHREAD`, not by the name.
    pub kernel_thread: bool,
    /// Scheduler state.
    pub state: Option<ProcessState>,
    /// It has begun to end (`PF_EXITING`): it gives back what it has, one thing after the other.
    #[serde(default)]
    pub exiting: bool,
    /// Start, nanoseconds of the guest's boot clock (suspend included).
    pub start_time_ns: Option<u64>,
    /// Namespaces it is in.
    pub namespaces: Namespaces,
    /// Path in the unified (v2) control group hierarchy.
    pub cgroup: Option<String>,
    /// Container id, where the control group's name holds one.
    pub container: Option<String>,
    /// Views in which it was seen.
    pub views: Vec<String>,
    /// Address of its `struct task_struct`.
    pub task: Address,
}
