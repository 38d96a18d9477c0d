//! A profile out of Volatility's symbol file.
//!
//! Such a file has neither build id nor BTF digest; what tells the build is the banner (``linux_banner``), which names compiler and
//! time of the build. Untagged records have made-up names in it and typedefs are gone, so members of a record that the
//! profile has no entry for are listed by their dotted paths.
//!
//! The file may come from anywhere. It is read as a stream; what is kept of it is bounded ([`KEPT_MAX`]), as are its strings
//! ([`super::guard`]), its nesting (by the JSON parser), and the members of a record.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{BufReader, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::UNTAGGED;
use super::guard::Guard;
use crate::error::Error;
use crate::layout::{Field, FieldKind, Layout};
use crate::profile::{Profile, ProfileIdentity, Wanted, on_the_way};

/// Most memory that what is kept of a file may take, in bytes. Debian's 6.12 takes about 40 MB.
const KEPT_MAX: usize = 96 << 20;
/// Most members of a record, those of embedded records included.
const MEMBERS_MAX: usize = 4096;
/// Records in records.
const NESTING_MAX: usize = 16;
/// Longest path of a member.
const PATH_MAX: usize = 1024;
/// Most arrays in arrays.
const ARRAYS_MAX: u32 = 16;
/// What the banner starts with (init/version-timestamp.c); the release follows.
const BANNER: &str = "Linux version ";
/// Longest release (``__NEW_UTS_LEN``).
const RELEASE_MAX: usize = 64;

/// Reads a symbol file, which `wanted` is taken of.
pub fn read(json: impl Read, wanted: &Wanted) -> Result<Profile, Error> {
    let kept = Cell::new(0);
    let mut parser =
        serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 16, Guard::new(json)));
    let file = FileSeed { wanted, kept: &kept }
        .deserialize(&mut parser)
        .and_then(|file| parser.end().map(|()| file))
        .map_err(|source| Error::IsfJson { source })?;
    if !["4.", "5.", "6."].iter().any(|major| file.format.starts_with(major)) {
        return Err(Error::IsfFormat { found: file.format });
    }
    let banner = banner(file.banner.as_deref())?;
    let release = banner
        .strip_prefix(BANNER)
        .and_then(|rest| rest.split_whitespace().next())
        .filter(|release| release.len() <= RELEASE_MAX)
        .ok_or_else(|| Error::IsfBanner { found: format!("{banner:?}") })?
        .to_owned();
    let mut types: BTreeMap<String, Layout> = BTreeMap::new();
    for want in wanted.types {
        if !file.records.contains_key(want.name) {
            continue;
        }
        let keep = |path: &str| {
            want.members.is_empty() || want.members.iter().any(|member| on_the_way(path, member))
        };
        let layout = Flattening::of(&file, wanted, want.name, &keep)?;
        match types.get_mut(want.name) {
            Some(known) => known.members.extend(layout.members),
            None => {
                types.insert(want.name.to_owned(), layout);
            }
        }
    }
    let identity = ProfileIdentity { release, build_id: None };
    Ok(Profile::without_btf(wanted, identity, Some(banner), types, file.enums(wanted), file.symbols))
}

fn banner(base64: Option<&str>) -> Result<String, Error> {
    let bad = |found: &str| Error::IsfBanner { found: found.to_owned() };
    let bytes = STANDARD.decode(base64.ok_or_else(|| bad("missing"))?).map_err(|_| bad("not base64"))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end_matches('\0').trim_end().to_owned())
}

/// What is kept of a file.
#[derive(Default)]
struct File {
    format: String,
    bases: HashMap<Box<str>, Base>,
    records: HashMap<Box<str>, Record>,
    enumerations: HashMap<Box<str>, Enumeration>,
    symbols: BTreeMap<String, u64>,
    banner: Option<String>,
}

#[derive(Deserialize)]
struct Base {
    size: u64,
    signed: bool,
    kind: Box<str>,
}

#[derive(Default)]
struct Record {
    size: u64,
    members: Vec<(Box<str>, Member)>,
}

