//! Which sockets to show: the options people know from `ss`, and what a socket must be (`socket_expression` says how that is written).
//!
//! What options for kinds and families mean together is in `socket_table`.

use super::file_name_pattern::FileNamePattern;
use super::services;
use super::socket_expression::{Expression, begins_with_states};
use super::socket_host::{integer, network};
use super::socket_table::{Table, Tables};
use super::sockets::protocol;
use super::words;
use attest::Pattern;
use clap::Args;
use facts::{Family, Socket, SocketState};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Names of processes by pid.
pub(super) type Names = BTreeMap<u32, String>;

#[derive(Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Choice {
    /// Show TCP sockets. Without an option for a kind of socket, all kinds are shown; several add up.
    #[arg(short, long)]
    tcp: bool,
    /// Show UDP and UDP-Lite sockets.
    #[arg(short, long)]
    udp: bool,
    /// Show unix sockets.
    #[arg(short = 'x', long)]
    unix: bool,
    /// Show raw and ping sockets.
    #[arg(short = 'w', long)]
    raw: bool,
    /// Show packet sockets.
    #[arg(short = '0', long)]
    packet: bool,
    /// Show SCTP sockets.
    #[arg(short = 'S', long)]
    sctp: bool,
    /// Show MPTCP sockets.
    #[arg(short = 'M', long)]
    mptcp: bool,
    /// Show netlink sockets.
    #[arg(long)]
    netlink: bool,
    /// Show vsock sockets.
    #[arg(long)]
    vsock: bool,
    /// Show XDP sockets.
    #[arg(long)]
    xdp: bool,
    /// Show IPv4 sockets. With options for kinds too, those of these kinds.
    #[arg(short = '4', long)]
    ipv4: bool,
    /// Show IPv6 sockets.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Show sockets of a family: inet, inet6, link, unix, netlink, vsock, tipc or xdp.
    #[arg(short, long)]
    family: Vec<String>,
    /// Show sockets of these tables: tcp, udp, raw, inet, unix_stream, packet_raw, netlink, all and so on; `!` takes one away.
    #[arg(short = 'A', long, visible_alias = "socket", value_delimiter = ',')]
    query: Vec<String>,
    /// Show only sockets that wait for a peer: listeners, and datagram sockets without one. States of the filter say more.
    #[arg(short, long, overrides_with = "all")]
    listening: bool,
    /// Show sockets in all states, which is the default.
    #[arg(short, long, overrides_with = "listening")]
    all: bool,
    /// Taken as `ss` has it: ports are always numbers here.
    #[arg(short, long)]
    numeric: bool,
    /// Taken as `ss` has it: processes are always shown here.
    #[arg(short, long)]
    processes: bool,
    /// Show also owner, inode, cookie and control group of each.
    #[arg(short, long)]
    pub(crate) extended: bool,
    /// Only sockets for which this holds; several must all hold. `KEY=VALUE[,VALUE]…` or `KEY!=…`, with the keys:
    /// state (established, listen, …), port, sport, dport (a number, FIRST-LAST, or a name of /etc/services), src, dst (an
    /// address or a network such as 10.0.0.0/8; 0.0.0.0 or :: and port 0 where there is no peer), proto (tcp, udp6, …),
    /// pid, process, path, cgroup (templates, where * stands for anything but /, and ** for anything), uid, inode, netns,
    /// dev (name or index), fwmark (MARK or MARK/MASK), ownership (process, kernel, nobody, …), missing (file_table, hash_table, …). Or as `ss` has it: `state established '( dport = :443 or sport >= :1024 ) and not dst 10.0.0.0/8'`.
    #[arg(value_name = "FILTER")]
    words: Vec<String>,
}

