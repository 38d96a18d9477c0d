//! The filter of a socket: ``struct sk_filter`` → ``struct bpf_prog``.
//!
//! A classic filter is translated to an eBPF program when it is attached, of type ``BPF_PROG_TYPE_UNSPEC``, which no loaded
//! program has (``bpf_prog_was_classic()``, include/linux/filter.h); what it was written in is kept in ``orig_prog``.

use super::layout::Resolver;
use crate::session::{Session, member};
use facts::{FilterKind, SocketFilter};
use vmi_core::{Gva, ReadError};

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    program: u64,
    kind: u64,
    len: u64,
    more: u64,
    original: u64,
    original_len: u64,
    id: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            program: resolver.offset("sk_filter", "prog"),
            kind: resolver.offset("bpf_prog", "type"),
            len: resolver.offset("bpf_prog", "len"),
            more: resolver.offset("bpf_prog", "aux"),
            original: resolver.offset("bpf_prog", "orig_prog"),
            original_len: resolver.offset("sock_fprog_kern", "len"),
            id: resolver.offset("bpf_prog_aux", "id"),
        }
    }
}

/// The ``struct sk_filter *`` at `filter`.
pub(super) fn read(session: &Session<'_>, filter: Gva) -> Result<SocketFilter, ReadError> {
    let layout = &session.kernel.layouts().net.filter;
    let space = &session.space;
    let program = space.pointer(member(filter, layout.program)?)?;
    if space.u32(member(program, layout.kind)?)? != 0 {
        let more = space.pointer(member(program, layout.more)?)?;
        return Ok(SocketFilter {
            kind: FilterKind::Ebpf,
            instructions: Some(space.u32(member(program, layout.len)?)?),
            program: Some(space.u32(member(more, layout.id)?)?),
        });
    }
    let original = space.pointer(member(program, layout.original)?)?;
    let instructions = match original.is_null() {
        true => None,
        false => Some(u32::from(space.u16(member(original, layout.original_len)?)?)),
    };
    Ok(SocketFilter { kind: FilterKind::Classic, instructions, program: None })
}
