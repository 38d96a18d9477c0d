//! One ``struct sock``: what all families have in common, and what it says about who keeps it.
//!
//! Time-wait and request socks share only their first part, ``struct sock_common``, with a full ``struct sock``
//! (include/net/sock.h); reading further would read somebody else's memory. They are told by their state.

use super::layout::{Flag, Resolver};
use super::record::{Members, Record};
use super::{file, filter, inet, mptcp, netlink, packet, unix, vsock};
use crate::session::{Session, Step, container, member};
use facts::{
    Address, Descriptors, Family, Names, Pids, ProblemKind, Shutdown, Socket, SocketPeer, SocketState, Text,
};
use vmi_core::{Gva, ReadError};

/// ``TCP_TIME_WAIT``, include/net/tcp_states.h.
const TIME_WAIT: u8 = 6;
/// ``TCP_NEW_SYN_RECV``, include/net/tcp_states.h: a request sock.
const NEW_SYN_RECV: u8 = 12;
/// ``SOCK_DEAD``, ``enum sock_flags`` in include/net/sock.h: its process has closed it.
const DEAD: u64 = 1;
/// Flags in the low bits of ``sk_user_data``, and the one that says that a BPF map has the socket (``SK_USER_DATA_PSOCK``,
/// include/linux/skmsg.h): its process keeps it all the same.
const USER_DATA_FLAGS: u64 = 7;
const USER_DATA_PSOCK: u64 = 4;
/// ``SOCK_BINDPORT_LOCK``, include/net/sock.h, as the number of its bit: somebody asked for the local port.
const PORT_ASKED_FOR: u32 = 3;

