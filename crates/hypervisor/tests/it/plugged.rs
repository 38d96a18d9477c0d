//! Memory plugged in at run time: where it may be, and the signs of it.

use hypervisor::kvm::cmdline::Options;
use hypervisor::kvm::locate::{Located, locate};
use hypervisor::kvm::machine::{Backend, Machine, parse};
use hypervisor::kvm::maps;
use hypervisor::kvm::monitor::FlatRange;
use hypervisor::kvm::plugged::{add_told, is_suspected, window};
use vmi_core::{Gpa, Region};

const GIB: u64 = 1 << 30;

fn machine(line: &str) -> Machine {
    parse(1, "qemu-system-x86_64", &Options::parse(&line.split(' ').collect::<Vec<_>>())).unwrap()
}

#[test]
fn the_window_begins_at_the_next_gib_above_the_ram() {
    let window = |line: &str| window(&machine(line));
    assert_eq!(window("-M q35 -m 512M"), None);
    assert_eq!(
        window("-M q35 -m 512M,slots=2,maxmem=4G"),
        Some(Region { start: Gpa(4 * GIB), len: 4 * GIB - (512 << 20) + 2 * GIB })
    );
    // 2.5 GiB of 5.5 lie above 4 GiB on i440fx, 3.5 on q35.
    let start = |line: &str| window(line).unwrap().start;
    assert_eq!(start("-M pc -m 5632M,slots=1,maxmem=8G"), Gpa(7 * GIB));
    assert_eq!(start("-M q35 -m 5632M,slots=1,maxmem=8G"), Gpa(8 * GIB));
}

#[test]
fn only_a_block_of_the_window_that_nobody_knows_is_added() {
    let mut machine = machine(
        "-M q35 -m 1G,slots=2,maxmem=4G -object memory-backend-ram,id=known,size=1G -device pc-dimm,memdev=known",
    );
    let range = |start: u64, block: &str| FlatRange {
        guest: Region { start: Gpa(start), len: GIB },
        block: block.to_owned(),
        offset: 0,
    };
    let before = machine.blocks.len();
    add_told(&mut machine, &[range(4 * GIB, "known"), range(5 * GIB, "late"), range(64 * GIB, "a device")]);
    let added: Vec<_> = machine.blocks.drain(before..).collect();
    assert_eq!(added.len(), 1);
    assert_eq!((added[0].name.as_str(), added[0].size, &added[0].backend), ("late", GIB, &Backend::Told));
}

#[test]
fn a_large_mapping_that_is_no_block_is_a_sign_where_there_are_slots() {
    let ram = "7f0000000000-7f0040000000 rw-p 0 00:00 0\n";
    let suspected = |line: &str, more: &str| {
        let machine = machine(line);
        let mappings = maps::parse(&format!("{ram}{more}")).unwrap();
        let located: Vec<Located> =
            locate(1, &machine.blocks, &[0], &mappings, |_| None).unwrap().into_iter().flatten().collect();
        is_suspected(&machine, &located, &mappings)
    };
    let slots = "-M q35 -m 1G,slots=2,maxmem=4G";
    let dimm = "7f0050000000-7f0060000000 rw-s 0 00:01 5 /memfd:memory-backend-memfd (deleted)\n";
    assert!(suspected(slots, dimm));
    assert!(suspected(slots, "7f0050000000-7f0060000000 rw-p 0 00:00 0\n"));
    assert!(!suspected("-M q35 -m 1G", dimm), "without slots nothing can be plugged in");
    assert!(!suspected(slots, ""));
    // A code buffer, an allocator's arena, something small.
    assert!(!suspected(slots, "7f0050000000-7f0060000000 rwxp 0 00:00 0\n"));
    assert!(!suspected(slots, "7f0050001000-7f0060001000 rw-p 0 00:00 0\n"));
    assert!(!suspected(slots, "7f0050000000-7f0054000000 rw-s 0 00:01 5 /memfd:small (deleted)\n"));
}
