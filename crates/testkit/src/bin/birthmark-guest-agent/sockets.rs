//! Opens the sockets a process is told to hold, in whatever state they are to be.
//!
//! The odd states of TCP are made on one machine without raw packets: see each function for how.

use crate::init::{Result, context};
use crate::{bpf, hidden_holds, system};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, NetlinkAddr, Shutdown, SockFlag, SockType, SockaddrLike,
    SockaddrStorage, UnixAddr, VsockAddr, bind, connect, getsockname, listen, recv, send, shutdown,
    socketpair,
};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use testkit::command::{Filter, SocketSpec, UnixType};

/// ``ETH_P_ALL``, include/uapi/linux/if_ether.h, in host order.
const ALL_PROTOCOLS: u16 = 3;
/// Seconds a server waits for data before it takes a deferred connection for established: longer than any test, also where two minutes were not.
const DEFER_SECONDS: libc::c_int = 1200;

/// All sockets of a process.
#[derive(Default)]
pub(crate) struct Held {
    /// TCP listeners, to accept on.
    pub(crate) listeners: Vec<TcpListener>,
    /// Connected TCP sockets, in the order they were asked for.
    pub(crate) streams: Vec<TcpStream>,
    /// Local addresses of the IP sockets, in the order they were opened.
    pub(crate) addresses: Vec<SocketAddr>,
    others: Vec<OwnedFd>,
}

/// Opens them in order.
pub(crate) fn open_all(specs: &[SocketSpec]) -> Result<Held> {
    let mut held = Held::default();
    for spec in specs {
        context(held.open(spec), &format!("{spec:?}"))?;
    }
    Ok(held)
}

