//! The one program that is given to the host kernel: it copies some bytes of kernel memory out, on behalf of one descriptor.
//!
//! It is an iterator over descriptors (`iter/task_file`, Linux 5.8), so it is attached to nothing: it runs when its file is read, and
//! for no other reason. Of all descriptors it acts on the one that it is asked about, and copies either the word that the
//! descriptor's file belongs to (``struct file.private_data``) or bytes at an address. What is at which address is decided on this
//! side (`walk`), so the program has no loop, and every verifier since 5.8 can see through it.
//!
//! It is assembled here, with the offsets of the running kernel in it, so that neither a compiler nor a library is needed. The kernel
//! lets only programs copy its memory that say they are free to be used with it; this one may be used under the MIT licence or the
//! GPL.

use super::SlotsUnusable;
use super::types::{Named, Types};
use nix::libc;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Most bytes of one copy.
pub(super) const LONGEST: usize = 1024;

const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";

/// What the program must know of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Number of the type of ``bpf_iter_task_file()``.
    pub(super) iterator: u32,
    /// ``struct bpf_iter__task_file``.
    pub(super) meta: u64,
    pub(super) task: u64,
    pub(super) fd: u64,
    pub(super) file: u64,
    /// ``struct bpf_iter_meta``.
    pub(super) seq: u64,
    /// ``struct task_struct``.
    pub(super) tgid: u64,
    /// ``struct file``.
    pub(super) private_data: u64,
}

impl Places {
    const CONTEXT: Named = Named::Record("bpf_iter__task_file");
    const META: Named = Named::Record("bpf_iter_meta");
    const TASK: Named = Named::Record("task_struct");
    const FILE: Named = Named::Record("file");
    const ITERATOR: Named = Named::Function("bpf_iter_task_file");
    /// What to look for in the types.
    pub(super) const TYPES: [Named; 5] = [Self::CONTEXT, Self::META, Self::TASK, Self::FILE, Self::ITERATOR];

    /// `None`: the types have not all that is needed.
    pub(super) fn of(types: &Types<'_>) -> Option<Self> {
        let offset = |of: Named, member: &str| Some(types.member(types.find(of)?, member)?.offset);
        Some(Self {
            iterator: types.find(Self::ITERATOR)?.number(),
            meta: offset(Self::CONTEXT, "meta")?,
            task: offset(Self::CONTEXT, "task")?,
            fd: offset(Self::CONTEXT, "fd")?,
            file: offset(Self::CONTEXT, "file")?,
            seq: offset(Self::META, "seq")?,
            tgid: offset(Self::TASK, "tgid")?,
            private_data: offset(Self::FILE, "private_data")?,
        })
    }
}

/// What is asked, as the program finds it: process, descriptor, address (0: the word of the descriptor's file), bytes, room for them.
const PROCESS: i16 = 0;
const DESCRIPTOR: i16 = 4;
const ADDRESS: i16 = 8;
const BYTES: i16 = 16;
const ROOM: i16 = 24;
const REQUEST: usize = 24 + LONGEST;

/// Instructions, in the words of Documentation/bpf/standardization/instruction-set.rst.
mod code {
    pub(super) const LOAD_64: u8 = 0x79;
    pub(super) const LOAD_32: u8 = 0x61;
    pub(super) const LOAD_CONSTANT: u8 = 0x18;
    pub(super) const MOVE: u8 = 0xbf;
    pub(super) const MOVE_CONSTANT: u8 = 0xb7;
    pub(super) const ADD_CONSTANT: u8 = 0x07;
    pub(super) const IF_EQUAL_CONSTANT: u8 = 0x15;
    pub(super) const IF_NOT_EQUAL_CONSTANT: u8 = 0x55;
    pub(super) const IF_NOT_EQUAL: u8 = 0x5d;
    pub(super) const IF_ABOVE_CONSTANT: u8 = 0x25;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
    /// Source register of a constant that is the value of a map.
    pub(super) const MAP_VALUE: u8 = 2;
    /// ``bpf_probe_read_kernel()``: reads what may not be there.
    pub(super) const PROBE_READ_KERNEL: i32 = 113;
    /// ``bpf_seq_write()``.
    pub(super) const SEQ_WRITE: i32 = 127;
}

/// One instruction. A jump's offset is written when it is known ([`Assembly::end`]).
fn instruction(operation: u8, to: u8, from: u8, offset: i16, constant: i32) -> u64 {
    let [o0, o1] = offset.to_le_bytes();
    let [c0, c1, c2, c3] = constant.to_le_bytes();
    u64::from_le_bytes([operation, from << 4 | to, o0, o1, c0, c1, c2, c3])
}

