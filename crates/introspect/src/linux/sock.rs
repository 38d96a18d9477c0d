//! One ``struct sock``: what all families have in common, and the addresses of the internet ones.
//!
//! Time-wait and request socks share only their first part, ``struct sock_common``, with a full ``struct sock``
//! (include/net/sock.h); reading further would read somebody else's memory. They are told by their state.

use super::layout::Resolver;
use super::{netlink, unix};
use crate::session::{Session, member};
use facts::{Address, Family, ProblemKind, Socket, SocketState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vmi_core::{Gva, ReadError};

/// ``TCP_TIME_WAIT``, include/net/tcp_states.h.
const TIME_WAIT: u8 = 6;
/// ``TCP_NEW_SYN_RECV``, include/net/tcp_states.h: a request sock.
const NEW_SYN_RECV: u8 = 12;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(super) node: u64,
    family: u64,
    state: u64,
    num: u64,
    dport: u64,
    daddr: u64,
    rcv_saddr: u64,
    v6_daddr: Option<u64>,
    v6_rcv_saddr: Option<u64>,
    net: u64,
    kind: u64,
    protocol: u64,
    socket: u64,
    uid: u64,
    alloc_socket: u64,
    alloc_inode: u64,
    inode_number: u64,
    timewait_substate: u64,
    packet_num: Option<u64>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let node = resolver.offset("sock_common", "skc_node");
        if resolver.offset("sock_common", "skc_nulls_node") != node {
            resolver.lacks("sock_common with skc_node and skc_nulls_node in one place".to_owned());
        }
        Self {
            node,
            family: resolver.offset("sock_common", "skc_family"),
            state: resolver.offset("sock_common", "skc_state"),
            num: resolver.offset("sock_common", "skc_num"),
            dport: resolver.offset("sock_common", "skc_dport"),
            daddr: resolver.offset("sock_common", "skc_daddr"),
            rcv_saddr: resolver.offset("sock_common", "skc_rcv_saddr"),
            v6_daddr: resolver.optional("sock_common", "skc_v6_daddr"),
            v6_rcv_saddr: resolver.optional("sock_common", "skc_v6_rcv_saddr"),
            net: resolver.offset("sock_common", "skc_net.net"),
            kind: resolver.offset("sock", "sk_type"),
            protocol: resolver.offset("sock", "sk_protocol"),
            socket: resolver.offset("sock", "sk_socket"),
            uid: resolver.offset("sock", "sk_uid"),
            alloc_socket: resolver.offset("socket_alloc", "socket"),
            alloc_inode: resolver.offset("socket_alloc", "vfs_inode"),
            inode_number: resolver.offset("inode", "i_ino"),
            timewait_substate: resolver.offset("inet_timewait_sock", "tw_substate"),
            packet_num: resolver.optional("packet_sock", "num"),
        }
    }
}

/// A socket and the network namespace object it belongs to.
#[derive(Debug)]
pub(crate) struct Sock {
    pub(crate) facts: Socket,
    /// ``struct net *``.
    pub(crate) net: Gva,
}

/// The first part, which every kind has.
#[derive(Debug, PartialEq, Eq)]
struct Common {
    family: u16,
    state: u8,
    num: u16,
    dport: u16,
    net: Gva,
}

/// Reads the ``struct sock *`` at `sk`. `Ok(None)`: it was freed or reused, twice, while it was read.
pub(crate) fn read(session: &Session<'_>, sk: Gva) -> Result<Option<Sock>, ReadError> {
    for _ in 0..2 {
        let before = common(session, sk)?;
        let sock = decode(session, sk, &before)?;
        if common(session, sk)? == before {
            return Ok(Some(sock));
        }
        session.space.look().forget_pages();
    }
    Ok(None)
}

fn common(session: &Session<'_>, sk: Gva) -> Result<Common, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let space = &session.space;
    Ok(Common {
        family: space.u16(member(sk, layout.family)?)?,
        state: space.u8(member(sk, layout.state)?)?,
        num: space.u16(member(sk, layout.num)?)?,
        // __be16
        dport: space.u16(member(sk, layout.dport)?)?.swap_bytes(),
        net: space.pointer(member(sk, layout.net)?)?,
    })
}

