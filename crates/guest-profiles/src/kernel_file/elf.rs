//! A bounded reader of a vmlinux: segments, sections, symbol table. 64 bits, little-endian, x86-64.
//!
//! Only what a kernel file is asked for, and not for the kernel's sake only: files are as hostile as guests, and general ELF
//! libraries have panicked on such. Format: System V ABI, chapters 4 and 5; `include/uapi/linux/elf.h`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use crate::kallsyms::Hits;
use crate::kernel_file::compression::Compression;
use crate::kernel_file::source::{Part, Source};
use crate::{Error, le};

/// ELF64 header, program header, section header and symbol, in bytes.
const HEADER: u64 = 64;
const SEGMENT: u16 = 56;
const SECTION: u16 = 64;
const SYMBOL: usize = 24;
const PT_LOAD: u32 = 1;
const SHT_NOBITS: u32 = 8;
const EM_X86_64: u16 = 62;
const SHF_COMPRESSED: u64 = 1 << 11;
/// `Elf64_Chdr`, before the data of a compressed section, in bytes.
const COMPRESSION_HEADER: u64 = 24;
/// Bytes of a section that are read at once.
const BUFFER: usize = 1 << 20;
/// Most program headers; a vmlinux has 5.
const SEGMENTS_MAX: u16 = 64;
/// Most section headers; a vmlinux has 80.
const SECTIONS_MAX: u16 = 4096;
/// Longest table of section names read, in bytes.
const NAMES_MAX: u64 = 1 << 20;
/// Longest symbol table, and longest table of its names, in bytes. A Debian kernel's have 6 MiB.
const SYMBOLS_MAX: u64 = 48 << 20;
/// Longest name of a symbol that is compared; the kernel has a limit of 512 itself.
const NAME_MAX: usize = 512;

/// A part of the file that is loaded into memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// Link address of the first byte.
    pub(super) address: u64,
    offset: u64,
    /// Bytes in the file; in memory, zeros may follow.
    len: u64,
}

/// A named part of the file.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) name: String,
    kind: u32,
    /// `SHF_*`.
    pub(super) flags: u64,
    pub(super) offset: u64,
    /// Bytes in the file.
    pub(super) len: u64,
    /// Number of the section that belongs to it: a symbol table's names.
    link: u32,
}

/// A vmlinux.
pub(super) struct Elf<'s> {
    pub(super) source: &'s dyn Source,
    /// In order of their addresses.
    segments: Vec<Segment>,
    sections: Vec<Section>,
}

impl<'s> Elf<'s> {
    /// Reads the headers.
    pub(super) fn parse(source: &'s dyn Source) -> Result<Self, Error> {
        let header = source.bytes("ELF header", 0, HEADER)?;
        let number = |at: usize, len: usize| {
            let bytes = header.get(at..at + len).unwrap_or_default();
            bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
        };
        for (name, at, len, wanted, expected) in [
            ("e_ident[EI_MAG]", 0, 4, 0x464c_457f, "\"\\x7fELF\""),
            ("e_ident[EI_CLASS]", 4, 1, 2, "2 (64 bits)"),
            ("e_ident[EI_DATA]", 5, 1, 1, "1 (little-endian)"),
            ("e_machine", 18, 2, u64::from(EM_X86_64), "0x3e (x86-64)"),
        ] {
            if number(at, len) != wanted {
                return Err(field(name, at, number(at, len), expected));
            }
        }
        let counted = |at: usize, size: u16, count_at: usize, max: u16, names: [&'static str; 2]| {
            let (stride, count) = (number(at, 2), number(count_at, 2));
            if count != 0 && stride != u64::from(size) {
                return Err(field(names[0], at, stride, "the size of the structure"));
            }
            if count > u64::from(max) {
                return Err(field(names[1], count_at, count, "fewer"));
            }
            Ok(count)
        };
        let segments = counted(54, SEGMENT, 56, SEGMENTS_MAX, ["e_phentsize", "e_phnum"])?;
        let sections = counted(58, SECTION, 60, SECTIONS_MAX, ["e_shentsize", "e_shnum"])?;
        let table = source.bytes("ELF program headers", number(32, 8), segments * u64::from(SEGMENT))?;
        let mut segments: Vec<_> = table.chunks_exact(SEGMENT.into()).filter_map(segment).collect();
        segments.sort_by_key(|segment| segment.address);
        let table = source.bytes("ELF section headers", number(40, 8), sections * u64::from(SECTION))?;
        let mut sections: Vec<_> = table.chunks_exact(SECTION.into()).filter_map(section).collect();
        let names =
            usize::try_from(number(62, 2)).ok().and_then(|index| sections.get(index).map(|at| at.1.clone()));
        if let Some(names) = names {
            let names = source.bytes("ELF section names", names.offset, names.len.min(NAMES_MAX))?;
            for (name, section) in &mut sections {
                section.name = text(&names, *name).into_owned();
            }
        }
        Ok(Self { source, segments, sections: sections.into_iter().map(|(_, section)| section).collect() })
    }

