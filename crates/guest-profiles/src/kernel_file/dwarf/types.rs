//! Turns the entries of the wanted types into BTF records.
//!
//! A record is written with its members only where somebody may ask for them: the wanted ones, and records without a tag that are
//! embedded in these. All others are written with name and size, which is what a profile keeps of what a member points to. So the
//! BTF stays small, and nothing recurses but through records without a tag, which cannot embed themselves.
//!
//! What is only declared where a wanted type points to it, and defined in another unit, gets its size from there in the end.
//! The choices that a BTF leaves open are `pahole`'s (1.24): the first definition of a name is taken, and the dimensions of an
//! array are multiplied.

use std::collections::{HashMap, HashSet};

use gimli::{DwTag, UnitOffset, constants as dw};

use super::btf_writer::{BtfWriter, Id, Record};
use super::unit::{Entry, Outermost, Unit};
use crate::{Error, Wanted};

/// `BTF_KIND_*`, those that are written.
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const FUNC_PROTO: u32 = 13;
const FLOAT: u32 = 16;
const ENUM64: u32 = 19;

/// Types in types; real ones stay below 10.
const DEPTH_MAX: usize = 64;
/// Most records written; the wanted types of a kernel need 1,500.
const RECORDS_MAX: usize = 1 << 17;
/// Most names whose size is kept; a kernel has 12,000.
const NAMES_MAX: usize = 1 << 17;
/// Most attributes of all entries together; a kernel has 300 million.
const STEPS_MAX: u64 = 1 << 32;
/// Largest offset of a member in a record with bitfields, in bits: the width is above it.
const BITFIELD_OFFSET_MAX: u64 = 1 << 24;

/// What is translated so far.
pub(super) struct Types<'w> {
    wanted: &'w Wanted,
    names: HashSet<&'w [u8]>,
    /// The wanted ones that are there, by the kind that they have in BTF.
    done: HashSet<(u32, Vec<u8>)>,
    /// Size of each defined struct, and of each union.
    structs: HashMap<Vec<u8>, u32>,
    unions: HashMap<Vec<u8>, u32>,
    /// Records of what is only declared, their kind when defined, and their name.
    declared: Vec<(Id, u32, String)>,
    writer: BtfWriter,
    /// What may still be read.
    steps: u64,
}

/// The translation of one unit.
struct Translation<'t, 'u, 'w> {
    types: &'t mut Types<'w>,
    unit: &'t Unit<'u>,
    /// Records of the unit's entries: at which offset, and whether embedded.
    known: HashMap<(UnitOffset, bool), Id>,
}

impl<'w> Types<'w> {
    pub(super) fn new(wanted: &'w Wanted) -> Self {
        let enums = wanted.enums.iter().map(|wanted| wanted.name);
        let names = wanted.types.iter().map(|wanted| wanted.name).chain(enums).map(str::as_bytes).collect();
        Self {
            wanted,
            names,
            done: HashSet::new(),
            structs: HashMap::new(),
            unions: HashMap::new(),
            declared: Vec::new(),
            writer: BtfWriter::new(),
            steps: STEPS_MAX,
        }
    }

    /// Takes the wanted types out of a unit.
    pub(super) fn add(&mut self, unit: &Unit<'_>) -> Result<(), Error> {
        let mut found: Vec<(UnitOffset, DwTag)> = Vec::new();
        let mut steps = self.steps;
        unit.outermost(&mut steps, |entry, name| {
            if self.note(entry, name) {
                found.push((entry.at, entry.tag));
            }
        })?;
        self.steps = steps;
        let mut translation = Translation { types: self, unit, known: HashMap::new() };
        // Typedefs first: what refers to a wanted one must not put another of its name before it.
        for (at, _) in found.iter().filter(|(_, tag)| *tag == dw::DW_TAG_typedef) {
            let id = translation.add(Record::default())?;
            translation.known.insert((*at, true), id);
            translation.known.insert((*at, false), id);
        }
        for (at, tag) in found {
            match tag {
                dw::DW_TAG_enumeration_type => translation.wanted_enum(&unit.entry(at)?)?,
                dw::DW_TAG_typedef => translation.wanted_typedef(at)?,
                _ => translation.members(&unit.entry(at)?, 0)?,
            };
        }
        Ok(())
    }

