//! From slots to a guest's memory: which of them are RAM, in which mappings of the VMM, and whether that is what the command line of
//! a QEMU says.

use super::Slot;
use crate::Error;
use crate::kvm::layout::{FOUR_GIB, Placement, by_rules, part};
use crate::kvm::locate::{Located, continues};
use crate::kvm::machine::Machine;
use crate::kvm::maps::Mapping;
use crate::kvm::plugged;
use std::collections::BTreeMap;
use std::ops::Range;

/// Below, the chipset switches what is seen while the guest runs, so what was seen at one moment says little.
const LOW: u64 = 1 << 20;
/// Slots below this size and above `LOW` are the kernel's own (a task state segment, the page of the APIC) and devices'.
const SMALLEST: u64 = 1 << 20;
/// RAM that the chipset may hide from all modes but SMM: `TSEG`, at the end of the RAM below 4 GiB. It has 16 MiB unless somebody
/// asks for more (hw/pci-host/q35.c).
const HIDDEN_MAX: u64 = 16 << 20;

/// Placements, and where the blocks that they are numbered by are in the VMM.
pub(crate) type Layout = (Vec<Placement>, Vec<Located>);

/// The layout of a guest that nothing more is known of than its slots.
pub(crate) fn alone(pid: u32, slots: &[Slot], mappings: &[Mapping]) -> Result<Layout, Error> {
    let mut layout = Layout::default();
    for slot in slots.iter().filter(|slot| slot.guest.start.0 < LOW || slot.guest.len >= SMALLEST) {
        add(pid, &mut layout, slot, mappings)?;
    }
    if layout.0.is_empty() {
        return Err(Error::NoRamSlots { pid, slots: slots.len() });
    }
    Ok(layout)
}

/// The layout of a QEMU's guest: its RAM, held against the rules of the machine, and what was plugged in. Firmware and video memory
/// are left out, as they are by the rules.
pub(crate) fn of_machine(
    pid: u32,
    machine: &Machine,
    slots: &[Slot],
    mappings: &[Mapping],
) -> Result<Layout, Error> {
    let rules = match by_rules(pid, machine) {
        Ok(rules) => rules,
        // The rules know that they do not know: then the slots' word stands alone.
        Err(Error::LayoutUncertain { .. } | Error::UnknownMachine { .. }) => {
            return alone(pid, slots, mappings);
        }
        Err(error) => return Err(error),
    };
    // By number of the block in the machine: its first address in the VMM.
    let mut blocks: BTreeMap<usize, u64> = BTreeMap::new();
    let mut placements = Vec::new();
    let low_end = rules.iter().map(|rule| rule.guest.end().0).filter(|&end| end <= FOUR_GIB).max();
    for rule in &rules {
        let end = rule.guest.end().0;
        let start = rule.guest.start.0.max(LOW);
        let mut seen_to = start;
        for slot in slots.iter().filter(|slot| slot.guest.end().0 > start && slot.guest.start.0 < end) {
            readable(pid, slot)?;
            let Some((placement, address)) = common(rule, slot, LOW..u64::MAX) else { continue };
            let base = address.checked_sub(placement.offset);
            let known = base.map(|base| *blocks.entry(rule.block).or_insert(base));
            if known.is_none() || known != base || placement.guest.start.0 > seen_to {
                return Err(contradiction(pid, machine, rule, slots));
            }
            seen_to = placement.guest.end().0;
            placements.push(placement);
        }
        let unseen = end.saturating_sub(seen_to);
        let hidden = Some(end) == low_end && seen_to > start && unseen <= HIDDEN_MAX;
        if unseen > 0 && !hidden {
            return Err(contradiction(pid, machine, rule, slots));
        }
    }
    placements.extend(rules.iter().filter_map(|rule| part(rule, 0..LOW)));
    let mut located = Vec::new();
    for (&block, &start) in &blocks {
        let size = machine.blocks.get(block).map_or(0, |block| block.size);
        let found = holding(mappings, start, size).filter(|found| is_memory(&found.mapping));
        located.push(found.ok_or(Error::SlotNotMapped { pid, start, size })?);
    }
    let number = |block: usize| blocks.keys().position(|&known| known == block);
    let mut layout = (Vec::new(), located);
    for placement in placements {
        // A block that is seen below `LOW` alone is no guest's RAM.
        let Some(block) = number(placement.block) else {
            return Err(contradiction(pid, machine, &placement, slots));
        };
        layout.0.push(Placement { block, ..placement });
    }
    if let Some(window) = plugged::window(machine) {
        for slot in slots.iter().filter(|slot| window.contains(slot.guest.start, slot.guest.len)) {
            add(pid, &mut layout, slot, mappings)?;
        }
    }
    layout.0.sort_by_key(|placement| placement.guest.start);
    Ok(layout)
}

