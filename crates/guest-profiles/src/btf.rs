//! A bounded reader of the kernel's own BTF (`.BTF` of vmlinux, `/sys/kernel/btf/vmlinux`).
//!
//! One pass notes where each type record starts (4 bytes per type, nothing else is allocated); all questions are then
//! answered out of the bytes. Types are found by kind **and** name: in a real kernel more than a hundred struct names
//! are also names of functions, variables or typedefs. Format: `include/uapi/linux/btf.h` and
//! `Documentation/bpf/btf.rst` of Linux 6.18.
//!
//! The bytes come from a guest. Each offset is checked when it is used, reference chains, nesting and member counts are
//! bounded, and nothing here may panic, recurse without bound or allocate more than in proportion to the bytes given.
//!
//! A module's BTF is *split*: its types and strings go on where those of vmlinux end, and refer back to them
//! ([`Btf::parse_split`]).

use std::collections::{BTreeMap, HashMap};

use crate::layout::{Bits, Field, FieldKind, Layout};
use crate::{Error, le};

mod shape;
pub use shape::{Member, Shape};

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: u32 = 24;
const TYPE_LEN: usize = 12;
/// `MAX_RESOLVE_DEPTH` of `kernel/bpf/btf.c` (6.18): the kernel refuses longer chains itself.
const MAX_CHAIN: u32 = 32;
/// Records in records, arrays in arrays. Real kernels stay below 10.
const MAX_NESTING: u32 = 32;
/// Members visited for one record, those of anonymous records included. Real kernels stay below 500.
const MAX_MEMBERS: usize = 4096;
/// `KSYM_NAME_LEN` (6.18) less its NUL, the kernel's own bound on names in BTF.
const MAX_NAME: usize = 511;
/// Longest dotted path. Real kernels stay below 100.
const MAX_PATH: usize = 1024;
const POINTER_SIZE: u64 = 8;

/// Kinds of types, `BTF_KIND_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the kernel's, and say it")]
pub enum Kind {
    Void,
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Int,
            2 => Self::Ptr,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Fwd,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Func,
            13 => Self::FuncProto,
            14 => Self::Var,
            15 => Self::Datasec,
            16 => Self::Float,
            17 => Self::DeclTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            _ => return None,
        })
    }

    /// Bytes after the 12 that each type record starts with.
    fn extra(self, vlen: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => 12 * vlen,
            Self::Enum | Self::FuncProto => 8 * vlen,
            _ => 0,
        }
    }
}

/// A type's number; 0 is `void`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(u32);

impl TypeId {
    /// The number as other BTF tools print it.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// The head of one type record.
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    /// The type section that the record is in.
    types: &'a [u8],
    name: u32,
    kind: Kind,
    vlen: usize,
    flag: bool,
    /// Size in bytes, or the type referred to.
    size_or_type: u32,
    /// Where in the type section the bytes after the head start.
    extra: usize,
}

/// The types of one kernel, or of one of its modules, read in place.
#[derive(Debug)]
pub struct Btf<'a> {
    bytes: &'a [u8],
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset in `types` of each type of its own; without a base the first entry stands for `void`.
    offsets: Vec<u32>,
    /// The types that those of a module go on from.
    base: Option<&'a Btf<'a>>,
}

