//! `/proc/PID/maps`, also when it is garbage.

use hypervisor::kvm::maps::{Mapping, parse};
use proptest::prelude::*;

#[test]
fn lines_of_a_real_qemu_are_understood() {
    let memfd = Mapping::parse(
        "7fce6ffff000-7fcf2ffff000 rw-s 00001000 00:01 1054                       /memfd:memory-backend-memfd (deleted)",
    )
    .unwrap();
    assert_eq!((memfd.start, memfd.len()), (0x7fce_6fff_f000, 0xc000_0000));
    assert!(memfd.shared && memfd.readable && memfd.writable && !memfd.executable && memfd.deleted);
    assert_eq!((memfd.offset, memfd.device, memfd.inode), (0x1000, (0, 1), 1054));
    assert_eq!(memfd.name, "/memfd:memory-backend-memfd");

    let anonymous = Mapping::parse("7fc207e00000-7fc2c7e00000 rw-p 00000000 00:00 0 ").unwrap();
    assert!(anonymous.is_anonymous() && !anonymous.shared && anonymous.name.is_empty());
    assert_eq!(Mapping::parse("7fc207e00000-7fc2c7e00000 rw-p 00000000 00:00 0").unwrap(), anonymous);

    let spaces = Mapping::parse("1000-2000 r--p 00000000 fe:00 12    /a path/with  spaces").unwrap();
    assert_eq!(spaces.name, "/a path/with  spaces");
    assert_eq!(spaces.device, (0xfe, 0));
}

#[test]
fn lines_of_another_form_are_refused() {
    for line in [
        "",
        " ",
        "1000",
        "1000-2000",
        "1000-2000 rw-p",
        "1000-2000 rw-p 0 00:00",
        "2000-1000 rw-p 0 00:00 0",
        "1000-1000 rw-p 0 00:00 0",
        "1000-2000 rw 0 00:00 0",
        "x-2000 rw-p 0 00:00 0",
        "1000-20000000000000000 rw-p 0 00:00 0",
        "1000-2000 rw-p 0 0000 0",
        "1000-2000 rw-p 0 00:00 -1",
    ] {
        assert_eq!(Mapping::parse(line), None, "{line:?}");
    }
    assert_eq!(parse("1000-2000 rw-p 0 00:00 0\nnonsense\n"), Err("nonsense".to_owned()));
}

#[test]
fn the_maps_of_this_very_process_are_understood() {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mappings = parse(&text).unwrap();
    assert_eq!(mappings.len(), text.lines().count());
    assert!(mappings.iter().any(|mapping| mapping.name == "[stack]"));
    assert!(mappings.is_sorted_by(|one, other| one.end <= other.start));
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "\\PC*") {
        let _ = parse(&text);
        let _ = Mapping::parse(&text);
    }

    #[test]
    fn what_the_kernel_prints_comes_back(start in 0_u64..1 << 47, pages in 1_u64..1 << 30, inode in any::<u64>(), shared: bool) {
        let (start, end) = (start & !0xfff, (start & !0xfff) + pages * 4096);
        let kind = if shared { 's' } else { 'p' };
        let line = format!("{start:x}-{end:x} rw-{kind} 00000000 00:01 {inode} /x");
        let mapping = Mapping::parse(&line).unwrap();
        prop_assert_eq!((mapping.start, mapping.end, mapping.inode, mapping.shared), (start, end, inode, shared));
    }
}