impl Choice {
    /// What options and words say.
    pub(crate) fn selection(&self) -> Result<Selection, String> {
        let mut tables = Tables::default();
        for (asked, table) in [
            (self.tcp, Table::Tcp),
            (self.udp, Table::Udp),
            (self.raw, Table::Raw),
            (self.sctp, Table::Sctp),
            (self.mptcp, Table::Mptcp),
        ] {
            if asked {
                tables.add(table);
            }
        }
        for (asked, family) in [
            (self.ipv4, Family::Inet),
            (self.ipv6, Family::Inet6),
            (self.unix, Family::Unix),
            (self.packet, Family::Packet),
            (self.netlink, Family::Netlink),
            (self.vsock, Family::Vsock),
            (self.xdp, Family::Xdp),
        ] {
            if asked {
                tables.add_family(family);
            }
        }
        for name in &self.family {
            tables.add_family_named(name)?;
        }
        tables.query(&self.query)?;
        let expression = Expression::parse(&self.words, tables.only_family())?;
        let listening = self.listening && !begins_with_states(&self.words);
        Ok(Selection { tables, listening, expression })
    }
}

/// Which sockets to show.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    tables: Tables,
    listening: bool,
    expression: Expression,
}

impl Selection {
    pub(crate) fn shows(&self, socket: &Socket, names: &Names) -> bool {
        self.tables.show(socket) && (!self.listening || waits(socket)) && self.expression.holds(socket, names)
    }
}

fn waits(socket: &Socket) -> bool {
    matches!(socket.state, Some(SocketState::Listen | SocketState::Unconnected))
}

/// One value with its key.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    State(String),
    /// Ports that count (local, remote), and the range they must be in.
    Port {
        local: bool,
        remote: bool,
        first: u16,
        last: u16,
    },
    Address {
        local: bool,
        network: IpAddr,
        bits: u32,
    },
    Protocol(String),
    Pid(u32),
    Process(Pattern),
    Path(Pattern),
    Uid(u32),
    Inode(u64),
    Namespace(u32),
    Interface(String),
    Cgroup(Pattern),
    /// Of the mark, the bits that count are these.
    Mark {
        mark: u32,
        mask: u32,
    },
    Autobound,
    Family(Family),
    /// Of a unix socket.
    Name(FileNamePattern),
    /// Of a packet socket.
    EtherType(u16),
    Netlink {
        protocol: Option<String>,
        port: Option<u32>,
    },
    Vsock {
        local: bool,
        cid: Option<u32>,
        port: Option<u32>,
    },
    Ownership(String),
    Missing(String),
}

impl Test {
    pub(super) fn parse(key: &str, value: &str) -> Result<Self, String> {
        if value.is_empty() {
            return Err(format!("`{key}` has an empty value"));
        }
        let pattern = || Pattern::parse(value).map_err(|error| error.to_string());
        let port = |local, remote| {
            let (first, last) = services::ports(key, value)?;
            if first > last {
                return Err(format!("`{value}` ends before it begins"));
            }
            Ok(Self::Port { local, remote, first, last })
        };
        match key {
            "state" => {
                let known: Result<SocketState, _> = serde_json::from_value(value.into());
                known
                    .map(|_| Self::State(value.to_owned()))
                    .map_err(|_| format!("there is no state `{value}`"))
            }
            "port" => port(true, true),
            "sport" => port(true, false),
            "dport" => port(false, true),
            "src" => address(value, true),
            "dst" => address(value, false),
            "proto" => Ok(Self::Protocol(value.to_owned())),
            "pid" => Ok(Self::Pid(number(key, value)?)),
            "process" => Ok(Self::Process(pattern()?)),
            "path" => Ok(Self::Path(pattern()?)),
            "uid" => Ok(Self::Uid(number(key, value)?)),
            "inode" => Ok(Self::Inode(number(key, value)?)),
            "netns" => Ok(Self::Namespace(number(key, value)?)),
            "dev" => Ok(Self::Interface(value.to_owned())),
            // `ss` takes the directory, which has the hierarchy's usual place before it.
            "cgroup" => {
                let path = value.strip_prefix("/sys/fs/cgroup").unwrap_or(value);
                let path = path.strip_suffix('/').filter(|path| !path.ends_with('\\')).unwrap_or(path);
                let path = if path.is_empty() { "/" } else { path };
                Pattern::parse(path).map(Self::Cgroup).map_err(|error| error.to_string())
            }
            "fwmark" => {
                let bits = |text: &str| {
                    let bits = integer(text).and_then(|bits| bits.try_into().ok());
                    bits.ok_or_else(|| format!("`{value}` is neither a mark nor MARK/MASK"))
                };
                let (mark, mask) = value.split_once('/').unwrap_or((value, "0xffffffff"));
                Ok(Self::Mark { mark: bits(mark)?, mask: bits(mask)? })
            }
            "ownership" => {
                let known: Result<facts::Ownership, _> = serde_json::from_value(value.into());
                known
                    .map(|_| Self::Ownership(value.to_owned()))
                    .map_err(|_| format!("there is no ownership `{value}`"))
            }
            "missing" => Ok(Self::Missing(value.to_owned())),
            _ => Err(format!("sockets are not chosen by `{key}`")),
        }
    }

