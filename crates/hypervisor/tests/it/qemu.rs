//! Real QEMU, paused before its first instruction. Its own monitor is the truth.

use crate::lab::{Qemu, as_nobody, rss, skip};
use facts::{Hypervisor, Nic, Vm};
use hypervisor::kvm::monitor::parse;
use hypervisor::{
    Error, LayoutSource, OpenOptions, OpenedVm, Target, host_checks, list, nics, open, open_with,
};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vmi_core::{Access, Gpa, MemoryError, Region};

const TCG: &[&str] = &["-accel", "tcg"];
const MIB: u64 = 1 << 20;

fn vm_of(qemu: &Qemu) -> Vm {
    list().unwrap().vms.into_iter().find(|vm| vm.pid == Some(qemu.pid())).unwrap()
}

fn start(options: &str) -> Option<Qemu> {
    let options: Vec<&str> = TCG.iter().copied().chain(options.split(' ')).collect();
    Qemu::start(&options)
}

fn open_pid(qemu: &Qemu) -> OpenedVm {
    open(&Target::Pid(qemu.pid())).unwrap()
}

/// Opens the guest, holds its regions against QEMU's flat view, and reads marks back that were written at the addresses
/// QEMU gives for the borders of each.
fn layout_is_qemus(options: &str, access: Access) {
    let Some(mut qemu) = start(options) else { return };
    let opened = open_pid(&qemu);
    let memory = &opened.memory;
    assert_eq!(memory.access(), access, "{options}");

    let view = qemu.human("info mtree -f");
    let mut truth: Vec<Region> = Vec::new();
    // Above the first MiB; firmware flash and option ROMs are not RAM.
    let ram = |name: &str| !matches!(name, "pc.bios" | "pc.rom");
    for range in parse(&view).into_iter().filter(|range| range.guest.end().0 > MIB && ram(&range.block)) {
        let start = range.guest.start.0.max(MIB);
        let region = Region { start: Gpa(start), len: range.guest.end().0 - start };
        match truth.last_mut() {
            Some(last) if last.end() == region.start => last.len += region.len,
            _ => truth.push(region),
        }
    }
    let ours: Vec<Region> = memory
        .regions()
        .iter()
        .filter(|region| region.end().0 > MIB)
        .map(|region| {
            let start = region.start.0.max(MIB);
            Region { start: Gpa(start), len: region.end().0 - start }
        })
        .collect();
    assert_eq!(ours, truth, "{options}\n{view}");
    assert!(memory.read(Gpa(0xa_0000), &mut [0]).is_err() || options.contains("microvm"));

    // Both ends of each of QEMU's ranges (not only of the joined ones), and conventional memory.
    let mut places = vec![0x1000, 0x9_f000];
    for range in parse(&view).into_iter().filter(|range| range.guest.end().0 > MIB && ram(&range.block)) {
        places.extend([range.guest.start.0.max(MIB), range.guest.end().0 - 8]);
    }
    for (number, &place) in places.iter().enumerate() {
        qemu.poke(place, &(0xb1b2_b3b4_0000_0000 | number as u64).to_le_bytes());
    }
    memory.begin_look().unwrap();
    for (number, &place) in places.iter().enumerate() {
        let mut word = [0; 8];
        memory.read(Gpa(place), &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), 0xb1b2_b3b4_0000_0000 | number as u64, "{options}: {place:#x}");
        // By one load where memory is mapped, once it is known that it is there.
        match memory.page(Gpa(place)) {
            Some(page) => assert_eq!(page.word(place), u64::from_le_bytes(word), "{options}: {place:#x}"),
            None => assert_eq!(access, Access::PerCall, "{options}: {place:#x}"),
        }
    }
    for end in memory.regions().iter().map(|region| region.end()) {
        assert!(memory.region_of(end, 8).is_some() || memory.page(end).is_none(), "{options}: {end}");
    }
    let populated = memory.populated(Region { start: Gpa(0), len: u64::MAX }).unwrap();
    for place in places {
        assert!(
            populated.iter().any(|region| region.contains(Gpa(place), 8)),
            "{options}: {place:#x} in {populated:?}"
        );
    }
}

