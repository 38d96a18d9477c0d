//! Memory images in files: right ones, cut ones, and files that are something else.

use hypervisor::dump::open;
use hypervisor::{Error, RawLayout, Target};
use proptest::prelude::*;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::{NamedTempFile, tempdir};
use vmi_core::{Gpa, GuestMemory, MemoryError, Region};

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn refused(bytes: &[u8]) -> String {
    let file = file(bytes);
    let error = open(file.path(), RawLayout::Flat).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(file.path().to_str().unwrap()), "{message}");
    message
}

fn region(start: u64, len: u64) -> Region {
    Region { start: Gpa(start), len }
}

/// An ELF core with one `PT_LOAD` of 0x1000 bytes (all `fill`) per address.
fn elf(runs: &[(u64, u8)]) -> Vec<u8> {
    let mut out = vec![0; 64];
    out[..4].copy_from_slice(b"\x7fELF");
    (out[4], out[5], out[6]) = (2, 1, 1);
    out[16..18].copy_from_slice(&4_u16.to_le_bytes());
    out[18..20].copy_from_slice(&62_u16.to_le_bytes());
    out[32..40].copy_from_slice(&64_u64.to_le_bytes());
    out[54..56].copy_from_slice(&56_u16.to_le_bytes());
    out[56..58].copy_from_slice(&u16::try_from(runs.len()).unwrap().to_le_bytes());
    let data = 64 + 56 * runs.len() as u64;
    for (index, (address, _)) in runs.iter().enumerate() {
        let mut header = [0; 56];
        header[0] = 1;
        header[8..16].copy_from_slice(&(data + 0x1000 * index as u64).to_le_bytes());
        header[24..32].copy_from_slice(&address.to_le_bytes());
        header[32..40].copy_from_slice(&0x1000_u64.to_le_bytes());
        header[40..48].copy_from_slice(&0x1000_u64.to_le_bytes());
        out.extend(header);
    }
    for (_, fill) in runs {
        out.extend([*fill; 0x1000]);
    }
    out
}

