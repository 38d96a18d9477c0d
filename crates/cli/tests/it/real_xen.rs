//! A real Xen: `birthmark` and `birthmarkd` in the first domain of Xen 4.17, on guests of all three kinds (facts/lab.md 4). The machine
//! is emulated, so this runs anywhere. One boot is shared by all that is shown, but for the guest with an emulated PC: its BIOS
//! keeps the one CPU busy for longer than everything else takes, so it has a boot of its own.

use crate::lab_host::{drift_is_found_and_cut_off, its_end_is_told, snapshot_equals_truth};
use facts::{Hypervisor, Vm, VmState};
use std::collections::BTreeMap;
use testkit::Need;
use testkit::host::{DomainKind, XenHost};

fn uuid(number: u32) -> String {
    format!("7b0e7b5e-0000-4000-8000-{number:012}")
}

#[test]
fn domains_of_a_real_xen_are_found_read_audited_and_cut_off() {
    if !testkit::require(&[Need::XenHost]) {
        return;
    }
    let host = XenHost::boot().unwrap();
    let kinds = [("pvh", DomainKind::Pvh), ("pv", DomainKind::Pv)];
    let guests: Vec<_> = (0..)
        .zip(kinds)
        .map(|(number, (name, kind))| {
            host.start_domain(name, &uuid(number), kind, kind == DomainKind::Pvh).unwrap()
        })
        .collect();
    host.wait(&guests).unwrap();

    let listed: Vec<Vm> = host.json("birthmark list --json").unwrap();
    let listed: BTreeMap<&str, &Vm> = listed.iter().map(|vm| (vm.name.as_str(), vm)).collect();
    assert_eq!(listed.len(), guests.len(), "{listed:?}");
    for (number, guest) in (0..).zip(&guests) {
        let vm = listed[guest.name()];
        assert_eq!((vm.domid, vm.pid), (Some(host.domid(guest).unwrap()), None));
        assert_eq!((&vm.id, vm.hypervisor), (&format!("uuid:{}", uuid(number)), Hypervisor::Xen));
        assert_eq!((vm.vcpus, vm.state), (Some(1), VmState::Running));
        let mib = vm.memory_bytes.unwrap() >> 20;
        assert!((150..=170).contains(&mib), "{vm:?}");
    }

    // By number and by UUID; by name is how the daemon's line below does it.
    snapshot_equals_truth(&host, &guests[0], &format!("xen:{}", listed["pvh"].domid.unwrap()));
    snapshot_equals_truth(&host, &guests[1], &format!("uuid:{}", uuid(1)));

    let domid = listed["pvh"].domid.unwrap();
    guests[0].load_module("xen_netfront").unwrap();
    drift_is_found_and_cut_off(&host, &guests[0], &format!("vif{domid}.0"), "10.79.0.2");
    host.destroy(&guests[0]).unwrap();
    its_end_is_told(&host);
}

#[test]
fn a_domain_with_an_emulated_pc_is_found_and_read() {
    if !testkit::require(&[Need::XenHost]) {
        return;
    }
    let host = XenHost::boot().unwrap();
    let guest = host.start_domain("hvm", &uuid(0), DomainKind::Hvm, false).unwrap();
    host.wait([&guest]).unwrap();

    // Its device model is a QEMU that has no guest: the guest is Xen's.
    let listed: Vec<Vm> = host.json("birthmark list --json").unwrap();
    let [vm] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!(
        (vm.name.as_str(), &vm.id, vm.hypervisor),
        ("hvm", &format!("uuid:{}", uuid(0)), Hypervisor::Xen)
    );
    assert_eq!((vm.domid, vm.pid, vm.vcpus), (Some(host.domid(&guest).unwrap()), None, Some(1)));
    snapshot_equals_truth(&host, &guest, "hvm");
}
