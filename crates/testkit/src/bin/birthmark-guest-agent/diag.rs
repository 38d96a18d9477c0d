//! Asks the kernel what `ss` asks it, over `NETLINK_SOCK_DIAG`: what the files in `/proc/net` lack (backlogs, queues and peers
//! of unix sockets, filters, groups above 32), and the sockets that have no file there.
//!
//! Only where the module that answers is loaded already: asking for one that is not would start a loader. Structures: the
//! headers `include/uapi/linux/{sock_diag,inet_diag,unix_diag,packet_diag,netlink_diag,vm_sockets_diag,xdp_diag}.h`, 6.1.

use crate::init::{Result, context};
use crate::proc_net::{blank, tcp_state};
use crate::proc_pid::{self, Owners};
use crate::system;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use testkit::truth::{Socket, Table};

/// ``SOCK_DIAG_BY_FAMILY``
const BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// ``INET_DIAG_REQ_PROTOCOL``, for a protocol that does not fit a byte.
const REQUEST_PROTOCOL: u16 = 3;
const IPPROTO_MPTCP: u32 = 262;
/// ``INET_DIAG_REQ_BYTECODE``
const REQUEST_FILTER: u16 = 1;
/// ``INET_DIAG_BC_AUTO``, as a whole filter: yes goes on behind it, where nothing is, and no further than that.
const CHOSEN_BY_KERNEL: [u8; 4] = [6, 4, 8, 0];
/// ``INET_DIAG_MARK``
const MARK: u16 = 15;

/// Completes the sockets from `first` on with what the namespace of process `pid` says, and appends what it has besides.
pub(crate) fn extend(
    pid: u32,
    namespace: u32,
    owners: &Owners,
    sockets: &mut Vec<Socket>,
    first: usize,
    tables: &mut Vec<Table>,
) -> Result<()> {
    let home = context(File::open("/proc/self/ns/net"), "Cannot open the own network namespace")?;
    let there = context(File::open(format!("/proc/{pid}/ns/net")), "Cannot open a network namespace")?;
    context(system::enter(&there), "Cannot enter a network namespace")?;
    let asked = ask_all(namespace, owners, sockets, first, tables);
    context(system::enter(&home), "Cannot return to the own network namespace")?;
    asked
}

