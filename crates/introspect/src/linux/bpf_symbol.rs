//! Names of the machine code of eBPF programs: the list ``bpf_kallsyms``, by which `/proc/kallsyms` shows them, and the tree
//! ``bpf_tree``, by which the kernel finds the program that an address is in.
//!
//! Each program that is translated to machine code and whose loader may do more than a stranger is in both, from when it has its
//! number until it is freed. So are its functions, each of which is a ``struct bpf_prog`` of its own, and code that is no program's.

use super::layout::Resolver;
use super::{latch, list};
use crate::session::{Session, member};
use std::collections::BTreeSet;
use vmi_core::{Gva, ReadError};

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    latch: latch::Layout,
    /// In ``struct bpf_prog_aux``.
    symbol: u64,
    back: u64,
    /// In ``struct bpf_ksym``.
    list: u64,
    tree: u64,
    is_program: u64,
}

impl Layout {
    pub(super) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            latch: latch::Layout::resolve(resolver)?,
            symbol: resolver.optional("bpf_prog_aux", "ksym")?,
            back: resolver.optional("bpf_prog_aux", "prog")?,
            list: resolver.optional("bpf_ksym", "lnode")?,
            tree: resolver.optional("bpf_ksym", "tnode")?,
            is_program: resolver.optional("bpf_ksym", "prog")?,
        })
    }

    /// The ``struct bpf_prog *`` whose name has a node at `node`, which is `offset` bytes into the name. `None`: it is no
    /// program's.
    fn program(&self, session: &Session<'_>, node: Gva, offset: u64) -> Result<Option<Gva>, ReadError> {
        let before = |at: Gva, len| at.checked_sub(len).ok_or(ReadError::NotAnAddress { at, len });
        let symbol = before(node, offset)?;
        if session.space.u8(member(symbol, self.is_program)?)? == 0 {
            return Ok(None);
        }
        session.space.pointer(member(before(symbol, self.symbol)?, self.back)?).map(Some)
    }
}

/// ``struct bpf_prog *`` of the programs in the list. `None`: this kernel does not say where it is.
pub(super) fn in_list(session: &Session<'_>) -> Result<Option<BTreeSet<Gva>>, ReadError> {
    let Some((layout, head)) = place(session, "bpf_kallsyms") else { return Ok(None) };
    let mut programs = BTreeSet::new();
    for node in list::list(session, "bpf_kallsyms", head)? {
        let program = layout.program(session, node, layout.list);
        programs.extend(session.known("bpf_ksym", node, program)?.flatten());
    }
    Ok(Some(programs))
}

/// The same of the tree.
pub(super) fn in_tree(session: &Session<'_>) -> Result<Option<BTreeSet<Gva>>, ReadError> {
    let Some((layout, root)) = place(session, "bpf_tree") else { return Ok(None) };
    latch::tree(session, layout.latch, "bpf_tree", root, |node| layout.program(session, node, layout.tree))
}

fn place<'s>(session: &'s Session<'_>, symbol: &str) -> Option<(&'s Layout, Gva)> {
    let layout = session.kernel.layouts().bpf.as_ref()?.symbol.as_ref()?;
    Some((layout, session.kernel.symbol(symbol)?))
}
