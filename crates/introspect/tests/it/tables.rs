//! Every table on every kind of guest equals the guest's own `/proc`: the sample of the matrix that CI runs.
//!
//! Each value of the matrix occurs at least once, several in one guest: what goes wrong with one of them goes wrong here,
//! and `cargo xtask matrix` finds what goes wrong with two together.

use crate::cell::{Blocks, Cell, Memory, Outcome};
use testkit::{Kernel, Machine, Need, PagingLevels};

fn equal(cell: &Cell) {
    if !testkit::require(&[Need::Guest(cell.kernel)]) {
        return;
    }
    if let Outcome::Skipped(why) = cell.compare().unwrap() {
        testkit::skipped(&why);
    }
}

macro_rules! sample {
    ($($test:ident: $cell:expr;)*) => {
        pub const SAMPLE: &[Cell] = &[$($cell),*];
        $(
            #[test]
            fn $test() {
                equal(&$cell);
            }
        )*
    };
}

sample! {
    kernel_5_10_in_a_memfd_on_q35:
        Cell::of(Kernel::V5_10);
    kernel_5_10_in_two_numa_nodes_of_i440fx_with_4_vcpus:
        Cell {
            machine: Machine::I440fx,
            vcpus: 4,
            blocks: Blocks::Numa,
            ..Cell::of(Kernel::V5_10)
        };
    kernel_6_1_in_a_memfd_on_q35:
        Cell::of(Kernel::V6_1);
    kernel_6_1_with_5_levels_in_96_mib_of_anonymous_memory_of_i440fx:
        Cell {
            machine: Machine::I440fx,
            levels: PagingLevels::Five,
            mib: 96,
            memory: Memory::Anonymous,
            ..Cell::of(Kernel::V6_1)
        };
    kernel_6_1_without_kaslr_on_microvm:
        Cell { machine: Machine::Microvm, kaslr: false, ..Cell::of(Kernel::V6_1) };
    kernel_6_1_with_4_gib_across_the_pci_hole_of_i440fx:
        Cell { machine: Machine::I440fx, mib: 4096, ..Cell::of(Kernel::V6_1) };
    kernel_6_1_in_real_time_with_page_tables_isolated:
        Cell { pti: true, ..Cell::of(Kernel::V6_1_RT) };
    kernel_6_12_with_5_levels_in_a_file_with_a_dimm_plugged_in:
        Cell {
            levels: PagingLevels::Five,
            memory: Memory::File,
            blocks: Blocks::Dimm,
            ..Cell::of(Kernel::V6_12)
        };
    kernel_6_12_with_page_tables_isolated_and_2_vcpus_in_anonymous_memory:
        Cell { pti: true, vcpus: 2, memory: Memory::Anonymous, ..Cell::of(Kernel::V6_12) };
    kernel_6_12_with_4_gib_across_the_pci_hole_of_q35:
        Cell { mib: 4096, ..Cell::of(Kernel::V6_12) };
    kernel_6_12_in_real_time_with_5_levels_in_huge_pages:
        Cell { levels: PagingLevels::Five, memory: Memory::HugePages, ..Cell::of(Kernel::V6_12_RT) };
    kernel_7_with_5_levels_and_page_tables_isolated_in_16_gib:
        Cell { levels: PagingLevels::Five, pti: true, mib: 16384, ..Cell::of(Kernel::V7) };
    kernel_7_in_anonymous_memory_beside_a_device_with_more:
        Cell {
            machine: Machine::I440fx,
            memory: Memory::Anonymous,
            blocks: Blocks::Device,
            ..Cell::of(Kernel::V7)
        };
    kernel_7_for_real_machines_without_kaslr_beside_a_device_with_more:
        Cell { kaslr: false, blocks: Blocks::Device, ..Cell::of(Kernel::V7_AMD64) };
    kernel_7_of_backports_on_microvm_with_5_levels:
        Cell { machine: Machine::Microvm, levels: PagingLevels::Five, ..Cell::of(Kernel::V7_BACKPORTS) };
}

#[test]
fn the_sample_has_every_kernel_that_ci_has() {
    for kernel in Kernel::SAMPLE {
        assert!(SAMPLE.iter().any(|cell| cell.kernel == kernel), "{}", kernel.name);
    }
    for cell in SAMPLE {
        assert!(Kernel::SAMPLE.contains(&cell.kernel), "CI does not have {}", cell.kernel.name);
    }
}
