//! A real KVM: `birthmark` and `birthmarkd` on a Debian host whose kernel drives real `qemu -accel kvm` guests, on memory of
//! every kind, one of them under libvirt (facts/lab.md 3). The host is emulated, so this runs anywhere; one boot is shared by
//! all that is shown.

use crate::lab_host::{
    StoppedLook, Way, a_pause_ends_when_the_look_is_killed_and_at_the_deadline, audit_tells_drift,
    drift_is_found_and_cut_off, end_daemon, its_end_is_told, paused_look_equals_truth, snapshot_equals_truth,
    wait_until,
};
use crate::shown::Shown;
use facts::{ConsistencyMode, Hypervisor, Metadata, Snapshot, Vm};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use testkit::Need;
use testkit::host::{Host, Inner, InnerBacking, KvmHost};

const TAP: &str = "tap-kvm";

/// How an operator pauses a guest, resumes it, and is told how it is.
enum Operator {
    Libvirt,
    /// At QEMU's console.
    Console,
}

impl Operator {
    fn script(&self, guest: &str, what: &str) -> String {
        match (self, what) {
            (Self::Libvirt, _) => format!("virsh -c qemu:///system {what} {guest}"),
            (Self::Console, "suspend") => format!("echo stop >/run/{guest}.op.in"),
            (Self::Console, "resume") => format!("echo cont >/run/{guest}.op.in"),
            (Self::Console, _) => {
                format!(
                    "echo info status >/run/{guest}.op.in; grep -m1 -o 'VM status: [a-z]*' /run/{guest}.op.out"
                )
            }
        }
    }

    fn wait_until(&self, host: &Host, guest: &str, state: &str) {
        host.wait_for(&format!("({}) | grep {state}", self.script(guest, "domstate"))).unwrap();
    }
}

