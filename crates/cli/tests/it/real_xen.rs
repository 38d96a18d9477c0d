//! A real Xen: `birthmark` and `birthmarkd` in the first domain of Xen 4.17, on guests of all three kinds (facts/lab.md 4). The machine
//! is emulated, so this runs anywhere. One boot is shared by all that is shown, but for the guest with an emulated PC: its BIOS
//! keeps the one CPU busy for longer than everything else takes, so it has a boot of its own.

use crate::lab_host::{
    StoppedLook, Way, a_pause_ends_when_the_look_is_killed_and_at_the_deadline, drift_is_found_and_cut_off,
    end_daemon, its_end_is_told, paused_look_equals_truth, snapshot_equals_truth, wait_until,
};
use crate::shown::Shown;
use crate::xen_inside;
use facts::{ConsistencyMode, Hypervisor, Snapshot, Vm, VmState};
use std::collections::BTreeMap;
use testkit::Need;
use testkit::host::{DomainKind, Inner, XenHost};

const HOST: &str =
    "Xen 4.17 on an emulated CPU with SVM, Debian's kernel 6.1 as its first domain, guests of `xl`";

fn uuid(number: u32) -> String {
    format!("7b0e7b5e-0000-4000-8000-{number:012}")
}

/// A host that has this test program in its first domain.
fn boot() -> XenHost {
    let program = std::env::current_exe().unwrap();
    XenHost::boot_with(&[(xen_inside::PROGRAM, program)]).unwrap()
}

/// What our libraries alone show; and that a guest which has given memory back is read as before.
fn registers_holes_and_libxenctrl(host: &XenHost, guest: &Inner<'_>) {
    xen_inside::run(host, guest, "registers_lead_to_the_kernel");
    xen_inside::run(host, guest, "libxenctrl_does_the_same_where_our_commands_are_refused");
    guest.truth().unwrap();
    host.balloon(guest, 120).unwrap();
    snapshot_equals_truth(host, guest, guest.name());
    xen_inside::run(host, guest, "what_was_given_back_is_a_hole");
}

/// A pause is over when its time is, and when the look is killed; those of an operator are left as they are.
fn a_pause_ends_whatever_happens_and_nests(host: &XenHost, guest: &Inner<'_>) {
    host.pause(guest).unwrap();
    let snapshot: Snapshot =
        host.json(&format!("birthmark snapshot {} --json --pause 10000", guest.name())).unwrap();
    assert_eq!(
        (snapshot.consistency.mode, snapshot.consistency.paused_us, snapshot.vm.state),
        (ConsistencyMode::Still, None, VmState::Paused)
    );
    assert!(host.is_paused(guest).unwrap());
    host.unpause(guest).unwrap();
    guest.truth().unwrap();

    let stands = || host.is_paused(guest).unwrap();
    a_pause_ends_when_the_look_is_killed_and_at_the_deadline(host, guest, stands);

    // The operator pauses it too while it stands because of us, and it stands until he ends that.
    let look = StoppedLook::begin(host, guest, 10_000);
    wait_until(stands, true);
    host.pause(guest).unwrap();
    look.kill();
    assert!(host.is_paused(guest).unwrap());
    host.unpause(guest).unwrap();
    assert!(!host.is_paused(guest).unwrap());
    guest.truth().unwrap();
}

#[test]
fn domains_of_a_real_xen_are_found_read_audited_and_cut_off() {
    if !testkit::require(&[Need::XenHost]) {
        return;
    }
    let host = boot();
    let kinds = [("pvh", DomainKind::Pvh), ("pv", DomainKind::Pv)];
    let guests: Vec<_> = (0..)
        .zip(kinds)
        .map(|(number, (name, kind))| {
            let card = u8::try_from(number).unwrap();
            host.start_domain(name, &uuid(number), kind, Some(card)).unwrap()
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

    let mut shown = Shown::on("xen.json", HOST);
    let [pvh, pv] = ["PVH", "PV"];
    shown.that(pvh, &["list"]);
    shown.that(pv, &["list"]);

    // By number and by UUID; by name is how the daemon's line below does it.
    snapshot_equals_truth(&host, &guests[0], &format!("xen:{}", listed["pvh"].domid.unwrap()));
    snapshot_equals_truth(&host, &guests[1], &format!("uuid:{}", uuid(1)));
    for guest in &guests {
        paused_look_equals_truth(&host, guest);
        assert!(!host.is_paused(guest).unwrap());
        registers_holes_and_libxenctrl(&host, guest);
    }
    a_pause_ends_whatever_happens_and_nests(&host, &guests[1]);
    for guest in &guests {
        let domid = listed[guest.name()].domid.unwrap();
        guest.load_module("xen_netfront").unwrap();
        let way = Way { device: &format!("vif{domid}.0"), interface: "eth0", address: "10.79.0.2" };
        drift_is_found_and_cut_off(&host, guest, &[way]);
        host.destroy(guest).unwrap();
        its_end_is_told(&host, guest.name());
        end_daemon(&host);
    }
    let line = ["audit", "daemon", "quarantine", "end"];
    let library = ["registers", "balloon", "libxenctrl"];
    shown.that(pvh, &["snapshot", "pause"]);
    shown.that(pvh, &library);
    shown.that(pvh, &line);
    shown.that(pv, &["snapshot", "pause", "pause ends"]);
    shown.that(pv, &library);
    shown.that(pv, &line);
    shown.keep_or_compare();
}

#[test]
fn a_domain_with_an_emulated_pc_is_found_and_read() {
    if !testkit::require(&[Need::XenHost]) {
        return;
    }
    let host = boot();
    let guest = host.start_domain("hvm", &uuid(0), DomainKind::Hvm, Some(0)).unwrap();
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
    paused_look_equals_truth(&host, &guest);
    assert!(!host.is_paused(&guest).unwrap());
    registers_holes_and_libxenctrl(&host, &guest);

    // Its kernel has kept the card that the device model emulates. Whoever cuts only Xen's device leaves that way open.
    let domid = vm.domid.unwrap();
    host.succeed("ip address add 10.80.0.1/24 dev br0").unwrap();
    for module in ["xen_netfront", "e1000"] {
        guest.load_module(module).unwrap();
    }
    let ways = [
        Way { device: &format!("vif{domid}.0"), interface: "eth0", address: "10.79.0.2" },
        Way { device: &format!("vif{domid}.0-emu"), interface: "eth1", address: "10.80.0.2" },
    ];
    drift_is_found_and_cut_off(&host, &guest, &ways);
    host.destroy(&guest).unwrap();
    its_end_is_told(&host, guest.name());
    let mut shown = Shown::on("xen-hvm.json", HOST);
    let hvm = "HVM, emulated PC";
    shown.that(hvm, &["list", "snapshot", "pause", "registers", "balloon", "libxenctrl"]);
    shown.that(hvm, &["audit", "daemon", "quarantine", "end"]);
    shown.keep_or_compare();
}
