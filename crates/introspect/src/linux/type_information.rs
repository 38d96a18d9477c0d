//! A kernel's own type information (BTF), some 6 MiB between two symbols of its image.
//!
//! Where a stored profile gives the layouts, only its digest is wanted: then it goes past in pieces and is never held. Must
//! not be read twice where it is needed whole ([`TypeInformation::bytes`] first, then [`TypeInformation::digest`]).

use super::symbols::span;
use crate::Error;
use guest_profiles::{BtfDigest, btf_digest};
use std::cell::OnceCell;
use std::thread::{self, Scope, ScopedJoinHandle};
use vmi_core::{AddressSpace, GuestMemory, Gva, Look, PAGE_SIZE, ReadError};

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

    /// What [`btf_digest`] says of it. `ahead` may have it already.
    pub(super) fn digest(&self, ahead: Option<Ahead>) -> Result<String, Error> {
        if let Some(whole) = self.whole.get() {
            return Ok(btf_digest(whole));
        }
        match ahead.filter(|ahead| (ahead.at, ahead.len) == (self.at, self.len)) {
            Some(ahead) => Ok(ahead.digest),
            None => digest(self.space, self.at, self.len).map_err(|source| self.unreadable(source)),
        }
    }

    fn unreadable(&self, source: ReadError) -> Error {
        Error::Read { what: "type information", release: self.release.to_owned(), source }
    }
}

/// Digest of the type information where a stored profile has it, taken while the symbol table is read that says where it is. It
/// counts only if that says the same place.
pub(super) struct Ahead {
    at: Gva,
    len: u64,
    digest: String,
}

impl Ahead {
    /// Begins it beside the caller, in the address space of `space`. `at` tells where a symbol would be. `None`: it tells nothing,
    /// or there is no thread to be had.
    pub(super) fn begin<'scope, 'm: 'scope>(
        scope: &'scope Scope<'scope, '_>,
        space: &AddressSpace<'_, 'm>,
        at: &dyn Fn(&str) -> Option<u64>,
    ) -> Option<ScopedJoinHandle<'scope, Option<Self>>> {
        let (at, len) = span(at, "__start_BTF", "__stop_BTF", BTF_MAX)?;
        let (memory, budget): (&'m dyn GuestMemory, _) = (space.look().memory(), space.look().budget());
        let (root, levels) = (space.root(), space.levels());
        let take = move || {
            let look = Look::begin(memory, budget).ok()?;
            let digest = digest(&AddressSpace::new(&look, root, levels), at, len).ok()?;
            Some(Self { at, len, digest })
        };
        thread::Builder::new().name("types".to_owned()).spawn_scoped(scope, take).ok()
    }
}

fn digest(space: &AddressSpace<'_, '_>, at: Gva, len: u64) -> Result<String, ReadError> {
    let mut digest = BtfDigest::default();
    let mut piece = vec![0; usize::try_from(PIECE.min(len)).unwrap_or_default()];
    let mut done = 0;
    while done < len {
        let left = usize::try_from(len.saturating_sub(done)).unwrap_or(usize::MAX);
        piece.truncate(left);
        // Cannot overflow: the section ends below the top of the address space.
        space.read(Gva(at.0.saturating_add(done)), &mut piece)?;
        digest.add(&piece);
        done = done.saturating_add(PIECE);
    }
    Ok(digest.finish())
}