fn ask_all(
    namespace: u32,
    owners: &Owners,
    sockets: &mut Vec<Socket>,
    first: usize,
    tables: &mut Vec<Table>,
) -> Result<()> {
    let mut new = Vec::new();
    let mut known = |table: Table| {
        if !tables.contains(&table) {
            tables.push(table);
        }
    };
    let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, socket) in sockets.iter().enumerate().skip(first) {
        if let Some(inode) = socket.inode.filter(|inode| *inode != 0) {
            places.entry(inode).or_default().push(at);
        }
    }
    let of_inode = |sockets: &mut Vec<Socket>, inode: u32, change: &dyn Fn(&mut Socket)| {
        for at in places.get(&u64::from(inode)).into_iter().flatten() {
            if let Some(socket) = sockets.get_mut(*at) {
                change(socket);
            }
        }
    };
    let given = ports_given()?;
    for (module, protocol) in [("tcp_diag", 6_u32), ("udp_diag", 17), ("udp_diag", 136), ("raw_diag", 255)] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut filter = inet_request(family, protocol);
            filter.extend(8_u16.to_ne_bytes());
            filter.extend(REQUEST_FILTER.to_ne_bytes());
            filter.extend(CHOSEN_BY_KERNEL);
            let auto: HashSet<u32> =
                ask(module, &filter)?.iter().filter_map(|message| word(message, 68)).collect();
            for message in ask(module, &inet_request(family, protocol))? {
                let (Some(state), Some(interface)) = (byte(&message, 1), word(&message, 40)) else {
                    continue;
                };
                let (Some(backlog), Some(inode)) = (word(&message, 60), word(&message, 68)) else { continue };
                let (cookie, shutdown) = (cookie(&message, 44), shutdown(&message, 72, 8));
                let mark = attribute(&message, 72, MARK).and_then(|mark| word(mark, 0));
                of_inode(sockets, inode, &|socket| {
                    (socket.cookie, socket.shutdown, socket.mark) = (cookie, shutdown, mark);
                    let given = socket.local_port.is_some_and(|port| given.contains(&port));
                    socket.autobound = Some(auto.contains(&inode) && given);
                    socket.interface = Some(interface);
                    if protocol == 6 && state == 10 {
                        socket.send_queue = Some(backlog);
                    }
                });
            }
        }
    }
    if loaded("mptcp_diag") {
        known(Table::Mptcp);
        for family in [libc::AF_INET, libc::AF_INET6] {
            for message in ask("mptcp_diag", &inet_request(family, IPPROTO_MPTCP))? {
                new.extend(mptcp(&message, namespace));
            }
        }
    }
    for message in ask("unix_diag", &unix_request())? {
        let Some(inode) = word(&message, 4) else { continue };
        let peer = attribute(&message, 16, 2).and_then(|peer| word(peer, 0));
        let queues = attribute(&message, 16, 4).and_then(|queues| Some((word(queues, 0)?, word(queues, 4)?)));
        let (cookie, shutdown) = (cookie(&message, 8), shutdown(&message, 16, 6));
        of_inode(sockets, inode, &|socket| {
            (socket.cookie, socket.shutdown) = (cookie, shutdown);
            socket.peer_inode = peer.filter(|peer| *peer != 0).map(u64::from);
            (socket.receive_queue, socket.send_queue) = (queues.map(|q| q.0), queues.map(|q| q.1));
        });
    }
    for message in ask("af_packet_diag", &short_request(libc::AF_PACKET, 0, 1 | 16 | 32))? {
        let Some(inode) = word(&message, 4) else { continue };
        let sent = attribute(&message, 16, 6).and_then(|memory| word(memory, 8));
        // Eight bytes an instruction (``struct sock_filter``).
        let filter = attribute(&message, 16, 7).and_then(|filter| u32::try_from(filter.len() / 8).ok());
        let cookie = cookie(&message, 8);
        of_inode(sockets, inode, &|socket| {
            socket.cookie = cookie;
            socket.send_queue = sent;
            socket.filter_instructions = filter.filter(|count| *count > 0);
        });
    }
    for message in ask("netlink_diag", &short_request(libc::AF_NETLINK, 0xff, 2))? {
        let Some(inode) = word(&message, 16) else { continue };
        let groups = attribute(&message, 28, 1).unwrap_or_default();
        let bits = groups.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        let numbers: Vec<u32> = (1..).zip(bits).filter(|(_, set)| *set).map(|(group, _)| group).collect();
        let cookie = cookie(&message, 20);
        of_inode(sockets, inode, &|socket| {
            socket.cookie = cookie;
            socket.netlink_group_numbers = Some(numbers.clone());
        });
    }
    if loaded("vsock_diag") {
        known(Table::Vsock);
        for message in ask("vsock_diag", &vsock_request())? {
            new.extend(vsock(&message, namespace));
        }
    }
    if loaded("xsk_diag") {
        known(Table::Xdp);
        for message in ask("xsk_diag", &short_request(libc::AF_XDP, 0, 0))? {
            let inode = word(&message, 4).map(u64::from).filter(|inode| *inode != 0);
            let cookie = cookie(&message, 8);
            new.push(Socket { inode, cookie, socket_type: Some(3), ..blank(Table::Xdp, namespace) });
        }
    }
    for socket in &mut new {
        proc_pid::own(socket, owners);
    }
    sockets.append(&mut new);
    Ok(())
}

fn mptcp(message: &[u8], namespace: u32) -> Option<Socket> {
    let code = byte(message, 1)?;
    let v6 = i32::from(byte(message, 0)?) == libc::AF_INET6;
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| {
        Some(if v6 {
            std::net::IpAddr::from(<[u8; 16]>::try_from(message.get(at..at + 16)?).ok()?)
        } else {
            std::net::IpAddr::from(<[u8; 4]>::try_from(message.get(at..at + 4)?).ok()?)
        })
    };
    Some(Socket {
        socket_type: u16::try_from(libc::SOCK_STREAM).ok(),
        state_code: Some(code),
        state: Some(tcp_state(code, true)?.to_owned()),
        local_port: port(4),
        remote_port: port(6),
        local_address: address(8),
        remote_address: address(24),
        uid: word(message, 64),
        inode: word(message, 68).map(u64::from).filter(|inode| *inode != 0),
        cookie: cookie(message, 44),
        shutdown: shutdown(message, 72, 8),
        mark: attribute(message, 72, MARK).and_then(|mark| word(mark, 0)),
        ..blank(Table::Mptcp, namespace)
    })
}

fn vsock(message: &[u8], namespace: u32) -> Option<Socket> {
    let code = byte(message, 2)?;
    let state = match code {
        1 => "established",
        10 => "listen",
        _ => "unconnected",
    };
    Some(Socket {
        socket_type: byte(message, 1).map(u16::from),
        state_code: Some(code),
        state: Some(state.to_owned()),
        vsock: Some([word(message, 4)?, word(message, 8)?, word(message, 12)?, word(message, 16)?]),
        inode: word(message, 20).map(u64::from).filter(|inode| *inode != 0),
        cookie: cookie(message, 24),
        shutdown: byte(message, 3),
        ..blank(Table::Vsock, namespace)
    })
}

