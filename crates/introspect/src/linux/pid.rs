//! The pid table: ``init_pid_ns.idr``, in which every process and thread has its number.
//!
//! It is what `kill` and `/proc` find a process by, and nothing that takes a task off the task list takes it out of here.
//! Kernels before 4.20 have another tree here than `xarray` walks; then there is no such view.

use super::layout::Resolver;
use super::xarray;
use crate::session::{Session, member};
use vmi_core::{Gva, ReadError};

/// Name of this view in [`facts::Process::views`].
pub(crate) const VIEW: &str = "pid_table";
/// ``PIDTYPE_TGID``, include/linux/pid.h: index of the thread group leader's list in ``struct pid``.
const THREAD_GROUP: u64 = 1;
/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// In ``struct pid_namespace``. `None`: the table is of another kind.
    idr: Option<u64>,
    pid_tasks: u64,
    pid_links: u64,
    hlist_node_size: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            idr: resolver.optional("pid_namespace", "idr"),
            pid_tasks: resolver.offset("pid", "tasks"),
            pid_links: resolver.offset("task_struct", "pid_links"),
            hlist_node_size: resolver.size("hlist_node"),
        }
    }
}

/// Whether this kernel has the view.
pub(crate) fn is_known(session: &Session<'_>) -> bool {
    table(session).is_some()
}

/// ``struct task_struct *`` of all thread group leaders in the table.
pub(crate) fn leaders(session: &Session<'_>) -> Result<Vec<Gva>, ReadError> {
    let Some((tree, head)) = table(session) else { return Ok(Vec::new()) };
    let pids = xarray::pointers(session, tree, "pid table", head)?;
    let leaders = session.each(
        &pids,
        &[|session, pid, ()| session.expect(pid, session.kernel.layouts().pid.pid_tasks, 16)],
        |pid| session.known("pid table", pid, leader(session, pid)),
    )?;
    Ok(leaders.into_iter().flatten().flatten().collect())
}

/// The tree, and where the pointer to its top node is.
fn table(session: &Session<'_>) -> Option<(xarray::Layout, Gva)> {
    let layout = &session.kernel.layouts().pid;
    let head = session.kernel.symbol("init_pid_ns")?.checked_add(layout.idr?)?;
    let tree = session.kernel.layouts().xarray?;
    Some((tree, head.checked_add(tree.idr_head)?))
}

/// The thread group leader that a ``struct pid`` is of. `None`: it is a thread's, or only a group's or session's any more.
fn leader(session: &Session<'_>, pid: Gva) -> Result<Option<Gva>, ReadError> {
    let layout = &session.kernel.layouts().pid;
    let list = member(pid, layout.pid_tasks)?
        .element(THREAD_GROUP, 8)
        .ok_or(ReadError::NotAnAddress { at: pid, len: layout.pid_tasks })?;
    let node = session.space.pointer(list)?;
    let link = THREAD_GROUP.saturating_mul(layout.hlist_node_size).saturating_add(layout.pid_links);
    Ok(if node.is_null() { None } else { node.checked_sub(link) })
}
