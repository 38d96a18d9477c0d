//! Sockets of all families and network namespaces, from independent views.
//!
//! *file_table*: what descriptors, rings and messages lead to, which also says who owns a socket. *hash_table*: where the
//! protocols keep their sockets to find them for incoming packets. (UDP and SCTP have a second one, *address_table*.) Each knows
//! sockets that the other cannot: one without a process (time-wait, a request, a closing connection, the kernel's own) and
//! one that is not bound to anything. What one of them must have and has not, also after a second look at everything, is in
//! [`Socket::views_missing`]. On request there is *slab* too, the memory that sockets are allocated from.

use super::ascending::{ascending, next};
use super::holder::{self, Holders, Holding};
use super::layout::Resolver;
use super::seeing::Seeing;
use super::sock::{Claim, Group, Sock};
use super::socket_rows::{Part, Rows};
use super::task::Seen;
use super::{
    cgroup, device, filter, inet, io_uring, list, local_ports, mptcp, namespace, netlink, packet, raw,
    rhashtable, scm, sctp, sock, sock_scan, tcp, udp, unix, vsock, xdp,
};
use crate::apart::{apart, is_crowd, side_by_side};
use crate::session::{Session, member};
use facts::{Address, Family, Names, Ownership, ProblemKind, Socket, SocketState, Text};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use vmi_core::{Gva, ReadError};

/// Names of the views in [`Socket::views`].
const FILE_TABLE: &str = "file_table";
const HASH_TABLE: &str = "hash_table";
const ADDRESS_TABLE: &str = "address_table";
/// Most sockets of one look.
const SOCKETS_MAX: usize = 4 << 20;
/// How often everything is looked at again for the sake of sockets that a view lacks.
const SECOND_LOOKS: u32 = 2;

/// Offsets in bytes, for this file and all families.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    list: u64,
    ns: u64,
    pub(super) local_ports: local_ports::Layout,
    pub(super) sock: sock::Layout,
    pub(super) inet: inet::Layout,
    pub(super) tcp: tcp::Layout,
    pub(super) udp: udp::Layout,
    pub(super) raw: raw::Layout,
    pub(super) unix: unix::Layout,
    pub(super) netlink: netlink::Layout,
    pub(super) rhashtable: rhashtable::Layout,
    pub(super) packet: packet::Layout,
    pub(super) xdp: xdp::Layout,
    pub(super) vsock: Option<vsock::Layout>,
    pub(super) sctp: Option<sctp::Layout>,
    pub(super) mptcp: Option<mptcp::Layout>,
    pub(super) filter: filter::Layout,
    pub(super) device: device::Layout,
    pub(super) holder: holder::Layout,
    pub(super) scm: scm::Layout,
    pub(super) io_uring: Option<io_uring::Layout>,
}

impl Layout {
    pub(crate) fn resolve(resolver: &mut Resolver<'_>) -> Self {
        let inet = inet::Layout::resolve(resolver);
        Self {
            list: resolver.offset("net", "list"),
            ns: resolver.offset("net", "ns"),
            local_ports: local_ports::Layout::resolve(resolver),
            sock: sock::Layout::resolve(resolver, &inet),
            inet,
            tcp: tcp::Layout::resolve(resolver),
            udp: udp::Layout::resolve(resolver),
            raw: raw::Layout::resolve(resolver),
            unix: unix::Layout::resolve(resolver),
            netlink: netlink::Layout::resolve(resolver),
            rhashtable: rhashtable::Layout::resolve(resolver),
            packet: packet::Layout::resolve(resolver),
            xdp: xdp::Layout::resolve(resolver),
            vsock: vsock::Layout::built_in(resolver.profile()),
            sctp: sctp::Layout::built_in(resolver.profile()),
            mptcp: mptcp::Layout::resolve(resolver),
            filter: filter::Layout::resolve(resolver),
            device: device::Layout::resolve(resolver),
            holder: holder::Layout::resolve(resolver),
            scm: scm::Layout::resolve(resolver),
            io_uring: io_uring::Layout::resolve(resolver),
        }
    }
}