#[derive(Deserialize)]
struct Member {
    #[serde(rename = "type")]
    kind: Descriptor,
    offset: u64,
    #[serde(default)]
    anonymous: bool,
}

#[derive(Deserialize)]
struct Enumeration {
    size: u64,
    #[serde(default)]
    constants: BTreeMap<Box<str>, i64>,
}

#[derive(Deserialize)]
struct Symbol {
    address: u64,
    constant_data: Option<String>,
}

#[derive(Deserialize)]
struct Descriptor {
    kind: Box<str>,
    name: Option<Box<str>>,
    count: Option<u64>,
    bit_length: Option<u64>,
    bit_position: Option<u64>,
    #[serde(alias = "type")]
    subtype: Option<Box<Descriptor>>,
}

impl Descriptor {
    /// About what it takes in memory, in bytes.
    fn cost(&self) -> usize {
        let text = self.kind.len() + self.name.as_ref().map_or(0, |name| name.len());
        size_of::<Self>() + text + 32 + self.subtype.as_ref().map_or(0, |inner| inner.cost())
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

impl File {
    /// Size in bytes; `None` for `void`, functions, and what the file does not define.
    fn size(&self, of: &Descriptor) -> Option<u64> {
        let mut elements = 1_u64;
        let mut of = of;
        for _ in 0..ARRAYS_MAX {
            let size = match &*of.kind {
                "pointer" => 8,
                "base" => self.bases.get(of.name()).filter(|base| &*base.kind != "void")?.size,
                "struct" | "union" | "class" => self.records.get(of.name())?.size,
                "enum" => self.enumerations.get(of.name())?.size,
                "bitfield" => {
                    of = of.subtype.as_deref()?;
                    continue;
                }
                "array" => {
                    elements = elements.checked_mul(of.count?)?;
                    of = of.subtype.as_deref()?;
                    continue;
                }
                _ => return None,
            };
            return elements.checked_mul(size);
        }
        None
    }

    fn kind(&self, of: &Descriptor, depth: u32) -> FieldKind {
        let tag =
            |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty() && !name.starts_with(UNTAGGED));
        match &*of.kind {
            "pointer" => {
                let target = of.subtype.as_deref().filter(|target| &*target.kind != "pointer");
                FieldKind::Pointer {
                    target: target.and_then(|target| tag(target.name())).filter(|name| name != "void"),
                    target_size: of.subtype.as_deref().and_then(|target| self.size(target)),
                }
            }
            "base" => match self.bases.get(of.name()) {
                Some(base) if &*base.kind != "float" && &*base.kind != "void" => {
                    FieldKind::Integer { signed: base.signed }
                }
                _ => FieldKind::Other,
            },
            "array" => match of.subtype.as_deref().filter(|_| depth < ARRAYS_MAX) {
                Some(element) => FieldKind::Array {
                    count: of.count.unwrap_or(0),
                    stride: self.size(element).unwrap_or(0),
                    element: Box::new(self.kind(element, depth + 1)),
                },
                None => FieldKind::Other,
            },
            "struct" | "union" | "class" => FieldKind::Record { name: tag(of.name()) },
            "enum" => {
                let negative = |of: &Enumeration| of.constants.values().any(|value| *value < 0);
                let signed = self.enumerations.get(of.name()).is_some_and(negative);
                FieldKind::Enum { name: tag(of.name()), signed }
            }
            "bitfield" => match of.subtype.as_deref().filter(|inner| &*inner.kind != "bitfield") {
                Some(inner) => self.kind(inner, depth),
                None => FieldKind::Other,
            },
            _ => FieldKind::Other,
        }
    }

    fn enums(&self, wanted: &Wanted) -> BTreeMap<String, BTreeMap<String, i64>> {
        let mut found: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for want in wanted.enums {
            let of_it = |name: &str| match want.name {
                "" => name.starts_with(UNTAGGED),
                tag => name == tag,
            };
            let all = self.enumerations.iter().filter(|(name, _)| of_it(name));
            for (name, value) in all.flat_map(|(_, one)| &one.constants) {
                let asked =
                    want.values.contains(&&**name) || (want.values.is_empty() && !want.name.is_empty());
                if asked {
                    found.entry(want.name.to_owned()).or_default().insert(name.to_string(), *value);
                }
            }
        }
        found
    }
}

/// The members of one record by path.
struct Flattening<'f> {
    file: &'f File,
    wanted: &'f Wanted,
    name: &'f str,
    size: u64,
    keep: &'f dyn Fn(&str) -> bool,
    visited: usize,
    path: String,
    members: BTreeMap<String, Field>,
}

