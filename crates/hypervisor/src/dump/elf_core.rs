//! ELF cores of guest memory: what QEMU's `dump-guest-memory`, `virsh dump --memory-only` and `/proc/vmcore` write.
//!
//! Each `PT_LOAD` header is a run of memory at its physical address. An own reader, because libraries for ELF say that they
//! are not for hostile files: fixed offsets (ELF-64 Object File Format 1.5), every one checked against the file.

use super::image::{Image, Segment};
use crate::Error;
use vmi_core::{Gpa, Gva, Region, Registers};

pub(super) const MAGIC: &[u8] = b"\x7fELF";
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
/// What QEMU writes while the first CPU is not in long mode yet (target/i386/arch_dump.c); the memory is the same.
const EM_386: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// In `e_phnum`: the number is in `sh_info` of section 0.
const PN_XNUM: u16 = 0xffff;
/// n_namesz, n_descsz, n_type.
const NOTE_HEADER: usize = 12;
/// ``sizeof(struct QEMUCPUState)``.
const CPU_STATE: usize = 440;
/// Two notes a vCPU; no machine has this many vCPUs.
const MAX_NOTES: usize = 16 << 10;
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

/// A program header, as far as it matters here.
struct ProgramHeader {
    kind: u32,
    offset: u64,
    physical: u64,
    file_size: u64,
}

/// The memory that an ELF core holds.
pub(super) fn segments(image: &Image) -> Result<Vec<Segment>, Error> {
    let load = program_headers(image)?.into_iter().filter(|header| header.kind == PT_LOAD);
    // What p_memsz adds to p_filesz was left out of the dump, so it is not known.
    Ok(load
        .map(|header| Segment {
            guest: Region { start: Gpa(header.physical), len: header.file_size },
            offset: header.offset,
        })
        .collect())
}

/// The registers of the vCPUs, from the notes that QEMU writes for each (``struct QEMUCPUState``, version 1,
/// target/i386/arch_dump.c, QEMU 7.2). Other tools write none; a note that is damaged is left out.
pub(super) fn registers(image: &Image) -> Result<Vec<Registers>, Error> {
    let mut found = Vec::new();
    for header in program_headers(image)?.into_iter().filter(|header| header.kind == PT_NOTE) {
        let end = header.offset.saturating_add(header.file_size).min(image.len());
        let mut at = header.offset;
        for _ in 0..MAX_NOTES {
            if at.saturating_add(NOTE_HEADER as u64) > end {
                break;
            }
            let note: [u8; NOTE_HEADER] = image.bytes(at)?;
            let padded = |len: u32| u64::from(len).next_multiple_of(4);
            let name = at.saturating_add(NOTE_HEADER as u64);
            let description = name.saturating_add(padded(u32_at(&note, 0)));
            let length = u32_at(&note, 4);
            if u32_at(&note, 0) == 5
                && length as usize >= CPU_STATE
                && description.saturating_add(CPU_STATE as u64) <= end
                && image.bytes::<5>(name)? == *b"QEMU\0"
            {
                let state: [u8; CPU_STATE] = image.bytes(description)?;
                if u32_at(&state, 0) == 1 {
                    found.push(Registers {
                        cr0: u64_at(&state, 392),
                        cr3: u64_at(&state, 416),
                        cr4: u64_at(&state, 424),
                        idt: Gva(u64_at(&state, 384)),
                    });
                }
            }
            at = description.saturating_add(padded(length));
        }
    }
    Ok(found)
}

fn program_headers(image: &Image) -> Result<Vec<ProgramHeader>, Error> {
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
    let mut headers = Vec::new();
    for index in 0..count {
        let at = table.saturating_add(index.saturating_mul(size));
        let entry: [u8; PROGRAM_HEADER] = image.bytes(at)?;
        headers.push(ProgramHeader {
            kind: u32_at(&entry, 0),
            offset: u64_at(&entry, 8),
            physical: u64_at(&entry, 24),
            file_size: u64_at(&entry, 32),
        });
    }
    Ok(headers)
}
