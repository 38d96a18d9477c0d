//! The rows of the table of sockets: where they stand, what they say of each other, and their order.
//!
//! A row is some 500 bytes, and a crowd has tens of thousands. So each is written where it stays, in the part of the table that one
//! thread reads; what is compared of it stands beside it. Reads no memory of the guest.

use super::sock;
use crate::apart::beside;
use facts::{Names, Ownership, Place, Socket, SocketPeer};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use vmi_core::Gva;

/// Rows that one thread has read, ascending by ``struct sock *``.
pub(super) struct Part {
    /// ``struct sock *`` of each row.
    places: Vec<Gva>,
    /// What each row is ordered by in the table. `None`: the row was dropped.
    keys: Vec<Option<Key>>,
    sockets: Vec<Socket>,
}

impl Part {
    pub(super) fn with_capacity(rows: usize) -> Self {
        let (places, keys) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        Self { places, keys, sockets: Vec::with_capacity(rows) }
    }

    /// Adds a row behind all others, which `write` writes where it stands, starting from what is there: nothing known. There is no row
    /// where `write` says `Ok(false)` or fails.
    pub(super) fn write<E>(
        &mut self,
        sk: Gva,
        write: impl FnOnce(&mut Socket) -> Result<bool, E>,
    ) -> Result<(), E> {
        let end = self.sockets.len();
        self.sockets.push(sock::unknown(sk, 0));
        let Some(row) = self.sockets.last_mut() else { return Ok(()) };
        let written = write(row);
        if let Ok(true) = written {
            self.places.push(sk);
            self.keys.push(Some(Key::of(row)));
        } else {
            self.sockets.truncate(end);
        }
        written.map(drop)
    }

    /// The rows, each with its ``struct sock *`` and what it is ordered by.
    fn rows(&self) -> impl Iterator<Item = (Gva, &Key, &Socket)> {
        let rows = self.places.iter().zip(&self.keys).zip(&self.sockets);
        rows.filter_map(|((sk, key), socket)| Some((*sk, key.as_ref()?, socket)))
    }

    fn row(&self, at: usize) -> Option<(&Key, &Socket)> {
        Some((self.keys.get(at)?.as_ref()?, self.sockets.get(at)?))
    }

    /// What is to be said of the peers of these rows, of those whose other ends are in `rows`, and where it belongs.
    fn peers(&self, rows: &Rows) -> Vec<(usize, SocketPeer)> {
        let mut peers = Vec::with_capacity(self.sockets.len());
        for (at, row) in self.sockets.iter().enumerate() {
            if let Some(sock) = row.peer.as_ref().map(|peer| peer.sock)
                && let Some((part, end)) = rows.place(Gva(sock.0))
                && let Some((_, end)) = rows.parts.get(part).and_then(|part| part.row(end))
            {
                peers.push((at, SocketPeer { inode: end.inode, processes: end.processes.clone(), sock }));
            }
        }
        peers
    }
}

/// All rows that were read so far.
#[derive(Default)]
pub(super) struct Rows {
    /// No socket is in two of them.
    parts: Vec<Part>,
}

impl Rows {
    /// Adds rows of sockets of which there are none yet.
    pub(super) fn push(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// Each row with its ``struct sock *``.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Gva, &Socket)> {
        self.parts.iter().flat_map(Part::rows).map(|(sk, _, socket)| (sk, socket))
    }

    /// Has `change` change the views of a row. `false`: there is none.
    pub(super) fn change_views(&mut self, sk: Gva, change: impl FnOnce(&Names) -> Names) -> bool {
        let Some((part, at)) = self.place(sk) else { return false };
        let part = self.parts.get_mut(part).filter(|part| part.row(at).is_some());
        let row = part.and_then(|part| part.sockets.get_mut(at));
        let is_there = row.is_some();
        if let Some(row) = row {
            row.views = change(&row.views);
        }
        is_there
    }