#[test]
fn anonymous_memory_of_pc_is_where_qemu_says() {
    layout_is_qemus("-m 512", Access::PerCall);
    layout_is_qemus("-M pc -m 4G", Access::PerCall);
    layout_is_qemus("-M pc,max-ram-below-4g=1G -m 2G", Access::PerCall);
}

#[test]
fn anonymous_memory_of_q35_is_where_qemu_says() {
    layout_is_qemus("-M q35 -m 1.5G", Access::PerCall);
    layout_is_qemus("-M q35 -m 4G", Access::PerCall);
    layout_is_qemus("-M q35 -m size=2816M,slots=2,maxmem=8G", Access::PerCall);
    layout_is_qemus("-M q35,max-ram-below-4g=1G -m 3G", Access::PerCall);
}

#[test]
fn memory_of_microvm_is_where_qemu_says() {
    layout_is_qemus("-M microvm -m 512", Access::PerCall);
    layout_is_qemus("-M microvm -m 4G", Access::PerCall);
}

#[test]
fn shared_memory_is_where_qemu_says() {
    layout_is_qemus(
        "-M q35,memory-backend=m -m 4G -object memory-backend-memfd,id=m,size=4G,share=on",
        Access::Mapped,
    );
    layout_is_qemus(
        "-M pc,memory-backend=m -object memory-backend-memfd,id=m,size=5G,share=on -m 5G",
        Access::Mapped,
    );
    layout_is_qemus(
        "-M pc,memory-backend=m -m 1G -object memory-backend-ram,id=m,size=1G,share=on",
        Access::Mapped,
    );
    layout_is_qemus(
        "-M pc,memory-backend=m -m 1G -object memory-backend-file,id=m,size=1G,mem-path=ram,share=on",
        Access::Mapped,
    );
}

#[test]
fn private_copies_of_files_are_where_qemu_says() {
    layout_is_qemus(
        "-M pc,memory-backend=m -m 1G -object memory-backend-file,id=m,size=1G,mem-path=ram,share=off",
        Access::PerCall,
    );
    layout_is_qemus(
        "-M pc,memory-backend=m -m 1G -object memory-backend-memfd,id=m,size=1G,share=off",
        Access::PerCall,
    );
    layout_is_qemus("-m 512 -mem-path .", Access::PerCall);
}

#[test]
fn numa_nodes_are_where_qemu_says() {
    let node =
        |kind: &str, id: &str, size: &str| format!("-object memory-backend-{kind},id={id},size={size}");
    // Equal and unequal sizes, nodes in another order than the objects, shared, private, mixed, across the PCI hole.
    for (one, two, nodes, machine, access) in [
        (
            node("memfd,share=on", "a", "1G"),
            node("memfd,share=on", "b", "1G"),
            ["b", "a"],
            "pc -m 2G",
            Access::Mapped,
        ),
        (
            node("memfd,share=on", "a", "2G"),
            node("memfd,share=on", "b", "2G"),
            ["a", "b"],
            "q35 -m 4G",
            Access::Mapped,
        ),
        (node("ram", "a", "1536M"), node("ram", "b", "1536M"), ["a", "b"], "q35 -m 3G", Access::PerCall),
        (node("ram", "a", "1G"), node("ram", "b", "1G"), ["b", "a"], "pc -m 2G", Access::PerCall),
        (node("ram", "a", "1G"), node("memfd,share=on", "b", "3G"), ["b", "a"], "pc -m 4G", Access::PerCall),
    ] {
        let [first, second] = nodes;
        layout_is_qemus(
            &format!("-M {machine} {one} {two} -numa node,memdev={first} -numa node,memdev={second}"),
            access,
        );
    }
}

