//! Programs and links that are pinned: the inodes of the file systems of type `bpf` (kernel/bpf/inode.c). One that is there needs no
//! process that holds it.

use super::file::Lead;
use super::layout::Resolver;
use super::list;
use crate::session::{Session, member};
use vmi_core::{Gva, ReadError};

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// In ``struct super_block``.
    node: u64,
    kind: u64,
    inodes: u64,
    /// In ``struct inode``.
    inode_node: u64,
    operations: u64,
    private: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let block = |member| resolver.optional("super_block", member);
        let inode = |member| resolver.optional("inode", member);
        Some(Self {
            node: block("s_list")?,
            kind: block("s_type")?,
            inodes: block("s_inodes")?,
            inode_node: inode("i_sb_list")?,
            operations: inode("i_op")?,
            private: inode("i_private")?,
        })
    }
}

/// What is pinned: programs and links.
pub(super) fn leads(session: &Session<'_>) -> Result<Vec<Lead>, ReadError> {
    let symbol = |name| session.kernel.symbol(name);
    let layout = session.kernel.layouts().bpf.as_ref().and_then(|bpf| bpf.pin.as_ref());
    let (Some(layout), Some(blocks), Some(kind)) = (layout, symbol("super_blocks"), symbol("bpf_fs_type"))
    else {
        return Ok(Vec::new());
    };
    let mut leads = Vec::new();
    for node in list::list(session, "super block list", blocks)? {
        let Some(block) = node.checked_sub(layout.node) else { continue };
        let of_kind = || Ok(session.space.pointer(member(block, layout.kind)?)? == kind);
        if session.known("super_block", block, of_kind())? != Some(true) {
            continue;
        }
        for node in list::list(session, "inodes of a bpf file system", member(block, layout.inodes)?)? {
            let Some(inode) = node.checked_sub(layout.inode_node) else { continue };
            leads.extend(session.known("inode", inode, lead(session, layout, inode))?.flatten());
        }
    }
    Ok(leads)
}

fn lead(session: &Session<'_>, layout: &Layout, inode: Gva) -> Result<Option<Lead>, ReadError> {
    let operations = Some(session.space.pointer(member(inode, layout.operations)?)?);
    let held = session.space.pointer(member(inode, layout.private)?)?;
    let lead = match operations {
        _ if held.is_null() => None,
        of if of == session.kernel.symbol("bpf_prog_iops") => Some(Lead::Program(held)),
        of if of == session.kernel.symbol("bpf_link_iops") => Some(Lead::Link(held)),
        _ => None,
    };
    Ok(lead)
}