    /// The segments whose link addresses are `lowest` or more, in order.
    pub(super) fn segments(&self, lowest: u64) -> impl Iterator<Item = Segment> + '_ {
        self.segments.iter().copied().filter(move |segment| segment.address >= lowest)
    }

    /// All bytes that the file has of a segment.
    pub(super) fn segment(&self, segment: Segment) -> Result<Cow<'s, [u8]>, Error> {
        self.source.bytes("ELF segment", segment.offset, segment.len)
    }

    /// `len` bytes at a link address; fewer where the segment's bytes end. `None`: the file has no bytes of this address.
    pub(super) fn at(
        &self,
        what: &'static str,
        address: u64,
        len: u64,
    ) -> Result<Option<Cow<'s, [u8]>>, Error> {
        let place = self.segments.iter().find_map(|segment| {
            let skip = address.checked_sub(segment.address).filter(|skip| *skip < segment.len)?;
            Some((segment.offset.checked_add(skip)?, len.min(segment.len - skip)))
        });
        place.map(|(offset, len)| self.source.bytes(what, offset, len)).transpose()
    }

    /// A section that has bytes in the file.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && section.kind != SHT_NOBITS)
    }

    /// The bytes of a section, decompressed where it is compressed.
    pub(super) fn open(&self, section: &Section) -> Result<Box<dyn Read + 's>, Error> {
        let part = |skip: u64| {
            Part::new(
                self.source,
                "ELF section",
                section.offset.saturating_add(skip),
                section.len.saturating_sub(skip),
            )
        };
        if section.flags & SHF_COMPRESSED == 0 {
            return Ok(Box::new(BufReader::with_capacity(BUFFER, part(0))));
        }
        let head = self.source.bytes("ELF compression header", section.offset, COMPRESSION_HEADER)?;
        let kind = le::u32(&head, 0).unwrap_or_default();
        let compression = match kind {
            1 => Compression::Zlib,
            2 => Compression::Zstd,
            _ => {
                let value = u64::from(kind);
                let expected = "1 (zlib) or 2 (Zstandard)";
                return Err(Error::FileField {
                    format: "ELF",
                    field: "ch_type",
                    offset: section.offset,
                    value,
                    expected,
                });
            }
        };
        let input = BufReader::with_capacity(BUFFER, part(COMPRESSION_HEADER));
        compression.reader(input, section.offset.saturating_add(COMPRESSION_HEADER))
    }

    /// All bytes of a section, decompressed; more than `max` are an error.
    pub(super) fn unpacked_section(&self, section: &Section, max: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.open(section)?.take(max.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|source| Error::FileRead { offset: section.offset, len: section.len, source })?;
        if bytes.len() as u64 > max {
            let what = format!("ELF section {}", section.name);
            return Err(Error::FileTooLarge { what, size: section.len, limit: max });
        }
        Ok(bytes)
    }

    /// The link addresses of the wanted names in `.symtab`, chosen among symbols of one name as
    /// [`crate::Kallsyms::resolve`] does. Without such a table there are none.
    pub(super) fn symbols(&self, wanted: &[&str]) -> Result<BTreeMap<String, u64>, Error> {
        let Some(table) = self.section(".symtab") else { return Ok(BTreeMap::new()) };
        let names = usize::try_from(table.link).ok().and_then(|link| self.sections.get(link));
        let Some(names) = names else {
            return Err(field("sh_link of .symtab", 40, table.link.into(), "the number of a section"));
        };
        for section in [table, names] {
            if section.len > SYMBOLS_MAX {
                let what = format!("ELF section {}", section.name);
                return Err(Error::FileTooLarge { what, size: section.len, limit: SYMBOLS_MAX });
            }
        }
        let table = self.source.bytes("ELF section .symtab", table.offset, table.len)?;
        let names = self.source.bytes("ELF section .strtab", names.offset, names.len)?;
        let mut hits = Hits::new(wanted);
        for entry in table.chunks_exact(SYMBOL) {
            let info = entry.get(4).copied().unwrap_or_default();
            let (Some(name), Some(section), Some(address)) =
                (le::u32(entry, 0), le::u16(entry, 6), le::u64(entry, 8))
            else {
                continue;
            };
            // Undefined ones, and those that stand for a section (3) or a source file (4), are no symbols of the kernel.
            if section == 0 || matches!(info & 15, 3 | 4) {
                continue;
            }
            // STB_LOCAL is 0.
            hits.add(name_at(&names, name), info >> 4 != 0, address);
        }
        Ok(hits.addresses())
    }
}

fn field(field: &'static str, offset: usize, value: u64, expected: &'static str) -> Error {
    Error::FileField { format: "ELF", field, offset: offset as u64, value, expected }
}

fn segment(header: &[u8]) -> Option<Segment> {
    let segment =
        Segment { offset: le::u64(header, 8)?, address: le::u64(header, 16)?, len: le::u64(header, 32)? };
    (le::u32(header, 0)? == PT_LOAD && segment.len > 0).then_some(segment)
}

/// Offset of the name, and the section without its name.
fn section(header: &[u8]) -> Option<(u32, Section)> {
    let section = Section {
        name: String::new(),
        kind: le::u32(header, 4)?,
        flags: le::u64(header, 8)?,
        offset: le::u64(header, 24)?,
        len: le::u64(header, 32)?,
        link: le::u32(header, 40)?,
    };
    Some((le::u32(header, 0)?, section))
}

fn text(names: &[u8], offset: u32) -> Cow<'_, str> {
    String::from_utf8_lossy(name_at(names, offset))
}

/// The bytes before the NUL; none when there is no NUL within the longest name.
fn name_at(names: &[u8], offset: u32) -> &[u8] {
    let rest = usize::try_from(offset).ok().and_then(|at| names.get(at..)).unwrap_or_default();
    let window = rest.get(..=NAME_MAX).unwrap_or(rest);
    window.iter().position(|byte| *byte == 0).and_then(|end| window.get(..end)).unwrap_or_default()
}
