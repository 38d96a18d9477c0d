//! The kernel's trees of numbered things: ``struct xarray`` (include/linux/xarray.h), which a ``struct idr`` is inside.
//!
//! Nodes of 64 slots, whose pointers have their second lowest bit set where another node follows. Kernels before 4.20 have
//! another tree in a ``struct idr``; there, no walk may begin.

use super::layout::Resolver;
use crate::session::{Session, member};
use facts::ProblemKind;
use vmi_core::{Gva, ReadError};

/// Bytes of the slots of a node: ``XA_CHUNK_SIZE`` pointers.
const SLOTS_BYTES: usize = 64 * 8;
/// Most nodes: 4,194,304 pids (``PID_MAX_LIMIT``), the most of anything here, in leaves of 64, and the nodes above them.
const NODES_MAX: usize = (4 << 20) / 64 + 2048;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// In ``struct idr``: the pointer to the top node.
    pub(super) idr_head: u64,
    slots: u64,
}

impl Layout {
    /// `None`: an idr is no xarray.
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        let idr_head = resolver.optional("idr", "idr_rt.xa_head")?;
        Some(Self { idr_head, slots: resolver.offset("xa_node", "slots") })
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

/// All pointers in the tree `what`, the pointer to whose top node is at `head`, in no order that means anything.
pub(super) fn pointers(
    session: &Session<'_>,
    layout: Layout,
    what: &str,
    head: Gva,
) -> Result<Vec<Gva>, ReadError> {
    let top = session.known(what, head, session.space.pointer(head))?.unwrap_or_default();
    let mut nodes = vec![top];
    let mut found = Vec::new();
    let mut seen = 0;
    while let Some(raw) = nodes.pop() {
        match entry(raw) {
            Entry::Empty => {}
            Entry::Value(pointer) => found.push(pointer),
            Entry::Node(node) => {
                seen += 1;
                if seen > NODES_MAX {
                    session.problem(
                        ProblemKind::Budget,
                        format_args!("{what} {head}"),
                        format_args!("More than {NODES_MAX} nodes."),
                    );
                    break;
                }
                let slots =
                    member(node, layout.slots).and_then(|slots| session.space.bytes(slots, SLOTS_BYTES));
                let Some(slots) = session.known(what, node, slots)? else { continue };
                let (slots, _) = slots.as_chunks::<8>();
                nodes.extend(
                    slots.iter().map(|slot| Gva(u64::from_le_bytes(*slot))).filter(|slot| !slot.is_null()),
                );
            }
        }
    }
    Ok(found)
}
