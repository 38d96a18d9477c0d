//! Shared memory of another process: right values, and holes that stay holes.

use crate::lab::as_nobody;
use hypervisor::kvm::SharedMem;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::prelude::*;
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn memfd(len: u64) -> File {
    let file = File::from(memfd_create("guest", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(len).unwrap();
    file
}

/// As the crate opens it: a descriptor of its own that cannot write.
fn read_only(file: &File) -> File {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

fn pages(file: &File) -> u64 {
    file.metadata().unwrap().blocks() / 8
}

fn read(memory: &SharedMem, at: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0xee; len];
    memory.read(at, &mut out).unwrap();
    out
}

#[test]
fn reading_everything_allocates_nothing() {
    let file = memfd(64 * MIB);
    file.write_all_at(b"first", 0).unwrap();
    file.write_all_at(&[7; 8192], 10 * MIB + 4096).unwrap();
    file.write_all_at(b"last", 64 * MIB - 4).unwrap();
    assert_eq!(pages(&file), 4);
    let memory = SharedMem::new(read_only(&file), 0, 64 * MIB, None).unwrap();
    assert!(memory.is_mapped());

    let everything = read(&memory, 0, 64 << 20);
    assert_eq!(&everything[..5], b"first");
    assert_eq!(&everything[(10 << 20) + 4096..][..8192], [7; 8192]);
    assert_eq!(&everything[everything.len() - 4..], b"last");
    assert_eq!(everything.iter().filter(|&&byte| byte != 0).count(), 5 + 8192 + 4);
    // In small steps too, where each page is looked up.
    for page in 0..64 * MIB / 4096 {
        read(&memory, page * 4096 + 1000, 8);
    }
    // And each as what is looked at once.
    for page in 0..64 * MIB / 4096 {
        let at = page * 4096 + 4090;
        let len = if page < 16383 { 8 } else { 6 };
        let mut once = vec![0xee; len];
        memory.read_once(at, &mut once).unwrap();
        let start = usize::try_from(at).unwrap();
        assert_eq!(once, everything[start..start + len]);
    }
    assert!(memory.read_once(64 * MIB - 4, &mut [0; 8]).is_err());
    assert_eq!(pages(&file), 4, "looking allocated pages of the guest");
}

#[test]
fn a_page_that_appears_during_a_look_is_seen() {
    let file = memfd(4 * MIB);
    let memory = SharedMem::new(read_only(&file), 0, 4 * MIB, None).unwrap();
    assert_eq!(read(&memory, 4096, 5), [0; 5]);
    file.write_all_at(b"later", 4096).unwrap();
    assert_eq!(read(&memory, 4096, 5), b"later");
    memory.begin_look().unwrap();
    assert_eq!(read(&memory, 4096, 5), b"later");
}

#[test]
fn a_page_that_vanishes_between_looks_is_not_brought_back() {
    let file = memfd(4 * MIB);
    file.write_all_at(&vec![9; 4 << 20], 0).unwrap();
    let memory = SharedMem::new(read_only(&file), 0, 4 * MIB, None).unwrap();
    assert_eq!(read(&memory, 0, 4 << 20), vec![9; 4 << 20]);
    // What a balloon does: punch a hole.
    file.set_len(0).unwrap();
    file.set_len(4 * MIB).unwrap();
    memory.begin_look().unwrap();
    assert_eq!(read(&memory, 0, 4 << 20), vec![0; 4 << 20]);
    assert_eq!(pages(&file), 0);
}

#[test]
fn a_page_that_vanishes_after_many_looks_is_not_brought_back() {
    let file = memfd(4 * MIB);
    let memory = SharedMem::new(read_only(&file), 0, 4 * MIB, None).unwrap();
    let half = 2 << 20;
    // Without a wait the clock of the file system often stands still from one step to the next.
    for wait in [0, 0, 0, 0, 1, 2, 5, 10, 20, 40] {
        file.write_all_at(&vec![9; 4 << 20], 0).unwrap();
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(wait));
            memory.begin_look().unwrap();
            for page in 0..1024 {
                assert_eq!(read(&memory, page * 4096 + 8, 8), [9; 8]);
            }
        }
        // What QEMU does for a balloon.
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, flags, 0, half).unwrap();
        memory.begin_look().unwrap();
        for page in 0..1024 {
            let expected = if page < 512 { 0 } else { 9 };
            assert_eq!(read(&memory, page * 4096 + 8, 8), [expected; 8]);
        }
        assert_eq!(pages(&file), 512, "after {wait} ms");
    }
}

