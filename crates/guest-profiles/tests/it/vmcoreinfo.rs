//! The reader of VMCOREINFO.

use guest_profiles::{Error, VmcoreInfo};

/// The lines that a Debian 6.1 kernel on x86-64 writes, shortened.
const REAL: &str = "OSRELEASE=6.1.0-56-cloud-amd64
BUILD-ID=0A1b2c3d4e5f60718293a4b5c6d7e8f901234567
PAGESIZE=4096
SYMBOL(init_uts_ns)=ffffffffa3a1d8c0
OFFSET(uts_namespace.name)=0
SYMBOL(node_online_map)=ffffffffa3d23a80
SYMBOL(swapper_pg_dir)=ffffffffa3810000
SYMBOL(_stext)=ffffffffa2000000
NUMBER(VMALLOC_START)=0xffffb2f700000000
SIZE(page)=64
OFFSET(list_head.next)=0
LENGTH(zone.free_area)=11
NUMBER(NR_FREE_PAGES)=0
NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129
SYMBOL(kallsyms_names)=ffffffffa31a9b98
NUMBER(phys_base)=-33554432
SYMBOL(init_top_pgt)=ffffffffa3810000
NUMBER(pgtable_l5_enabled)=1
KERNELOFFSET=21000000
NUMBER(KERNEL_IMAGE_SIZE)=1073741824
NUMBER(sme_mask)=0
CRASHTIME=1700000000
";

fn refused(text: &str) -> String {
    VmcoreInfo::parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn a_real_text_is_read_line_by_line() {
    let info = VmcoreInfo::parse(REAL.as_bytes()).unwrap();
    assert_eq!(info.osrelease, "6.1.0-56-cloud-amd64");
    assert_eq!(info.build_id.as_deref(), Some("0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"));
    assert_eq!(info.page_size, Some(4096));
    assert_eq!(info.symbols["_stext"], 0xffff_ffff_a200_0000);
    assert_eq!(info.symbols.len(), 6);
    assert_eq!(info.offsets["uts_namespace.name"], 0);
    assert_eq!(info.sizes["page"], 64);
    assert_eq!(info.lengths["zone.free_area"], 11);
    assert_eq!(info.numbers["PAGE_BUDDY_MAPCOUNT_VALUE"], -129);
    assert_eq!(info.numbers["VMALLOC_START"].cast_unsigned(), 0xffff_b2f7_0000_0000);
    assert_eq!(info.kerneloffset, Some(0x2100_0000));
    assert_eq!(info.phys_base, Some(-33_554_432));
    assert_eq!(info.pgtable_l5_enabled, Some(true));
    assert_eq!(info.others["CRASHTIME"], "1700000000");
}

#[test]
fn what_follows_the_first_nul_is_not_read() {
    let mut bytes = REAL.as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(&[0xff; 10_000]);
    assert_eq!(VmcoreInfo::parse(&bytes).unwrap(), VmcoreInfo::parse(REAL.as_bytes()).unwrap());
}

#[test]
fn what_a_kernel_does_not_say_is_none() {
    let info = VmcoreInfo::parse(b"OSRELEASE=5.4.0\n").unwrap();
    assert_eq!(
        (info.build_id, info.kerneloffset, info.phys_base, info.pgtable_l5_enabled),
        (None, None, None, None)
    );
}

#[test]
fn a_garbage_build_id_of_some_stable_kernels_is_no_build_id() {
    for garbage in ["(____ptrval____)", "abc", &"ab".repeat(65)] {
        let info = VmcoreInfo::parse(format!("OSRELEASE=6.1.115\nBUILD-ID={garbage}\n").as_bytes()).unwrap();
        assert_eq!((info.build_id, info.others["BUILD-ID"].as_str()), (None, garbage));
    }
}

#[test]
fn a_repeated_key_is_refused() {
    assert_eq!(refused("OSRELEASE=a\nSYMBOL(x)=1\nSYMBOL(x)=1\n"), "VMCOREINFO line 3 repeats SYMBOL(x)");
    assert_eq!(refused("OSRELEASE=a\nOSRELEASE=b\n"), "VMCOREINFO line 2 repeats OSRELEASE");
}

#[test]
fn garbage_lines_are_refused() {
    for text in
        ["OSRELEASE=a\nnothing\n", "OSRELEASE=a\n\nPAGESIZE=1\n", "OSRELEASE=a\n=1\n", "OSRELEASE=a\nx=\n"]
    {
        assert_eq!(refused(text), "VMCOREINFO line 2 is not KEY=value in printable ASCII", "{text:?}");
    }
    assert_eq!(refused("OSRELEASE=a\x1b[2J\n"), "VMCOREINFO line 1 is not KEY=value in printable ASCII");
    assert_eq!(refused("OSRELEASE=ä\n"), "VMCOREINFO line 1 is not KEY=value in printable ASCII");
    assert_eq!(refused(""), "VMCOREINFO line 1 is not KEY=value in printable ASCII");
}

#[test]
fn values_that_are_not_what_the_key_promises_are_refused() {
    for (line, expected) in [
        ("SYMBOL(x)=0x10", "a hexadecimal number of 64 bits"),
        ("SYMBOL(x)=+1", "a hexadecimal number of 64 bits"),
        ("SYMBOL(x)=11112222333344445", "a hexadecimal number of 64 bits"),
        ("KERNELOFFSET=-1", "a hexadecimal number of 64 bits"),
        ("OFFSET(x)=-1", "a decimal number of 64 bits"),
        ("SIZE(x)=1f", "a decimal number of 64 bits"),
        ("LENGTH(x)=99999999999999999999", "a decimal number of 64 bits"),
        ("NUMBER(x)=--1", "a number of 64 bits"),
        ("NUMBER(x)=0x", "a hexadecimal number of 64 bits"),
        ("NUMBER(phys_base)=+3", "a number of 64 bits"),
        ("NUMBER(pgtable_l5_enabled)=2", "0 or 1"),
    ] {
        let (key, value) = line.split_once('=').unwrap();
        let message = format!("VMCOREINFO line 2 gives {key} the value {value}, which is not {expected}");
        assert_eq!(refused(&format!("OSRELEASE=a\n{line}\n")), message);
    }
}

#[test]
fn a_text_without_release_or_without_end_is_refused() {
    assert_eq!(refused("PAGESIZE=4096\n"), "VMCOREINFO has no OSRELEASE line");
    let endless = "A".repeat(9000);
    assert!(matches!(VmcoreInfo::parse(endless.as_bytes()), Err(Error::VmcoreinfoTooLong { limit: 8192 })));
}
