//! A VMM with next to nothing in it: memory laid out as it is told, a memory map for a guest of five bytes of code, one vCPU that runs
//! them. It says `ready` and stays until its standard input ends. See `testkit::vmm`, which starts it.
//!
//! `unsafe` is for mappings and for giving them to KVM; each block says why it is sound.
#![allow(unsafe_code, clippy::print_stdout)]

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, kvm_create_guest_memfd, kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, VcpuExit, VmFd};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;
use testkit::vmm::{CR3_AND_IDT, GUEST_WRITES_AT, Vmm, WRITTEN_BY_GUEST};

const FOUR_GIB: u64 = 1 << 32;

/// RAM from this guest-physical address on, and where this process has it.
struct Part {
    guest: u64,
    len: u64,
    host: *mut u8,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [low, high, told_low, told_high, mapped, form, twice, private, runs_on] = arguments.as_slice() else {
        bail!("This program is started by the tests");
    };
    let (low, high): (u64, u64) = (low.parse()?, high.parse()?);
    let parts = lay_out(mapped, low, high)?;
    let vm = Kvm::new()?.create_vm()?;
    for (slot, part) in (0..).zip(&parts) {
        give(&vm, slot, part, private == "true")?;
    }
    let map = memory_map(form, told_low.parse()?, told_high.parse()?)?;
    for (at, bytes) in &map {
        write(&parts, *at, bytes)?;
    }
    for at in Vmm::written((low, high)) {
        write(&parts, at, &(!at).to_le_bytes())?;
    }
    let second =
        if twice == "true" { Some(Part { guest: 0, len: low, host: anonymous(low)? }) } else { None };
    if let Some(second) = second {
        for (at, bytes) in &map {
            write(std::slice::from_ref(&second), *at, bytes)?;
        }
    }
    if private != "true" {
        run(&vm, &parts, runs_on == "true")?;
    }
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn lay_out(mapped: &str, low: u64, high: u64) -> Result<Vec<Part>> {
    let hosts = match mapped {
        "Anonymous" => {
            let first = anonymous(low)?;
            [first, if high > 0 { anonymous(high)? } else { first }]
        }
        "Adjacent" => {
            let both = anonymous(low + high)?;
            [both.wrapping_add(usize::try_from(high)?), both]
        }
        "OneFile" => {
            let file = memfd(low + high)?;
            [shared(&file, 0, low)?, if high > 0 { shared(&file, low, high)? } else { std::ptr::null_mut() }]
        }
        "FilePerPart" => [
            shared(&memfd(low)?, 0, low)?,
            if high > 0 { shared(&memfd(high)?, 0, high)? } else { std::ptr::null_mut() },
        ],
        "WithHole" => {
            let whole = anonymous(if high > 0 { FOUR_GIB + high } else { low })?;
            if high > 0 {
                let hole = whole.wrapping_add(usize::try_from(low)?);
                // SAFETY: the hole is inside the mapping that was just made, and nothing refers to it.
                let result =
                    unsafe { libc::mprotect(hole.cast(), usize::try_from(FOUR_GIB - low)?, libc::PROT_NONE) };
                ensure!(result == 0, "mprotect: {}", std::io::Error::last_os_error());
            }
            [whole, whole.wrapping_add(usize::try_from(FOUR_GIB)?)]
        }
        other => bail!("There is no way {other} to map memory"),
    };
    let [low_host, high_host] = hosts;
    let mut parts = vec![Part { guest: 0, len: low, host: low_host }];
    if high > 0 {
        parts.push(Part { guest: FOUR_GIB, len: high, host: high_host });
    }
    Ok(parts)
}

/// With a page before and behind that nobody can read, so that it does not become one with another mapping.
fn anonymous(len: u64) -> Result<*mut u8> {
    const GUARD: usize = 4096;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let inside = map(len + 2 * GUARD as u64, libc::PROT_NONE, flags, None, 0)?.wrapping_add(GUARD);
    // SAFETY: the range is inside the mapping that was just made, and nothing refers to it.
    let result =
        unsafe { libc::mprotect(inside.cast(), usize::try_from(len)?, libc::PROT_READ | libc::PROT_WRITE) };
    ensure!(result == 0, "mprotect: {}", std::io::Error::last_os_error());
    Ok(inside)
}

/// Its descriptor stays open, as that of a VMM does.
fn memfd(len: u64) -> Result<File> {
    let file = File::from(memfd_create(c"guest_mem", MFdFlags::empty())?);
    file.set_len(len)?;
    std::mem::forget(file.try_clone()?);
    Ok(file)
}

fn shared(file: &File, offset: u64, len: u64) -> Result<*mut u8> {
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    map(len, libc::PROT_READ | libc::PROT_WRITE, flags, Some(file), offset)
}

fn map(len: u64, protection: i32, flags: i32, file: Option<&File>, offset: u64) -> Result<*mut u8> {
    let descriptor = file.map_or(-1, AsRawFd::as_raw_fd);
    let (len, offset) = (usize::try_from(len)?, i64::try_from(offset)?);
    // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, descriptor, offset) };
    ensure!(at != libc::MAP_FAILED, "mmap of {len:#x} bytes: {}", std::io::Error::last_os_error());
    Ok(at.cast())
}

fn give(vm: &VmFd, slot: u32, part: &Part, private: bool) -> Result<()> {
    let (guest_phys_addr, memory_size, userspace_addr) = (part.guest, part.len, part.host as u64);
    if private {
        let file = vm.create_guest_memfd(kvm_create_guest_memfd { size: part.len, ..Default::default() })?;
        let region = kvm_userspace_memory_region2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr,
            memory_size,
            userspace_addr,
            guest_memfd: u32::try_from(file)?,
            ..Default::default()
        };
        // SAFETY: the memory is a mapping of this process that is never undone, and slots do not overlap.
        return unsafe { vm.set_user_memory_region2(region) }
            .context("The slot with private memory was refused");
    }
    let region = kvm_userspace_memory_region { slot, flags: 0, guest_phys_addr, memory_size, userspace_addr };
    // SAFETY: as above.
    unsafe { vm.set_user_memory_region(region) }.context("The slot was refused")
}

