//! Where members are in the host kernel's structs: just enough of BTF for that (`include/uapi/linux/btf.h`, Linux 6.18).
//!
//! The bytes come from `/sys/kernel/btf`, so from the host's own kernel and not from a guest. They are checked all the same: an
//! offset that is wrong here makes a wrong layout, and a reader that panics ends a daemon. `guest-profiles` has the full reader, for
//! guests; this crate may not depend on it (decision 0029).

use memchr::memmem;
use std::collections::BTreeMap;

const MAGIC: u16 = 0xeb9f;
const HEAD: usize = 12;
/// Typedefs and qualifiers in a row. Real kernels stay below 10.
const MAX_CHAIN: usize = 32;
/// Members of a record, those of anonymous ones in it included. Real kernels stay below 500.
const MAX_MEMBERS: usize = 4096;

/// `BTF_KIND_ARRAY`.
const ARRAY: u32 = 3;
/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;
/// `BTF_KIND_UNION`.
const UNION: u32 = 5;
/// `BTF_KIND_FUNC`.
const FUNC: u32 = 12;

/// One section of types, with the strings that are its own.
#[derive(Clone, Copy, Debug)]
struct Section<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Section<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if u16_at(bytes, 0)? != MAGIC || bytes.get(2) != Some(&1) {
            return None;
        }
        let header = u32_at(bytes, 4)?;
        let part = |at: usize| {
            let start = usize::try_from(header.checked_add(u32_at(bytes, at)?)?).ok()?;
            bytes.get(start..start.checked_add(usize::try_from(u32_at(bytes, at.checked_add(4)?)?).ok()?)?)
        };
        Some(Self { types: part(8)?, strings: part(16)? })
    }

    /// Where in the types each record begins, in order. `None` in the place of one that cannot be.
    fn records(self) -> impl Iterator<Item = Option<Record>> {
        let mut at = Some(0);
        std::iter::from_fn(move || {
            let here = at.filter(|&here| here < self.types.len())?;
            // After a kind that is not known nothing can be numbered.
            let record = Record::at(self.types, here).filter(|record| record.end().is_some());
            at = record.and_then(|record| record.end());
            Some(record)
        })
    }
}

/// The head of one type.
#[derive(Clone, Copy, Debug)]
struct Record {
    at: usize,
    name: u32,
    kind: u32,
    members: usize,
    bitfields: bool,
    size_or_type: u32,
}

impl Record {
    fn at(types: &[u8], at: usize) -> Option<Self> {
        let info = u32_at(types, at.checked_add(4)?)?;
        Some(Self {
            at,
            name: u32_at(types, at)?,
            kind: (info >> 24) & 0x1f,
            members: usize::try_from(info & 0xffff).ok()?,
            bitfields: info >> 31 == 1,
            size_or_type: u32_at(types, at.checked_add(8)?)?,
        })
    }

    /// Where the next one begins. `None`: the kind is not known, so neither is its length.
    fn end(&self) -> Option<usize> {
        let extra = match self.kind {
            1 | 14 | 17 => 4,
            ARRAY => 12,
            STRUCT | UNION | 15 | 19 => self.members.checked_mul(12)?,
            6 | 13 => self.members.checked_mul(8)?,
            2 | 7..=12 | 16 | 18 => 0,
            _ => return None,
        };
        self.at.checked_add(HEAD)?.checked_add(extra)
    }
}

/// A type that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type(u32);

impl Type {
    /// Its number, which the kernel knows it by.
    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// A member of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Bytes from the beginning of the struct.
    pub(super) offset: u64,
    /// Its type.
    pub(super) kind: Type,
}

/// What is looked for by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Named {
    /// A struct that has members.
    Record(&'static str),
    /// A function.
    Function(&'static str),
}

impl Named {
    fn name(self) -> &'static str {
        match self {
            Self::Record(name) | Self::Function(name) => name,
        }
    }

    fn is(self, record: &Record) -> bool {
        match self {
            Self::Record(_) => record.kind == STRUCT && record.members > 0,
            Self::Function(_) => record.kind == FUNC,
        }
    }
}

/// The types of a kernel, and of one of its modules.
#[derive(Debug)]
pub(super) struct Types<'a> {
    sections: Vec<Section<'a>>,
    /// Of each type but the first, which is `void`, which section it is in and where.
    places: Vec<(u8, u32)>,
    found: BTreeMap<Named, Type>,
}