/// A program whose jumps all lead to its end.
struct Assembly {
    words: Vec<u64>,
    jumps: Vec<usize>,
}

impl Assembly {
    fn put(&mut self, operation: u8, to: u8, from: u8, offset: i16, constant: i32) {
        self.words.push(instruction(operation, to, from, offset, constant));
    }

    fn end_if(&mut self, operation: u8, to: u8, from: u8, constant: i32) {
        self.jumps.push(self.words.len());
        self.put(operation, to, from, 0, constant);
    }

    /// Ends the program with `return 0`.
    fn end(mut self) -> Option<Vec<u64>> {
        let end = self.words.len();
        for jump in self.jumps {
            let offset = i16::try_from(end.checked_sub(jump)?.checked_sub(1)?).ok()?;
            *self.words.get_mut(jump)? |= u64::from(offset.cast_unsigned()) << 16;
        }
        self.words.push(instruction(code::MOVE_CONSTANT, 0, 0, 0, 0));
        self.words.push(instruction(code::EXIT, 0, 0, 0, 0));
        Some(self.words)
    }
}

/// The program, with `map` as the descriptor of the request. `None`: an offset is too large for an instruction.
fn assemble(places: &Places, map: i32) -> Option<Vec<u64>> {
    let offset = |place: u64| i16::try_from(place).ok();
    let mut program = Assembly { words: Vec::new(), jumps: Vec::new() };
    let p = &mut program;
    // r6: the context, r7: the task, r8: the file, r9: the request.
    p.put(code::MOVE, 6, 1, 0, 0);
    p.put(code::LOAD_64, 7, 6, offset(places.task)?, 0);
    p.end_if(code::IF_EQUAL_CONSTANT, 7, 0, 0);
    p.put(code::LOAD_64, 8, 6, offset(places.file)?, 0);
    p.end_if(code::IF_EQUAL_CONSTANT, 8, 0, 0);
    p.put(code::LOAD_CONSTANT, 9, code::MAP_VALUE, 0, map);
    p.put(0, 0, 0, 0, 0);
    // Is it the process and the descriptor that are asked about?
    p.put(code::LOAD_32, 1, 7, offset(places.tgid)?, 0);
    p.put(code::LOAD_32, 2, 9, PROCESS, 0);
    p.end_if(code::IF_NOT_EQUAL, 1, 2, 0);
    p.put(code::LOAD_32, 1, 6, offset(places.fd)?, 0);
    p.put(code::LOAD_32, 2, 9, DESCRIPTOR, 0);
    p.end_if(code::IF_NOT_EQUAL, 1, 2, 0);
    // r7 from here on: how many bytes.
    p.put(code::LOAD_32, 7, 9, BYTES, 0);
    p.end_if(code::IF_ABOVE_CONSTANT, 7, 0, i32::try_from(LONGEST).ok()?);
    // r3: from where; without an address, the word in the file.
    p.put(code::LOAD_64, 3, 9, ADDRESS, 0);
    p.put(code::IF_NOT_EQUAL_CONSTANT, 3, 0, 2, 0);
    p.put(code::MOVE, 3, 8, 0, 0);
    p.put(code::ADD_CONSTANT, 3, 0, 0, i32::from(offset(places.private_data)?));
    p.put(code::MOVE, 1, 9, 0, 0);
    p.put(code::ADD_CONSTANT, 1, 0, 0, i32::from(ROOM));
    p.put(code::MOVE, 2, 7, 0, 0);
    p.put(code::CALL, 0, 0, 0, code::PROBE_READ_KERNEL);
    p.end_if(code::IF_NOT_EQUAL_CONSTANT, 0, 0, 0);
    p.put(code::LOAD_64, 1, 6, offset(places.meta)?, 0);
    p.put(code::LOAD_64, 1, 1, offset(places.seq)?, 0);
    p.put(code::MOVE, 2, 9, 0, 0);
    p.put(code::ADD_CONSTANT, 2, 0, 0, i32::from(ROOM));
    p.put(code::MOVE, 3, 7, 0, 0);
    p.put(code::CALL, 0, 0, 0, code::SEQ_WRITE);
    program.end()
}

/// The program, loaded, for one descriptor of one process. Nothing of it is left in the kernel when this is dropped.
#[derive(Debug)]
pub(super) struct Program {
    link: OwnedFd,
    map: OwnedFd,
    process: u32,
    descriptor: u32,
}

