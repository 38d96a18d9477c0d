//! The first bytes of a kernel object, copied in one read.
//!
//! An object that is decoded from one copy costs one translation instead of one per member, and its members are of one
//! moment, or nearly.

use crate::session::Session;
use smallvec::SmallVec;
use vmi_core::{Gva, ReadError};

/// Most bytes of one copy: no object that is read this way is larger.
const BYTES_MAX: u64 = 8192;

/// Bytes of a copy that needs no allocation: a ``struct file``, as far as it is read, and what is smaller.
const INLINE: usize = 256;

/// A copy of the bytes from `at`.
#[derive(Debug)]
pub(super) struct Object {
    at: Gva,
    bytes: SmallVec<[u8; INLINE]>,
}

impl Object {
    /// Copies `len` bytes from `at`. A length that no object has (a profile that lies) is as unreadable as no memory.
    #[inline]
    pub(super) fn read(session: &Session<'_>, at: Gva, len: u64) -> Result<Self, ReadError> {
        let bounded = usize::try_from(len).ok().filter(|_| len <= BYTES_MAX);
        let len = bounded.ok_or(ReadError::NotAnAddress { at, len })?;
        let mut bytes = SmallVec::from_elem(0, len);
        session.space.read(at, &mut bytes)?;
        Ok(Self { at, bytes })
    }

    /// `N` bytes, `offset` bytes into the object. `Err` past the end of the copy.
    pub(super) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], ReadError> {
        usize::try_from(offset)
            .ok()
            .and_then(|from| self.bytes.get(from..from.checked_add(N)?))
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(ReadError::NotAnAddress { at: self.at, len: offset })
    }

    /// Four bytes, little-endian.
    pub(super) fn u32(&self, offset: u64) -> Result<u32, ReadError> {
        Ok(u32::from_le_bytes(self.array(offset)?))
    }

    /// Eight bytes, little-endian.
    pub(super) fn u64(&self, offset: u64) -> Result<u64, ReadError> {
        Ok(u64::from_le_bytes(self.array(offset)?))
    }

    /// A pointer.
    pub(super) fn pointer(&self, offset: u64) -> Result<Gva, ReadError> {
        Ok(Gva(self.u64(offset)?))
    }
}

/// How many bytes must be copied so that all members at `offsets` (of 16 bytes at most each) are in the copy.
pub(super) fn span(offsets: &[u64]) -> u64 {
    offsets.iter().copied().max().unwrap_or(0).saturating_add(16)
}
