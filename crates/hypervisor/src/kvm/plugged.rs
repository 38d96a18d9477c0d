//! Memory that was plugged into a machine: where QEMU puts it, and the signs of it in the VMM.
//!
//! A DIMM that comes while the guest runs is not on the command line, and neither is where it went: only the monitor knows.
//! But it can be seen from outside that there may be one, and then the rules of the machine alone are not enough.

use super::layout::{FOUR_GIB, low_size};
use super::locate::Located;
use super::machine::{Backend, Block, Machine};
use super::maps::Mapping;
use super::monitor::FlatRange;
use vmi_core::{Gpa, Region};

const GIB: u64 = 1 << 30;
/// Linux adds memory in units of this (arch/x86/include/asm/sparsemem.h, `SECTION_SIZE_BITS`), so a DIMM has at least one.
const SMALLEST: u64 = 128 << 20;
/// QEMU aligns the blocks it allocates to this (include/qemu/osdep.h, `QEMU_VMALLOC_ALIGN`).
const BLOCK_ALIGNMENT: u64 = 2 << 20;

/// The guest-physical addresses that QEMU keeps for plugged memory: from the first GiB boundary above the RAM at 4 GiB on
/// (hw/i386/pc.c, `pc_get_device_memory_range`, QEMU 7.2). `None` when there is no room for any, or none that is known.
#[must_use]
pub fn window(machine: &Machine) -> Option<Region> {
    let plugged = machine.max_size.checked_sub(machine.ram_size).filter(|&size| size > 0)?;
    let low = low_size(machine.kind?, machine.ram_size, machine.max_ram_below_4g);
    let high = machine.ram_size.checked_sub(low)?;
    let start = FOUR_GIB.checked_add(high)?.checked_next_multiple_of(GIB)?;
    // A GiB more for each slot, so that DIMMs of every size can be aligned.
    let len = plugged.checked_add(machine.slots.checked_mul(GIB)?)?;
    Some(Region { start: Gpa(start), len })
}

/// Adds to the machine the blocks in that window that only the monitor knows: those plugged in at run time.
pub fn add_told(machine: &mut Machine, ranges: &[FlatRange]) {
    let Some(window) = window(machine) else { return };
    for range in ranges {
        let known = |block: &Block| {
            range.block == block.name || range.block.strip_prefix("/objects/") == Some(&block.name)
        };
        if window.contains(range.guest.start, range.guest.len) && !machine.blocks.iter().any(known) {
            let name = range.block.clone();
            // A DIMM is mapped from its first byte to its last.
            machine.blocks.push(Block { name, size: range.guest.len, backend: Backend::Told });
        }
    }
}

/// Whether the VMM has memory that could be a DIMM's and is none of the blocks of the command line.
#[must_use]
pub fn is_suspected(machine: &Machine, located: &[Located], mappings: &[Mapping]) -> bool {
    if machine.slots == 0 || machine.max_size <= machine.ram_size {
        return false;
    }
    let known = |mapping: &Mapping| {
        located.iter().any(|located| {
            located.start < mapping.end && mapping.start < located.start.saturating_add(located.size)
        })
    };
    mappings.iter().any(|mapping| {
        let size = mapping.len();
        let private = mapping.is_anonymous() && !mapping.shared;
        mapping.readable
            && mapping.writable
            && !mapping.executable
            && size >= SMALLEST
            && size % BLOCK_ALIGNMENT == 0
            // What an allocator maps for itself is not aligned so.
            && (!private || mapping.start % BLOCK_ALIGNMENT == 0)
            && !known(mapping)
    })
}