    /// Whether a type is wanted and was not met before. Keeps its size in any case.
    fn note(&mut self, entry: &Outermost, name: &[u8]) -> bool {
        let kind = match entry.tag {
            dw::DW_TAG_structure_type => STRUCT,
            dw::DW_TAG_union_type => UNION,
            dw::DW_TAG_typedef => TYPEDEF,
            _ => ENUM,
        };
        if entry.declared {
            return false;
        }
        if name.is_empty() {
            // Each enum without a tag may hold wanted values.
            return kind == ENUM && self.names.contains(name);
        }
        let sizes = match kind {
            STRUCT => Some(&mut self.structs),
            UNION => Some(&mut self.unions),
            _ => None,
        };
        if let (Some(sizes), Some(size)) = (sizes, entry.size)
            && sizes.len() < NAMES_MAX
            && !sizes.contains_key(name)
        {
            sizes.insert(name.to_vec(), u32::try_from(size).unwrap_or(u32::MAX));
        }
        self.names.contains(name) && self.done.insert((kind, name.to_vec()))
    }

    /// The BTF.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for (id, kind, name) in std::mem::take(&mut self.declared) {
            let sizes = if kind == UNION { &self.unions } else { &self.structs };
            if let Some(size) = sizes.get(name.as_bytes()) {
                let name = self.writer.string(&name);
                self.writer.replace(id, Record { name, kind, size_or_type: *size, ..Record::default() });
            }
        }
        self.writer.finish()
    }
}

impl<'u> Translation<'_, 'u, '_> {
    /// A type as a member has it (`embedded`), or as what a pointer points to.
    fn type_of(&mut self, at: Option<UnitOffset>, embedded: bool, depth: usize) -> Result<Id, Error> {
        let Some(at) = at else { return Ok(0) };
        if let Some(id) = self.known.get(&(at, embedded)) {
            return Ok(*id);
        }
        if depth >= DEPTH_MAX {
            return Err(self.unit.limit("types in types", DEPTH_MAX));
        }
        let entry = self.unit.entry(at)?;
        let target = self.unit.target(&entry)?;
        let id = match entry.tag() {
            dw::DW_TAG_const_type
            | dw::DW_TAG_volatile_type
            | dw::DW_TAG_restrict_type
            | dw::DW_TAG_atomic_type => self.type_of(target, embedded, depth + 1)?,
            dw::DW_TAG_typedef => {
                let size_or_type = self.type_of(target, embedded, depth + 1)?;
                self.named(&entry, Record { kind: TYPEDEF, size_or_type, ..Record::default() })?
            }
            dw::DW_TAG_pointer_type => {
                let size_or_type = self.type_of(target, false, depth + 1)?;
                self.add(Record { kind: PTR, size_or_type, ..Record::default() })?
            }
            dw::DW_TAG_array_type => {
                let element = self.type_of(target, embedded, depth + 1)?;
                let count = self.elements(&entry)?;
                self.add(Record { kind: ARRAY, extra: vec![element, element, count], ..Record::default() })?
            }
            dw::DW_TAG_structure_type | dw::DW_TAG_union_type => {
                let tagged = !self.unit.name(&entry).is_empty();
                if embedded && !tagged { self.members(&entry, depth + 1)? } else { self.outline(&entry)? }
            }
            dw::DW_TAG_enumeration_type => self.enumeration(&entry, false)?,
            dw::DW_TAG_base_type => self.base(&entry)?,
            dw::DW_TAG_subroutine_type => self.add(Record { kind: FUNC_PROTO, ..Record::default() })?,
            // Nothing that C has: bytes of this size.
            _ => {
                self.named(&entry, Record { kind: FLOAT, size_or_type: size(&entry), ..Record::default() })?
            }
        };
        self.known.insert((at, embedded), id);
        Ok(id)
    }

    /// A wanted typedef, with the members of the record that it stands for. Its record is there already.
    fn wanted_typedef(&mut self, at: UnitOffset) -> Result<Id, Error> {
        let typedef = self.unit.entry(at)?;
        let first = self.unit.target(&typedef)?;
        let mut target = first;
        let mut size_or_type = None;
        for _ in 0..DEPTH_MAX {
            let Some(at) = target else { break };
            let entry = self.unit.entry(at)?;
            match entry.tag() {
                dw::DW_TAG_typedef | dw::DW_TAG_const_type | dw::DW_TAG_volatile_type => {
                    target = self.unit.target(&entry)?;
                }
                dw::DW_TAG_structure_type | dw::DW_TAG_union_type if !is_declared(&entry) => {
                    size_or_type = Some(self.members(&entry, 0)?);
                    break;
                }
                _ => break,
            }
        }
        let size_or_type = match size_or_type {
            Some(record) => record,
            None => self.type_of(first, true, 0)?,
        };
        let id = self.known.get(&(at, true)).copied().unwrap_or_default();
        let name = self.types.writer.string(&self.unit.name(&typedef));
        self.types.writer.replace(id, Record { name, kind: TYPEDEF, size_or_type, ..Record::default() });
        Ok(id)
    }

