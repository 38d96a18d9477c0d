//! Sockets that a process holds without any descriptor of its own: registered with an io_uring, on their way through a unix
//! socket, in a thread's table, or by nothing but a mapping. None of it is an attack; to a monitor that only reads
//! `/proc/PID/fd` all of it looks like one.

use crate::system;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socketpair,
};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc;

/// ``IORING_REGISTER_FILES``, include/uapi/linux/io_uring.h.
const REGISTER_FILES: libc::c_uint = 2;
/// ``sizeof(struct io_uring_params)``.
const PARAMETERS: usize = 120;
/// ``PACKET_RX_RING`` and ``struct tpacket_req``: one block of one page with two frames.
const RX_RING: libc::c_int = 5;
const RING: [libc::c_uint; 4] = [4096, 1, 2048, 2];

/// Sends `listener` through a pair of unix sockets, which it gives back, and closes it.
pub(crate) fn in_flight(listener: TcpListener) -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    let message = [IoSlice::new(b"take it")];
    let files = [listener.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&files)];
    sendmsg::<UnixAddr>(one.as_raw_fd(), &message, &rights, MsgFlags::empty(), None)?;
    drop(listener);
    Ok((one, other))
}

/// Registers `listener` with a new io_uring, which it gives back, and closes it.
pub(crate) fn registered(listener: TcpListener) -> io::Result<OwnedFd> {
    let mut parameters = [0_u8; PARAMETERS];
    // SAFETY: the kernel reads and writes one ``struct io_uring_params``, which is as large as the buffer.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    let ring = system::owned(ring)?;
    let files: [RawFd; 1] = [listener.as_raw_fd()];
    // SAFETY: the kernel reads one descriptor out of the array.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_FILES, files.as_ptr(), 1)
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ring)
}

/// Starts a thread that leaves the process's table of descriptors and listens for ever; gives back where.
pub(crate) fn in_thread(address: SocketAddr) -> io::Result<SocketAddr> {
    let (say, hear) = mpsc::channel();
    std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        // SAFETY: takes an integer only, and concerns this thread alone.
        let left = system::check(unsafe { libc::unshare(libc::CLONE_FILES) });
        let listener = left.and_then(|_| TcpListener::bind(address));
        let said = listener
            .as_ref()
            .map_err(|error| io::Error::from(error.kind()))
            .and_then(TcpListener::local_addr);
        if say.send(said).is_ok() && listener.is_ok() {
            loop {
                nix::unistd::pause();
            }
        }
    })?;
    hear.recv().map_err(io::Error::other)?
}

/// Leaves of a packet socket nothing but a mapping of its ring, for as long as the process lives.
pub(crate) fn mapped(socket: OwnedFd) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&RING)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads one ``struct tpacket_req``, four unsigned integers.
    system::check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, RX_RING, RING.as_ptr().cast(), length)
    })?;
    // SAFETY: a new mapping wherever there is room; nothing ever refers to it.
    let ring = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            socket.as_raw_fd(),
            0,
        )
    };
    if ring == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
