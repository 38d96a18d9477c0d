//! A guest that is looked at without a break from power-on until its user space runs: whatever it is caught in, the answer is
//! "not yet" or its kernel, and never that something is wrong.

use crate::opened::PATIENT;
use hypervisor::{OpenedVm, Target};
use introspect::{Error, Sources};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;
use testkit::{Backing, Guest, GuestSpec, Kernel, Need};

/// What a look found, in a few words, each with how often.
type Seen = BTreeMap<String, u32>;

/// Looks until the guest is gone or `until` holds, once with what the registers say and once with memory alone.
fn look_on(vm: &OpenedVm, until: impl Fn() -> bool, seen: &mut Seen) {
    // QEMU's monitor does not answer at once; a look without its answer is one with memory alone.
    let answered = Cell::new(false);
    let asked = || {
        let registers = vm.registers().unwrap_or_default();
        answered.set(!registers.is_empty());
        registers
    };
    let with_registers = Sources { registers: &asked, ..Sources::default() };
    loop {
        // The last look is of the guest when it is up, however fast that went.
        let last = until();
        for (sources, how) in [(&with_registers, "registers"), (&Sources::default(), "memory alone")] {
            let answer = match introspect::locate_with(&*vm.memory, sources, PATIENT) {
                Ok(kernel) => format!("a kernel, {}", kernel.release()),
                Err(Error::Empty { .. }) => "nothing yet".to_owned(),
                Err(error @ Error::NotYet { .. }) => error.to_string(),
                // Without registers nothing tells firmware from another operating system, or half a kernel from a broken one.
                Err(error) if error.may_be_booting() && (how == "memory alone" || !answered.get()) => {
                    "no kernel".to_owned()
                }
                Err(Error::Memory(_)) if !vm.is_alive() => "the VM ended".to_owned(),
                Err(error) => panic!("with {how}, after {seen:#?}: {error}: {error:?}"),
            };
            *seen.entry(format!("{how}: {answer}")).or_default() += 1;
        }
        if last || !vm.is_alive() {
            break;
        }
        // The guest needs the processor too.
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_guest_is_not_there_yet_or_a_kernel_from_power_on_to_user_space() {
    for (index, backing) in [Backing::Memfd, Backing::Anonymous].into_iter().enumerate() {
        let kernel = [Kernel::V6_1, Kernel::V6_12][index];
        if !testkit::require(&[Need::Guest(kernel)]) {
            continue;
        }
        let name = format!("power-on-{}-{index}", std::process::id());
        let spec = GuestSpec::new(kernel).memory_mib(256).backing(backing.clone()).name(&name);
        let mut seen = Seen::new();
        let guest = std::thread::scope(|scope| {
            let boot = scope.spawn(|| Guest::boot(spec));
            while !boot.is_finished() {
                match hypervisor::open(&Target::Name(name.clone())) {
                    Ok(vm) => look_on(&vm, || boot.is_finished(), &mut seen),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            boot.join().unwrap().unwrap()
        });
        eprintln!("{backing:?}: {seen:#?}");
        let found = format!("a kernel, {}", guest.kernel().release);
        for how in ["registers", "memory alone"] {
            assert!(seen.contains_key(&format!("{how}: {found}")), "{how}: {seen:#?}");
        }
        assert!(seen.keys().any(|answer| answer.contains("still booting")), "{seen:#?}");
    }
}