/// The guest's process stands.
fn vmm_stands(host: &Host, pid: u32) -> bool {
    let stats = host.succeed(&format!("cat /proc/{pid}/task/*/stat")).unwrap();
    stats.lines().all(|stat| stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T'))
}

/// A pause is over when its time is, and when the look is killed; those of an operator hold, before it and meanwhile.
fn a_pause_ends_whatever_happens(host: &Host, guest: &Inner<'_>, pid: u32, operator: &Operator) {
    let name = guest.name();
    host.succeed(&operator.script(name, "suspend")).unwrap();
    operator.wait_until(host, name, "paused");
    let snapshot: Snapshot = host.json(&format!("birthmark snapshot {name} --json --pause 10000")).unwrap();
    assert_eq!(snapshot.consistency.mode, ConsistencyMode::Paused);
    operator.wait_until(host, name, "paused");
    host.succeed(&operator.script(name, "resume")).unwrap();
    guest.truth().unwrap();

    a_pause_ends_when_the_look_is_killed_and_at_the_deadline(host, guest, || vmm_stands(host, pid));

    let look = StoppedLook::begin(host, guest, 10_000);
    wait_until(|| vmm_stands(host, pid), true);
    let suspend = operator.script(name, "suspend");
    let suspend = match operator {
        // It is not answered until the guest's process goes on.
        Operator::Libvirt => format!("{suspend} >/run/operator.log 2>&1 & sleep 1; kill -0 $!"),
        Operator::Console => suspend,
    };
    host.succeed(&suspend).unwrap();
    look.kill();
    operator.wait_until(host, name, "paused");
    assert!(!vmm_stands(host, pid));
    host.succeed(&operator.script(name, "resume")).unwrap();
    operator.wait_until(host, name, "running");
    guest.truth().unwrap();
}

/// The registers of its vCPU lead to its kernel by each way that there is, and it goes on as if nothing had been.
fn registers_lead_to_the_kernel(host: &Host, guest: &Inner<'_>, has_monitor: bool) {
    let told = guest.steady(|| host.json::<BTreeMap<String, Value>>(&format!("registers {}", guest.name())));
    let (_, told) = told.unwrap();
    let twice = json!([1, 1]);
    assert_eq!(told["page"], twice, "{told:?}");
    for way in ["monitor", "dump"] {
        if has_monitor {
            assert_eq!(told[way], twice, "{told:?}");
        } else {
            assert!(told[way].as_str().unwrap().contains("no QMP unix socket"), "{told:?}");
        }
    }
}

/// What `birthmark doctor` says on a host, by the name of the check.
fn doctor(host: &Host) -> BTreeMap<String, String> {
    // It ends with 1 here: nothing is set up for the daemon.
    let said = host.run("birthmark doctor --json").unwrap();
    let checks: Vec<Value> =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let text = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
    checks.iter().map(|check| (text(check, "name"), text(check, "detail"))).collect()
}

#[test]
fn guests_of_a_real_kvm_are_found_read_audited_and_cut_off() {
    if !testkit::require(&[Need::KvmHost]) {
        return;
    }
    let uuid = |number: u32| format!("7b0e7b5e-0000-4000-8000-{number:012}");
    let registers = testkit::host::example("registers").unwrap();
    let host = KvmHost::boot_with(1, &[("lab/registers", registers)]).unwrap();
    let guests = [
        host.start_by_libvirt("managed", &uuid(0)).unwrap(),
        host.start_qemu("memfd", &uuid(1), InnerBacking::Memfd, Some(TAP)).unwrap(),
        host.start_qemu("anonymous", &uuid(2), InnerBacking::Anonymous, None).unwrap(),
        host.start_qemu("huge", &uuid(3), InnerBacking::HugePages, None).unwrap(),
    ];
    host.wait(&guests).unwrap();
    let kinds = ["anonymous memory, by libvirt", "memfd", "anonymous memory", "huge pages of 2 MiB"];
    let mut shown = Shown::on(
        "kvm.json",
        "KVM: `kvm_amd` of Debian's kernel 6.1 on an emulated CPU with SVM, guests of `qemu -accel kvm` 7.2 and libvirt 9.0",
    );

    let listed: Vec<Vm> = host.json("birthmark list --json").unwrap();
    let listed: BTreeMap<&str, &Vm> = listed.iter().map(|vm| (vm.name.as_str(), vm)).collect();
    assert_eq!(listed.len(), guests.len(), "{listed:?}");
    for (number, guest) in (0..).zip(&guests) {
        let vm = listed[guest.name()];
        assert_eq!(vm.id, format!("uuid:{}", uuid(number)));
        assert_eq!((vm.hypervisor, vm.memory_bytes, vm.vcpus), (Hypervisor::Kvm, Some(160 << 20), Some(1)));
    }

    kinds.iter().for_each(|kind| shown.that(kind, &["list"]));

    // What libvirt says of its guest, and of no other's.
    for guest in &guests[1..] {
        assert_eq!(listed[guest.name()].libvirt, None);
    }
    let said = listed["managed"].libvirt.as_ref().unwrap();
    assert_eq!(said.title.as_deref(), Some("The managed guest"));
    assert_eq!(said.description.as_deref(), Some("Made by the lab."));
    let one = |key: &str, value: &str| Metadata {
        namespace: Some("https://birthmark.dev/lab".to_owned()),
        key: key.to_owned(),
        value: value.to_owned(),
    };
    assert_eq!(said.metadata, [one("instance/name", "managed-1"), one("instance/flavor@name", "small")]);
    let by_metadata: Snapshot =
        host.json("birthmark snapshot metadata:instance/flavor@name=small --json").unwrap();
    assert_eq!(by_metadata.vm.id, format!("uuid:{}", uuid(0)));

    shown.that(kinds[0], &["metadata"]);

    // The host's own kernel says where the memory of each is: its verifier takes our program, its types (KVM's are a module's) tell
    // where the slots are.
    let checks = doctor(&host);
    assert!(checks["memory slots"].contains("can be read"), "{checks:?}");
    for guest in &guests {
        let memory = &checks[&format!("memory of {}", guest.name())];
        assert!(memory.contains("laid out as the kernel's memory slots say"), "{memory}");
    }

    kinds.iter().for_each(|kind| shown.that(kind, &["slots"]));

    // Those of the guest that libvirt started by the shared page alone: libvirt has its monitor.
    for (guest, kind) in guests.iter().zip(kinds) {
        registers_lead_to_the_kernel(&host, guest, kind != kinds[0]);
        shown.that(kind, &["registers"]);
    }

    // By name, and the one that libvirt started by the UUID that libvirt gave it, while libvirt holds its monitor.
    for guest in &guests[1..] {
        snapshot_equals_truth(&host, guest, guest.name());
    }
    let snapshot = snapshot_equals_truth(&host, &guests[0], &format!("uuid:{}", uuid(0)));
    assert_eq!(snapshot.vm.name, "managed");
    assert!(host.succeed("virsh -c qemu:///system domstate managed").unwrap().contains("running"));

    kinds.iter().for_each(|kind| shown.that(kind, &["snapshot"]));
    for (guest, kind) in guests.iter().zip(kinds) {
        let operator = if kind == kinds[0] { Operator::Libvirt } else { Operator::Console };
        paused_look_equals_truth(&host, guest);
        operator.wait_until(&host, guest.name(), "running");
        shown.that(kind, &["pause"]);
        a_pause_ends_whatever_happens(&host, guest, listed[guest.name()].pid.unwrap(), &operator);
        shown.that(kind, &["pause ends"]);
    }

    for (guest, kind) in guests.iter().zip(kinds) {
        if ![kinds[0], kinds[1]].contains(&kind) {
            audit_tells_drift(&host, guest);
            shown.that(kind, &["audit"]);
        }
    }
    guests[0].load_module("virtio_net").unwrap();
    // The tap is one that libvirt has made.
    let way = Way { device: "vnet0", interface: "eth0", address: "10.79.0.3" };
    drift_is_found_and_cut_off(&host, &guests[0], &[way]);
    end_daemon(&host);
    shown.that(kinds[0], &["audit", "daemon", "quarantine"]);
    guests[1].load_module("virtio_net").unwrap();
    let way = Way { device: TAP, interface: "eth0", address: "10.79.0.2" };
    drift_is_found_and_cut_off(&host, &guests[1], &[way]);
    host.succeed(&format!("kill {}", listed["memfd"].pid.unwrap())).unwrap();
    its_end_is_told(&host, guests[1].name());
    shown.that(kinds[1], &["audit", "daemon", "quarantine", "end"]);

    // A host that is locked down does not let its kernel be read, by nobody: the rules stand in, and see the same.
    host.succeed(
        "mount -t securityfs securityfs /sys/kernel/security && echo confidentiality >/sys/kernel/security/lockdown",
    )
    .unwrap();
    let checks = doctor(&host);
    assert!(checks["memory slots"].contains("the kernel refused"), "{checks:?}");
    assert!(checks["memory of anonymous"].contains("by the rules of its machine"), "{checks:?}");
    for guest in [&guests[0], &guests[2], &guests[3]] {
        snapshot_equals_truth(&host, guest, guest.name());
    }
    [kinds[0], kinds[2]].iter().for_each(|kind| shown.that(kind, &["locked down"]));
    shown.keep_or_compare();
}
