//! What waits in a unix socket's receive queue: bytes, and files on their way to another process (`SCM_RIGHTS`).
//!
//! A ``struct sk_buff`` carries them in its control block, ``struct unix_skb_parms``, as a ``struct scm_fp_list``
//! (include/net/scm.h). A socket whose descriptors were all closed after it was sent lives on there.

use super::layout::Resolver;
use super::list;
use crate::session::{Session, member};
use facts::ProblemKind;
use vmi_core::{Gva, ReadError};

/// ``SCM_MAX_FD``, include/net/scm.h.
const FILES_MAX: u16 = 253;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// In ``struct sock``.
    queue: u64,
    /// In ``struct sk_buff_head``.
    queue_len: u64,
    skb_len: u64,
    /// In ``struct sk_buff``, through its control block.
    files: u64,
    consumed: u64,
    list_count: u64,
    list_files: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let control = resolver.offset("sk_buff", "cb");
        for member in ["next", "prev"] {
            if resolver.offset("sk_buff", member) != resolver.offset("list_head", member)
                || resolver.offset("sk_buff_head", member) != resolver.offset("list_head", member)
            {
                resolver.lacks(format!("sk_buff with {member} where a list has it"));
            }
        }
        let mut in_control = |member: &str| control.saturating_add(resolver.offset("unix_skb_parms", member));
        Self {
            files: in_control("fp"),
            consumed: in_control("consumed"),
            queue: resolver.offset("sock", "sk_receive_queue"),
            queue_len: resolver.offset("sk_buff_head", "qlen"),
            skb_len: resolver.offset("sk_buff", "len"),
            list_count: resolver.offset("scm_fp_list", "count"),
            list_files: resolver.offset("scm_fp_list", "fp"),
        }
    }
}

/// A receive queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    /// Buffers: of a listener, connections that wait to be accepted.
    pub(super) buffers: u32,
    /// Bytes in the first one.
    pub(super) first: u64,
    /// Bytes in all of them that were not read yet.
    pub(super) unread: u64,
    /// ``struct file *`` on their way.
    pub(super) files: Vec<Gva>,
}

/// Has fetched what [`queue`] reads of the ``struct sock *`` at `sk`.
pub(super) fn expect(session: &Session<'_>, sk: Gva) {
    session.expect(sk, session.kernel.layouts().net.scm.queue, 24);
}

/// The receive queue of the unix ``struct sock *`` at `sk`.
pub(super) fn queue(session: &Session<'_>, sk: Gva) -> Result<Queue, ReadError> {
    let layout = &session.kernel.layouts().net.scm;
    let head = member(sk, layout.queue)?;
    let space = &session.space;
    let mut queue = Queue { buffers: space.u32(member(head, layout.queue_len)?)?, ..Queue::default() };
    if space.pointer(head)? == head {
        return Ok(queue);
    }
    for (index, skb) in list::list(session, "unix receive queue", head)?.into_iter().enumerate() {
        let len = u64::from(space.u32(member(skb, layout.skb_len)?)?);
        if index == 0 {
            queue.first = len;
        }
        let unread = len.saturating_sub(u64::from(space.u32(member(skb, layout.consumed)?)?));
        queue.unread = queue.unread.saturating_add(unread);
        let files = space.pointer(member(skb, layout.files)?)?;
        if !files.is_null() {
            queue.files.append(&mut on_their_way(session, files)?);
        }
    }
    Ok(queue)
}

/// ``struct file *`` in the ``struct scm_fp_list *`` at `list`.
fn on_their_way(session: &Session<'_>, list: Gva) -> Result<Vec<Gva>, ReadError> {
    let layout = &session.kernel.layouts().net.scm;
    let count = session.space.u16(member(list, layout.list_count)?)?;
    if count > FILES_MAX {
        session.problem(
            ProblemKind::Implausible,
            format_args!("scm_fp_list {list}"),
            format_args!("It claims {count} files."),
        );
        return Ok(Vec::new());
    }
    let bytes =
        session.space.bytes(member(list, layout.list_files)?, usize::from(count).saturating_mul(8))?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|file| Gva(u64::from_le_bytes(*file))).collect())
}
