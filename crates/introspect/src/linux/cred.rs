//! Credentials: ``struct cred``.
//!
//! The *objective* ones (``task->real_cred``) are read, as `/proc/PID/status` does: they are what others see of a task.

use super::layout::Resolver;
use super::namespace;
use super::record::{Members, Record};
use crate::session::{Session, member};
use facts::{Address, ProblemKind, Process};
use vmi_core::{Gva, ReadError};

/// ``NGROUPS_MAX``, include/uapi/linux/limits.h.
const GROUPS_MAX: u32 = 65_536;

/// Offsets in ``struct cred`` and ``struct group_info``, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    members: Members,
    uid: u64,
    gid: u64,
    suid: u64,
    sgid: u64,
    euid: u64,
    egid: u64,
    fsuid: u64,
    fsgid: u64,
    inheritable: u64,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
    user_namespace: u64,
    user_namespace_ns: u64,
    group_info: u64,
    groups_count: u64,
    groups: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let mut offsets = Vec::new();
        let mut of_cred = |name| {
            let offset = resolver.offset("cred", name);
            offsets.push(offset);
            offset
        };
        let [uid, gid, suid, sgid] = ["uid", "gid", "suid", "sgid"].map(&mut of_cred);
        let [euid, egid, fsuid, fsgid] = ["euid", "egid", "fsuid", "fsgid"].map(&mut of_cred);
        let [inheritable, permitted, effective, bounding, ambient] =
            ["cap_inheritable", "cap_permitted", "cap_effective", "cap_bset", "cap_ambient"]
                .map(&mut of_cred);
        let [user_namespace, group_info] = ["user_ns", "group_info"].map(&mut of_cred);
        Self {
            members: Members::at(offsets),
            uid,
            gid,
            suid,
            sgid,
            euid,
            egid,
            fsuid,
            fsgid,
            inheritable,
            permitted,
            effective,
            bounding,
            ambient,
            user_namespace,
            user_namespace_ns: resolver.offset("user_namespace", "ns"),
            group_info,
            groups_count: resolver.offset("group_info", "ngroups"),
            groups: resolver.offset("group_info", "gid"),
        }
    }
}

/// Fills in what the ``struct cred *`` at `cred` says, ids as the initial user namespace counts them (``kuid_t``). What
/// cannot be read stays unknown, with a problem.
pub(crate) fn fill(session: &Session<'_>, cred: Gva, process: &mut Process) -> Result<(), ReadError> {
    let layout = &session.kernel.layouts().cred;
    let mut record = Record::of(cred, &layout.members);
    if session.known("cred", cred, record.read(session))?.is_none() {
        return Ok(());
    }
    let id = |offset| record.u32(offset).map(Some);
    process.uid = id(layout.uid)?;
    process.gid = id(layout.gid)?;
    process.suid = id(layout.suid)?;
    process.sgid = id(layout.sgid)?;
    process.euid = id(layout.euid)?;
    process.egid = id(layout.egid)?;
    process.fsuid = id(layout.fsuid)?;
    process.fsgid = id(layout.fsgid)?;
    // ``kernel_cap_t``: two ``u32``, the low one first (before 6.3), or one ``u64``: the same eight bytes.
    let capabilities = |offset| record.u64(offset).map(|bits| Some(Address(bits)));
    process.capabilities_inheritable = capabilities(layout.inheritable)?;
    process.capabilities_permitted = capabilities(layout.permitted)?;
    process.capabilities_effective = capabilities(layout.effective)?;
    process.capabilities_bounding = capabilities(layout.bounding)?;
    process.capabilities_ambient = capabilities(layout.ambient)?;
    let user_namespace = record.pointer(layout.user_namespace)?;
    process.namespaces.user = namespace::inode(session, user_namespace, layout.user_namespace_ns)?;
    let group_info = record.pointer(layout.group_info)?;
    process.groups = session.known("group_info", group_info, groups(session, group_info))?.flatten();
    Ok(())
}

/// Has fetched what [`fill`] reads of the ``struct cred *`` at `cred`.
pub(super) fn expect(session: &Session<'_>, cred: Gva) {
    session.kernel.layouts().cred.members.expect(session, cred);
}

/// The same of its groups, once [`expect`] had time.
pub(super) fn expect_groups(session: &Session<'_>, cred: Gva) {
    let layout = &session.kernel.layouts().cred;
    if let Some(group_info) = session.glimpse(cred, layout.group_info) {
        session.expect(group_info, layout.groups_count, 8);
    }
}

/// Supplementary groups, which the kernel keeps sorted. `None`: it claims more than there can be.
fn groups(session: &Session<'_>, group_info: Gva) -> Result<Option<Vec<u32>>, ReadError> {
    let layout = &session.kernel.layouts().cred;
    let count = session.space.u32(member(group_info, layout.groups_count)?)?;
    if count == 0 {
        return Ok(Some(Vec::new()));
    }
    if count > GROUPS_MAX {
        session.problem(
            ProblemKind::Implausible,
            format_args!("group_info {group_info}"),
            format_args!("It claims {count} groups."),
        );
        return Ok(None);
    }
    let len = usize::try_from(count).unwrap_or(0).saturating_mul(4);
    let bytes = session.space.bytes(member(group_info, layout.groups)?, len)?;
    let (groups, _) = bytes.as_chunks::<4>();
    Ok(Some(groups.iter().map(|group| u32::from_le_bytes(*group)).collect()))
}