impl<'a> Btf<'a> {
    /// Checks the header, the sections and the extent and name of every type record. Bytes after the two sections are
    /// ignored, so that a caller may hand over whole pages.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::parse_on(None, bytes)
    }

    /// The same of a module of the kernel whose types are `base`. Numbers of types and offsets of strings that `base` has mean
    /// `base`'s. All questions can then be asked of the result alone; types of the module's own go before those of `base`.
    pub fn parse_split(base: &'a Btf<'a>, bytes: &'a [u8]) -> Result<Self, Error> {
        if base.base.is_some() {
            return Err(Error::BtfBaseIsSplit);
        }
        Self::parse_on(Some(base), bytes)
    }

    fn parse_on(base: Option<&'a Btf<'a>>, bytes: &'a [u8]) -> Result<Self, Error> {
        let (types, strings, end) = sections(bytes)?;
        // ``btf_parse_str_sec()``, kernel/bpf/btf.c: only a kernel's own section starts with the empty name.
        let starts = base.is_some() || strings.first() == Some(&0);
        if !starts || strings.last().is_some_and(|last| *last != 0) {
            return Err(Error::BtfStringsNotTerminated);
        }
        let strings_len = base.map_or(0, |base| base.strings.len()).saturating_add(strings.len());
        let mut offsets = Vec::with_capacity(types.len() / 20 + 1);
        if base.is_none() {
            offsets.push(0);
        }
        let first = base.map_or(0, |base| base.offsets.len());
        let mut at = 0;
        while at < types.len() {
            let id = u32::try_from(first.saturating_add(offsets.len())).unwrap_or(u32::MAX);
            let truncated = || Error::BtfTruncatedType { id, offset: at };
            let head: [u8; TYPE_LEN] = le::array(types, at).ok_or_else(truncated)?;
            let (name, kind, vlen) = read_head(id, head)?;
            if usize::try_from(name).map_or(true, |name| name >= strings_len) {
                return Err(Error::BtfStringOffset { offset: name, len: strings_len });
            }
            // At most 12 + 12 * 65535 is added to an offset below 4 GiB.
            let next = at + TYPE_LEN + kind.extra(vlen);
            if next > types.len() {
                return Err(truncated());
            }
            offsets.push(u32::try_from(at).map_err(|_| truncated())?);
            at = next;
        }
        Ok(Self { bytes: bytes.get(..end).unwrap_or(bytes), types, strings, offsets, base })
    }

    /// The bytes that the BTF takes of those given to [`Btf::parse`]: what a digest is taken of.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of types, `void` and those of the base included.
    pub fn type_count(&self) -> usize {
        self.first_own().saturating_add(self.offsets.len())
    }

    /// All types of its own in order, without `void`.
    pub fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        let first = u32::try_from(self.first_own()).unwrap_or(u32::MAX).max(1);
        (first..u32::try_from(self.type_count()).unwrap_or(u32::MAX)).map(TypeId)
    }

    fn first_own(&self) -> usize {
        self.base.map_or(0, |base| base.offsets.len())
    }

    /// The kind of a type.
    pub fn kind(&self, id: TypeId) -> Result<Kind, Error> {
        Ok(self.record(id)?.kind)
    }

    /// The name of a type; empty when it has none.
    pub fn name(&self, id: TypeId) -> Result<&'a str, Error> {
        self.string(self.record(id)?.name)
    }

    /// The types with the wanted kinds and names, in one pass over all types. Where several types of one kind have the
    /// same name (drivers have private structs of their own), the first one that has members is taken. What a module does not
    /// have itself is looked for in its base.
    pub fn find_all<'w>(
        &self,
        wanted: impl IntoIterator<Item = (Kind, &'w str)>,
    ) -> Result<BTreeMap<(Kind, &'w str), TypeId>, Error> {
        let mut wanted: HashMap<(Kind, &[u8]), &'w str> =
            wanted.into_iter().map(|(kind, name)| ((kind, name.as_bytes()), name)).collect();
        let filter = NameFilter::new(wanted.keys().map(|(kind, name)| (*kind, *name)));
        let mut found: BTreeMap<(Kind, &'w str), (bool, TypeId)> = BTreeMap::new();
        for id in self.ids() {
            let record = self.record(id)?;
            let start = self.string_start(record.name);
            if !filter.may_match(record.kind, start) {
                continue;
            }
            let Some(name) = terminated(start) else { continue };
            let Some(&name) = wanted.get(&(record.kind, name)) else { continue };
            let complete = record.vlen > 0;
            match found.get(&(record.kind, name)) {
                Some((true, _)) => {}
                Some((false, _)) if !complete => {}
                _ => {
                    found.insert((record.kind, name), (complete, id));
                }
            }
        }
        let mut found: BTreeMap<_, _> = found.into_iter().map(|(key, (_, id))| (key, id)).collect();
        if let Some(base) = self.base {
            wanted.retain(|(kind, _), name| !found.contains_key(&(*kind, *name)));
            let rest: Vec<_> = wanted.into_iter().map(|((kind, _), name)| (kind, name)).collect();
            found.extend(base.find_all(rest)?);
        }
        Ok(found)
    }

    /// The first type of this kind and name, preferring one with members. One pass over all types: use
    /// [`Btf::find_all`] for more than one.
    pub fn find(&self, kind: Kind, name: &str) -> Result<Option<TypeId>, Error> {
        Ok(self.find_all([(kind, name)])?.into_values().next())
    }

    /// Looks through typedefs, `const`, `volatile`, `restrict` and type tags.
    pub fn resolve(&self, id: TypeId) -> Result<TypeId, Error> {
        Ok(self.strip(id)?.0)
    }

    /// Size in bytes, as `sizeof` gives it. `void`, functions and declared-only records have none.
    pub fn size_of(&self, id: TypeId) -> Result<u64, Error> {
        let mut elements: u64 = 1;
        let mut at = id;
        for _ in 0..MAX_NESTING {
            let (target, _) = self.strip(at)?;
            let record = self.record(target)?;
            let size = match record.kind {
                Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => {
                    u64::from(record.size_or_type)
                }
                Kind::Ptr => POINTER_SIZE,
                Kind::Array => {
                    let (element, count) = self.array(target, &record)?;
                    elements = elements.checked_mul(u64::from(count)).ok_or(Error::BtfNoSize { id: id.0 })?;
                    at = element;
                    continue;
                }
                _ => return Err(Error::BtfNoSize { id: target.0 }),
            };
            return elements.checked_mul(size).ok_or(Error::BtfNoSize { id: id.0 });
        }
        Err(Error::BtfTooDeep { id: id.0, limit: MAX_NESTING })
    }

    /// The layout of a struct or union, or of a typedef of one: every member for which `keep` holds, by path. See
    /// [`Layout::members`] for which members have which path.
    pub fn layout(&self, id: TypeId, keep: &dyn Fn(&str) -> bool) -> Result<Layout, Error> {
        let id = self.resolve(id)?;
        let record = self.record(id)?;
        if !matches!(record.kind, Kind::Struct | Kind::Union) {
            return Err(Error::BtfKind { id: id.0, kind: record.kind, expected: "struct or union" });
        }
        let size = u64::from(record.size_or_type);
        let mut walk = Walk { id, size, keep, path: String::new(), visited: 0, members: BTreeMap::new() };
        self.walk_members(&mut walk, id, 0, 0)?;
        Ok(Layout { size, members: walk.members })
    }

    /// The values of an enum in declaration order.
    pub fn enum_values(&self, id: TypeId) -> Result<Vec<(&'a str, i128)>, Error> {
        let record = self.record(id)?;
        let truncated = || Error::BtfTruncatedType { id: id.0, offset: record.extra };
        let signed = record.flag;
        let value = |at: usize| match record.kind {
            Kind::Enum => le::u32(record.types, at)
                .map(|raw| if signed { raw.cast_signed().into() } else { raw.into() }),
            _ => le::u64(record.types, at)
                .map(|raw| if signed { raw.cast_signed().into() } else { raw.into() }),
        };
        let stride = match record.kind {
            Kind::Enum => 8,
            Kind::Enum64 => 12,
            kind => return Err(Error::BtfKind { id: id.0, kind, expected: "enum" }),
        };
        (0..record.vlen)
            .map(|index| {
                let at = record.extra + stride * index;
                let name = self.string(le::u32(record.types, at).ok_or_else(truncated)?)?;
                Ok((name, value(at + 4).ok_or_else(truncated)?))
            })
            .collect()
    }

    fn walk_members(&self, walk: &mut Walk<'_>, id: TypeId, base_bits: u64, depth: u32) -> Result<(), Error> {
        if depth >= MAX_NESTING {
            return Err(Error::BtfTooDeep { id: walk.id.0, limit: MAX_NESTING });
        }
        let record = self.record(id)?;
        for index in 0..record.vlen {
            walk.visited += 1;
            if walk.visited > MAX_MEMBERS {
                return Err(Error::BtfTooManyMembers { id: walk.id.0, limit: MAX_MEMBERS });
            }
            let raw: [u8; 12] = le::array(record.types, record.extra + 12 * index)
                .ok_or(Error::BtfTruncatedType { id: id.0, offset: record.extra })?;
            let [name, target, place] = words(raw);
            let name = self.string(name)?;
            let (offset, width) = if record.flag { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
            // At most MAX_NESTING offsets of 32 bits are added up.
            let bit_offset = base_bits + u64::from(offset);
            let (resolved, _) = self.strip(TypeId(target))?;
            let inner = self.record(resolved)?;
            let untagged = matches!(inner.kind, Kind::Struct | Kind::Union) && inner.name_is_empty(self);
            if name.is_empty() {
                if matches!(inner.kind, Kind::Struct | Kind::Union) {
                    self.walk_members(walk, resolved, bit_offset, depth + 1)?;
                }
                continue;
            }
            let parent = walk.path.len();
            if parent + name.len() > MAX_PATH {
                return Err(Error::BtfTooDeep { id: walk.id.0, limit: MAX_NESTING });
            }
            walk.path.push_str(name);
            if (walk.keep)(&walk.path) && !walk.members.contains_key(&walk.path) {
                let field = self.field(walk, TypeId(target), bit_offset, width)?;
                walk.members.insert(walk.path.clone(), field);
            }
            if untagged {
                walk.path.push('.');
                self.walk_members(walk, resolved, bit_offset, depth + 1)?;
            }
            walk.path.truncate(parent);
        }
        Ok(())
    }

    /// `width` is the bitfield's width of a record with `kind_flag`, else 0.
    fn field(&self, walk: &Walk<'_>, target: TypeId, bit_offset: u64, width: u32) -> Result<Field, Error> {
        let outside = |bit_offset| Error::BtfMemberOutside {
            id: walk.id.0,
            size: walk.size,
            member: walk.path.clone(),
            bit_offset,
        };
        let size = self.size_of(target)?;
        let kind = self.describe(target)?;
        let (bit_offset, width) = match width {
            0 => self
                .old_bitfield(target, size)?
                .map_or((bit_offset, 0), |(shift, width)| (bit_offset + shift, width)),
            width => (bit_offset, u64::from(width)),
        };
        let field = if width == 0 {
            if !bit_offset.is_multiple_of(8) {
                return Err(outside(bit_offset));
            }
            Field { offset: bit_offset / 8, size, bits: None, kind }
        } else {
            storage(bit_offset, width, size, walk.size)
                .map(|(offset, size, bits)| Field { offset, size, bits: Some(bits), kind })
                .ok_or_else(|| outside(bit_offset))?
        };
        match field.offset.checked_add(field.size) {
            Some(end) if end <= walk.size => Ok(field),
            _ => Err(outside(bit_offset)),
        }
    }

    /// Records without `kind_flag` express a bitfield by an int of fewer bits than its bytes: (offset, width) in bits.
    fn old_bitfield(&self, target: TypeId, size: u64) -> Result<Option<(u64, u64)>, Error> {
        let id = self.resolve(target)?;
        let record = self.record(id)?;
        if record.kind != Kind::Int {
            return Ok(None);
        }
        let encoding = self.int_encoding(id, &record)?;
        let (shift, width) = (u64::from((encoding >> 16) & 0xff), u64::from(encoding & 0xff));
        Ok((width != 0 && (shift != 0 || width != size.saturating_mul(8))).then_some((shift, width)))
    }

    fn describe(&self, id: TypeId) -> Result<FieldKind, Error> {
        let mut arrays = Vec::new();
        let mut at = id;
        let innermost = loop {
            let (target, typedef) = self.strip(at)?;
            let record = self.record(target)?;
            let own_name = || -> Result<Option<String>, Error> {
                let name = self.string(record.name)?;
                Ok(if name.is_empty() { typedef.map(str::to_owned) } else { Some(name.to_owned()) })
            };
            break match record.kind {
                Kind::Array => {
                    let (element, count) = self.array(target, &record)?;
                    if arrays.len() >= MAX_NESTING as usize {
                        return Err(Error::BtfTooDeep { id: id.0, limit: MAX_NESTING });
                    }
                    arrays.push((u64::from(count), self.size_of(element)?));
                    at = element;
                    continue;
                }
                Kind::Int => {
                    FieldKind::Integer { signed: (self.int_encoding(target, &record)? >> 24) & 1 == 1 }
                }
                Kind::Ptr => self.describe_pointee(TypeId(record.size_or_type))?,
                Kind::Struct | Kind::Union => FieldKind::Record { name: own_name()? },
                Kind::Enum | Kind::Enum64 => FieldKind::Enum { name: own_name()?, signed: record.flag },
                _ => FieldKind::Other,
            };
        };
        Ok(arrays.into_iter().rev().fold(innermost, |element, (count, stride)| FieldKind::Array {
            count,
            stride,
            element: Box::new(element),
        }))
    }

    fn describe_pointee(&self, id: TypeId) -> Result<FieldKind, Error> {
        let (target, typedef) = self.strip(id)?;
        let record = self.record(target)?;
        let name = match record.kind {
            Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Fwd | Kind::Float => {
                self.string(record.name)?
            }
            _ => "",
        };
        let named = if name.is_empty() { typedef } else { Some(name) };
        let target_size = match record.kind {
            Kind::Void | Kind::Fwd | Kind::FuncProto => None,
            _ => Some(self.size_of(target)?),
        };
        Ok(FieldKind::Pointer { target: named.map(str::to_owned), target_size })
    }

    /// The type below all modifiers, and the name of the innermost typedef passed.
    fn strip(&self, id: TypeId) -> Result<(TypeId, Option<&'a str>), Error> {
        let mut at = id;
        let mut typedef = None;
        for _ in 0..MAX_CHAIN {
            let record = self.record(at)?;
            match record.kind {
                Kind::Typedef => typedef = Some(record.name),
                Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag => {}
                _ => return Ok((at, typedef.map(|name| self.string(name)).transpose()?)),
            }
            at = TypeId(record.size_or_type);
        }
        Err(Error::BtfTooDeep { id: id.0, limit: MAX_CHAIN })
    }

    fn array(&self, id: TypeId, record: &Record<'_>) -> Result<(TypeId, u32), Error> {
        let raw: [u8; 12] = le::array(record.types, record.extra)
            .ok_or(Error::BtfTruncatedType { id: id.0, offset: record.extra })?;
        let [element, _index, count] = words(raw);
        Ok((TypeId(element), count))
    }

    fn int_encoding(&self, id: TypeId, record: &Record<'_>) -> Result<u32, Error> {
        le::u32(record.types, record.extra).ok_or(Error::BtfTruncatedType { id: id.0, offset: record.extra })
    }

    fn record(&self, id: TypeId) -> Result<Record<'a>, Error> {
        let Some(own) = (id.0 as usize).checked_sub(self.first_own()) else {
            // Below the first of its own there is a base.
            return self.base.map_or(Err(Error::BtfTypeId { id: id.0, count: 0 }), |base| base.record(id));
        };
        let missing = || Error::BtfTypeId { id: id.0, count: self.type_count() };
        let types = self.types;
        if id.0 == 0 {
            let kind = Kind::Void;
            return Ok(Record { types, name: 0, kind, vlen: 0, flag: false, size_or_type: 0, extra: 0 });
        }
        let at = *self.offsets.get(own).ok_or_else(missing)? as usize;
        let head: [u8; TYPE_LEN] = le::array(types, at).ok_or_else(missing)?;
        let (name, kind, vlen) = read_head(id.0, head)?;
        let [_, info, size_or_type] = words(head);
        Ok(Record { types, name, kind, vlen, flag: info >> 31 == 1, size_or_type, extra: at + TYPE_LEN })
    }

    /// The string section from an offset on; empty behind its end.
    fn string_start(&self, offset: u32) -> &'a [u8] {
        let of_base = self.base.map_or(0, |base| base.strings.len());
        match ((offset as usize).checked_sub(of_base), self.base) {
            (None, Some(base)) => base.string_start(offset),
            (own, _) => own.and_then(|own| self.strings.get(own..)).unwrap_or_default(),
        }
    }

    fn string(&self, offset: u32) -> Result<&'a str, Error> {
        let start = self.string_start(offset);
        if start.is_empty() {
            let of_base = self.base.map_or(0, |base| base.strings.len());
            return Err(Error::BtfStringOffset { offset, len: of_base.saturating_add(self.strings.len()) });
        }
        terminated(start)
            .and_then(|name| str::from_utf8(name).ok())
            .ok_or(Error::BtfString { offset, limit: MAX_NAME })
    }
}

