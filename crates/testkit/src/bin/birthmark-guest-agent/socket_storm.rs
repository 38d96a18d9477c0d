//! Opens and closes sockets as fast as it can, of every kind that has a table of its own.

use crate::init::{Result, context};
use crate::sockets::{pair, unix_pair};
use crate::system;
use nix::libc;
use nix::sys::socket::{NetlinkAddr, bind};
use nix::unistd::{Uid, setfsuid};
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
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
    if round.is_multiple_of(TIME_WAIT_SHARE) {
        drop((client, server));
    } else {
        reset(client)?;
    }
    drop((listener, one, streams, packet, other, datagrams, netlink));
    Ok(())
}

/// Closes it with a reset, which ends both ends at once.
fn reset(stream: TcpStream) -> io::Result<()> {
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
