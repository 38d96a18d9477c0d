//! QEMU's own flat view of memory, as its monitor prints it.

use hypervisor::Error;
use hypervisor::kvm::cmdline::Options;
use hypervisor::kvm::layout::Placement;
use hypervisor::kvm::machine::{Machine, parse as machine};
use hypervisor::kvm::monitor::{FlatRange, parse, placements};
use hypervisor::kvm::monitor::{registers, registers_by_dump};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use testkit::{Guest, GuestSpec, Kernel, Need};
use vmi_core::{Gpa, Gva, Region, Registers};

/// QEMU 7.2.22 under KVM, q35, two NUMA nodes of 1536 MiB.
const Q35: &str = "\
FlatView #0
 AS \"I/O\", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS \"memory\", root: system
 AS \"cpu-memory-0\", root: system
 Root memory region: system
  0000000000000000-00000000000c2fff (prio 0, ram): ram-node0 KVM
  00000000000c3000-00000000000e7fff (prio 0, rom): ram-node0 @00000000000c3000 KVM
  0000000000100000-000000005fffffff (prio 0, ram): ram-node0 @0000000000100000 KVM
  0000000060000000-000000007fffffff (prio 0, ram): ram-node1 KVM
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios KVM
  0000000100000000-000000013fffffff (prio 0, ram): ram-node1 @0000000020000000 KVM

";

fn numa() -> Machine {
    let line = "-M q35 -m 3072 -object memory-backend-ram,id=ram-node0,size=1536M \
                -object memory-backend-ram,id=ram-node1,size=1536M -numa node,memdev=ram-node0 -numa node,memdev=ram-node1";
    machine(1, "qemu-system-x86_64", &Options::parse(&line.split(' ').collect::<Vec<_>>())).unwrap()
}

fn range(start: u64, end: u64, block: &str, offset: u64) -> FlatRange {
    FlatRange { guest: Region { start: Gpa(start), len: end - start }, block: block.to_owned(), offset }
}

#[test]
fn ram_and_rom_of_the_right_view_are_read() {
    assert_eq!(
        parse(Q35),
        [
            range(0, 0xc_3000, "ram-node0", 0),
            range(0xc_3000, 0xe_8000, "ram-node0", 0xc_3000),
            range(0x10_0000, 0x6000_0000, "ram-node0", 0x10_0000),
            range(0x6000_0000, 0x8000_0000, "ram-node1", 0),
            range(0xfffc_0000, 0x1_0000_0000, "pc.bios", 0),
            range(0x1_0000_0000, 0x1_4000_0000, "ram-node1", 0x2000_0000),
        ]
    );
}

#[test]
fn a_view_that_agrees_with_the_rules_gives_placements_of_ram_blocks() {
    let placed = placements(1, &numa(), &parse(Q35)).unwrap();
    assert_eq!(placed.len(), 5, "{placed:x?}");
    let guest = Region { start: Gpa(0x1_0000_0000), len: 0x4000_0000 };
    assert_eq!(placed[4], Placement { guest, block: 1, offset: 0x2000_0000 });
}

