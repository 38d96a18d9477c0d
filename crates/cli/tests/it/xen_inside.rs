//! What our libraries, and no command of ours, show of a Xen domain: its vCPUs' registers, what it has given back, and that it can be
//! asked about and paused through the host's libxenctrl. These tests run in the first domain of the lab's Xen, where this test
//! program is put; `real_xen.rs` has them run there on its guests.

use hypervisor::pause::Pause;
use hypervisor::xen::Interface;
use hypervisor::{OpenOptions, OpenedVm, Target};
use introspect::{Kernel, Sources};
use std::fs;
use std::process::Command;
use std::time::Duration;
use testkit::host::{Host, Inner};
use vmi_core::{
    Access, AddressSpace, Budget, Gpa, GuestMemory, Gva, Look, MemoryError, PAGE_SIZE, Region, Registers,
};

/// Where this program is in the first domain.
pub const PROGRAM: &str = "lab/inside";
/// Tells it which domain.
const DOMAIN: &str = "BIRTHMARK_LAB_DOMAIN";
const XL: &str = "/usr/lib/xen-4.17/bin/xl";
const LIBRARY: &str = "libxenctrl.so.4.17";
const BUDGET: Budget = Budget { bytes: 1 << 30, time: Duration::from_secs(60) };
/// Gate of the page fault in an interrupt table, and the bytes of a gate.
const PAGE_FAULT: u64 = 14;
const GATE: u64 = 16;
/// The linked image of a kernel, and modules, are above (``__START_KERNEL_map``).
const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// Runs one of the tests below on a guest, in the host's first domain.
pub fn run(host: &Host, guest: &Inner<'_>, test: &str) {
    let name = guest.name();
    host.succeed(&format!("{DOMAIN}={name} /{PROGRAM} xen_inside::{test} --exact --ignored --nocapture"))
        .and_then(|said| {
            anyhow::ensure!(said.contains("1 passed"), "{said}");
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
}

fn target() -> (String, Target) {
    let name = std::env::var(DOMAIN).unwrap();
    let target = name.parse().unwrap();
    (name, target)
}

fn is_paused(name: &str) -> bool {
    let output = Command::new(XL).args(["list", name]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let state = text.lines().last().and_then(|line| line.split_whitespace().nth(4)).unwrap().to_owned();
    state.contains('p')
}

/// Pauses a domain that runs; whether the guard of that has loaded libxenctrl.
fn paused(vm: &OpenedVm) -> (Pause, bool) {
    let limit = Duration::from_secs(30);
    let mut guard = Command::new("/lab/birthmark");
    guard.arg("pause-guard").arg(limit.as_millis().to_string());
    let pause = vm.pause(limit, guard).unwrap().expect("it ran");
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let guard: String =
        threads.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap()).collect();
    let maps = fs::read_to_string(format!("/proc/{}/maps", guard.trim())).unwrap();
    assert!(maps.contains("/lab/birthmark"), "{guard}: {maps}");
    (pause, maps.contains(LIBRARY))
}

/// Memory that has nothing to be found in it, but for one page. All of it can be read.
#[derive(Debug)]
struct Unsearchable<'m> {
    memory: &'m dyn GuestMemory,
    page: Region,
}

impl GuestMemory for Unsearchable<'_> {
    fn regions(&self) -> &[Region] {
        self.memory.regions()
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(at, buf)
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        Ok(if within.contains(self.page.start, self.page.len) { vec![self.page] } else { Vec::new() })
    }

    fn access(&self) -> Access {
        self.memory.access()
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        self.memory.begin_look()
    }
}

fn located(memory: &dyn GuestMemory, registers: &dyn Fn() -> Vec<Registers>) -> Kernel {
    introspect::locate_with(memory, &Sources { registers, ..Sources::default() }, BUDGET).unwrap()
}

