//! Who has a lock that is slept for: ``struct mutex`` (include/linux/mutex.h). It begins with the owner's ``struct task_struct *``, or
//! is a ``struct rt_mutex_base`` on a kernel for real time.

use super::layout::Resolver;
use crate::session::{Session, member};
use vmi_core::{Gva, ReadError};

/// Bits of the owner's word that are no part of its address: ``MUTEX_FLAGS``, kernel/locking/mutex.c, and ``RT_MUTEX_HAS_WAITERS``,
/// kernel/locking/rtmutex_common.h (6.1).
const FLAGS: u64 = 7;

/// Offset in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    owner: u64,
}

impl Layout {
    /// `None`: the kernel does not say.
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        let of = |path| resolver.optional("mutex", path);
        Some(Self { owner: of("owner").or_else(|| of("rtmutex.owner"))? })
    }
}

/// The ``struct task_struct *`` that has the mutex at `at` now, also where pages are kept that were read before; null while it is
/// handed to one that waits. `None`: nobody has it and nobody waits for it.
pub(super) fn owner(session: &Session<'_>, layout: Layout, at: Gva) -> Result<Option<Gva>, ReadError> {
    let mut word = [0; 8];
    session.space.read_again(member(at, layout.owner)?, &mut word)?;
    let word = u64::from_le_bytes(word);
    Ok((word != 0).then_some(Gva(word & !FLAGS)))
}