/// Adds a slot as a block of its own, unless it is firmware or a device's.
fn add(pid: u32, layout: &mut Layout, slot: &Slot, mappings: &[Mapping]) -> Result<(), Error> {
    if slot.read_only {
        return Ok(());
    }
    readable(pid, slot)?;
    let found = holding(mappings, slot.address, slot.guest.len);
    let found = found.ok_or(Error::SlotNotMapped { pid, start: slot.address, size: slot.guest.len })?;
    if is_memory(&found.mapping) {
        layout.0.push(Placement { guest: slot.guest, block: layout.1.len(), offset: 0 });
        layout.1.push(found);
    }
    Ok(())
}

fn readable(pid: u32, slot: &Slot) -> Result<(), Error> {
    if slot.private {
        return Err(Error::Protected { pid, how: format!("guest_memfd, slot {}", slot.guest) });
    }
    Ok(())
}

/// What of a slot and of a placement is the same guest memory: as a placement, and the address in the VMM.
fn common(rule: &Placement, slot: &Slot, within: Range<u64>) -> Option<(Placement, u64)> {
    let start = slot.guest.start.0.max(within.start);
    let placement = part(rule, start..slot.guest.end().0.min(within.end))?;
    let inside = placement.guest.start.0.checked_sub(slot.guest.start.0)?;
    Some((placement, slot.address.checked_add(inside)?))
}

/// The mapping that holds the first of these addresses, if it and those that continue it hold all.
fn holding(mappings: &[Mapping], start: u64, size: u64) -> Option<Located> {
    let end = start.checked_add(size).filter(|&end| end > start)?;
    let first = mappings.partition_point(|mapping| mapping.end <= start);
    let mapping = mappings.get(first).filter(|mapping| mapping.start <= start)?;
    let mut last = mapping;
    for next in mappings.get(first.checked_add(1)?..)? {
        if last.end >= end || !continues(last, next) {
            break;
        }
        last = next;
    }
    (last.end >= end).then(|| Located { start, size, mapping: mapping.clone() })
}

/// Whether a mapping can be memory at all. Reading a device's registers may do anything.
fn is_memory(mapping: &Mapping) -> bool {
    let name = mapping.name.as_str();
    let device = name.starts_with("anon_inode:")
        || name.starts_with("/dev/")
            && !["/dev/zero", "/dev/shm/", "/dev/hugepages"].iter().any(|memory| name.starts_with(memory));
    mapping.readable && mapping.writable && !mapping.executable && !device
}

