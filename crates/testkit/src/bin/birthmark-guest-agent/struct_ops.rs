//! Structs of the kernel's whose functions are eBPF programs: registering a congestion control of TCP, and asking which maps stand for
//! which struct with which programs.

use crate::bpf::{self, Attributes, word};
use crate::btf::{self, Types};
use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// ``BPF_MAP_TYPE_STRUCT_OPS``, ``BPF_PROG_TYPE_STRUCT_OPS`` and ``BPF_STRUCT_OPS`` of ``enum bpf_attach_type``.
const MAP: u32 = 26;
const PROGRAM: u32 = 27;
const ATTACH: u32 = 44;
/// ``BPF_F_LINK``: the map is registered by a link.
const BY_LINK: u32 = 1 << 13;
/// ``BPF_STRUCT_OPS_STATE_INUSE``.
const IN_USE: u32 = 1;
/// What a congestion control must have.
const FUNCTIONS: [&str; 3] = ["ssthresh", "undo_cwnd", "cong_avoid"];
const CONGESTION_CONTROL: &str = "tcp_congestion_ops";
/// What the type of a map's value is called more than the struct.
const VALUE: &str = "bpf_struct_ops_";

/// Registers a congestion control that does nothing. Gives back the link, if there is to be one.
pub(crate) fn register(name: &str, link: bool) -> io::Result<Option<OwnedFd>> {
    let types = Types::of_kernel()?;
    let (size, whole) = types.structure(&format!("{VALUE}{CONGESTION_CONTROL}"))?;
    let (_, members) = types.structure(CONGESTION_CONTROL)?;
    let lacks = |name: &str| io::Error::other(format!("{CONGESTION_CONTROL} has no {name}"));
    let data = whole.iter().find(|member| member.name == "data").ok_or_else(|| lacks("data"))?.offset;
    let mut value = vec![0_u8; usize::try_from(size).map_err(io::Error::other)?];
    let place = |of: &str| {
        let found = members.iter().enumerate().find(|(_, member)| member.name == of);
        found.map(|(index, member)| (index, data + member.offset)).ok_or_else(|| lacks(of))
    };
    let (_, at) = place("name")?;
    value[at..at + name.len()].copy_from_slice(name.as_bytes());
    let target = types.id(btf::STRUCT, CONGESTION_CONTROL)?;
    let mut programs = Vec::new();
    for function in FUNCTIONS {
        let (index, at) = place(function)?;
        let index = u32::try_from(index).map_err(io::Error::other)?;
        let program = bpf::load_for(PROGRAM, index, target, function, &[0xb7, 0x95])?;
        value[at..at + 4].copy_from_slice(&program.as_raw_fd().cast_unsigned().to_ne_bytes());
        programs.push(program);
    }
    let own = own_types()?;
    let mut map = Attributes::new()
        .with(0, MAP)
        .with(4, 4)
        .with(8, size)
        .with(12, 1)
        .with(16, if link { BY_LINK } else { 0 })
        .named(28, name)
        .with_fd(48, own.as_raw_fd())
        .with(60, types.id(btf::STRUCT, &format!("{VALUE}{CONGESTION_CONTROL}"))?);
    let map = map.open(bpf::MAP_CREATE)?;
    let key = 0_u32;
    let mut update = Attributes::new()
        .with_fd(0, map.as_raw_fd())
        .pointing(8, &raw const key)
        .pointing(16, value.as_ptr());
    update.call(bpf::MAP_UPDATE_ELEMENT)?;
    if !link {
        return Ok(None);
    }
    Attributes::new().with_fd(0, map.as_raw_fd()).with(8, ATTACH).open(bpf::LINK_CREATE).map(Some)
}

/// Type information of our own, which the kernel wants to see and does not need: one `int` (Documentation/bpf/btf.rst).
fn own_types() -> io::Result<OwnedFd> {
    let mut bytes = Vec::new();
    for word in [0x0001_eb9f, 24, 0, 16, 16, 5, 1, 1 << 24, 4, 1 << 24 | 32] {
        bytes.extend(u32::to_ne_bytes(word));
    }
    bytes.extend(b"\0int\0");
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    Attributes::new().pointing(0, bytes.as_ptr()).with(16, len).open(bpf::BTF_LOAD)
}

/// A map that stands for a struct.
pub(crate) struct Registered {
    /// The struct and the name of the map.
    pub(crate) target: String,
    /// Ids of the programs.
    pub(crate) programs: Vec<u32>,
    /// Whether it is registered by itself.
    pub(crate) in_use: bool,
}

/// The map with this id. `None`: it stands for no struct.
pub(crate) fn registered(id: u32) -> io::Result<Option<Registered>> {
    let map = Attributes::new().with(0, id).open(bpf::MAP_GET_FD_BY_ID)?;
    let mut info = [0; 128];
    bpf::info(&map, &mut info)?;
    if word(&info, 0) != MAP {
        return Ok(None);
    }
    let types = Types::of_kernel()?;
    let whole = types.name(word(&info, 44)).unwrap_or_default();
    let name = whole.strip_prefix(VALUE).ok_or_else(|| io::Error::other(format!("A value {whole}")))?;
    let (_, parts) = types.structure(&whole)?;
    let data = parts.iter().find(|part| part.name == "data").map_or(0, |part| part.offset);
    let key = 0_u32;
    let mut value = vec![0_u8; usize::try_from(word(&info, 12)).map_err(io::Error::other)?];
    let mut lookup = Attributes::new()
        .with_fd(0, map.as_raw_fd())
        .pointing(8, &raw const key)
        .pointing(16, value.as_mut_ptr());
    lookup.call(bpf::MAP_LOOKUP_ELEMENT)?;
    let (_, members) = types.structure(name)?;
    let programs = members.iter().filter(|member| member.is_function);
    let programs = programs.map(|member| word(&value, data + member.offset)).filter(|id| *id != 0).collect();
    let of_map = info[24..40].split(|byte| *byte == 0).next().unwrap_or_default();
    let target = format!("{name}:{}", String::from_utf8_lossy(of_map));
    Ok(Some(Registered { target, programs, in_use: word(&value, 4) == IN_USE }))
}

/// Ids of all maps.
pub(crate) const NEXT: libc::c_int = bpf::MAP_GET_NEXT_ID;
