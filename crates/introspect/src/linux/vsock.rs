//! Vsock sockets: between a VM and its host. Their types and tables are a module's in most kernels ([`super::module_layout`]); where
//! neither profile nor module tells them, their addresses are unknown, and only descriptors lead to them.
//!
//! Two tables for all network namespaces (net/vmw_vsock/af_vsock.c): ``vsock_bind_table``, whose last list has what is not bound, and
//! ``vsock_connected_table``. What a process made is in the first until it is closed, and in the second while it is connected; what was
//! made for a connection that came in is in the second only.

use super::net::pointer;
use super::{list, sock};
use crate::session::{Session, member};
use facts::{Socket, VsockAddress};
use guest_profiles::Profile;
use vmi_core::{Gva, ReadError};

/// ``VSOCK_HASH_SIZE``, include/net/af_vsock.h.
const HASH_SIZE: u64 = 251;
/// Bytes of a bucket, ``struct list_head``.
const BUCKET: u64 = 16;
/// ``AF_VSOCK``, include/linux/socket.h: its place in ``net_families``.
const AF_VSOCK: u16 = 40;
/// ``SOCK_STREAM`` and ``SOCK_SEQPACKET``, include/linux/net.h: kinds that are connected.
const CONNECTIBLE: [u16; 2] = [1, 5];
/// include/net/tcp_states.h.
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// ``SHUTDOWN_MASK``, include/net/sock.h.
const BOTH_WAYS: u32 = 3;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    local: u64,
    remote: u64,
    cid: u64,
    port: u64,
    /// `None`: what is needed to follow the tables is not known.
    nodes: Option<Nodes>,
    /// A module's own, where they are in the running guest.
    tables: Option<Tables>,
}

#[derive(Clone, Copy, Debug)]
struct Nodes {
    bound: u64,
    connected: u64,
    transport: u64,
    peer_shutdown: u64,
}

/// Where the tables are.
#[derive(Clone, Copy, Debug)]
struct Tables {
    bound: Gva,
    connected: Gva,
}

impl Tables {
    fn of(symbol: impl Fn(&str) -> Option<Gva>) -> Option<Self> {
        Some(Self { bound: symbol("vsock_bind_table")?, connected: symbol("vsock_connected_table")? })
    }
}

impl Layout {
    /// Of a kernel that has vsock built in: its tables are among the kernel's own symbols.
    pub(crate) fn built_in(profile: &Profile) -> Option<Self> {
        Self::of(profile).map(|layout| Self { tables: None, ..layout })
    }

    /// Of a module.
    pub(super) fn of(profile: &Profile) -> Option<Self> {
        let offset = |name, member| profile.field(name, member).ok().map(|field| field.offset);
        let own = |member| offset("vsock_sock", member);
        let nodes = || {
            Some(Nodes {
                bound: own("bound_table")?,
                connected: own("connected_table")?,
                transport: own("transport")?,
                peer_shutdown: own("peer_shutdown")?,
            })
        };
        Some(Self {
            local: own("local_addr")?,
            remote: own("remote_addr")?,
            cid: offset("sockaddr_vm", "svm_cid")?,
            port: offset("sockaddr_vm", "svm_port")?,
            nodes: nodes(),
            tables: Tables::of(|name| profile.optional_symbol(name).map(Gva)),
        })
    }
}

/// What the kernel or its module tells. `None`: nothing, or the family does not exist now.
fn layout(session: &Session<'_>) -> Result<Option<Layout>, ReadError> {
    if let Some(layout) = session.kernel.layouts().net.vsock {
        return Ok(Some(Layout { tables: Tables::of(|name| session.kernel.symbol(name)), ..layout }));
    }
    let Some(families) = session.kernel.symbol("net_families") else { return Ok(None) };
    let registered = pointer(session, families, u64::from(AF_VSOCK) * 8);
    let registered = session.known("net_families", families, registered)?.filter(|family| !family.is_null());
    Ok(registered.and_then(|registered| session.kernel.modules().vsock(session, registered)))
}

/// All vsock socks that are in a table. `None`: this kernel's tables are not known, or the module is not loaded.
pub(crate) fn socks(session: &Session<'_>) -> Result<Option<Vec<Gva>>, ReadError> {
    let Some(Layout { nodes: Some(nodes), tables: Some(tables), .. }) = layout(session)? else {
        return Ok(None);
    };
    let mut socks = Vec::new();
    for (what, table, buckets, node) in [
        ("vsock bind table", tables.bound, HASH_SIZE + 1, nodes.bound),
        ("vsock connected table", tables.connected, HASH_SIZE, nodes.connected),
    ] {
        let heads = session.space.bytes(table, usize::try_from(buckets * BUCKET).unwrap_or(0));
        let Some(heads) = session.known(what, table, heads)? else { continue };
        for (index, [first, _]) in heads.as_chunks::<8>().0.as_chunks::<2>().0.iter().enumerate() {
            let Some(head) = table.element(index as u64, BUCKET) else { break };
            // An empty list is its own first element.
            if u64::from_le_bytes(*first) != head.0 {
                let found = list::list(session, what, head)?;
                socks.extend(found.into_iter().filter_map(|at| at.checked_sub(node)));
            }
        }
    }
    // What was one may be something else by the time that it is read.
    let families = session.each(&socks, &[|session, sk, ()| sock::expect_family(session, sk)], |sk| {
        session.known("sock", sk, sock::family_of(session, sk))
    })?;
    let mut families = families.into_iter();
    socks.retain(|_| families.next().flatten() == Some(AF_VSOCK));
    Ok(Some(socks))
}

/// The addresses of the ``struct vsock_sock *`` at `sk`, into `facts`. Gives back whether one of the tables must have it.
pub(super) fn decode(
    session: &Session<'_>,
    sk: Gva,
    (kind, state): (u16, u8),
    facts: &mut Socket,
) -> Result<bool, ReadError> {
    let Some(layout) = layout(session)? else { return Ok(false) };
    let address = |at: u64| -> Result<VsockAddress, ReadError> {
        let at = member(sk, at)?;
        Ok(VsockAddress {
            cid: session.space.u32(member(at, layout.cid)?)?,
            port: session.space.u32(member(at, layout.port)?)?,
        })
    };
    facts.vsock_local = Some(address(layout.local)?);
    facts.vsock_remote = Some(address(layout.remote)?);
    let Some(nodes) = layout.nodes.filter(|_| CONNECTIBLE.contains(&kind)) else { return Ok(false) };
    Ok(match state {
        // A peer that has closed has taken it off both, whether or not all that came was read
        // (virtio_transport_recv_connected(), net/vmw_vsock/virtio_transport_common.c).
        ESTABLISHED => session.space.u32(member(sk, nodes.peer_shutdown)?)? & BOTH_WAYS != BOTH_WAYS,
        // Before the first connect(). One to another place after that took it off until 6.14 (vsock_assign_transport()).
        CLOSE | LISTEN => pointer(session, sk, nodes.transport)?.is_null(),
        _ => false,
    })
}