fn contradiction(pid: u32, machine: &Machine, rule: &Placement, slots: &[Slot]) -> Error {
    let seen: Vec<String> = slots
        .iter()
        .filter(|slot| slot.guest.end() > rule.guest.start && slot.guest.start < rule.guest.end())
        .map(|slot| format!("{} at {:#x}", slot.guest, slot.address))
        .collect();
    let name = machine.blocks.get(rule.block).map_or("?", |block| block.name.as_str());
    Error::SlotsContradiction {
        pid,
        machine: machine.name.clone(),
        slots: if seen.is_empty() { "nothing there".to_owned() } else { seen.join(", ") },
        rules: format!("{} is {name} at {:#x}", rule.guest, rule.offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::cmdline::Options;
    use crate::kvm::{machine, maps};
    use std::fmt::Write as _;
    use vmi_core::{Gpa, Region};

    const MIB: u64 = 1 << 20;
    /// Where the tests' VMM has its RAM.
    const RAM: u64 = 0x7f00_0000_0000;

    fn slot(start: u64, len: u64, address: u64) -> Slot {
        Slot { guest: Region { start: Gpa(start), len }, address, read_only: false, private: false }
    }

    /// A machine of these options, and the slots that QEMU makes for `low` bytes below 4 GiB and `high` above, all in one block.
    fn slots_of(low: u64, high: u64) -> Vec<Slot> {
        let mut slots = vec![
            slot(0, 0xa_0000, RAM),
            Slot { read_only: true, ..slot(0xc_0000, 0x2_0000, RAM - MIB) },
            slot(MIB, low - MIB, RAM + MIB),
            Slot { read_only: true, ..slot(0xfffc_0000, 0x4_0000, RAM - 2 * MIB) },
        ];
        slots.extend((high > 0).then(|| slot(FOUR_GIB, high, RAM + low)));
        slots
    }

    fn mappings_of(lines: &[(u64, u64, &str)]) -> Vec<Mapping> {
        let mut text = String::new();
        for (start, len, rest) in lines {
            writeln!(text, "{start:x}-{:x} {rest}", start + len).unwrap();
        }
        maps::parse(&text).unwrap()
    }

    const ANONYMOUS: &str = "rw-p 00000000 00:00 0 ";

    fn machine_of(options: &str) -> Machine {
        let arguments: Vec<String> = options.split(' ').map(ToOwned::to_owned).collect();
        machine::parse(1, "qemu-system-x86_64", &Options::parse(&arguments)).unwrap()
    }

    /// The layout as guest address, length, and address in the VMM.
    fn seen(layout: &Layout) -> Vec<(u64, u64, u64)> {
        let (placements, located) = layout;
        let address = |placement: &Placement| located[placement.block].start + placement.offset;
        placements
            .iter()
            .map(|placement| (placement.guest.start.0, placement.guest.len, address(placement)))
            .collect()
    }

    #[test]
    fn the_ram_of_a_machine_is_where_its_slots_say() {
        let machine = machine_of("-M q35 -m 3G");
        let slots = slots_of(2048 * MIB, 1024 * MIB);
        // Grown into one with what lies beside it, which no rule of sizes can tell.
        let mappings = mappings_of(&[(RAM - 4 * MIB, 3 * 1024 * MIB + 8 * MIB, ANONYMOUS)]);
        let layout = of_machine(1, &machine, &slots, &mappings).unwrap();
        assert_eq!(
            seen(&layout),
            [
                (0, 0xa_0000, RAM),
                (0xc_0000, 0x4_0000, RAM + 0xc_0000),
                (MIB, 2047 * MIB, RAM + MIB),
                (FOUR_GIB, 1024 * MIB, RAM + 2048 * MIB),
            ]
        );
    }

    #[test]
    fn memory_that_only_the_firmware_sees_is_a_hole_at_the_end_and_nowhere_else() {
        let machine = machine_of("-M q35 -m 1G");
        let mappings = mappings_of(&[(RAM, 1024 * MIB, ANONYMOUS)]);
        let with = |slots: &[Slot]| of_machine(1, &machine, slots, &mappings);
        let hidden = with(&slots_of(1016 * MIB, 0)).unwrap();
        assert_eq!(seen(&hidden).last(), Some(&(MIB, 1015 * MIB, RAM + MIB)));
        for slots in [
            slots_of(1000 * MIB, 0),
            vec![slot(MIB, 511 * MIB, RAM + MIB), slot(513 * MIB, 511 * MIB, RAM + 513 * MIB)],
            vec![slot(2 * MIB, 1022 * MIB, RAM + 2 * MIB)],
            Vec::new(),
        ] {
            let refused = with(&slots);
            assert!(matches!(refused, Err(Error::SlotsContradiction { .. })), "{slots:x?}: {refused:?}");
        }
    }

    #[test]
    fn a_slot_that_contradicts_the_rules_is_refused() {
        let machine = machine_of("-M q35 -m 3G");
        let mappings = mappings_of(&[(RAM, 4096 * MIB, ANONYMOUS)]);
        // The upper half is shifted by a page, and is another block's.
        for address in [RAM + 2048 * MIB + 4096, RAM + 3072 * MIB] {
            let mut slots = slots_of(2048 * MIB, 1024 * MIB);
            slots.last_mut().unwrap().address = address;
            let refused = of_machine(1, &machine, &slots, &mappings);
            assert!(matches!(refused, Err(Error::SlotsContradiction { .. })), "{refused:?}");
        }
        // The right slots at addresses where the process has less, or a device.
        let slots = slots_of(2048 * MIB, 1024 * MIB);
        for mappings in [
            mappings_of(&[(RAM, 3071 * MIB, ANONYMOUS)]),
            mappings_of(&[(RAM + MIB, 4096 * MIB, ANONYMOUS)]),
            mappings_of(&[(RAM, 4096 * MIB, "rw-s 00000000 00:05 7 /dev/vfio/12")]),
        ] {
            let refused = of_machine(1, &machine, &slots, &mappings);
            assert!(matches!(refused, Err(Error::SlotNotMapped { .. })), "{refused:?}");
        }
        let mut slots = slots;
        slots[2].private = true;
        let refused = of_machine(1, &machine, &slots, &mappings);
        assert!(matches!(refused, Err(Error::Protected { .. })), "{refused:?}");
    }

    #[test]
    fn two_blocks_of_one_size_are_told_apart_and_a_dimm_is_placed() {
        let machine = machine_of(
            "-M pc -m 1G,slots=2,maxmem=8G -object memory-backend-ram,id=a,size=512M -object \
             memory-backend-ram,id=b,size=512M -numa node,memdev=b -numa node,memdev=a",
        );
        let (a, b, dimm) = (RAM, RAM + 4096 * MIB, RAM + 8192 * MIB);
        let slots = [
            slot(0, 0xa_0000, b),
            slot(MIB, 511 * MIB, b + MIB),
            slot(512 * MIB, 512 * MIB, a),
            slot(0xfd00_0000, 16 * MIB, RAM - 64 * MIB),
            slot(FOUR_GIB, 512 * MIB, dimm),
        ];
        let mappings = mappings_of(&[
            (RAM - 64 * MIB, 16 * MIB, ANONYMOUS),
            (a, 512 * MIB, ANONYMOUS),
            (b, 512 * MIB, ANONYMOUS),
            (dimm, 512 * MIB, "rw-s 00000000 00:01 9 /memfd:dimm (deleted)"),
        ]);
        let layout = of_machine(1, &machine, &slots, &mappings).unwrap();
        assert_eq!(
            seen(&layout),
            [
                (0, 0xa_0000, b),
                (0xc_0000, 0x4_0000, b + 0xc_0000),
                (MIB, 511 * MIB, b + MIB),
                (512 * MIB, 512 * MIB, a),
                (FOUR_GIB, 512 * MIB, dimm),
            ]
        );
    }

    #[test]
    fn of_an_unknown_vmm_all_memory_is_taken_and_no_device() {
        let slots = [
            slot(0, 256 * MIB, RAM),
            slot(0xc000_0000, 64 * MIB, RAM + 512 * MIB),
            slot(0xfee0_0000, 4096, 0x1000),
            slot(FOUR_GIB, 256 * MIB, RAM + 256 * MIB),
        ];
        let mappings = mappings_of(&[
            (RAM, 256 * MIB, "rw-s 00000000 00:01 9 /memfd:guest_mem (deleted)"),
            (RAM + 256 * MIB, 256 * MIB, "rw-s 10000000 00:01 9 /memfd:guest_mem (deleted)"),
            (RAM + 512 * MIB, 64 * MIB, "rw-s 00000000 00:05 7 anon_inode:[vfio-device]"),
        ]);
        let layout = alone(1, &slots, &mappings).unwrap();
        assert_eq!(seen(&layout), [(0, 256 * MIB, RAM), (FOUR_GIB, 256 * MIB, RAM + 256 * MIB)]);
        assert_eq!(layout.1[1].file_offset(), 256 * MIB);
        assert!(matches!(alone(1, &slots[1..2], &mappings), Err(Error::NoRamSlots { slots: 1, .. })));
    }
}
