//! A kernel's own type information (BTF), some 6 MiB between two symbols of its image.
//!
//! Where a stored profile gives the layouts, only its digest is wanted: then it goes past in pieces and is never held. Must
//! not be read twice where it is needed whole ([`TypeInformation::bytes`] first, then [`TypeInformation::digest`]).

use super::symbols::span;
use crate::Error;
use guest_profiles::{BtfDigest, btf_digest};
use std::cell::OnceCell;
use vmi_core::{AddressSpace, Gva, PAGE_SIZE, ReadError};

/// Most bytes; Debian 6.12 has about 6 MiB.
const BTF_MAX: u64 = 64 << 20;
/// Bytes of a piece: small enough to stay in a CPU's cache while it is hashed.
const PIECE: u64 = 16 * PAGE_SIZE;

/// Where it is.
pub(super) struct TypeInformation<'s, 'l, 'm> {
    space: &'s AddressSpace<'l, 'm>,
    release: &'s str,
    at: Gva,
    /// Bytes.
    len: u64,
    whole: OnceCell<Vec<u8>>,
}

impl<'s, 'l, 'm> TypeInformation<'s, 'l, 'm> {
    /// `at` tells where a symbol is in the running kernel. `None`: the kernel has none.
    pub(super) fn of(
        space: &'s AddressSpace<'l, 'm>,
        at: &dyn Fn(&str) -> Option<u64>,
        release: &'s str,
    ) -> Option<Self> {
        let (at, len) = span(at, "__start_BTF", "__stop_BTF", BTF_MAX)?;
        Some(Self { space, release, at, len, whole: OnceCell::new() })
    }

    /// All of it, read once.
    pub(super) fn bytes(&self) -> Result<&[u8], Error> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        let whole = self.space.bytes(self.at, len).map_err(|source| self.unreadable(source))?;
        Ok(self.whole.get_or_init(|| whole))
    }

    /// All of it, to keep.
    pub(super) fn into_bytes(self) -> Result<Vec<u8>, Error> {
        self.bytes()?;
        Ok(self.whole.into_inner().unwrap_or_default())
    }

    /// What [`btf_digest`] says of it.
    pub(super) fn digest(&self) -> Result<String, Error> {
        if let Some(whole) = self.whole.get() {
            return Ok(btf_digest(whole));
        }
        let mut digest = BtfDigest::default();
        let mut piece = vec![0; usize::try_from(PIECE.min(self.len)).unwrap_or_default()];
        let mut done = 0;
        while done < self.len {
            let left = usize::try_from(self.len.saturating_sub(done)).unwrap_or(usize::MAX);
            piece.truncate(left);
            // Cannot overflow: the section ends below the top of the address space.
            let at = Gva(self.at.0.saturating_add(done));
            self.space.read(at, &mut piece).map_err(|source| self.unreadable(source))?;
            digest.add(&piece);
            done = done.saturating_add(PIECE);
        }
        Ok(digest.finish())
    }

    fn unreadable(&self, source: ReadError) -> Error {
        Error::Read { what: "type information", release: self.release.to_owned(), source }
    }
}