impl Held {
    fn open(&mut self, spec: &SocketSpec) -> io::Result<()> {
        match spec {
            SocketSpec::TcpListen { address } => self.listener(TcpListener::bind(address)?),
            SocketSpec::TcpConnect { address } => self.stream(TcpStream::connect(address)?),
            SocketSpec::TcpPair { ip } => {
                let (listener, client, server) = pair(*ip)?;
                self.listener(listener)?;
                self.stream(client)?;
                self.stream(server)
            }
            SocketSpec::TcpTimeWait { ip } => {
                let (listener, client, server) = pair(*ip)?;
                drop(client);
                wait_for_end(&server)?;
                self.listener(listener)
            }
            SocketSpec::TcpHalfClosed { ip } => {
                let (listener, client, server) = pair(*ip)?;
                drop(client);
                wait_for_end(&server)?;
                self.listener(listener)?;
                self.stream(server)
            }
            SocketSpec::TcpShutDown { ip } => {
                let (listener, client, server) = pair(*ip)?;
                client.shutdown(std::net::Shutdown::Write)?;
                wait_for_end(&server)?;
                self.listener(listener)?;
                self.stream(client)?;
                self.stream(server)
            }
            SocketSpec::UnixShutDown => {
                for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
                    let (one, other) = unix_pair(UnixType::Stream)?;
                    shutdown(one.as_raw_fd(), how)?;
                    self.other(one)?;
                    self.other(other)?;
                }
                Ok(())
            }
            SocketSpec::TcpSynReceived { ip } => {
                let listener = TcpListener::bind(SocketAddr::new(*ip, 0))?;
                // The server ignores the bare acknowledgement that ends the handshake until data comes.
                system::set_option(&listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, DEFER_SECONDS)?;
                let client = TcpStream::connect(listener.local_addr()?)?;
                self.listener(listener)?;
                self.stream(client)
            }
            SocketSpec::TcpSynSent { ip } => self.syn_sent(*ip),
            SocketSpec::TcpUnused => self.other(system::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?),
            SocketSpec::UdpBind { address } => self.udp(UdpSocket::bind(address)?),
            SocketSpec::UdpConnect { address } => {
                let any = if address.is_ipv4() {
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED)
                } else {
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                };
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.connect(address)?;
                self.udp(socket)
            }
            SocketSpec::UdpLiteBind { address } => {
                let socket =
                    system::socket(ip_family(address.ip()), libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
                bind(socket.as_raw_fd(), &SockaddrStorage::from(*address))?;
                self.ip_other(socket)
            }
            SocketSpec::UnixListen { path, unix_type } => {
                let socket = unix_socket(*unix_type)?;
                bind(socket.as_raw_fd(), &unix_address(path)?)?;
                if *unix_type != UnixType::Dgram {
                    listen(&socket, Backlog::new(16)?)?;
                }
                self.other(socket)
            }
            SocketSpec::UnixConnect { path, unix_type } => {
                let socket = unix_socket(*unix_type)?;
                connect(socket.as_raw_fd(), &unix_address(path)?)?;
                self.other(socket)
            }
            SocketSpec::UnixPair { unix_type } => {
                let (one, other) = unix_pair(*unix_type)?;
                self.other(one)?;
                self.other(other)
            }
            SocketSpec::Raw { v6, protocol } => {
                let family = if *v6 { libc::AF_INET6 } else { libc::AF_INET };
                self.other(system::socket(family, libc::SOCK_RAW, libc::c_int::from(*protocol))?)
            }
            SocketSpec::Packet { ethertype, cooked } => {
                let kind = if *cooked { libc::SOCK_DGRAM } else { libc::SOCK_RAW };
                self.other(system::socket(libc::AF_PACKET, kind, libc::c_int::from(ethertype.to_be()))?)
            }
            SocketSpec::Netlink { protocol, groups } => {
                let socket = system::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::c_int::from(*protocol))?;
                bind(socket.as_raw_fd(), &NetlinkAddr::new(0, *groups))?;
                self.other(socket)
            }
            other => self.open_odd(other),
        }
    }

    /// Kinds of sockets that few programs have, and common ones that are held or filled in odd ways.
    fn open_odd(&mut self, spec: &SocketSpec) -> io::Result<()> {
        match spec {
            SocketSpec::NetlinkMember { protocol, group } => {
                let socket = system::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::c_int::from(*protocol))?;
                bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
                let group = libc::c_int::try_from(*group).map_err(io::Error::other)?;
                system::set_option(&socket, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)?;
                self.other(socket)
            }
            SocketSpec::Ping { v6 } => {
                // Nobody may have them unless this says so.
                std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
                let (ip, protocol) = if *v6 {
                    (IpAddr::V6(Ipv6Addr::LOCALHOST), libc::IPPROTO_ICMPV6)
                } else {
                    (IpAddr::V4(Ipv4Addr::LOCALHOST), libc::IPPROTO_ICMP)
                };
                let socket = system::socket(ip_family(ip), libc::SOCK_DGRAM, protocol)?;
                bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, 0)))?;
                self.ip_other(socket)
            }
            SocketSpec::Capture { filter, interface } => self.capture(*filter, interface.as_deref()),
            SocketSpec::CaptureMapped => hidden_holds::mapped(packet_socket()?),
            SocketSpec::UdpOnInterface { address, interface } => {
                let socket = UdpSocket::bind(address)?;
                system::bind_to_interface(&socket, interface)?;
                self.udp(socket)
            }
            SocketSpec::TcpMarked { address, mark } => {
                let listener = TcpListener::bind(address)?;
                system::set_option(&listener, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
                let client = TcpStream::connect(listener.local_addr()?)?;
                let (server, _) = listener.accept()?;
                self.listener(listener)?;
                self.stream(client)?;
                self.stream(server)
            }
            SocketSpec::TcpMapped => {
                let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?;
                let client = TcpStream::connect((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()))?;
                let (server, _) = listener.accept()?;
                self.listener(listener)?;
                self.stream(client)?;
                self.stream(server)
            }
            SocketSpec::TcpQueued { ip } => {
                let (listener, mut client, server) = pair(*ip)?;
                client.write_all(&[0; 1000])?;
                // Until all of it is there.
                while recv(server.as_raw_fd(), &mut [0; 1000], MsgFlags::MSG_PEEK)? < 1000 {}
                self.listener(listener)?;
                self.stream(client)?;
                self.stream(server)
            }
            SocketSpec::TcpOrphan { ip } => {
                let (listener, mut client, server) = pair(*ip)?;
                client.set_nonblocking(true)?;
                // Until neither end has room, and a while longer, because what is acknowledged late makes room again.
                let mut full = 0;
                while full < 3 {
                    match client.write(&[0; 4096]) {
                        Ok(_) => full = 0,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            full += 1;
                            std::thread::sleep(std::time::Duration::from_millis(50));
                        }
                        Err(error) => return Err(error),
                    }
                }
                drop(client);
                self.listener(listener)?;
                self.stream(server)
            }
            SocketSpec::UdpQueued { ip } => {
                let socket = UdpSocket::bind((*ip, 0))?;
                socket.send_to(&[0; 700], socket.local_addr()?)?;
                recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)?;
                self.udp(socket)
            }
            SocketSpec::UnixQueued { unix_type } => {
                let (one, other) = unix_pair(*unix_type)?;
                for len in [300, 40] {
                    send(one.as_raw_fd(), &vec![0; len], MsgFlags::empty())?;
                }
                if *unix_type == UnixType::Stream {
                    recv(other.as_raw_fd(), &mut [0; 100], MsgFlags::empty())?;
                }
                self.other(one)?;
                self.other(other)
            }
            SocketSpec::TcpInFlight { address } => {
                let listener = TcpListener::bind(address)?;
                self.addresses.push(listener.local_addr()?);
                let (one, other) = hidden_holds::in_flight(listener)?;
                self.other(one)?;
                self.other(other)
            }
            SocketSpec::TcpRegistered { address } => {
                let listener = TcpListener::bind(address)?;
                self.addresses.push(listener.local_addr()?);
                self.other(hidden_holds::registered(listener)?)
            }
            SocketSpec::TcpInThread { address } => {
                self.addresses.push(hidden_holds::in_thread(*address)?);
                Ok(())
            }
            SocketSpec::MptcpPair { ip } => self.mptcp_pair(*ip),
            SocketSpec::SctpListen { address } => {
                let socket = system::socket(ip_family(address.ip()), libc::SOCK_STREAM, libc::IPPROTO_SCTP)?;
                bind(socket.as_raw_fd(), &SockaddrStorage::from(*address))?;
                listen(&socket, Backlog::new(7)?)?;
                self.ip_other(socket)
            }
            SocketSpec::VsockListen { port } => {
                let socket = system::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
                bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, *port))?;
                listen(&socket, Backlog::new(7)?)?;
                self.other(socket)
            }
            SocketSpec::SctpPairs => self.sctp_pairs(),
            SocketSpec::VsockPair => self.vsock_pair(),
            SocketSpec::Xdp => self.other(system::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?),
            SocketSpec::Alg => self.other(system::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)?),
            other => Err(io::Error::other(format!("{other:?} is opened elsewhere"))),
        }
    }

    fn capture(&mut self, filter: Filter, interface: Option<&str>) -> io::Result<()> {
        let socket = packet_socket()?;
        if let Some(name) = interface {
            // SAFETY: all-zero is a valid address.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
            address.sll_protocol = ALL_PROTOCOLS.to_be();
            let index = nix::net::if_::if_nametoindex(name)?;
            address.sll_ifindex = libc::c_int::try_from(index).map_err(io::Error::other)?;
            system::bind_to(&socket, &address)?;
        }
        match filter {
            Filter::Classic => system::attach_classic(&socket)?,
            Filter::Ebpf => {
                let program = bpf::socket_filter()?;
                system::set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, program.as_raw_fd())?;
                self.other(program)?;
            }
        }
        self.other(socket)
    }

    fn mptcp_pair(&mut self, ip: IpAddr) -> io::Result<()> {
        let open = || system::socket(ip_family(ip), libc::SOCK_STREAM, libc::IPPROTO_MPTCP);
        let listener = open()?;
        bind(listener.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, 0)))?;
        listen(&listener, Backlog::new(7)?)?;
        let listener = TcpListener::from(listener);
        let client = open()?;
        connect(client.as_raw_fd(), &SockaddrStorage::from(listener.local_addr()?))?;
        let (server, _) = listener.accept()?;
        self.listener(listener)?;
        self.stream(client.into())?;
        self.stream(server)
    }

    fn sctp_pairs(&mut self) -> io::Result<()> {
        let bound = |ip: Ipv4Addr, port: u16| -> io::Result<OwnedFd> {
            let socket = system::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip.into(), port)))?;
            Ok(socket)
        };
        let port = |socket: &OwnedFd| -> io::Result<u16> {
            let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
            name.as_sockaddr_in().map(|name| name.port()).ok_or_else(|| io::Error::other("No IPv4 address"))
        };
        let listener = bound(Ipv4Addr::LOCALHOST, 0)?;
        listen(&listener, Backlog::new(7)?)?;
        let server = SockaddrStorage::from(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port(&listener)?));
        let mut from = 0;
        for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)] {
            let client = bound(ip, from)?;
            from = port(&client)?;
            connect(client.as_raw_fd(), &server)?;
            let accepted = system::accept(&listener)?;
            self.ip_other(client)?;
            self.ip_other(accepted)?;
        }
        self.ip_other(listener)
    }

    fn vsock_pair(&mut self) -> io::Result<()> {
        for socket in vsock_pair()? {
            self.other(socket)?;
        }
        self.other(system::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?)
    }

    /// A listener whose queue is full drops further handshakes, so the last client stays in the first step of its own.
    fn syn_sent(&mut self, ip: IpAddr) -> io::Result<()> {
        let listener = system::socket(ip_family(ip), libc::SOCK_STREAM, 0)?;
        bind(listener.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, 0)))?;
        // A backlog of n takes n + 1 (sk_acceptq_is_full in include/net/sock.h).
        listen(&listener, Backlog::new(1)?)?;
        let listener = TcpListener::from(listener);
        let address = listener.local_addr()?;
        self.listener(listener)?;
        for _ in 0..2 {
            self.stream(TcpStream::connect(address)?)?;
        }
        let last = system::socket(ip_family(ip), libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        match connect(last.as_raw_fd(), &SockaddrStorage::from(address)) {
            Err(nix::Error::EINPROGRESS) => self.ip_other(last),
            Err(error) => Err(error.into()),
            Ok(()) => Err(io::Error::other("A connection to a full backlog was made")),
        }
    }

    fn listener(&mut self, listener: TcpListener) -> io::Result<()> {
        self.addresses.push(listener.local_addr()?);
        self.listeners.push(listener);
        Ok(())
    }

    fn stream(&mut self, stream: TcpStream) -> io::Result<()> {
        self.addresses.push(stream.local_addr()?);
        self.streams.push(stream);
        Ok(())
    }

    fn udp(&mut self, socket: UdpSocket) -> io::Result<()> {
        self.addresses.push(socket.local_addr()?);
        self.other(socket.into())
    }

    /// An IP socket that std has no type for.
    fn ip_other(&mut self, socket: OwnedFd) -> io::Result<()> {
        let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
        let v4 = name.as_sockaddr_in().map(|name| SocketAddr::new(name.ip().into(), name.port()));
        let v6 = name.as_sockaddr_in6().map(|name| SocketAddr::new(name.ip().into(), name.port()));
        let address =
            v4.or(v6).ok_or_else(|| io::Error::other(format!("No IP address: {:?}", name.family())))?;
        self.addresses.push(address);
        self.other(socket)
    }

    // Always `Ok`: for the arms of `open`.
    #[expect(clippy::unnecessary_wraps, reason = "the last step of functions that can fail")]
    fn other(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.others.push(socket);
        Ok(())
    }
}