/// Offsets in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(super) node: u64,
    pub(super) bind_node: u64,
    family: u64,
    state: u64,
    num: u64,
    dport: u64,
    flags: u64,
    interface: u64,
    net: u64,
    kind: u64,
    protocol: u64,
    pub(super) socket: u64,
    pub(super) references: u64,
    uid: u64,
    user_data: u64,
    filter: u64,
    received: u64,
    sent: u64,
    waiting: u64,
    backlog: u64,
    shutdown: u64,
    mark: u64,
    port_asked_for: Flag,
    cookie: u64,
    group: Option<GroupOf>,
    /// What is read of the first part, what of it says whose the sock is, what is read of what only a full sock has, and all of this.
    common: Members,
    identity: Members,
    full: Members,
    ahead: Members,
    /// What is read of a ``struct socket``, and of the inode that it is in one piece with.
    of_socket: Members,
    /// The same where its sock is not known yet.
    pub(super) of_held_socket: Members,
    pub(super) alloc_socket: u64,
    alloc_inode: u64,
    socket_file: u64,
    inode_number: u64,
    timewait_substate: u64,
    timewait_mark: u64,
    request_mark: u64,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>, inet: &inet::Layout) -> Self {
        let node = resolver.offset("sock_common", "skc_node");
        if resolver.offset("sock_common", "skc_nulls_node") != node {
            resolver.lacks("sock_common with skc_node and skc_nulls_node in one place".to_owned());
        }
        let mut layout = Self {
            node,
            bind_node: resolver.offset("sock_common", "skc_bind_node"),
            family: resolver.offset("sock_common", "skc_family"),
            state: resolver.offset("sock_common", "skc_state"),
            num: resolver.offset("sock_common", "skc_num"),
            dport: resolver.offset("sock_common", "skc_dport"),
            flags: resolver.offset("sock_common", "skc_flags"),
            interface: resolver.offset("sock_common", "skc_bound_dev_if"),
            net: resolver.offset("sock_common", "skc_net.net"),
            kind: resolver.offset("sock", "sk_type"),
            protocol: resolver.offset("sock", "sk_protocol"),
            socket: resolver.offset("sock", "sk_socket"),
            references: resolver.offset("sock_common", "skc_refcnt"),
            uid: resolver.offset("sock", "sk_uid"),
            user_data: resolver.offset("sock", "sk_user_data"),
            filter: resolver.offset("sock", "sk_filter"),
            received: resolver.offset("sock", "sk_backlog.rmem_alloc"),
            sent: resolver.offset("sock", "sk_wmem_alloc"),
            waiting: resolver.offset("sock", "sk_ack_backlog"),
            backlog: resolver.offset("sock", "sk_max_ack_backlog"),
            shutdown: resolver.offset("sock", "sk_shutdown"),
            mark: resolver.offset("sock", "sk_mark"),
            port_asked_for: resolver.bit_of("sock", "sk_userlocks", PORT_ASKED_FOR),
            cookie: resolver.offset("sock_common", "skc_cookie"),
            group: GroupOf::resolve(resolver),
            common: Members::default(),
            identity: Members::default(),
            full: Members::default(),
            ahead: Members::default(),
            of_socket: Members::default(),
            of_held_socket: Members::default(),
            alloc_socket: resolver.offset("socket_alloc", "socket"),
            alloc_inode: resolver.offset("socket_alloc", "vfs_inode"),
            socket_file: resolver.offset("socket", "file"),
            inode_number: resolver.offset("inode", "i_ino"),
            timewait_substate: resolver.offset("inet_timewait_sock", "tw_substate"),
            timewait_mark: resolver.offset("inet_timewait_sock", "tw_mark"),
            request_mark: resolver.offset("inet_request_sock", "ir_mark"),
        };
        let Layout { family, state, num, dport, flags, interface, net, cookie, .. } = layout;
        let common = [family, state, num, dport, flags, interface, net, cookie].map(|offset| (offset, 8));
        let addresses = inet.in_common().map(|offset| (offset, 16));
        let Layout { kind, protocol, socket, uid, user_data, filter, received, sent, .. } = layout;
        let Layout { waiting, backlog, shutdown, mark, port_asked_for, .. } = layout;
        let full = [
            kind, protocol, socket, uid, user_data, filter, received, sent, waiting, backlog, shutdown, mark,
        ];
        let full = full.into_iter().chain(layout.group.map(GroupOf::offset)).map(|offset| (offset, 8));
        let full = full.chain([(port_asked_for.offset, 1)]);
        layout.ahead = Members::of(common.into_iter().chain(addresses).chain(full.clone()));
        layout.common = Members::of(common.into_iter().chain(addresses));
        layout.identity = Members::of([(family, 2), (state, 1), (num, 2), (dport, 2), (net, 8)]);
        layout.full = Members::of(full);
        // A ``struct socket`` stands before its inode in one piece (``struct socket_alloc``).
        let inode = layout.alloc_inode.wrapping_sub(layout.alloc_socket).wrapping_add(layout.inode_number);
        layout.of_socket = Members::at([layout.socket_file, inode]);
        let sk = resolver.offset("socket", "sk");
        layout.of_held_socket = Members::at([layout.socket_file, inode, sk]);
        layout
    }
}

/// How a sock tells the control group that it was made in (``struct sock_cgroup_data``).
#[derive(Clone, Copy, Debug)]
enum GroupOf {
    /// ``cgroup``, since 5.15.
    Pointer(u64),
    /// ``val``, which is the pointer, or with one of the two lowest bits set something else, and then it is the root
    /// (``sock_cgroup_ptr()``, include/linux/cgroup.h, 5.10).
    Word(u64),
}

impl GroupOf {
    fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        let pointer = resolver.optional("sock", "sk_cgrp_data.cgroup").map(Self::Pointer);
        pointer.or_else(|| resolver.optional("sock", "sk_cgrp_data.val").map(Self::Word))
    }

    fn offset(self) -> u64 {
        let (Self::Pointer(offset) | Self::Word(offset)) = self;
        offset
    }

    fn of(self, object: &Record<'_>) -> Result<Option<Group>, ReadError> {
        let told = object.pointer(self.offset())?;
        Ok(match self {
            Self::Word(_) if told.is_null() || told.0 & 3 != 0 => Some(Group::Root),
            _ => Some(told).filter(|group| !group.is_null()).map(Group::At),
        })
    }
}