/// A table in which a protocol keeps its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Table {
    Tcp,
    Udp,
    Raw,
    Ping,
    Unix,
    Netlink,
    Packet,
    Xdp,
    Vsock,
    Sctp,
    Mptcp,
}

/// The sockets of all tables.
#[derive(Debug, Default)]
struct Hashed {
    /// Ascending, each once, as the others.
    socks: Vec<Gva>,
    unix: Vec<Gva>,
    /// Those of the second tables of UDP and SCTP.
    addressed: Vec<Gva>,
    /// Tables that are known and were read from end to end: a socket that is not in one of these is not there.
    whole: Vec<Table>,
    /// The same of second tables.
    whole_addressed: Vec<Table>,
}

/// What there is to read of the tables. Those of MPTCP's sockets are found by TCP's. What takes longest comes first: unix socks have few chains,
/// which are long.
const TABLES: [Index; 12] = [
    Index::First(Table::Unix),
    Index::First(Table::Tcp),
    Index::First(Table::Udp),
    Index::Second(Table::Udp),
    Index::First(Table::Raw),
    Index::First(Table::Ping),
    Index::First(Table::Netlink),
    Index::First(Table::Packet),
    Index::First(Table::Xdp),
    Index::First(Table::Vsock),
    Index::First(Table::Sctp),
    Index::Second(Table::Sctp),
];

/// What a protocol finds its sockets by: its table, or a second one for the same.
#[derive(Clone, Copy, Debug)]
enum Index {
    First(Table),
    Second(Table),
}

impl Index {
    /// The sockets in it. `None`: it is not known.
    fn socks(self, session: &Session<'_>, namespaces: &[Gva]) -> Result<Option<Vec<Gva>>, ReadError> {
        match self {
            Self::First(Table::Tcp) => tcp::socks(session, namespaces),
            Self::First(Table::Udp) => udp::socks(session, namespaces, udp::Index::Port),
            Self::First(Table::Raw) => raw::socks(session),
            Self::First(Table::Ping) => raw::ping_socks(session),
            Self::First(Table::Unix) => unix::socks(session, namespaces),
            Self::First(Table::Netlink) => netlink::socks(session),
            Self::First(Table::Packet) => packet::socks(session, namespaces),
            Self::First(Table::Xdp) => xdp::socks(session, namespaces),
            Self::First(Table::Vsock) => vsock::socks(session),
            Self::First(Table::Sctp) => sctp::socks(session),
            Self::Second(Table::Udp) => udp::socks(session, namespaces, udp::Index::Address),
            Self::Second(Table::Sctp) => sctp::addressed(session),
            Self::First(Table::Mptcp) | Self::Second(_) => Ok(None),
        }
    }
}

impl Hashed {
    /// `crowd`: whether there is enough of it for several threads.
    fn read(session: &Session<'_>, namespaces: &[Gva], crowd: bool) -> Result<Self, ReadError> {
        let (read, end) = side_by_side(session, &TABLES, crowd, |session, index| {
            let problems = session.problems_met();
            let socks = index.socks(session, namespaces)?;
            Ok(socks.map(|socks| (index, ascending(socks), session.problems_met() == problems)))
        });
        end?;
        let (mut hashed, mut tcp) = (Self::default(), None);
        for (index, socks, whole) in read.into_iter().flatten() {
            match index {
                Index::Second(table) => {
                    hashed.whole_addressed.extend(whole.then_some(table));
                    hashed.addressed.extend(socks);
                }
                Index::First(table) => {
                    hashed.whole.extend(whole.then_some(table));
                    hashed.socks.extend_from_slice(&socks);
                    match table {
                        Table::Tcp => tcp = Some((socks, whole)),
                        Table::Unix => hashed.unix = socks,
                        _ => {}
                    }
                }
            }
        }
        if let Some((tcp, whole)) = tcp {
            let problems = session.problems_met();
            if let Some(socks) = mptcp::socks(session, &tcp)? {
                let whole = whole && session.problems_met() == problems;
                hashed.whole.extend(whole.then_some(Table::Mptcp));
                hashed.socks.extend(socks);
            }
        }
        hashed.socks = ascending(hashed.socks);
        hashed.addressed = ascending(hashed.addressed);
        Ok(hashed)
    }
}

