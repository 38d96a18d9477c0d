//! Registers out of the page that KVM shares with a VMM, on this machine's KVM, with the testkit's VMM, which does not ask for them.

use crate::other_vmms::has_kvm;
use hypervisor::{Error, Target, open};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::{Duration, Instant};
use testkit::vmm::{CR3_AND_IDT, MapForm, Mapped, Vmm, VmmSpec};
use vmi_core::Gva;

const MIB: u64 = 1 << 20;

fn spec() -> VmmSpec {
    VmmSpec::new("firecracker", (512 * MIB, 0), Mapped::Anonymous, MapForm::ZeroPage)
}

/// ``kvm_valid_regs`` of the VMM's only vCPU.
fn flags(pid: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains("anon_inode:kvm-vcpu:0")).unwrap();
    let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    let mut word = [0; 8];
    File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut word, start + 288).unwrap();
    u64::from_ne_bytes(word)
}

#[test]
fn registers_come_with_the_next_exit_and_the_page_is_as_it_was() {
    if !has_kvm() {
        return;
    }
    let vmm = Vmm::start(&VmmSpec { runs_on: true, ..spec() }).unwrap();
    let opened = open(&Target::Pid(vmm.pid())).unwrap();
    let asked = opened.registers();
    assert!(matches!(asked, Err(Error::NoRegisters { .. })), "not without being told to: {asked:?}");
    let registers = opened.registers_by_run_page().unwrap();
    assert_eq!(registers.len(), 1);
    let (cr3, idt) = CR3_AND_IDT;
    assert_eq!((registers[0].cr3, registers[0].idt), (cr3, Gva(idt)));
    assert_eq!(registers[0].cr0 & 1, 0, "real mode: {registers:?}");
    assert_eq!(flags(vmm.pid()), 0);
    // Its guest runs on as if nothing had been.
    sleep(Duration::from_millis(50));
    assert!(opened.is_alive());
    assert_eq!(opened.registers_by_run_page().unwrap(), registers);
}

#[test]
fn a_vcpu_that_does_not_come_out_is_waited_for_so_long_and_left_alone() {
    if !has_kvm() {
        return;
    }
    let vmm = Vmm::start(&spec()).unwrap();
    let opened = open(&Target::Pid(vmm.pid())).unwrap();
    let begun = Instant::now();
    let asked = opened.registers_by_run_page();
    assert!(matches!(asked, Err(Error::VcpusStayInside { .. })), "{asked:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(flags(vmm.pid()), 0);
}
