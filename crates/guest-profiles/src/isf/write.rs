//! A kernel as Volatility's symbol file.
//!
//! Written as a stream: what is held is one name for each record and enum. Every name that is referred to is defined, or the
//! reference is one to `void`: a file with a missing type is of no use to Volatility. Records that are declared twice under one
//! name (drivers do that) keep apart by their number.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::UNTAGGED;
use super::globals::GLOBALS;
use crate::btf::{Btf, Kind, Member, Shape, TypeId};
use crate::error::Error;

/// Version of the format that is written.
const FORMAT: &str = "6.2.0";
/// Arrays in arrays and pointers to pointers that are followed; the rest is `void`.
const DEPTH_MAX: u32 = 24;

/// What a symbol file is made of.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    /// All its types.
    pub btf: &'a Btf<'a>,
    /// All its symbols at link addresses.
    pub symbols: &'a BTreeMap<String, u64>,
    /// ``linux_banner`` as it stands in memory, with its newline and NUL: Volatility looks for exactly these bytes.
    pub banner: &'a [u8],
}

/// Writes the file.
pub fn write(out: impl io::Write, kernel: &Kernel<'_>) -> Result<(), Error> {
    let names = Names::new(kernel.btf)?;
    let file = File { kernel, names: &names };
    serde_json::to_writer(out, &file).map_err(|source| Error::IsfWrite { source })
}

struct File<'a, 'k> {
    kernel: &'k Kernel<'a>,
    names: &'k Names<'a>,
}

#[derive(Serialize)]
struct BaseType {
    size: u32,
    signed: bool,
    kind: &'static str,
    endian: &'static str,
}

#[derive(Serialize)]
struct UserType<'a> {
    kind: &'static str,
    size: u32,
    fields: BTreeMap<Cow<'a, str>, Field<'a>>,
}

#[derive(Serialize)]
struct Field<'a> {
    #[serde(rename = "type")]
    kind: Descriptor<'a>,
    offset: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anonymous: bool,
}

#[derive(Serialize)]
struct Enumeration<'a> {
    size: u32,
    base: &'static str,
    constants: BTreeMap<&'a str, i64>,
}

#[derive(Serialize)]
struct Symbol<'a> {
    address: u64,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<Descriptor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constant_data: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Descriptor<'a> {
    Base {
        name: Cow<'a, str>,
    },
    Pointer {
        subtype: Box<Descriptor<'a>>,
    },
    Array {
        count: u32,
        subtype: Box<Descriptor<'a>>,
    },
    Struct {
        name: &'a str,
    },
    Union {
        name: &'a str,
    },
    Enum {
        name: &'a str,
    },
    Function,
    Bitfield {
        bit_length: u32,
        bit_position: u32,
        #[serde(rename = "type")]
        kind: Box<Descriptor<'a>>,
    },
}

impl Descriptor<'_> {
    const VOID: Self = Self::Base { name: Cow::Borrowed("void") };
}

/// The one name of each record and enum, and what names mean.
struct Names<'a> {
    of: HashMap<TypeId, String>,
    /// Tagged structs and base types by name, for variables.
    tagged: HashMap<&'a str, TypeId>,
    integers: BTreeMap<&'a str, BaseType>,
    /// Types of per-CPU variables.
    variables: HashMap<&'a str, TypeId>,
}

impl<'a> Names<'a> {
    fn new(btf: &Btf<'a>) -> Result<Self, Error> {
        let mut names = Self {
            of: HashMap::new(),
            tagged: HashMap::new(),
            integers: BTreeMap::new(),
            variables: HashMap::new(),
        };
        let (mut records, mut enums) = (HashSet::new(), HashSet::new());
        let mut untagged = Vec::new();
        for id in btf.ids() {
            let (kind, name) = (btf.kind(id)?, btf.name(id)?);
            match kind {
                Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 if name.is_empty() => {
                    untagged.push(id)
                }
                Kind::Struct | Kind::Union => {
                    if records.insert(name.to_owned()) {
                        names.of.insert(id, name.to_owned());
                        names.tagged.insert(name, id);
                    } else {
                        names.of.insert(id, format!("{name}__{:x}", id.number()));
                    }
                }
                Kind::Enum | Kind::Enum64 => {
                    let own = if enums.insert(name) {
                        name.to_owned()
                    } else {
                        format!("{name}__{:x}", id.number())
                    };
                    names.of.insert(id, own);
                }
                Kind::Int | Kind::Float => names.add_base(btf, id)?,
                Kind::Var => {
                    if let Some(target) = btf.target(id)? {
                        names.variables.entry(name).or_insert(target);
                    }
                }
                _ => {}
            }
        }
        // An untagged record that has a typedef is known by that (`atomic_t`).
        for id in btf.ids().collect::<Vec<_>>() {
            let Some(target) =
                btf.target(id)?.filter(|_| btf.kind(id).is_ok_and(|kind| kind == Kind::Typedef))
            else {
                continue;
            };
            let of = btf.resolve(target)?;
            let is_untagged_record =
                btf.name(of)?.is_empty() && matches!(btf.kind(of)?, Kind::Struct | Kind::Union);
            let name = btf.name(id)?;
            if is_untagged_record && !names.of.contains_key(&of) && records.insert(name.to_owned()) {
                names.of.insert(of, name.to_owned());
            }
        }
        for id in untagged {
            names.of.entry(id).or_insert_with(|| format!("{UNTAGGED}{:x}", id.number()));
        }
        Ok(names)
    }

