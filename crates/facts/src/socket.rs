//! One socket of a guest.

use crate::Address;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `AF_INET`
    Inet,
    /// `AF_INET6`
    Inet6,
    /// `AF_UNIX`
    Unix,
    /// `AF_PACKET`
    Packet,
    /// `AF_NETLINK`
    Netlink,
    /// `AF_VSOCK`
    Vsock,
    /// `AF_XDP`
    Xdp,
    /// `AF_ALG`: the kernel's crypto interface.
    Alg,
    /// `AF_BLUETOOTH`
    Bluetooth,
    /// `AF_TIPC`
    Tipc,
    /// A family this engine has no name for; its number is in `protocol_family`.
    Other,
}

/// State, with the words of `ss` in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketState {
    /// TCP, and connected datagram and unix sockets.
    Established,
    /// TCP
    SynSent,
    /// TCP: a connection being set up, held as a request until the last packet of the handshake.
    SynRecv,
    /// TCP
    #[serde(rename = "fin-wait-1")]
    FinWait1,
    /// TCP
    #[serde(rename = "fin-wait-2")]
    FinWait2,
    /// TCP
    TimeWait,
    /// TCP: neither bound to a peer nor listening.
    Close,
    /// TCP
    CloseWait,
    /// TCP
    LastAck,
    /// TCP and unix.
    Listen,
    /// TCP
    Closing,
    /// A datagram, raw or unix socket without a peer.
    Unconnected,
}

/// One socket. `None` means unknown, or that the kind of socket has no such thing (a path of a TCP socket).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Address family.
    pub family: Family,
    /// Number of the address family (`AF_*`).
    pub protocol_family: u16,
    /// `stream`, `dgram`, `raw`, `rdm`, `seqpacket`, `packet`; `None` where the kernel keeps none (time-wait).
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `tcp`, `udp`, `udplite`, `icmp`, `sctp`, `unix`, a netlink family, an EtherType as `0x0003`, or a number.
    pub protocol: Option<String>,
    /// State.
    pub state: Option<SocketState>,
    /// Local address; the unspecified address for a wildcard.
    pub local_address: Option<IpAddr>,
    /// Local port; for a raw socket its IP protocol number.
    pub local_port: Option<u16>,
    /// Peer's address; `None` without a peer.
    pub remote_address: Option<IpAddr>,
    /// Peer's port; `None` without a peer.
    pub remote_port: Option<u16>,
    /// Unix: path, or `@name` for the abstract namespace.
    pub path: Option<String>,
    /// Inode number in sockfs: joins with `/proc/PID/fd`. `None` when no file was ever made for it or it is gone.
    pub inode: Option<u64>,
    /// Inode number of the network namespace.
    pub net_namespace: Option<u32>,
    /// Owner (initial user namespace).
    pub uid: Option<u32>,
    /// Pids that hold a descriptor of it, ascending. Empty: nobody does.
    pub processes: Vec<u32>,
    /// Views in which it was seen.
    pub views: Vec<String>,
    /// Address of its `struct sock` (or of the time-wait or request sock that stands for it).
    pub sock: Address,
}
