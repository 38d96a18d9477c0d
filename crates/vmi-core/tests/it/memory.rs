//! Regions of guest memory.

use crate::made_up::MadeUp;
use vmi_core::{Access, Gpa, GuestMemory, Region};

#[test]
fn a_range_that_crosses_a_hole_is_in_no_region() {
    let mut memory = MadeUp::zeros(0x1000, Access::Mapped);
    memory.regions.push(Region { start: Gpa(0x3000), len: 0x1000 });
    assert_eq!(memory.region_of(Gpa(0xfff), 1), Some(0));
    assert_eq!(memory.region_of(Gpa(0xfff), 2), None);
    assert_eq!(memory.region_of(Gpa(0x2000), 1), None);
    assert_eq!(memory.region_of(Gpa(0x3000), 0x1000), Some(1));
    assert_eq!(memory.region_of(Gpa(u64::MAX), 2), None);
    assert_eq!(memory.size(), 0x2000);
}