impl<'f> Flattening<'f> {
    fn of(
        file: &'f File,
        wanted: &'f Wanted,
        name: &'f str,
        keep: &'f dyn Fn(&str) -> bool,
    ) -> Result<Layout, Error> {
        let Some(record) = file.records.get(name) else {
            return Ok(Layout { size: 0, members: BTreeMap::new() });
        };
        let size = record.size;
        let mut all = Self {
            file,
            wanted,
            name,
            size,
            keep,
            visited: 0,
            path: String::new(),
            members: BTreeMap::new(),
        };
        all.walk(record, 0, 0)?;
        Ok(Layout { size, members: all.members })
    }

    fn walk(&mut self, record: &'f Record, base: u64, depth: usize) -> Result<(), Error> {
        let deep = |limit| Error::IsfTooDeep { name: self.name.to_owned(), limit };
        if depth > NESTING_MAX {
            return Err(deep(NESTING_MAX));
        }
        for (name, member) in &record.members {
            self.visited += 1;
            if self.visited > MEMBERS_MAX || self.path.len() + name.len() > PATH_MAX {
                return Err(Error::IsfTooDeep { name: self.name.to_owned(), limit: MEMBERS_MAX });
            }
            let offset = base.checked_add(member.offset).ok_or_else(|| self.outside(name, u64::MAX, 0))?;
            let inner = match &*member.kind.kind {
                "struct" | "union" | "class" => self.file.records.get(member.kind.name()),
                _ => None,
            };
            if member.anonymous {
                if let Some(inner) = inner {
                    self.walk(inner, offset, depth + 1)?;
                }
                continue;
            }
            let parent = self.path.len();
            self.path.push_str(name);
            if (self.keep)(&self.path) {
                if !self.members.contains_key(&self.path)
                    && let Some(field) = self.field(name, &member.kind, offset)?
                {
                    self.members.insert(self.path.clone(), field);
                }
                // A record that the profile has by its tag is looked up there.
                let known = self.wanted.types.iter().any(|want| want.name == member.kind.name());
                if let Some(inner) = inner.filter(|_| !known) {
                    self.path.push('.');
                    self.walk(inner, offset, depth + 1)?;
                }
            }
            self.path.truncate(parent);
        }
        Ok(())
    }

    /// `None`: a member of a type that the file does not define.
    fn field(&self, name: &str, of: &Descriptor, offset: u64) -> Result<Option<Field>, Error> {
        let Some(size) = self.file.size(of) else { return Ok(None) };
        let kind = self.file.kind(of, 0);
        let field = if &*of.kind == "bitfield" {
            let first = offset.checked_mul(8).and_then(|bits| bits.checked_add(of.bit_position?));
            first
                .zip(of.bit_length)
                .and_then(|(first, width)| crate::btf::storage(first, width, size, self.size))
                .map(|(offset, size, bits)| Field { offset, size, bits: Some(bits), kind })
                .ok_or_else(|| self.outside(name, offset, size))?
        } else {
            Field { offset, size, bits: None, kind }
        };
        match field.offset.checked_add(field.size) {
            Some(end) if end <= self.size => Ok(Some(field)),
            _ => Err(self.outside(name, offset, size)),
        }
    }

    fn outside(&self, member: &str, offset: u64, size: u64) -> Error {
        let (name, member) = (self.name.to_owned(), member.to_owned());
        Error::IsfMember { name, member, offset, size, record_size: self.size }
    }
}

/// Counts what is kept.
fn keep<E: serde::de::Error>(kept: &Cell<usize>, bytes: usize) -> Result<(), E> {
    kept.set(kept.get().saturating_add(bytes));
    if kept.get() > KEPT_MAX {
        return Err(E::custom(format_args!("types that take more than {KEPT_MAX} bytes of memory")));
    }
    Ok(())
}