    /// A unix socket by its name, as `ss` has it.
    pub(super) fn unix(name: &str) -> Result<Self, String> {
        FileNamePattern::parse(name).map(Self::Name)
    }

    pub(super) fn holds(&self, socket: &Socket, names: &Names) -> bool {
        match self {
            Self::State(state) => socket.state.as_ref().is_some_and(|own| words::serde_name(own) == *state),
            Self::Port { local, remote, first, last } => {
                let inside = |port: Option<u16>| port.is_some_and(|port| (*first..=*last).contains(&port));
                (*local && inside(socket.local_port)) || (*remote && inside(peer(socket).1))
            }
            Self::Address { local, network, bits } => {
                let address = if *local { socket.local_address } else { peer(socket).0 };
                address.is_some_and(|address| is_inside(address, *network, *bits))
            }
            Self::Protocol(name) => {
                protocol(socket) == *name
                    || socket.protocol.as_deref() == Some(name)
                    || words::serde_name(&socket.family) == *name
            }
            Self::Pid(pid) => socket.processes.contains(pid),
            Self::Process(pattern) => {
                socket.processes.iter().filter_map(|pid| names.get(pid)).any(|name| pattern.matches(name))
            }
            Self::Path(pattern) => socket.path.as_ref().is_some_and(|path| pattern.matches(path)),
            Self::Uid(uid) => socket.uid == Some(*uid),
            Self::Inode(inode) => socket.inode == Some(*inode),
            Self::Namespace(number) => socket.net_namespace == Some(*number),
            // As `ss` has it: of no interface.
            Self::Interface(name) if name == "0" => socket.interface.is_none(),
            Self::Interface(name) => {
                let is = |own: &facts::SocketInterface| {
                    own.name.as_ref() == Some(name) || own.index.to_string() == *name
                };
                socket.interface.as_ref().is_some_and(is)
            }
            Self::Cgroup(pattern) => socket.cgroup.as_ref().is_some_and(|path| pattern.matches(path)),
            Self::Mark { mark, mask } => socket.mark.unwrap_or(0) & mask == *mark,
            Self::Autobound => is_autobound(socket),
            Self::Family(family) => socket.family == *family,
            Self::Name(pattern) => {
                socket.family == Family::Unix && pattern.matches(socket.path.as_deref().unwrap_or_default())
            }
            Self::EtherType(number) => {
                let name = format!("{number:#06x}");
                socket.family == Family::Packet && socket.protocol.as_deref() == Some(name.as_str())
            }
            Self::Netlink { protocol, port } => {
                let is_protocol = protocol.is_none() || protocol.as_deref() == socket.protocol.as_deref();
                let own = socket.netlink.as_ref().filter(|_| is_protocol);
                own.is_some_and(|own| port.is_none_or(|port| port == own.port))
            }
            Self::Vsock { local, cid, port } => {
                let own = if *local { &socket.vsock_local } else { &socket.vsock_remote };
                let is = |asked: &Option<u32>, own: u32| asked.is_none_or(|asked| asked == own);
                own.as_ref().is_some_and(|own| is(cid, own.cid) && is(port, own.port))
            }
            Self::Ownership(name) => {
                socket.ownership.as_ref().is_some_and(|ownership| words::serde_name(ownership) == *name)
            }
            Self::Missing(view) => socket.views_missing.iter().any(|missing| missing == view),
        }
    }
}