/// The control group that a sock was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// The root of the unified hierarchy.
    Root,
    /// A ``struct cgroup *``.
    At(Gva),
}

/// What a sock says besides the facts of its row: the network namespace object it belongs to, and who should hold it.
#[derive(Debug)]
pub(crate) struct Sock {
    /// ``struct net *``.
    pub(crate) net: Gva,
    pub(crate) group: Option<Group>,
    /// Index of the only interface it is bound to; 0: none.
    pub(crate) interface: u32,
    pub(crate) claim: Claim,
    /// Vsock and MPTCP: whether its protocol's tables must have it, which is not told by what else is known of it.
    pub(super) must_be_found: bool,
    /// Whether somebody asked for its local port, as far as it says: what is no full sock does not.
    pub(super) port_asked_for: bool,
    pub(super) identity: Identity,
}

/// What changes when a ``struct sock`` becomes another one's while it is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    common: Common,
    full: Option<FullIdentity>,
    /// Of a sock that works for another: which one its file leads to. What was that file before is another's.
    lent: Option<Lent>,
}

/// The same of a full sock.
#[derive(Debug, PartialEq, Eq)]
struct FullIdentity {
    uid: u32,
    /// ``struct socket *``.
    socket: Gva,
    /// Another for each socket.
    inode: Option<u64>,
    /// ``struct file *``.
    file: Option<Gva>,
}

/// The ``struct sock *`` that a file leads to, and its inode number.
type Lent = (Gva, Option<u64>);

/// What a sock says about who keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    TimeWait,
    Request,
    /// Its process has closed it.
    Closed,
    /// It has no process yet.
    Pending,
    /// No file was made for it, or a part of the kernel uses it.
    Kernel,
    /// It works for another ``struct sock``, whose file it has (a subflow of MPTCP, the TCP below SMC), and which has this inode number.
    Lent(Gva, Option<u64>),
    /// Somebody has its file, if only as a mapping of its ring.
    Mapped,
    /// Somebody has its file.
    Held,
}

/// The first part, which every kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Common {
    family: u16,
    state: u8,
    num: u16,
    dport: u16,
    net: Gva,
}

impl Common {
    fn of(object: &Record<'_>, layout: &Layout) -> Result<Self, ReadError> {
        Ok(Self {
            family: object.u16(layout.family)?,
            state: object.u8(layout.state)?,
            num: object.u16(layout.num)?,
            // __be16
            dport: object.u16(layout.dport)?.swap_bytes(),
            net: object.pointer(layout.net)?,
        })
    }

    /// Whether it is all there is of this sock.
    fn is_mini(&self) -> bool {
        matches!(family(self.family), Family::Inet | Family::Inet6)
            && matches!(self.state, TIME_WAIT | NEW_SYN_RECV)
    }
}

/// What goes ahead of [`read`].
pub(super) const AHEAD: [Step<Gva, Option<Gva>>; 3] = [
    |session, sk, _| {
        let layout = &session.kernel.layouts().net.sock;
        layout.ahead.expect(session, sk);
    },
    |session, sk, socket| {
        let layout = &session.kernel.layouts().net.sock;
        *socket = session.glimpse(sk, layout.socket);
        if let Some(socket) = *socket {
            layout.of_socket.expect(session, socket);
        }
        match family_of(session, sk).map(family) {
            Ok(Family::Inet | Family::Inet6) => inet::expect(session, sk),
            Ok(Family::Unix) => unix::expect(session, sk),
            _ => {}
        }
    },
    |session, _, socket| {
        let layout = &session.kernel.layouts().net.sock;
        if let Some(socket) = *socket
            && let Some(file) = session.glimpse(socket, layout.socket_file)
        {
            file::expect_references(session, file);
        }
    },
];

/// Has fetched what [`family_of`] reads.
pub(super) fn expect_family(session: &Session<'_>, sk: Gva) {
    session.expect(sk, session.kernel.layouts().net.sock.family, 2);
}