impl<'a> Types<'a> {
    /// One pass over all types. `None` when they are of another form. Of several of one name a module's own goes before the kernel's,
    /// and the first before the others.
    pub(super) fn parse(kernel: &'a [u8], module: Option<&'a [u8]>, wanted: &[Named]) -> Option<Self> {
        let mut sections = vec![Section::parse(kernel)?];
        if let Some(module) = module {
            sections.push(Section::parse(module)?);
        }
        let mut types =
            Self { sections, places: Vec::with_capacity(kernel.len() / 24), found: BTreeMap::new() };
        // Each name stands once in all strings, so its offset is as good as itself.
        let wanted: Vec<(u32, Named)> =
            wanted.iter().filter_map(|&wanted| Some((types.string(wanted.name())?, wanted))).collect();
        for (number, section) in (0..).zip(types.sections.clone()) {
            let first = types.places.len();
            for record in section.records() {
                let record = record?;
                types.places.push((number, u32::try_from(record.at).ok()?));
                for (_, named) in
                    wanted.iter().filter(|(name, named)| *name == record.name && named.is(&record))
                {
                    let before = types.found.get(named).and_then(|found| usize::try_from(found.0).ok());
                    if before.is_none_or(|before| before <= first) {
                        types.found.insert(*named, Type(u32::try_from(types.places.len()).ok()?));
                    }
                }
            }
        }
        Some(types)
    }

    /// One of those that were wanted. `None`: there is none.
    pub(super) fn find(&self, named: Named) -> Option<Type> {
        self.found.get(&named).copied()
    }

    /// Offset of a name in the strings, those of the module behind the kernel's.
    fn string(&self, name: &str) -> Option<u32> {
        let wanted = [&[0], name.as_bytes(), &[0]].concat();
        let mut before = 0_usize;
        for section in &self.sections {
            // A module's strings do not begin with the empty one.
            let first =
                section.strings.get(..=name.len()).is_some_and(|start| Some(start) == wanted.get(1..));
            let at = if first {
                Some(0)
            } else {
                memmem::find(section.strings, &wanted).and_then(|at| at.checked_add(1))
            };
            if let Some(at) = at {
                return u32::try_from(before.checked_add(at)?).ok();
            }
            before = before.checked_add(section.strings.len())?;
        }
        None
    }