struct FileSeed<'s> {
    wanted: &'s Wanted,
    kept: &'s Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for FileSeed<'_> {
    type Value = File;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<File, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FileSeed<'_> {
    type Value = File;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with metadata, base_types, user_types, enums and symbols")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
        #[derive(Deserialize)]
        struct Metadata {
            format: String,
        }
        let mut file = File::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => file.format = map.next_value::<Metadata>()?.format,
                "base_types" => file.bases = map.next_value_seed(Entries::new(self.kept, |_: &Base| 0))?,
                "user_types" => file.records = map.next_value_seed(Records { kept: self.kept })?,
                "enums" => {
                    let cost = |one: &Enumeration| one.constants.keys().map(|name| name.len() + 64).sum();
                    file.enumerations = map.next_value_seed(Entries::new(self.kept, cost))?;
                }
                "symbols" => map.next_value_seed(Symbols { wanted: self.wanted, file: &mut file })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(file)
    }
}

/// A map whose values are kept as they are.
struct Entries<'s, T, C> {
    kept: &'s Cell<usize>,
    cost: C,
    of: std::marker::PhantomData<T>,
}

impl<'s, T, C: Fn(&T) -> usize> Entries<'s, T, C> {
    fn new(kept: &'s Cell<usize>, cost: C) -> Self {
        Self { kept, cost, of: std::marker::PhantomData }
    }
}

impl<'de, T: Deserialize<'de>, C: Fn(&T) -> usize> DeserializeSeed<'de> for Entries<'_, T, C> {
    type Value = HashMap<Box<str>, T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>, C: Fn(&T) -> usize> Visitor<'de> for Entries<'_, T, C> {
    type Value = HashMap<Box<str>, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of types by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = HashMap::new();
        while let Some((name, value)) = map.next_entry::<Box<str>, T>()? {
            keep(self.kept, name.len() + 2 * size_of::<T>() + 64 + (self.cost)(&value))?;
            all.insert(name, value);
        }
        Ok(all)
    }
}

struct Records<'s> {
    kept: &'s Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Records<'_> {
    type Value = HashMap<Box<str>, Record>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = HashMap<Box<str>, Record>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of structs and unions by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = HashMap::new();
        while let Some(name) = map.next_key::<Box<str>>()? {
            keep(self.kept, name.len() + 2 * size_of::<Record>() + 64)?;
            let record = map.next_value_seed(RecordSeed { kept: self.kept })?;
            all.insert(name, record);
        }
        Ok(all)
    }
}

struct RecordSeed<'s> {
    kept: &'s Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for RecordSeed<'_> {
    type Value = Record;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Record, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed<'_> {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a struct or union with size and fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let (mut size, mut members) = (None, Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "size" => size = Some(map.next_value()?),
                "fields" => members = map.next_value_seed(Members { kept: self.kept })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Record { size: size.ok_or_else(|| A::Error::missing_field("size"))?, members })
    }
}

struct Members<'s> {
    kept: &'s Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = Vec<(Box<str>, Member)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<(Box<str>, Member)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of members by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some((name, member)) = map.next_entry::<Box<str>, Member>()? {
            // The vector may have twice the room that it needs.
            keep(self.kept, 2 * size_of::<(Box<str>, Member)>() + name.len() + member.kind.cost())?;
            all.push((name, member));
        }
        Ok(all)
    }
}

/// Only the wanted symbols are kept, and the banner.
struct Symbols<'s> {
    wanted: &'s Wanted,
    file: &'s mut File,
}

impl<'de> DeserializeSeed<'de> for Symbols<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Symbols<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of symbols by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let is_wanted = self.wanted.symbols.contains(&name.as_str());
            if !is_wanted && name != "linux_banner" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let symbol: Symbol = map.next_value()?;
            if name == "linux_banner" {
                self.file.banner = symbol.constant_data;
            }
            // dwarf2json writes 0 where it does not know.
            if is_wanted && symbol.address != 0 {
                self.file.symbols.insert(name, symbol.address);
            }
        }
        Ok(())
    }
}
