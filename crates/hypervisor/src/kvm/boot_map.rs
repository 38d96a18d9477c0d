//! The memory map that a VMM gives its guest, read where the VMM put it in the guest's memory.
//!
//! Three forms, at places that the VMMs have kept since they exist: the e820 table of Linux's zero page at 0x7000
//! (Documentation/arch/x86/boot.rst; Firecracker, Cloud Hypervisor, crosvm), the map of a `struct hvm_start_info` at 0x6000
//! (Xen's include/public/arch-x86/hvm/start_info.h; the same VMMs where the kernel boots by PVH), and the table that kvmtool's
//! BIOS has at 0x9fc00 (its x86/bios.c). Linux keeps its hands off the first MiB, so they stay. All of it is the guest's to write:
//! it is held against the VMM's mappings and rules, and never believed alone.

use vmi_core::{Gpa, Region};

const PVH_AT: u64 = 0x6000;
const PVH_MAGIC: u32 = 0x336e_c578;
/// `memmap_paddr` and `memmap_entries`, and the size of an entry.
const PVH_MAP: usize = 40;
const PVH_COUNT: usize = 48;
const PVH_ENTRY: usize = 24;
const ZERO_PAGE_AT: u64 = 0x7000;
/// `boot_flag`, `header`, `e820_entries` and `e820_table` of the zero page.
const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const E820_COUNT: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY: usize = 20;
const KVMTOOL_AT: u64 = 0x9_fc00;
/// More entries than any of them writes (`E820_MAX_ENTRIES_ZEROPAGE`).
const ENTRIES_MAX: usize = 128;
/// What these tables say of RAM.
const RAM: u32 = 1;
/// The maps are below this.
const LOW: u64 = 1 << 20;

/// The RAM that the map in a guest's first MiB names, in its order. `None`: there is no map. `read` copies from a guest-physical
/// address; it is asked for nothing above the first MiB.
pub(super) fn read<E>(read: impl Fn(u64, &mut [u8]) -> Result<(), E>) -> Result<Option<Vec<Region>>, E> {
    let mut page = [0; 4096];
    read(PVH_AT, &mut page[..64])?;
    if u32_at(&page, 0) == Some(PVH_MAGIC) {
        let (at, count) = (u64_at(&page, PVH_MAP), u32_at(&page, PVH_COUNT));
        let count = count.and_then(|count| usize::try_from(count).ok()).filter(|&count| count <= ENTRIES_MAX);
        // Version 0 of the structure has no map; then the zero page may.
        if let (Some(at), Some(count @ 1..)) = (at, count)
            && at < LOW - 4096
        {
            let bytes = count.saturating_mul(PVH_ENTRY).min(page.len());
            read(at, page.get_mut(..bytes).unwrap_or_default())?;
            return Ok(Some(ram(page.get(..bytes).unwrap_or_default(), PVH_ENTRY)));
        }
    }
    read(ZERO_PAGE_AT, &mut page)?;
    if page.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
        && page.get(HEADER..HEADER + 4) == Some(b"HdrS")
    {
        let count = usize::from(page.get(E820_COUNT).copied().unwrap_or(0));
        return Ok(table(&page, E820_TABLE, count));
    }
    read(KVMTOOL_AT, &mut page[..1024])?;
    let count = u32_at(&page, 0).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    // Its first entry says where it stands itself, which is its only mark.
    let own = u64_at(&page, 4) == Some(0)
        && u64_at(&page, 12) == Some(KVMTOOL_AT)
        && u32_at(&page, 20) == Some(RAM);
    Ok(if own { table(&page[..1024], 4, count) } else { None })
}

fn table(bytes: &[u8], at: usize, count: usize) -> Option<Vec<Region>> {
    if count == 0 || count > ENTRIES_MAX {
        return None;
    }
    let end = at.checked_add(count.checked_mul(E820_ENTRY)?)?;
    Some(ram(bytes.get(at..end)?, E820_ENTRY))
}

fn ram(entries: &[u8], size: usize) -> Vec<Region> {
    let parse = |entry: &[u8]| {
        (u32_at(entry, 16)? == RAM)
            .then_some(Region { start: Gpa(u64_at(entry, 0)?), len: u64_at(entry, 8)? })
    };
    entries.chunks_exact(size).filter_map(parse).filter(|region| region.len > 0).collect()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io;

    fn reader(memory: &[u8]) -> impl Fn(u64, &mut [u8]) -> io::Result<()> {
        |at, out: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            out.copy_from_slice(&memory[at..at + out.len()]);
            Ok(())
        }
    }

    #[test]
    fn empty_memory_has_no_map() {
        assert_eq!(read(reader(&vec![0; 1 << 20])).unwrap(), None);
    }

    proptest! {
        #[test]
        fn whatever_a_guest_writes_there_is_read_without_a_panic(
            page in proptest::collection::vec(any::<u8>(), 4096),
            count in any::<u32>(),
            place in any::<u64>(),
        ) {
            let mut memory = vec![0; 1 << 20];
            memory[0x6000..0x6004].copy_from_slice(&PVH_MAGIC.to_le_bytes());
            memory[0x6000 + PVH_MAP..0x6000 + PVH_MAP + 8].copy_from_slice(&place.to_le_bytes());
            memory[0x6000 + PVH_COUNT..0x6000 + PVH_COUNT + 4].copy_from_slice(&count.to_le_bytes());
            memory[0x7000..0x8000].copy_from_slice(&page);
            let _ = read(reader(&memory)).unwrap();
            memory[0x6000] = 0;
            memory[0x7000 + BOOT_FLAG..0x7000 + BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
            memory[0x7000 + HEADER..0x7000 + HEADER + 4].copy_from_slice(b"HdrS");
            let _ = read(reader(&memory)).unwrap();
        }
    }
}
