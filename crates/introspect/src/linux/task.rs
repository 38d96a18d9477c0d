//! One process: ``struct task_struct`` of a thread group leader.
//!
//! Which tasks there are is [`super::processes`]'s question; here one is read, together with what says that it was still the
//! same process at the end of the reading as at its start.

use super::layout::Resolver;
use super::{cgroup, cred, list, mm, namespace};
use crate::session::{Session, member};
use facts::{Address, ExeState, ProblemKind, Process, ProcessState};
use vmi_core::{Gva, ReadError};

/// ``PF_KTHREAD``, include/linux/sched.h (6.12).
const PF_KTHREAD: u32 = 0x0020_0000;
/// ``PF_EXITING``, include/linux/sched.h (6.12).
const PF_EXITING: u32 = 0x4;
/// ``TASK_COMM_LEN``, include/linux/sched.h.
const COMM: usize = 16;
/// ``PID_MAX_LIMIT``, include/linux/threads.h: no pid reaches it.
const PID_MAX_LIMIT: u32 = 4 << 20;
/// ``EXIT_DEAD``, include/linux/sched.h: it was reaped, and its memory is about to be freed.
const EXIT_DEAD: u32 = 0x10;
/// ``TASK_REPORT``, include/linux/sched.h: the state bits that `/proc` shows.
const TASK_REPORT: u32 = 0x7f;
/// ``TASK_NEW``, include/linux/sched.h (0x800 since 4.8, 5.10 to 7.2 the same): set from its making to its first wake-up.
const TASK_NEW: u32 = 0x800;
/// ``TASK_IDLE`` = ``TASK_UNINTERRUPTIBLE | TASK_NOLOAD``.
const TASK_IDLE: u32 = 0x402;

/// Offsets in ``struct task_struct`` and ``struct signal_struct``, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    tasks: u64,
    pid: u64,
    tgid: u64,
    comm: u64,
    flags: u64,
    state: u64,
    exit_state: u64,
    real_parent: u64,
    start_time: u64,
    real_cred: u64,
    mm: u64,
    files: u64,
    nsproxy: u64,
    thread_pid: u64,
    cgroups: u64,
    signal: u64,
    nr_threads: u64,
    group_leader: u64,
    usage: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            tasks: resolver.offset("task_struct", "tasks"),
            pid: resolver.offset("task_struct", "pid"),
            tgid: resolver.offset("task_struct", "tgid"),
            comm: resolver.offset("task_struct", "comm"),
            flags: resolver.offset("task_struct", "flags"),
            // Renamed in 5.14.
            state: resolver.first_of("task_struct", &["__state", "state"]),
            exit_state: resolver.offset("task_struct", "exit_state"),
            real_parent: resolver.offset("task_struct", "real_parent"),
            // Renamed in 5.5.
            start_time: resolver.first_of("task_struct", &["start_boottime", "real_start_time"]),
            real_cred: resolver.offset("task_struct", "real_cred"),
            mm: resolver.offset("task_struct", "mm"),
            files: resolver.offset("task_struct", "files"),
            nsproxy: resolver.offset("task_struct", "nsproxy"),
            thread_pid: resolver.offset("task_struct", "thread_pid"),
            cgroups: resolver.offset("task_struct", "cgroups"),
            signal: resolver.offset("task_struct", "signal"),
            nr_threads: resolver.offset("signal_struct", "nr_threads"),
            group_leader: resolver.offset("task_struct", "group_leader"),
            usage: resolver.offset("task_struct", "usage"),
        }
    }
}

impl Layout {
    /// Where a task's place in the task list is.
    pub(super) fn tasks(&self) -> u64 {
        self.tasks
    }
}

/// A process and what other walkers need of its task.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) facts: Process,
    /// ``struct files_struct *``; null for kernel threads' shared table and for zombies.
    pub(crate) files: Gva,
}

/// What says that a ``struct task_struct`` is still the one whose reading began.
#[derive(PartialEq, Eq)]
pub(super) struct Stamp {
    pid: u32,
    exit_state: u32,
    start_time: u64,
}