#[test]
fn reading_all_of_a_guest_makes_no_page_of_it_exist() {
    const MARK: u64 = 0x1234_5000;
    for (options, key) in [
        ("-M q35,memory-backend=m -m 1G -object memory-backend-memfd,id=m,size=1G,share=on", "RssShmem"),
        ("-M q35 -m 1G", "RssAnon"),
        ("-M pc,memory-backend=m -m 1G -object memory-backend-memfd,id=m,size=1G,share=off", "RssShmem"),
    ] {
        let Some(mut qemu) = start(options) else { return };
        qemu.poke(MARK, b"mark");
        let opened = open_pid(&qemu);
        let everything = Region { start: Gpa(0), len: u64::MAX };
        let populated = opened.memory.populated(everything).unwrap();
        let before: Vec<u64> =
            ["RssAnon", "RssShmem", "RssFile", "VmPTE"].iter().map(|key| rss(qemu.pid(), key)).collect();
        let shared_before = host_shmem();
        let mut chunk = vec![0; 1 << 20];
        let mut found = false;
        for _ in 0..2 {
            opened.memory.begin_look().unwrap();
            for region in opened.memory.regions() {
                let mut at = region.start.0;
                while at < region.end().0 {
                    let len = usize::try_from((region.end().0 - at).min(1 << 20)).unwrap();
                    opened.memory.read(Gpa(at), &mut chunk[..len]).unwrap();
                    let into = MARK.checked_sub(at).and_then(|into| usize::try_from(into).ok());
                    let marked = into.and_then(|into| chunk[..len].get(into..));
                    found |= marked.is_some_and(|rest| rest.starts_with(b"mark"));
                    at += len as u64;
                }
            }
        }
        assert!(found);
        let after: Vec<u64> =
            ["RssAnon", "RssShmem", "RssFile", "VmPTE"].iter().map(|key| rss(qemu.pid(), key)).collect();
        for ((after, before), slack) in after.into_iter().zip(before).zip([MIB, 0, 0, 0]) {
            // QEMU itself frees and takes some heap meanwhile, its RCU thread for one; a read guest would be 1 GiB.
            assert!(
                after <= before + slack,
                "{options}: RssAnon, RssShmem, RssFile, VmPTE: {before} -> {after}"
            );
        }
        assert_eq!(opened.memory.populated(everything).unwrap(), populated, "{options}");
        // Shared memory that only we map would not show in QEMU's own numbers; the host's total does, give or take others.
        let grown = host_shmem().saturating_sub(shared_before);
        assert!(grown < 256 * MIB, "{options} ({key}): the host's shared memory grew by {grown} bytes");
    }
}

fn host_shmem() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Shmem:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn a_vm_is_listed_with_its_name_uuid_and_size() {
    let uuid = "0a1b2c3d-0000-1111-2222-333344445566";
    let name = format!("listed-{}", std::process::id());
    let Some(qemu) =
        start(&format!("-name guest={name},debug-threads=on -uuid {uuid} -m 256 -smp sockets=2,cores=2"))
    else {
        return;
    };
    let listing = list().unwrap();
    let vm = listing.vms.iter().find(|vm| vm.pid == Some(qemu.pid())).unwrap();
    assert_eq!((vm.name.as_str(), vm.id.as_str()), (name.as_str(), format!("uuid:{uuid}").as_str()));
    assert_eq!((vm.memory_bytes, vm.vcpus, vm.hypervisor), (Some(256 * MIB), Some(4), Hypervisor::QemuTcg));

    for target in [Target::Name(name), Target::Uuid(uuid.to_owned())] {
        assert_eq!(open(&target).unwrap().vm, *vm);
    }
    let checks = host_checks();
    let check = checks.iter().find(|check| check.name == format!("memory of {}", vm.name)).unwrap();
    assert!(check.ok, "{check:?}");
    assert_eq!(
        check.detail,
        "255 MiB, private to the VMM: read through /proc/PID/mem, laid out by the rules of its machine"
    );
}

#[test]
fn a_vm_without_a_name_has_an_identity_of_its_own() {
    let (Some(one), Some(other)) = (start("-m 64"), start("-m 64")) else { return };
    assert_eq!(vm_of(&one).name, format!("pid-{}", one.pid()));
    assert_eq!(vm_of(&one).id, vm_of(&one).id);
    assert_ne!(vm_of(&one).id, vm_of(&other).id);
}

#[test]
fn two_vms_of_one_name_are_an_error_with_both_pids() {
    let name = format!("twin-{}", std::process::id());
    let options = format!("-m 64 -name {name}");
    let (Some(one), Some(other)) = (start(&options), start(&options)) else { return };
    let message = open(&Target::Name(name.clone())).unwrap_err().to_string();
    for pid in [one.pid(), other.pid()] {
        assert!(message.contains(&format!("pid:{pid}")), "{message}");
    }
    assert!(message.contains(&name));
}