    fn add_base(&mut self, btf: &Btf<'a>, id: TypeId) -> Result<(), Error> {
        let (name, size, signed, kind) = match btf.shape(id)? {
            Shape::Integer { name, size, signed } => (name, size, signed, integer_kind(name)),
            Shape::Float { name, size } => (name, size, true, "float"),
            _ => return Ok(()),
        };
        self.integers.entry(name).or_insert(BaseType { size, signed, kind, endian: "little" });
        Ok(())
    }

    fn name(&self, id: TypeId) -> Option<&str> {
        self.of.get(&id).map(String::as_str)
    }
}

/// Volatility reads arrays of characters as text; BTF says what is one only by its name.
fn integer_kind(name: &str) -> &'static str {
    match name {
        "char" | "signed char" | "unsigned char" => "char",
        "_Bool" => "bool",
        _ => "int",
    }
}

impl Serialize for File<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(5))?;
        let producer = BTreeMap::from([("name", "birthmark"), ("version", env!("CARGO_PKG_VERSION"))]);
        #[derive(Serialize)]
        struct Metadata<'m> {
            format: &'static str,
            producer: BTreeMap<&'m str, &'m str>,
        }
        map.serialize_entry("metadata", &Metadata { format: FORMAT, producer })?;
        map.serialize_entry("base_types", &Section(self, Part::Base))?;
        map.serialize_entry("user_types", &Section(self, Part::Records))?;
        map.serialize_entry("enums", &Section(self, Part::Enums))?;
        map.serialize_entry("symbols", &Section(self, Part::Symbols))?;
        map.end()
    }
}

#[derive(Clone, Copy)]
enum Part {
    Base,
    Records,
    Enums,
    Symbols,
}

struct Section<'f, 'a, 'k>(&'f File<'a, 'k>, Part);

impl Serialize for Section<'_, '_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(file, part) = self;
        let mut map = serializer.serialize_map(None)?;
        match part {
            Part::Base => file.base_types(&mut map)?,
            Part::Records => file.records(&mut map)?,
            Part::Enums => file.enums(&mut map)?,
            Part::Symbols => file.symbols(&mut map)?,
        }
        map.end()
    }
}