/// The ports that the network namespace gives to who asks for none.
fn ports_given() -> Result<std::ops::RangeInclusive<u16>> {
    let file = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = context(fs::read_to_string(file), file)?;
    let mut ports = text.split_whitespace().map_while(|port| port.parse().ok());
    match (ports.next(), ports.next()) {
        (Some(first), Some(last)) => Ok(first..=last),
        _ => Err(format!("{file}: {text}")),
    }
}

fn loaded(module: &str) -> bool {
    fs::exists(format!("/sys/module/{module}")).unwrap_or(false)
}

/// ``struct inet_diag_req_v2``: all states.
fn inet_request(family: libc::c_int, protocol: u32) -> Vec<u8> {
    let mut request = vec![low(family), u8::try_from(protocol).unwrap_or(0), 0, 0];
    request.extend(u32::MAX.to_ne_bytes());
    request.extend([0; 48]);
    if protocol > u32::from(u8::MAX) {
        request.extend(8_u16.to_ne_bytes());
        request.extend(REQUEST_PROTOCOL.to_ne_bytes());
        request.extend(protocol.to_ne_bytes());
    }
    request
}

/// ``struct unix_diag_req``: all states; peers and queues.
fn unix_request() -> Vec<u8> {
    let mut request = vec![low(libc::AF_UNIX), 0, 0, 0];
    for field in [u32::MAX, 0, 4 | 16, 0, 0] {
        request.extend(field.to_ne_bytes());
    }
    request
}

/// ``struct vsock_diag_req``: all states.
fn vsock_request() -> Vec<u8> {
    let mut request = vec![low(libc::AF_VSOCK), 0, 0, 0];
    for field in [u32::MAX, 0, 0, 0, 0] {
        request.extend(field.to_ne_bytes());
    }
    request
}

/// ``struct packet_diag_req``, ``netlink_diag_req`` and ``xdp_diag_req``, which look the same.
fn short_request(family: libc::c_int, protocol: u8, show: u32) -> Vec<u8> {
    let mut request = vec![low(family), protocol, 0, 0];
    for field in [0, show, 0, 0] {
        request.extend(field.to_ne_bytes());
    }
    request
}

fn low(family: libc::c_int) -> u8 {
    u8::try_from(family).unwrap_or(0)
}

/// All answers to a request, without their headers. Empty where `module` is not loaded.
fn ask(module: &str, request: &[u8]) -> Result<Vec<Vec<u8>>> {
    if !loaded(module) {
        return Ok(Vec::new());
    }
    let socket = system::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG);
    let socket = context(socket, "Cannot open a socket for sock_diag")?;
    let mut message = Vec::new();
    let len = context(u32::try_from(16 + request.len()), "A request without end")?;
    message.extend(len.to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST_DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(request);
    context(send(socket.as_raw_fd(), &message, MsgFlags::empty()), "Cannot ask sock_diag")?;
    let mut answers = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = context(recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()), "sock_diag")?;
        let mut rest = &buffer[..count];
        while let (Some(len), Some(kind)) = (word(rest, 0), half(rest, 4)) {
            let len = usize::try_from(len).unwrap_or(0);
            match kind {
                DONE => return Ok(answers),
                ERROR => return Err(format!("{module} refuses: {:?}", word(rest, 16).map(u32::cast_signed))),
                _ => {}
            }
            let Some(body) = rest.get(16..len) else { return Err(format!("{module}: a cut answer")) };
            answers.push(body.to_vec());
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Two words, the lower one first (sock_diag_save_cookie()).
fn cookie(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(word(bytes, at + 4)?) << 32 | u64::from(word(bytes, at)?))
}

/// ``sk_shutdown``, an attribute of its own.
fn shutdown(message: &[u8], at: usize, kind: u16) -> Option<u8> {
    byte(attribute(message, at, kind)?, 0)
}

/// The value of the attribute `kind` among those from `at` on.
fn attribute(message: &[u8], at: usize, kind: u16) -> Option<&[u8]> {
    let mut rest = message.get(at..)?;
    while let (Some(len), Some(found)) = (half(rest, 0), half(rest, 2)) {
        let len = usize::from(len);
        if found == kind {
            return rest.get(4..len);
        }
        rest = rest.get(len.next_multiple_of(4).max(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{attribute, inet_request, unix_request};

    #[test]
    fn requests_have_the_size_of_their_structures() {
        assert_eq!(
            (inet_request(2, 6).len(), inet_request(2, 262).len(), unix_request().len()),
            (56, 64, 24)
        );
    }

    #[test]
    fn an_attribute_is_found_behind_others_of_odd_length() {
        let message = [9, 9, 9, 9, 5, 0, 1, 0, 7, 0, 0, 0, 8, 0, 2, 0, 1, 2, 3, 4];
        assert_eq!(attribute(&message, 4, 2), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&message, 4, 3), None);
        assert_eq!(attribute(&[0; 8], 0, 3), None);
    }
}
