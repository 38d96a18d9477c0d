//! XDP sockets (`AF_XDP`): packets past the whole network stack. Each network namespace has a list of them.

use super::layout::Resolver;
use super::list;
use super::net::socks_of_nodes;
use crate::session::{Session, member};
use vmi_core::{Gva, ReadError};

/// Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// ``net->xdp.list``. `None`: a kernel without `CONFIG_XDP_SOCKETS`.
    list: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        Self { list: resolver.optional("net", "xdp.list") }
    }
}

/// All XDP socks of all namespaces. `None`: this kernel has no such list.
pub(crate) fn socks(session: &Session<'_>, namespaces: &[Gva]) -> Result<Option<Vec<Gva>>, ReadError> {
    let Some(offset) = session.kernel.layouts().net.xdp.list else { return Ok(None) };
    let mut nodes = Vec::new();
    for namespace in namespaces {
        nodes.append(&mut list::hlist(session, "XDP socket list", member(*namespace, offset)?)?);
    }
    Ok(Some(socks_of_nodes(session, nodes)))
}
