//! Network interfaces over `NETLINK_ROUTE`: making some, and asking and telling which programs they have.

use crate::bpf::word;
use crate::system;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
/// ``NLM_F_REQUEST | NLM_F_ACK``, and besides ``NLM_F_CREATE | NLM_F_EXCL`` or ``NLM_F_DUMP``.
const ACKNOWLEDGED: u16 = 0x5;
const CREATE: u16 = ACKNOWLEDGED | 0x600;
const DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// ``IFLA_*``, include/uapi/linux/if_link.h.
const NAME: u16 = 3;
const PEER: u16 = 5;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const XDP: u16 = 43;
const XDP_FD: u16 = 1;
const XDP_FLAGS: u16 = 3;
/// ``IFLA_XDP_SKB_PROG_ID`` and ``IFLA_XDP_DRV_PROG_ID`` with the flags that ask for these modes.
const XDP_MODES: [(u16, u32); 2] = [(6, GENERIC), (5, NATIVE)];
const XDP_ANY: u16 = 4;
const XDP_ATTACHED: u16 = 2;
/// ``XDP_FLAGS_SKB_MODE`` and ``XDP_FLAGS_DRV_MODE``.
pub(crate) const GENERIC: u32 = 1 << 1;
pub(crate) const NATIVE: u32 = 1 << 2;
/// ``struct ifinfomsg``.
const HEADER: usize = 16;

/// One interface.
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Index of the other end of a pair.
    pub(crate) peer: Option<u32>,
    /// Mode and id of its XDP programs.
    pub(crate) xdp: Vec<(u32, u32)>,
}

/// All interfaces of the own network namespace.
pub(crate) fn all() -> io::Result<Vec<Interface>> {
    let interface = |message: Vec<u8>| {
        let name = attribute(&message, HEADER, NAME).unwrap_or_default();
        let xdp = attribute(&message, HEADER, XDP).unwrap_or_default();
        let of = |kind| attribute(xdp, 0, kind).map(|value| word(value, 0));
        let mut programs: Vec<(u32, u32)> =
            XDP_MODES.iter().filter_map(|(kind, mode)| Some((*mode, of(*kind)?))).collect();
        // A kernel that has one alone says only that and its mode, in the numbers of ``XDP_ATTACHED_*``.
        if programs.is_empty()
            && let (Some(id), Some(mode)) = (of(XDP_ANY), attribute(xdp, 0, XDP_ATTACHED))
        {
            programs.push((if mode.first() == Some(&2) { GENERIC } else { NATIVE }, id));
        }
        Interface {
            index: word(&message, 4),
            name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
            peer: attribute(&message, HEADER, PEER).map(|value| word(value, 0)),
            xdp: programs,
        }
    };
    Ok(ask(GET_LINK, DUMP, &header(0))?.into_iter().map(interface).collect())
}

/// The interface of this name and kind, made if missing with the other end of a pair.
pub(crate) fn made(name: &str, kind: &str) -> io::Result<Interface> {
    let known = || Ok::<_, io::Error>(all()?.into_iter().find(|interface| interface.name == name));
    if let Some(known) = known()? {
        return Ok(known);
    }
    let mut request = header(0);
    add(&mut request, NAME, format!("{name}\0").as_bytes());
    let mut info = Vec::new();
    add(&mut info, INFO_KIND, kind.as_bytes());
    add(&mut request, INFO, &info);
    ask(NEW_LINK, CREATE, &request)?;
    known()?.ok_or_else(|| io::Error::other(format!("No interface {name} was made")))
}

/// Has the program on the interface, in the mode that the flags say.
pub(crate) fn set_xdp(interface: u32, program: RawFd, flags: u32) -> io::Result<()> {
    let mut request = header(interface);
    let mut xdp = Vec::new();
    add(&mut xdp, XDP_FD, &program.to_ne_bytes());
    add(&mut xdp, XDP_FLAGS, &flags.to_ne_bytes());
    // ``NLA_F_NESTED``
    add(&mut request, XDP | 0x8000, &xdp);
    ask(SET_LINK, ACKNOWLEDGED, &request).map(drop)
}

fn header(index: u32) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

fn add(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The value of the attribute `kind` among those from `at` on.
fn attribute(message: &[u8], at: usize, kind: u16) -> Option<&[u8]> {
    let mut rest = message.get(at..)?;
    while rest.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let value = rest.get(4..len)?;
        if u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff == kind {
            return Some(value);
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// The answers to a request, without their headers.
fn ask(kind: u16, flags: u16, request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = system::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut message = Vec::new();
    message.extend(u32::try_from(HEADER + request.len()).map_err(io::Error::other)?.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(request);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answers = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..count];
        while rest.len() >= HEADER {
            let len = usize::try_from(word(rest, 0)).map_err(io::Error::other)?;
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                DONE => return Ok(answers),
                ERROR => {
                    return match word(rest, HEADER).cast_signed() {
                        0 => Ok(answers),
                        error => Err(io::Error::from_raw_os_error(-error)),
                    };
                }
                _ => {}
            }
            let body = rest.get(HEADER..len).ok_or_else(|| io::Error::other("A cut answer"))?;
            answers.push(body.to_vec());
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