/// The same as LiME.
fn lime(runs: &[(u64, u8)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (address, fill) in runs {
        out.extend(0x4c69_4d45_u32.to_le_bytes());
        out.extend(1_u32.to_le_bytes());
        out.extend(address.to_le_bytes());
        out.extend((address + 0xfff).to_le_bytes());
        out.extend([0; 8]);
        out.extend([*fill; 0x1000]);
    }
    out
}

#[test]
fn elf_and_lime_give_the_same_memory() {
    // Not ascending, two that touch, one far away, and in ELF one that is named twice (a dump with paging).
    let runs = [(0x2000, 2), (0x1000, 1), (0x1_0000_0000, 3)];
    let mut twice = runs.to_vec();
    twice.push((0x1000, 1));
    for bytes in [elf(&runs), elf(&twice), lime(&runs)] {
        let file = file(&bytes);
        let memory = open(file.path(), RawLayout::Flat).unwrap();
        assert_eq!(memory.regions(), [region(0x1000, 0x2000), region(0x1_0000_0000, 0x1000)]);
        let mut word = [0; 8];
        memory.read(Gpa(0x1ffc), &mut word).unwrap();
        assert_eq!(word, [1, 1, 1, 1, 2, 2, 2, 2]);
        memory.read(Gpa(0x1_0000_0ff8), &mut word).unwrap();
        assert_eq!(word, [3; 8]);
        for (at, len) in
            [(0_u64, 8_usize), (0xfff, 2), (0x2fff, 2), (0x1_0000_0ffc, 8), (u64::MAX, 1), (u64::MAX - 3, 8)]
        {
            let error = memory.read(Gpa(at), &mut vec![0; len]).unwrap_err();
            assert!(matches!(error, MemoryError::Outside { .. }), "{at:#x} {error}");
        }
        assert_eq!(memory.populated(region(0, u64::MAX)).unwrap(), memory.regions());
        assert!(memory.has_page(Gpa(0x2abc)) && !memory.has_page(Gpa(0x3000)));
    }
}

#[test]
fn a_core_with_more_than_65535_headers_is_read() {
    let runs: Vec<(u64, u8)> = vec![(0x5000, 7), (0x6000, 8)];
    let mut bytes = elf(&runs);
    bytes[56..58].copy_from_slice(&0xffff_u16.to_le_bytes());
    let section = bytes.len() as u64;
    bytes[40..48].copy_from_slice(&section.to_le_bytes());
    let mut header = [0; 64];
    header[44..48].copy_from_slice(&2_u32.to_le_bytes());
    bytes.extend(header);
    let file = file(&bytes);
    let memory = open(file.path(), RawLayout::Flat).unwrap();
    assert_eq!(memory.regions(), [region(0x5000, 0x2000)]);

    let mut truncated = bytes.clone();
    truncated.truncate(bytes.len() - 8);
    assert!(refused(&truncated).contains(&format!("offset {section:#x}")));

    let mut many = bytes;
    let at = usize::try_from(section).unwrap() + 44;
    many[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refused(&many).contains("4294967295 program headers"));
}

#[test]
fn a_truncated_core_names_offset_and_sizes() {
    let bytes = elf(&[(0x1000, 1), (0x2000, 2)]);
    let message = refused(&bytes[..bytes.len() - 1]);
    let second = 64 + 2 * 56 + 0x1000;
    assert!(message.contains(&format!("offset {second:#x}")), "{message}");
    assert!(message.contains(&format!("needs a file of {} bytes", bytes.len())), "{message}");
    assert!(message.contains(&format!("it has {}", bytes.len() - 1)), "{message}");
    assert!(refused(&bytes[..100]).contains("is truncated"));
    assert!(refused(&bytes[..40]).contains("is truncated"));
}

#[test]
fn headers_with_hostile_numbers_are_refused() {
    let good = elf(&[(0x1000, 1)]);
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        refused(&bad)
    };
    assert!(with(4, &[1]).contains("no 64-bit"));
    assert!(with(16, &[2, 0]).contains("type 2, not a core"));
    assert!(with(18, &[183, 0]).contains("machine 183"));
    assert!(with(54, &[8, 0]).contains("8 bytes each"));
    assert!(with(32, &u64::MAX.to_le_bytes()).contains("truncated"));
    assert!(with(56, &[0, 0]).contains("holds no memory"));
    // p_offset, p_paddr, p_filesz of the only run.
    assert!(with(64 + 8, &u64::MAX.to_le_bytes()).contains("truncated"));
    assert!(with(64 + 24, &(u64::MAX - 5).to_le_bytes()).contains("leaves the address space"));
    assert!(with(64 + 32, &u64::MAX.to_le_bytes()).contains("truncated"));
}

#[test]
fn broken_lime_files_are_refused() {
    let good = lime(&[(0x1000, 1), (0x2000, 2)]);
    assert!(refused(&good[..good.len() - 1]).contains("is truncated"));
    assert!(refused(&good[..0x1020 + 8]).contains("is truncated"));
    assert!(refused(&[&good[..], b"tail"].concat()).contains("no LiME header at offset 0x2040"));
    let mut backwards = good.clone();
    backwards[16..24].copy_from_slice(&0_u64.to_le_bytes());
    assert!(refused(&backwards).contains("goes from 0x1000 to 0x0"));
    let mut avml = good.clone();
    avml[4] = 2;
    assert!(refused(&avml).contains("AVML"));
    let mut all = good;
    all[8..16].copy_from_slice(&0_u64.to_le_bytes());
    all[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refused(&all).contains("goes from 0x0 to 0xffffffffffffffff"));
}

