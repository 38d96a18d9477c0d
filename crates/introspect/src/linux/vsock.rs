//! Vsock sockets: between a VM and its host. Their types are a module's in most kernels ([`super::module_layout`]); where neither
//! profile nor module tells them, their addresses are unknown.

use crate::session::{Session, member};
use facts::{Socket, VsockAddress};
use guest_profiles::Profile;
use vmi_core::{Gva, ReadError};

/// Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    local: u64,
    remote: u64,
    cid: u64,
    port: u64,
}

impl Layout {
    pub(crate) fn of(profile: &Profile) -> Option<Self> {
        let offset = |name, member| profile.field(name, member).ok().map(|field| field.offset);
        Some(Self {
            local: offset("vsock_sock", "local_addr")?,
            remote: offset("vsock_sock", "remote_addr")?,
            cid: offset("sockaddr_vm", "svm_cid")?,
            port: offset("sockaddr_vm", "svm_port")?,
        })
    }
}

/// The addresses of the ``struct vsock_sock *`` at `sk`, into `facts`.
pub(super) fn decode(session: &Session<'_>, sk: Gva, facts: &mut Socket) -> Result<(), ReadError> {
    let of_kernel = session.kernel.layouts().net.vsock;
    let Some(layout) = of_kernel.or_else(|| session.kernel.modules().vsock(session)) else { return Ok(()) };
    let address = |at: u64| -> Result<VsockAddress, ReadError> {
        let at = member(sk, at)?;
        Ok(VsockAddress {
            cid: session.space.u32(member(at, layout.cid)?)?,
            port: session.space.u32(member(at, layout.port)?)?,
        })
    };
    facts.vsock_local = Some(address(layout.local)?);
    facts.vsock_remote = Some(address(layout.remote)?);
    Ok(())
}