impl Record<'_> {
    fn name_is_empty(&self, btf: &Btf<'_>) -> bool {
        btf.string_start(self.name).first() == Some(&0)
    }
}

/// One flattening of one record.
struct Walk<'k> {
    id: TypeId,
    size: u64,
    keep: &'k dyn Fn(&str) -> bool,
    path: String,
    visited: usize,
    members: BTreeMap<String, Field>,
}

/// Says cheaply that a name is not wanted: most of the names of a kernel differ in kind or in their first two bytes.
struct NameFilter {
    kinds: u32,
    starts: Vec<bool>,
}

impl NameFilter {
    fn new<'n>(wanted: impl Iterator<Item = (Kind, &'n [u8])>) -> Self {
        let mut filter = Self { kinds: 0, starts: vec![false; 1 << 16] };
        for (kind, name) in wanted {
            filter.kinds |= 1 << kind as u32;
            // The NUL that ends the name belongs to its start: "a" is wanted as 'a', NUL.
            let first = name.first().copied().unwrap_or(0);
            let second = name.get(1).copied().unwrap_or(0);
            if let Some(start) = filter.starts.get_mut(usize::from(u16::from_le_bytes([first, second]))) {
                *start = true;
            }
        }
        filter
    }

    fn may_match(&self, kind: Kind, name: &[u8]) -> bool {
        if self.kinds & (1 << kind as u32) == 0 {
            return false;
        }
        let first = name.first().copied().unwrap_or(0);
        let second = if first == 0 { 0 } else { name.get(1).copied().unwrap_or(0) };
        self.starts.get(usize::from(u16::from_le_bytes([first, second]))).copied().unwrap_or(false)
    }
}

