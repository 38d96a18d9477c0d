//! Layouts by the memory slots that this machine's own kernel has of its VMs: of every VMM, also of one that nobody knows, whatever
//! its guest says; of QEMU the same as by rules and monitor, and more where those cannot tell.

use crate::lab::Qemu;
use crate::other_vmms::{has_kvm, layouts, reads_all_of_it};
use hypervisor::{
    Error, LayoutOrigin, LayoutSource, OpenOptions, OpenedVm, SlotsUnusable, Target, host_checks, open,
    open_with,
};
use serde_json::json;
use testkit::vmm::{MapForm, Mapped, Vmm, VmmSpec};
use vmi_core::Gpa;

const MIB: u64 = 1 << 20;

fn open_by(pid: u32, layout_source: LayoutSource) -> Result<OpenedVm, Error> {
    open_with(&Target::Pid(pid), &OpenOptions { layout_source, ..OpenOptions::default() })
}

fn spec(exe: &'static str) -> VmmSpec {
    VmmSpec::new(exe, (512 * MIB, 0), Mapped::Anonymous, MapForm::ZeroPage)
}

/// Whether this machine has a KVM, and lets slots be read.
fn has_slots() -> bool {
    if !has_kvm() {
        return false;
    }
    let vmm = Vmm::start(&spec("firecracker")).unwrap();
    match open_by(vmm.pid(), LayoutSource::Slots) {
        // Machines without one or the other are no fault; the nested lab shows it everywhere.
        Err(Error::SlotsUnusable {
            source: why @ (SlotsUnusable::NoTypes { .. } | SlotsUnusable::Namespace),
            ..
        }) => {
            println!("skipped: {why}");
            false
        }
        Err(Error::SlotsUnusable { source: SlotsUnusable::Refused { source, .. }, .. })
            if matches!(source.raw_os_error(), Some(1 | 13 | 38)) =>
        {
            println!("skipped: {source}");
            false
        }
        opened => {
            assert_eq!(opened.unwrap().layout, LayoutOrigin::Slots);
            true
        }
    }
}

#[test]
fn the_memory_of_each_vmm_is_found_by_its_slots_and_read_to_the_byte() {
    if !has_slots() {
        return;
    }
    for spec in layouts() {
        reads_all_of_it(spec, LayoutSource::Slots);
        reads_all_of_it(VmmSpec { exe: "somebody-elses", form: MapForm::None, ..spec }, LayoutSource::Best);
    }
}

#[test]
fn what_a_guest_says_of_its_memory_is_not_asked_where_there_are_slots() {
    if !has_slots() {
        return;
    }
    let large = VmmSpec { ram: (0xd000_0000, 300 * MIB), ..spec("firecracker") };
    for spec in [
        VmmSpec { told: Some((256 * MIB, 0)), ..spec("firecracker") },
        VmmSpec { told: Some((0xd000_0000, 100 * MIB)), mapped: Mapped::OneFile, ..large },
        VmmSpec { exe: "cloud-hypervisor", ..large },
        VmmSpec { twice: true, ..spec("firecracker") },
    ] {
        reads_all_of_it(spec, LayoutSource::Best);
    }
}

#[test]
fn private_memory_is_protected_by_its_slots_too() {
    if !has_slots() {
        return;
    }
    let vmm = Vmm::start(&VmmSpec { private: true, ..spec("firecracker") }).unwrap();
    let refused = open_by(vmm.pid(), LayoutSource::Slots);
    assert!(matches!(refused, Err(Error::Protected { .. })), "{refused:?}");
}

#[test]
fn whether_slots_can_be_read_is_told_and_so_is_what_came_of_it() {
    if !has_slots() {
        return;
    }
    let vmm = Vmm::start(&spec("somebody-elses")).unwrap();
    let checks = host_checks();
    let detail = |name: &str| checks.iter().find(|check| check.name == name).unwrap().detail.as_str();
    assert!(detail("memory slots").contains("can be read"), "{checks:?}");
    let memory = detail(&format!("memory of pid-{}", vmm.pid()));
    assert!(memory.contains("laid out as the kernel's memory slots say"), "{memory}");
    // A process without a VM has none, and this one has no VM.
    let Some(qemu) = Qemu::start(&["-M", "q35", "-m", "64"]) else { return };
    let refused = open_by(qemu.pid(), LayoutSource::Slots);
    assert!(matches!(refused, Err(Error::SlotsUnusable { source: SlotsUnusable::NoVm, .. })), "{refused:?}");
    assert_eq!(open(&Target::Pid(qemu.pid())).unwrap().layout, LayoutOrigin::Rules);
}