    /// Whether this is the name at an offset of the strings.
    fn is_called(&self, offset: u32, name: &str) -> bool {
        let mut offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for section in &self.sections {
            if let Some(rest) = section.strings.get(offset..).filter(|rest| !rest.is_empty()) {
                return rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0));
            }
            offset = offset.saturating_sub(section.strings.len());
        }
        false
    }

    fn head(&self, of: Type) -> Option<Record> {
        let index = usize::try_from(of.0.checked_sub(1)?).ok()?;
        let &(section, at) = self.places.get(index)?;
        Record::at(self.sections.get(usize::from(section))?.types, usize::try_from(at).ok()?)
    }

    fn extra(&self, of: Type, offset: usize) -> Option<u32> {
        let index = usize::try_from(of.0.checked_sub(1)?).ok()?;
        let &(section, at) = self.places.get(index)?;
        let at = usize::try_from(at).ok()?.checked_add(HEAD)?.checked_add(offset)?;
        u32_at(self.sections.get(usize::from(section))?.types, at)
    }

    /// Size of a struct in bytes.
    pub(super) fn size(&self, of: Type) -> Option<u64> {
        let record = self.head(self.resolved(of)?)?;
        matches!(record.kind, STRUCT | UNION).then_some(u64::from(record.size_or_type))
    }

    /// How many elements an array has.
    pub(super) fn count(&self, of: Type) -> Option<u64> {
        let of = self.resolved(of)?;
        (self.head(of)?.kind == ARRAY).then(|| self.extra(of, 8).map(u64::from))?
    }

    /// A member of a struct, also of an anonymous record in it. `None`: it has none of that name.
    pub(super) fn member(&self, of: Type, name: &str) -> Option<Member> {
        let mut left = MAX_MEMBERS;
        // Records to be searched, and where they begin.
        let mut records = vec![(of, 0_u64)];
        while let Some((of, start)) = records.pop() {
            let of = self.resolved(of)?;
            let record = self.head(of)?;
            if !matches!(record.kind, STRUCT | UNION) {
                continue;
            }
            for index in 0..record.members {
                left = left.checked_sub(1)?;
                let at = index.checked_mul(12)?;
                let kind = Type(self.extra(of, at.checked_add(4)?)?);
                let place = self.extra(of, at.checked_add(8)?)?;
                let bits = if record.bitfields { place & 0x00ff_ffff } else { place };
                let offset = start.checked_add(u64::from(bits / 8))?;
                match self.extra(of, at)? {
                    0 => records.push((kind, offset)),
                    found if self.is_called(found, name) => return Some(Member { offset, kind }),
                    _ => {}
                }
            }
        }
        None
    }

    /// Looks through typedefs and qualifiers.
    fn resolved(&self, mut of: Type) -> Option<Type> {
        for _ in 0..MAX_CHAIN {
            let record = self.head(of)?;
            match record.kind {
                8..=11 | 18 => of = Type(record.size_or_type),
                _ => return Some(of),
            }
        }
        None
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::slots::program::Places;
    use crate::kvm::slots::walk::Offsets;
    use guest_profiles::btf::{Btf, Kind};
    use proptest::prelude::*;
    use std::fs;

    /// `/sys/kernel/btf` of this machine: the kernel's, and KVM's where that is a module. `None`: this kernel has no types, so there is
    /// nothing to compare.
    fn here() -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        Some((fs::read("/sys/kernel/btf/vmlinux").ok()?, fs::read("/sys/kernel/btf/kvm").ok()))
    }

    #[test]
    fn offsets_are_those_of_the_full_reader() {
        let Some((kernel, module)) = here() else { return };
        let wanted: Vec<Named> = Places::TYPES.into_iter().chain(Offsets::TYPES).collect();
        let types = Types::parse(&kernel, module.as_deref(), &wanted).unwrap();
        let base = Btf::parse(&kernel).unwrap();
        let full = match &module {
            Some(module) => &Btf::parse_split(&base, module).unwrap(),
            None => &base,
        };
        let mut compared = 0;
        for named in wanted {
            let kind = if matches!(named, Named::Function(_)) { Kind::Func } else { Kind::Struct };
            let found = full.find(kind, named.name()).unwrap();
            assert_eq!(types.find(named).map(Type::number), found.map(|id| id.number()), "{named:?}");
            let Some(id) = found.filter(|_| kind == Kind::Struct) else { continue };
            let layout = full.layout(id, &|path| !path.contains('.')).unwrap();
            let own = types.find(named).unwrap();
            assert_eq!(types.size(own), Some(layout.size), "{named:?}");
            for (path, field) in layout.members.iter().filter(|(_, field)| field.bits.is_none()) {
                assert_eq!(types.member(own, path).map(|member| member.offset), Some(field.offset), "{path}");
                compared += 1;
            }
        }
        assert!(compared > 100, "{compared}");
    }

    #[test]
    fn types_that_end_early_or_are_no_types_are_refused() {
        let Some((kernel, _)) = here() else { return };
        assert!(Types::parse(b"", None, &[]).is_none());
        assert!(Types::parse(&kernel[..kernel.len() / 2], None, &[]).is_none());
        assert!(Types::parse(&kernel, Some(b"no types"), &[]).is_none());
    }

    proptest! {
        #[test]
        fn whatever_the_types_are_they_are_read_without_a_panic(
            words in proptest::collection::vec(prop_oneof![any::<u32>(), 0..64_u32, (0..20_u32).prop_map(|kind| kind << 24 | 2)], 0..64)
        ) {
            let types: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let strings = b"\0kvm\0file\0memslots\0";
            let len = u32::try_from(types.len()).unwrap();
            let header = [0x0001_eb9f, 24, 0, len, len, u32::try_from(strings.len()).unwrap()];
            let mut bytes: Vec<u8> = header.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
            bytes.extend(types);
            bytes.extend(strings);
            let wanted = [Named::Record("kvm"), Named::Record("file")];
            if let Some(types) = Types::parse(&bytes, Some(&bytes), &wanted) {
                for named in wanted {
                    let Some(found) = types.find(named) else { continue };
                    let member = types.member(found, "memslots");
                    let _ = (types.size(found), member.and_then(|member| types.count(member.kind)));
                }
            }
        }
    }
}
