//! Reads the socket tables of one network namespace, `/proc/PID/net/*`.
//!
//! Columns: `tcp_seq_show` and its like in net/ipv4/tcp_ipv4.c, udp.c, raw.c and net/ipv6, `unix_seq_show` in
//! net/unix/af_unix.c, `packet_seq_show` in net/packet/af_packet.c, `netlink_native_seq_show` in net/netlink/af_netlink.c
//! (Linux 6.1).

use crate::init::{Result, context};
use crate::proc_pid::{self, Owners};
use nix::libc;
use std::fs;
use std::net::IpAddr;
use testkit::truth::{Socket, Table};

const TABLES: [(Table, &str); 15] = [
    (Table::Tcp, "tcp"),
    (Table::Tcp6, "tcp6"),
    (Table::Udp, "udp"),
    (Table::Udp6, "udp6"),
    (Table::Udplite, "udplite"),
    (Table::Udplite6, "udplite6"),
    (Table::Raw, "raw"),
    (Table::Raw6, "raw6"),
    (Table::Unix, "unix"),
    (Table::Packet, "packet"),
    (Table::Netlink, "netlink"),
    (Table::Icmp, "icmp"),
    (Table::Icmp6, "icmp6"),
    (Table::Sctp, "sctp/eps"),
    (Table::Sctp, "sctp/assocs"),
];

/// ``TCP_LISTEN``, include/net/tcp_states.h.
const LISTEN: u8 = 10;
/// `__SO_ACCEPTCON`, include/uapi/linux/net.h: a unix socket that listens.
const ACCEPTING: u32 = 0x0001_0000;

/// Appends the sockets of the namespace that process `pid` is in, and the tables that there are.
pub(crate) fn read(
    pid: u32,
    namespace: u32,
    owners: &Owners,
    sockets: &mut Vec<Socket>,
    tables: &mut Vec<Table>,
) -> Result<()> {
    for (table, name) in TABLES {
        let path = format!("/proc/{pid}/net/{name}");
        // A kernel need not have every table (UDP-Lite is on its way out).
        let Ok(content) = fs::read(&path) else { continue };
        if !tables.contains(&table) {
            tables.push(table);
        }
        for line in String::from_utf8_lossy(&content).lines().skip(1) {
            let socket = parse(table, namespace, line).ok_or_else(|| format!("Not a line of {path}: {line}"));
            let mut socket = context(socket, "Cannot read a table")?;
            proc_pid::own(&mut socket, owners);
            sockets.push(socket);
        }
    }
    Ok(())
}

/// A socket of which only the table is known.
pub(crate) fn blank(table: Table, namespace: u32) -> Socket {
    Socket {
        table,
        net_namespace: namespace,
        socket_type: None,
        protocol: None,
        state_code: None,
        state: None,
        local_address: None,
        local_port: None,
        remote_address: None,
        remote_port: None,
        path: None,
        netlink_port: None,
        netlink_groups: None,
        interface: None,
        inode: None,
        uid: None,
        receive_queue: None,
        send_queue: None,
        peer_inode: None,
        filter_instructions: None,
        netlink_group_numbers: None,
        vsock: None,
        cookie: None,
        shutdown: None,
        mark: None,
        autobound: None,
        processes: Vec::new(),
        descriptors: Vec::new(),
    }
}

