//! One process: ``struct task_struct`` of a thread group leader.
//!
//! Which tasks there are is [`super::processes`]'s question; here one is read, together with what says that it was still the
//! same process at the end of the reading as at its start.

use super::layout::{Flag, Resolver};
use super::record::{Members, Record};
use super::{cgroup, cred, list, mm, namespace, signal, thread, timekeeping};
use crate::session::{Environment, Session, Step, member};
use facts::{Address, ExeState, ProblemKind, Process, ProcessState, Seccomp, TaskKind, Text};
use vmi_core::{Approach, Gva, ReadError};

/// ``PF_KTHREAD``, include/linux/sched.h (6.12).
pub(super) const PF_KTHREAD: u32 = 0x0020_0000;
/// ``PF_EXITING``, include/linux/sched.h (6.12).
const PF_EXITING: u32 = 0x4;
/// ``PF_FORKNOEXEC``, include/linux/sched.h (5.10 to 7.2 the same): set by fork, cleared by execve.
const PF_FORKNOEXEC: u32 = 0x40;
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
/// Bit of ``PFA_NO_NEW_PRIVS`` in ``atomic_flags``, include/linux/sched.h.
const PFA_NO_NEW_PRIVS: u64 = 1;
/// ``TASK_IDLE`` = ``TASK_UNINTERRUPTIBLE | TASK_NOLOAD``.
const TASK_IDLE: u32 = 0x402;

/// Offsets in ``struct task_struct``, in bytes.
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
    group_leader: u64,
    usage: u64,
    atomic_flags: u64,
    /// `None`: a kernel without `CONFIG_SECCOMP`.
    seccomp_mode: Option<u64>,
    /// ``in_execve``, which security modules ask for (fs/exec.c, bprm_execve()).
    in_execve: Option<Flag>,
    has_user_workers: bool,
    /// Most of what is read of a process.
    members: Members,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let mut layout = Self {
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
            group_leader: resolver.offset("task_struct", "group_leader"),
            usage: resolver.offset("task_struct", "usage"),
            atomic_flags: resolver.offset("task_struct", "atomic_flags"),
            seccomp_mode: resolver.optional("task_struct", "seccomp.mode"),
            in_execve: resolver.flag("task_struct", "in_execve"),
            has_user_workers: resolver.optional("kernel_clone_args", "user_worker").is_some(),
            members: Members::default(),
        };
        let Self { pid, exit_state, start_time, mm, files, real_parent, real_cred, .. } = layout;
        let Self { comm, nsproxy, thread_pid, signal, atomic_flags, flags, state, cgroups, .. } = layout;
        let one_word = [pid, exit_state, start_time, mm, files, real_parent, real_cred, nsproxy, thread_pid]
            .into_iter()
            .chain([signal, atomic_flags, flags, state, cgroups])
            .chain(layout.seccomp_mode)
            .map(|offset| (offset, 8));
        let execve = layout.in_execve.map(|flag| (flag.offset, 1));
        layout.members = Members::of(one_word.chain(execve).chain([(comm, COMM as u64)]));
        layout
    }
}

impl Layout {
    /// Where a task's place in the task list is.
    pub(super) fn tasks(&self) -> u64 {
        self.tasks
    }

    /// Whether this kernel has threads of drivers in processes, and a flag for them.
    pub(super) fn has_user_workers(&self) -> bool {
        self.has_user_workers
    }
}

/// A process and what other walkers need of its task.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) facts: Process,
    /// ``struct files_struct *``; null for kernel threads' shared table and for zombies.
    pub(crate) files: Gva,
}

impl Seen {
    /// Whether neither its credentials nor its ``struct signal_struct`` can be read, which no process can be without, however it hides. The
    /// memory is somebody else's: as in a guest that was just reset, whose next kernel is writing over what is left of the last one.
    pub(super) fn is_void(&self) -> bool {
        self.facts.uid.is_none() && self.facts.threads.is_none()
    }
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

    fn in_record(session: &Session<'_>, record: &Record<'_>) -> Result<Self, ReadError> {
        let layout = &session.kernel.layouts().task;
        Ok(Self {
            pid: record.u32(layout.pid)?,
            exit_state: record.u32(layout.exit_state)?,
            start_time: record.u64(layout.start_time)?,
        })
    }

    /// The task's own number.
    pub(super) fn number(&self) -> u32 {
        self.pid
    }

    /// Its start, nanoseconds of the boot clock.
    pub(super) fn start(&self) -> u64 {
        self.start_time
    }

    /// Whether it was reaped.
    pub(super) fn is_gone(&self) -> bool {
        self.exit_state & EXIT_DEAD != 0
    }

    /// Whether the task is still the process of this row. That a process became a zombie meanwhile does not matter here.
    pub(super) fn is_of(&self, seen: &Seen) -> bool {
        self.pid == seen.facts.pid && Some(self.start_time) == seen.facts.start_time_ns
    }
}