#[test]
fn a_view_that_contradicts_the_rules_is_an_error_naming_both() {
    let other = Q35.replace("@0000000020000000", "@0000000030000000");
    let error = placements(5, &numa(), &parse(&other)).unwrap_err();
    assert!(matches!(error, Error::LayoutContradiction { .. }), "{error}");
    let message = error.to_string();
    for part in ["ram-node1 at 0x30000000", "ram-node1 at 0x20000000", "machine `q35`", "process 5"] {
        assert!(message.contains(part), "{message}");
    }
    let missing: String = Q35
        .lines()
        .filter(|line| !line.contains("0000000060000000"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(
        placements(5, &numa(), &parse(&missing)).unwrap_err().to_string().contains("says `nothing there`")
    );
}

proptest! {
    #[test]
    fn no_answer_breaks_the_parser(text in "(FlatView #|AS \"memory\"|\n|[0-9a-f]{16}|-| \\(prio |, ram\\): |@|\\PC)*") {
        let _ = placements(1, &numa(), &parse(&text));
    }
}

/// Asks until the monitor answers in time: the machine may be busy.
fn patiently(ask: impl Fn() -> Result<Vec<Registers>, Error>) -> Vec<Registers> {
    let answers = (0..20).map(|_| ask());
    answers.into_iter().find(|answer| !matches!(answer, Err(Error::MonitorSilent { .. }))).unwrap().unwrap()
}

#[test]
fn registers_are_the_same_by_the_human_monitor_and_by_a_core_dump() {
    if !testkit::require(&[Need::Guest(Kernel::V6_1), Need::Root]) {
        return;
    }
    let guest = Guest::boot(GuestSpec::new(Kernel::V6_1).memory_mib(256).vcpus(2)).unwrap();
    let arguments = fs::read(format!("/proc/{}/cmdline", guest.pid())).unwrap();
    let arguments: Vec<String> =
        arguments.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    let options = Options::parse(&arguments[1..]);
    let seen = guest.paused(|guest| {
        let both = [registers, registers_by_dump].map(|ask| patiently(|| ask(guest.pid(), &options)));
        Ok(both)
    });
    let [by_monitor, by_dump] = seen.unwrap();
    assert_eq!(by_monitor.len(), 2);
    assert_eq!(by_dump, by_monitor);
    assert!(by_dump.iter().all(|vcpu| vcpu.cr3 != 0 && vcpu.cr0 >> 31 & 1 == 1), "{by_dump:?}");
    // QEMU lets a guest that ran go on by itself.
    assert_eq!(patiently(|| registers_by_dump(guest.pid(), &options)).len(), 2);
    let status = guest.qmp(&json!({"execute": "query-status"})).unwrap();
    assert_eq!(status["running"], true);
}

/// What the registers are asked of a QEMU that serves so many clients, says `greeting`, and answers each command by `answer` (`None` for
/// an empty return); and the commands that it was given.
fn asked_of(
    clients: usize,
    greeting: &'static [&str],
    answer: fn(&str) -> Option<Value>,
) -> (Result<Vec<Registers>, Error>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("qmp");
    let listener = UnixListener::bind(&socket).unwrap();
    let qemu = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for _ in 0..clients {
            let (mut stream, _) = listener.accept().unwrap();
            for line in greeting {
                writeln!(stream, "{line}").unwrap();
            }
            // A client that was refused may be gone before it is answered.
            for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
                let command: Value = serde_json::from_str(&line).unwrap();
                let name = command["execute"].as_str().unwrap().to_owned();
                let mut answer = answer(&name).unwrap_or_else(|| json!({"return": {}}));
                answer["id"] = command["id"].clone();
                asked.push(name);
                if writeln!(stream, "{answer}").is_err() {
                    break;
                }
            }
        }
        asked
    });
    let options = Options::parse(&["-qmp".to_owned(), format!("unix:{}", socket.display())]);
    let seen = registers(std::process::id(), &options);
    (seen, qemu.join().unwrap())
}

#[test]
fn a_qemu_without_a_human_monitor_is_asked_for_a_core_dump() {
    let (seen, asked) = asked_of(2, &[r#"{"QMP": {}}"#], |name| match name {
        "human-monitor-command" => Some(json!({"error": {"class": "CommandNotFound", "desc": "no"}})),
        "dump-guest-memory" => Some(json!({"error": {"class": "GenericError", "desc": "not now"}})),
        _ => None,
    });
    let error = seen.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("not now"), "{error:?}");
    assert_eq!(
        asked,
        ["qmp_capabilities", "human-monitor-command", "qmp_capabilities", "getfd", "dump-guest-memory"]
    );
}

#[test]
fn answers_to_who_asked_before_are_passed_over() {
    const LATE: &[&str] = &[
        r#"{"return": "CPU#0 CR0=0", "id": "birthmark 1.0"}"#,
        r#"{"QMP": {}}"#,
        r#"{"return": {}}"#,
        r#"{"error": {"class": "GenericError", "desc": "too late"}, "id": "libvirt-7"}"#,
    ];
    let (seen, asked) = asked_of(1, LATE, |name| {
        let registers = "CPU#0\r\nCR0=80050033 CR2=0 CR3=000000000e8d2000 CR4=000006f0\r\nIDT=     fffffe0000000000 00000fff";
        (name == "human-monitor-command").then(|| json!({"return": registers}))
    });
    let vcpu = Registers { cr0: 0x8005_0033, cr3: 0xe8d_2000, cr4: 0x6f0, idt: Gva(0xffff_fe00_0000_0000) };
    assert_eq!(seen.unwrap(), [vcpu]);
    assert_eq!(asked, ["qmp_capabilities", "human-monitor-command"]);
}

#[test]
fn a_command_that_qemu_cannot_read_is_refused_and_not_waited_for() {
    let (seen, _) = asked_of(
        2,
        &[r#"{"QMP": {}}"#, r#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#],
        |_| None,
    );
    let error = seen.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("JSON parse error"), "{error:?}");
}