/// The table that a socket of this kind and state must be in. `None`: it need not be in any that is known here.
fn table_of(socket: &Socket, must_be_found: bool) -> Option<Table> {
    let bound = socket.local_port.is_some_and(|port| port != 0);
    match (socket.family, socket.kind.as_deref()?, socket.protocol.as_deref()) {
        (Family::Inet | Family::Inet6, "raw", _) => Some(Table::Raw),
        (Family::Inet | Family::Inet6, "stream", Some("tcp")) => {
            (socket.state? != SocketState::Close).then_some(Table::Tcp)
        }
        (Family::Inet | Family::Inet6, "dgram", Some("udp" | "udplite")) => bound.then_some(Table::Udp),
        (Family::Inet | Family::Inet6, "dgram", Some("icmp" | "icmpv6")) => bound.then_some(Table::Ping),
        (Family::Inet | Family::Inet6, _, Some("sctp")) => bound.then_some(Table::Sctp),
        (Family::Inet | Family::Inet6, _, Some("mptcp")) => must_be_found.then_some(Table::Mptcp),
        (Family::Vsock, ..) => must_be_found.then_some(Table::Vsock),
        (Family::Unix, ..) => Some(Table::Unix),
        (Family::Netlink, ..) => (socket.netlink.as_ref()?.port != 0).then_some(Table::Netlink),
        (Family::Packet, ..) => Some(Table::Packet),
        (Family::Xdp, ..) => Some(Table::Xdp),
        _ => None,
    }
}

/// What the views have at one ``struct sock *``.
#[derive(Clone, Copy)]
struct Spot<'v> {
    sk: Gva,
    held: Option<&'v Holding>,
    /// Of a unix sock.
    queue: Option<&'v scm::Queue>,
    in_hash: bool,
    addressed: bool,
}

impl Spot<'_> {
    fn is_seen(&self) -> bool {
        self.held.is_some() || self.in_hash || self.addressed
    }
}

/// Names of the views, in the order in which a socket has them.
const VIEWS: [&str; 3] = [FILE_TABLE, HASH_TABLE, ADDRESS_TABLE];

/// Both views at about one moment.
struct Views {
    hashed: Hashed,
    holders: Holders,
}

impl Views {
    /// With the processes that there are by now.
    fn take_again(session: &Session<'_>, processes: &[Seen]) -> Result<Self, ReadError> {
        session.space.forget();
        let hashed = Hashed::read(session, &namespaces(session)?, is_crowd(processes.len()))?;
        let (tables, closing) = holder::tables_now(session, processes)?;
        let mut holders = Holders::find(session, &tables, &hashed.unix)?;
        holders.complete &= !closing;
        Ok(Self { hashed, holders })
    }

