//! Guests boot on every kernel, machine and kind of memory, and their truth is sane.

use crate::guest;
use serde_json::json;
use std::path::Path;
use testkit::{Backing, Guest, GuestSpec, Kernel, Machine, Need, Nic, PagingLevels, Truth};

fn assert_sane(guest: &Guest, truth: &Truth) {
    let kernel = &truth.kernel;
    assert_eq!(kernel.release, guest.kernel().release);
    assert!(kernel.banner.starts_with(&format!("Linux version {}", kernel.release)), "{}", kernel.banner);
    assert!(kernel.banner.ends_with(&kernel.version), "{} / {}", kernel.banner, kernel.version);
    assert_eq!(kernel.boot_id.len(), 36);
    assert_eq!(kernel.build_id.as_ref().unwrap().len(), 40);
    for name in ["_stext", "init_task", "modules", "tcp_hashinfo", "__start_BTF", "__stop_BTF"] {
        assert!(kernel.symbols[name] >= 0xffff_ffff_8000_0000, "{name} {:#x}", kernel.symbols[name]);
    }
    let ram: u64 = kernel.system_ram.iter().map(|range| range.end - range.start + 1).sum();
    assert!(ram > kernel.memory_total_kib * 1024, "{ram} < {} KiB", kernel.memory_total_kib);

    let init = truth.process(1).unwrap();
    assert_eq!((init.comm.as_str(), init.exe.as_deref(), init.ppid), ("init", Some("/init"), 0));
    assert_eq!((init.uids, init.gids, init.threads), ([0; 4], [0; 4], 1));
    assert_eq!(init.namespace_pids, [1]);
    assert!(init.capabilities_effective & 1 != 0 && !init.kernel_thread);
    assert_eq!(init.args, ["/init"]);
    assert_eq!(init.cgroup.as_deref(), Some("/"));
    let threads = truth.process(2).unwrap();
    assert_eq!((threads.comm.as_str(), threads.kernel_thread, &threads.exe), ("kthreadd", true, &None));
    assert_eq!(truth.user_processes().count(), 1, "the agent is alone");
    assert!(truth.processes.len() > 20);
    assert!(truth.processes.iter().all(|process| process.comm.len() <= 15));
    assert!(
        truth.processes.iter().filter(|process| process.kernel_thread).all(|process| process.args.is_empty())
    );
    assert_eq!(init.namespaces.net, threads.namespaces.net);
}

#[test]
fn a_6_1_guest_in_a_memfd_boots_and_tells_the_truth() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec.backing(Backing::Memfd)) else { return };
    let truth = guest.truth().unwrap();
    assert_sane(&guest, &truth);
    assert!(truth.kernel.release.starts_with("6.1."));
    assert_eq!(truth.kernel.page_table_levels, 4);
    let exe = std::fs::read_link(format!("/proc/{}/exe", guest.pid())).unwrap();
    assert!(exe.ends_with("qemu-system-x86_64"), "{}", exe.display());
    assert_eq!(guest.qmp(&json!({"execute": "query-status"})).unwrap()["status"], "running");
    assert!(guest.qmp(&json!({"execute": "no-such-command"})).is_err());
}

#[test]
fn what_is_prepared_is_in_the_cache() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let prepared = testkit::prepare(Kernel::V6_1).unwrap();
    assert_eq!(testkit::kernels::cached(Kernel::V6_1), Some(prepared));
}

#[test]
fn a_6_12_guest_with_five_levels_and_anonymous_memory_boots_and_tells_the_truth() {
    let Some(guest) =
        guest(Kernel::V6_12, |spec| spec.backing(Backing::Anonymous).levels(PagingLevels::Five))
    else {
        return;
    };
    let truth = guest.truth().unwrap();
    assert_sane(&guest, &truth);
    assert!(truth.kernel.release.starts_with("6.12."));
    assert_eq!(truth.kernel.page_table_levels, 5);
}

#[test]
fn two_vcpus_on_i440fx_boot_and_show_their_parameters() {
    let uuid = "5f3cb9e4-3b39-4dd6-a3f4-0123456789ab";
    let Some(guest) = guest(Kernel::V6_12, |spec| {
        spec.machine(Machine::I440fx).vcpus(2).uuid(uuid).name("two").kernel_parameter("birthmark.marker=1")
    }) else {
        return;
    };
    let truth = guest.truth().unwrap();
    assert_sane(&guest, &truth);
    assert!(truth.kernel.command_line.contains("birthmark.marker=1"));
    assert!(truth.processes.iter().any(|process| process.comm == "cpuhp/1"), "the second vCPU is up");
    assert_eq!(guest.qmp(&json!({"execute": "query-uuid"})).unwrap()["UUID"], uuid);
    assert_eq!(guest.qmp(&json!({"execute": "query-name"})).unwrap()["name"], "two");
}

#[test]
fn a_microvm_boots_and_powers_off() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec.machine(Machine::Microvm)) else { return };
    assert_sane(&guest, &guest.truth().unwrap());
    guest.power_off().unwrap();
    let nic = Nic { tap: "none".into(), namespace: None, mac: "52:54:00:00:00:01".into() };
    let error = Guest::boot(GuestSpec::new(Kernel::V6_1).machine(Machine::Microvm).nic(nic)).unwrap_err();
    assert!(format!("{error:#}").contains("no virtio devices"), "{error:#}");
}

#[test]
fn a_guest_that_is_dropped_or_powered_off_leaves_nothing() {
    let Some(first) = guest(Kernel::V6_1, |spec| spec) else { return };
    let (pid, directory) = (first.pid(), first.directory().to_owned());
    drop(first);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!directory.exists());

    let second = guest(Kernel::V6_1, |spec| spec).unwrap();
    let (pid, directory) = (second.pid(), second.directory().to_owned());
    second.power_off().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!directory.exists());
}

#[test]
fn a_guest_that_cannot_boot_fails_with_its_last_words() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1)]) {
        return;
    }
    let error = Guest::boot(
        GuestSpec::new(Kernel::V6_1).kernel_parameter("rdinit=/none").kernel_parameter("root=/none"),
    )
    .unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("3 boots") && text.contains("Kernel panic"), "{text}");

    let error = Guest::boot(GuestSpec::new(Kernel::V6_1).qemu_argument("-no-such-option")).unwrap_err();
    assert!(format!("{error:#}").contains("no-such-option"), "{error:#}");
}
