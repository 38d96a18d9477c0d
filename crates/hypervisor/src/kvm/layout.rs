//! Where the blocks of RAM are in the guest: the rules of QEMU's x86 machines.
//!
//! Sources: hw/i386/pc_q35.c, pc_piix.c, pc.c, microvm.c (QEMU 6.2 to 10.0). RAM is one run of bytes, the blocks in order;
//! its beginning is mapped from guest-physical 0 up to a limit below 4 GiB (PCI needs the rest), what is left starts at
//! 4 GiB. The window 0xa0000-0xbffff is the VGA's and no RAM; 0xc0000-0xfffff is RAM that the firmware shadows itself
//! into, so it reads as RAM.

use super::machine::{Machine, MachineKind};
use crate::Error;
use std::ops::Range;
use vmi_core::{Gpa, Region};

/// Where RAM that does not fit below the PCI hole goes on.
pub const FOUR_GIB: u64 = 1 << 32;
/// End of conventional memory and beginning of the VGA window.
const VGA_START: u64 = 0xa_0000;
const VGA_END: u64 = 0xc_0000;
/// microvm maps its firmware (a block of its own) here.
const MICROVM_BIOS_START: u64 = 0xf_0000;
const MICROVM_BIOS_END: u64 = 0x10_0000;
/// From QEMU 7.1 on, a guest with an AMD CPU whose memory and PCI window would reach 0xfd_0000_0000 has its upper RAM
/// moved to 1 TiB (pc.c, `pc_set_amd_above_4g_mem_start`). Whether the CPU is AMD's and how large the window is cannot be
/// told from outside, so from here on (64 GiB below) the rules say nothing.
const AMD_HOLE_MARGIN: u64 = 0xfd_0000_0000 - (64 << 30);

/// One run of guest memory and where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Guest-physical addresses.
    pub guest: Region,
    /// Index into [`Machine::blocks`].
    pub block: usize,
    /// Offset in that block of the region's first byte.
    pub offset: u64,
}

/// What of a placement lies in `within`.
pub(super) fn part(placement: &Placement, within: Range<u64>) -> Option<Placement> {
    let start = placement.guest.start.0.max(within.start);
    let len = placement.guest.end().0.min(within.end).checked_sub(start).filter(|&len| len > 0)?;
    let offset = placement.offset.checked_add(start.checked_sub(placement.guest.start.0)?)?;
    Some(Placement { guest: Region { start: Gpa(start), len }, block: placement.block, offset })
}

/// How many bytes of RAM lie below 4 GiB.
#[must_use]
pub fn low_size(kind: MachineKind, ram_size: u64, max_ram_below_4g: u64) -> u64 {
    let limit = match kind {
        MachineKind::Q35 => {
            let low = if ram_size >= 0xb000_0000 { 0x8000_0000 } else { 0xb000_0000 };
            let max = if max_ram_below_4g == 0 { FOUR_GIB } else { max_ram_below_4g };
            low.min(max)
        }
        MachineKind::I440fx { gigabyte_align } => {
            let max = if max_ram_below_4g == 0 { 0xe000_0000 } else { max_ram_below_4g };
            if ram_size >= max && gigabyte_align { max.min(0xc000_0000) } else { max }
        }
        MachineKind::Microvm => 0xc000_0000,
    };
    ram_size.min(limit)
}

/// The layout by the rules of the machine, ascending.
pub fn by_rules(pid: u32, machine: &Machine) -> Result<Vec<Placement>, Error> {
    let kind = machine
        .kind
        .ok_or_else(|| Error::UnknownMachine { pid, machine: machine.name.chars().take(100).collect() })?;
    let ram_size = machine.ram_size;
    let low = low_size(kind, ram_size, machine.max_ram_below_4g);
    let high = ram_size.saturating_sub(low);
    if FOUR_GIB.checked_add(high).is_none_or(|end| end > AMD_HOLE_MARGIN) {
        return Err(Error::LayoutUncertain { pid, ram_size });
    }
    // (first guest address, end, offset in RAM)
    let mut runs = Vec::new();
    match kind {
        MachineKind::Q35 | MachineKind::I440fx { .. } => {
            runs.push((0, low.min(VGA_START), 0));
            runs.push((VGA_END, low, VGA_END));
        }
        MachineKind::Microvm => {
            runs.push((0, low.min(MICROVM_BIOS_START), 0));
            runs.push((MICROVM_BIOS_END, low, MICROVM_BIOS_END));
        }
    }
    runs.push((FOUR_GIB, FOUR_GIB.saturating_add(high), low));
    Ok(runs.into_iter().flat_map(|(start, end, offset)| over_blocks(machine, start, end, offset)).collect())
}

/// Cuts one run of guest memory at the borders of the blocks that hold it.
fn over_blocks(machine: &Machine, start: u64, end: u64, ram_offset: u64) -> Vec<Placement> {
    let mut placements = Vec::new();
    let mut block_start = 0_u64;
    let ram_end = ram_offset.saturating_add(end.saturating_sub(start));
    for &index in &machine.ram {
        let Some(block) = machine.blocks.get(index) else { continue };
        let block_end = block_start.saturating_add(block.size);
        let from = ram_offset.max(block_start);
        let to = ram_end.min(block_end);
        if from < to {
            placements.push(Placement {
                guest: Region { start: Gpa(start.saturating_add(from - ram_offset)), len: to - from },
                block: index,
                offset: from - block_start,
            });
        }
        block_start = block_end;
    }
    placements
}
