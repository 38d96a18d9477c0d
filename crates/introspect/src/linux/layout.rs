//! Offsets that walkers use, resolved once per kernel.
//!
//! A walker names what it needs in one struct of plain offsets; resolving collects *everything* that is missing, so that
//! an unsupported kernel is reported with the whole list and not one member at a time.

use guest_profiles::Profile;

/// One bit of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// Of its byte.
    pub(crate) offset: u64,
    pub(crate) mask: u8,
}

impl Flag {
    /// Whether its byte, which is at `offset`, has it.
    pub(crate) fn is_in(self, byte: u8) -> bool {
        byte & self.mask != 0
    }
}

/// Resolves members and remembers which were missing.
#[derive(Debug)]
pub(crate) struct Resolver<'p> {
    profile: &'p Profile,
    missing: Vec<String>,
}

impl<'p> Resolver<'p> {
    pub(crate) fn new(profile: &'p Profile) -> Self {
        Self { profile, missing: Vec::new() }
    }

    pub(crate) fn profile(&self) -> &'p Profile {
        self.profile
    }

    /// Offset in bytes of `path` (dotted through embedded structs) in `struct name`. Missing: noted, and 0.
    pub(crate) fn offset(&mut self, name: &str, path: &str) -> u64 {
        if let Ok(field) = self.profile.field(name, path) {
            field.offset
        } else {
            self.lacks(format!("{name}.{path}"));
            0
        }
    }

    /// The same for a member that not every kernel has.
    pub(crate) fn optional(&self, name: &str, path: &str) -> Option<u64> {
        self.profile.field(name, path).ok().map(|field| field.offset)
    }

    /// Where a bitfield of one bit is that not every kernel has.
    pub(crate) fn flag(&self, name: &str, path: &str) -> Option<Flag> {
        let field = self.profile.field(name, path).ok()?;
        let bits = field.bits.filter(|bits| bits.width == 1 && bits.shift < 64)?;
        // One byte is enough, wherever the storage of the bitfield begins.
        let offset = field.offset.checked_add(u64::from(bits.shift / 8))?;
        Some(Flag { offset, mask: 1 << (bits.shift % 8) })
    }

    /// Where the lowest bit of a bitfield, or of an integer that is none, is `bits` above the first. Missing: noted.
    pub(crate) fn bit_of(&mut self, name: &str, path: &str, above: u32) -> Flag {
        let place = self.profile.field(name, path).ok().and_then(|field| {
            let (shift, width) = match field.bits {
                Some(bits) => (bits.shift, u64::from(bits.width)),
                None => (0, field.size.checked_mul(8)?),
            };
            let bit = shift.checked_add(above).filter(|bit| *bit < 64 && u64::from(above) < width)?;
            Some(Flag { offset: field.offset.checked_add(u64::from(bit / 8))?, mask: 1 << (bit % 8) })
        });
        place.unwrap_or_else(|| {
            self.lacks(format!("{name}.{path} with {above} bits"));
            Flag { offset: 0, mask: 0 }
        })
    }

    /// The first of several names that the kernel has.
    pub(crate) fn first_of(&mut self, name: &str, paths: &[&str]) -> u64 {
        if let Some(offset) = paths.iter().find_map(|path| self.optional(name, path)) {
            return offset;
        }
        self.lacks(format!("{name}.{}", paths.join("|")));
        0
    }

    /// Size of a type in bytes. Missing: noted, and 0.
    pub(crate) fn size(&mut self, name: &str) -> u64 {
        if let Ok(size) = self.profile.size(name) {
            size
        } else {
            self.lacks(format!("struct {name}"));
            0
        }
    }

    /// Notes that something is missing.
    pub(crate) fn lacks(&mut self, what: String) {
        self.missing.push(what);
    }

    pub(crate) fn into_missing(self) -> Vec<String> {
        self.missing
    }
}