/// ``skc_family`` of the ``struct sock *`` at `sk`.
pub(super) fn family_of(session: &Session<'_>, sk: Gva) -> Result<u16, ReadError> {
    session.space.u16(member(sk, session.kernel.layouts().net.sock.family)?)
}

/// ``skc_state`` of the ``struct sock_common *`` at `sk`.
pub(super) fn state_of(session: &Session<'_>, sk: Gva) -> Result<u8, ReadError> {
    session.space.u8(member(sk, session.kernel.layouts().net.sock.state)?)
}

/// Has fetched what [`protocol_of`] reads.
pub(super) fn expect_protocol(session: &Session<'_>, sk: Gva) {
    session.expect(sk, session.kernel.layouts().net.sock.protocol, 2);
}

/// ``sk_protocol`` of the ``struct sock *`` at `sk`.
pub(super) fn protocol_of(session: &Session<'_>, sk: Gva) -> Result<u16, ReadError> {
    session.space.u16(member(sk, session.kernel.layouts().net.sock.protocol)?)
}

/// Reads the ``struct sock *`` at `sk` into `facts`, of which nothing is known yet, where it stands in its table: a row is long, and
/// thousands of them would be moved from hand to hand. Of a unix socket's peer only its ``struct sock *`` is filled in. `Ok(None)`: it was
/// freed or reused, twice, while it was read; what `facts` says then means nothing.
pub(crate) fn read(session: &Session<'_>, sk: Gva, facts: &mut Socket) -> Result<Option<Sock>, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    for _ in 0..2 {
        let mut first = Record::of(sk, &layout.common);
        first.read(session)?;
        let before = Common::of(&first, layout)?;
        (facts.family, facts.protocol_family) = (family(before.family), before.family);
        let sock = if before.is_mini() {
            mini(session, sk, &first, &before, facts)
        } else {
            full(session, sk, &first, &before, facts)
        }?;
        // Before the identity, which changes after this does.
        let lent_to_nobody = matches!(sock.claim, Claim::Lent(..)) && !is_born(session, sk)?;
        if is_still(session, sk, &sock.identity)? && !lent_to_nobody {
            return Ok(Some(sock));
        }
        session.space.look().forget_pages();
        *facts = unknown(sk, 0);
    }
    Ok(None)
}

/// Whether the full ``struct sock *`` at `sk` is somebody's.
///
/// A connection that comes in starts as a copy of its whole listener (``sk_clone_lock()``, net/core/sock.c), file and all, and looks as
/// if it worked for it. Its references are not copied: it has none until it is told apart.
fn is_born(session: &Session<'_>, sk: Gva) -> Result<bool, ReadError> {
    Ok(session.space.u32(member(sk, session.kernel.layouts().net.sock.references)?)? != 0)
}

/// Whether the ``struct sock *`` at `sk` is still whose it was.
pub(super) fn is_still(session: &Session<'_>, sk: Gva, was: &Identity) -> Result<bool, ReadError> {
    let mut now = identity(session, sk)?;
    if was.lent.is_some()
        && let Some(file) = now.full.as_ref().and_then(|full| full.file)
    {
        now.lent = Some(lent(session, file)?);
    }
    Ok(now == *was)
}

/// Whose the ``struct sock *`` at `sk` is now, but for what is lent to it.
fn identity(session: &Session<'_>, sk: Gva) -> Result<Identity, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let mut record = Record::of(sk, &layout.identity);
    record.read(session)?;
    let common = Common::of(&record, layout)?;
    if common.is_mini() {
        return Ok(Identity { common, full: None, lent: None });
    }
    let uid = session.space.u32(member(sk, layout.uid)?)?;
    let socket = session.space.pointer(member(sk, layout.socket)?)?;
    let (inode, file) = (inode(session, socket)?, file_of(session, socket)?);
    Ok(Identity { common, full: Some(FullIdentity { uid, socket, inode, file }), lent: None })
}

