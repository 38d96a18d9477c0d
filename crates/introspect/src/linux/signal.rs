//! What the threads of a process share: ``struct signal_struct`` with their number, process group, session, terminal and
//! CPU time.

use super::layout::Resolver;
use super::list;
use super::record::Members;
use crate::session::{Session, member};
use facts::{ProblemKind, Process, Terminal};
use vmi_core::{Gva, ReadError};

/// ``PIDTYPE_PGID`` and ``PIDTYPE_SID``, include/linux/pid.h (since 4.19).
const PROCESS_GROUP: u64 = 2;
const SESSION: u64 = 3;
/// Bits of a minor number in a ``dev_t`` (``MINORBITS``, include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;
/// ``UNIX98_PTY_SLAVE_MAJOR`` and the seven after it, include/uapi/linux/major.h: what devpts shows below `pts/`.
const PTY_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;
/// Size of ``tty_struct.name``.
const TTY_NAME: usize = 64;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    nr_threads: u64,
    thread_head: u64,
    pids: u64,
    tty: u64,
    ended_runtime: u64,
    /// What is read of a ``struct signal_struct``.
    members: Members,
    /// In ``struct task_struct``.
    thread_node: u64,
    runtime: u64,
    /// In ``struct pid``: the number in the initial pid namespace.
    pid_number: u64,
    tty_driver: u64,
    tty_index: u64,
    tty_name: u64,
    driver_major: u64,
    driver_minor_start: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let [nr_threads, tty, ended_runtime, pids] = ["nr_threads", "tty", "sum_sched_runtime", "pids"]
            .map(|name| resolver.offset("signal_struct", name));
        let one_word = [nr_threads, tty, ended_runtime].map(|offset| (offset, 8));
        Self {
            nr_threads,
            members: Members::of(one_word.into_iter().chain([(pids.saturating_add(PROCESS_GROUP * 8), 16)])),
            thread_head: resolver.offset("signal_struct", "thread_head"),
            pids,
            tty,
            ended_runtime,
            thread_node: resolver.offset("task_struct", "thread_node"),
            runtime: resolver.offset("task_struct", "se.sum_exec_runtime"),
            pid_number: resolver.offset("pid", "numbers").saturating_add(resolver.offset("upid", "nr")),
            tty_driver: resolver.offset("tty_struct", "driver"),
            tty_index: resolver.offset("tty_struct", "index"),
            tty_name: resolver.offset("tty_struct", "name"),
            driver_major: resolver.offset("tty_driver", "major"),
            driver_minor_start: resolver.offset("tty_driver", "minor_start"),
        }
    }
}

/// Fills in what the ``struct signal_struct *`` at `signal` says of the process of the leader `task`.
pub(crate) fn fill(
    session: &Session<'_>,
    task: Gva,
    signal: Gva,
    process: &mut Process,
) -> Result<(), ReadError> {
    let layout = &session.kernel.layouts().signal;
    let threads = member(signal, layout.nr_threads).and_then(|at| session.space.u32(at));
    process.threads = session.known("signal_struct", signal, threads)?;
    let Some(threads) = process.threads else { return Ok(()) };
    process.process_group =
        session.known("signal_struct", signal, number(session, signal, PROCESS_GROUP))?.flatten();
    process.session = session.known("signal_struct", signal, number(session, signal, SESSION))?.flatten();
    let tty = session.space.pointer(member(signal, layout.tty)?);
    if let Some(tty) = session.known("signal_struct", signal, tty)?.filter(|tty| !tty.is_null()) {
        process.terminal = session.known("tty_struct", tty, terminal(session, tty))?;
    }
    process.cpu_time_ns =
        session.known("signal_struct", signal, cpu_time(session, task, signal, threads))?.flatten();
    Ok(())
}

/// Has fetched what [`fill`] reads of the ``struct task_struct *`` at `task`.
pub(super) fn expect_runtime(session: &Session<'_>, task: Gva) {
    session.expect(task, session.kernel.layouts().signal.runtime, 8);
}