/// QEMU on this machine's KVM, which is never started: a stock kernel does not boot on it.
fn qemu(options: &str) -> Option<Qemu> {
    let options: Vec<&str> =
        ["-accel", "kvm", "-cpu", "qemu64"].into_iter().chain(options.split(' ')).collect();
    Qemu::start(&options)
}

#[test]
fn slots_rules_and_monitor_of_a_qemu_say_the_same() {
    if !has_slots() {
        return;
    }
    for options in [
        "-M q35 -m 512",
        "-M q35 -m 3G -device VGA",
        "-M pc -m 4G",
        "-M microvm -m 256",
        "-M q35,memory-backend=m -m 1G -object memory-backend-memfd,id=m,size=1G,share=on",
        "-M q35 -m 1G -object memory-backend-ram,id=a,size=256M -object memory-backend-memfd,id=b,size=768M \
         -numa node,memdev=b -numa node,memdev=a",
    ] {
        let Some(mut qemu) = qemu(options) else { return };
        let by_rules = open_by(qemu.pid(), LayoutSource::Rules).unwrap();
        let by_slots =
            open_by(qemu.pid(), LayoutSource::Slots).unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_eq!(by_slots.memory.regions(), by_rules.memory.regions(), "{options}");
        assert_eq!(open_by(qemu.pid(), LayoutSource::Best).unwrap().layout, LayoutOrigin::Slots, "{options}");
        // In every region, where QEMU itself says that the guest has it.
        for (index, region) in (0_u64..).zip(by_slots.memory.regions()) {
            let at = Gpa(region.end().0 - 4096);
            qemu.poke(at.0, &index.to_le_bytes());
            for opened in [&by_slots, &by_rules] {
                let mut found = [0; 8];
                opened.memory.read(at, &mut found).unwrap();
                assert_eq!(u64::from_le_bytes(found), index, "{options} at {at}");
            }
        }
        qemu.release_monitor();
        let by_monitor = open_by(qemu.pid(), LayoutSource::Monitor).unwrap();
        assert_eq!(by_monitor.memory.regions(), by_slots.memory.regions(), "{options}");
        assert_eq!(by_monitor.layout, LayoutOrigin::Monitor);
    }
}

#[test]
fn slots_tell_what_neither_rules_nor_monitor_can() {
    if !has_slots() {
        return;
    }
    // A DIMM of the RAM's own size, plugged in while the guest runs, and somebody else holds the monitor.
    let Some(mut qemu) = qemu("-M q35 -m 1G,slots=2,maxmem=16G") else { return };
    qemu.command("object-add", json!({"qom-type": "memory-backend-ram", "id": "late", "size": 1024 * MIB}));
    qemu.command("device_add", json!({"driver": "pc-dimm", "id": "d", "memdev": "late"}));
    qemu.poke(1 << 32, b"in the dimm");
    qemu.poke(MIB, b"in the RAM");
    let refused = open_by(qemu.pid(), LayoutSource::Rules);
    assert!(matches!(refused, Err(Error::RamAmbiguous { .. })), "{refused:?}");
    let opened = open(&Target::Pid(qemu.pid())).unwrap();
    assert_eq!((opened.layout, opened.notes.as_slice()), (LayoutOrigin::Slots, &[][..]));
    let mut marks = [[0; 11]; 2];
    opened.memory.read(Gpa(1 << 32), &mut marks[0]).unwrap();
    opened.memory.read(Gpa(MIB), &mut marks[1][..10]).unwrap();
    assert_eq!(marks, [*b"in the dimm", *b"in the RAM\0"]);
}