/// A socket of which nothing is known but its family.
pub(super) fn unknown(sk: Gva, number: u16) -> Socket {
    Socket {
        family: family(number),
        protocol_family: number,
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
        processes: Pids::new(),
        ownership: None,
        receive_queue: None,
        send_queue: None,
        backlog: None,
        interface: None,
        filter: None,
        peer: None,
        descriptors: Descriptors::new(),
        shutdown: None,
        cookie: None,
        mark: None,
        autobound: None,
        cgroup: None,
        netlink: None,
        vsock_local: None,
        vsock_remote: None,
        views: Names::default(),
        views_missing: Names::default(),
        file: None,
        sock: Address(sk.0),
    }
}

/// ``skc_cookie``: 0 until somebody asks for it (``__sock_gen_cookie()``, net/core/sock_diag.c).
fn cookie(layout: &Layout, common: &Record<'_>) -> Result<Option<u64>, ReadError> {
    Ok(Some(common.u64(layout.cookie)?).filter(|cookie| *cookie != 0))
}

/// ``RCV_SHUTDOWN`` and ``SEND_SHUTDOWN``, include/net/sock.h.
fn shutdown(bits: u8) -> Option<Shutdown> {
    match bits & 3 {
        1 => Some(Shutdown::Receive),
        2 => Some(Shutdown::Send),
        3 => Some(Shutdown::Both),
        _ => None,
    }
}

/// A time-wait or request sock.
fn mini(
    session: &Session<'_>,
    sk: Gva,
    first: &Record<'_>,
    common: &Common,
    facts: &mut Socket,
) -> Result<Sock, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let request = common.state == NEW_SYN_RECV;
    facts.state = if request {
        Some(SocketState::SynRecv)
    } else {
        tcp_state(session.space.u8(member(sk, layout.timewait_substate)?)?)
    };
    facts.kind = Some(Text::new_static("stream"));
    facts.protocol = Some(Text::new_static("tcp"));
    let mark = if request { layout.request_mark } else { layout.timewait_mark };
    facts.mark = Some(session.space.u32(member(sk, mark)?)?).filter(|mark| *mark != 0);
    facts.cookie = cookie(layout, first)?;
    facts.receive_queue = Some(0);
    facts.send_queue = Some(0);
    inet::addresses(session, first, (common.num, common.dport), facts)?;
    Ok(Sock {
        net: common.net,
        group: None,
        interface: first.u32(layout.interface)?,
        claim: if request { Claim::Request } else { Claim::TimeWait },
        must_be_found: false,
        port_asked_for: false,
        identity: Identity { common: *common, full: None, lent: None },
    })
}