impl Stamp {
    pub(super) fn of(session: &Session<'_>, task: Gva) -> Result<Self, ReadError> {
        let layout = &session.kernel.layouts().task;
        Ok(Self {
            pid: session.space.u32(member(task, layout.pid)?)?,
            exit_state: session.space.u32(member(task, layout.exit_state)?)?,
            start_time: session.space.u64(member(task, layout.start_time)?)?,
        })
    }

    /// Whether the task is still the process of this row. That a process became a zombie meanwhile does not matter here.
    pub(super) fn is_of(&self, seen: &Seen) -> bool {
        self.pid == seen.facts.pid && Some(self.start_time) == seen.facts.start_time_ns
    }
}

/// The thread group leader of a task. `None`: it is an idle task.
pub(super) fn leader(session: &Session<'_>, task: Gva) -> Result<Option<Gva>, ReadError> {
    let layout = &session.kernel.layouts().task;
    let pid = session.space.u32(member(task, layout.pid)?)?;
    if pid == 0 {
        return Ok(None);
    }
    let leader = session.space.pointer(member(task, layout.group_leader)?)?;
    Ok(Some(leader).filter(|leader| !leader.is_null()))
}

/// Whether the object of the slab cache at `task` is a thread group leader that lives: neither free memory, nor a copy of its
/// parent that is not itself yet, nor ended.
pub(super) fn is_leader_in_use(session: &Session<'_>, task: Gva) -> Result<bool, ReadError> {
    let layout = &session.kernel.layouts().task;
    let space = &session.space;
    // A free object has no users left (``put_task_struct()``), and a copy has the leader of what it was copied from.
    if space.u32(member(task, layout.usage)?)? == 0 || leader(session, task)? != Some(task) {
        return Ok(false);
    }
    let stamp = Stamp::of(session, task)?;
    let state = space.u32(member(task, layout.state)?)?;
    Ok(stamp.exit_state & EXIT_DEAD == 0 && state & TASK_NEW == 0)
}

/// A process that is on the task list. `Ok(None)`: the task went away, or kept changing, while it was read.
pub(super) fn listed(session: &Session<'_>, task: Gva) -> Result<Option<Seen>, ReadError> {
    for _ in 0..2 {
        let before = Stamp::of(session, task)?;
        let seen = read(session, task, &before)?;
        if !is_listed(session, task)? {
            return Ok(None);
        }
        if Stamp::of(session, task)? == before {
            return Ok(Some(seen));
        }
        session.space.look().forget_pages();
    }
    Ok(None)
}

/// A process that other views have. `Ok(None)`: it has ended, never began, or kept changing while it was read.
pub(super) fn unlisted(session: &Session<'_>, task: Gva) -> Result<Option<Seen>, ReadError> {
    session.space.look().forget_pages();
    let before = Stamp::of(session, task)?;
    let lives = before.exit_state & EXIT_DEAD == 0
        && before.start_time != 0
        && (1..PID_MAX_LIMIT).contains(&before.pid);
    if !lives {
        return Ok(None);
    }
    let seen = read(session, task, &before)?;
    Ok((Stamp::of(session, task)? == before).then_some(seen))
}

/// Whether the predecessor on the task list still points at this task.
///
/// Memory of a task that ended is used again for the next fork, and starts there as a copy of the *parent's* whole
/// ``struct task_struct`` (dup_task_struct(), kernel/fork.c): a half-born task looks like its parent, pid and all, until it
/// is told otherwise. What it cannot look like is an element of the list.
fn is_listed(session: &Session<'_>, task: Gva) -> Result<bool, ReadError> {
    list::is_linked(session, member(task, session.kernel.layouts().task.tasks)?)
}

