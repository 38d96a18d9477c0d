//! Budgets and the page cache.

use crate::made_up::MadeUp;
use std::time::Duration;
use vmi_core::{Access, AddressSpace, Budget, Gpa, Gva, Levels, Look, ReadError};

#[test]
fn a_page_is_read_from_a_slow_backend_once_per_look() {
    let mut memory = MadeUp::zeros(1 << 20, Access::PerCall);
    memory.write(0x5000, b"once");
    let look = Look::begin(&memory, Budget::default()).unwrap();
    let mut buf = [0; 4];
    for offset in 0..100 {
        look.read(Gpa(0x5000 + offset), &mut buf).unwrap();
    }
    assert_eq!(memory.reads(), 1);
    look.forget_pages();
    look.read(Gpa(0x5000), &mut buf).unwrap();
    assert_eq!((memory.reads(), &buf), (2, b"once"));
}

#[test]
fn a_mapped_backend_is_always_asked_so_that_nothing_is_stale() {
    let memory = MadeUp::zeros(1 << 20, Access::Mapped);
    let look = Look::begin(&memory, Budget::default()).unwrap();
    look.read(Gpa(0), &mut [0; 8]).unwrap();
    look.read(Gpa(0), &mut [0; 8]).unwrap();
    assert_eq!(memory.reads(), 2);
    assert_eq!(look.stats().bytes, 16);
}

#[test]
fn a_look_that_keeps_more_than_a_quarter_of_what_it_may_read_is_over() {
    let memory = MadeUp::zeros(1 << 20, Access::Mapped);
    let look = Look::begin(&memory, Budget { bytes: 400, ..Budget::default() }).unwrap();
    let beside = look.beside(2);
    beside.keep(40).unwrap();
    look.keep(50).unwrap();
    look.rejoin(&beside);
    look.keep(10).unwrap();
    for _ in 0..2 {
        let over = look.keep(1).unwrap_err();
        assert!(matches!(over, ReadError::Budget { limit: "memory" }), "{over:?}");
    }
    assert!(look.read(Gpa(0), &mut [0; 8]).is_err());
}

#[test]
fn a_look_that_read_too_much_reads_nothing_more() {
    let memory = MadeUp::zeros(1 << 20, Access::Mapped);
    let look = Look::begin(&memory, Budget { bytes: 100, ..Budget::default() }).unwrap();
    let space = AddressSpace::new(&look, Gpa(0), Levels::Four);
    let mut last = Ok(0);
    for _ in 0..20 {
        last = space.u64(Gva(0x1000));
    }
    assert!(matches!(last, Err(ReadError::Budget { limit: "bytes" })), "{last:?}");
    assert!(last.unwrap_err().ends_the_look());
}

#[test]
fn looks_beside_one_read_no_more_than_it_may_and_give_back_the_rest() {
    let memory = MadeUp::zeros(1 << 20, Access::Mapped);
    let look = Look::begin(&memory, Budget { bytes: 100, ..Budget::default() }).unwrap();
    look.read(Gpa(0), &mut [0; 10]).unwrap();
    let beside = look.beside(3);
    beside.read(Gpa(0), &mut [0; 30]).unwrap();
    look.read(Gpa(0), &mut [0; 20]).unwrap();
    look.rejoin(&beside);
    assert_eq!((look.stats().bytes, look.stats().reads), (60, 3));
    look.read(Gpa(0), &mut [0; 39]).unwrap();

    let beside = look.beside(1);
    beside.read(Gpa(0), &mut [0; 1]).unwrap();
    assert!(look.read(Gpa(0), &mut [0; 1]).is_err(), "all that was left is the other's");
}

#[test]
fn a_look_whose_part_cost_too_much_reads_nothing_more() {
    let memory = MadeUp::zeros(1 << 20, Access::Mapped);
    let look = Look::begin(&memory, Budget { bytes: 100, ..Budget::default() }).unwrap();
    let beside = look.beside(2);
    assert!(beside.read(Gpa(0), &mut [0; 51]).is_err());
    look.read(Gpa(0), &mut [0; 10]).unwrap();
    look.rejoin(&beside);
    assert!(look.read(Gpa(0), &mut [0; 1]).is_err());
}

#[test]
fn a_look_that_took_too_long_reads_nothing_more() {
    let memory = MadeUp::zeros(1 << 20, Access::Mapped);
    let look = Look::begin(&memory, Budget { time: Duration::ZERO, ..Budget::default() }).unwrap();
    let ended = (0..1000).any(|_| look.read(Gpa(0), &mut [0; 8]).is_err());
    assert!(ended, "the clock was never asked");
}

#[test]
fn a_page_that_a_region_covers_in_part_is_readable_as_far_as_it_goes() {
    let memory = MadeUp::zeros(0x1800, Access::PerCall);
    let look = Look::begin(&memory, Budget::default()).unwrap();
    assert!(look.read(Gpa(0x17f8), &mut [0; 8]).is_ok());
    assert!(look.read(Gpa(0x17fc), &mut [0; 8]).is_err());
}