impl<'a> File<'a, '_> {
    fn base_types<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let endian = "little";
        map.serialize_entry("void", &BaseType { size: 0, signed: false, kind: "void", endian })?;
        map.serialize_entry("pointer", &BaseType { size: 8, signed: false, kind: "int", endian })?;
        self.names.integers.iter().try_for_each(|(name, base)| map.serialize_entry(name, base))
    }

    fn records<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let btf = self.kernel.btf;
        for id in btf.ids() {
            let (Some(name), Ok(Shape::Record(is_union, size)), Ok(Kind::Struct | Kind::Union)) =
                (self.names.name(id), btf.shape(id), btf.kind(id))
            else {
                continue;
            };
            let mut fields = BTreeMap::new();
            for member in btf.members(id).map_err(serde::ser::Error::custom)? {
                let Some(field) = self.field(&member, size) else { continue };
                let name = match member.name {
                    "" => Cow::Owned(format!("unnamed_field_{:x}", member.bit_offset / 8)),
                    name => Cow::Borrowed(name),
                };
                // Two anonymous records at one place, as in a union of unions.
                let name = match fields.contains_key(&name) {
                    true => Cow::Owned(format!("{name}_{}", fields.len())),
                    false => name,
                };
                fields.insert(name, field);
            }
            let kind = if is_union { "union" } else { "struct" };
            map.serialize_entry(name, &UserType { kind, size, fields })?;
        }
        Ok(())
    }

    /// `None`: a member that the format cannot express (a packed bitfield across its type's bounds).
    fn field(&self, member: &Member<'a>, record_size: u32) -> Option<Field<'_>> {
        let anonymous = member.name.is_empty();
        let kind = self.descriptor(member.kind, 0);
        if member.width == 0 {
            return Some(Field { kind, offset: u64::from(member.bit_offset / 8), anonymous });
        }
        let unit = self.kernel.btf.size_of(member.kind).ok()?;
        let (offset, size, bits) = crate::btf::storage(
            u64::from(member.bit_offset),
            u64::from(member.width),
            unit,
            u64::from(record_size),
        )?;
        (size == unit).then(|| Field {
            kind: Descriptor::Bitfield {
                bit_length: bits.width,
                bit_position: bits.shift,
                kind: Box::new(kind),
            },
            offset,
            anonymous,
        })
    }

    fn descriptor(&self, id: TypeId, depth: u32) -> Descriptor<'_> {
        let btf = self.kernel.btf;
        let Ok(resolved) = btf.resolve(id) else { return Descriptor::VOID };
        let named = self.names.name(resolved);
        match (btf.shape(resolved), named) {
            (Ok(Shape::Integer { name, .. } | Shape::Float { name, .. }), _) => {
                Descriptor::Base { name: Cow::Borrowed(name) }
            }
            (Ok(Shape::Pointer(target)), _) if depth < DEPTH_MAX => {
                Descriptor::Pointer { subtype: Box::new(self.descriptor(target, depth + 1)) }
            }
            (Ok(Shape::Array(element, count)), _) if depth < DEPTH_MAX => {
                Descriptor::Array { count, subtype: Box::new(self.descriptor(element, depth + 1)) }
            }
            (Ok(Shape::Record(true, _)), Some(name)) => Descriptor::Union { name },
            (Ok(Shape::Record(false, _)), Some(name)) => Descriptor::Struct { name },
            (Ok(Shape::Enum(_)), Some(name)) => Descriptor::Enum { name },
            (Ok(Shape::Function), _) => Descriptor::Function,
            _ => Descriptor::VOID,
        }
    }

    fn enums<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let btf = self.kernel.btf;
        for id in btf.ids() {
            let (Some(name), Ok(Kind::Enum | Kind::Enum64), Ok(Shape::Enum(size))) =
                (self.names.name(id), btf.kind(id), btf.shape(id))
            else {
                continue;
            };
            let values = btf.enum_values(id).map_err(serde::ser::Error::custom)?;
            // A value beyond i64 is left out rather than made another.
            let constants: BTreeMap<&str, i64> = values
                .into_iter()
                .filter_map(|(name, value)| Some((name, i64::try_from(value).ok()?)))
                .collect();
            let signed = constants.values().any(|value| *value < 0);
            map.serialize_entry(name, &Enumeration { size, base: self.base(size, signed), constants })?;
        }
        Ok(())
    }

    /// An integer type that every kernel has.
    fn base(&self, size: u32, signed: bool) -> &'static str {
        let name = match (size, signed) {
            (1, _) => "unsigned char",
            (2, _) => "short unsigned int",
            (4, true) => "int",
            (4, false) => "unsigned int",
            (8, true) => "long int",
            (8, false) => "long unsigned int",
            _ => "void",
        };
        if self.names.integers.contains_key(name) { name } else { "void" }
    }

    fn symbols<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let declared: HashMap<&str, &str> = GLOBALS.iter().copied().collect();
        for (name, address) in self.kernel.symbols {
            let kind = match declared.get(name.as_str()) {
                Some(text) => self.declared(text),
                None => self.names.variables.get(name.as_str()).map(|id| self.descriptor(*id, 0)),
            };
            let constant_data = (name == "linux_banner").then(|| STANDARD.encode(self.kernel.banner));
            map.serialize_entry(name, &Symbol { address: *address, kind, constant_data })?;
        }
        Ok(())
    }

    /// A type of [`GLOBALS`]; `None` when this kernel does not have it.
    fn declared(&self, text: &'static str) -> Option<Descriptor<'_>> {
        if let Some((element, count)) = text.strip_suffix(']').and_then(|text| text.rsplit_once('[')) {
            let (count, subtype) = (count.parse().ok()?, Box::new(self.declared(element)?));
            return Some(Descriptor::Array { count, subtype });
        }
        if let Some(target) = text.strip_suffix(" *") {
            return Some(Descriptor::Pointer { subtype: Box::new(self.declared(target)?) });
        }
        match text.strip_prefix("struct ") {
            Some(tag) => Some(self.descriptor(*self.names.tagged.get(tag)?, 0)),
            None => self
                .names
                .integers
                .contains_key(text)
                .then_some(Descriptor::Base { name: Cow::Borrowed(text) }),
        }
    }
}