    /// All sockets that a view has, ascending by ``struct sock *``, each once.
    fn spots(&self) -> Vec<Spot<'_>> {
        let Hashed { socks, addressed, .. } = &self.hashed;
        let all = socks.iter().copied().chain(self.holders.socks()).chain(addressed.iter().copied());
        let all = ascending(all.collect());
        let (mut holders, mut queues) = (self.holders.of_sock.as_slice(), self.holders.queues.as_slice());
        let (mut socks, mut addressed) = (socks.as_slice(), addressed.as_slice());
        let spot = |sk| Spot {
            sk,
            held: next(&mut holders, sk, |(of, _)| *of).map(|(_, held)| held),
            queue: next(&mut queues, sk, |(of, _)| *of).map(|(_, queue)| queue),
            in_hash: next(&mut socks, sk, |of| *of).is_some(),
            addressed: next(&mut addressed, sk, |of| *of).is_some(),
        };
        all.into_iter().map(spot).collect()
    }

    /// What the views have at `sk`.
    fn spot(&self, sk: Gva) -> Spot<'_> {
        Spot {
            sk,
            held: self.holders.of(sk),
            queue: self.holders.queue(sk),
            in_hash: self.hashed.socks.binary_search(&sk).is_ok(),
            addressed: self.hashed.addressed.binary_search(&sk).is_ok(),
        }
    }

    /// Fills in what the views say about a `socket` that was read: who holds it, and which views it is and should be in. `false`:
    /// the views are of another socket, which was in the same memory before.
    fn place(&self, spot: Spot<'_>, read: &Sock, seeing: &Seeing, socket: &mut Socket) -> bool {
        let Sock { claim, must_be_found, .. } = *read;
        let Spot { held: own, in_hash, addressed, .. } = spot;
        let another = own.is_some_and(|held| held.socket.inode != socket.inode);
        let lender = match claim {
            Claim::Lent(owner, inode) => self.holders.of(owner).map(|held| (held, inode)),
            _ => None,
        };
        let another_lends = lender.is_some_and(|(held, inode)| held.socket.inode != inode);
        let by_its_file = |held: &&Holding| held.socket.agrees && socket.file == Some(Address(held.file.0));
        let own_holding = own.filter(|_| !another).filter(by_its_file);
        let lent = lender.filter(|_| !another_lends).map(|(held, _)| held).filter(by_its_file);
        let held = own_holding.or(lent);
        socket.processes = held.map(Holding::pids).unwrap_or_default();
        socket.descriptors = held.map(Holding::descriptors).unwrap_or_default();
        socket.ownership = match (held, claim) {
            (Some(held), _) => Some(held.ownership),
            // A file that is not its own leads to it.
            (None, _) if own.is_some() && !another => Some(Ownership::Nobody),
            (None, Claim::TimeWait) => Some(Ownership::TimeWait),
            (None, Claim::Request) => Some(Ownership::Request),
            (None, Claim::Closed) => Some(Ownership::Orphan),
            (None, Claim::Pending) => Some(Ownership::Pending),
            (None, Claim::Kernel) => Some(Ownership::Kernel),
            (None, Claim::Mapped) => Some(Ownership::Mapping),
            (None, Claim::Held | Claim::Lent(..)) => self.holders.complete.then_some(Ownership::Nobody),
        };
        socket.views = seeing.names(&[held.is_some(), in_hash, addressed]);
        let table = table_of(socket, must_be_found);
        // A socket that is on its way out is in some of its protocol's tables; one that is held, or in any of them, in all.
        let alive = matches!(claim, Claim::Held | Claim::Mapped | Claim::Kernel);
        let must = table.is_some_and(|table| self.hashed.whole.contains(&table));
        let must_second = table.is_some_and(|table| self.hashed.whole_addressed.contains(&table))
            // An association is not always there; who listens is.
            && (table != Some(Table::Sctp) || socket.state == Some(SocketState::Listen));
        socket.views_missing = seeing.names(&[
            socket.ownership == Some(Ownership::Nobody),
            !in_hash && alive && must,
            !addressed && alive && must_second,
        ]);
        if socket.family == Family::Unix
            && let Some(queue) = spot.queue
        {
            socket.receive_queue = Some(match (socket.state, socket.kind.as_deref()) {
                (Some(SocketState::Listen), _) => u64::from(queue.buffers),
                (_, Some("dgram")) => queue.first,
                _ => queue.unread,
            });
            if let Some(backlog) = socket.backlog {
                socket.send_queue = Some(u64::from(backlog));
            }
        }
        // What has no file any more was closed since, which is all there is to know of it.
        !(another_lends || another && matches!(claim, Claim::Held | Claim::Mapped))
    }
}

