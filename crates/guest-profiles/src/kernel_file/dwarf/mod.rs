//! Layouts out of DWARF, for kernels that carry no BTF.
//!
//! The wanted types are translated into a small BTF, as `pahole` does when a kernel is built; from there on there is one way to a
//! profile, whatever the layouts are from. The units of `.debug_info` go by one after the other, so that a gigabyte of debug
//! information takes no more memory than its largest unit. Decoding DWARF's encodings is gimli's work; what they say is judged here.
//!
//! - `unit`: one unit, and what is asked of its entries
//! - `types`: entries to BTF
//! - `btf_writer`: records to bytes
//!
//! Format: DWARF 5, sections 2, 5 and 7.

mod btf_writer;
mod types;
mod unit;

use std::io::Read;

use crate::kernel_file::elf::Elf;
use crate::{Error, Wanted, le};
use types::Types;
use unit::{Strings, Unit};

/// Largest unit in bytes; a kernel's have up to 1 MiB.
const UNIT_MAX: u64 = 32 << 20;
/// Most units; a kernel has some thousand.
const UNITS_MAX: usize = 1 << 16;
/// Most bytes of `.debug_info` that are gone through. A kernel's have 300 MiB.
const INFO_MAX: u64 = 2 << 30;
/// Largest of the other sections in bytes, each. A kernel's have up to 20 MiB.
const SECTION_MAX: u64 = 64 << 20;
/// A length of this says that the real one follows, in eight bytes.
const LONG: u32 = u32::MAX;

/// A BTF with the wanted types. `None`: the file has no debug information.
pub(super) fn types(elf: &Elf<'_>, wanted: &Wanted) -> Result<Option<Vec<u8>>, Error> {
    let Some(info) = elf.section(".debug_info") else { return Ok(None) };
    let section = |name| {
        let section = elf.section(name).map(|section| elf.unpacked_section(section, SECTION_MAX));
        section.transpose().map(Option::unwrap_or_default)
    };
    let abbreviations = section(".debug_abbrev")?;
    let strings = Strings {
        strings: section(".debug_str")?,
        line_strings: section(".debug_line_str")?,
        offsets: section(".debug_str_offsets")?,
    };
    let mut units = Units { section: elf.open(info)?, at: 0, count: 0, bytes: Vec::new() };
    let mut types = Types::new(wanted);
    while units.advance()? {
        if let Some(unit) = Unit::parse(units.at, &units.bytes, &abbreviations, &strings)? {
            types.add(&unit)?;
        }
        units.at = units.at.saturating_add(units.bytes.len() as u64);
    }
    Ok(Some(types.finish()))
}

/// The units of `.debug_info`, one at a time.
struct Units<'s> {
    section: Box<dyn Read + 's>,
    /// Where in the section the unit in `bytes` starts.
    at: u64,
    count: usize,
    bytes: Vec<u8>,
}

impl Units<'_> {
    /// Reads the next unit. `Ok(false)`: there is none.
    fn advance(&mut self) -> Result<bool, Error> {
        self.bytes.clear();
        if self.take(4)? == 0 {
            return Ok(false);
        }
        let mut len = u64::from(le::u32(&self.bytes, 0).ok_or_else(|| self.cut_short())?);
        if len == u64::from(LONG) {
            self.take(8)?;
            len = le::u64(&self.bytes, 4).ok_or_else(|| self.cut_short())?;
        }
        self.count += 1;
        for (what, value, limit) in [
            ("bytes", len, UNIT_MAX),
            ("units before it", self.count as u64, UNITS_MAX as u64),
            ("bytes of units before it", self.at, INFO_MAX),
        ] {
            if value > limit {
                return Err(Error::DwarfLimit { unit: self.at, what, limit });
            }
        }
        if self.take(len)? == len { Ok(true) } else { Err(self.cut_short()) }
    }

    /// Reads up to `len` bytes more of the unit; fewer where the section ends.
    fn take(&mut self, len: u64) -> Result<u64, Error> {
        let unit = self.at;
        let mut section = self.section.by_ref().take(len);
        let read = section.read_to_end(&mut self.bytes);
        read.map(|read| read as u64).map_err(|source| Error::DwarfRead { unit, source })
    }

    fn cut_short(&self) -> Error {
        Error::DwarfRead { unit: self.at, source: std::io::ErrorKind::UnexpectedEof.into() }
    }
}
