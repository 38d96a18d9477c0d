//! The guest's memory as QEMU knows it: layout, images, and writes behind the guest's back.

use crate::guest;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use testkit::{Backing, Kernel, Machine, RamRange};

const GIB: u64 = 1 << 30;

/// Position of the needle in an image that is mostly zero.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    const CHUNK: usize = 1 << 16;
    (0..haystack.len()).step_by(CHUNK).find_map(|start| {
        let chunk = &haystack[start..haystack.len().min(start + CHUNK + needle.len())];
        let (words, _) = chunk.as_chunks::<8>();
        if words.iter().all(|word| *word == [0; 8]) {
            return None;
        }
        chunk.windows(needle.len()).position(|window| window == needle).map(|at| start + at)
    })
}

#[test]
fn four_gib_are_split_as_each_machine_does_it() {
    for (machine, low) in [(Machine::Q35, 2 * GIB), (Machine::I440fx, 3 * GIB)] {
        let Some(guest) = guest(Kernel::V6_1, |spec| spec.memory_mib(4096).machine(machine)) else { return };
        let expected = [
            RamRange { address: 0, length: low, offset: 0 },
            RamRange { address: 4 * GIB, length: 4 * GIB - low, offset: low },
        ];
        let ranges = guest.ram_ranges().unwrap();
        assert_eq!(ranges.last(), expected.last(), "{machine:?}");
        let below: u64 =
            ranges.iter().filter(|range| range.address < 4 * GIB).map(|range| range.length).sum();
        assert!(below <= low && below > low - (1 << 20), "{machine:?}: {ranges:x?}");
        let top = 4 * GIB + 0x1000;
        assert_eq!(guest.peek_physical(top, 16).unwrap().len(), 16);
        assert!(guest.peek_physical(low + GIB / 2, 16).is_err(), "the hole is no memory");
    }
}

#[test]
fn the_guest_sees_what_is_written_behind_its_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ram");
    for backing in [Backing::Memfd, Backing::File(file)] {
        let Some(guest) = guest(Kernel::V6_1, |spec| spec.memory_mib(160).backing(backing.clone())) else {
            return;
        };
        let raw = directory.path().join("raw");
        guest.dump_raw(&raw).unwrap();
        let image = fs::read(&raw).unwrap();
        // `/proc/cmdline` prints a string of which the kernel keeps some copies; all of them are changed.
        let (old, new) = (b"console=ttyS0 quiet panic=-1\0", b"CONSOLE=ttyS0 quiet panic=-1\0");
        let mut at = 0;
        while let Some(found) = find(&image[at..], old) {
            at += found;
            assert_eq!(guest.peek_physical(at as u64, old.len()).unwrap(), old);
            guest.poke_physical(at as u64, new).unwrap();
            at += 1;
        }
        assert!(guest.truth().unwrap().kernel.command_line.starts_with("CONSOLE=ttyS0"));
    }
}

#[test]
fn images_in_three_formats_hold_the_kernel() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec.memory_mib(160).backing(Backing::Anonymous)) else {
        return;
    };
    let truth = guest.truth().unwrap();
    let banner = truth.kernel.banner.as_bytes();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);

    guest.dump_raw(&path("raw")).unwrap();
    let raw = fs::read(path("raw")).unwrap();
    assert_eq!(raw.len(), 160 << 20);
    assert!(find(&raw, banner).is_some());

    guest.dump_elf(&path("elf")).unwrap();
    let mut elf = Vec::new();
    File::open(path("elf")).unwrap().read_to_end(&mut elf).unwrap();
    assert!(elf.starts_with(b"\x7fELF") && find(&elf, banner).is_some());

    guest.dump_lime(&path("lime")).unwrap();
    let lime = File::open(path("lime")).unwrap();
    let mut offset = 0;
    for range in &truth.kernel.system_ram {
        let mut header = [0; 32];
        lime.read_exact_at(&mut header, offset).unwrap();
        assert_eq!(&header[..4], b"EMiL");
        assert_eq!(header[8..16], range.start.to_le_bytes());
        assert_eq!(header[16..24], range.end.to_le_bytes());
        offset += 32 + (range.end - range.start + 1);
    }
    assert_eq!(lime.metadata().unwrap().len(), offset);
    assert!(guest.poke_physical(0, &[0]).is_err(), "anonymous memory is not written");
    assert_eq!(guest.truth().unwrap().kernel.boot_id, truth.kernel.boot_id, "the guest runs on");
}
