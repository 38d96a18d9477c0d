//! A copy of a piece of a kernel object: many of its members for one read.
//!
//! An object of which a dozen members are wanted costs a dozen reads, each with its translation. Copying the stretch that
//! they lie in costs one, and the members are then also of one moment.

use crate::session::{Session, member};
use smallvec::SmallVec;
use vmi_core::{Gva, ReadError};

/// Longest stretch that is copied, in bytes.
const SPAN_MAX: u64 = 12 << 10;
/// Bytes of a stretch that needs no allocation.
const INLINE: usize = 1024;

/// The bytes of an object from its first wanted member to its last.
#[derive(Debug)]
pub(crate) struct Record {
    at: Gva,
    first: u64,
    bytes: SmallVec<[u8; INLINE]>,
}

/// Where the wanted members of a type lie: offsets of the first byte and of the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    first: u64,
    end: u64,
}

impl Span {
    /// Around members of eight bytes or less at these offsets.
    pub(crate) fn around(offsets: impl IntoIterator<Item = u64>) -> Self {
        let (first, last) = offsets
            .into_iter()
            .fold((u64::MAX, 0), |(first, last), offset| (offset.min(first), offset.max(last)));
        let first = first.min(last);
        Self { first, end: last.saturating_add(8).min(first.saturating_add(SPAN_MAX)) }
    }
}

impl Span {
    /// Has it fetched, of the object at `object`.
    pub(crate) fn expect(self, session: &Session<'_>, object: Gva) {
        session.expect(object, self.first, self.end.saturating_sub(self.first));
    }
}

impl Record {
    /// Copies `span` of the object at `object`.
    pub(crate) fn read(session: &Session<'_>, object: Gva, span: Span) -> Result<Self, ReadError> {
        let len = usize::try_from(span.end.saturating_sub(span.first)).unwrap_or(0);
        let mut bytes = SmallVec::from_elem(0, len);
        session.space.read(member(object, span.first)?, &mut bytes)?;
        Ok(Self { at: object, first: span.first, bytes })
    }

    pub(crate) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], ReadError> {
        let from = offset.checked_sub(self.first).and_then(|from| usize::try_from(from).ok());
        from.and_then(|from| self.bytes.get(from..from.checked_add(N)?))
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(ReadError::NotAnAddress { at: self.at, len: offset })
    }

    /// Four bytes at this offset in the object.
    pub(crate) fn u32(&self, offset: u64) -> Result<u32, ReadError> {
        self.array(offset).map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub(crate) fn u64(&self, offset: u64) -> Result<u64, ReadError> {
        self.array(offset).map(u64::from_le_bytes)
    }

    /// A pointer.
    pub(crate) fn pointer(&self, offset: u64) -> Result<Gva, ReadError> {
        self.u64(offset).map(Gva)
    }
}