fn write(parts: &[Part], at: u64, bytes: &[u8]) -> Result<()> {
    let part = parts.iter().find(|part| at >= part.guest && at + bytes.len() as u64 <= part.guest + part.len);
    let part = part.with_context(|| format!("There is no memory at {at:#x}"))?;
    let to = part.host.wrapping_add(usize::try_from(at - part.guest)?);
    // SAFETY: the range was just found to be in this part, which is mapped for writing; `bytes` are ours.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    Ok(())
}

/// The guest's map, as bytes at guest-physical addresses.
fn memory_map(form: &str, low: u64, high: u64) -> Result<Vec<(u64, Vec<u8>)>> {
    let first = if form == "Kvmtool" { 0x9_fc00 } else { 0xa_0000 };
    let mut ram = vec![(0, first, 1_u32), (first, (1 << 20) - first, 2), (1 << 20, low - (1 << 20), 1)];
    if high > 0 {
        ram.push((FOUR_GIB, high, 1));
    }
    let count = u8::try_from(ram.len())?;
    let entries = |padding: usize| -> Vec<u8> {
        let entry = |(start, len, kind): &(u64, u64, u32)| {
            [&start.to_le_bytes()[..], &len.to_le_bytes(), &kind.to_le_bytes(), &vec![0; padding]].concat()
        };
        ram.iter().flat_map(entry).collect()
    };
    Ok(match form {
        "ZeroPage" => vec![
            (0x71fe, vec![0x55, 0xaa]),
            (0x7202, b"HdrS".to_vec()),
            (0x71e8, vec![count]),
            (0x72d0, entries(0)),
        ],
        "Pvh" => vec![
            (0x6000, 0x336e_c578_u32.to_le_bytes().to_vec()),
            (0x6004, 1_u32.to_le_bytes().to_vec()),
            (0x6028, 0x7000_u64.to_le_bytes().to_vec()),
            (0x6030, u32::from(count).to_le_bytes().to_vec()),
            (0x7000, entries(4)),
        ],
        "Kvmtool" => vec![(0x9_fc00, u32::from(count).to_le_bytes().to_vec()), (0x9_fc04, entries(0))],
        _ => Vec::new(),
    })
}

/// Runs some bytes of real mode: one byte into memory, and a halt, or a byte to a port for ever.
fn run(vm: &VmFd, parts: &[Part], on: bool) -> Result<()> {
    let [low, high, ..] = GUEST_WRITES_AT.to_le_bytes();
    let then: &[u8] = if on { &[0xe6, 0x80, 0xeb, 0xfc] } else { &[0xf4] };
    write(parts, 0x1000, &[&[0xc6, 0x06, low, high, WRITTEN_BY_GUEST], then].concat())?;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut segments = vcpu.get_sregs()?;
    segments.cs.base = 0;
    segments.cs.selector = 0;
    (segments.cr3, segments.idt.base) = CR3_AND_IDT;
    vcpu.set_sregs(&segments)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = 0x1000;
    registers.rflags = 2;
    vcpu.set_regs(&registers)?;
    if on {
        ensure!(matches!(vcpu.run()?, VcpuExit::IoOut(0x80, _)), "The guest did not come to its port");
        std::thread::spawn(move || {
            while vcpu.run().is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        return Ok(());
    }
    let halted = matches!(vcpu.run()?, VcpuExit::Hlt);
    ensure!(halted, "The guest did not come to its halt");
    // The VM keeps its vCPU, as that of a VMM does.
    std::mem::forget(vcpu);
    Ok(())
}