fn decode(session: &Session<'_>, sk: Gva, common: &Common) -> Result<Sock, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let space = &session.space;
    let family = family(common.family);
    let mut facts = Socket {
        family,
        protocol_family: common.family,
        kind: None,
        protocol: None,
        state: None,
        local_address: None,
        local_port: None,
        remote_address: None,
        remote_port: None,
        path: None,
        inode: None,
        net_namespace: None,
        uid: None,
        processes: Vec::new(),
        views: Vec::new(),
        sock: Address(sk.0),
    };
    let internet = matches!(family, Family::Inet | Family::Inet6);
    if internet && matches!(common.state, TIME_WAIT | NEW_SYN_RECV) {
        facts.kind = Some("stream".to_owned());
        facts.protocol = Some("tcp".to_owned());
        facts.state = if common.state == NEW_SYN_RECV {
            Some(SocketState::SynRecv)
        } else {
            tcp_state(space.u8(member(sk, layout.timewait_substate)?)?)
        };
        addresses(session, sk, common, &mut facts)?;
        return Ok(Sock { facts, net: common.net });
    }

    let kind = space.u16(member(sk, layout.kind)?)?;
    let protocol = space.u16(member(sk, layout.protocol)?)?;
    facts.kind = Some(kind_name(kind));
    facts.uid = Some(space.u32(member(sk, layout.uid)?)?);
    facts.inode = inode(session, sk)?;
    match family {
        Family::Inet | Family::Inet6 => {
            facts.protocol = Some(ip_protocol(protocol));
            facts.state = if matches!(protocol, 6 | 132 | 262) && kind != SOCK_RAW {
                tcp_state(common.state)
            } else {
                datagram_state(common.state)
            };
            addresses(session, sk, common, &mut facts)?;
        }
        Family::Unix => {
            facts.protocol = Some("unix".to_owned());
            facts.state = Some(match common.state {
                TCP_LISTEN => SocketState::Listen,
                TCP_ESTABLISHED => SocketState::Established,
                _ => SocketState::Unconnected,
            });
            facts.path = unix::path(session, sk)?;
        }
        Family::Netlink => {
            facts.protocol = Some(netlink::protocol(protocol));
            facts.state = datagram_state(common.state);
        }
        Family::Packet => {
            if let Some(num) = layout.packet_num {
                // __be16: an EtherType.
                let ether_type = space.u16(member(sk, num)?)?.swap_bytes();
                facts.protocol = Some(format!("{ether_type:#06x}"));
            }
            facts.state = datagram_state(common.state);
        }
        _ => facts.protocol = Some(protocol.to_string()),
    }
    if facts.state.is_none() && internet {
        session.problem(
            ProblemKind::Implausible,
            format_args!("sock {sk}"),
            format_args!("Its state is {}.", common.state),
        );
    }
    Ok(Sock { facts, net: common.net })
}

fn addresses(session: &Session<'_>, sk: Gva, common: &Common, facts: &mut Socket) -> Result<(), ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let space = &session.space;
    let v4 = |offset| -> Result<IpAddr, ReadError> {
        let mut bytes = [0; 4];
        space.read(member(sk, offset)?, &mut bytes)?;
        Ok(Ipv4Addr::from(bytes).into())
    };
    let v6 = |offset| -> Result<IpAddr, ReadError> {
        let mut bytes = [0; 16];
        space.read(member(sk, offset)?, &mut bytes)?;
        Ok(Ipv6Addr::from(bytes).into())
    };
    let (local, remote) = match (facts.family, layout.v6_rcv_saddr, layout.v6_daddr) {
        (Family::Inet6, Some(local), Some(remote)) => (v6(local)?, v6(remote)?),
        _ => (v4(layout.rcv_saddr)?, v4(layout.daddr)?),
    };
    facts.local_address = Some(local);
    facts.local_port = Some(common.num);
    if !remote.is_unspecified() {
        facts.remote_address = Some(remote);
        facts.remote_port = Some(common.dport);
    }
    Ok(())
}

/// ``SOCK_INODE(sk->sk_socket)->i_ino``: the number in `/proc/PID/fd`. `None` for a socket without a file.
fn inode(session: &Session<'_>, sk: Gva) -> Result<Option<u64>, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let socket = session.space.pointer(member(sk, layout.socket)?)?;
    if socket.is_null() {
        return Ok(None);
    }
    let alloc = socket
        .checked_sub(layout.alloc_socket)
        .ok_or(ReadError::NotAnAddress { at: socket, len: layout.alloc_socket })?;
    let number = session.space.u64(member(member(alloc, layout.alloc_inode)?, layout.inode_number)?)?;
    Ok(Some(number).filter(|number| *number != 0))
}

const TCP_ESTABLISHED: u8 = 1;
const TCP_LISTEN: u8 = 10;
const SOCK_RAW: u16 = 3;

/// include/net/tcp_states.h; the words are those of `ss`.
fn tcp_state(state: u8) -> Option<SocketState> {
    Some(match state {
        TCP_ESTABLISHED => SocketState::Established,
        2 => SocketState::SynSent,
        3 | NEW_SYN_RECV => SocketState::SynRecv,
        4 => SocketState::FinWait1,
        5 => SocketState::FinWait2,
        TIME_WAIT => SocketState::TimeWait,
        7 => SocketState::Close,
        8 => SocketState::CloseWait,
        9 => SocketState::LastAck,
        TCP_LISTEN => SocketState::Listen,
        11 => SocketState::Closing,
        _ => return None,
    })
}

/// Datagram and raw sockets only know connected (``TCP_ESTABLISHED``) and not.
fn datagram_state(state: u8) -> Option<SocketState> {
    Some(if state == TCP_ESTABLISHED { SocketState::Established } else { SocketState::Unconnected })
}

/// include/linux/socket.h.
fn family(number: u16) -> Family {
    match number {
        1 => Family::Unix,
        2 => Family::Inet,
        10 => Family::Inet6,
        16 => Family::Netlink,
        17 => Family::Packet,
        30 => Family::Tipc,
        31 => Family::Bluetooth,
        38 => Family::Alg,
        40 => Family::Vsock,
        44 => Family::Xdp,
        _ => Family::Other,
    }
}

/// ``enum sock_type``, include/linux/net.h.
fn kind_name(kind: u16) -> String {
    match kind {
        1 => "stream",
        2 => "dgram",
        SOCK_RAW => "raw",
        4 => "rdm",
        5 => "seqpacket",
        6 => "dccp",
        10 => "packet",
        other => return other.to_string(),
    }
    .to_owned()
}

/// include/uapi/linux/in.h.
fn ip_protocol(number: u16) -> String {
    match number {
        1 => "icmp",
        2 => "igmp",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        58 => "icmpv6",
        89 => "ospf",
        132 => "sctp",
        136 => "udplite",
        262 => "mptcp",
        other => return other.to_string(),
    }
    .to_owned()
}
