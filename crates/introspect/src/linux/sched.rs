//! Run queues: what the scheduler runs or is about to run (``struct rq`` of each CPU, kernel/sched/sched.h).
//!
//! A task that is on none of the kernel's lists of processes and yet gets CPU time is here at the moments it does. That a
//! task is not here says nothing: most tasks sleep.

use super::layout::Resolver;
use super::{list, percpu};
use crate::session::{Session, member};
use vmi_core::{Gva, ReadError};

/// Name of this view in [`facts::Process::views`].
pub(crate) const VIEW: &str = "run_queue";

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// In ``struct rq``; absent where the type information leaves it out.
    current: Option<u64>,
    /// In ``struct rq``: all tasks of the fair class that are queued (`CONFIG_SMP`).
    fair: Option<u64>,
    /// In ``struct task_struct``.
    group_node: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            current: resolver.optional("rq", "curr"),
            fair: resolver.optional("rq", "cfs_tasks"),
            group_node: resolver.optional("task_struct", "se.group_node"),
        }
    }
}

/// ``struct task_struct *`` that run or are queued, threads as well as leaders, the idle ones left in.
pub(crate) fn tasks(session: &Session<'_>) -> Result<Vec<Gva>, ReadError> {
    let layout = &session.kernel.layouts().sched;
    let (Some(queues), Some(current)) = (session.kernel.symbol("runqueues"), layout.current) else {
        return Ok(Vec::new());
    };
    let mut tasks = Vec::new();
    for area in percpu::areas(session, "run queue")?.unwrap_or_default() {
        let queue = Gva(queues.0.wrapping_add(area));
        let running = member(queue, current).and_then(|at| session.space.pointer(at));
        // A CPU that is possible and not there has an offset and no memory.
        let Ok(running) = running else { continue };
        tasks.extend(Some(running).filter(|task| !task.is_null()));
        if let (Some(fair), Some(group_node)) = (layout.fair, layout.group_node) {
            let nodes = list::glimpse(session, member(queue, fair)?)?;
            tasks.extend(nodes.into_iter().filter_map(|node| node.checked_sub(group_node)));
        }
    }
    Ok(tasks)
}
