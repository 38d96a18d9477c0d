//! One unit of `.debug_info`: its entries, and what is asked of them.

use std::borrow::Cow;

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAbbrevOffset, DebugInfo, DebugStrOffsetsBase, DwAt,
    DwTag, EndianSlice, LittleEndian, Reader as _, UnitOffset, UnitType, constants as dw,
};

use crate::{Error, le};

/// Longest table of abbreviations in bytes; a kernel's have some thousand.
const ABBREVIATIONS_MAX: usize = 64 << 10;
/// Most attributes of an entry; a compiler writes up to 20.
const ATTRIBUTES_MAX: usize = 128;
/// Most children of an entry that are looked at; the largest enum of a kernel has 1,000.
const CHILDREN_MAX: usize = 8192;
/// Longest name in bytes, `KSYM_NAME_LEN` of Linux 6.18 less its NUL, as in BTF.
const NAME_MAX: usize = 511;

type Slice<'u> = EndianSlice<'u, LittleEndian>;
pub(super) type Entry<'u> = gimli::DebuggingInformationEntry<Slice<'u>>;

/// The sections that names are in.
pub(super) struct Strings {
    pub(super) strings: Vec<u8>,
    pub(super) line_strings: Vec<u8>,
    pub(super) offsets: Vec<u8>,
}

/// What stands at a unit's outermost level of a type.
pub(super) struct Outermost {
    pub(super) at: UnitOffset,
    pub(super) tag: DwTag,
    /// Only told of, and defined elsewhere.
    pub(super) declared: bool,
    pub(super) size: Option<u64>,
}

pub(super) struct Unit<'u> {
    /// Where in `.debug_info` the unit is, for errors.
    pub(super) at: u64,
    header: gimli::UnitHeader<Slice<'u>>,
    abbreviations: Abbreviations,
    strings: &'u Strings,
    /// Where in `.debug_str_offsets` the unit's offsets start.
    offsets_base: DebugStrOffsetsBase<usize>,
}

