//! Opens and closes sockets as fast as it can, of every kind that has a table of its own. The modules `sctp` and `vsock_loopback` must
//! be loaded.

use crate::init::{Result, context};
use crate::sockets::{pair, unix_pair, vsock_pair};
use crate::system;
use nix::libc;
use nix::sys::socket::{Backlog, NetlinkAddr, SockaddrStorage, bind, connect, getsockname, listen};
use nix::unistd::{Uid, setfsuid};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use testkit::command::UnixType;

/// One connection of so many leaves a time-wait behind: more would use up the ports.
const TIME_WAIT_SHARE: u32 = 64;

/// What the sockets that this process makes from now on say whose they are. It stays root, and may open all kinds.
pub(crate) fn mark(uid: u32) -> Result<()> {
    let uid = Uid::from_raw(uid);
    setfsuid(uid);
    // It tells only what was before.
    if setfsuid(uid) == uid { Ok(()) } else { Err(format!("setfsuid: not {uid}")) }
}

/// Returns only if it cannot go on.
pub(crate) fn run() -> Result<()> {
    let mut round: u32 = 0;
    loop {
        round = round.wrapping_add(1);
        context(open_and_close(round), "A socket of the storm")?;
    }
}

fn open_and_close(round: u32) -> io::Result<()> {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (listener, client, server) = pair(ip)?;
    let (one, other) = (UdpSocket::bind((ip, 0))?, UdpSocket::bind((ip, 0))?);
    other.connect(one.local_addr()?)?;
    let (streams, datagrams) = (unix_pair(UnixType::Stream)?, unix_pair(UnixType::Dgram)?);
    let packet = system::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    let netlink = system::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let rare = match round % 3 {
        0 => ip_pair(libc::IPPROTO_MPTCP)?,
        1 => ip_pair(libc::IPPROTO_SCTP)?,
        _ => vsock_pair()?,
    };
    if round.is_multiple_of(TIME_WAIT_SHARE) {
        drop((client, server));
    } else {
        reset(client)?;
    }
    drop((listener, one, streams, packet, other, datagrams, netlink));
    rare.into_iter().try_for_each(reset)?;
    Ok(())
}

/// A listener of a protocol like TCP, a client connected to it, and the server's end.
fn ip_pair(protocol: libc::c_int) -> io::Result<[OwnedFd; 3]> {
    let open = || system::socket(libc::AF_INET, libc::SOCK_STREAM, protocol);
    let listener = open()?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)))?;
    listen(&listener, Backlog::new(1)?)?;
    let client = open()?;
    connect(client.as_raw_fd(), &getsockname::<SockaddrStorage>(listener.as_raw_fd())?)?;
    let server = system::accept(&listener)?;
    Ok([listener, client, server])
}

/// Closes it with a reset, which ends both ends at once.
fn reset(stream: impl AsRawFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = libc::socklen_t::try_from(size_of_val(&linger)).map_err(io::Error::other)?;
    // SAFETY: the pointer is to a live ``struct linger`` of the length given.
    system::check(unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    })
    .map(drop)
}