    /// A struct or union with its members.
    fn members(&mut self, entry: &Entry<'u>, depth: usize) -> Result<Id, Error> {
        let mut members = Vec::new();
        let mut flag = false;
        for member in self.unit.children(entry.offset())? {
            if member.tag() != dw::DW_TAG_member {
                continue;
            }
            let target = self.unit.target(&member)?;
            let id = self.type_of(target, true, depth + 1)?;
            let width = Unit::number(&member, dw::DW_AT_bit_size).unwrap_or(0);
            flag |= width > 0;
            let name = self.unit.name(&member);
            members.push((self.types.writer.string(&name), id, self.bit_offset(&member, width)?, width));
        }
        let mut extra = Vec::new();
        for (name, id, offset, width) in &members {
            let (offset, limit) = match flag {
                true => (*offset, BITFIELD_OFFSET_MAX),
                false => (*offset, 1 << 32),
            };
            let place = u32::try_from(offset | (width << 24)).ok().filter(|_| offset < limit && *width < 256);
            extra.extend([
                *name,
                *id,
                place.ok_or_else(|| self.unit.limit("bits before a member", 1 << 24))?,
            ]);
        }
        let count = u16::try_from(members.len()).map_err(|_| self.unit.limit("members of a type", 65535))?;
        let kind = if entry.tag() == dw::DW_TAG_union_type { UNION } else { STRUCT };
        self.named(entry, Record { kind, flag, count, size_or_type: size(entry), extra, ..Record::default() })
    }

    /// Bits from the start of the record to a member.
    fn bit_offset(&self, member: &Entry<'u>, width: u64) -> Result<u64, Error> {
        if let Some(offset) = Unit::number(member, dw::DW_AT_data_bit_offset) {
            return Ok(offset);
        }
        let unreadable =
            || Error::DwarfMember { unit: self.unit.at, member: self.unit.name(member).into_owned() };
        let bits = self.unit.member_offset(member)?.checked_mul(8).ok_or_else(unreadable)?;
        // Before DWARF 4: from the most significant bit of the storage down to that of the field.
        let Some(above) = Unit::number(member, dw::DW_AT_bit_offset) else { return Ok(bits) };
        let storage = match Unit::number(member, dw::DW_AT_byte_size) {
            Some(size) => size,
            None => self.storage(member)?,
        };
        let below = storage.checked_mul(8).and_then(|all| all.checked_sub(above)?.checked_sub(width));
        below.and_then(|below| bits.checked_add(below)).ok_or_else(unreadable)
    }

    /// Size of a bitfield's declared type in bytes.
    fn storage(&self, member: &Entry<'u>) -> Result<u64, Error> {
        let mut at = self.unit.target(member)?;
        for _ in 0..DEPTH_MAX {
            let Some(entry) = at.map(|at| self.unit.entry(at)).transpose()? else { break };
            if let Some(size) = Unit::number(&entry, dw::DW_AT_byte_size) {
                return Ok(size);
            }
            at = self.unit.target(&entry)?;
        }
        Err(Error::DwarfMember { unit: self.unit.at, member: self.unit.name(member).into_owned() })
    }

    /// A struct or union by name and size only.
    fn outline(&mut self, entry: &Entry<'u>) -> Result<Id, Error> {
        let union = entry.tag() == dw::DW_TAG_union_type;
        let kind = if union { UNION } else { STRUCT };
        if !is_declared(entry) {
            return self.named(entry, Record { kind, size_or_type: size(entry), ..Record::default() });
        }
        let id = self.named(entry, Record { kind: FWD, flag: union, ..Record::default() })?;
        self.types.declared.push((id, kind, self.unit.name(entry).into_owned()));
        Ok(id)
    }

