//! Credentials: ``struct cred``.
//!
//! The *objective* ones (``task->real_cred``) are read, as `/proc/PID/status` does: they are what others see of a task.

use super::layout::Resolver;
use super::namespace;
use crate::session::{Session, member};
use vmi_core::{Gva, ReadError};

/// Offsets in ``struct cred``, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    uid: u64,
    gid: u64,
    euid: u64,
    egid: u64,
    capabilities_effective: u64,
    user_namespace: u64,
    user_namespace_ns: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self {
            uid: resolver.offset("cred", "uid"),
            gid: resolver.offset("cred", "gid"),
            euid: resolver.offset("cred", "euid"),
            egid: resolver.offset("cred", "egid"),
            capabilities_effective: resolver.offset("cred", "cap_effective"),
            user_namespace: resolver.offset("cred", "user_ns"),
            user_namespace_ns: resolver.offset("user_namespace", "ns"),
        }
    }
}

/// Credentials of one task, ids as the initial user namespace counts them (``kuid_t``).
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) euid: u32,
    pub(crate) gid: u32,
    pub(crate) egid: u32,
    /// ``kernel_cap_t``: two ``u32``, the low one first (before 6.3), or one ``u64``: the same eight bytes.
    pub(crate) capabilities_effective: u64,
    pub(crate) user_namespace: Option<u32>,
}

/// Reads the ``struct cred *`` at `cred`.
pub(crate) fn credentials(session: &Session<'_>, cred: Gva) -> Result<Credentials, ReadError> {
    let layout = &session.kernel.layouts().cred;
    let id = |offset| session.space.u32(member(cred, offset)?);
    let user_namespace = session.space.pointer(member(cred, layout.user_namespace)?)?;
    Ok(Credentials {
        uid: id(layout.uid)?,
        euid: id(layout.euid)?,
        gid: id(layout.gid)?,
        egid: id(layout.egid)?,
        capabilities_effective: session.space.u64(member(cred, layout.capabilities_effective)?)?,
        user_namespace: namespace::inode(session, user_namespace, layout.user_namespace_ns)?,
    })
}