fn full(
    session: &Session<'_>,
    sk: Gva,
    first: &Record<'_>,
    common: &Common,
    facts: &mut Socket,
) -> Result<Sock, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let mut object = Record::of(sk, &layout.full);
    object.read(session)?;
    let kind = object.u16(layout.kind)?;
    let protocol = object.u16(layout.protocol)?;
    let socket = object.pointer(layout.socket)?;
    let uid = object.u32(layout.uid)?;
    let inode = inode(session, socket)?;
    facts.kind = Some(kind_name(kind));
    facts.uid = Some(uid);
    facts.inode = inode;
    facts.shutdown = shutdown(object.u8(layout.shutdown)?);
    facts.cookie = cookie(layout, first)?;
    facts.mark = Some(object.u32(layout.mark)?).filter(|mark| *mark != 0);
    let port_asked_for = layout.port_asked_for.is_in(object.u8(layout.port_asked_for.offset)?);
    let mut interface = first.u32(layout.interface)?;
    let mut must_be_found = false;
    match facts.family {
        Family::Inet | Family::Inet6 => {
            facts.protocol = Some(ip_protocol(protocol));
            facts.state = if matches!(protocol, TCP | SCTP | MPTCP) && kind != SOCK_RAW {
                tcp_state(common.state)
            } else {
                datagram_state(common.state)
            };
            inet::addresses(session, first, (common.num, common.dport), facts)?;
            if facts.state.is_none() {
                session.problem(
                    ProblemKind::Implausible,
                    format_args!("sock {sk}"),
                    format_args!("Its state is {}.", common.state),
                );
            }
            if protocol == MPTCP && kind != SOCK_RAW {
                must_be_found = mptcp::must_be_found(session, sk, common.state)?;
            }
        }
        Family::Unix => {
            facts.protocol = Some(Text::new_static("unix"));
            facts.state = Some(match common.state {
                TCP_LISTEN => SocketState::Listen,
                TCP_ESTABLISHED => SocketState::Established,
                _ => SocketState::Unconnected,
            });
            facts.path = unix::path(session, sk)?;
            facts.peer = unix::peer(session, sk)?.map(|peer| SocketPeer {
                inode: None,
                processes: Pids::new(),
                sock: Address(peer.0),
            });
        }
        Family::Netlink => {
            facts.protocol = Some(netlink::protocol(protocol));
            facts.state = datagram_state(common.state);
            facts.netlink = Some(netlink::address(session, sk)?);
        }
        Family::Packet => {
            interface = packet::decode(session, sk, facts)?;
            facts.state = datagram_state(common.state);
        }
        Family::Vsock => {
            facts.protocol = Some("vsock".into());
            facts.state = match common.state {
                TCP_LISTEN | TCP_ESTABLISHED => tcp_state(common.state),
                _ => Some(SocketState::Unconnected),
            };
            must_be_found = vsock::decode(session, sk, (kind, common.state), facts)?;
        }
        _ => facts.protocol = Some(protocol.to_string().into()),
    }
    queues(session, sk, &object, facts)?;
    let at = object.pointer(layout.filter)?;
    if !at.is_null() {
        facts.filter = session.known("sk_filter", at, filter::read(session, at))?;
    }
    let dead = first.u64(layout.flags)? & DEAD != 0;
    let claim = claim(session, sk, (&object, dead), facts)?;
    let file = facts.file.map(|file| Gva(file.0));
    let lent = match claim {
        Claim::Lent(owner, inode) => Some((owner, inode)),
        _ => None,
    };
    let identity = Identity { common: *common, full: Some(FullIdentity { uid, socket, inode, file }), lent };
    let group = layout.group.map(|group| group.of(&object)).transpose()?.flatten();
    Ok(Sock { net: common.net, group, interface, claim, must_be_found, port_asked_for, identity })
}

/// How much waits in the queues of a sock, into `facts`. Those of unix socks are counted elsewhere ([`super::scm`]), and
/// those of kinds that are not here mean nothing that `ss` would show.
fn queues(session: &Session<'_>, sk: Gva, object: &Record<'_>, facts: &mut Socket) -> Result<(), ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let protocol = facts.protocol.as_deref().unwrap_or_default();
    let internet = matches!(facts.family, Family::Inet | Family::Inet6);
    if facts.state == Some(SocketState::Listen) {
        let backlog = object.u32(layout.backlog)?;
        facts.backlog = Some(backlog).filter(|_| protocol != "mptcp");
        if internet && facts.backlog.is_some() {
            facts.receive_queue = Some(u64::from(object.u32(layout.waiting)?));
            facts.send_queue = Some(u64::from(backlog));
        }
        return Ok(());
    }
    if protocol == "tcp" && facts.kind.as_deref() == Some("stream") {
        return inet::tcp_queues(session, sk, facts);
    }
    // ``sk_wmem_alloc`` begins with one (sk_wmem_alloc_get(), include/net/sock.h).
    let sent = u64::from(object.u32(layout.sent)?.saturating_sub(1));
    let received = || object.u32(layout.received);
    match facts.family {
        Family::Inet | Family::Inet6 if protocol != "sctp" => {
            let deficit = if protocol.starts_with("udp") { inet::udp_deficit(session, sk)? } else { 0 };
            facts.receive_queue = Some(u64::from(received()?.saturating_sub(deficit)));
            facts.send_queue = Some(sent);
        }
        Family::Packet | Family::Netlink => {
            facts.receive_queue = Some(u64::from(received()?));
            facts.send_queue = Some(sent);
        }
        Family::Unix => facts.send_queue = Some(sent),
        _ => {}
    }
    Ok(())
}