/// All sockets of the guest whose processes are `processes`, in the order of the table. With an error comes what was read before it.
pub(crate) fn sockets(
    session: &Session<'_>,
    processes: &[Seen],
    sockets: &mut facts::Rows<Socket>,
) -> Result<(), ReadError> {
    let hashed = Hashed::read(session, &namespaces(session)?, is_crowd(processes.len()))?;
    let holders = Holders::find(session, &holder::tables(session, processes)?, &hashed.unix)?;
    let views = Views { hashed, holders };
    let all = views.spots();
    if all.len() > SOCKETS_MAX {
        session.problem(
            ProblemKind::Budget,
            "sockets",
            format_args!("The guest has {}, of which {SOCKETS_MAX} are listed.", all.len()),
        );
    }
    let mut walk = Walk::new(session);
    let all = all.get(..SOCKETS_MAX).unwrap_or(&all);
    let (parts, end) = apart(session, all, |session, spots| {
        let (mut reader, mut part) = (Reader::new(session), Part::with_capacity(spots.len()));
        let socks: Vec<Gva> = spots.iter().map(|spot| spot.sk).collect();
        let mut spots = spots.iter();
        let end = session.each(&socks, &sock::AHEAD, |sk| match spots.next() {
            Some(spot) => part.write(sk, |row| Ok(reader.read(*spot, &views, row)?.is_some())),
            None => Ok(()),
        });
        ((part, reader.identities, reader.mixed), end.map(drop))
    });
    for (part, identities, mixed) in parts {
        walk.reader.identities.extend(identities);
        walk.reader.mixed.extend(mixed);
        walk.rows.push(part);
    }
    let end = end.and_then(|()| settle(session, processes, &mut walk));
    if end.is_err() {
        // Whether a view lacks a socket was not looked at a second time, and not a first time for all.
        walk.forget_doubtful();
    }
    let crowd = is_crowd(all.len());
    *sockets = walk.finish(crowd);
    end
}

/// Looks again at what a view lacks and at what may be of two sockets, and searches memory where that is wanted.
fn settle(session: &Session<'_>, processes: &[Seen], walk: &mut Walk<'_, '_>) -> Result<(), ReadError> {
    walk.check()?;
    for _ in 0..SECOND_LOOKS {
        let suspects = walk.suspects();
        if suspects.is_empty() {
            break;
        }
        let views = Views::take_again(session, processes)?;
        for sk in suspects {
            walk.again(views.spot(sk), &views)?;
        }
        walk.check()?;
    }
    if session.wants.scan { scan(session, processes, walk) } else { Ok(()) }
}

