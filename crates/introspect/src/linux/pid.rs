//! The pid table: ``init_pid_ns.idr``, in which every process and thread has its number.
//!
//! It is what `kill` and `/proc` find a process by, and nothing that takes a task off the task list takes it out of here.
//! The table is an xarray (include/linux/xarray.h): nodes of 64 slots, whose pointers have their second lowest bit set
//! where another node follows. Kernels before 4.20 have another tree here; then there is no such view.

use super::layout::Resolver;
use crate::session::{Session, member};
use facts::ProblemKind;
use std::collections::HashSet;
use vmi_core::{Gva, ReadError};

/// Name of this view in [`facts::Process::views`].
pub(crate) const VIEW: &str = "pid_table";
/// ``PIDTYPE_TGID``, include/linux/pid.h: index of the thread group leader's list in ``struct pid``.
const THREAD_GROUP: u64 = 1;
/// Bytes of the slots of a node: ``XA_CHUNK_SIZE`` pointers, include/linux/xarray.h.
const SLOTS_BYTES: usize = 64 * 8;
/// Most nodes: 4,194,304 pids (``PID_MAX_LIMIT``) in leaves of 64, and the nodes above them.
const NODES_MAX: usize = (4 << 20) / 64 + 2048;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// In ``struct pid_namespace``: the pointer to the top node. `None`: not an xarray.
    head: Option<u64>,
    slots: u64,
    pid_tasks: u64,
    pid_links: u64,
    hlist_node_size: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let head = resolver.optional("pid_namespace", "idr.idr_rt.xa_head");
        let slots = if head.is_some() { resolver.offset("xa_node", "slots") } else { 0 };
        Self {
            head,
            slots,
            pid_tasks: resolver.offset("pid", "tasks"),
            pid_links: resolver.offset("task_struct", "pid_links"),
            hlist_node_size: resolver.size("hlist_node"),
        }
    }
}

/// What a slot holds.
enum Entry {
    Empty,
    Node(Gva),
    Value(Gva),
}

fn entry(raw: Gva) -> Entry {
    match raw.0 {
        0 => Entry::Empty,
        // Internal entries below 4096 are marks of the tree itself (``xa_is_node()``).
        raw if raw & 3 == 2 => {
            if raw > 4096 {
                Entry::Node(Gva(raw - 2))
            } else {
                Entry::Empty
            }
        }
        raw if raw & 3 == 0 => Entry::Value(Gva(raw)),
        _ => Entry::Empty,
    }
}

/// Whether this kernel has the view.
pub(crate) fn is_known(session: &Session<'_>) -> bool {
    session.kernel.layouts().pid.head.is_some() && session.kernel.symbol("init_pid_ns").is_some()
}

/// ``struct task_struct *`` of all thread group leaders in the table.
pub(crate) fn leaders(session: &Session<'_>) -> Result<HashSet<Gva>, ReadError> {
    let mut leaders = HashSet::new();
    let Some(head) = head(session) else { return Ok(leaders) };
    let top = session.known("pid table", head, session.space.pointer(head))?.unwrap_or_default();
    let mut nodes = vec![top];
    let mut seen = 0;
    while let Some(raw) = nodes.pop() {
        match entry(raw) {
            Entry::Empty => {}
            Entry::Value(pid) => {
                let leader = leader(session, pid);
                leaders.extend(session.known("pid table", pid, leader)?.flatten());
            }
            Entry::Node(node) => {
                seen += 1;
                if seen > NODES_MAX {
                    session.problem(
                        ProblemKind::Budget,
                        format_args!("pid table {head}"),
                        format_args!("More than {NODES_MAX} nodes."),
                    );
                    break;
                }
                let slots = member(node, session.kernel.layouts().pid.slots)
                    .and_then(|slots| session.space.bytes(slots, SLOTS_BYTES));
                let Some(slots) = session.known("pid table", node, slots)? else { continue };
                let (slots, _) = slots.as_chunks::<8>();
                nodes.extend(
                    slots.iter().map(|slot| Gva(u64::from_le_bytes(*slot))).filter(|slot| !slot.is_null()),
                );
            }
        }
    }
    Ok(leaders)
}

fn head(session: &Session<'_>) -> Option<Gva> {
    session.kernel.symbol("init_pid_ns")?.checked_add(session.kernel.layouts().pid.head?)
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
