//! One process of a guest (a thread group: its leader's facts).

use crate::{Address, Names, Text};
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

/// What a task is, by its flags and not by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A program's thread.
    #[default]
    User,
    /// A thread of the kernel (`PF_KTHREAD`).
    Kernel,
    /// A thread that the kernel made in a process to do its io_uring requests (`PF_IO_WORKER` without `PF_KTHREAD`).
    IoWorker,
    /// A thread that a driver made in a process, as vhost does (`PF_USER_WORKER`, since 6.4).
    UserWorker,
}

/// One thread of a process, its leader included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its number in the guest's initial pid namespace. The leader's is the pid.
    pub tid: u32,
    /// Its `comm`.
    pub name: Text,
    /// What it is.
    pub kind: TaskKind,
    /// Scheduler state.
    pub state: Option<ProcessState>,
    /// Start, nanoseconds of the guest's boot clock.
    pub start_time_ns: Option<u64>,
    /// Address of its `struct task_struct`.
    pub task: Address,
}

/// The terminal that controls a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Its name below `/dev`: `ttyS0`, `pts/3`.
    pub name: String,
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
}

/// What system calls a task may make (`Seccomp:` of `/proc/PID/status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// All.
    Disabled,
    /// `read`, `write`, `_exit`, `sigreturn`.
    Strict,
    /// What its filters let pass.
    Filter,
}

/// What made a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerRuntime {
    /// Docker.
    Docker,
    /// containerd: Kubernetes, nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// LXC, Incus, LXD.
    Lxc,
    /// systemd-nspawn, or another service that registers its machines with systemd.
    SystemdNspawn,
}

/// Where a process is in a control group hierarchy of version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupV1 {
    /// Controllers, and a name if it has one, as `/proc/PID/cgroup` prints them: `cpu,cpuacct`, `name=systemd`.
    pub hierarchy: String,
    /// Path in it.
    pub path: String,
}

/// One entry of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentVariable {
    /// What stands before the `=`. Empty: the entry is not of that form (the process wrote over it), and all of it is the value.
    pub name: String,
    /// `None`: it was not asked for.
    pub value: Option<String>,
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

/// One process. `None` means *unknown* unless its field says otherwise, with the reason among the snapshot's problems where
/// there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Pid in the guest's initial pid namespace.
    pub pid: u32,
    /// Pid of the real parent; 0 for the first process and for `kthreadd`.
    pub ppid: Option<u32>,
    /// Threads in the group, this one included.
    pub threads: Option<u32>,
    /// The kernel's `comm`: at most 15 bytes, and the process can change it. Never an identity.
    pub name: Text,
    /// Path of the executable in the guest, without any ` (deleted)`.
    pub exe: Option<Text>,
    /// What became of that file.
    pub exe_state: Option<ExeState>,
    /// Argument vector as in `/proc/PID/cmdline`. Empty for kernel threads and zombies.
    pub args: Option<Vec<String>>,
    /// Where `args` is unknown because a page is not resident: the arguments before that page, the last one cut.
    #[serde(default)]
    pub args_partial: Option<Vec<String>>,
    /// The environment that it was started with, as the process's memory holds it now. `None` also when it was not asked for.
    #[serde(default)]
    pub environment: Option<Vec<EnvironmentVariable>>,
    /// Its threads, ascending by number. `None` also when they were not asked for.
    #[serde(default)]
    pub thread_list: Option<Vec<Thread>>,
    /// Real user id (initial user namespace).
    pub uid: Option<u32>,
    /// Effective user id.
    pub euid: Option<u32>,
    /// Real group id.
    pub gid: Option<u32>,
    /// Effective group id.
    pub egid: Option<u32>,
    /// Saved user id.
    #[serde(default)]
    pub suid: Option<u32>,
    /// Saved group id.
    #[serde(default)]
    pub sgid: Option<u32>,
    /// User id for access to files.
    #[serde(default)]
    pub fsuid: Option<u32>,
    /// Group id for access to files.
    #[serde(default)]
    pub fsgid: Option<u32>,
    /// Supplementary groups, ascending.
    #[serde(default)]
    pub groups: Option<Vec<u32>>,
    /// Effective capabilities, one bit each (`CAP_CHOWN` is bit 0).
    pub capabilities_effective: Option<Address>,
    /// Capabilities that it can make effective.
    #[serde(default)]
    pub capabilities_permitted: Option<Address>,
    /// Capabilities that a program it executes may inherit.
    #[serde(default)]
    pub capabilities_inheritable: Option<Address>,
    /// Capabilities that it can ever gain.
    #[serde(default)]
    pub capabilities_bounding: Option<Address>,
    /// Capabilities that it keeps when it executes a program without privileges.
    #[serde(default)]
    pub capabilities_ambient: Option<Address>,
    /// What its leader may call.
    #[serde(default)]
    pub seccomp: Option<Seccomp>,
    /// Whether executing a program can give it no privileges (`PR_SET_NO_NEW_PRIVS`).
    #[serde(default)]
    pub no_new_privs: Option<bool>,
    /// Process group, by its leader's pid in the initial pid namespace. 0 for kernel threads.
    #[serde(default)]
    pub process_group: Option<u32>,
    /// Session, by its leader's pid in the initial pid namespace. 0 for kernel threads.
    #[serde(default)]
    pub session: Option<u32>,
    /// Terminal that controls its session. `None` also when there is none.
    #[serde(default)]
    pub terminal: Option<Terminal>,
    /// Told by `PF_KTHREAD`, not by the name.
    pub kernel_thread: bool,
    /// Scheduler state.
    pub state: Option<ProcessState>,
    /// It has begun to end (`PF_EXITING`): it gives back what it has, one thing after the other.
    #[serde(default)]
    pub exiting: bool,
    /// It is in the middle of `execve`: file, arguments, name and identity are the new program's one after the other, and no
    /// instruction of either program runs in its leader meanwhile. `None`: this kernel does not tell.
    #[serde(default)]
    pub executing: Option<bool>,
    /// It was forked and has executed no program since: it goes on in its parent's. True of kernel threads too.
    #[serde(default)]
    pub forked_only: Option<bool>,
    /// Start, nanoseconds of the guest's boot clock (suspend included).
    pub start_time_ns: Option<u64>,
    /// The same by the guest's wall clock as it is set now, RFC 3339.
    #[serde(default)]
    pub started_at: Option<String>,
    /// CPU time that its threads have used, those that ended included, in nanoseconds. What runs this moment may lack up to
    /// one tick.
    #[serde(default)]
    pub cpu_time_ns: Option<u64>,
    /// Memory of its own and of files that is mapped and resident, in bytes: what `/proc/PID/statm` counts. The kernel keeps
    /// that counter in parts: since 6.2 it may lack 32 pages for each CPU (twice the CPUs, if that is more), before that 64
    /// for each thread.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
    /// Namespaces it is in.
    pub namespaces: Namespaces,
    /// Path in the unified (v2) control group hierarchy.
    pub cgroup: Option<Text>,
    /// Where it is in the control group hierarchies of version 1 that are mounted.
    #[serde(default)]
    pub cgroups_v1: Option<Vec<CgroupV1>>,
    /// Container id (or name, where the runtime names them), where a control group's name holds one. `None`: there is none.
    pub container: Option<Text>,
    /// What made that container, where the control group's name tells.
    #[serde(default)]
    pub container_runtime: Option<ContainerRuntime>,
    /// Views in which it was seen.
    pub views: Names,
    /// Address of its `struct task_struct`.
    pub task: Address,
}
