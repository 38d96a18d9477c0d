//! Remembers, for one look, which pages of a block exist, in chunks of 256 KiB filled on first use.
//!
//! One bit per page and one generation number per chunk. Starting a look is one increment: every chunk is then unknown.
//! Lock-free, because many readers share a guest; two that fill one chunk at once store the same kind of answer twice.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vmi_core::PAGE_SIZE;

/// Bytes of a page, as a length in memory.
pub(crate) const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);
/// Pages of a chunk.
pub(crate) const CHUNK_PAGES: usize = 64;
/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: u64 = CHUNK_PAGES as u64 * PAGE_SIZE;
const WORDS: usize = CHUNK_PAGES / 64;

/// Existence of the pages of one chunk, one bit each, the first page in bit 0 of word 0.
pub(crate) type ChunkBits = [u64; WORDS];

/// See the module.
#[derive(Debug)]
pub(crate) struct Presence {
    generation: AtomicU32,
    known: Box<[AtomicU32]>,
    bits: Box<[AtomicU64]>,
}

impl Presence {
    /// For a block of `bytes` bytes.
    pub(crate) fn new(bytes: u64) -> io::Result<Self> {
        let chunks = usize::try_from(bytes.div_ceil(CHUNK_BYTES)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let words = chunks.checked_mul(WORDS).ok_or(io::ErrorKind::OutOfMemory)?;
        // Zeroed allocations of this size are not touched until used, so a large guest costs what is looked at.
        let known = Box::<[AtomicU32]>::new_zeroed_slice(chunks);
        let bits = Box::<[AtomicU64]>::new_zeroed_slice(words);
        Ok(Self {
            generation: AtomicU32::new(1),
            // SAFETY: all-zero bytes are a valid AtomicU32 (same representation as u32).
            known: unsafe { known.assume_init() },
            // SAFETY: all-zero bytes are a valid AtomicU64 (same representation as u64).
            bits: unsafe { bits.assume_init() },
        })
    }

    /// Forgets everything.
    pub(crate) fn forget(&self) {
        // 0 is the mark of a chunk never filled; after 2^32 looks it is skipped.
        if self.generation.fetch_add(1, Ordering::Relaxed) == u32::MAX {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether page `page` of the block existed when its chunk was first asked about in this look. `fill` finds out about
    /// a chunk, given its number.
    pub(crate) fn exists(
        &self,
        page: usize,
        fill: impl FnOnce(usize) -> io::Result<ChunkBits>,
    ) -> io::Result<bool> {
        let chunk = page / CHUNK_PAGES;
        let word = page / 64;
        let (Some(known), Some(bits)) = (self.known.get(chunk), self.bits.get(word)) else {
            return Ok(false);
        };
        let generation = self.generation.load(Ordering::Relaxed);
        if known.load(Ordering::Acquire) != generation {
            let filled = fill(chunk)?;
            let first = chunk.saturating_mul(WORDS);
            for (slot, value) in self.bits.iter().skip(first).zip(filled) {
                slot.store(value, Ordering::Relaxed);
            }
            known.store(generation, Ordering::Release);
        }
        Ok(bits.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
    }
}

/// Sets the bit of page `index` of a chunk.
pub(crate) fn set(bits: &mut ChunkBits, index: usize) {
    if let Some(word) = bits.get_mut(index / 64) {
        *word |= 1 << (index % 64);
    }
}
