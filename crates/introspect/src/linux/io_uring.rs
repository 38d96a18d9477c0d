//! Files that an io_uring holds: its table of registered ("fixed") files, which work without any descriptor.
//!
//! The table is an array of ``struct io_fixed_file`` with ``nr_user_files`` entries, and since 6.13 an array of pointers to
//! ``struct io_rsrc_node`` (io_uring/filetable.h). Kernels before 5.13 have yet another one, which Debian's 5.10 does not.

use super::layout::Resolver;
use crate::session::{Session, member};
use facts::ProblemKind;
use vmi_core::{Gva, ReadError};

/// ``IORING_MAX_FIXED_FILES``, io_uring/rsrc.c: 2^20. A table that claims more is not believed.
const FILES_MAX: u32 = 1 << 20;
/// Flags in the low bits of ``file_ptr`` (``FFS_MASK``, io_uring/filetable.h).
const FLAGS: u64 = 7;
/// Bytes of an entry of either table.
const ENTRY: u64 = 8;
/// Entries that are read at once.
const CHUNK: u32 = 512;

/// Offsets in bytes. `None`: this kernel has no io_uring, or a table that is not known here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    table: u64,
    count: u64,
    /// In ``struct io_rsrc_node``; `None` where the table's entries are the files themselves.
    node_file: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        let of_ring = |path| resolver.optional("io_ring_ctx", path);
        if let (Some(table), Some(count)) = (of_ring("file_table.data.nodes"), of_ring("file_table.data.nr"))
        {
            let node_file = Some(resolver.optional("io_rsrc_node", "file_ptr")?);
            return Some(Self { table, count, node_file });
        }
        Some(Self { table: of_ring("file_table.files")?, count: of_ring("nr_user_files")?, node_file: None })
    }
}

/// ``struct file *`` of all files registered with the ``struct io_ring_ctx *`` at `ring`. `Ok(None)`: not known how this
/// kernel keeps them.
pub(super) fn files(session: &Session<'_>, ring: Gva) -> Result<Option<Vec<Gva>>, ReadError> {
    let Some(layout) = session.kernel.layouts().net.io_uring else { return Ok(None) };
    let space = &session.space;
    let table = space.pointer(member(ring, layout.table)?)?;
    let count = space.u32(member(ring, layout.count)?)?;
    if table.is_null() || count == 0 {
        return Ok(Some(Vec::new()));
    }
    if count > FILES_MAX {
        session.problem(
            ProblemKind::Implausible,
            format_args!("io_ring_ctx {ring}"),
            format_args!("It claims {count} registered files."),
        );
        return Ok(Some(Vec::new()));
    }
    let mut files = Vec::new();
    for first in (0..count).step_by(CHUNK as usize) {
        let len = usize::try_from(CHUNK.min(count - first)).unwrap_or(0).saturating_mul(8);
        let at = table
            .element(u64::from(first), ENTRY)
            .ok_or(ReadError::NotAnAddress { at: table, len: ENTRY })?;
        for entry in space.bytes(at, len)?.as_chunks::<8>().0 {
            let entry = Gva(u64::from_le_bytes(*entry));
            let file = match layout.node_file {
                Some(offset) if !entry.is_null() => space.pointer(member(entry, offset)?)?,
                _ => entry,
            };
            let file = Gva(file.0 & !FLAGS);
            if !file.is_null() {
                files.push(file);
            }
        }
    }
    Ok(Some(files))
}
