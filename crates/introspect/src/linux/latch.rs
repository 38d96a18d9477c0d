//! The kernel's latched trees (``struct latch_tree_root``, include/linux/rbtree_latch.h): two trees of the same objects, of which
//! one is whole at any time: the one that the lowest bit of the sequence number says, as long as that number stays.

use super::layout::Resolver;
use crate::session::{Session, container, member};
use facts::ProblemKind;
use std::collections::BTreeSet;
use vmi_core::{Gva, ReadError};

/// How often a tree is walked when it changes meanwhile.
const TRIES: u32 = 4;
/// Most nodes of a tree: a module has up to seven ranges of memory, a program up to 256 functions.
const NODES_MAX: usize = 64 << 10;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    sequence: u64,
    roots: u64,
    node_size: u64,
    right: u64,
    left: u64,
}

impl Layout {
    pub(super) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            sequence: resolver.optional("latch_tree_root", "seq")?,
            roots: resolver.optional("latch_tree_root", "tree")?,
            node_size: resolver.profile().size("rb_node").ok()?,
            right: resolver.optional("rb_node", "rb_right")?,
            left: resolver.optional("rb_node", "rb_left")?,
        })
    }
}

/// What `read` makes of each ``struct latch_tree_node`` of the tree at `root`. `None`: it cannot be read.
pub(super) fn tree<T: Ord>(
    session: &Session<'_>,
    layout: Layout,
    what: &str,
    root: Gva,
    read: impl Fn(Gva) -> Result<Option<T>, ReadError>,
) -> Result<Option<BTreeSet<T>>, ReadError> {
    let sequence = || session.space.u32(member(root, layout.sequence)?);
    let mut found = BTreeSet::new();
    for _ in 0..TRIES {
        let Some(before) = session.known(what, root, sequence())? else { return Ok(None) };
        let walked = walk(session, layout, what, root, u64::from(before & 1), &read);
        found = session.known(what, root, walked)?.unwrap_or_default();
        session.space.look().forget_pages();
        if session.known(what, root, sequence())? == Some(before) {
            break;
        }
        session.retry();
    }
    Ok(Some(found))
}

fn walk<T: Ord>(
    session: &Session<'_>,
    layout: Layout,
    what: &str,
    root: Gva,
    which: u64,
    read: impl Fn(Gva) -> Result<Option<T>, ReadError>,
) -> Result<BTreeSet<T>, ReadError> {
    let space = &session.space;
    let top = member(root, layout.roots)?
        .element(which, 8)
        .ok_or(ReadError::NotAnAddress { at: root, len: layout.roots })?;
    let mut open = vec![space.pointer(top)?];
    let mut seen = BTreeSet::new();
    let mut found = BTreeSet::new();
    while let Some(node) = open.pop() {
        if node.is_null() || !seen.insert(node) {
            continue;
        }
        if seen.len() > NODES_MAX {
            session.problem(
                ProblemKind::Budget,
                format_args!("{what} {root}"),
                format_args!("More than {NODES_MAX} nodes."),
            );
            break;
        }
        let offset = which.saturating_mul(layout.node_size);
        let both = container(node, offset)?;
        found.extend(read(both)?);
        open.push(space.pointer(member(node, layout.right)?)?);
        open.push(space.pointer(member(node, layout.left)?)?);
    }
    Ok(found)
}