fn parse(table: Table, namespace: u32, line: &str) -> Option<Socket> {
    let socket = blank(table, namespace);
    match table {
        Table::Unix => unix(socket, line),
        Table::Packet => packet(socket, line),
        Table::Netlink => netlink(socket, line),
        Table::Sctp => sctp(socket, line),
        _ => ip(socket, line),
    }
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`
fn ip(socket: Socket, line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local_address, local) = address(words.get(1)?)?;
    let (remote_address, remote_port) = address(words.get(2)?)?;
    let code = u8::from_str_radix(words.get(3)?, 16).ok()?;
    let (send, receive) = words.get(4)?.split_once(':')?;
    let queue = |text: &str| u32::from_str_radix(text, 16).ok();
    let raw = matches!(socket.table, Table::Raw | Table::Raw6);
    let tcp = matches!(socket.table, Table::Tcp | Table::Tcp6);
    let kind = match socket.table {
        Table::Tcp | Table::Tcp6 => libc::SOCK_STREAM,
        Table::Raw | Table::Raw6 => libc::SOCK_RAW,
        _ => libc::SOCK_DGRAM,
    };
    Some(Socket {
        socket_type: u16::try_from(kind).ok(),
        // A raw socket has its protocol where the others have their port.
        protocol: raw.then_some(local),
        local_port: Some(if raw { 0 } else { local }),
        local_address: Some(local_address),
        remote_address: Some(remote_address),
        remote_port: Some(remote_port),
        state_code: Some(code),
        state: Some(tcp_state(code, tcp)?.to_owned()),
        // A listener's send queue is its backlog, which is not here.
        send_queue: queue(send).filter(|_| code != LISTEN),
        receive_queue: queue(receive),
        uid: Some(words.get(7)?.parse().ok()?),
        inode: inode(words.get(9)?)?,
        ..socket
    })
}

/// Names of include/net/tcp_states.h. A socket that is not TCP's uses two of them.
pub(crate) fn tcp_state(code: u8, tcp: bool) -> Option<&'static str> {
    Some(match code {
        1 => "established",
        2 => "syn-sent",
        3 => "syn-recv",
        4 => "fin-wait-1",
        5 => "fin-wait-2",
        6 => "time-wait",
        7 if tcp => "close",
        7 => "unconnected",
        8 => "close-wait",
        9 => "last-ack",
        10 => "listen",
        11 => "closing",
        _ => return None,
    })
}

/// `ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS`, net/sctp/proc.c
/// or, of sockets that have associations, `ASSOC SOCK STY SST ST HBKT ASSOC-ID TX_QUEUE RX_QUEUE UID INODE LPORT RPORT LADDRS <-> RADDRS …`.
fn sctp(socket: Socket, line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if let Some(arrow) = words.iter().position(|word| *word == "<->") {
        let code: u8 = words.get(3)?.parse().ok()?;
        // The address that is used is marked.
        let remote = words.get(arrow + 1)?.trim_start_matches('*').parse().ok()?;
        return Some(Socket {
            socket_type: u16::try_from(libc::SOCK_STREAM).ok(),
            state_code: Some(code),
            state: Some(tcp_state(code, true)?.to_owned()),
            local_port: Some(words.get(11)?.parse().ok()?),
            remote_port: Some(words.get(12)?.parse().ok()?),
            remote_address: Some(remote),
            uid: Some(words.get(9)?.parse().ok()?),
            inode: inode(words.get(10)?)?,
            ..socket
        });
    }
    let code: u8 = words.get(3)?.parse().ok()?;
    Some(Socket {
        socket_type: u16::try_from(libc::SOCK_STREAM).ok(),
        state_code: Some(code),
        state: Some(tcp_state(code, true)?.to_owned()),
        local_port: Some(words.get(5)?.parse().ok()?),
        uid: Some(words.get(6)?.parse().ok()?),
        inode: inode(words.get(7)?)?,
        ..socket
    })
}

/// 0 stands for none. `None` only for what is no number.
fn inode(word: &str) -> Option<Option<u64>> {
    let inode: u64 = word.parse().ok()?;
    Some((inode != 0).then_some(inode))
}

/// `0100007F:1F90`: each 32-bit word of the address as the CPU reads it from network order, then the port as a number.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip((0..32).step_by(8)) {
                part.copy_from_slice(&word(at)?);
            }
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

/// `Num: RefCount Protocol Flags Type St Inode Path`; the path may have spaces or be missing.
fn unix(socket: Socket, line: &str) -> Option<Socket> {
    let mut rest = line;
    let mut words = [""; 7];
    for word in &mut words {
        (*word, rest) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
    }
    let code: u8 = u8::from_str_radix(words[5], 16).ok()?;
    let accepting = u32::from_str_radix(words[3], 16).ok()? & ACCEPTING != 0;
    let state = match code {
        _ if accepting => "listen",
        // SS_CONNECTED; the rest of enum socket_state (include/uapi/linux/net.h) has no peer, or not yet.
        3 => "established",
        _ => "unconnected",
    };
    Some(Socket {
        socket_type: Some(u16::from_str_radix(words[4], 16).ok()?),
        state_code: Some(code),
        state: Some(state.to_owned()),
        inode: inode(words[6])?,
        path: (!rest.is_empty()).then(|| rest.to_owned()),
        ..socket
    })
}

/// `sk RefCnt Type Proto Iface R Rmem User Inode`
fn packet(socket: Socket, line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(Socket {
        socket_type: Some(words.get(2)?.parse().ok()?),
        protocol: Some(u16::from_str_radix(words.get(3)?, 16).ok()?),
        interface: Some(words.get(4)?.parse().ok()?),
        receive_queue: Some(words.get(6)?.parse().ok()?),
        uid: Some(words.get(7)?.parse().ok()?),
        inode: inode(words.get(8)?)?,
        ..socket
    })
}

/// `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`
fn netlink(socket: Socket, line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(Socket {
        protocol: Some(words.get(1)?.parse().ok()?),
        netlink_port: Some(words.get(2)?.parse().ok()?),
        netlink_groups: Some(u32::from_str_radix(words.get(3)?, 16).ok()?),
        receive_queue: Some(words.get(4)?.parse().ok()?),
        send_queue: Some(words.get(5)?.parse().ok()?),
        inode: inode(words.get(9)?)?,
        ..socket
    })
}

#[cfg(test)]
mod tests {
    use super::parse;
    use testkit::truth::{Socket, Table};

    fn read(table: Table, line: &str) -> Socket {
        parse(table, 1, line).unwrap()
    }

    #[test]
    fn a_tcp_line_gives_addresses_in_the_usual_order() {
        let line = "   0: 0100007F:1F90 0200000A:0016 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 20";
        let socket = read(Table::Tcp, line);
        assert_eq!(socket.local_address.unwrap().to_string(), "127.0.0.1");
        assert_eq!(socket.remote_address.unwrap().to_string(), "10.0.0.2");
        assert_eq!((socket.local_port, socket.remote_port), (Some(8080), Some(22)));
        assert_eq!(
            (socket.uid, socket.inode, socket.state.as_deref()),
            (Some(1000), Some(4711), Some("established"))
        );
    }

    #[test]
    fn an_ipv6_address_is_put_together_from_its_four_words() {
        let local = "B80D0120000000000000000001000000";
        let line = format!(" 1: {local}:0035 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 0 2 0");
        let socket = read(Table::Udp6, &line);
        assert_eq!(socket.local_address.unwrap().to_string(), "2001:db8::1");
        assert_eq!((socket.state.as_deref(), socket.inode), (Some("unconnected"), None));
    }

    #[test]
    fn a_raw_socket_shows_its_protocol_where_others_have_a_port() {
        let socket = read(Table::Raw, " 1: 00000000:0001 00000000:0000 07 0:0 0:0 0 0 0 77 2 0 0");
        assert_eq!((socket.protocol, socket.local_port), (Some(1), Some(0)));
    }

    #[test]
    fn a_unix_path_may_have_spaces_or_be_missing() {
        let socket = read(Table::Unix, "0000000000000000: 00000002 00000000 00010000 0001 01 15042 /run/a b");
        assert_eq!((socket.path.as_deref(), socket.state.as_deref()), (Some("/run/a b"), Some("listen")));
        let socket = read(Table::Unix, "0000000000000000: 00000003 00000000 00000000 0005 03 15043");
        assert_eq!((socket.path, socket.socket_type, socket.inode), (None, Some(5), Some(15043)));
    }

    #[test]
    fn packet_and_netlink_lines_are_read() {
        let socket = read(Table::Packet, "0000000000000000 3      3    0003   0     1 0      0      88");
        assert_eq!((socket.protocol, socket.interface, socket.inode), (Some(3), Some(0), Some(88)));
        let socket = read(Table::Netlink, "0000000000000000 15  4242       00000001 0 0 0 2 0 99");
        assert_eq!(
            (socket.protocol, socket.netlink_port, socket.netlink_groups),
            (Some(15), Some(4242), Some(1))
        );
    }

    #[test]
    fn a_line_that_is_cut_off_is_refused() {
        for table in [Table::Tcp, Table::Unix, Table::Packet, Table::Netlink] {
            assert!(parse(table, 1, "0: 0100007F:1F90").is_none(), "{table:?}");
        }
    }
}
