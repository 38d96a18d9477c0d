//! The system call `bpf`: loading, attaching, and asking. Offsets and numbers are those of include/uapi/linux/bpf.h.

use crate::system;
use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Longest name of a program (``BPF_OBJ_NAME_LEN`` without its end).
const NAME: usize = 15;
/// ``enum bpf_cmd``.
pub(crate) const MAP_CREATE: libc::c_int = 0;
pub(crate) const MAP_LOOKUP_ELEMENT: libc::c_int = 1;
pub(crate) const MAP_UPDATE_ELEMENT: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
pub(crate) const OBJ_PIN: libc::c_int = 6;
pub(crate) const OBJ_GET: libc::c_int = 7;
pub(crate) const PROG_ATTACH: libc::c_int = 8;
pub(crate) const PROG_GET_NEXT_ID: libc::c_int = 11;
pub(crate) const MAP_GET_NEXT_ID: libc::c_int = 12;
pub(crate) const PROG_GET_FD_BY_ID: libc::c_int = 13;
pub(crate) const MAP_GET_FD_BY_ID: libc::c_int = 14;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
pub(crate) const PROG_QUERY: libc::c_int = 16;
pub(crate) const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
pub(crate) const BTF_LOAD: libc::c_int = 18;
pub(crate) const TASK_FD_QUERY: libc::c_int = 20;
pub(crate) const LINK_CREATE: libc::c_int = 28;
pub(crate) const LINK_GET_FD_BY_ID: libc::c_int = 30;
pub(crate) const LINK_GET_NEXT_ID: libc::c_int = 31;

/// ``union bpf_attr``, of which the kernel takes what it knows as long as the rest is zero.
#[derive(Clone, Copy)]
pub(crate) struct Attributes([u8; 144]);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self([0; 144])
    }

    pub(crate) fn with(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    pub(crate) fn with_fd(self, offset: usize, descriptor: RawFd) -> Self {
        self.with(offset, descriptor.cast_unsigned())
    }

    /// A pointer to what must live through the calls that use it.
    pub(crate) fn pointing<T>(mut self, offset: usize, to: *const T) -> Self {
        let address = to.expose_provenance() as u64;
        self.0[offset..offset + 8].copy_from_slice(&address.to_ne_bytes());
        self
    }

    /// A name, as far as there is room for it.
    pub(crate) fn named(mut self, offset: usize, name: &str) -> Self {
        let name = name.get(..NAME).unwrap_or(name);
        self.0[offset..offset + name.len()].copy_from_slice(name.as_bytes());
        self
    }

    pub(crate) fn word(&self, offset: usize) -> u32 {
        word(&self.0, offset)
    }

    /// Makes the call. What is pointed at must be of the size that `command` prescribes or that stands beside the pointer.
    pub(crate) fn call(&mut self, command: libc::c_int) -> io::Result<libc::c_long> {
        // SAFETY: the kernel reads and writes the attributes, of the length given, and what they point at, which is the
        // caller's to keep as it says.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    /// A call whose result is a descriptor.
    pub(crate) fn open(&mut self, command: libc::c_int) -> io::Result<OwnedFd> {
        self.call(command).and_then(system::owned)
    }
}

/// Four bytes of an answer.
pub(crate) fn word(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Loads a program; the instructions are as in memory.
pub(crate) fn load(kind: u32, attach_type: u32, name: &str, program: &[u64]) -> io::Result<OwnedFd> {
    load_for(kind, attach_type, 0, name, program)
}

/// The same for what the type `target` of the kernel stands for.
pub(crate) fn load_for(
    kind: u32,
    attach_type: u32,
    target: u32,
    name: &str,
    program: &[u64],
) -> io::Result<OwnedFd> {
    let count = u32::try_from(program.len()).map_err(io::Error::other)?;
    Attributes::new()
        .with(0, kind)
        .with(4, count)
        .pointing(8, program.as_ptr())
        .pointing(16, c"GPL".as_ptr())
        .with(68, attach_type)
        .with(108, target)
        .named(48, name)
        .open(PROG_LOAD)
}

/// Loads the program `return 0` as a socket filter.
pub(crate) fn socket_filter() -> io::Result<OwnedFd> {
    load(1, 0, "", &[0xb7, 0x95])
}

/// ``struct bpf_prog_info`` or ``struct bpf_link_info`` of a descriptor, `info` with what the kernel is to be told in it.
pub(crate) fn info(descriptor: &impl AsRawFd, info: &mut [u8]) -> io::Result<()> {
    let length = u32::try_from(info.len()).map_err(io::Error::other)?;
    let mut attributes =
        Attributes::new().with_fd(0, descriptor.as_raw_fd()).with(4, length).pointing(8, info.as_mut_ptr());
    attributes.call(OBJ_GET_INFO_BY_FD).map(drop)
}
