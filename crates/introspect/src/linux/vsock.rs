//! Vsock sockets: between a VM and its host. Their types are a module's in most kernels; where the profile does not have
//! them, their addresses are unknown and no table of them is known.

use super::layout::Resolver;
use crate::session::{Session, member};
use facts::{Socket, VsockAddress};
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
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        Some(Self {
            local: resolver.optional("vsock_sock", "local_addr")?,
            remote: resolver.optional("vsock_sock", "remote_addr")?,
            cid: resolver.optional("sockaddr_vm", "svm_cid")?,
            port: resolver.optional("sockaddr_vm", "svm_port")?,
        })
    }
}

/// The addresses of the ``struct vsock_sock *`` at `sk`, into `facts`.
pub(super) fn decode(session: &Session<'_>, sk: Gva, facts: &mut Socket) -> Result<(), ReadError> {
    let Some(layout) = session.kernel.layouts().net.vsock else { return Ok(()) };
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