/// What execve replaces step by step. A row whose parts are from before and after such a step is of no program that ever ran.
#[derive(PartialEq, Eq)]
struct Run {
    mm: Gva,
    cred: Gva,
    executing: Option<bool>,
}

impl Run {
    fn in_record(session: &Session<'_>, record: &Record<'_>) -> Result<Self, ReadError> {
        let layout = &session.kernel.layouts().task;
        let executing = |flag: Flag| Ok::<_, ReadError>(flag.is_in(record.u8(flag.offset)?));
        Ok(Self {
            mm: record.pointer(layout.mm)?,
            cred: record.pointer(layout.real_cred)?,
            executing: layout.in_execve.map(executing).transpose()?,
        })
    }

    fn of(session: &Session<'_>, task: Gva) -> Result<Self, ReadError> {
        let layout = &session.kernel.layouts().task;
        let executing =
            |flag: Flag| Ok::<_, ReadError>(flag.is_in(session.space.u8(member(task, flag.offset)?)?));
        Ok(Self {
            mm: session.space.pointer(member(task, layout.mm)?)?,
            cred: session.space.pointer(member(task, layout.real_cred)?)?,
            executing: layout.in_execve.map(executing).transpose()?,
        })
    }
}

/// What goes ahead of [`listed`].
pub(super) const AHEAD: [Step<Gva, Option<Approach>>; 7] = [
    |session, task, _| {
        let layout = &session.kernel.layouts().task;
        layout.members.expect(session, task);
        signal::expect_runtime(session, task);
    },
    |session, task, _| {
        let layout = &session.kernel.layouts().task;
        let of = |offset, expect: fn(&Session<'_>, Gva)| {
            if let Some(at) = session.glimpse(task, offset) {
                expect(session, at);
            }
        };
        of(layout.mm, mm::expect);
        of(layout.real_cred, cred::expect);
        of(layout.signal, signal::expect);
        of(layout.thread_pid, namespace::expect_pid);
    },
    |session, task, arguments| {
        let layout = &session.kernel.layouts().task;
        if let Some(signal) = session.glimpse(task, layout.signal) {
            signal::expect_pids(session, signal);
        }
        if let Some(cred) = session.glimpse(task, layout.real_cred) {
            cred::expect_groups(session, cred);
        }
        if let Some(mm) = session.glimpse(task, layout.mm) {
            *arguments = mm::expect_memory(session, mm);
        }
    },
    |session, _, arguments| approach(session, arguments),
    |session, _, arguments| approach(session, arguments),
    |session, _, arguments| approach(session, arguments),
    |session, _, arguments| approach(session, arguments),
];

fn approach(session: &Session<'_>, arguments: &mut Option<Approach>) {
    *arguments = arguments.take().and_then(|arguments| arguments.step(session.space.look()));
}

/// Has fetched what [`leader`] reads.
pub(super) fn expect_leader(session: &Session<'_>, task: Gva) {
    let layout = &session.kernel.layouts().task;
    session.expect(task, layout.pid, 4);
    session.expect(task, layout.group_leader, 8);
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

/// Whether a task has let go of its table of descriptors and may still be closing, one by one, what was in it (``exit_files()``,
/// fs/file.c): nothing leads to those files any more, and they are still open.
pub(super) fn is_closing(session: &Session<'_>, task: Gva) -> Result<bool, ReadError> {
    let layout = &session.kernel.layouts().task;
    let word = |offset| session.space.u32(member(task, offset)?);
    Ok(session.space.pointer(member(task, layout.files)?)?.is_null()
        && word(layout.exit_state)? == 0
        && word(layout.flags)? & (PF_EXITING | PF_KTHREAD) == PF_EXITING)
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
        let mut record = Record::of(task, &session.kernel.layouts().task.members);
        record.read(session)?;
        let before = (Stamp::in_record(session, &record)?, Run::in_record(session, &record)?);
        let seen = read(session, task, &record, &before.0, &before.1)?;
        if !is_listed(session, task)? {
            return Ok(None);
        }
        if (Stamp::of(session, task)?, Run::of(session, task)?) == before {
            return Ok(Some(seen));
        }
        session.space.look().forget_pages();
    }
    Ok(None)
}

/// A process that other views have. `Ok(None)`: it has ended, never began, or kept changing while it was read.
pub(super) fn unlisted(session: &Session<'_>, task: Gva) -> Result<Option<Seen>, ReadError> {
    session.space.look().forget_pages();
    let mut record = Record::of(task, &session.kernel.layouts().task.members);
    record.read(session)?;
    let before = Stamp::in_record(session, &record)?;
    let lives = before.exit_state & EXIT_DEAD == 0
        && before.start_time != 0
        && (1..PID_MAX_LIMIT).contains(&before.pid);
    if !lives {
        return Ok(None);
    }
    let run = Run::in_record(session, &record)?;
    let seen = read(session, task, &record, &before, &run)?;
    Ok(((Stamp::of(session, task)?, Run::of(session, task)?) == (before, run)).then_some(seen))
}