    /// Puts another row, or none, where the row of `sk` stands. There is none where none was read.
    pub(super) fn put(&mut self, sk: Gva, row: Option<Socket>) {
        let Some((part, at)) = self.place(sk) else { return };
        let Some(Part { keys, sockets, .. }) = self.parts.get_mut(part) else { return };
        if let Some((place, key)) = sockets.get_mut(at).zip(keys.get_mut(at)) {
            *key = row.as_ref().map(Key::of);
            *place = row.unwrap_or_else(|| sock::unknown(sk, 0));
        }
    }

    /// The table: the rows in their order, and with what they say of each other.
    pub(super) fn into_table(mut self, crowd: bool) -> facts::Rows<Socket> {
        let peers = beside(&self.parts, crowd, |part| part.peers(&self));
        let put = |(part, peers): (&mut Part, Vec<(usize, SocketPeer)>)| {
            for (at, peer) in peers {
                if let Some(socket) = part.sockets.get_mut(at) {
                    socket.peer = Some(peer);
                }
            }
        };
        beside(self.parts.iter_mut().zip(peers), crowd, put);
        self.lend_owners();
        let order = self.order(crowd);
        facts::Rows::at(self.parts.into_iter().map(|part| part.sockets).collect(), order)
    }

    /// Where a row stands, or stood before it was dropped: in which of the parts, and where in that. `None`: there never was one.
    fn place(&self, sk: Gva) -> Option<(usize, usize)> {
        let may_have = |part: &Part| part.places.first() <= Some(&sk) && Some(&sk) <= part.places.last();
        let mut parts = self.parts.iter().enumerate().filter(|(_, part)| may_have(part));
        parts.find_map(|(number, part)| Some((number, part.places.binary_search(&sk).ok()?)))
    }

    /// A subflow of MPTCP is a TCP socket without a file that carries the inode number of the socket it belongs to
    /// (``mptcp_subflow_create_socket()``, net/mptcp/subflow.c), and is that socket's owner's.
    fn lend_owners(&mut self) {
        let holding =
            |socket: &Socket| (socket.processes.clone(), socket.descriptors.clone(), socket.ownership);
        // Their keys tell which they are: most guests have none, and the rows of a crowd are in no cache.
        let mptcp = name_number("mptcp");
        let lenders = self.parts.iter().flat_map(Part::rows).filter(|(_, key, _)| key.group.1 == mptcp);
        let lent: HashMap<u64, _> =
            lenders.filter_map(|(_, _, socket)| Some((socket.inode?, holding(socket)))).collect();
        if lent.is_empty() {
            return;
        }
        let sockets = self.parts.iter_mut().flat_map(|part| &mut part.sockets);
        for socket in sockets.filter(|socket| socket.ownership == Some(Ownership::Kernel)) {
            if let Some((processes, descriptors, ownership)) = socket.inode.and_then(|inode| lent.get(&inode))
            {
                socket.processes.clone_from(processes);
                socket.descriptors.clone_from(descriptors);
                socket.ownership = *ownership;
            }
        }
    }

    /// The places of the rows in the order of the table, group by group.
    fn order(&self, crowd: bool) -> Vec<Place> {
        let mut groups: Vec<Alike> = Vec::new();
        let mut known: BTreeMap<Group, usize> = BTreeMap::new();
        let mut before: Option<(Group, usize)> = None;
        for (part, rows) in (0..).zip(&self.parts) {
            for (at, key) in (0..).zip(&rows.keys) {
                let Some(key) = key else { continue };
                // Socks that stand near each other are mostly of one kind.
                let number = match before {
                    Some((group, number)) if group == key.group => number,
                    _ => *known.entry(key.group).or_insert(groups.len()),
                };
                before = Some((key.group, number));
                if number == groups.len() {
                    groups.push(Alike::like(key));
                }
                if let Some(group) = groups.get_mut(number) {
                    group.add(key, (part, at));
                }
            }
        }
        // The largest first, so that nobody has to wait for it in the end.
        groups.sort_by_key(|group| Reverse(group.rows.len()));
        let mut sorted = beside(&groups, crowd, |group| (group.like.group, self.sorted(group)));
        sorted.sort_by_key(|(group, _)| *group);
        sorted.into_iter().flat_map(|(_, places)| places).collect()
    }

