//! Internet sockets: addresses, and how much waits in their queues.

use super::layout::Resolver;
use super::record::{Members, Record};
use crate::session::{Session, member};
use facts::{Family, Socket, SocketState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vmi_core::{Gva, ReadError};

/// Offsets in bytes; the addresses in ``struct sock_common``, the others in ``struct tcp_sock`` and ``struct udp_sock``.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    daddr: u64,
    rcv_saddr: u64,
    v6_daddr: Option<u64>,
    v6_rcv_saddr: Option<u64>,
    received: u64,
    copied: u64,
    written: u64,
    acknowledged: u64,
    udp_deficit: Option<u64>,
    /// What is read of a ``struct tcp_sock``.
    tcp: Members,
    /// The same, and of a ``struct udp_sock``.
    ahead: Members,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let mut layout = Self {
            daddr: resolver.offset("sock_common", "skc_daddr"),
            rcv_saddr: resolver.offset("sock_common", "skc_rcv_saddr"),
            v6_daddr: resolver.optional("sock_common", "skc_v6_daddr"),
            v6_rcv_saddr: resolver.optional("sock_common", "skc_v6_rcv_saddr"),
            received: resolver.offset("tcp_sock", "rcv_nxt"),
            copied: resolver.offset("tcp_sock", "copied_seq"),
            written: resolver.offset("tcp_sock", "write_seq"),
            acknowledged: resolver.offset("tcp_sock", "snd_una"),
            udp_deficit: resolver.optional("udp_sock", "forward_deficit"),
            tcp: Members::default(),
            ahead: Members::default(),
        };
        let Self { received, copied, written, acknowledged, .. } = layout;
        let tcp = [received, copied, written, acknowledged];
        layout.tcp = Members::at(tcp);
        layout.ahead = Members::at(tcp.into_iter().chain(layout.udp_deficit));
        layout
    }

    /// Where the addresses are, for whoever copies a ``struct sock_common``.
    pub(super) fn in_common(&self) -> [u64; 4] {
        [self.daddr, self.rcv_saddr, self.v6_daddr.unwrap_or_default(), self.v6_rcv_saddr.unwrap_or_default()]
    }
}

/// The addresses in a ``struct sock_common``, into `facts`. Ports in host order.
pub(super) fn addresses(
    session: &Session<'_>,
    common: &Record<'_>,
    (local_port, remote_port): (u16, u16),
    facts: &mut Socket,
) -> Result<(), ReadError> {
    let layout = &session.kernel.layouts().net.inet;
    let v4 = |offset| Ok::<IpAddr, ReadError>(Ipv4Addr::from(common.array::<4>(offset)?).into());
    let v6 = |offset| Ok::<IpAddr, ReadError>(Ipv6Addr::from(common.array::<16>(offset)?).into());
    let (local, remote) = match (facts.family, layout.v6_rcv_saddr, layout.v6_daddr) {
        (Family::Inet6, Some(local), Some(remote)) => (v6(local)?, v6(remote)?),
        _ => (v4(layout.rcv_saddr)?, v4(layout.daddr)?),
    };
    facts.local_address = Some(local);
    facts.local_port = Some(local_port);
    if !remote.is_unspecified() {
        facts.remote_address = Some(remote);
        facts.remote_port = Some(remote_port);
    }
    Ok(())
}

/// Has fetched what [`tcp_queues`] reads of the ``struct sock *`` at `sk`, and [`udp_deficit`] if it is of UDP.
pub(super) fn expect(session: &Session<'_>, sk: Gva) {
    session.kernel.layouts().net.inet.ahead.expect(session, sk);
}

/// Queues of a TCP sock as `ss` shows them (``tcp_diag_get_info()``, net/ipv4/tcp_diag.c 6.12), into `facts`. A listener's
/// are the caller's.
pub(super) fn tcp_queues(session: &Session<'_>, sk: Gva, facts: &mut Socket) -> Result<(), ReadError> {
    if facts.state == Some(SocketState::Listen) {
        return Ok(());
    }
    let layout = &session.kernel.layouts().net.inet;
    let mut record = Record::of(sk, &layout.tcp);
    record.read(session)?;
    let number = |offset| record.u32(offset);
    // Sequence numbers wrap around. The byte after the last (a FIN's) counts as received and is never copied.
    let waiting = number(layout.received)?.wrapping_sub(number(layout.copied)?).cast_signed().max(0);
    let unacknowledged = number(layout.written)?.wrapping_sub(number(layout.acknowledged)?);
    facts.receive_queue = Some(u64::from(waiting.unsigned_abs()));
    facts.send_queue = Some(u64::from(unacknowledged));
    Ok(())
}

/// What a UDP sock's receive queue has given back and not yet accounted for (``udp_rqueue_get()``, include/net/udp.h).
pub(super) fn udp_deficit(session: &Session<'_>, sk: Gva) -> Result<u32, ReadError> {
    match session.kernel.layouts().net.inet.udp_deficit {
        Some(offset) => session.space.u32(member(sk, offset)?),
        None => Ok(0),
    }
}