/// What a full sock says about who keeps it; its file goes into `facts`.
fn claim(
    session: &Session<'_>,
    sk: Gva,
    (object, dead): (&Record<'_>, bool),
    facts: &mut Socket,
) -> Result<Claim, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    let socket = object.pointer(layout.socket)?;
    if socket.is_null() {
        return Ok(if dead { Claim::Closed } else { Claim::Pending });
    }
    let Some(file) = file_of(session, socket)? else { return Ok(Claim::Kernel) };
    facts.file = Some(Address(file.0));
    if !file::is_referenced(session, file)? {
        return Ok(Claim::Closed);
    }
    let (owner, inode) = lent(session, file)?;
    if owner != sk {
        return Ok(Claim::Lent(owner, inode));
    }
    if facts.family == Family::Packet && packet::is_mapped(session, sk)? {
        return Ok(Claim::Mapped);
    }
    let user_data = object.u64(layout.user_data)?;
    let taken = user_data & !USER_DATA_FLAGS != 0 && user_data & USER_DATA_PSOCK == 0;
    Ok(if taken { Claim::Kernel } else { Claim::Held })
}

/// What the ``struct file *`` at `file` leads to.
fn lent(session: &Session<'_>, file: Gva) -> Result<Lent, ReadError> {
    let (socket, owner) = file::socket_of(session, file)?;
    Ok((owner, inode(session, socket)?))
}

/// ``struct file *`` of the ``struct socket *`` at `socket`, if it is and has one.
fn file_of(session: &Session<'_>, socket: Gva) -> Result<Option<Gva>, ReadError> {
    if socket.is_null() {
        return Ok(None);
    }
    let file = session.space.pointer(member(socket, session.kernel.layouts().net.sock.socket_file)?)?;
    Ok((!file.is_null()).then_some(file))
}

/// ``SOCK_INODE(sk->sk_socket)->i_ino``: the number in `/proc/PID/fd`. `None` for a socket without a file.
pub(super) fn inode(session: &Session<'_>, socket: Gva) -> Result<Option<u64>, ReadError> {
    let layout = &session.kernel.layouts().net.sock;
    if socket.is_null() {
        return Ok(None);
    }
    let alloc = container(socket, layout.alloc_socket)?;
    let number = session.space.u64(member(member(alloc, layout.alloc_inode)?, layout.inode_number)?)?;
    Ok(Some(number).filter(|number| *number != 0))
}

/// include/uapi/linux/in.h.
const TCP: u16 = 6;
const SCTP: u16 = 132;
const MPTCP: u16 = 262;
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
        15 => Family::Key,
        16 => Family::Netlink,
        17 => Family::Packet,
        21 => Family::Rds,
        24 => Family::Pppox,
        29 => Family::Can,
        30 => Family::Tipc,
        31 => Family::Bluetooth,
        33 => Family::Rxrpc,
        38 => Family::Alg,
        40 => Family::Vsock,
        41 => Family::Kcm,
        42 => Family::Qipcrtr,
        43 => Family::Smc,
        44 => Family::Xdp,
        45 => Family::Mctp,
        _ => Family::Other,
    }
}

/// ``enum sock_type``, include/linux/net.h.
fn kind_name(kind: u16) -> Text {
    Text::new_static(match kind {
        1 => "stream",
        2 => "dgram",
        SOCK_RAW => "raw",
        4 => "rdm",
        5 => "seqpacket",
        6 => "dccp",
        10 => "packet",
        other => return other.to_string().into(),
    })
}

/// include/uapi/linux/in.h.
fn ip_protocol(number: u16) -> Text {
    Text::new_static(match number {
        1 => "icmp",
        2 => "igmp",
        TCP => "tcp",
        17 => "udp",
        33 => "dccp",
        58 => "icmpv6",
        89 => "ospf",
        SCTP => "sctp",
        136 => "udplite",
        MPTCP => "mptcp",
        other => return other.to_string().into(),
    })
}