impl<'u> Unit<'u> {
    /// Reads the unit that starts at `at` of its section. `Ok(None)`: one without types for all.
    pub(super) fn parse(
        at: u64,
        bytes: &'u [u8],
        abbreviations: &[u8],
        strings: &'u Strings,
    ) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Dwarf { unit: at, source };
        let header = DebugInfo::new(bytes, LittleEndian).units().next().map_err(failed)?;
        let Some(header) = header else { return Ok(None) };
        if !matches!(header.type_(), UnitType::Compilation | UnitType::Partial) {
            return Ok(None);
        }
        // The table ends itself; the cut bounds one that does not.
        let start = header.debug_abbrev_offset().0;
        let table = abbreviations.get(start..).unwrap_or_default();
        let table = table.get(..ABBREVIATIONS_MAX).unwrap_or(table);
        let abbreviations =
            DebugAbbrev::new(table, LittleEndian).abbreviations(DebugAbbrevOffset(0)).map_err(failed)?;
        let offsets_base =
            DebugStrOffsetsBase::default_for_encoding_and_file(header.encoding(), gimli::DwarfFileType::Main);
        let mut unit = Self { at, header, abbreviations, strings, offsets_base };
        let root = unit.entry(unit.header.root_offset())?;
        if let Some(AttributeValue::DebugStrOffsetsBase(base)) = root.attr_value(dw::DW_AT_str_offsets_base) {
            unit.offsets_base = base;
        }
        Ok(Some(unit))
    }

    pub(super) fn failed(&self, source: gimli::Error) -> Error {
        Error::Dwarf { unit: self.at, source }
    }

    pub(super) fn limit(&self, what: &'static str, limit: usize) -> Error {
        Error::DwarfLimit { unit: self.at, what, limit: limit as u64 }
    }

    /// Hands out each type at the outermost level that has a name: what it is, and its name. `steps` is counted down by what the
    /// walk costs.
    pub(super) fn outermost(
        &self,
        steps: &mut u64,
        mut each: impl FnMut(&Outermost, &'u [u8]),
    ) -> Result<(), Error> {
        let mut entries =
            self.header.entries_raw(&self.abbreviations, None).map_err(|error| self.failed(error))?;
        while !entries.is_empty() {
            let (depth, at) = (entries.next_depth(), entries.next_offset());
            let Some(kind) = entries.read_abbreviation().map_err(|error| self.failed(error))? else {
                continue;
            };
            let attributes = kind.attributes();
            if attributes.len() > ATTRIBUTES_MAX {
                return Err(self.limit("attributes of one entry", ATTRIBUTES_MAX));
            }
            *steps = steps
                .checked_sub(attributes.len() as u64 + 1)
                .ok_or_else(|| self.limit("attributes of all entries", usize::MAX))?;
            if depth != 1 || !is_type(kind.tag()) {
                entries.skip_attributes(attributes).map_err(|error| self.failed(error))?;
                continue;
            }
            let mut found = Outermost { at, tag: kind.tag(), declared: false, size: None };
            let mut name: &[u8] = &[];
            for spec in attributes {
                let attribute = entries.read_attribute(*spec).map_err(|error| self.failed(error))?;
                match attribute.name() {
                    dw::DW_AT_name => name = self.string(&attribute.value()),
                    dw::DW_AT_declaration => found.declared = true,
                    dw::DW_AT_byte_size => found.size = attribute.udata_value(),
                    _ => {}
                }
            }
            each(&found, name);
        }
        Ok(())
    }

    pub(super) fn entry(&self, at: UnitOffset) -> Result<Entry<'u>, Error> {
        let entry = self.header.entry(&self.abbreviations, at).map_err(|error| self.failed(error))?;
        if entry.attrs().len() > ATTRIBUTES_MAX {
            return Err(self.limit("attributes of one entry", ATTRIBUTES_MAX));
        }
        Ok(entry)
    }

    /// The entries directly below the one at `at`.
    pub(super) fn children(&self, at: UnitOffset) -> Result<Vec<Entry<'u>>, Error> {
        let failed = |error| self.failed(error);
        let mut tree = self.header.entries_tree(&self.abbreviations, Some(at)).map_err(failed)?;
        let mut below = tree.root().map_err(failed)?.children();
        let mut children = Vec::new();
        while let Some(child) = below.next().map_err(failed)? {
            if children.len() >= CHILDREN_MAX {
                return Err(self.limit("children of one entry", CHILDREN_MAX));
            }
            children.push(child.entry().clone());
        }
        Ok(children)
    }

    /// `DW_AT_name`; empty when there is none.
    pub(super) fn name(&self, entry: &Entry<'u>) -> Cow<'u, str> {
        let name = entry.attr_value(dw::DW_AT_name).map(|value| self.string(&value)).unwrap_or_default();
        String::from_utf8_lossy(name)
    }

    /// `DW_AT_type`. `None`: `void`.
    pub(super) fn target(&self, entry: &Entry<'u>) -> Result<Option<UnitOffset>, Error> {
        match entry.attr_value(dw::DW_AT_type) {
            None => Ok(None),
            Some(AttributeValue::UnitRef(at)) => Ok(Some(at)),
            Some(_) => Err(Error::DwarfForeign { unit: self.at }),
        }
    }

    /// An attribute that is a number of 0 or more.
    pub(super) fn number(entry: &Entry<'u>, name: DwAt) -> Option<u64> {
        entry.attr(name).and_then(gimli::Attribute::udata_value)
    }

    /// Bytes before a member, where they are the same in every object: a number, or an expression that only adds one (DWARF 2).
    pub(super) fn member_offset(&self, entry: &Entry<'u>) -> Result<u64, Error> {
        let Some(attribute) = entry.attr(dw::DW_AT_data_member_location) else { return Ok(0) };
        if let Some(offset) = attribute.udata_value() {
            return Ok(offset);
        }
        let expression = attribute.exprloc_value().map(|expression| expression.0);
        let parsed = expression.and_then(|mut bytes| {
            let operation = bytes.read_u8().ok()?;
            let offset = bytes.read_uleb128().ok()?;
            (operation == dw::DW_OP_plus_uconst.0 && bytes.is_empty()).then_some(offset)
        });
        parsed.ok_or(Error::DwarfMember { unit: self.at, member: self.name(entry).into_owned() })
    }

    /// The bytes of a string, without its NUL. Empty where the file does not have it.
    fn string(&self, value: &AttributeValue<Slice<'u>>) -> &'u [u8] {
        let within = |section: &'u [u8], offset: usize| {
            let rest = section.get(offset..).unwrap_or_default();
            let window = rest.get(..=NAME_MAX).unwrap_or(rest);
            memchr::memchr(0, window).and_then(|end| window.get(..end)).unwrap_or_default()
        };
        match value {
            AttributeValue::String(text) => {
                text.slice().get(..NAME_MAX.min(text.slice().len())).unwrap_or_default()
            }
            AttributeValue::DebugStrRef(offset) => within(&self.strings.strings, offset.0),
            AttributeValue::DebugLineStrRef(offset) => within(&self.strings.line_strings, offset.0),
            AttributeValue::DebugStrOffsetsIndex(index) => {
                let size = usize::from(self.header.format().word_size());
                let at = index.0.checked_mul(size).and_then(|at| at.checked_add(self.offsets_base.0));
                let offset = at.and_then(|at| match size {
                    4 => le::u32(&self.strings.offsets, at).map(u64::from),
                    _ => le::u64(&self.strings.offsets, at),
                });
                let offset = offset.and_then(|offset| usize::try_from(offset).ok());
                offset.map(|offset| within(&self.strings.strings, offset)).unwrap_or_default()
            }
            _ => &[],
        }
    }
}

fn is_type(tag: DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_structure_type | dw::DW_TAG_union_type | dw::DW_TAG_typedef | dw::DW_TAG_enumeration_type
    )
}