/// The other end, which for `ss` is nobody's address and port where there is none.
fn peer(socket: &Socket) -> (Option<IpAddr>, Option<u16>) {
    let nobody = match socket.family {
        Family::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return (socket.remote_address, socket.remote_port),
    };
    (socket.remote_address.or(Some(nobody)), socket.remote_port.or(Some(0)))
}

/// Whether the kernel chose what others find it by, as `ss` has it (`run_ssfilter`, misc/ss.c of iproute2): of a unix socket no name or five
/// hexadecimal digits, of netlink a negative port, of vsock one above 1023, of a packet socket neither protocol nor interface.
fn is_autobound(socket: &Socket) -> bool {
    match socket.family {
        Family::Inet | Family::Inet6 => socket.autobound == Some(true),
        Family::Unix => socket.path.as_deref().is_none_or(|path| {
            let digits = path.strip_prefix('@').filter(|digits| digits.len() == 5);
            digits
                .is_some_and(|digits| digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')))
        }),
        Family::Packet => socket.protocol.as_deref() == Some("0x0000") && socket.interface.is_none(),
        Family::Netlink => socket.netlink.as_ref().is_some_and(|own| own.port.cast_signed() < 0),
        Family::Vsock => socket.vsock_local.as_ref().is_some_and(|own| own.port.cast_signed() > 1023),
        _ => false,
    }
}

fn number<T: FromStr>(key: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is no number that `{key}` can have"))
}

fn address(text: &str, local: bool) -> Result<Test, String> {
    let (network, bits) =
        network(text, None)?.ok_or_else(|| format!("`{text}` is every address, which chooses nothing"))?;
    Ok(Test::Address { local, network, bits })
}

/// Whether the first `bits` bits agree. An IPv4 address in the form of IPv6 is one of IPv4's too.
fn is_inside(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let same = |address: u128, network: u128, width: u32| {
        (address ^ network).checked_shr(width.saturating_sub(bits)).unwrap_or(0) == 0
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            same(u128::from(address.to_bits()), u128::from(network.to_bits()), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => same(address.to_bits(), network.to_bits(), 128),
        (IpAddr::V6(address), IpAddr::V4(_)) => {
            address.to_ipv4_mapped().is_some_and(|address| is_inside(address.into(), network, bits))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        choice: Choice,
    }

    fn socket(change: &str) -> Socket {
        let mut value = serde_json::json!({
            "family": "inet", "protocol_family": 2, "type": "stream", "protocol": "tcp", "state": "established",
            "local_address": "10.0.2.15", "local_port": 443, "remote_address": "192.168.7.9", "remote_port": 50000,
            "path": null, "inode": 4711, "net_namespace": 1, "uid": 33, "processes": [7], "views": [],
            "sock": "0xffff888000000000",
        });
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        for (key, new) in change.as_object().unwrap() {
            value[key] = new.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn shows(words: &[&str], change: &str) -> bool {
        let line = Line::try_parse_from(std::iter::once(&"sockets").chain(words)).unwrap();
        let selection = line.choice.selection().unwrap();
        selection.shows(&socket(change), &BTreeMap::from([(7, "nginx".to_owned())]))
    }

    #[test]
    fn options_for_kinds_add_up_and_none_means_all() {
        assert!(shows(&[], "{}") && shows(&["-t"], "{}") && shows(&["-tu"], "{}") && shows(&["-ut4"], "{}"));
        assert!(
            !shows(&["-u"], "{}") && !shows(&["-t6"], "{}") && !shows(&["-x"], "{}") && !shows(&["-w"], "{}")
        );
        let raw = r#"{"type": "raw"}"#;
        assert!(shows(&["-w"], raw) && !shows(&["-t"], raw), "a raw socket of protocol 6 is no TCP socket");
        let ping = r#"{"type": "dgram", "protocol": "icmp"}"#;
        assert!(shows(&["-w"], ping) && !shows(&["-0"], ping));
        let packet = r#"{"family": "packet", "type": "raw"}"#;
        assert!(shows(&["-0"], packet) && !shows(&["-w"], packet) && shows(&["-anp"], packet));
        // As with `ss`.
        assert!(
            shows(&["-46"], "{}") && shows(&["-4x"], "{}") && shows(&["-tx"], "{}") && !shows(&["-6x"], "{}")
        );
        assert!(shows(&["-l", "-a"], "{}") && !shows(&["-a", "-l"], "{}"));
        assert!(shows(&["-f", "inet"], "{}") && !shows(&["-f", "inet6"], "{}"));
        assert!(shows(&["-A", "tcp"], "{}") && !shows(&["-A", "udp,raw"], "{}"));
        assert!(shows(&["-A", "inet,!udp"], "{}") && !shows(&["-A", "inet,!tcp"], "{}"));
        for (words, wrong) in [
            (["-f", "inet4"], "no family `inet4`"),
            (["-A", "tcp4"], "no table `tcp4`"),
            (["-A", "!tcp"], "no table is left"),
        ] {
            let line = Line::try_parse_from(std::iter::once("sockets").chain(words)).unwrap();
            let error = line.choice.selection().unwrap_err();
            assert!(error.contains(wrong), "{words:?}: {error}");
        }
    }

    #[test]
    fn listening_is_who_waits_for_a_peer() {
        assert!(!shows(&["-l"], "{}"));
        assert!(shows(&["-l"], r#"{"state": "listen"}"#));
        assert!(shows(&["-lun"], r#"{"state": "unconnected", "type": "dgram", "protocol": "udp"}"#));
        assert!(!shows(&["-l"], r#"{"state": "close"}"#));
        // States say more, as with `ss`.
        assert!(shows(&["-l", "state", "established"], "{}") && shows(&["-l", "exclude listening"], "{}"));
        assert!(!shows(&["-l", "state=established"], "{}"));
    }

    #[test]
    fn words_narrow_and_their_values_are_alternatives() {
        for holds in [
            "state=established",
            "state=listen,established",
            "state!=listen",
            "port=443",
            "port=50000",
            "sport=400-500",
            "dport=22,50000",
            "src=10.0.2.15",
            "src=10.0.0.0/8",
            "dst=0.0.0.0/0",
            "dst!=10.0.0.0/8",
            "proto=tcp",
            "pid=7",
            "process=ngin*",
            "uid=33",
            "inode=4711",
            "netns=1",
            "dev!=eth0",
        ] {
            assert!(shows(&[holds], "{}"), "{holds}");
        }
        for fails in
            ["state=listen", "sport=50000", "dport=443", "src=10.1.0.0/16", "pid=8", "process=sshd", "uid=0"]
        {
            assert!(!shows(&[fails], "{}"), "{fails}");
            assert!(!shows(&["state=established", fails], "{}"), "{fails}");
        }
        let mapped = r#"{"family": "inet6", "local_address": "::ffff:10.0.2.15"}"#;
        assert!(shows(&["src=10.0.0.0/8"], mapped) && !shows(&["src=fe80::/10"], mapped));
        let hidden = r#"{"ownership": "nobody", "views_missing": ["file_table"]}"#;
        assert!(
            shows(&["ownership=nobody", "missing=file_table"], hidden)
                && !shows(&["missing=file_table"], "{}")
        );
        let unix = r#"{"family": "unix", "path": "/run/a.sock", "local_port": null, "remote_port": null}"#;
        assert!(shows(&["path=/run/*"], unix) && !shows(&["port=0"], unix) && shows(&["proto=unix"], unix));
    }

    #[test]
    fn a_word_that_means_nothing_is_refused_with_what_is_wrong() {
        for (word, wrong) in [
            ("listen", "no filter `listen`"),
            ("state=up", "no state `up`"),
            ("sport=no-such-service", "`no-such-service` is no number"),
            ("sport=70000", "no number"),
            ("sport=500-400", "ends before it begins"),
            ("src=10.0.0.0/33", "neither an address"),
            ("src=example", "neither an address"),
            ("colour=red", "not chosen by `colour`"),
            ("pid=", "empty"),
            ("ownership=me", "no ownership `me`"),
        ] {
            let error = Expression::parse(&[word.to_owned()], None).unwrap_err();
            assert!(error.contains(wrong), "{word}: {error}");
        }
    }
}