#[test]
fn files_that_are_no_memory_images_are_refused_by_name() {
    assert!(refused(b"").contains("it is empty"));
    assert!(refused(b"hello").contains("neither ELF nor LiME"));
    assert!(refused(&[0; 4096]).contains("neither ELF nor LiME"));
    assert!(refused(&vec![0; (1 << 20) + 1]).contains("neither ELF nor LiME"));
    assert!(refused(b"KDUMP   \x06\0\0\0").contains("kdump-compressed"));
    assert!(refused(b"\x1f\x8b\x08\0").contains("gzip"));
    assert!(refused(b"QFI\xfb\0\0\0\x03").contains("qcow2"));

    let folder = tempdir().unwrap();
    assert!(matches!(open(folder.path(), RawLayout::Flat), Err(Error::ImageNotAFile { .. })));
    assert!(matches!(open(Path::new("/dev/null"), RawLayout::Flat), Err(Error::ImageNotAFile { .. })));
    let missing = folder.path().join("missing");
    assert!(matches!(open(&missing, RawLayout::Flat), Err(Error::ImageOpen { .. })));
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(open(&fifo, RawLayout::Flat), Err(Error::ImageNotAFile { .. })));
}

#[test]
fn a_raw_image_is_flat_unless_told_otherwise() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(4 << 30).unwrap();
    file.as_file().write_all_at(b"low", 0x7fff_f000).unwrap();
    file.as_file().write_all_at(b"high", 0x8000_0000).unwrap();
    let flat = open(file.path(), RawLayout::Flat).unwrap();
    assert_eq!(flat.regions(), [region(0, 4 << 30)]);
    // Only what was written: a sparse image is searched in no time.
    let extents = flat.populated(region(0, u64::MAX)).unwrap();
    assert_eq!(extents, [region(0x7fff_f000, 0x4_1000)]);

    let q35 = open(file.path(), RawLayout::Q35).unwrap();
    assert_eq!(q35.regions(), [region(0, 2 << 30), region(4 << 30, 2 << 30)]);
    let mut word = [0; 4];
    q35.read(Gpa(4 << 30), &mut word).unwrap();
    assert_eq!(&word, b"high");
    assert_eq!(
        q35.populated(region(0, u64::MAX)).unwrap(),
        [region(0x7fff_f000, 0x1000), region(4 << 30, 0x4_0000)]
    );
    assert!(matches!(q35.read(Gpa(0x8000_0000), &mut word), Err(MemoryError::Outside { .. })));
    let i440fx = open(file.path(), RawLayout::I440fx).unwrap();
    assert_eq!(i440fx.regions(), [region(0, 3 << 30), region(4 << 30, 1 << 30)]);
}

#[test]
fn an_image_that_shrinks_is_gone_at_the_next_look() {
    let file = file(&vec![1; 2 << 20]);
    let opened = hypervisor::open(&Target::Image(file.path().to_owned())).unwrap();
    assert_eq!(opened.vm.memory_bytes, Some(2 << 20));
    assert!(opened.is_alive());
    opened.memory.begin_look().unwrap();
    file.as_file().set_len(4096).unwrap();
    let error = opened.memory.begin_look().unwrap_err();
    assert!(matches!(&error, MemoryError::Gone { what } if what.contains("cut to 4096 bytes")), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_change_to_an_image_breaks_the_reader(
        is_elf: bool, changes in prop::collection::vec((0_usize..300, any::<u8>()), 0..12), cut in 0_usize..9000,
    ) {
        let runs = [(0x1000, 1), (0x2000, 2)];
        let mut bytes = if is_elf { elf(&runs) } else { lime(&runs) };
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(cut.max(1));
        let file = file(&bytes);
        if let Ok(memory) = open(file.path(), RawLayout::Flat) {
            prop_assert!(memory.regions().is_sorted_by(|one, other| one.end() < other.start));
            for region in memory.regions() {
                let mut all = vec![0; usize::try_from(region.len).unwrap()];
                prop_assert!(memory.read(region.start, &mut all).is_ok());
            }
            let populated = memory.populated(region(0, u64::MAX));
            prop_assert!(populated.is_ok());
        }
    }
}
