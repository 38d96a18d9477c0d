//! ELF cores of guest memory: what QEMU's `dump-guest-memory`, `virsh dump --memory-only` and `/proc/vmcore` write.
//!
//! Each `PT_LOAD` header is a run of memory at its physical address. An own reader, because libraries for ELF say that they
//! are not for hostile files: fixed offsets (ELF-64 Object File Format 1.5), every one checked against the file.

use super::image::{Image, Segment};
use crate::Error;
use vmi_core::{Gpa, Region};

pub(super) const MAGIC: &[u8] = b"\x7fELF";
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
/// What QEMU writes while the first CPU is not in long mode yet (target/i386/arch_dump.c); the memory is the same.
const EM_386: u16 = 3;
const PT_LOAD: u32 = 1;
/// In `e_phnum`: the number is in `sh_info` of section 0.
const PN_XNUM: u16 = 0xffff;
/// More segments than any guest has (one per 4 KiB page of 4 GiB would be this many).
const MAX_HEADERS: u64 = 1 << 20;

fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u16::from_le_bytes)
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes)
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u64::from_le_bytes)
}

/// The memory that an ELF core holds.
pub(super) fn segments(image: &Image) -> Result<Vec<Segment>, Error> {
    let header: [u8; HEADER] = image.bytes(0)?;
    let [_, _, _, _, class, encoding, ..] = header;
    if class != 2 || encoding != 1 {
        return Err(image.malformed("it is no 64-bit little-endian ELF file (QEMU writes a 32-bit one before the guest's kernel runs)".to_owned()));
    }
    let (kind, machine) = (u16_at(&header, 16), u16_at(&header, 18));
    if kind != ET_CORE {
        return Err(image.malformed(format!("it is an ELF file of type {kind}, not a core (4)")));
    }
    if machine != EM_X86_64 && machine != EM_386 {
        return Err(image.malformed(format!("it is a core of ELF machine {machine}, not x86-64 (62)")));
    }
    let table = u64_at(&header, 32);
    let size = u64::from(u16_at(&header, 54));
    if size < PROGRAM_HEADER as u64 {
        return Err(image.malformed(format!("its program headers have {size} bytes each, fewer than 56")));
    }
    let count = match u16_at(&header, 56) {
        PN_XNUM => {
            let section: [u8; SECTION_HEADER] = image.bytes(u64_at(&header, 40))?;
            u64::from(u32_at(&section, 44))
        }
        count => u64::from(count),
    };
    if count > MAX_HEADERS {
        return Err(image.malformed(format!("it has {count} program headers, more than {MAX_HEADERS}")));
    }
    let table_end = count.checked_mul(size).and_then(|bytes| bytes.checked_add(table)).unwrap_or(u64::MAX);
    if table_end > image.len() {
        return Err(image.truncated(table, table_end));
    }
    let mut segments = Vec::new();
    for index in 0..count {
        let at = table.saturating_add(index.saturating_mul(size));
        let entry: [u8; PROGRAM_HEADER] = image.bytes(at)?;
        if u32_at(&entry, 0) == PT_LOAD {
            // p_offset, p_paddr, p_filesz. What p_memsz adds was left out of the dump, so it is not known.
            let guest = Region { start: Gpa(u64_at(&entry, 24)), len: u64_at(&entry, 32) };
            segments.push(Segment { guest, offset: u64_at(&entry, 8) });
        }
    }
    Ok(segments)
}