#[test]
#[ignore = "real_xen.rs runs it in the first domain of the lab's Xen"]
fn registers_lead_to_the_kernel() {
    let (name, target) = target();
    let vm = hypervisor::open(&target).unwrap();
    let memory = &*vm.memory;
    let registers = vm.registers().unwrap();
    assert_eq!(registers.len(), 1, "{name}");
    let vcpu = registers[0];
    assert!(vcpu.has_paging(), "{vcpu:?}");

    // By page tables alone: nothing in memory can be searched for.
    let page = Region { start: vcpu.roots()[0], len: PAGE_SIZE };
    let by_registers = located(&Unsearchable { memory, page }, &|| registers.clone());
    let kernel = located(memory, &|| registers.clone());
    assert_eq!(by_registers.release(), kernel.release());
    assert_eq!(by_registers.symbol("init_task"), kernel.symbol("init_task"));
    assert!(kernel.symbol("init_task").is_some());

    // The page tables of the vCPU, whichever process it is in, have the kernel where the kernel's own have it.
    let look = Look::begin(memory, BUDGET).unwrap();
    let own = AddressSpace::new(&look, kernel.root(), kernel.levels());
    assert_eq!(vcpu.levels(), kernel.levels());
    let theirs = AddressSpace::new(&look, vcpu.roots()[0], vcpu.levels());
    let same = |at: Gva| {
        let place = theirs.translate(at).unwrap().at;
        assert_eq!(place, own.translate(at).unwrap().at, "{name}: {at}");
    };
    for symbol in ["init_task", "_stext", "linux_banner"] {
        same(kernel.symbol(symbol).unwrap());
    }

    // A paravirtual guest has no interrupt table of its own. That of another has the kernel's page-fault handler in it.
    assert_eq!(vcpu.idt == Gva(0), name == "pv", "{vcpu:?}");
    if vcpu.idt != Gva(0) {
        same(vcpu.idt);
        let gate = vcpu.idt.element(PAGE_FAULT, GATE).unwrap();
        let (low, high) = (theirs.u64(gate).unwrap(), theirs.u64(gate.checked_add(8).unwrap()).unwrap());
        let handler = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        assert!(handler >= IMAGE, "{name}: {handler:#x}");
        same(Gva(handler));
    }
}

#[test]
#[ignore = "real_xen.rs runs it in the first domain of the lab's Xen"]
fn what_was_given_back_is_a_hole() {
    let (name, target) = target();
    let vm = hypervisor::open(&target).unwrap();
    let held = populated(&vm);
    // What the hypervisor counts has a few pages that are not in the guest's numbering, and the other way round.
    let counted = vm.vm.memory_bytes.unwrap();
    assert!(held.abs_diff(counted) < 2 << 20, "{name}: {held} bytes are there, Xen counts {counted}");
    assert!(counted < 130 << 20, "{name} has given nothing back: {counted}");
    let all = vm.memory.size();
    assert!(all >= 158 << 20, "{name}: {all} bytes with what was given back");
}

fn populated(vm: &OpenedVm) -> u64 {
    let extents = vm.memory.regions().iter().flat_map(|region| vm.memory.populated(*region).unwrap());
    extents.map(|extent| extent.len).sum()
}

#[test]
#[ignore = "real_xen.rs runs it in the first domain of the lab's Xen"]
fn libxenctrl_does_the_same_where_our_commands_are_refused() {
    let (name, target) = target();
    let own = hypervisor::open(&target).unwrap();
    let options = OpenOptions { xen_interface: Interface::Refused, ..OpenOptions::default() };
    let vm = hypervisor::open_with(&target, &options).unwrap();
    assert_eq!((&vm.vm, vm.memory.regions()), (&own.vm, own.memory.regions()));

    // The guard holds what it works with until the end; who needs no library loads none.
    let (pause, has_library) = paused(&own);
    assert!(!has_library && is_paused(&name));
    pause.end().unwrap();
    assert!(!is_paused(&name));
    let (pause, has_library) = paused(&vm);
    assert!(has_library && is_paused(&name));
    // It stands, so they cannot differ.
    let (through_library, through_own) = (vm.registers().unwrap(), own.registers().unwrap());
    assert_eq!(through_library, through_own);
    assert!(through_own[0].has_paging());
    // An operator's pause is his.
    assert!(Command::new(XL).args(["pause", &name]).status().unwrap().success());
    pause.end().unwrap();
    assert!(is_paused(&name));
    assert!(Command::new(XL).args(["unpause", &name]).status().unwrap().success());
    assert!(!is_paused(&name));
}