    /// A wanted enum; of those without a tag only one that has a wanted value which was not met before.
    fn wanted_enum(&mut self, entry: &Entry<'u>) -> Result<Id, Error> {
        if self.unit.name(entry).is_empty() {
            let untagged = self.types.wanted.enums.iter().filter(|wanted| wanted.name.is_empty());
            let wanted: HashSet<&str> = untagged.flat_map(|wanted| wanted.values).copied().collect();
            let mut new = false;
            for value in self.unit.children(entry.offset())? {
                let name = self.unit.name(&value);
                new |=
                    wanted.contains(&*name) && self.types.done.insert((ENUM, name.into_owned().into_bytes()));
            }
            if !new {
                return Ok(0);
            }
        }
        self.enumeration(entry, true)
    }

    /// An enum; its values only where they are wanted.
    fn enumeration(&mut self, entry: &Entry<'u>, with_values: bool) -> Result<Id, Error> {
        let wide = size(entry) > 4;
        let mut flag = false;
        let (mut extra, mut count) = (Vec::new(), 0_u16);
        for value in self.unit.children(entry.offset())? {
            let Some(attribute) = value.attr(dw::DW_AT_const_value) else { continue };
            let signed = matches!(attribute.value(), gimli::AttributeValue::Sdata(value) if value < 0);
            flag |= signed;
            let bits = attribute.udata_value().or_else(|| attribute.sdata_value().map(i64::cast_unsigned));
            let (Some(bits), true) = (bits, with_values) else { continue };
            let [low, high] =
                [bits & 0xffff_ffff, bits >> 32].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
            let name = self.types.writer.string(&self.unit.name(&value));
            extra.extend([name, low]);
            extra.extend(wide.then_some(high));
            count = count.saturating_add(1);
        }
        let kind = if wide { ENUM64 } else { ENUM };
        self.named(entry, Record { kind, flag, count, size_or_type: size(entry), extra, ..Record::default() })
    }

    fn base(&mut self, entry: &Entry<'u>) -> Result<Id, Error> {
        let size = size(entry);
        let encoding = match entry.attr_value(dw::DW_AT_encoding) {
            Some(gimli::AttributeValue::Encoding(encoding)) => encoding,
            _ => dw::DW_ATE_unsigned,
        };
        // BTF_INT_SIGNED is 1, BTF_INT_BOOL 4; how `char` is marked is up to the version of pahole.
        let marks = match encoding {
            dw::DW_ATE_signed | dw::DW_ATE_signed_char => 1,
            dw::DW_ATE_boolean => 4,
            _ => 0,
        };
        if encoding == dw::DW_ATE_float || encoding == dw::DW_ATE_complex_float || size > 16 {
            return self.named(entry, Record { kind: FLOAT, size_or_type: size, ..Record::default() });
        }
        let extra = vec![(marks << 24) | (size * 8)];
        self.named(entry, Record { kind: INT, size_or_type: size, extra, ..Record::default() })
    }

    /// Elements of an array, all dimensions multiplied; 0 of a flexible one.
    fn elements(&self, entry: &Entry<'u>) -> Result<u32, Error> {
        let mut elements: u32 = 1;
        for dimension in self.unit.children(entry.offset())? {
            if dimension.tag() != dw::DW_TAG_subrange_type {
                continue;
            }
            let count = Unit::number(&dimension, dw::DW_AT_count).or_else(|| {
                // -1, or 2^32 - 1 or 2^64 - 1 where a compiler forgets the sign, says that there are none.
                Unit::number(&dimension, dw::DW_AT_upper_bound)?
                    .checked_add(1)
                    .filter(|count| *count <= u32::MAX.into())
            });
            let count = count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
            elements = elements
                .checked_mul(count)
                .ok_or_else(|| self.unit.limit("elements of an array", 1 << 32))?;
        }
        Ok(elements)
    }

    fn named(&mut self, entry: &Entry<'u>, record: Record) -> Result<Id, Error> {
        let name = self.types.writer.string(&self.unit.name(entry));
        self.add(Record { name, ..record })
    }

    fn add(&mut self, record: Record) -> Result<Id, Error> {
        if self.types.writer.len() >= RECORDS_MAX {
            return Err(self.unit.limit("types that are wanted", RECORDS_MAX));
        }
        Ok(self.types.writer.add(record))
    }
}

/// `DW_AT_byte_size`; 0 when there is none, or none that BTF can tell.
fn size(entry: &Entry<'_>) -> u32 {
    Unit::number(entry, dw::DW_AT_byte_size).and_then(|size| u32::try_from(size).ok()).unwrap_or(0)
}

fn is_declared(entry: &Entry<'_>) -> bool {
    entry.has_attr(dw::DW_AT_declaration)
}