fn read(session: &Session<'_>, task: Gva, stamp: &Stamp) -> Result<Seen, ReadError> {
    let layout = &session.kernel.layouts().task;
    let space = &session.space;
    let pointer = |offset| space.pointer(member(task, offset)?);

    if stamp.pid >= PID_MAX_LIMIT {
        session.problem(
            ProblemKind::Implausible,
            format_args!("task_struct {task}"),
            format_args!("Its pid is {}.", stamp.pid),
        );
    }
    let name = space.c_string(member(task, layout.comm)?, COMM)?;
    let flags = space.u32(member(task, layout.flags)?)?;
    let kernel_thread = flags & PF_KTHREAD != 0;
    let mm = pointer(layout.mm)?;
    let files = pointer(layout.files)?;

    let parent = pointer(layout.real_parent)?;
    let ppid = session.known(
        "task_struct (parent)",
        parent,
        member(parent, layout.tgid).and_then(|tgid| space.u32(tgid)),
    )?;
    let signal = pointer(layout.signal)?;
    let threads = session.known(
        "signal_struct",
        signal,
        member(signal, layout.nr_threads).and_then(|threads| space.u32(threads)),
    )?;
    let real_cred = pointer(layout.real_cred)?;
    let cred = session.known("cred", real_cred, cred::credentials(session, real_cred))?;
    let mut namespaces =
        namespace::namespaces(session, pointer(layout.nsproxy)?, pointer(layout.thread_pid)?)?;
    namespaces.user = cred.as_ref().and_then(|cred| cred.user_namespace);
    let css_set = pointer(layout.cgroups)?;
    let cgroup = session.known("css_set", css_set, cgroup::path(session, css_set))?.flatten();
    let container = cgroup.as_deref().and_then(cgroup::container);

    let (exe, exe_state, args) = if kernel_thread || mm.is_null() {
        (None, Some(ExeState::None), Some(Vec::new()))
    } else {
        let exe = mm::executable(session, mm)?;
        let args = mm::arguments(session, mm, stamp.pid)?;
        let (path, state) = exe.map_or((None, None), |exe| (Some(exe.text), Some(exe.state)));
        (path, state, args)
    };

    let facts = Process {
        pid: stamp.pid,
        ppid,
        threads,
        name: String::from_utf8_lossy(&name).into_owned(),
        exe,
        exe_state,
        args,
        uid: cred.as_ref().map(|cred| cred.uid),
        euid: cred.as_ref().map(|cred| cred.euid),
        gid: cred.as_ref().map(|cred| cred.gid),
        egid: cred.as_ref().map(|cred| cred.egid),
        capabilities_effective: cred.as_ref().map(|cred| Address(cred.capabilities_effective)),
        kernel_thread,
        exiting: flags & PF_EXITING != 0,
        state: state(space.u32(member(task, layout.state)?)?, stamp.exit_state),
        start_time_ns: Some(stamp.start_time),
        namespaces,
        cgroup,
        container,
        views: Vec::new(),
        task: Address(task.0),
    };
    Ok(Seen { facts, files })
}

/// ``__task_state_index()``, include/linux/sched.h (6.12): the highest reported bit counts.
fn state(state: u32, exit_state: u32) -> Option<ProcessState> {
    if state & TASK_NEW != 0 && exit_state == 0 {
        return Some(ProcessState::New);
    }
    if state & TASK_IDLE == TASK_IDLE && exit_state == 0 {
        return Some(ProcessState::Idle);
    }
    let reported = (state | exit_state) & TASK_REPORT;
    Some(match u32::BITS - reported.leading_zeros() {
        0 => {
            // ``TASK_FROZEN`` and ``TASK_RTLOCK_WAIT`` are not among the reported bits, and shown as disk sleep.
            if state & 0x9000 != 0 { ProcessState::DiskSleep } else { ProcessState::Running }
        }
        1 => ProcessState::Sleeping,
        2 => ProcessState::DiskSleep,
        3 => ProcessState::Stopped,
        4 => ProcessState::TracingStop,
        5 => ProcessState::Dead,
        6 => ProcessState::Zombie,
        7 => ProcessState::Parked,
        _ => return None,
    })
}