/// The same of the ``struct signal_struct *`` at `signal`.
pub(super) fn expect(session: &Session<'_>, signal: Gva) {
    session.kernel.layouts().signal.members.expect(session, signal);
}

/// The same of its process group and session, once [`expect`] had time.
pub(super) fn expect_pids(session: &Session<'_>, signal: Gva) {
    let layout = &session.kernel.layouts().signal;
    for kind in [PROCESS_GROUP, SESSION] {
        if let Some(pid) = session.glimpse(signal, layout.pids.saturating_add(kind * 8)) {
            session.expect(pid, layout.pid_number, 4);
        }
    }
}

/// ``struct task_struct *`` of all threads, the leader included, in the order they were made.
pub(crate) fn threads(session: &Session<'_>, signal: Gva) -> Result<Vec<Gva>, ReadError> {
    let layout = &session.kernel.layouts().signal;
    let nodes = list::list(session, "thread list", member(signal, layout.thread_head)?)?;
    Ok(nodes.into_iter().filter_map(|node| node.checked_sub(layout.thread_node)).collect())
}

/// The number of the ``struct pid *`` that the group has as `kind`. `None`: it has none any more.
fn number(session: &Session<'_>, signal: Gva, kind: u64) -> Result<Option<u32>, ReadError> {
    let layout = &session.kernel.layouts().signal;
    let slot = member(signal, layout.pids)?
        .element(kind, 8)
        .ok_or(ReadError::NotAnAddress { at: signal, len: layout.pids })?;
    let pid = session.space.pointer(slot)?;
    if pid.is_null() {
        return Ok(None);
    }
    session.space.u32(member(pid, layout.pid_number)?).map(Some)
}

/// ``tty_devnum()``, drivers/tty/tty_io.c, and the name that its device node has.
fn terminal(session: &Session<'_>, tty: Gva) -> Result<Terminal, ReadError> {
    let layout = &session.kernel.layouts().signal;
    let space = &session.space;
    let driver = space.pointer(member(tty, layout.tty_driver)?)?;
    let index = space.u32(member(tty, layout.tty_index)?)?;
    let first = (space.u32(member(driver, layout.driver_major)?)? << MINOR_BITS)
        | space.u32(member(driver, layout.driver_minor_start)?)?;
    let number = first.wrapping_add(index);
    let (major, minor) = (number >> MINOR_BITS, number & ((1 << MINOR_BITS) - 1));
    let name = if PTY_MAJORS.contains(&major) {
        format!("pts/{index}")
    } else {
        String::from_utf8_lossy(&space.c_string(member(tty, layout.tty_name)?, TTY_NAME)?).into_owned()
    };
    Ok(Terminal { name, major, minor })
}

/// What the scheduler has counted: the sum that `/proc/PID/stat` splits into user and system time (``thread_group_cputime()``
/// and ``cputime_adjust()``, kernel/sched/cputime.c). `None`: threads came or went meanwhile.
fn cpu_time(session: &Session<'_>, leader: Gva, signal: Gva, threads: u32) -> Result<Option<u64>, ReadError> {
    let layout = &session.kernel.layouts().signal;
    let ended = session.space.u64(member(signal, layout.ended_runtime)?)?;
    let of = |task| member(task, layout.runtime).and_then(|at| session.space.u64(at));
    if threads <= 1 {
        return Ok(Some(ended.wrapping_add(of(leader)?)));
    }
    let nodes = list::glimpse(session, member(signal, layout.thread_head)?)?;
    if u32::try_from(nodes.len()) != Ok(threads) {
        session.problem(
            ProblemKind::Inconsistent,
            format_args!("signal_struct {signal}"),
            format_args!(
                "It counts {threads} threads, and {} were found: its CPU time is not known.",
                nodes.len()
            ),
        );
        return Ok(None);
    }
    let tasks = nodes.into_iter().filter_map(|node| node.checked_sub(layout.thread_node));
    tasks.map(of).try_fold(ended, |sum, time| Ok(sum.wrapping_add(time?))).map(Some)
}