#[test]
fn a_guest_under_kvm_is_known_by_its_descriptors() {
    if std::fs::File::open("/dev/kvm").is_err() {
        return skip("/dev/kvm cannot be opened");
    }
    let Some(mut qemu) = Qemu::start(&["-accel", "kvm", "-m", "256", "-smp", "2"]) else { return };
    let opened = open_pid(&qemu);
    assert_eq!((opened.vm.hypervisor, opened.vm.vcpus), (Hypervisor::Kvm, Some(2)));
    qemu.poke(0x20_0000, b"kvm guest");
    let mut mark = [0; 9];
    opened.memory.read(Gpa(0x20_0000), &mut mark).unwrap();
    assert_eq!(&mark, b"kvm guest");
}

#[test]
fn a_vm_that_ended_is_gone_and_not_empty() {
    for options in
        ["-m 256", "-M pc,memory-backend=m -m 256 -object memory-backend-memfd,id=m,size=256M,share=on"]
    {
        let Some(mut qemu) = start(options) else { return };
        let opened = open_pid(&qemu);
        qemu.poke(0x10_0000, b"x");
        opened.memory.begin_look().unwrap();
        opened.memory.read(Gpa(0x10_0000), &mut [0; 8]).unwrap();
        assert!(opened.is_alive());
        qemu.kill();
        assert!(!opened.is_alive());
        let gone = |result: Result<(), MemoryError>| matches!(result, Err(MemoryError::Gone { .. }));
        assert!(gone(opened.memory.begin_look()), "{options}");
        if opened.memory.access() == Access::PerCall {
            assert!(gone(opened.memory.read(Gpa(0x10_0000), &mut [0; 8])), "{options}");
            assert!(gone(opened.memory.read(Gpa(0x80_0000), &mut [0; 8])), "{options}");
        }
        assert!(matches!(open(&Target::Pid(qemu.pid())), Err(Error::ProcessGone { .. })), "{options}");
    }
}

#[test]
fn without_permission_the_error_says_so_and_names_no_other_reason() {
    let Some(qemu) = start("-M q35 -m 256") else { return };
    as_nobody(|| {
        let refused = open(&Target::Pid(qemu.pid()));
        assert!(matches!(refused, Err(Error::Permission { .. })), "{refused:?}");
    });
}

#[test]
fn a_guest_that_stands_is_left_so_when_the_guard_of_a_pause_fails() {
    let Some(mut qemu) = start("-M q35 -m 256") else { return };
    let opened = open_pid(&qemu);
    qemu.release_monitor();
    let failed = opened.pause(Duration::from_millis(50), Command::new("false")).unwrap_err();
    assert!(matches!(failed, Error::PauseGuard { .. }), "{failed:?}");
    qemu.take_monitor();
    assert_eq!(qemu.command("query-status", json!({}))["running"], false);
}

#[test]
fn the_monitor_gives_the_same_layout_when_asked_for() {
    let Some(mut qemu) = start("-M q35 -m 4G") else { return };
    qemu.release_monitor();
    let options = OpenOptions { layout_source: LayoutSource::Monitor, ..OpenOptions::default() };
    let by_monitor = open_with(&Target::Pid(qemu.pid()), &options).unwrap();
    let by_rules = open_pid(&qemu);
    assert_eq!(by_monitor.memory.regions(), by_rules.memory.regions());
}

#[test]
fn the_monitor_places_a_dimm_of_the_command_line_that_the_rules_only_name() {
    let Some(mut qemu) = start(
        "-M q35 -m size=1G,slots=2,maxmem=8G -object memory-backend-ram,id=extra,size=512M -device pc-dimm,id=d,memdev=extra",
    ) else {
        return;
    };
    let rules = OpenOptions { layout_source: LayoutSource::Rules, ..OpenOptions::default() };
    let by_rules = open_with(&Target::Pid(qemu.pid()), &rules).unwrap();
    assert_eq!(by_rules.notes.len(), 1);
    assert!(by_rules.notes[0].contains("backend extra"), "{:?}", by_rules.notes);
    // The test holds the monitor: what cannot be placed is named, and why.
    let notes = open_pid(&qemu).notes;
    assert!(notes.last().unwrap().contains("the monitor did not place it"), "{notes:?}");

    qemu.poke(0x1_0000_0000, b"in the dimm");
    qemu.release_monitor();
    let opened = open_pid(&qemu);
    assert_eq!(opened.notes, Vec::<String>::new());
    assert_eq!(opened.memory.size(), by_rules.memory.size() + 512 * MIB);
    let mut mark = [0; 11];
    opened.memory.read(Gpa(0x1_0000_0000), &mut mark).unwrap();
    assert_eq!(&mark, b"in the dimm");
}