    /// The places of the rows of a group, in their order.
    fn sorted(&self, group: &Alike) -> Vec<Place> {
        let packed = |place| (self.at(place).map_or(0, |(key, _)| group.packed(key)), place);
        let mut rows: Vec<(u128, Place)> = group.rows.iter().copied().map(packed).collect();
        rows.sort_unstable_by(|(number, place), (other_number, other)| {
            number.cmp(other_number).then_with(|| self.compare(*place, *other))
        });
        rows.into_iter().map(|(_, place)| place).collect()
    }

    fn at(&self, (part, at): Place) -> Option<(&Key, &Socket)> {
        self.parts.get(usize::try_from(part).ok()?)?.row(usize::try_from(at).ok()?)
    }

    /// What decides between two rows of a group. Nothing is the same for two.
    fn compare(&self, one: Place, other: Place) -> Ordering {
        let all = |place| self.at(place).map(|(key, socket)| (key.rest, rest(socket)));
        all(one).cmp(&all(other))
    }
}

/// What the table is ordered by, as numbers: they are compared faster than what they stand for. What is not known comes before what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    group: Group,
    rest: [u64; 7],
}

/// Network namespace and family, and protocol (eight bytes of its name decide nearly always): there are few of them, and many sockets of each.
type Group = (u64, u64);

impl Key {
    /// Behind the group come the path or the local address with its port, and the remote one; of what has neither path nor remote address
    /// the inode number.
    fn of(socket: &Socket) -> Self {
        let namespace = socket.net_namespace.map_or(0, |inode| 1 << 32 | u64::from(inode));
        let address = |address: Option<IpAddr>| match address {
            None => [0; 3],
            Some(IpAddr::V4(address)) => [1, 0, u64::from(address.to_bits())],
            #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
            Some(IpAddr::V6(address)) => [2, (address.to_bits() >> 64) as u64, address.to_bits() as u64],
        };
        let port = |port: Option<u16>| port.map_or(0, |port| 1 << 16 | u64::from(port));
        let [local_kind, local_high, local_low] = match &socket.path {
            Some(path) => first_bytes(path),
            None => address(socket.local_address),
        };
        let [remote_kind, remote_high, remote_low] = match socket.path {
            // The number is what decides next where there is neither.
            None if socket.remote_address.is_none() => [0, 0, socket.inode.unwrap_or_default()],
            None => address(socket.remote_address),
            Some(_) => [0; 3],
        };
        Self {
            group: (
                namespace << 16 | u64::from(socket.protocol_family),
                name_number(socket.protocol.as_deref().unwrap_or_default()),
            ),
            rest: [
                local_kind,
                local_high,
                local_low,
                port(socket.local_port) << 2 | remote_kind,
                remote_high,
                remote_low,
                port(socket.remote_port),
            ],
        }
    }
}

/// The rows of one group.
struct Alike {
    like: Key,
    /// Bits that are not in all keys what they are in `like`.
    differ: [u64; 7],
    rows: Vec<Place>,
}

impl Alike {
    fn like(like: &Key) -> Self {
        Self { like: *like, differ: [0; 7], rows: Vec::new() }
    }

    fn add(&mut self, key: &Key, place: Place) {
        let bits = self.differ.iter_mut().zip(self.like.rest.iter().zip(key.rest));
        bits.for_each(|(differ, (like, number))| *differ |= like ^ number);
        self.rows.push(place);
    }

