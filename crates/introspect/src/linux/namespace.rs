//! Namespaces: ``struct nsproxy``, and the pid namespace that a task has its pid in.
//!
//! Each namespace is known outside by its inode number (``ns_common.inum``), the number in `/proc/PID/ns/*`.

use super::layout::Resolver;
use super::record::Members;
use crate::session::{Session, member};
use facts::Namespaces;
use std::cell::RefCell;
use std::collections::HashMap;
use vmi_core::{Gva, ReadError};

/// Deepest nesting of pid namespaces: ``MAX_PID_NS_LEVEL``, include/linux/pid_namespace.h.
const PID_LEVELS_MAX: u32 = 32;

/// Offsets in bytes. For each namespace: its pointer in ``struct nsproxy`` and its ``struct ns_common`` inside.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    inum: u64,
    uts: (u64, u64),
    ipc: (u64, u64),
    mnt: (u64, u64),
    net: (u64, u64),
    cgroup: (u64, u64),
    pid_level: u64,
    pid_numbers: u64,
    upid_size: u64,
    /// What is read of a ``struct pid`` of the initial namespace.
    of_pid: Members,
    upid_ns: u64,
    pid_namespace_ns: u64,
    /// ``version`` of ``struct new_utsname`` inside ``struct uts_namespace``.
    pub(crate) uts_version: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let mut pair =
            |pointer: &str, name: &str| (resolver.offset("nsproxy", pointer), resolver.offset(name, "ns"));
        let uts = pair("uts_ns", "uts_namespace");
        let ipc = pair("ipc_ns", "ipc_namespace");
        let mnt = pair("mnt_ns", "mnt_namespace");
        let net = pair("net_ns", "net");
        let cgroup = pair("cgroup_ns", "cgroup_namespace");
        let pid_level = resolver.offset("pid", "level");
        let pid_numbers = resolver.offset("pid", "numbers");
        let upid_size = resolver.size("upid");
        Self {
            inum: resolver.offset("ns_common", "inum"),
            uts,
            ipc,
            mnt,
            net,
            cgroup,
            pid_level,
            pid_numbers,
            upid_size,
            of_pid: Members::of([(pid_level, 4), (pid_numbers, upid_size)]),
            upid_ns: resolver.offset("upid", "ns"),
            pid_namespace_ns: resolver.offset("pid_namespace", "ns"),
            uts_version: resolver.offset("uts_namespace", "name.version"),
        }
    }
}

/// Namespaces of one look by ``struct nsproxy *``: a thousand processes have a dozen. It never changes while somebody has it.
pub(crate) type NamespaceCache = RefCell<HashMap<Gva, Namespaces>>;

/// Namespaces of a task from its ``struct nsproxy *`` (null for a zombie) and ``struct pid *`` (null once released).
/// The user namespace is the caller's to fill in: it hangs on the credentials.
pub(crate) fn namespaces(session: &Session<'_>, nsproxy: Gva, pid: Gva) -> Result<Namespaces, ReadError> {
    let known = session.namespaces.borrow().get(&nsproxy).cloned();
    let of_proxy = match known {
        Some(known) => known,
        None => {
            let read = of_proxy(session, nsproxy)?;
            session.namespaces.borrow_mut().insert(nsproxy, read.clone());
            read
        }
    };
    Ok(Namespaces { pid: pid_namespace(session, pid)?, ..of_proxy })
}

/// Those that hang on a ``struct nsproxy *``.
fn of_proxy(session: &Session<'_>, nsproxy: Gva) -> Result<Namespaces, ReadError> {
    let layout = &session.kernel.layouts().namespace;
    let of_proxy = |(pointer, ns): (u64, u64)| -> Result<Option<u32>, ReadError> {
        if nsproxy.is_null() {
            return Ok(None);
        }
        let namespace = member(nsproxy, pointer).and_then(|at| session.space.pointer(at));
        match session.known("nsproxy", nsproxy, namespace)? {
            Some(namespace) => inode(session, namespace, ns),
            None => Ok(None),
        }
    };
    Ok(Namespaces {
        pid: None,
        net: of_proxy(layout.net)?,
        mnt: of_proxy(layout.mnt)?,
        user: None,
        uts: of_proxy(layout.uts)?,
        ipc: of_proxy(layout.ipc)?,
        cgroup: of_proxy(layout.cgroup)?,
    })
}

/// Inode number of the namespace object at `namespace`, whose ``struct ns_common`` is `ns` bytes in. `None` for null.
pub(crate) fn inode(session: &Session<'_>, namespace: Gva, ns: u64) -> Result<Option<u32>, ReadError> {
    if namespace.is_null() {
        return Ok(None);
    }
    let layout = &session.kernel.layouts().namespace;
    let inum =
        member(namespace, ns).and_then(|at| member(at, layout.inum)).and_then(|at| session.space.u32(at));
    session.known("namespace", namespace, inum)
}

/// Inode number of the network namespace that the ``struct net`` at `net` is.
pub(super) fn of_net(session: &Session<'_>, net: Gva) -> Result<Option<u32>, ReadError> {
    inode(session, net, session.kernel.layouts().namespace.net.1)
}

/// Has fetched what [`namespaces`] reads of the ``struct pid *`` at `pid`.
pub(super) fn expect_pid(session: &Session<'_>, pid: Gva) {
    session.kernel.layouts().namespace.of_pid.expect(session, pid);
}

/// ``ns_of_pid()``: the namespace of the deepest of ``pid->numbers``.
fn pid_namespace(session: &Session<'_>, pid: Gva) -> Result<Option<u32>, ReadError> {
    if pid.is_null() {
        return Ok(None);
    }
    let layout = &session.kernel.layouts().namespace;
    let read = || {
        let level = session.space.u32(member(pid, layout.pid_level)?)?;
        let numbers = member(pid, layout.pid_numbers)?;
        let deepest = numbers
            .element(u64::from(level.min(PID_LEVELS_MAX)), layout.upid_size)
            .ok_or(ReadError::NotAnAddress { at: numbers, len: layout.upid_size })?;
        session.space.pointer(member(deepest, layout.upid_ns)?)
    };
    match session.known("pid", pid, read())? {
        Some(namespace) => inode(session, namespace, layout.pid_namespace_ns),
        None => Ok(None),
    }
}
