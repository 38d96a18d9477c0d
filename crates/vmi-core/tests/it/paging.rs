//! Translation by x86-64 page tables that a test wrote.

use crate::made_up::MadeUp;
use vmi_core::{Access, AddressSpace, Budget, Gpa, Gva, Levels, Look, ReadError};

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const NX: u64 = 1 << 63;
/// Kept by Linux and not present for the CPU; the address is inverted.
const KEPT: u64 = 1 << 8;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Tables at 0x1000 (top) and up: one mapping of each page size below the same top-level entry.
fn tables(levels: Levels) -> MadeUp {
    let mut memory = MadeUp::zeros(16 << 20, Access::Mapped);
    let mut top = 0x1000;
    if levels == Levels::Five {
        memory.write_u64(top + 511 * 8, 0x7000 | PRESENT);
        top = 0x7000;
    }
    memory.write_u64(top + 256 * 8, 0x2000 | PRESENT); // ffff800000000000
    memory.write_u64(0x2000, 0x3000 | PRESENT);
    memory.write_u64(0x2000 + 8, PRESENT | LARGE | NX); // second GiB → physical 0
    memory.write_u64(0x3000, 0x4000 | PRESENT);
    memory.write_u64(0x3000 + 8, 0x20_0000 | PRESENT | LARGE);
    memory.write_u64(0x4000 + 5 * 8, 0x9000 | PRESENT | NX);
    memory.write_u64(0x4000 + 6 * 8, 0x9000);
    memory.write_u64(0x4000 + 7 * 8, 0x00ff_ffff_f000 | PRESENT);
    memory.write_u64(0x3000 + 3 * 8, (0x40_0000 ^ ADDRESS) | KEPT | LARGE);
    memory.write_u64(0x3000 + 4 * 8, (0x4000 ^ ADDRESS) | KEPT);
    memory.write_u64(0x4000 + 8 * 8, (0xa000 ^ ADDRESS) | KEPT | NX);
    memory
}

fn translate(levels: Levels, at: u64) -> Result<(Gpa, u64), ReadError> {
    let memory = tables(levels);
    let look = Look::begin(&memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, Gpa(0x1000 | 0x18), levels);
    let first = space.translate(Gva(at));
    // The second answer comes from the translation cache and must be the same.
    if let (Ok(first), Ok(second)) = (&first, space.translate(Gva(at))) {
        assert_eq!(*first, second);
    }
    first.map(|found| (found.at, found.page_size))
}

#[test]
fn pages_of_all_sizes_are_translated_at_4_and_5_levels() {
    for levels in [Levels::Four, Levels::Five] {
        assert_eq!(translate(levels, 0xffff_8000_0000_5123).unwrap(), (Gpa(0x9123), 4096));
        assert_eq!(translate(levels, 0xffff_8000_0020_0456).unwrap().0, Gpa(0x20_0456));
        assert_eq!(translate(levels, 0xffff_8000_4012_3456).unwrap().0, Gpa(0x12_3456));
    }
}

#[test]
fn a_page_that_linux_keeps_from_the_cpu_for_now_is_where_it_was() {
    for levels in [Levels::Four, Levels::Five] {
        assert_eq!(translate(levels, 0xffff_8000_0000_8123).unwrap(), (Gpa(0xa123), 4096));
        assert_eq!(translate(levels, 0xffff_8000_0060_0456).unwrap().0, Gpa(0x40_0456));
        // A table is never kept so.
        assert!(matches!(translate(levels, 0xffff_8000_0080_5123), Err(ReadError::NotMapped { .. })));
    }
}

#[test]
fn an_entry_that_is_not_present_maps_nothing() {
    assert!(matches!(translate(Levels::Four, 0xffff_8000_0000_6000), Err(ReadError::NotMapped { .. })));
    assert!(matches!(translate(Levels::Four, 0xffff_9000_0000_0000), Err(ReadError::NotMapped { .. })));
}

#[test]
fn an_address_that_is_not_canonical_maps_nothing() {
    assert!(matches!(translate(Levels::Four, 0x0000_8000_0000_5000), Err(ReadError::NotMapped { .. })));
    assert!(matches!(translate(Levels::Five, 0x01ff_8000_0000_5000), Err(ReadError::NotMapped { .. })));
}

#[test]
fn an_entry_that_leads_outside_memory_is_an_error_and_not_a_panic() {
    let memory = tables(Levels::Four);
    let look = Look::begin(&memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
    assert!(matches!(space.u64(Gva(0xffff_8000_0000_7000)), Err(ReadError::Outside { .. })));
}

#[test]
fn tables_that_lead_to_themselves_end_after_their_levels() {
    let mut memory = MadeUp::zeros(1 << 20, Access::Mapped);
    memory.write_u64(0x1000 + 256 * 8, 0x1000 | PRESENT);
    memory.write_u64(0x1000, 0x1000 | PRESENT);
    let look = Look::begin(&memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
    assert_eq!(space.translate(Gva(0xffff_8000_0000_0010)).unwrap().at, Gpa(0x1010));
}
