//! Which host mapping holds which block of guest memory; ambiguity is an error.

use hypervisor::Error;
use hypervisor::kvm::locate::{Located, locate};
use hypervisor::kvm::machine::{Backend, Block};
use hypervisor::kvm::maps::{Mapping, parse};

const GIB: u64 = 1 << 30;

fn block(name: &str, size: u64, backend: Backend) -> Block {
    Block { name: name.to_owned(), size, backend }
}

fn find(blocks: &[Block], text: &str) -> Result<Vec<Option<Located>>, Error> {
    find_with(blocks, text, |_| None)
}

fn find_with(
    blocks: &[Block],
    text: &str,
    descriptor: impl Fn(&Mapping) -> Option<u32>,
) -> Result<Vec<Option<Located>>, Error> {
    let needed: Vec<usize> = (0..blocks.len()).collect();
    locate(9, blocks, &needed, &parse(text).unwrap(), descriptor)
}

fn starts(found: Vec<Option<Located>>) -> Vec<u64> {
    found.into_iter().map(|located| located.unwrap().start).collect()
}

#[test]
fn the_exact_size_counts_and_not_the_largest_mapping() {
    // 2 GiB of something else, code buffers of the same size, a heap.
    let text = "100000000-180000000 rw-p 0 00:00 0\n\
                200000000-240000000 rw-p 0 00:00 0\n\
                240000000-280000000 rwxp 0 00:00 0\n\
                300000000-340000000 rw-p 0 00:00 0 [heap]\n\
                400000000-440000000 r--p 0 00:00 0\n";
    let found = find(&[block("pc.ram", GIB, Backend::Default)], text).unwrap();
    assert_eq!(starts(found), [0x2_0000_0000]);
}

#[test]
fn adjacent_mappings_of_one_file_that_add_up_are_one_block() {
    let text = "100000000-110000000 rw-s 00000000 00:01 5 /memfd:memory-backend-memfd (deleted)\n\
                110000000-140000000 rw-s 10000000 00:01 5 /memfd:memory-backend-memfd (deleted)\n\
                140000000-150000000 rw-s 00000000 00:01 6 /memfd:memory-backend-memfd (deleted)\n";
    let found = find(&[block("m", GIB, Backend::Memfd)], text).unwrap();
    assert_eq!(starts(found), [0x1_0000_0000]);
    // The same with a gap in the file is no run.
    let broken = text.replace("rw-s 10000000", "rw-s 20000000");
    assert!(matches!(find(&[block("m", GIB, Backend::Memfd)], &broken), Err(Error::RamNotFound { .. })));
}

#[test]
fn backends_of_one_size_are_told_apart_by_order_of_creation() {
    let text = "100000000-140000000 rw-s 00000000 00:01 1035 /memfd:memory-backend-memfd (deleted)\n\
                200000000-240000000 rw-s 00000000 00:01 1034 /memfd:memory-backend-memfd (deleted)\n";
    let blocks = [block("a", GIB, Backend::Memfd), block("b", GIB, Backend::Memfd)];
    assert_eq!(starts(find(&blocks, text).unwrap()), [0x2_0000_0000, 0x1_0000_0000]);
    let agreeing = |mapping: &Mapping| Some(if mapping.inode == 1034 { 10 } else { 11 });
    assert_eq!(starts(find_with(&blocks, text, agreeing).unwrap()), [0x2_0000_0000, 0x1_0000_0000]);
}

#[test]
fn signs_that_disagree_are_an_error_that_shows_them() {
    let text = "100000000-140000000 rw-s 00000000 00:01 1035 /memfd:memory-backend-memfd (deleted)\n\
                200000000-240000000 rw-s 00000000 00:01 1034 /memfd:memory-backend-memfd (deleted)\n";
    let blocks = [block("a", GIB, Backend::Memfd), block("b", GIB, Backend::Memfd)];
    let error =
        find_with(&blocks, text, |mapping| Some(if mapping.inode == 1034 { 11 } else { 10 })).unwrap_err();
    let message = error.to_string();
    for part in ["a, b", "0x100000000-0x140000000", "descriptor 10", "descriptor 11", "process 9"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn files_are_told_apart_by_their_names() {
    let text = "100000000-140000000 rw-s 00000000 00:20 1 /dev/hugepages/libvirt/qemu/1-web/qemu_back_mem._objects_ram-node1.aBcDeF (deleted)\n\
                200000000-240000000 rw-s 00000000 00:20 2 /dev/hugepages/libvirt/qemu/1-web/qemu_back_mem._objects_ram-node0.XyZabc (deleted)\n\
                300000000-340000000 rw-s 00000000 00:20 3 /dev/shm/third\n";
    let folder = Some("/dev/hugepages/libvirt/qemu/1-web".to_owned());
    let blocks = [
        block("ram-node0", GIB, Backend::File { path: folder.clone() }),
        block("ram-node1", GIB, Backend::File { path: folder }),
        block("c", GIB, Backend::File { path: Some("/dev/shm/third".to_owned()) }),
    ];
    assert_eq!(starts(find(&blocks, text).unwrap()), [0x2_0000_0000, 0x1_0000_0000, 0x3_0000_0000]);
}

#[test]
fn more_mappings_than_blocks_is_an_error() {
    let text = "100000000-140000000 rw-p 0 00:00 0\n200000000-240000000 rw-p 0 00:00 0\n";
    let error = find(&[block("pc.ram", GIB, Backend::Default)], text).unwrap_err();
    assert!(matches!(error, Error::RamAmbiguous { .. }), "{error}");
}

#[test]
fn a_size_that_is_nowhere_is_an_error_with_the_nearest_mappings() {
    let text = "100000000-13fff0000 rw-p 0 00:00 0\n200000000-200001000 rw-p 0 00:00 0\n";
    let message = find(&[block("pc.ram", GIB, Backend::Default)], text).unwrap_err().to_string();
    assert!(
        message.contains("`pc.ram`") && message.contains("nearest: 0x100000000-0x13fff0000"),
        "{message}"
    );
}

#[test]
fn a_backend_that_is_gone_matters_only_if_it_is_needed() {
    let text = "100000000-140000000 rw-p 0 00:00 0\n";
    let blocks = [block("unplugged", 2 * GIB, Backend::Ram), block("pc.ram", GIB, Backend::Default)];
    let mappings = parse(text).unwrap();
    let found = locate(9, &blocks, &[1], &mappings, |_| None).unwrap();
    assert_eq!(found[0], None);
    assert_eq!(found[1].as_ref().unwrap().start, 0x1_0000_0000);
    assert!(locate(9, &blocks, &[0, 1], &mappings, |_| None).is_err());
}

#[test]
fn two_kinds_of_backend_never_share_one_mapping() {
    let text = "100000000-140000000 rw-s 00000000 00:01 5 /memfd:memory-backend-memfd (deleted)\n";
    let blocks = [block("a", GIB, Backend::Memfd), block("pc.ram", GIB, Backend::Default)];
    assert!(find(&blocks, text).is_err());
}
