//! The tables of `ss`: which of them a socket is in, and which are shown when options name tables (`-t`, `-A udp,raw`) and
//! families (`-x`, `-f inet6`).
//!
//! As with `ss` (`filter_merge_defaults`): a family without a table named has all of its tables, and a table without a family of its
//! own named has all of its families. So `-4t` is TCP over IPv4, and `-4x` is all of IPv4 and all unix sockets.
//!
//! `ss` 6.1 does not do what its manual says in three places, and here it is done: `-46` is both families (`ss` asks for the last
//! one only), `-A packet_raw` has no `packet_dgram` (`ss` does not look at the type), and states choose raw sockets too (the kernel's
//! `raw_diag_dump`, which `ss` leaves them to, does not).

use facts::{Family, Socket};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Tcp,
    Mptcp,
    Dccp,
    Udp,
    Raw,
    UnixStream,
    UnixDgram,
    UnixSeqpacket,
    PacketRaw,
    PacketDgram,
    Netlink,
    Sctp,
    VsockStream,
    VsockDgram,
    Xdp,
}

const INET: [Table; 6] = [Table::Udp, Table::Dccp, Table::Tcp, Table::Mptcp, Table::Sctp, Table::Raw];
const UNIX: [Table; 3] = [Table::UnixStream, Table::UnixDgram, Table::UnixSeqpacket];
const PACKET: [Table; 2] = [Table::PacketRaw, Table::PacketDgram];
const VSOCK: [Table; 2] = [Table::VsockStream, Table::VsockDgram];

impl Table {
    /// The table that has this socket. `None`: `ss` has none for it.
    fn of(socket: &Socket) -> Option<Self> {
        let kind = socket.kind.as_deref();
        match socket.family {
            Family::Inet | Family::Inet6 => match (kind, socket.protocol.as_deref()?) {
                // A raw socket of protocol 6 is no TCP socket.
                (Some("raw"), _) | (_, "icmp" | "icmpv6") => Some(Self::Raw),
                (_, "tcp") => Some(Self::Tcp),
                (_, "udp" | "udplite") => Some(Self::Udp),
                (_, "mptcp") => Some(Self::Mptcp),
                (_, "sctp") => Some(Self::Sctp),
                (_, "dccp") => Some(Self::Dccp),
                _ => None,
            },
            Family::Unix => match kind? {
                "dgram" => Some(Self::UnixDgram),
                "seqpacket" => Some(Self::UnixSeqpacket),
                _ => Some(Self::UnixStream),
            },
            Family::Packet => Some(if kind? == "dgram" { Self::PacketDgram } else { Self::PacketRaw }),
            Family::Netlink => Some(Self::Netlink),
            Family::Vsock => Some(if kind? == "dgram" { Self::VsockDgram } else { Self::VsockStream }),
            Family::Xdp => Some(Self::Xdp),
            _ => None,
        }
    }

    fn is_of(self, family: Family) -> bool {
        match family {
            Family::Inet | Family::Inet6 => INET.contains(&self),
            Family::Unix => UNIX.contains(&self),
            Family::Packet => PACKET.contains(&self),
            Family::Netlink => self == Self::Netlink,
            Family::Vsock => VSOCK.contains(&self),
            Family::Xdp => self == Self::Xdp,
            _ => false,
        }
    }
}

/// What options ask for. Without anything, all is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    tables: Vec<Table>,
    families: Vec<Family>,
}

impl Tables {
    pub(super) fn add(&mut self, table: Table) {
        self.tables.push(table);
    }

    pub(super) fn add_family(&mut self, family: Family) {
        self.families.push(family);
    }

    /// One word of `-f`.
    pub(super) fn add_family_named(&mut self, name: &str) -> Result<(), String> {
        self.add_family(match name {
            "inet" => Family::Inet,
            "inet6" => Family::Inet6,
            "link" => Family::Packet,
            "unix" => Family::Unix,
            "netlink" => Family::Netlink,
            "vsock" => Family::Vsock,
            "tipc" => Family::Tipc,
            "xdp" => Family::Xdp,
            _ => {
                return Err(format!(
                    "there is no family `{name}`, but inet, inet6, link, unix, netlink, vsock, tipc and xdp"
                ));
            }
        });
        Ok(())
    }

    /// The words of `-A`, in their order: those with a `!` before them take away from what there is.
    pub(super) fn query(&mut self, words: &[String]) -> Result<(), String> {
        for word in words {
            let (name, without) = match word.strip_prefix('!') {
                Some(name) => (name, true),
                None => (word.as_str(), false),
            };
            let named = named(name).ok_or_else(|| format!("there is no table `{name}`"))?;
            if without {
                self.tables.retain(|table| !named.contains(table));
            } else {
                self.tables.extend(named);
            }
        }
        if !words.is_empty() && self.tables.is_empty() && self.families.is_empty() {
            return Err("no table is left to show".to_owned());
        }
        Ok(())
    }

    /// The only family that an option names, which addresses without one are of.
    pub(super) fn only_family(&self) -> Option<Family> {
        match self.families.as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }

    pub(super) fn show(&self, socket: &Socket) -> bool {
        let family = socket.family;
        let of_it: Vec<Table> = self.tables.iter().copied().filter(|table| table.is_of(family)).collect();
        let nobody_named = |table: &Table| !self.families.iter().any(|family| table.is_of(*family));
        let is_family = self.families.contains(&family) || of_it.iter().any(nobody_named);
        let is_table = of_it.is_empty() || Table::of(socket).is_some_and(|table| of_it.contains(&table));
        (self.tables.is_empty() && self.families.is_empty()) || (is_family && is_table)
    }
}

fn named(name: &str) -> Option<Vec<Table>> {
    Some(match name {
        "all" => [&INET[..], &UNIX, &PACKET, &VSOCK, &[Table::Netlink, Table::Xdp]].concat(),
        "inet" => INET.to_vec(),
        "udp" => vec![Table::Udp],
        "dccp" => vec![Table::Dccp],
        "tcp" => vec![Table::Tcp],
        "mptcp" => vec![Table::Mptcp],
        "sctp" => vec![Table::Sctp],
        "raw" => vec![Table::Raw],
        "unix" => UNIX.to_vec(),
        "unix_stream" | "u_str" => vec![Table::UnixStream],
        "unix_dgram" | "u_dgr" => vec![Table::UnixDgram],
        "unix_seqpacket" | "u_seq" => vec![Table::UnixSeqpacket],
        "packet" => PACKET.to_vec(),
        "packet_raw" | "p_raw" => vec![Table::PacketRaw],
        "packet_dgram" | "p_dgr" => vec![Table::PacketDgram],
        "netlink" => vec![Table::Netlink],
        "vsock" => VSOCK.to_vec(),
        "vsock_stream" | "v_str" => vec![Table::VsockStream],
        "vsock_dgram" | "v_dgr" => vec![Table::VsockDgram],
        "xdp" => vec![Table::Xdp],
        _ => return None,
    })
}
