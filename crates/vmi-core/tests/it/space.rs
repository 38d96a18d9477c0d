//! Reads through an address space.

use crate::made_up::MadeUp;
use std::sync::atomic::Ordering;
use vmi_core::{Access, AddressSpace, Budget, Gpa, Gva, Levels, Look, ReadError, Region};

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
fn a_number_is_the_same_by_one_load_and_byte_by_byte() {
    for access in [Access::Mapped, Access::PerCall] {
        let mut memory = two_pages(access);
        memory.write(0x9ff0, b"0123456789ab");
        let look = Look::begin(&memory, Budget::default()).unwrap();
        let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
        // Across the end of the page, and each alignment before it.
        for at in (0x5ff0..0x6004).map(|at| Gva(BASE + at)) {
            let bytes = |len| space.bytes(at, len).unwrap();
            assert_eq!(space.u8(at).unwrap().to_le_bytes(), *bytes(1));
            assert_eq!(space.u16(at).unwrap().to_le_bytes(), *bytes(2));
            assert_eq!(space.u32(at).unwrap().to_le_bytes(), *bytes(4));
            assert_eq!(space.u64(at).unwrap().to_le_bytes(), *bytes(8));
        }
        assert_eq!(memory.loans.load(Ordering::Relaxed) > 0, access == Access::Mapped);
        assert!(matches!(space.u64(Gva(BASE + 0x7000)), Err(ReadError::NotMapped { .. })));
        assert!(space.u8(Gva(u64::MAX)).is_err());
    }
}

#[test]
fn what_comes_by_one_load_costs_what_any_read_costs() {
    let memory = two_pages(Access::Mapped);
    let look = Look::begin(&memory, Budget { bytes: 64, ..Budget::default() }).unwrap();
    let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
    // Four entries of page tables, eight bytes each.
    assert_eq!(space.u32(Gva(BASE + 0x6000)).unwrap(), u32::from_le_bytes(*b"efgh"));
    let before = look.stats();
    assert_eq!(space.u32(Gva(BASE + 0x6000)).unwrap(), u32::from_le_bytes(*b"efgh"));
    assert_eq!((look.stats().bytes, look.stats().reads), (before.bytes + 4, before.reads + 1));
    let end = (0..16).find_map(|_| space.u32(Gva(BASE + 0x6000)).err());
    assert!(matches!(end, Some(ReadError::Budget { limit: "bytes" })), "{end:?}");
    assert!(space.u8(Gva(BASE + 0x6000)).is_err(), "and it stays so");
}

#[test]
fn words_of_an_object_are_those_that_are_read_by_themselves_or_none() {
    for access in [Access::Mapped, Access::PerCall] {
        let memory = two_pages(access);
        let look = Look::begin(&memory, Budget { bytes: 4096, ..Budget::default() }).unwrap();
        let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
        let at = Gva(BASE + 0x5ff0);
        let each = [0, 8, 16].map(|distance| space.u64(at.checked_add(distance).unwrap()).unwrap());
        let before = look.stats();
        let mut words = [0; 3];
        let all = space.words(at, &[0, 8, 16], &mut words);
        assert_eq!(all.is_some(), access == Access::Mapped);
        if all.is_none() {
            continue;
        }
        assert_eq!((words, look.stats().bytes), (each, before.bytes + 24));
        assert_eq!(space.words(Gva(at.0 + 1), &[0], &mut words), None, "it straddles words");
        assert_eq!(space.words(at, &[0, 0x1010], &mut words), None, "the page is not there");
        assert_eq!(space.words(at, &[u64::MAX], &mut words), None);
        // Until the budget is used up: then it says so to whoever reads.
        let read =
            (0..1000).take_while(|_| space.words(at, &[0; 3], &mut words).is_some() || space.u8(at).is_ok());
        assert!(read.count() < 200);
        assert_eq!(space.words(at, &[0], &mut words), None);
    }
}

