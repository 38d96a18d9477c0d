//! A copy of those parts of a kernel object in which the wanted members lie.
//!
//! An object of which a dozen members are wanted costs a dozen reads, each with its translation. Members that stand near each
//! other are copied together; what lies between others, which may be kilobytes of a ``struct task_struct``, is left where it is:
//! each cache line of it would have to be waited for.

use crate::session::{Session, member};
use smallvec::SmallVec;
use vmi_core::{Gva, ReadError};

/// Most bytes between two members that are copied together: about what one more read costs.
const GAP_MAX: u64 = 96;
/// Most bytes of a copy. No object that is read this way has so many that are wanted; a profile may lie.
const BYTES_MAX: usize = 8192;
/// What a copy is before it is made.
static ZEROS: [u8; BYTES_MAX] = [0; BYTES_MAX];
/// Bytes of a copy that needs no allocation.
const INLINE: usize = 512;

/// The parts of a type in which the wanted members lie, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    parts: SmallVec<[Part; 6]>,
    /// Bytes of all parts.
    len: u64,
}

/// Offsets of the first byte and of the one after the last, and where the first is in the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    first: u64,
    end: u64,
    place: u64,
}

impl Members {
    /// Members of eight bytes or less at these offsets.
    pub(crate) fn at(offsets: impl IntoIterator<Item = u64>) -> Self {
        Self::of(offsets.into_iter().map(|offset| (offset, 8)))
    }

    /// Members at these offsets, of so many bytes.
    pub(crate) fn of(members: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut members: Vec<(u64, u64)> = members.into_iter().collect();
        members.sort_unstable();
        let mut all = Self::default();
        for (offset, len) in members {
            let end = offset.saturating_add(len);
            match all.parts.last_mut() {
                Some(part) if offset <= part.end.saturating_add(GAP_MAX) => part.end = part.end.max(end),
                _ => all.parts.push(Part { first: offset, end, place: 0 }),
            }
        }
        for part in &mut all.parts {
            part.place = all.len;
            all.len = all.len.saturating_add(part.end.saturating_sub(part.first));
        }
        all
    }

    /// Has them fetched, of the object at `object`.
    pub(crate) fn expect(&self, session: &Session<'_>, object: Gva) {
        for part in &self.parts {
            session.expect(object, part.first, part.end.saturating_sub(part.first));
        }
    }
}

/// The bytes of the wanted members of one object.
#[derive(Debug)]
pub(crate) struct Record<'l> {
    at: Gva,
    members: &'l Members,
    bytes: SmallVec<[u8; INLINE]>,
}

impl<'l> Record<'l> {
    /// Of the object at `object`, with none of its bytes yet.
    pub(crate) fn of(object: Gva, members: &'l Members) -> Self {
        Self { at: object, members, bytes: SmallVec::new() }
    }

    /// Copies the members. More bytes than any object has (a profile that lies) are as unreadable as no memory. They are copied to
    /// where they stay.
    pub(crate) fn read(&mut self, session: &Session<'_>) -> Result<(), ReadError> {
        let (object, members) = (self.at, self.members);
        let zeros = usize::try_from(members.len).ok().and_then(|len| ZEROS.get(..len));
        let zeros = zeros.ok_or(ReadError::NotAnAddress { at: object, len: members.len })?;
        self.bytes.clear();
        self.bytes.extend_from_slice(zeros);
        let mut rest = self.bytes.as_mut_slice();
        for part in &members.parts {
            let len = usize::try_from(part.end.saturating_sub(part.first)).unwrap_or(usize::MAX);
            let (now, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(len)
                .ok_or(ReadError::NotAnAddress { at: object, len: part.first })?;
            session.space.read(member(object, part.first)?, now)?;
            rest = later;
        }
        Ok(())
    }

    /// `N` bytes, `offset` bytes into the object. `Err`: they are not among the members.
    pub(crate) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], ReadError> {
        let bytes = || {
            let part = self.members.parts.iter().find(|part| (part.first..part.end).contains(&offset))?;
            let within = offset.checked_sub(part.first)?;
            // A member does not go on in the next part.
            part.end.checked_sub(offset).filter(|left| *left >= N as u64)?;
            let from = usize::try_from(part.place.checked_add(within)?).ok()?;
            self.bytes.get(from..from.checked_add(N)?)?.try_into().ok()
        };
        bytes().ok_or(ReadError::NotAnAddress { at: self.at, len: offset })
    }

    /// One byte.
    pub(crate) fn u8(&self, offset: u64) -> Result<u8, ReadError> {
        Ok(self.array::<1>(offset)?[0])
    }

    /// Two bytes, little-endian.
    pub(crate) fn u16(&self, offset: u64) -> Result<u16, ReadError> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// Four bytes, little-endian.
    pub(crate) fn u32(&self, offset: u64) -> Result<u32, ReadError> {
        self.array(offset).map(u32::from_le_bytes)
    }

    /// Eight bytes, little-endian.
    pub(crate) fn u64(&self, offset: u64) -> Result<u64, ReadError> {
        self.array(offset).map(u64::from_le_bytes)
    }

    /// A pointer.
    pub(crate) fn pointer(&self, offset: u64) -> Result<Gva, ReadError> {
        self.u64(offset).map(Gva)
    }
}

#[cfg(test)]
mod tests {
    use super::{Members, Part};

    #[test]
    fn members_near_each_other_are_one_part_and_what_lies_far_between_is_none() {
        let members = Members::of([(1000, 16), (40, 8), (0, 4), (1012, 4)]);
        let parts = [Part { first: 0, end: 48, place: 0 }, Part { first: 1000, end: 1016, place: 48 }];
        assert_eq!((members.parts.as_slice(), members.len), (parts.as_slice(), 64));
    }

    #[test]
    fn an_offset_at_the_end_of_all_addresses_is_a_part_of_what_is_left() {
        let members = Members::at([u64::MAX - 2]);
        assert_eq!(members.len, 2);
    }
}