/// The type section, the string section, and where the later one ends.
fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8], usize), Error> {
    let short = || Error::BtfTooShort { len: bytes.len() };
    let field = |at: usize| le::u32(bytes, at).ok_or_else(short);
    let header: [u8; 4] = le::array(bytes, 0).ok_or_else(short)?;
    let magic = u16::from_le_bytes([header[0], header[1]]);
    if magic != MAGIC {
        return Err(Error::BtfHeader {
            field: "magic",
            value: magic.into(),
            expected: "0xeb9f, little-endian",
        });
    }
    if header[2] != 1 {
        return Err(Error::BtfHeader { field: "version", value: header[2].into(), expected: "1" });
    }
    if header[3] != 0 {
        return Err(Error::BtfHeader { field: "flags", value: header[3].into(), expected: "0" });
    }
    let header_len = field(4)?;
    if header_len < HEADER_LEN {
        return Err(Error::BtfHeader { field: "hdr_len", value: header_len, expected: "at least 24" });
    }
    if bytes.len() < header_len as usize {
        return Err(short());
    }
    let section = |name: &'static str, offset: u32, size: u32| {
        let start = header_len as usize + offset as usize;
        let end = start + size as usize;
        bytes.get(start..end).map(|slice| (slice, end)).ok_or(Error::BtfSection {
            section: name,
            offset,
            size,
            len: bytes.len(),
        })
    };
    let (types, types_end) = section("type", field(8)?, field(12)?)?;
    let (strings, strings_end) = section("string", field(16)?, field(20)?)?;
    Ok((types, strings, types_end.max(strings_end)))
}