impl Program {
    /// Loads it. `process` as the kernel numbers it, so in the first pid namespace.
    pub(super) fn load(places: &Places, process: u32, descriptor: u32) -> Result<Self, SlotsUnusable> {
        let refused = |step| move |source| SlotsUnusable::Refused { step, source };
        let value = u32::try_from(REQUEST).unwrap_or(u32::MAX);
        let map = Attributes::new()
            .with(0, call::MAP_TYPE_ARRAY)
            .with(4, 4)
            .with(8, value)
            .with(12, 1)
            .open(call::MAP_CREATE)
            .map_err(refused("making room for the answers"))?;
        let words = assemble(places, map.as_raw_fd()).ok_or(SlotsUnusable::Types)?;
        let program = load(places, &words).map_err(refused("loading the program"))?;
        let link = iterate(&program, process).map_err(refused("making an iterator of the program"))?;
        Ok(Self { link, map, process, descriptor })
    }

    /// The word that the descriptor's file belongs to: of a VM's descriptor, the address of its ``struct kvm``.
    pub(super) fn object(&self) -> Result<u64, SlotsUnusable> {
        let mut word = [0; 8];
        self.copy(0, &mut word)?;
        Ok(u64::from_ne_bytes(word))
    }

    /// Copies kernel memory. Fails where there is none, and when the process or the descriptor is gone.
    pub(super) fn read(&self, address: u64, out: &mut [u8]) -> Result<(), SlotsUnusable> {
        if address == 0 {
            return Err(SlotsUnusable::Gone);
        }
        self.copy(address, out)
    }

    fn copy(&self, address: u64, out: &mut [u8]) -> Result<(), SlotsUnusable> {
        let refused = |source| SlotsUnusable::Refused { step: "asking the program", source };
        let bytes =
            u32::try_from(out.len()).ok().filter(|_| out.len() <= LONGEST).ok_or(SlotsUnusable::Gone)?;
        let mut request = [0_u8; REQUEST];
        let head = [
            self.process.to_ne_bytes(),
            self.descriptor.to_ne_bytes(),
            [0; 4],
            [0; 4],
            bytes.to_ne_bytes(),
            [0; 4],
        ];
        for (place, part) in request.chunks_exact_mut(4).zip(head) {
            place.copy_from_slice(&part);
        }
        for (place, byte) in request.iter_mut().skip(8).zip(address.to_ne_bytes()) {
            *place = byte;
        }
        let key = 0_u32;
        Attributes::new()
            .with_descriptor(0, &self.map)
            .pointing(8, std::ptr::from_ref(&key))
            .pointing(16, request.as_ptr())
            .call(call::MAP_UPDATE_ELEM)
            .map_err(refused)?;
        let answers =
            Attributes::new().with_descriptor(0, &self.link).open(call::ITER_CREATE).map_err(refused)?;
        // Reading runs the program, descriptor by descriptor, until there is as much as is asked for.
        match File::from(answers).read_exact(out) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(SlotsUnusable::Gone),
            read => read.map_err(refused),
        }
    }
}

fn load(places: &Places, words: &[u64]) -> io::Result<OwnedFd> {
    let count = u32::try_from(words.len()).map_err(io::Error::other)?;
    let attributes = |log: Option<&mut Vec<u8>>| {
        let mut attributes = Attributes::new()
            .with(0, call::PROG_TYPE_TRACING)
            .with(4, count)
            .pointing(8, words.as_ptr())
            .pointing(16, LICENSE.as_ptr())
            .with(68, call::TRACE_ITER)
            .with(108, places.iterator);
        for (offset, byte) in (48..).zip(b"birthmark_slots") {
            attributes.set(offset, *byte);
        }
        if let Some(log) = log {
            let room = u32::try_from(log.len()).unwrap_or(0);
            attributes = attributes.with(24, 1).with(28, room).pointing(32, log.as_mut_ptr());
        }
        attributes
    };
    attributes(None).open(call::PROG_LOAD).map_err(|error| {
        // The verifier says why when it is asked to.
        let mut log = vec![0; 64 << 10];
        if error.raw_os_error() == Some(libc::EPERM)
            || attributes(Some(&mut log)).open(call::PROG_LOAD).is_ok()
        {
            return error;
        }
        let text = String::from_utf8_lossy(&log);
        let last = text.trim_end_matches('\0').lines().rev().find(|line| !line.starts_with("processed"));
        match last.filter(|line| !line.is_empty()) {
            Some(line) => io::Error::new(error.kind(), format!("{error}: {line}")),
            None => error,
        }
    })
}

