//! Sockets in the memory that sockets are allocated from, whoever knows of them.
//!
//! Every socket that a file leads to has a ``struct socket`` in front of its inode, of whatever family it is, and all of these
//! are of one slab cache, where sock memory is of a dozen. One that has been taken out of every descriptor and off every table still
//! stands there.

use super::slab;
use crate::session::{Session, member};
use facts::ProblemKind;
use vmi_core::{Gva, ReadError};

/// Name of this view in [`facts::Socket::views`].
pub(super) const VIEW: &str = "slab";
/// The cache of ``struct socket_alloc`` (net/socket.c).
const CACHE: &str = "sock_inode_cachep";

/// Of so many socks that are known it is asked where their ``struct socket_alloc`` is.
const KNOWN: usize = 16;

/// ``struct sock *`` of all sockets in use there, ascending; some that a file leads to are known. `None`: this kernel's memory cannot be
/// searched, with a problem.
pub(super) fn socks(
    session: &Session<'_>,
    held: impl Iterator<Item = Gva>,
) -> Result<Option<Vec<Gva>>, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let mut known = Vec::new();
    for sk in held.take(KNOWN) {
        let socket = member(sk, layout.socket).and_then(|at| session.space.pointer(at));
        let socket = session.known("sock", sk, socket)?;
        known.extend(socket.and_then(|socket| socket.checked_sub(layout.alloc_socket)));
    }
    let Some(objects) = slab::objects(session, CACHE, &known)? else {
        session.problem(
            ProblemKind::Profile,
            CACHE,
            "The memory of sockets cannot be searched in this kernel.",
        );
        return Ok(None);
    };
    let mut socks = Vec::new();
    for object in objects {
        match sock_in_use(session, object) {
            Ok(sk) => socks.extend(sk),
            Err(error) if error.ends_the_look() => return Err(error),
            // What a free object leads to need not be memory.
            Err(_) => {}
        }
    }
    socks.sort_unstable();
    socks.dedup();
    Ok(Some(socks))
}

/// The sock of the ``struct socket_alloc`` at `object`. `None`: the object is free, or its socket has none any more.
fn sock_in_use(session: &Session<'_>, object: Gva) -> Result<Option<Gva>, ReadError> {
    let (sock, file) = (&session.kernel.layouts().net.sock, &session.kernel.layouts().file);
    let socket = member(object, sock.alloc_socket)?;
    let sk = session.space.pointer(member(socket, file.socket_sk)?)?;
    // A free object keeps what it held last, and that memory is free or somebody else's by now.
    if sk.is_null()
        || session.space.pointer(member(sk, sock.socket)?)? != socket
        || session.space.u32(member(sk, sock.references)?)? == 0
    {
        return Ok(None);
    }
    Ok(Some(sk))
}
