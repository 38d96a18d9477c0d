//! Remembers, for one look, which pages of a block exist, in chunks of 128 KiB filled on first use.
//!
//! A chunk is one word: a bit for each of its pages, and the number of the look in which it was filled. Starting a look is one
//! increment: every chunk is then unknown. Lock-free, because many readers share a guest; two that fill one chunk at once
//! store the same kind of answer twice. Chunks are small because a look touches few pages here and there, and each page that
//! is asked about costs.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vmi_core::PAGE_SIZE;

/// Bytes of a page, as a length in memory.
pub(crate) const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);
/// Pages of a chunk.
pub(crate) const CHUNK_PAGES: usize = 32;
/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: u64 = CHUNK_PAGES as u64 * PAGE_SIZE;

/// Existence of the pages of one chunk, one bit each, the first page in bit 0.
pub(crate) type ChunkBits = u32;

/// See the module.
#[derive(Debug)]
pub(crate) struct Presence {
    generation: AtomicU32,
    /// The generation in the upper half, [`ChunkBits`] in the lower.
    chunks: Box<[AtomicU64]>,
}

impl Presence {
    /// For a block of `bytes` bytes.
    pub(crate) fn new(bytes: u64) -> io::Result<Self> {
        let count = usize::try_from(bytes.div_ceil(CHUNK_BYTES)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // A zeroed allocation of this size is not touched until used, so a large guest costs what is looked at.
        let chunks = Box::<[AtomicU64]>::new_zeroed_slice(count);
        Ok(Self {
            generation: AtomicU32::new(1),
            // SAFETY: all-zero bytes are a valid AtomicU64 (same representation as u64).
            chunks: unsafe { chunks.assume_init() },
        })
    }

    /// Forgets everything.
    pub(crate) fn forget(&self) {
        // 0 is the mark of a chunk never filled; after 2^32 looks it is skipped.
        if self.generation.fetch_add(1, Ordering::Relaxed) == u32::MAX {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether page `page` of the block existed when its chunk was first asked about in this look. `None`: it was not yet.
    #[inline]
    pub(crate) fn known(&self, page: usize) -> Option<bool> {
        let known = self.chunks.get(page / CHUNK_PAGES)?.load(Ordering::Relaxed);
        let generation = self.generation.load(Ordering::Relaxed);
        (known >> ChunkBits::BITS == u64::from(generation)).then_some(known >> (page % CHUNK_PAGES) & 1 == 1)
    }

    /// The same. `fill` finds out about a chunk, given its number, if nobody has asked about it.
    pub(crate) fn exists(
        &self,
        page: usize,
        fill: impl FnOnce(usize) -> io::Result<ChunkBits>,
    ) -> io::Result<bool> {
        if let Some(known) = self.known(page) {
            return Ok(known);
        }
        let chunk = page / CHUNK_PAGES;
        let Some(slot) = self.chunks.get(chunk) else { return Ok(false) };
        let generation = u64::from(self.generation.load(Ordering::Relaxed));
        let found = generation << ChunkBits::BITS | u64::from(fill(chunk)?);
        slot.store(found, Ordering::Relaxed);
        Ok(found >> (page % CHUNK_PAGES) & 1 == 1)
    }
}

/// Sets the bit of page `index` of a chunk.
pub(crate) fn set(bits: &mut ChunkBits, index: usize) {
    if index < CHUNK_PAGES {
        *bits |= 1 << index;
    }
}
