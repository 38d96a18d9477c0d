//! Where members are in the host kernel's structs: just enough of BTF for that (`include/uapi/linux/btf.h`, Linux 6.18).
//!
//! The bytes come from `/sys/kernel/btf`, so from the host's own kernel and not from a guest. They are checked all the same: an
//! offset that is wrong here makes a wrong layout, and a reader that panics ends a daemon. `guest-profiles` has the full reader, for
//! guests; this crate may not depend on it (decision 0029).

use memchr::memmem;

const MAGIC: u16 = 0xeb9f;
const HEAD: usize = 12;
/// Typedefs and qualifiers in a row, anonymous records in one another. Real kernels stay below 10.
const MAX_DEPTH: usize = 32;

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

/// The types of a kernel, and of one of its modules.
#[derive(Debug)]
pub(super) struct Types<'a> {
    sections: Vec<Section<'a>>,
    /// Of each type but the first, which is `void`, which section it is in and where.
    places: Vec<(u8, u32)>,
}

impl<'a> Types<'a> {
    /// `None` when they are of another form.
    pub(super) fn parse(kernel: &'a [u8], module: Option<&'a [u8]>) -> Option<Self> {
        let mut sections = vec![Section::parse(kernel)?];
        if let Some(module) = module {
            sections.push(Section::parse(module)?);
        }
        let mut places = Vec::with_capacity(kernel.len() / 24);
        for (number, section) in (0..).zip(&sections) {
            for record in section.records() {
                places.push((number, u32::try_from(record?.at).ok()?));
            }
        }
        Some(Self { sections, places })
    }

    /// The struct of this name that has members; a module's own before the kernel's.
    pub(super) fn record(&self, name: &str) -> Option<Type> {
        self.named(name, |record| record.kind == STRUCT && record.members > 0)
    }

    /// The function of this name.
    pub(super) fn function(&self, name: &str) -> Option<Type> {
        self.named(name, |record| record.kind == FUNC)
    }

    fn named(&self, name: &str, fits: impl Fn(&Record) -> bool) -> Option<Type> {
        // Each name stands once in all strings, so its offset is as good as itself.
        let offset = self.string(name)?;
        let mut found = None;
        for (index, &(section, at)) in self.places.iter().enumerate() {
            let types = self.sections.get(usize::from(section))?.types;
            if u32_at(types, usize::try_from(at).ok()?) != Some(offset) {
                continue;
            }
            let number = Type(u32::try_from(index).ok()?.checked_add(1)?);
            let first_of_section = found.is_none_or(|(of, _)| of != section);
            if first_of_section && self.head(number).is_some_and(|record| fits(&record)) {
                found = Some((section, number));
            }
        }
        Some(found?.1)
    }

    /// Offset of a name in the strings, those of the module behind the kernel's.
    fn string(&self, name: &str) -> Option<u32> {
        let wanted = [&[0], name.as_bytes(), &[0]].concat();
        let mut before = 0_usize;
        for (number, section) in self.sections.iter().enumerate() {
            // A module's strings do not begin with the empty one.
            let first = number > 0 && section.strings.get(..=name.len()) == wanted.get(1..);
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
        self.member_at_depth(of, self.string(name)?, MAX_DEPTH)
    }

    fn member_at_depth(&self, of: Type, name: u32, depth: usize) -> Option<Member> {
        let of = self.resolved(of)?;
        let record = self.head(of)?;
        if !matches!(record.kind, STRUCT | UNION) {
            return None;
        }
        let depth = depth.checked_sub(1)?;
        (0..record.members).find_map(|index| {
            let at = index.checked_mul(12)?;
            let kind = Type(self.extra(of, at.checked_add(4)?)?);
            let place = self.extra(of, at.checked_add(8)?)?;
            let bits = if record.bitfields { place & 0x00ff_ffff } else { place };
            let offset = u64::from(bits / 8);
            match self.extra(of, at)? {
                found if found == name => Some(Member { offset, kind }),
                0 => {
                    let inner = self.member_at_depth(kind, name, depth)?;
                    Some(Member { offset: offset.checked_add(inner.offset)?, ..inner })
                }
                _ => None,
            }
        })
    }

    /// Looks through typedefs and qualifiers.
    fn resolved(&self, mut of: Type) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
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