/// Adds what is in the memory of sockets and in no view. What the kernel made for itself has no file, and is in no table where nobody
/// is to find it: only what is held counts.
fn scan(session: &Session<'_>, processes: &[Seen], walk: &mut Walk<'_, '_>) -> Result<(), ReadError> {
    let held = walk.rows.iter().filter(|(_, socket)| socket.file.is_some()).map(|(sk, _)| sk);
    let Some(socks) = sock_scan::socks(session, held)? else { return Ok(()) };
    let in_memory = |views: &Names| views.with(sock_scan::VIEW.into());
    let unknown: Vec<Gva> = socks.into_iter().filter(|sk| !walk.rows.change_views(*sk, in_memory)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    // What was made since the views were taken is in them by now.
    let views = Views::take_again(session, processes)?;
    let mut found = Part::with_capacity(unknown.len());
    for sk in ascending(unknown) {
        found.write(sk, |row| {
            let claim = walk.reader.read(views.spot(sk), &views, row)?;
            row.views = in_memory(&row.views);
            Ok(matches!(claim, Some(Claim::Held | Claim::Mapped)))
        })?;
    }
    walk.rows.push(found);
    Ok(())
}

/// A network namespace: its inode number, and the ports that it gives to who asks for none.
type Namespace = (Option<u32>, Option<RangeInclusive<u16>>);

/// What reads sockets, one after the other.
struct Reader<'s, 'a> {
    session: &'s Session<'a>,
    namespaces: BTreeMap<Gva, Namespace>,
    groups: BTreeMap<Group, Option<Text>>,
    interfaces: device::Interfaces,
    seeing: Seeing,
    /// Whose each was when it was read, where memory is read by pages that are kept: the reading itself does not notice then
    /// that it changed meanwhile.
    identities: BTreeMap<Gva, sock::Identity>,
    /// Those of which not all is of one socket.
    mixed: BTreeSet<Gva>,
}

impl<'s, 'a> Reader<'s, 'a> {
    fn new(session: &'s Session<'a>) -> Self {
        Self {
            session,
            namespaces: BTreeMap::new(),
            groups: BTreeMap::new(),
            interfaces: device::Interfaces::default(),
            seeing: Seeing::new(&VIEWS),
            identities: BTreeMap::new(),
            mixed: BTreeSet::new(),
        }
    }

    /// Reads the socket at `spot` into `row`, and gives back what it says of who keeps it. `None`: it cannot be read, or kept changing.
    fn read(&mut self, spot: Spot<'_>, views: &Views, row: &mut Socket) -> Result<Option<Claim>, ReadError> {
        let (session, sk) = (self.session, spot.sk);
        self.identities.remove(&sk);
        let read = match sock::read(session, sk, row) {
            Ok(Some(read)) => read,
            Ok(None) => {
                self.mixed.remove(&sk);
                session.torn();
                return Ok(None);
            }
            Err(error) => return session.unreadable("sock", sk, error).map(|()| None),
        };
        let namespace = match self.namespaces.entry(read.net) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let inode = namespace::inode(session, read.net, session.kernel.layouts().net.ns)?;
                // Whatever has none is no namespace.
                let ports = match inode {
                    Some(_) => session.known("net", read.net, local_ports::read(session, read.net))?,
                    None => None,
                };
                place.insert((inode, ports.flatten()))
            }
        };
        row.net_namespace = namespace.0;
        let port = row.local_port.filter(|port| *port != 0).zip(namespace.1.as_ref());
        row.autobound = port.map(|(port, given)| !read.port_asked_for && given.contains(&port));
        if let Some(group) = read.group {
            row.cgroup = match self.groups.get(&group) {
                Some(known) => known.clone(),
                None => {
                    let path = path_of(session, group)?;
                    self.groups.insert(group, path.clone());
                    path
                }
            };
        }
        if read.interface != 0 {
            row.interface = Some(self.interfaces.get(session, read.net, read.interface)?);
        }
        if views.place(spot, &read, &self.seeing, row) {
            self.mixed.remove(&sk);
        } else {
            self.mixed.insert(sk);
        }
        let claim = read.claim;
        if session.space.look().keeps_pages() {
            self.identities.insert(sk, read.identity);
        }
        Ok(Some(claim))
    }
}

/// The sockets that were read so far.
struct Walk<'s, 'a> {
    reader: Reader<'s, 'a>,
    rows: Rows,
}

impl<'s, 'a> Walk<'s, 'a> {
    fn new(session: &'s Session<'a>) -> Self {
        Self { reader: Reader::new(session), rows: Rows::default() }
    }

    /// Finds those that became another socket between two of the pages that they were read from, which takes fresh pages.
    fn check(&mut self) -> Result<(), ReadError> {
        let Reader { session, identities, mixed, .. } = &mut self.reader;
        if identities.is_empty() {
            return Ok(());
        }
        session.space.look().forget_pages();
        for (sk, identity) in &*identities {
            match sock::is_still(session, *sk, identity) {
                Err(error) if error.ends_the_look() => return Err(error),
                Ok(true) => {}
                _ => {
                    mixed.insert(*sk);
                }
            }
        }
        identities.clear();
        Ok(())
    }