#[test]
fn what_is_expected_are_the_lines_of_the_bytes_in_pages_that_are_known() {
    let memory = two_pages(Access::Mapped);
    let look = Look::begin(&memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
    let expected = |expect: &dyn Fn()| {
        memory.expected.lock().unwrap().clear();
        expect();
        memory.expected.lock().unwrap().clone()
    };
    let at = |offset: u64| Gva(BASE + offset);
    assert_eq!(expected(&|| space.expect(at(0x5000), 8)), [], "nobody knows yet where that is");
    space.bytes(at(0x5ff8), 16).unwrap();
    for _ in 0..2 {
        assert_eq!(expected(&|| space.expect(at(0x5038), 8)), [(9, 1)]);
        assert_eq!(expected(&|| space.expect(at(0x503c), 8)), [(9, 0b11)]);
        // As far as they are in the page.
        assert_eq!(expected(&|| space.expect(at(0x5fc0), 4096)), [(9, 1 << 63)]);
        assert_eq!(expected(&|| space.expect_lines(at(0x5000), 0b1001)), [(9, 0b1001)]);
        // Those of an object that goes on in the next page.
        assert_eq!(expected(&|| space.expect_lines(at(0x5f80), 0b1101)), [(9, 1 << 62), (8, 0b11)]);
        assert_eq!(expected(&|| space.expect_lines(at(0x5fc0), 0b10)), [(8, 1)]);
        // From here on the pages themselves are at hand.
        space.u64(at(0x5000)).unwrap();
        space.u64(at(0x6000)).unwrap();
    }
    assert_eq!(
        expected(&|| space.expect_lines(at(0x6fc0), 0b11)),
        [(8, 1 << 63)],
        "the next page is not there"
    );
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

/// 32 pages from the base on: the first twenty in one piece from 1 MiB, the others in a second piece from 2 MiB, but for the last one,
/// which is not mapped. Each page begins with its number.
fn many_pages(access: Access) -> MadeUp {
    let mut memory = MadeUp::zeros(4 << 20, access);
    memory.write_u64(0x1000 + 256 * 8, 0x2001);
    memory.write_u64(0x2000, 0x3001);
    memory.write_u64(0x3000, 0x4001);
    for number in 0..31 {
        let place = if number < 20 { (1 << 20) + number * 0x1000 } else { (2 << 20) + number * 0x1000 };
        memory.write_u64(0x4000 + number * 8, place | 1);
        memory.write_u64(place, number + 1);
    }
    memory
}

#[test]
fn what_is_long_is_read_in_the_pieces_that_it_has_in_physical_memory() {
    for access in [Access::Mapped, Access::PerCall] {
        let memory = many_pages(access);
        let look = Look::begin(&memory, Budget::default()).unwrap();
        let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
        // Once for the translations, which are kept.
        space.bytes(Gva(BASE), 31 << 12).unwrap();
        let before = memory.reads();
        let bytes = space.bytes(Gva(BASE), 31 << 12).unwrap();
        assert_eq!(memory.reads() - before, 2, "{access:?}");
        for (number, page) in bytes.chunks(4096).enumerate() {
            assert_eq!(page[..8], (number as u64 + 1).to_le_bytes(), "page {number}");
        }
        let inside = space.bytes(Gva(BASE + 0x1ffc), 0x15000).unwrap();
        assert_eq!(inside, bytes[0x1ffc..0x16ffc]);
    }
}

#[test]
fn pages_that_are_lent_are_told_apart_and_asked_for_again_only_after_all_is_forgotten() {
    let mut memory = many_pages(Access::Mapped);
    // The same pages once more, 4 MiB further on.
    memory.write_u64(0x3000 + 2 * 8, 0x4001);
    let look = Look::begin(&memory, Budget::default()).unwrap();
    let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
    let brief = AddressSpace::brief(&look, Gpa(0x1000), Levels::Four);
    let read_all = |space: &AddressSpace<'_, '_>| {
        for number in 0..31 {
            let at = Gva(BASE + number * 0x1000);
            assert_eq!(space.u64(at).unwrap(), number + 1);
            assert_eq!(space.bytes(at, 8).unwrap(), (number + 1).to_le_bytes());
        }
        memory.loans.load(Ordering::Relaxed)
    };
    // The second time the translations are known, from the third on the pages are.
    read_all(&space);
    let lent = read_all(&space);
    assert_eq!(read_all(&space), lent);
    space.forget();
    assert!(read_all(&space) >= lent + 31);
    // Two pages that have one place to be kept in, by turns.
    let lent = read_all(&space);
    for number in 0..30_u64 {
        let other = number ^ 1;
        let (at, same_place) = (Gva(BASE + number * 0x1000), Gva(BASE + (0x400 + other) * 0x1000));
        assert_eq!((space.u64(at).unwrap(), space.u64(same_place).unwrap()), (number + 1, other + 1));
        assert_eq!(space.u64(at).unwrap(), number + 1);
    }
    assert!(memory.loans.load(Ordering::Relaxed) >= lent + 60);
    // What keeps nothing reads the same.
    read_all(&brief);
    read_all(&brief);
}

#[test]
fn a_long_read_fails_at_the_page_that_is_not_there() {
    let mut memory = many_pages(Access::PerCall);
    let at = |memory: &MadeUp, expected: u64| {
        let look = Look::begin(memory, Budget::default()).unwrap();
        let space = AddressSpace::new(&look, Gpa(0x1000), Levels::Four);
        match space.bytes(Gva(BASE), 32 << 12).unwrap_err() {
            ReadError::NotMapped { at } | ReadError::Outside { at } => assert_eq!(at, Gva(BASE + expected)),
            other => panic!("{other}"),
        }
    };
    at(&memory, 31 << 12);
    // The tables say memory goes on where there is none.
    memory.regions = vec![Region { start: Gpa(0), len: (2 << 20) + 0x1b000 }];
    at(&memory, 0x1b000);
}
