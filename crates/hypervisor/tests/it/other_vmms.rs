//! VMMs other than QEMU, as the testkit's small one plays them on the real KVM of this machine: found by their VM, laid out by their
//! rules, read byte by byte; and refused where rules, mappings and the guest's memory map do not agree.

use crate::lab::skip;
use facts::Hypervisor;
use hypervisor::{Error, LayoutSource, OpenOptions, OpenedVm, Target, open_with};
use std::os::unix::fs::MetadataExt;
use testkit::vmm::{GUEST_WRITES_AT, MapForm, Mapped, Vmm, VmmSpec, WRITTEN_BY_GUEST};
use vmi_core::Gpa;

const MIB: u64 = 1 << 20;
const SMALL: (u64, u64) = (512 * MIB, 0);

pub fn has_kvm() -> bool {
    let can = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !can {
        // Machines without one are no fault; the nested lab shows a real KVM everywhere.
        println!("skipped: /dev/kvm cannot be opened");
    }
    can && (nix::unistd::Uid::effective().is_root() || {
        skip("only root may read another process's memory");
        false
    })
}

fn open(vmm: &Vmm, layout_source: LayoutSource) -> Result<OpenedVm, Error> {
    let options = OpenOptions { layout_source, ..OpenOptions::default() };
    open_with(&Target::Pid(vmm.pid()), &options)
}