/// A listener, a client connected to it, and the server's end.
pub(crate) fn pair(ip: IpAddr) -> io::Result<(TcpListener, TcpStream, TcpStream)> {
    let listener = TcpListener::bind(SocketAddr::new(ip, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((listener, client, server))
}

/// The same of vsock, through the loopback.
pub(crate) fn vsock_pair() -> io::Result<[OwnedFd; 3]> {
    let open = || system::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0);
    let listener = open()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, libc::VMADDR_PORT_ANY))?;
    listen(&listener, Backlog::new(7)?)?;
    let name: VsockAddr = getsockname(listener.as_raw_fd())?;
    let client = open()?;
    connect(client.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_LOCAL, name.port()))?;
    let server = system::accept(&listener)?;
    Ok([listener, client, server])
}

/// Waits until the peer's close has arrived.
fn wait_for_end(stream: &TcpStream) -> io::Result<()> {
    match recv(stream.as_fd().as_raw_fd(), &mut [0], MsgFlags::empty())? {
        0 => Ok(()),
        _ => Err(io::Error::other("Data came where none was sent")),
    }
}

fn ip_family(ip: IpAddr) -> libc::c_int {
    if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// For all protocols on all interfaces.
fn packet_socket() -> io::Result<OwnedFd> {
    system::socket(libc::AF_PACKET, libc::SOCK_RAW, libc::c_int::from(ALL_PROTOCOLS.to_be()))
}

pub(crate) fn unix_pair(unix_type: UnixType) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = match unix_type {
        UnixType::Stream => SockType::Stream,
        UnixType::Dgram => SockType::Datagram,
        UnixType::Seqpacket => SockType::SeqPacket,
    };
    Ok(socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?)
}

fn unix_socket(unix_type: UnixType) -> io::Result<OwnedFd> {
    let kind = match unix_type {
        UnixType::Stream => libc::SOCK_STREAM,
        UnixType::Dgram => libc::SOCK_DGRAM,
        UnixType::Seqpacket => libc::SOCK_SEQPACKET,
    };
    system::socket(libc::AF_UNIX, kind, 0)
}

fn unix_address(path: &str) -> io::Result<UnixAddr> {
    Ok(match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(path)?,
    })
}
