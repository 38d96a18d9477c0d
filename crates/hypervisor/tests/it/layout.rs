//! Guest-physical layouts by the rules of each machine type.

use hypervisor::Error;
use hypervisor::kvm::cmdline::Options;
use hypervisor::kvm::layout::{Placement, by_rules, low_size};
use hypervisor::kvm::machine::{MachineKind, parse};
use proptest::prelude::*;
use vmi_core::{Gpa, Region};

const FOUR_GIB: u64 = 1 << 32;
const I440FX: MachineKind = MachineKind::I440fx { gigabyte_align: true };

fn layout(line: &str) -> Result<Vec<Placement>, Error> {
    let options = Options::parse(&line.split(' ').collect::<Vec<_>>());
    by_rules(1, &parse(1, "qemu-system-x86_64", &options).unwrap())
}

fn placed(start: u64, end: u64, block: usize, offset: u64) -> Placement {
    Placement { guest: Region { start: Gpa(start), len: end - start }, block, offset }
}

#[test]
fn the_split_below_4_gib_follows_each_machine() {
    for (kind, ram, max, expected) in [
        (MachineKind::Q35, 0x2000_0000, 0, 0x2000_0000),
        (MachineKind::Q35, 0xaff0_0000, 0, 0xaff0_0000),
        (MachineKind::Q35, 0xb000_0000, 0, 0x8000_0000),
        (MachineKind::Q35, FOUR_GIB, 0, 0x8000_0000),
        (MachineKind::Q35, FOUR_GIB, 0x4000_0000, 0x4000_0000),
        (MachineKind::Q35, FOUR_GIB, 0xc000_0000, 0x8000_0000),
        (I440FX, 0xdff0_0000, 0, 0xdff0_0000),
        (I440FX, 0xe000_0000, 0, 0xc000_0000),
        (I440FX, FOUR_GIB, 0, 0xc000_0000),
        (I440FX, FOUR_GIB, 0x8000_0000, 0x8000_0000),
        (I440FX, 0xf800_0000, FOUR_GIB, 0xf800_0000),
        (MachineKind::I440fx { gigabyte_align: false }, FOUR_GIB, 0, 0xe000_0000),
        (MachineKind::Microvm, 0xc000_0000, 0, 0xc000_0000),
        (MachineKind::Microvm, FOUR_GIB, 0, 0xc000_0000),
    ] {
        assert_eq!(low_size(kind, ram, max), expected, "{kind:?} {ram:#x} {max:#x}");
    }
}

#[test]
fn the_video_window_is_a_hole_and_the_rest_is_ram() {
    assert_eq!(
        layout("-M q35 -m 4G").unwrap(),
        [
            placed(0, 0xa_0000, 0, 0),
            placed(0xc_0000, 0x8000_0000, 0, 0xc_0000),
            placed(FOUR_GIB, FOUR_GIB + 0x8000_0000, 0, 0x8000_0000),
        ]
    );
    assert_eq!(
        layout("-M microvm -m 512").unwrap(),
        [placed(0, 0xf_0000, 0, 0), placed(0x10_0000, 0x2000_0000, 0, 0x10_0000)]
    );
}

#[test]
fn numa_nodes_are_cut_where_the_pci_hole_cuts_them() {
    let line = "-M q35 -m 3072 -object memory-backend-ram,id=a,size=1536M -object memory-backend-ram,id=b,size=1536M \
                -numa node,memdev=b -numa node,memdev=a";
    assert_eq!(
        layout(line).unwrap(),
        [
            placed(0, 0xa_0000, 1, 0),
            placed(0xc_0000, 0x6000_0000, 1, 0xc_0000),
            placed(0x6000_0000, 0x8000_0000, 0, 0),
            placed(FOUR_GIB, FOUR_GIB + 0x4000_0000, 0, 0x2000_0000),
        ]
    );
}

#[test]
fn what_the_rules_do_not_know_is_an_error() {
    assert!(
        matches!(layout("-M none -m 512"), Err(Error::UnknownMachine { machine, .. }) if machine == "none")
    );
    assert!(
        matches!(layout("-M q35 -m 1T"), Err(Error::LayoutUncertain { ram_size, .. }) if ram_size == 1 << 40)
    );
    assert!(layout("-M q35 -m 900G").is_ok());
}

proptest! {
    #[test]
    fn every_byte_of_ram_outside_the_window_is_placed_once(
        megabytes in 1_u64..20_000, machine in 0_usize..3, max_below in prop::option::of(256_u64..4096), split in 1_u64..99,
    ) {
        let name = ["pc", "q35", "microvm"][machine];
        let (one, two) = (megabytes * split / 100, megabytes - megabytes * split / 100);
        let max = max_below.filter(|_| name != "microvm").map_or_else(String::new, |max| format!(",max-ram-below-4g={max}M"));
        let line = if one == 0 || two == 0 {
            format!("-M {name}{max} -m {megabytes}")
        } else {
            format!(
                "-M {name}{max} -m {megabytes} -object memory-backend-ram,id=a,size={one}M \
                 -object memory-backend-ram,id=b,size={two}M -numa node,memdev=a -numa node,memdev=b"
            )
        };
        let placements = layout(&line).unwrap();
        prop_assert!(placements.is_sorted_by(|one, other| one.guest.end() <= other.guest.start));
        let hole = if name == "microvm" { 0x1_0000 } else { 0x2_0000 };
        let total: u64 = placements.iter().map(|placement| placement.guest.len).sum();
        prop_assert_eq!(total, (megabytes << 20) - hole);
        // In guest order the offsets in RAM only grow.
        let starts: Vec<u64> = placements.iter().map(|placement| placement.offset + if placement.block == 1 { one << 20 } else { 0 }).collect();
        prop_assert!(starts.is_sorted());
    }
}