#[test]
fn a_dimm_plugged_in_at_run_time_is_noticed_and_placed() {
    // Where the RAM reaches above 4 GiB, the DIMM lies behind it.
    for (ram, kind, size, place) in [
        ("-M pc -m 512M", "memory-backend-memfd", 256, 0x1_0000_0000_u64),
        ("-M q35 -m 4G", "memory-backend-ram", 512, 0x1_8000_0000),
    ] {
        let Some(mut qemu) = start(&format!("{ram},slots=2,maxmem=16G")) else { return };
        let before = open_pid(&qemu);
        assert_eq!(before.notes, Vec::<String>::new(), "slots alone are no DIMM");
        qemu.command("object-add", json!({"qom-type": kind, "id": "late", "size": size * MIB}));
        qemu.command("device_add", json!({"driver": "pc-dimm", "id": "d", "memdev": "late"}));
        qemu.poke(place, b"in the dimm");
        qemu.release_monitor();
        let opened = open_pid(&qemu);
        assert_eq!(opened.notes, Vec::<String>::new(), "{ram} {kind}");
        assert_eq!(opened.memory.size(), before.memory.size() + size * MIB, "{ram} {kind}");
        let mut mark = [0; 11];
        opened.memory.read(Gpa(place), &mut mark).unwrap();
        assert_eq!(&mark, b"in the dimm", "{ram} {kind}");
    }
}

#[test]
fn a_dimm_that_could_be_the_ram_is_an_error_and_no_guess() {
    let Some(mut qemu) = start("-M q35 -m 1G,slots=2,maxmem=16G") else { return };
    qemu.command("object-add", json!({"qom-type": "memory-backend-ram", "id": "late", "size": 1024 * MIB}));
    qemu.command("device_add", json!({"driver": "pc-dimm", "id": "d", "memdev": "late"}));
    qemu.release_monitor();
    for layout_source in [LayoutSource::Best, LayoutSource::Monitor] {
        let options = OpenOptions { layout_source, ..OpenOptions::default() };
        let error = open_with(&Target::Pid(qemu.pid()), &options).unwrap_err();
        assert!(matches!(error, Error::RamAmbiguous { .. }), "{error}");
    }
}

#[test]
fn memory_of_a_device_is_not_taken_for_the_guests() {
    let Some(mut qemu) = start(
        "-M q35 -m 512M -object memory-backend-memfd,id=more,size=2G,share=on -device ivshmem-plain,memdev=more",
    ) else {
        return;
    };
    qemu.poke(0x10_0000, b"in the RAM");
    let opened = open_pid(&qemu);
    assert_eq!(opened.vm.memory_bytes, Some(512 * MIB));
    assert_eq!(opened.memory.regions().last().unwrap().end(), Gpa(512 * MIB));
    let mut mark = [0; 10];
    opened.memory.read(Gpa(0x10_0000), &mut mark).unwrap();
    assert_eq!(&mark, b"in the RAM");
}