    /// Sockets that a view lacks, or of which not all is of one.
    fn suspects(&self) -> Vec<Gva> {
        let lacks = |(sk, socket): &(Gva, &Socket)| {
            !socket.views_missing.is_empty() || self.reader.mixed.contains(sk)
        };
        self.rows.iter().filter(lacks).map(|(sk, _)| sk).collect()
    }

    /// Drops the sockets that would have to be read again, for a look that is over.
    fn forget_doubtful(&mut self) {
        let mut doubtful: BTreeSet<Gva> = self.suspects().into_iter().collect();
        // Those of which it was not asked yet whether they are of one socket.
        doubtful.extend(self.reader.identities.keys());
        self.forget(&doubtful);
        self.reader.mixed.clear();
    }

    fn forget(&mut self, socks: &BTreeSet<Gva>) {
        socks.iter().for_each(|sk| self.rows.put(*sk, None));
    }

    /// Reads a socket again, or drops it where no view has it any more.
    fn again(&mut self, spot: Spot<'_>, views: &Views) -> Result<(), ReadError> {
        // Should this fail, the old row still says that it is doubtful.
        let mut row = sock::unknown(spot.sk, 0);
        let read = spot.is_seen() && self.reader.read(spot, views, &mut row)?.is_some();
        self.rows.put(spot.sk, read.then_some(row));
        Ok(())
    }

    fn finish(mut self, crowd: bool) -> facts::Rows<Socket> {
        let mixed = std::mem::take(&mut self.reader.mixed);
        mixed.iter().for_each(|_| self.reader.session.torn());
        self.forget(&mixed);
        self.rows.into_table(crowd)
    }
}

/// Path of a control group in the unified hierarchy.
fn path_of(session: &Session<'_>, group: Group) -> Result<Option<Text>, ReadError> {
    match group {
        Group::Root => Ok(Some("/".into())),
        Group::At(at) => {
            let path = cgroup::path(session, "cgroup", at, at);
            Ok(session.known("cgroup", at, path)?.flatten().map(Text::from))
        }
    }
}

/// ``struct net *`` of all network namespaces (``net_namespace_list``).
pub(super) fn namespaces(session: &Session<'_>) -> Result<Vec<Gva>, ReadError> {
    let Some(head) = session.kernel.symbol("net_namespace_list") else {
        session.problem(ProblemKind::Profile, "net_namespace_list", "The kernel has no such symbol.");
        return Ok(Vec::new());
    };
    let offset = session.kernel.layouts().net.list;
    let nodes = list::list(session, "network namespace list", head)?;
    if nodes.is_empty() {
        session.problem(
            ProblemKind::Inconsistent,
            format_args!("network namespace list {head}"),
            "It has no namespace: a running Linux has at least one.",
        );
    }
    Ok(nodes.into_iter().filter_map(|node| node.checked_sub(offset)).collect())
}

/// ``struct sock *`` of hash chain nodes (``sk_node``, ``sk_nulls_node``).
pub(super) fn socks_of_nodes(session: &Session<'_>, nodes: Vec<Gva>) -> Vec<Gva> {
    let offset = session.kernel.layouts().net.sock.node;
    nodes.into_iter().filter_map(|node| node.checked_sub(offset)).collect()
}

/// Adds to `tables` what `read` finds, unless it is known: namespaces share tables.
pub(super) fn add_table<T: PartialEq>(
    session: &Session<'_>,
    what: &str,
    at: Gva,
    tables: &mut Vec<T>,
    read: Result<Option<T>, ReadError>,
) -> Result<(), ReadError> {
    if let Some(table) = session.known(what, at, read)?.flatten()
        && !tables.contains(&table)
    {
        tables.push(table);
    }
    Ok(())
}

/// A pointer member of the object at `at`.
pub(super) fn pointer(session: &Session<'_>, at: Gva, offset: u64) -> Result<Gva, ReadError> {
    session.space.pointer(member(at, offset)?)
}
