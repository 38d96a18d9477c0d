//! The threads of a process, on request: ``struct task_struct`` of those that are no leaders.

use super::{signal, task};
use crate::session::Session;
use facts::{Address, TaskKind, Thread};
use vmi_core::{Gva, ReadError};

/// Threads of the group of the ``struct signal_struct *`` at `signal`, ascending by number. One that ends meanwhile is left
/// out.
pub(crate) fn threads(session: &Session<'_>, signal: Gva) -> Result<Vec<Thread>, ReadError> {
    let mut threads = Vec::new();
    for task in signal::threads(session, signal)? {
        threads.extend(session.known("task_struct (thread)", task, thread(session, task))?.flatten());
    }
    threads.sort_by_key(|thread: &Thread| (thread.tid, thread.task));
    Ok(threads)
}

fn thread(session: &Session<'_>, task: Gva) -> Result<Option<Thread>, ReadError> {
    let before = task::Stamp::of(session, task)?;
    let (name, kind, state) = task::identity(session, task, &before)?;
    // Reaped, or memory that is another task's by now.
    if before.is_gone() || task::Stamp::of(session, task)? != before {
        session.torn();
        return Ok(None);
    }
    Ok(Some(Thread {
        tid: before.number(),
        name,
        kind,
        state,
        start_time_ns: Some(before.start()),
        task: Address(task.0),
    }))
}

/// What a task is by its flags (include/linux/sched.h, 5.10 to 7.2). Before 6.4 the bit of user workers meant something else.
pub(crate) fn kind(session: &Session<'_>, flags: u32) -> TaskKind {
    const PF_IO_WORKER: u32 = 0x10;
    const PF_USER_WORKER: u32 = 0x4000;
    let has_user_workers = session.kernel.layouts().task.has_user_workers();
    match flags {
        flags if flags & task::PF_KTHREAD != 0 => TaskKind::Kernel,
        flags if flags & PF_IO_WORKER != 0 => TaskKind::IoWorker,
        flags if flags & PF_USER_WORKER != 0 && has_user_workers => TaskKind::UserWorker,
        _ => TaskKind::User,
    }
}
