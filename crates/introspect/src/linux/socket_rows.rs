//! The rows of the table of sockets: where they stand while the table is read, what they say of each other, and their order.
//!
//! A row is some 500 bytes, and a crowd has tens of thousands. So each is written where it stands, in the part of the table that one
//! thread reads, and moved once, to its place in the table; what is compared of it stands beside it. Reads no memory of the guest.

use super::sock;
use crate::apart::{beside, sort_apart};
use facts::{Names, Ownership, Socket, SocketPeer};
use std::collections::HashMap;
use std::net::IpAddr;
use vmi_core::Gva;

/// Where a row stands: in which of the parts, and where in that.
type Place = (usize, usize);

/// Rows that one thread has read, ascending by ``struct sock *``.
pub(super) struct Part {
    /// ``struct sock *`` of each row.
    places: Vec<Gva>,
    /// What each row is ordered by in the table.
    keys: Vec<Key>,
    /// `None`: the row was dropped.
    sockets: Vec<Option<Socket>>,
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
        self.sockets.push(Some(sock::unknown(sk, 0)));
        let Some(Some(row)) = self.sockets.last_mut() else { return Ok(()) };
        let written = write(row);
        if let Ok(true) = written {
            self.places.push(sk);
            self.keys.push(key(row));
        } else {
            self.sockets.truncate(end);
        }
        written.map(drop)
    }

    /// What is to be said of the peers of these rows, of those whose other ends are in `rows`, and where it belongs.
    fn peers(&self, rows: &Rows) -> Vec<(usize, SocketPeer)> {
        let mut peers = Vec::with_capacity(self.sockets.len());
        for (at, row) in self.sockets.iter().enumerate() {
            if let Some(sock) = row.as_ref().and_then(|row| row.peer.as_ref()).map(|peer| peer.sock)
                && let Some(end) = rows.place(Gva(sock.0)).and_then(|place| rows.at(place))
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
        let rows = self.parts.iter().flat_map(|part| part.places.iter().zip(&part.sockets));
        rows.filter_map(|(sk, socket)| Some((*sk, socket.as_ref()?)))
    }

    /// Has `change` change the views of a row. `false`: there is none.
    pub(super) fn change_views(&mut self, sk: Gva, change: impl FnOnce(&Names) -> Names) -> bool {
        let place = self.place(sk);
        let row = place.and_then(|(part, at)| self.parts.get_mut(part)?.sockets.get_mut(at)?.as_mut());
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
        if let Some((place, key_of_row)) = sockets.get_mut(at).zip(keys.get_mut(at)) {
            *key_of_row = row.as_ref().map(key).unwrap_or_default();
            *place = row;
        }
    }

    /// The table: the rows in their order, and with what they say of each other.
    pub(super) fn into_table(mut self, crowd: bool) -> Vec<Socket> {
        let peers = beside(&self.parts, crowd, |part| part.peers(&self));
        let put = |(part, peers): (&mut Part, Vec<(usize, SocketPeer)>)| {
            for (at, peer) in peers {
                if let Some(Some(socket)) = part.sockets.get_mut(at) {
                    socket.peer = Some(peer);
                }
            }
        };
        beside(self.parts.iter_mut().zip(peers), crowd, put);
        self.lend_owners();
        self.sorted(crowd)
    }

    /// Where a row stands, or stood before it was dropped. `None`: there never was one.
    fn place(&self, sk: Gva) -> Option<Place> {
        let may_have = |part: &Part| part.places.first() <= Some(&sk) && Some(&sk) <= part.places.last();
        let mut parts = self.parts.iter().enumerate().filter(|(_, part)| may_have(part));
        parts.find_map(|(number, part)| Some((number, part.places.binary_search(&sk).ok()?)))
    }

    fn at(&self, (part, at): Place) -> Option<&Socket> {
        self.parts.get(part)?.sockets.get(at)?.as_ref()
    }

    /// A subflow of MPTCP is a TCP socket without a file that carries the inode number of the socket it belongs to
    /// (``mptcp_subflow_create_socket()``, net/mptcp/subflow.c), and is that socket's owner's.
    fn lend_owners(&mut self) {
        let holding =
            |socket: &Socket| (socket.processes.clone(), socket.descriptors.clone(), socket.ownership);
        // Their keys tell which they are: most guests have none, and the rows of a crowd are in no cache.
        let mptcp = name_number("mptcp");
        let rows = self.parts.iter().flat_map(|part| part.keys.iter().zip(&part.sockets));
        let lenders = rows.filter(|(key, _)| key.get(1) == Some(&mptcp)).filter_map(|(_, row)| row.as_ref());
        let lent: HashMap<u64, _> =
            lenders.filter_map(|socket| Some((socket.inode?, holding(socket)))).collect();
        if lent.is_empty() {
            return;
        }
        let sockets = self.parts.iter_mut().flat_map(|part| &mut part.sockets).flatten();
        for socket in sockets.filter(|socket| socket.ownership == Some(Ownership::Kernel)) {
            if let Some((processes, descriptors, ownership)) = socket.inode.and_then(|inode| lent.get(&inode))
            {
                socket.processes.clone_from(processes);
                socket.descriptors.clone_from(descriptors);
                socket.ownership = *ownership;
            }
        }
    }

    /// It is the keys that are put in order.
    fn sorted(mut self, crowd: bool) -> Vec<Socket> {
        let mut keys: Vec<(Key, Place)> =
            Vec::with_capacity(self.parts.iter().map(|part| part.keys.len()).sum());
        for (number, part) in self.parts.iter().enumerate() {
            keys.extend(part.keys.iter().enumerate().map(|(at, key)| (*key, (number, at))));
        }
        sort_apart(&mut keys, crowd, &|(key, place), (other_key, other)| {
            let rest = |place: &Place| self.at(*place).map(rest);
            key.cmp(other_key).then_with(|| rest(place).cmp(&rest(other)))
        });
        let mut sockets = Vec::with_capacity(keys.len());
        let mut take = |(part, at): Place| self.parts.get_mut(part)?.sockets.get_mut(at)?.take();
        sockets.extend(keys.into_iter().filter_map(|(_, place)| take(place)));
        sockets
    }
}

/// What the table is ordered by first, as numbers: they are compared faster than what they stand for.
type Key = [u64; 9];

/// Network namespace, family, protocol (eight bytes of its name decide nearly always), the path or the local address with its port, and
/// the remote one; of what has neither path nor remote address the inode number. What is not known comes before what is.
fn key(socket: &Socket) -> Key {
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
    [
        namespace << 16 | u64::from(socket.protocol_family),
        name_number(socket.protocol.as_deref().unwrap_or_default()),
        local_kind,
        local_high,
        local_low,
        port(socket.local_port) << 2 | remote_kind,
        remote_high,
        remote_low,
        port(socket.remote_port),
    ]
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
        assert_eq!(table[1].views, ["slab"]);
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
