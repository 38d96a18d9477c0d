//! Anonymous memory of another process: right values, and nothing allocated by reading.

use crate::lab::{as_nobody, rss};
use hypervisor::Error;
use hypervisor::kvm::{Absent, ProcessMem, open_mem};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr::NonNull;

const LEN: usize = 256 << 20;

/// Memory of this process, in the part of a VMM.
struct Guest {
    base: NonNull<c_void>,
    len: usize,
}

impl Guest {
    fn anonymous(len: usize) -> Self {
        let (size, rw) = (NonZeroUsize::new(len).unwrap(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        // SAFETY: a new mapping where the kernel likes it.
        let base = unsafe { mmap_anonymous(None, size, rw, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE) };
        Self { base: base.unwrap(), len }
    }

    fn private_copy_of(file: &File, len: usize) -> Self {
        let (size, rw) = (NonZeroUsize::new(len).unwrap(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        // SAFETY: a new mapping where the kernel likes it.
        let base = unsafe { mmap(None, size, rw, MapFlags::MAP_PRIVATE, file, 0) };
        Self { base: base.unwrap(), len }
    }

    fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: inside the mapping, which nobody else uses.
        unsafe { self.base.as_ptr().cast::<u8>().add(at).copy_from(bytes.as_ptr(), bytes.len()) };
    }

    fn memory(&self, absent: Absent) -> ProcessMem {
        let pid = std::process::id();
        ProcessMem::new(pid, open_mem(pid).unwrap(), self.address(), self.len as u64, absent).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: our own mapping, no longer used.
        unsafe { munmap(self.base, self.len) }.unwrap();
    }
}

fn read(memory: &ProcessMem, at: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0xee; len];
    memory.read(at, &mut out).unwrap();
    out
}

fn all() -> Range<u64> {
    0..LEN as u64
}

#[test]
fn reading_everything_leaves_rss_and_page_map_as_they_were() {
    let guest = Guest::anonymous(LEN);
    guest.write(4096, b"one");
    guest.write(LEN - 3, b"end");
    let memory = guest.memory(Absent::Zeros);
    let touched = memory.populated(all()).unwrap();
    let before = rss(std::process::id(), "RssAnon");
    let mut chunk = vec![0; 1 << 20];
    let mut values = 0;
    for at in (0..LEN as u64).step_by(1 << 20) {
        memory.read(at, &mut chunk).unwrap();
        values += chunk.iter().filter(|&&byte| byte != 0).count();
    }
    assert_eq!(values, 6);
    for at in (0..LEN as u64).step_by(4096) {
        let (mut once, mut twice) = ([0xee; 8], [0xee; 8]);
        let at = at + 4090 - if at + 4096 == LEN as u64 { 2 } else { 0 };
        memory.read_once(at, &mut once).unwrap();
        memory.read(at, &mut twice).unwrap();
        assert_eq!(once, twice, "{at:#x}");
    }
    let mut end = [0xee; 4];
    memory.read_once(LEN as u64 - 4, &mut end).unwrap();
    assert_eq!(&end, b"\0end");
    assert_eq!(memory.populated(all()).unwrap(), touched);
    let grown = rss(std::process::id(), "RssAnon").saturating_sub(before);
    assert!(grown < 4 << 20, "RssAnon grew by {grown} bytes");
}

#[test]
fn populated_parts_are_those_that_were_touched() {
    let guest = Guest::anonymous(64 << 20);
    let memory = guest.memory(Absent::Zeros);
    assert_eq!(memory.populated(0..64 << 20).unwrap(), []);
    guest.write(0x5000, &[1; 8192]);
    let touched = memory.populated(0..64 << 20).unwrap();
    // The host may back it by a huge page.
    assert_eq!(touched.len(), 1);
    assert!(
        touched[0].start <= 0x5000 && touched[0].end >= 0x7000 && touched[0].end <= 2 << 21,
        "{touched:x?}"
    );
    assert_eq!(memory.populated(0x5000..0x6000).unwrap().first(), Some(&(0x5000..0x6000)));
}

#[test]
fn a_page_that_appears_during_a_look_is_seen() {
    let guest = Guest::anonymous(16 << 20);
    let memory = guest.memory(Absent::Zeros);
    assert_eq!(read(&memory, 0x3000, 5), [0; 5]);
    guest.write(0x3000, b"later");
    assert_eq!(read(&memory, 0x3000, 5), b"later");
    memory.begin_look();
    assert_eq!(read(&memory, 0x2ffe, 9), b"\0\0later\0\0");
}

#[test]
fn ranges_outside_the_block_are_refused() {
    let guest = Guest::anonymous(1 << 20);
    let memory = guest.memory(Absent::Zeros);
    for at in [(1 << 20) - 7, 1 << 20, u64::MAX - 3] {
        assert_eq!(memory.read(at, &mut [0; 8]).unwrap_err().kind(), ErrorKind::InvalidInput, "{at:#x}");
        assert_eq!(memory.read_once(at, &mut [0; 8]).unwrap_err().kind(), ErrorKind::InvalidInput, "{at:#x}");
    }
}

#[test]
fn a_private_copy_of_a_file_shows_its_own_pages_and_the_files_others() {
    let len = 8 << 20;
    let file = File::from(
        nix::sys::memfd::memfd_create("template", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap(),
    );
    file.set_len(len).unwrap();
    file.write_all_at(b"template", 0x1000).unwrap();
    file.write_all_at(b"template", 0x4000).unwrap();
    let guest = Guest::private_copy_of(&file, usize::try_from(len).unwrap());
    guest.write(0x4000, b"changed!");
    guest.write(0x8000, b"new");
    let before = file.metadata().unwrap().blocks();
    let reader = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let memory = guest.memory(Absent::File { file: reader, offset: 0 });
    assert_eq!(read(&memory, 0x1000, 8), b"template");
    assert_eq!(read(&memory, 0x4000, 8), b"changed!");
    assert_eq!(read(&memory, 0x8000, 3), b"new");
    assert_eq!(read(&memory, 0, 8 << 20).iter().filter(|&&byte| byte != 0).count(), 8 + 8 + 3);
    let populated = memory.populated(0..len).unwrap();
    for at in [0x1000, 0x4000, 0x8000] {
        assert!(populated.iter().any(|extent| extent.contains(&at)), "{at:#x} not in {populated:x?}");
    }
    assert_eq!(file.metadata().unwrap().blocks(), before, "looking allocated pages of the file");
}

#[test]
fn memory_of_a_process_that_ended_is_end_of_file() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let maps = loop {
        // Until the child runs `sleep` and has its heap.
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
        if maps.contains("/sleep") && maps.contains("[stack]") {
            break hypervisor::kvm::maps::parse(&maps).unwrap();
        }
        std::thread::yield_now();
    };
    let stack = maps.iter().find(|mapping| mapping.name == "[stack]").unwrap();
    let mem = open_mem(child.id()).unwrap();
    let memory = ProcessMem::new(child.id(), mem, stack.start, stack.len(), Absent::Zeros).unwrap();
    memory.read(stack.len() - 64, &mut [0; 64]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    memory.begin_look();
    let error = memory.read(stack.len() - 64, &mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
}

#[test]
fn without_permission_the_error_says_what_is_needed() {
    as_nobody(|| {
        let error = open_mem(1).unwrap_err();
        assert!(matches!(error, Error::Permission { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("/proc/1/mem") && message.contains("CAP_SYS_PTRACE"), "{message}");
    });
}
