//! vCPU registers out of the page that KVM and a VMM share for each vCPU (``struct kvm_run``, Documentation/virt/kvm/api.rst 5 and
//! `KVM_CAP_SYNC_REGS`): for a VMM that has no monitor, or one that somebody else holds.
//!
//! Intrusive, so only done when asked for by name. KVM writes registers there only for a VMM that wants them, and none that is known
//! does; so their flag is raised in the VMM's place, and lowered again. Nothing of the guest is written, and no vCPU is stopped: the
//! registers are those of the next time that a vCPU comes out to its VMM. If this process is killed meanwhile the flag stays, and costs
//! the guest some microseconds at each exit to its VMM.
//!
//! A guest that has little to do may not come out for seconds, because KVM itself emulates its halts and timers. So a vCPU of QEMU that
//! does not is called out, by the signal that QEMU itself calls its vCPUs out by (`SIG_IPI`, include/sysemu/cpus.h and
//! accel/kvm/kvm-all.c): it sees to the vCPU and lets it go on. Sent to nothing but the thread that runs that vCPU, and only where its process
//! catches it. Of other VMMs such a signal may mean anything, or end them, so there a vCPU that does not come out within the deadline
//! is left out.
//!
//! The page is mapped through the vCPU's own descriptor, which has no guest memory behind it. Must never be used on a protected
//! guest, of which KVM refuses the flag and stops the vCPU with an error: `open` refuses those before.

use super::process::{Process, descriptors, pidfd_open, proc_error, proc_path};
use crate::Error;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};
use vmi_core::{Gva, Registers};

/// All vCPUs together.
const DEADLINE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_micros(100);
/// How long a vCPU may take to come out by itself, and between two calls.
const QUIET: Duration = Duration::from_millis(20);
/// QEMU's `SIG_IPI`.
const SIG_IPI: libc::c_int = libc::SIGUSR1;
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

/// The registers of those vCPUs of a process that came out to it within the deadline. `qemu`: its VMM is one, so vCPUs can be called
/// out.
pub(crate) fn registers(process: &Process, qemu: bool) -> Result<Vec<Registers>, Error> {
    let pid = process.pid();
    let failed = |source| Error::RunPage { pid, source };
    if !kvm_has_it().map_err(failed)? {
        return Err(failed(io::ErrorKind::Unsupported.into()));
    }
    let pidfd = pidfd_open(pid).map_err(|source| proc_error(pid, &proc_path(pid, "fd"), source))?;
    let mut vcpus = Vec::new();
    for descriptor in descriptors(pid)? {
        let link = descriptor.link.to_string_lossy();
        let Some(number) = link.strip_prefix("anon_inode:kvm-vcpu:") else { continue };
        let vcpu = copy_of(&pidfd, descriptor.number).map_err(failed)?;
        let page = Wanting::new(&vcpu).map_err(failed)?;
        vcpus.push(Vcpu {
            descriptor: descriptor.number,
            name: format!("CPU {number}/KVM"),
            page,
            found: None,
        });
    }
    let begun = Instant::now();
    let mut called = begun;
    while vcpus.iter().any(|vcpu| vcpu.found.is_none()) && begun.elapsed() < DEADLINE {
        for vcpu in &mut vcpus {
            vcpu.found = vcpu.found.or_else(|| vcpu.page.registers());
        }
        if qemu && called.elapsed() >= QUIET {
            call_out(process, vcpus.iter().filter(|vcpu| vcpu.found.is_none()));
            called = Instant::now();
        }
        std::thread::sleep(POLL);
    }
    let found: Vec<Registers> = vcpus.iter().filter_map(|vcpu| vcpu.found).collect();
    if found.is_empty() { Err(Error::VcpusStayInside { pid }) } else { Ok(found) }
}

struct Vcpu {
    /// Its number in the VMM.
    descriptor: u32,
    /// What QEMU calls its thread (`-name debug-threads=on`, as libvirt does).
    name: String,
    page: Wanting,
    found: Option<Registers>,
}

/// Has QEMU see to those vCPUs. One whose thread is not found is not called.
fn call_out<'v>(process: &Process, vcpus: impl Iterator<Item = &'v Vcpu> + Clone) {
    let pid = process.pid();
    let threads = fs::read_dir(proc_path(pid, "task")).into_iter().flatten().flatten();
    for thread in threads.filter_map(|entry| entry.file_name().to_str()?.parse::<libc::pid_t>().ok()) {
        let read = |file: &str| fs::read_to_string(proc_path(pid, &format!("task/{thread}/{file}")));
        let (Ok(name), Ok(syscall), Ok(status)) = (read("comm"), read("syscall"), read("status")) else {
            continue;
        };
        let runs_one =
            vcpus.clone().any(|vcpu| runs_vcpu(&syscall, vcpu.descriptor) || name.trim_end() == vcpu.name);
        if runs_one && catches(&status, SIG_IPI) && process.is_alive() {
            // SAFETY: tgkill takes three numbers and touches no memory of ours. It fails if the thread has ended.
            let _ = unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, SIG_IPI) };
        }
    }
}

/// Whether a thread is in ``ioctl(descriptor, KVM_RUN)``, by its `/proc/PID/task/TID/syscall`. One that is on a CPU says nothing.
fn runs_vcpu(syscall: &str, descriptor: u32) -> bool {
    const IOCTL: &str = "16";
    const KVM_RUN: &str = "0xae80";
    let mut words = syscall.split_ascii_whitespace();
    words.next() == Some(IOCTL)
        && words.next() == Some(&format!("{descriptor:#x}"))
        && words.next() == Some(KVM_RUN)
}

/// Whether a process has a handler for a signal, by its `/proc/PID/status`.
fn catches(status: &str, signal: libc::c_int) -> bool {
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|caught| u64::from_str_radix(caught.trim(), 16).ok()).unwrap_or(0);
    let bit = u32::try_from(signal).ok().and_then(|signal| signal.checked_sub(1));
    bit.and_then(|bit| caught.checked_shr(bit)).is_some_and(|caught| caught & 1 != 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_of_a_vcpu_is_told_by_what_it_is_in() {
        let inside = "16 0x1e 0xae80 0x0 0x7f3d0 0x0 0x0 0x7f3d2a9fe5a8 0x7f3d2b10";
        assert!(runs_vcpu(inside, 0x1e));
        assert!(!runs_vcpu(inside, 0x1), "another's");
        assert!(!runs_vcpu("16 0x1e 0xae81 0x0", 0x1e), "another request");
        assert!(!runs_vcpu("7 0x1e 0xae80", 0x1e), "another call");
        for nothing in ["running\n", "-1 0x7ffd 0x7f3d", ""] {
            assert!(!runs_vcpu(nothing, 0), "{nothing}");
        }
    }

    #[test]
    fn a_signal_is_caught_only_where_the_kernel_says_so() {
        let status = |caught: &str| format!("Name:\tq\nSigIgn:\tffffffffffffffff\nSigCgt:\t{caught}\n");
        assert!(catches(&status("0000000000000200"), libc::SIGUSR1));
        assert!(!catches(&status("fffffffffffffdff"), libc::SIGUSR1));
        assert!(!catches("", libc::SIGUSR1) && !catches(&status("x"), libc::SIGUSR1));
    }
}