#[test]
fn a_block_that_starts_inside_a_file_is_read_at_its_offset() {
    let file = memfd(4 * MIB);
    file.write_all_at(b"here", 2 * MIB + 4096).unwrap();
    let memory = SharedMem::new(read_only(&file), 2 * MIB, 2 * MIB, None).unwrap();
    assert_eq!(read(&memory, 4096, 4), b"here");
    assert_eq!(memory.populated(0..2 * MIB).unwrap().first(), Some(&(4096..256 << 10)));
    assert_eq!(memory.populated(8192..u64::MAX).unwrap(), []);
    assert!(memory.read(2 * MIB - 2, &mut [0; 4]).is_err());
    assert!(memory.read(u64::MAX, &mut [0; 4]).is_err());
}

#[test]
fn a_file_that_got_shorter_is_noticed_before_a_look() {
    let file = memfd(4 * MIB);
    let memory = SharedMem::new(read_only(&file), 0, 4 * MIB, None).unwrap();
    memory.begin_look().unwrap();
    file.set_len(2 * MIB).unwrap();
    let message = memory.begin_look().unwrap_err();
    assert!(message.contains("0x200000 bytes left of 0x400000"), "{message}");
    assert!(SharedMem::new(read_only(&file), 0, 4 * MIB, None).is_err());
}

#[test]
fn populated_parts_are_those_that_were_touched() {
    let file = memfd(1 << 30);
    assert_eq!(
        SharedMem::new(read_only(&file), 0, 1 << 30, None).unwrap().populated(0..1 << 30).unwrap(),
        []
    );
    for page in [0, 1, 5, 1000, (1 << 18) - 1] {
        file.write_all_at(&[1], page * 4096).unwrap();
    }
    let memory = SharedMem::new(read_only(&file), 0, 1 << 30, None).unwrap();
    // Each starts with data and ends on the next multiple of 256 KiB.
    let expected = [0..0x4_0000, 1000 * 4096..16 * 0x4_0000, (1 << 30) - 4096..1 << 30];
    assert_eq!(memory.populated(0..1 << 30).unwrap(), expected);
    assert_eq!(memory.populated(0x2000..0x7000).unwrap().first(), Some(&(0x5000..0x7000)));
}

#[test]
fn where_mincore_lies_nothing_is_touched_and_nothing_allocated() {
    let file = memfd(8 * MIB);
    file.write_all_at(b"data", 4096).unwrap();
    file.set_permissions(Permissions::from_mode(0o444)).unwrap();
    let checked = as_nobody(|| {
        // To a reader that does not own the file and may not write to it, the kernel says that every page is in memory.
        let memory = SharedMem::new(read_only(&file), 0, 8 * MIB, None).unwrap();
        assert!(!memory.is_mapped(), "mincore was believed");
        let everything = read(&memory, 0, 8 << 20);
        assert_eq!(&everything[4096..4100], b"data");
        assert_eq!(everything.iter().filter(|&&byte| byte != 0).count(), 4);
    });
    if checked {
        assert_eq!(pages(&file), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_read_equals_the_file(
        writes in prop::collection::vec((0_u64..4 * MIB - 6000, 1_usize..6000, 1_u8..), 0..20),
        reads in prop::collection::vec((0_u64..4 * MIB - 20000, 0_usize..20000), 1..30),
    ) {
        let file = memfd(4 * MIB);
        for (at, len, value) in writes {
            file.write_all_at(&vec![value; len], at).unwrap();
        }
        let before = pages(&file);
        let memory = SharedMem::new(read_only(&file), 0, 4 * MIB, None).unwrap();
        for (at, len) in reads {
            let mut expected = vec![0; len];
            file.read_exact_at(&mut expected, at).unwrap();
            prop_assert_eq!(read(&memory, at, len), expected);
        }
        prop_assert_eq!(pages(&file), before);
    }
}