/// An iterator of the process's descriptors; before 6.1, of those of all processes.
fn iterate(program: &OwnedFd, process: u32) -> io::Result<OwnedFd> {
    // ``union bpf_iter_link_info``: thread, process, descriptor of a process.
    let only = [0, process, 0, 0];
    let link = |only: Option<&[u32; 4]>| {
        let mut attributes = Attributes::new().with_descriptor(0, program).with(8, call::TRACE_ITER);
        if let Some(only) = only {
            attributes = attributes.pointing(16, only.as_ptr()).with(24, 16);
        }
        attributes.open(call::LINK_CREATE)
    };
    link(Some(&only)).or_else(|error| match error.raw_os_error() {
        Some(libc::E2BIG | libc::EINVAL) => link(None),
        _ => Err(error),
    })
}

/// Numbers of include/uapi/linux/bpf.h.
mod call {
    use nix::libc::c_int;

    pub(super) const MAP_CREATE: c_int = 0;
    pub(super) const MAP_UPDATE_ELEM: c_int = 2;
    pub(super) const PROG_LOAD: c_int = 5;
    pub(super) const LINK_CREATE: c_int = 28;
    pub(super) const ITER_CREATE: c_int = 33;
    pub(super) const MAP_TYPE_ARRAY: u32 = 2;
    pub(super) const PROG_TYPE_TRACING: u32 = 26;
    pub(super) const TRACE_ITER: u32 = 28;
}

/// ``union bpf_attr``, of which the kernel takes what it knows as long as the rest is zero.
struct Attributes([u8; 128]);

impl Attributes {
    fn new() -> Self {
        Self([0; 128])
    }

    fn set(&mut self, offset: usize, byte: u8) {
        if let Some(place) = self.0.get_mut(offset) {
            *place = byte;
        }
    }

    fn with_bytes(mut self, offset: usize, bytes: &[u8]) -> Self {
        for (offset, byte) in (offset..).zip(bytes) {
            self.set(offset, *byte);
        }
        self
    }

    fn with(self, offset: usize, value: u32) -> Self {
        self.with_bytes(offset, &value.to_ne_bytes())
    }

    fn with_descriptor(self, offset: usize, descriptor: &OwnedFd) -> Self {
        self.with_bytes(offset, &descriptor.as_raw_fd().to_ne_bytes())
    }

    /// A pointer to what must live through the calls that use it.
    fn pointing<T>(self, offset: usize, to: *const T) -> Self {
        let address = to.expose_provenance() as u64;
        self.with_bytes(offset, &address.to_ne_bytes())
    }

    /// Makes the call. What is pointed at must be of the size that `command` prescribes or that stands beside the pointer.
    fn call(&mut self, command: libc::c_int) -> io::Result<libc::c_int> {
        // SAFETY: the kernel reads the attributes, of the length given, and what they point at, and writes to the verifier's log
        // alone; all of them live in the caller, and have the sizes that stand beside the pointers, or that the map was made with.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::c_int::try_from(result).map_err(io::Error::other)
    }

    /// A call whose result is a descriptor.
    fn open(&mut self, command: libc::c_int) -> io::Result<OwnedFd> {
        let descriptor = self.call(command)?;
        // SAFETY: the call just made this descriptor (close-on-exec, as all of bpf's are), and nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: Places =
        Places { iterator: 7, meta: 0, task: 8, fd: 16, file: 24, seq: 0, tgid: 0x9a4, private_data: 0xc8 };

    #[test]
    fn every_jump_but_one_leads_to_the_end_and_no_loop_exists() {
        let words = assemble(&PLACES, 5).unwrap();
        assert_eq!(words.len(), 32);
        assert_eq!(words[30..], [0xb7, 0x95], "`return 0`");
        let jumps: Vec<(usize, usize)> = (0..)
            .zip(&words)
            .filter(|(_, word)| matches!(word.to_le_bytes()[0], 0x15 | 0x25 | 0x55 | 0x5d))
            .map(|(at, word)| (at, word.to_le_bytes()))
            .map(|(at, bytes)| (at, at + 1 + usize::from(u16::from_le_bytes([bytes[2], bytes[3]]))))
            .collect();
        assert_eq!(jumps.len(), 7);
        assert_eq!(jumps.iter().filter(|(_, to)| *to == 30).count(), 6, "{jumps:?}");
        // Forwards, every one of them: what is read as negative would be far behind the end.
        assert!(jumps.iter().all(|(from, to)| from < to && *to <= 30), "{jumps:?}");
    }

    #[test]
    fn an_offset_that_no_instruction_can_hold_is_no_program() {
        assert!(assemble(&Places { tgid: 1 << 15, ..PLACES }, 5).is_none());
    }
}
