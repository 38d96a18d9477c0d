//! vCPU registers out of the page that KVM and a VMM share for each vCPU (``struct kvm_run``, Documentation/virt/kvm/api.rst 5 and
//! `KVM_CAP_SYNC_REGS`): for a VMM that has no monitor, or one that somebody else holds.
//!
//! Intrusive, so only done when asked for by name. KVM writes registers there only for a VMM that wants them, and none that is known
//! does; so their flag is raised in the VMM's place, and lowered again. Nothing of the guest is written, no vCPU is stopped or
//! kicked: the registers are those of the next time that a vCPU comes out to its VMM by itself. A vCPU that does not within the
//! deadline is left out. If this process is killed meanwhile the flag stays, and costs the guest some microseconds at each exit to its
//! VMM.
//!
//! The page is mapped through the vCPU's own descriptor, which has no guest memory behind it. Must never be used on a protected
//! guest, of which KVM refuses the flag and stops the vCPU with an error: `open` refuses those before.

use super::process::{descriptors, pidfd_open, proc_error, proc_path};
use crate::Error;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};
use vmi_core::{Gva, Registers};

/// All vCPUs together. A guest that does nothing at all still has a timer that ticks in its VMM, or a device.
const DEADLINE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_micros(100);
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// ``kvm_run.kvm_valid_regs``.
const VALID: usize = 288;
/// ``KVM_SYNC_X86_SREGS``.
const SEGMENTS: u64 = 1 << 1;
/// ``kvm_run.s.regs.sregs.idt.base``: behind 18 general registers, eight segments and one table register.
const IDT: usize = 304 + 144 + 8 * 24 + 16;
const CR0: usize = IDT + 16;
const CR3: usize = CR0 + 16;
const CR4: usize = CR3 + 8;

/// The registers of those vCPUs of a process that came out to it within the deadline.
pub(crate) fn registers(pid: u32) -> Result<Vec<Registers>, Error> {
    let failed = |source| Error::RunPage { pid, source };
    if !kvm_has_it().map_err(failed)? {
        return Err(failed(io::ErrorKind::Unsupported.into()));
    }
    let process = pidfd_open(pid).map_err(|source| proc_error(pid, &proc_path(pid, "fd"), source))?;
    let mut pages = Vec::new();
    for descriptor in descriptors(pid)? {
        if descriptor.link.to_string_lossy().starts_with("anon_inode:kvm-vcpu:") {
            let vcpu = copy_of(&process, descriptor.number).map_err(failed)?;
            pages.push(Wanting::new(&vcpu).map_err(failed)?);
        }
    }
    let begun = Instant::now();
    let mut found: Vec<Option<Registers>> = vec![None; pages.len()];
    while found.iter().any(Option::is_none) && begun.elapsed() < DEADLINE {
        for (page, found) in pages.iter().zip(&mut found) {
            *found = found.or_else(|| page.registers());
        }
        std::thread::sleep(POLL);
    }
    drop(pages);
    let found: Vec<Registers> = found.into_iter().flatten().collect();
    if found.is_empty() { Err(Error::NoRegisters { pid }) } else { Ok(found) }
}

/// Whether this KVM knows the flag. One that does not would take it for a mistake of the VMM's.
fn kvm_has_it() -> io::Result<bool> {
    const CHECK_EXTENSION: libc::c_ulong = 0xae03;
    const SYNC_REGS: libc::c_ulong = 74;
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    // SAFETY: the request takes a number, touches no memory and changes nothing.
    let known = unsafe { libc::ioctl(kvm.as_raw_fd(), CHECK_EXTENSION, SYNC_REGS) };
    Ok(known > 0 && u64::from(known.unsigned_abs()) & SEGMENTS != 0)
}

fn copy_of(process: &OwnedFd, descriptor: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_getfd takes two numbers and flags, touches no memory of ours, and returns a new descriptor or -1.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) };
    let raw = i32::try_from(result).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just returned this descriptor (close-on-exec), and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A vCPU's page, with the flag raised as long as this lives.
struct Wanting {
    base: NonNull<c_void>,
    /// Whether the flag is ours to lower.
    raised: bool,
}

impl Wanting {
    fn new(vcpu: &OwnedFd) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe {
            mmap(None, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, vcpu, 0)
        }?;
        let mut page = Self { base, raised: false };
        let valid = page.read(VALID);
        if valid & SEGMENTS == 0 {
            // No CPU has a CR0 of 0, so this tells when KVM has written. Nobody reads it: it is the VMM's only if it says so.
            page.write(CR0, 0);
            page.write(VALID, valid | SEGMENTS);
            page.raised = true;
        }
        Ok(page)
    }

    fn at(&self, offset: usize) -> *mut u64 {
        debug_assert!(offset.is_multiple_of(8) && offset + 8 <= PAGE.get());
        // SAFETY: every offset is one of the constants above, inside the page and a multiple of 8.
        unsafe { self.base.byte_add(offset) }.cast().as_ptr()
    }

    fn read(&self, offset: usize) -> u64 {
        // SAFETY: the page is mapped as long as this lives; volatile, as KVM writes it meanwhile.
        unsafe { self.at(offset).read_volatile() }
    }

    fn write(&self, offset: usize, value: u64) {
        // SAFETY: as above; the words are written that KVM reads at its next exit, and no reference into the page exists.
        unsafe { self.at(offset).write_volatile(value) };
    }

    /// `None`: the vCPU did not come out yet.
    fn registers(&self) -> Option<Registers> {
        let once = || Registers {
            cr0: self.read(CR0),
            cr3: self.read(CR3),
            cr4: self.read(CR4),
            idt: Gva(self.read(IDT)),
        };
        // The same twice, or KVM was writing.
        let first = once();
        (first.cr0 != 0 && first == once()).then_some(first)
    }
}

impl Drop for Wanting {
    fn drop(&mut self) {
        if self.raised {
            self.write(VALID, self.read(VALID) & !SEGMENTS);
        }
        // SAFETY: this is the mapping that `new` made, and no reference into it was ever given out.
        let _ = unsafe { munmap(self.base, PAGE.get()) };
    }
}