#[test]
fn a_monitor_that_another_client_holds_is_an_error_in_time() {
    // The test itself is the other client.
    let Some(qemu) = start("-m 64") else { return };
    let options = OpenOptions { layout_source: LayoutSource::Monitor, ..OpenOptions::default() };
    let begun = Instant::now();
    let error = open_with(&Target::Pid(qemu.pid()), &options).unwrap_err();
    assert!(matches!(error, Error::MonitorSilent { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(open_pid(&qemu).is_alive());
}

#[test]
fn a_dump_of_qemu_holds_what_the_live_guest_holds() {
    let Some(mut qemu) = start("-M q35 -m 4G") else { return };
    for (number, place) in
        [0x1000, 0x20_0000, 0x7fff_f000, 0x1_0000_0000, 0x1_7fff_f000].into_iter().enumerate()
    {
        qemu.poke(place, &[u8::try_from(number).unwrap() + 1; 4096]);
    }
    let path = qemu.path("dump");
    // Not all of the guest: a sparse file of 4 GiB would still be written in full.
    for (begin, length) in [(0_u64, 4 * MIB), (0x7fff_0000, 0x1_0000), (0x1_0000_0000, 4 * MIB)] {
        qemu.command(
            "dump-guest-memory",
            json!({"paging": false, "protocol": format!("file:{}", path.display()), "begin": begin, "length": length}),
        );
        let live = open_pid(&qemu).memory;
        let image = open(&Target::Image(path.clone())).unwrap();
        assert_eq!(image.vm.hypervisor, Hypervisor::Image);
        let mut compared = 0;
        for region in image.memory.regions() {
            let mut from_image = vec![0; usize::try_from(region.len).unwrap()];
            image.memory.read(region.start, &mut from_image).unwrap();
            // Option ROMs and firmware below 1 MiB are blocks of their own in QEMU.
            let start = region.start.0.max(MIB);
            if start >= region.end().0 {
                continue;
            }
            let mut from_live = vec![0; usize::try_from(region.end().0 - start).unwrap()];
            live.read(Gpa(start), &mut from_live).unwrap();
            let skipped = usize::try_from(start - region.start.0).unwrap();
            assert!(from_image[skipped..] == from_live, "{region}");
            compared += from_live.len();
        }
        assert!(compared >= 0x1_0000, "{begin:#x}: {compared}");

        // The same file with its end cut off.
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        drop(image);
        let len = file.metadata().unwrap().len();
        file.set_len(len - 4096).unwrap();
        let error = open(&Target::Image(path.clone())).unwrap_err();
        assert!(
            matches!(error, Error::ImageTruncated { expected, actual, .. } if expected > actual),
            "{error}"
        );
    }
}

#[test]
fn the_tap_device_of_a_vm_is_found() {
    if std::fs::File::open("/dev/net/tun").is_err() {
        return skip("/dev/net/tun cannot be opened");
    }
    let options = [
        "-accel",
        "tcg",
        "-m",
        "64",
        "-netdev",
        "tap,id=n,ifname=hvtest0,script=no,downscript=no",
        "-device",
        "virtio-net-pci,netdev=n",
    ];
    let Some(qemu) = Qemu::start_in(&options, true) else { return };
    let namespace = format!("/proc/{}/ns/net", qemu.pid());
    assert_eq!(nics(&vm_of(&qemu)).unwrap(), [Nic { interface: "hvtest0".to_owned(), namespace }]);
    let Some(without) = start("-m 64") else { return };
    assert_eq!(nics(&vm_of(&without)).unwrap(), []);
}

#[test]
fn a_machine_whose_layout_is_not_known_is_listed_and_not_opened() {
    let Some(qemu) = start("-M none -m 64") else { return };
    assert!(list().unwrap().vms.iter().any(|vm| vm.pid == Some(qemu.pid())));
    let error = open(&Target::Pid(qemu.pid())).unwrap_err();
    assert!(matches!(&error, Error::UnknownMachine { machine, .. } if machine == "none"), "{error}");
}

#[test]
fn a_vmm_that_forks_is_one_vm() {
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("qemu-system-fake");
    std::fs::copy("/bin/sh", &fake).unwrap();
    // The part in parentheses is a fork of the shell; it says so and waits for the end of its input.
    let mut child = Command::new(&fake)
        .args(["-c", "exec 3<&0; (echo forked; read line) <&3 & wait", "-name", "forking"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let child = child.as_mut().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let pid = child.id();
    let twin = |vm: &facts::Vm| vm.name == "forking" || vm.pid == Some(pid);
    let listed: Vec<Option<u32>> = list().unwrap().vms.into_iter().filter(twin).map(|vm| vm.pid).collect();
    drop(child.stdin.take());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((line.as_str(), listed), ("forked\n", vec![Some(pid)]));
}

#[test]
fn processes_that_come_and_go_do_not_disturb_a_listing() {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        for _ in 0..30 {
            let listing = list().unwrap();
            assert!(listing.problems.is_empty(), "{:?}", listing.problems);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