fn number(vm: &OpenedVm, at: u64) -> u64 {
    let mut bytes = [0; 8];
    vm.memory.read(Gpa(at), &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// Bytes of guest memory that exist: what is resident of the VMM's mappings of 64 MiB and more, and its files of memory.
fn existing(pid: u32) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let kib = |line: &str, key: &str| -> Option<u64> {
        line.strip_prefix(key)?.split_whitespace().next()?.parse().ok()
    };
    let (mut size, mut sum) = (0, 0);
    for line in smaps.lines() {
        size = kib(line, "Size:").unwrap_or(size);
        sum += kib(line, "Rss:").filter(|_| size >= 64 << 10).unwrap_or(0) * 1024;
    }
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
    let memory =
        files.filter(|path| std::fs::read_link(path).unwrap().to_string_lossy().starts_with("/memfd:"));
    sum + memory.map(|path| std::fs::metadata(path).unwrap().blocks() * 512).sum::<u64>()
}

/// Every page that was written is where it must be, all else is zeros, and nothing came to exist.
pub fn reads_all_of_it(spec: VmmSpec, source: LayoutSource) {
    let vmm = Vmm::start(&spec).unwrap();
    let vm = open(&vmm, source).unwrap_or_else(|error| panic!("{spec:?}: {error}"));
    assert_eq!(vm.vm.hypervisor, Hypervisor::Kvm, "{spec:?}");
    let mut expected = vec![(0, spec.ram.0)];
    expected.extend((spec.ram.1 > 0).then_some((1 << 32, spec.ram.1)));
    let regions: Vec<(u64, u64)> =
        vm.memory.regions().iter().map(|region| (region.start.0, region.len)).collect();
    assert_eq!(regions, expected, "{spec:?}");

    let before = existing(vmm.pid());
    for at in Vmm::written(spec.ram) {
        assert_eq!(number(&vm, at), !at, "{at:#x} of {spec:?}");
        // The page after each was not touched by anybody, but for the end of a part.
        if vm.memory.region_of(Gpa(at + 4096), 8).is_some() {
            assert_eq!(number(&vm, at + 4096), 0, "{at:#x} of {spec:?}");
        }
    }
    assert_eq!(existing(vmm.pid()), before, "{spec:?}");
    let mut byte = [0];
    vm.memory.read(Gpa(GUEST_WRITES_AT), &mut byte).unwrap();
    assert_eq!(byte[0], WRITTEN_BY_GUEST, "what the guest wrote itself, in {spec:?}");
    drop(vmm);
    assert!(!vm.is_alive() && vm.memory.begin_look().is_err(), "{spec:?}");
}

/// The layouts of the VMMs whose rules are known.
pub fn layouts() -> Vec<VmmSpec> {
    let (three, more) = ((0xc000_0000, 700 * MIB), (0xd000_0000, 300 * MIB));
    let firecracker = |ram, mapped, form| VmmSpec::new("firecracker", ram, mapped, form);
    let hypervisor = |ram, mapped, form| VmmSpec::new("cloud-hypervisor", ram, mapped, form);
    vec![
        firecracker(SMALL, Mapped::Anonymous, MapForm::ZeroPage),
        firecracker(more, Mapped::Anonymous, MapForm::ZeroPage),
        firecracker(three, Mapped::Anonymous, MapForm::Pvh),
        firecracker(three, Mapped::Adjacent, MapForm::Pvh),
        firecracker(more, Mapped::OneFile, MapForm::ZeroPage),
        VmmSpec::new("firecracker-v1.7.0-x86_64", SMALL, Mapped::OneFile, MapForm::ZeroPage),
        hypervisor(SMALL, Mapped::Anonymous, MapForm::Pvh),
        hypervisor(three, Mapped::Adjacent, MapForm::Pvh),
        hypervisor(three, Mapped::FilePerPart, MapForm::Pvh),
        VmmSpec::new("crosvm", SMALL, Mapped::OneFile, MapForm::ZeroPage),
        VmmSpec::new("crosvm", more, Mapped::OneFile, MapForm::ZeroPage),
        VmmSpec::new("lkvm", SMALL, Mapped::WithHole, MapForm::Kvmtool),
        VmmSpec::new("lkvm", more, Mapped::WithHole, MapForm::Kvmtool),
    ]
}

#[test]
fn the_memory_of_each_vmm_is_found_by_its_rules_and_read_to_the_byte() {
    if !has_kvm() {
        return;
    }
    for spec in layouts() {
        reads_all_of_it(spec, LayoutSource::Rules);
    }
}

/// The error that opening such a VM ends with.
fn refusal(spec: VmmSpec) -> Error {
    let vmm = Vmm::start(&spec).unwrap();
    match open(&vmm, LayoutSource::Rules) {
        Ok(vm) => panic!("{spec:?} was opened as {:?}", vm.memory.regions()),
        Err(error) => error,
    }
}

#[test]
fn a_layout_that_contradicts_itself_is_refused() {
    if !has_kvm() {
        return;
    }
    let good = VmmSpec::new("firecracker", SMALL, Mapped::Anonymous, MapForm::ZeroPage);
    let large = (0xd000_0000, 300 * MIB);
    // The map names another hole, more than there is, and an upper part that is nowhere.
    for told in [(0xb000_0000, 300 * MIB), (600 * MIB, 0), (0xe000_0000, 0)] {
        let error = refusal(VmmSpec { told: Some(told), ..good });
        assert!(matches!(error, Error::BootMapContradiction { .. }), "{told:x?}: {error}");
    }
    let error = refusal(VmmSpec { ram: (0xd000_0000, 0), told: Some(large), ..good });
    assert!(matches!(error, Error::RamNotFound { .. }), "{error}");
    // The guest wrote less into its map than it has, so that nobody looks at the rest.
    let error = refusal(VmmSpec { told: Some((256 * MIB, 0)), ..good });
    assert!(matches!(error, Error::RamLeftOver { .. }), "{error}");
    let error = refusal(VmmSpec {
        ram: large,
        mapped: Mapped::OneFile,
        told: Some((0xd000_0000, 100 * MIB)),
        ..good
    });
    assert!(matches!(error, Error::RamNotFound { .. }), "{error}");
    // No map, two of them, and the hole of another VMM.
    let error = refusal(VmmSpec { form: MapForm::None, ..good });
    assert!(matches!(error, Error::NoBootMap { .. }), "{error}");
    let error = refusal(VmmSpec { twice: true, ..good });
    assert!(matches!(error, Error::RamAmbiguous { .. }), "{error}");
    let error = refusal(VmmSpec { exe: "cloud-hypervisor", ram: large, ..good });
    assert!(matches!(error, Error::BootMapContradiction { .. }), "{error}");
}

#[test]
fn a_vmm_that_nobody_knows_is_listed_and_refused_by_the_rules() {
    if !has_kvm() {
        return;
    }
    let spec = VmmSpec::new("somebody-elses", SMALL, Mapped::Anonymous, MapForm::ZeroPage);
    let vmm = Vmm::start(&spec).unwrap();
    let listed = hypervisor::list().unwrap();
    let vm = listed.vms.iter().find(|vm| vm.pid == Some(vmm.pid())).unwrap();
    assert_eq!((vm.hypervisor, vm.vcpus, vm.memory_bytes), (Hypervisor::Kvm, Some(1), None));
    assert!(
        matches!(open(&vmm, LayoutSource::Rules), Err(Error::UnknownVmm { exe, .. }) if exe == "somebody-elses")
    );
}

#[test]
fn memory_that_is_the_guests_alone_is_said_to_be_unreadable() {
    if !has_kvm() {
        return;
    }
    for exe in ["firecracker", "somebody-elses"] {
        let spec = VmmSpec::new(exe, SMALL, Mapped::Anonymous, MapForm::ZeroPage);
        let error = refusal(VmmSpec { private: true, ..spec });
        assert!(matches!(&error, Error::Protected { how, .. } if how.contains("guest_memfd")), "{error}");
    }
}
