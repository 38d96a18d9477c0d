//! Memory images in files: ELF core (QEMU `dump-guest-memory`), LiME, raw.
//!
//! The kind is told by the file's first bytes. What is known to be something else (a compressed dump, a disk image) is
//! refused by name instead of being read as raw memory.

mod elf_core;
mod image;
mod lime;
mod raw;

use crate::Error;
use image::Image;
pub use image::ImageMemory;
pub use raw::RawLayout;
use std::path::Path;

/// Beginnings of files that are not read, and what they are.
const KNOWN_OTHERS: &[(&[u8], &str)] = &[
    (b"KDUMP   ", "it is a kdump-compressed dump; dump again without -z, -l, -s"),
    (b"makedumpfile", "it is a makedumpfile flattened dump; rearrange it with makedumpfile -R"),
    (b"QEVM", "it is a QEMU migration stream; use dump-guest-memory"),
    (b"LibvirtQemudSave", "it is a libvirt save file; use virsh dump --memory-only"),
    (b"QFI\xfb", "it is a qcow2 disk image"),
    (b"PAGEDU64", "it is a Windows crash dump"),
    (b"\x1f\x8b", "it is compressed with gzip; decompress it first"),
    (b"\xfd7zXZ", "it is compressed with xz; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; decompress it first"),
];

/// Opens a memory image. `layout` is for raw ones only.
pub fn open(path: &Path, layout: RawLayout) -> Result<ImageMemory, Error> {
    let image = Image::open(path)?;
    let mut start = [0; 16];
    let start_len = usize::try_from(image.len()).unwrap_or(usize::MAX).min(start.len());
    let start = start.get_mut(..start_len).unwrap_or_default();
    image.read(0, start)?;
    if let Some((_, what)) = KNOWN_OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(image.malformed((*what).to_owned()));
    }
    let (segments, registers) = if start.starts_with(elf_core::MAGIC) {
        (elf_core::segments(&image)?, elf_core::registers(&image)?)
    } else if start.starts_with(&lime::MAGIC) {
        (lime::segments(&image)?, Vec::new())
    } else {
        (raw::segments(&image, layout)?, Vec::new())
    };
    ImageMemory::new(image, segments, registers)
}
