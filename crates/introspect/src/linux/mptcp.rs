//! MPTCP sockets: ``token_hash`` (net/mptcp/token.c) has every connection by the token that further subflows ask for, over all network
//! namespaces. One that listens has no token: the TCP socket that listens for it leads to it, as it does for `ss` (net/mptcp/mptcp_diag.c).

use super::layout::Resolver;
use super::list::{self, HashTable};
use super::net::{pointer, socks_of_nodes};
use super::sock;
use crate::apart::apart;
use crate::session::{Session, member};
use vmi_core::{Gva, ReadError};

/// ``IPPROTO_MPTCP``, include/uapi/linux/in.h.
const IPPROTO_MPTCP: u16 = 262;
/// include/net/tcp_states.h.
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    bucket: u64,
    chain: u64,
    token: u64,
    first: u64,
    upper_operations: u64,
    upper: u64,
    connection: u64,
}

impl Layout {
    /// `None`: a kernel without `CONFIG_MPTCP`.
    pub(crate) fn resolve(resolver: &Resolver<'_>) -> Option<Self> {
        Some(Self {
            bucket: resolver.profile().size("token_bucket").ok()?,
            chain: resolver.optional("token_bucket", "msk_chain")?,
            token: resolver.optional("mptcp_sock", "token")?,
            first: resolver.optional("mptcp_sock", "first")?,
            upper_operations: resolver.optional("inet_connection_sock", "icsk_ulp_ops")?,
            upper: resolver.optional("inet_connection_sock", "icsk_ulp_data")?,
            connection: resolver.optional("mptcp_subflow_context", "conn")?,
        })
    }
}

/// All MPTCP socks with a token, and those that one of the socks `tcp` listens for. `None`: this kernel's table is not known.
pub(crate) fn socks(session: &Session<'_>, tcp: &[Gva]) -> Result<Option<Vec<Gva>>, ReadError> {
    let symbol = |name| session.kernel.symbol(name);
    let (Some(layout), Some(table), Some(mask), Some(operations)) = (
        session.kernel.layouts().net.mptcp,
        symbol("token_hash"),
        symbol("token_mask"),
        symbol("subflow_ulp_ops"),
    ) else {
        return Ok(None);
    };
    let read = || Ok((session.space.pointer(table)?, session.space.u32(mask)?));
    let Some((base, mask)) = session.known("token_hash", table, read())? else { return Ok(None) };
    if base.is_null() {
        return Ok(None);
    }
    let count = u64::from(mask).saturating_add(1);
    let table = HashTable { base, count, stride: layout.bucket, head: layout.chain };
    let mut socks = socks_of_nodes(session, list::hash_table(session, "MPTCP token table", table)?);
    let (listening, end) = apart(session, tcp, |session, tcp| {
        let mut found = Vec::new();
        let end = session.each(tcp, &[|session, sk, ()| sock::expect_family(session, sk)], |sk| {
            let listening = listens_for(session, layout, operations, sk);
            found.extend(session.known("sock", sk, listening)?.flatten());
            Ok(())
        });
        (found, end.map(drop))
    });
    end?;
    socks.extend(listening.into_iter().flatten());
    Ok(Some(socks))
}

/// The MPTCP sock that the TCP sock at `sk` listens for.
fn listens_for(
    session: &Session<'_>,
    layout: Layout,
    operations: Gva,
    sk: Gva,
) -> Result<Option<Gva>, ReadError> {
    // Others than full socks never listen, and end before what is read after this.
    if sock::state_of(session, sk)? != LISTEN || pointer(session, sk, layout.upper_operations)? != operations
    {
        return Ok(None);
    }
    let context = pointer(session, sk, layout.upper)?;
    if context.is_null() {
        return Ok(None);
    }
    let connection = pointer(session, context, layout.connection)?;
    let is_one = !connection.is_null() && sock::protocol_of(session, connection)? == IPPROTO_MPTCP;
    Ok(is_one.then_some(connection))
}

/// Whether the ``struct mptcp_sock *`` at `sk`, which is in this state, must be among [`socks`].
pub(super) fn must_be_found(session: &Session<'_>, sk: Gva, state: u8) -> Result<bool, ReadError> {
    let Some(layout) = session.kernel.layouts().net.mptcp else { return Ok(false) };
    match state {
        CLOSE => Ok(false),
        LISTEN => {
            let first = pointer(session, sk, layout.first)?;
            Ok(!first.is_null() && sock::state_of(session, first)? == LISTEN)
        }
        // A connection that was plain TCP from the start has none (mptcp_early_fallback(), net/mptcp/protocol.c).
        _ => Ok(session.space.u32(member(sk, layout.token)?)? != 0),
    }
}