fn read_head(id: u32, head: [u8; TYPE_LEN]) -> Result<(u32, Kind, usize), Error> {
    let [name, info, _] = words(head);
    // The reserved bits 16 to 23 and 29 to 30 are part of what an unknown kind is: `BTF_INFO_MASK` of btf.c.
    let number = (info >> 24) & 0x1f;
    match Kind::from_number(number) {
        Some(kind) if info & 0x60ff_0000 == 0 => {
            Ok((name, kind, usize::from(u16::from_le_bytes([head[4], head[5]]))))
        }
        _ => Err(Error::BtfUnknownKind { id, kind: number }),
    }
}

fn words(raw: [u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = raw;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([i, j, k, l])]
}

/// The bytes before the NUL, or `None` when there is none within the longest name: an unbounded search would make a
/// hostile string section cost its length for each type.
fn terminated(bytes: &[u8]) -> Option<&[u8]> {
    let window = bytes.get(..=MAX_NAME).unwrap_or(bytes);
    window.get(..window.iter().position(|&byte| byte == 0)?)
}

/// Where to load a bitfield from: the storage unit of its declared type, or, where that unit does not hold it (packed
/// records), the fewest bytes that do.
pub(crate) fn storage(bit_offset: u64, width: u64, unit: u64, record_size: u64) -> Option<(u64, u64, Bits)> {
    if width == 0 || width > 64 {
        return None;
    }
    let place = |start_bit: u64, size: u64| {
        let shift = bit_offset.checked_sub(start_bit)?;
        let fits = shift + width <= size * 8 && start_bit / 8 + size <= record_size;
        let bits = Bits { shift: u32::try_from(shift).ok()?, width: u32::try_from(width).ok()? };
        fits.then_some((start_bit / 8, size, bits))
    };
    let aligned = match unit {
        1 | 2 | 4 | 8 => place(bit_offset / (unit * 8) * (unit * 8), unit),
        _ => None,
    };
    let bytes = (bit_offset % 8 + width).div_ceil(8);
    aligned.or_else(|| if bytes <= 8 { place(bit_offset / 8 * 8, bytes) } else { None })
}