/// Whether the predecessor on the task list still points at this task.
///
/// Memory of a task that ended is used again for the next fork, and starts there as a copy of the *parent's* whole
/// ``struct task_struct`` (dup_task_struct(), kernel/fork.c): a half-born task looks like its parent, pid and all, until it
/// is told otherwise. What it cannot look like is an element of the list.
fn is_listed(session: &Session<'_>, task: Gva) -> Result<bool, ReadError> {
    list::is_linked(session, member(task, session.kernel.layouts().task.tasks)?)
}

fn read(
    session: &Session<'_>,
    task: Gva,
    record: &Record<'_>,
    stamp: &Stamp,
    run: &Run,
) -> Result<Seen, ReadError> {
    let layout = &session.kernel.layouts().task;
    let space = &session.space;
    let pointer = |offset| record.pointer(offset);

    if stamp.pid >= PID_MAX_LIMIT {
        session.problem(
            ProblemKind::Implausible,
            format_args!("task_struct {task}"),
            format_args!("Its pid is {}.", stamp.pid),
        );
    }
    let flags = record.u32(layout.flags)?;
    let name = name(&record.array::<COMM>(layout.comm)?);
    let state = state(record.u32(layout.state)?, stamp.exit_state);
    let kernel_thread = thread::kind(session, flags) == TaskKind::Kernel;
    let mm = run.mm;
    let files = pointer(layout.files)?;

    let parent = pointer(layout.real_parent)?;
    let ppid = session.known(
        "task_struct (parent)",
        parent,
        member(parent, layout.tgid).and_then(|tgid| space.u32(tgid)),
    )?;
    let namespaces = namespace::namespaces(session, pointer(layout.nsproxy)?, pointer(layout.thread_pid)?)?;
    let groups = cgroup::groups(session, pointer(layout.cgroups)?)?;
    let seccomp = layout.seccomp_mode.map(|at| record.u32(at)).transpose()?;

    let mut process = Process {
        pid: stamp.pid,
        ppid,
        name,
        kernel_thread,
        exiting: flags & PF_EXITING != 0,
        executing: run.executing,
        forked_only: Some(flags & PF_FORKNOEXEC != 0),
        state,
        start_time_ns: Some(stamp.start_time),
        started_at: timekeeping::wall_clock(session.boot_time(), stamp.start_time),
        namespaces,
        cgroup: groups.path.clone(),
        cgroups_v1: groups.v1.clone(),
        container: groups.container.as_ref().map(|container| container.id.clone()),
        container_runtime: groups.container.as_ref().and_then(|container| container.runtime),
        seccomp: seccomp.and_then(|mode| match mode {
            0 => Some(Seccomp::Disabled),
            1 => Some(Seccomp::Strict),
            // 3 is the mode of a task that a filter has just killed (``SECCOMP_MODE_DEAD``, kernel/seccomp.c).
            2 | 3 => Some(Seccomp::Filter),
            _ => None,
        }),
        no_new_privs: Some(record.u64(layout.atomic_flags)? & PFA_NO_NEW_PRIVS != 0),
        task: Address(task.0),
        ..Process::default()
    };
    cred::fill(session, run.cred, &mut process)?;
    let shared = pointer(layout.signal)?;
    signal::fill(session, task, shared, &mut process)?;
    if session.wants.threads && !shared.is_null() {
        process.thread_list = session.known("signal_struct", shared, thread::threads(session, shared))?;
    }
    if kernel_thread || mm.is_null() {
        process.exe_state = Some(ExeState::None);
        process.args = Some(Vec::new());
        process.environment = (session.wants.environment != Environment::No).then(Vec::new);
        process.resident_bytes = Some(0);
    } else {
        if let Some(exe) = mm::executable(session, mm)? {
            process.exe = Some(exe.text);
            process.exe_state = Some(exe.state);
        }
        mm::fill_arguments(session, mm, &mut process)?;
        process.environment = mm::environment(session, mm, stamp.pid, session.wants.environment)?;
        process.resident_bytes = mm::resident_bytes(session, mm)?;
    }
    Ok(Seen { facts: process, files })
}

/// Name, kind and state of any task, a leader or another thread.
pub(super) fn identity(
    session: &Session<'_>,
    task: Gva,
    stamp: &Stamp,
) -> Result<(Text, TaskKind, Option<ProcessState>), ReadError> {
    let layout = &session.kernel.layouts().task;
    let space = &session.space;
    let mut comm = [0; COMM];
    space.read(member(task, layout.comm)?, &mut comm)?;
    let kind = thread::kind(session, space.u32(member(task, layout.flags)?)?);
    let state = state(space.u32(member(task, layout.state)?)?, stamp.exit_state);
    Ok((name(&comm), kind, state))
}

fn name(comm: &[u8; COMM]) -> Text {
    let text = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into()
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