    /// What differs in the keys of the group, packed into one number, as far as there is room: keys whose numbers are not the same are in the
    /// order of these.
    fn packed(&self, key: &Key) -> u128 {
        let (mut packed, mut room) = (0, u128::BITS);
        for (number, differ) in key.rest.iter().zip(self.differ) {
            let width = u64::BITS.saturating_sub(differ.leading_zeros());
            let kept = width.min(room);
            if kept > 0 {
                // What is above it is the same in all of them.
                let bits = number & (u64::MAX >> u64::BITS.saturating_sub(width));
                packed = packed << kept | u128::from(bits >> width.saturating_sub(kept));
                room = room.saturating_sub(kept);
            }
        }
        packed
    }
}

/// The first bytes of a name, as a number in the order of the names.
fn name_number(name: &str) -> u64 {
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte);
    u64::from_be_bytes(bytes)
}

/// The first bytes of a path, as numbers that are in the order of the paths unless they are the same.
fn first_bytes(path: &str) -> [u64; 3] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(path.bytes()).for_each(|(place, byte)| *place = byte);
    let number = u128::from_be_bytes(bytes);
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    [1, (number >> 64) as u64, number as u64]
}

/// What decides between sockets whose keys are the same; nothing is the same for two.
fn rest(socket: &Socket) -> impl Ord + '_ {
    (socket.protocol.as_deref(), socket.path.as_deref(), socket.inode, socket.sock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use facts::Address;

    fn rows(inodes: &[u64], part: usize) -> Rows {
        let mut rows = Rows::default();
        for inodes in inodes.chunks(part) {
            let mut part = Part::with_capacity(inodes.len());
            for inode in inodes {
                let write = |row: &mut Socket| {
                    row.inode = Some(*inode);
                    Ok::<_, ()>(true)
                };
                part.write(Gva(*inode), write).unwrap();
            }
            rows.push(part);
        }
        rows
    }

    #[test]
    fn sockets_are_put_in_the_order_of_the_table_wherever_they_stood() {
        for (count, step) in [(0, 1), (1, 1), (2, 1), (97, 5), (97, 31), (97, 96), (1024, 421)] {
            for (part, crowd) in [(1, false), (7, true), (2000, false), (2000, true)] {
                let unsorted: Vec<u64> = (0..count).map(|index| index * step % count).collect();
                let table = rows(&unsorted, part).into_table(crowd);
                let places: Vec<Address> = table.iter().map(|socket| socket.sock).collect();
                assert_eq!(places, (0..count).map(Address).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn paths_that_begin_alike_are_in_the_order_of_all_of_their_bytes() {
        let paths = ["", "/run", "/run/a", "/run/a/very/long/path", "/run/a/very/long/path/1", "/run/b", "@"];
        let mut part = Part::with_capacity(8);
        for (at, path) in [5, 3, 0, 6, 4, 2, 1].into_iter().enumerate() {
            let write = |row: &mut Socket| {
                (row.path, row.inode) = (Some(paths[path].into()), Some(at as u64));
                Ok::<_, ()>(true)
            };
            part.write(Gva(at as u64), write).unwrap();
        }
        part.write(Gva(7), |row| {
            Ok::<_, ()>({
                row.inode = Some(u64::MAX);
                true
            })
        })
        .unwrap();
        let mut rows = Rows::default();
        rows.push(part);
        let table = rows.into_table(false);
        let seen: Vec<Option<&str>> = table.iter().map(|socket| socket.path.as_deref()).collect();
        assert_eq!(seen, [None].into_iter().chain(paths.map(Some)).collect::<Vec<_>>());
    }

    #[test]
    fn the_order_is_that_of_what_the_rows_say_however_much_of_it_is_packed() {
        let mut state = 1_u64;
        let mut any = |of: u8| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0] % of
        };
        let mut row = |sk: u64| {
            let mut row = sock::unknown(Gva(sk), 0);
            row.net_namespace = [None, Some(4_026_531_840), Some(4_026_532_000)][usize::from(any(3))];
            row.protocol = [None, Some("tcp"), Some("unix")][usize::from(any(3))].map(Into::into);
            let mut address = || match any(4) {
                0 => None,
                1 => Some(IpAddr::V4((u32::MAX - u32::from(any(3))).into())),
                2 => Some(IpAddr::V6((u128::from(any(3)) << 64 | u128::from(any(2))).into())),
                _ => Some(IpAddr::V6((u128::MAX - u128::from(any(3))).into())),
            };
            (row.local_address, row.remote_address) = (address(), address());
            row.local_port = [None, Some(0), Some(1), Some(u16::MAX)][usize::from(any(4))];
            row.remote_port = [None, Some(80), Some(443)][usize::from(any(3))];
            row.inode = {
                let small = any(5).into();
                [None, Some(u64::MAX), Some(small)][usize::from(any(3))]
            };
            let paths = ["", "/", "/run/a/long/path/0", "/run/a/long/path/1"];
            row.path = paths.get(usize::from(any(8))).map(|path| (*path).into());
            row
        };
        let mut parts = Rows::default();
        let mut sorted = Vec::new();
        for number in 0..40 {
            let mut part = Part::with_capacity(50);
            for at in 0..50 {
                let sk = number * 100 + at;
                let made = row(sk);
                sorted.push(made.clone());
                let write = |row: &mut Socket| {
                    *row = made;
                    Ok::<_, ()>(true)
                };
                part.write(Gva(sk), write).unwrap();
            }
            parts.push(part);
        }
        sorted.sort_by_cached_key(|row| {
            let key = Key::of(row);
            let ends = (row.protocol.clone(), row.path.clone(), row.inode, row.sock);
            (key.group, key.rest, ends)
        });
        assert_eq!(parts.into_table(true), facts::Rows::from(sorted));
    }

    #[test]
    fn a_row_that_is_put_again_stands_where_it_belongs_now_and_one_that_is_dropped_nowhere() {
        let mut rows = rows(&[1, 2, 3, 4], 2);
        rows.put(Gva(1), Some(Socket { inode: Some(9), ..sock::unknown(Gva(1), 0) }));
        rows.put(Gva(3), None);
        rows.put(Gva(7), Some(sock::unknown(Gva(7), 0)));
        assert!(rows.change_views(Gva(4), |views| views.with("slab".into())));
        assert!(!rows.change_views(Gva(3), Names::clone));
        assert_eq!(rows.iter().map(|(sk, _)| sk.0).collect::<Vec<_>>(), [1, 2, 4]);
        let table = rows.into_table(false);
        assert_eq!(table.iter().map(|socket| socket.sock.0).collect::<Vec<_>>(), [2, 4, 1]);
        assert_eq!(table.get(1).unwrap().views, ["slab"]);
    }

    #[test]
    fn a_peer_is_told_where_its_row_is_known() {
        let mut rows = rows(&[1, 2, 3], 2);
        let peer =
            |sock| Some(SocketPeer { inode: None, processes: facts::Pids::new(), sock: Address(sock) });
        let holder = facts::Pids::from_slice(&[7]);
        rows.put(Gva(1), Some(Socket { peer: peer(3), ..sock::unknown(Gva(1), 1) }));
        rows.put(Gva(2), Some(Socket { peer: peer(8), ..sock::unknown(Gva(2), 1) }));
        rows.put(
            Gva(3),
            Some(Socket { inode: Some(33), processes: holder.clone(), ..sock::unknown(Gva(3), 1) }),
        );
        let table = rows.into_table(true);
        let of = |sk| table.iter().find(|socket| socket.sock.0 == sk).unwrap().peer.clone();
        assert_eq!(of(1), Some(SocketPeer { inode: Some(33), processes: holder, sock: Address(3) }));
        assert_eq!(of(2), peer(8));
    }
}
