//! Reads through an address space.

use crate::made_up::MadeUp;
use vmi_core::{Access, AddressSpace, Budget, Gpa, Gva, Levels, Look, ReadError};

/// Two virtual pages, 0x5000 and 0x6000 above the base, whose physical pages are far apart and in the other order.
fn two_pages(access: Access) -> MadeUp {
    let mut memory = MadeUp::zeros(1 << 20, access);
    memory.write_u64(0x1000 + 256 * 8, 0x2001);
    memory.write_u64(0x2000, 0x3001);
    memory.write_u64(0x3000, 0x4001);
    memory.write_u64(0x4000 + 5 * 8, 0x9001);
    memory.write_u64(0x4000 + 6 * 8, 0x8001);
    memory.write(0x9ffc, b"abcd");
    memory.write(0x8000, b"efgh\0");
    memory
}

const BASE: u64 = 0xffff_8000_0000_0000;

#[test]
fn a_read_across_pages_joins_what_is_apart_in_physical_memory() {
    for access in [Access::Mapped, Access::PerCall] {
        let memory = two_pages(access);
        let look = Look::begin(&memory, Budget::default()).unwrap();
        let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
        assert_eq!(space.bytes(Gva(BASE + 0x5ffc), 8).unwrap(), b"abcdefgh");
        assert_eq!(space.u64(Gva(BASE + 0x5ffc)).unwrap(), u64::from_le_bytes(*b"abcdefgh"));
        assert_eq!(space.c_string(Gva(BASE + 0x5ffc), 64).unwrap(), b"abcdefgh");
        assert_eq!(space.c_string(Gva(BASE + 0x5ffc), 6).unwrap(), b"abcdef");
    }
}

#[test]
fn a_string_may_end_right_before_a_page_that_is_not_mapped() {
    let mut memory = two_pages(Access::Mapped);
    memory.write(0x8ffb, b"last\0");
    let look = Look::begin(&memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
    assert_eq!(space.c_string(Gva(BASE + 0x6ffb), 64).unwrap(), b"last");
    assert!(matches!(space.bytes(Gva(BASE + 0x6ffb), 6), Err(ReadError::NotMapped { .. })));
}

#[test]
fn a_read_that_wraps_around_the_address_space_is_an_error() {
    let memory = two_pages(Access::Mapped);
    let look = Look::begin(&memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
    assert!(space.bytes(Gva(u64::MAX - 2), 16).is_err());
}
