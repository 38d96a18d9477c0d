//! One socket of a guest.

use crate::{Address, Descriptors, Names, Pids, Text};
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
    /// `AF_KEY`: IPsec key management.
    Key,
    /// `AF_PPPOX`
    Pppox,
    /// `AF_CAN`
    Can,
    /// `AF_RDS`
    Rds,
    /// `AF_RXRPC`
    Rxrpc,
    /// `AF_KCM`
    Kcm,
    /// `AF_QIPCRTR`
    Qipcrtr,
    /// `AF_SMC`
    Smc,
    /// `AF_MCTP`
    Mctp,
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

/// What keeps a socket alive. A socket that no process holds need not be hidden: this says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ownership {
    /// A descriptor of a process leads to it.
    Process,
    /// No descriptor, but an `io_uring` of a process has it among its registered files.
    IoUring,
    /// No descriptor, but it is on its way in a unix socket's receive queue (`SCM_RIGHTS`).
    InFlight,
    /// No descriptor, but a process has its packet ring mapped.
    Mapping,
    /// The kernel made it for itself, or a part of the kernel (NFS server, iSCSI, tunnels) has taken it over.
    Kernel,
    /// A connection that its listener has not handed out yet (`accept`).
    Pending,
    /// Its process has closed it; the protocol keeps it until it has said goodbye.
    Orphan,
    /// What is left of a connection for a while, to catch late packets.
    TimeWait,
    /// A handshake that is not complete.
    Request,
    /// It has a file with references, and nothing that can hold one leads there: somebody hides it.
    Nobody,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketInterface {
    /// Index, in the socket's network namespace.
    pub index: u32,
    /// Name. `None`: unknown, or there is no such interface any more.
    pub name: Option<String>,
}

/// Kind of a socket filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterKind {
    /// Classic BPF (`SO_ATTACH_FILTER`): what packet captures use, and implants that wait for a magic packet.
    Classic,
    /// An eBPF program (`SO_ATTACH_BPF`).
    Ebpf,
}

/// The filter that is attached to a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFilter {
    /// What it was written in.
    pub kind: FilterKind,
    /// Number of its instructions: of the classic ones it was written with, or of the eBPF program's.
    pub instructions: Option<u32>,
    /// Id of the eBPF program; `None` for a classic filter, which has none.
    pub program: Option<u32>,
}

/// The other end of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketPeer {
    /// Its inode number in sockfs; `None` when no file was made for it yet, or it is gone.
    pub inode: Option<u64>,
    /// Pids that hold it, ascending.
    pub processes: Pids,
    /// Address of its `struct sock`.
    pub sock: Address,
}

/// What a netlink socket is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetlinkAddress {
    /// Port id; 0: the kernel's own, or not bound.
    pub port: u32,
    /// Numbers of the multicast groups it is in (the first is 1), ascending.
    pub groups: Vec<u32>,
}

/// Where a vsock socket is. Numbers as in `struct sockaddr_vm`; `u32::MAX` is "any".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockAddress {
    /// Context id: 1 is the machine itself, 2 the host.
    pub cid: u32,
    /// Port.
    pub port: u32,
}

/// An open descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Descriptor {
    /// Pid of the process, also where the table of descriptors is one of its threads' own.
    pub pid: u32,
    /// Number of the descriptor.
    pub fd: u32,
}

/// In which directions nothing passes any more, because one end said so (`shutdown(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shutdown {
    /// Nothing is received: `-->` of `ss`.
    Receive,
    /// Nothing is sent: `<--` of `ss`.
    Send,
    /// Neither: `---` of `ss`.
    Both,
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
    pub kind: Option<Text>,
    /// `tcp`, `udp`, `udplite`, `icmp`, `sctp`, `unix`, a netlink family, an EtherType as `0x0003`, or a number.
    pub protocol: Option<Text>,
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
    pub path: Option<Text>,
    /// Inode number in sockfs: joins with `/proc/PID/fd`. `None` when no file was ever made for it or it is gone.
    pub inode: Option<u64>,
    /// Inode number of the network namespace.
    pub net_namespace: Option<u32>,
    /// Owner (initial user namespace).
    pub uid: Option<u32>,
    /// Pids that hold it, ascending: by a descriptor, or where no process has one, by what `ownership` names. Empty: none.
    pub processes: Pids,
    /// The descriptors that lead to it, ascending: `/proc/PID/fd/FD`.
    #[serde(default)]
    pub descriptors: Descriptors,
    /// What keeps it alive. `None`: not known, because not all that can hold it could be read.
    #[serde(default)]
    pub ownership: Option<Ownership>,
    /// Receive queue as `ss` shows it. TCP: bytes not read yet; a listener's, connections not accepted yet. Unix: bytes of
    /// the next datagram, or of the whole stream. Others: bytes of memory.
    #[serde(default)]
    pub receive_queue: Option<u64>,
    /// Send queue as `ss` shows it. TCP: bytes not acknowledged yet; a listener's, its backlog. Others: bytes of memory.
    #[serde(default)]
    pub send_queue: Option<u64>,
    /// What of it is shut down. `None`: nothing, or it is no full socket (time-wait, a request).
    #[serde(default)]
    pub shutdown: Option<Shutdown>,
    /// Its cookie (`SO_COOKIE`, `sk:` of `ss`), which no other socket of its network namespace ever had. `None`: nobody has asked for it yet.
    #[serde(default)]
    pub cookie: Option<u64>,
    /// Mark of the packets that it sends (`SO_MARK`, `fwmark:` of `ss`). `None`: it has none.
    #[serde(default)]
    pub mark: Option<u32>,
    /// IP: whether the kernel chose its local port, as far as `ss autobound` can tell: nobody has asked for that port, and it is one of
    /// `net.ipv4.ip_local_port_range`. `None`: it has no port, or the range is not known.
    #[serde(default)]
    pub autobound: Option<bool>,
    /// Path in the unified hierarchy of the control group that whoever made it was in: it outlives that process. `None`: it is no full
    /// socket, or the kernel keeps none.
    #[serde(default)]
    pub cgroup: Option<Text>,
    /// A listener's: connections that may wait to be accepted.
    #[serde(default)]
    pub backlog: Option<u32>,
    /// The only interface it is bound to (`SO_BINDTODEVICE`, or of a packet socket).
    #[serde(default)]
    pub interface: Option<SocketInterface>,
    /// The filter that decides which packets it gets.
    #[serde(default)]
    pub filter: Option<SocketFilter>,
    /// Unix: the socket it is connected to.
    #[serde(default)]
    pub peer: Option<SocketPeer>,
    /// Netlink: what it is bound to.
    #[serde(default)]
    pub netlink: Option<NetlinkAddress>,
    /// Vsock: its own address.
    #[serde(default)]
    pub vsock_local: Option<VsockAddress>,
    /// Vsock: its peer's address.
    #[serde(default)]
    pub vsock_remote: Option<VsockAddress>,
    /// Views in which it was seen.
    pub views: Names,
    /// Views that every socket of its kind and state is in, and this one is not, also after looking again.
    #[serde(default)]
    pub views_missing: Names,
    /// Address of its `struct file`.
    #[serde(default)]
    pub file: Option<Address>,
    /// Address of its `struct sock` (or of the time-wait or request sock that stands for it).
    pub sock: Address,
}
