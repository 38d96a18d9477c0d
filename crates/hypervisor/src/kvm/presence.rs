//! Remembers which pages of a block exist, in chunks of 128 KiB filled on first use.
//!
//! A chunk is one word: a bit for each of its pages, and the number of the look in which it was filled. Starting a look is one
//! increment: every chunk is then unknown, or where it is known that no page was taken out of the block since (see
//! `removals`), what existed exists, and only the rest is unknown. Lock-free, because many readers share a guest; two that fill one
//! chunk at once store the same kind of answer twice. Chunks are small because a look touches few pages here and there, and each page
//! that is asked about costs.

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
    /// The number of the look.
    generation: AtomicU32,
    /// The first look since which no page was taken out.
    since: AtomicU32,
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
            since: AtomicU32::new(1),
            // SAFETY: all-zero bytes are a valid AtomicU64 (same representation as u64).
            chunks: unsafe { chunks.assume_init() },
        })
    }

    /// Begins a look. `kept`: no page was taken out since the one before; otherwise everything is forgotten. Two looks must not
    /// begin at once.
    pub(crate) fn begin_look(&self, kept: bool) {
        let next = self.generation.load(Ordering::Relaxed).checked_add(1);
        // 0 is the mark of a chunk never filled; after 2^32 looks it is skipped.
        let number = next.unwrap_or(1);
        if next.is_none() || !kept {
            self.since.store(number, Ordering::Relaxed);
        }
        self.generation.store(number, Ordering::Relaxed);
    }

    /// Whether page `page` of the block existed when its chunk was asked about, in this look or one since which pages were only
    /// added. `None`: it was not yet.
    #[inline]
    pub(crate) fn known(&self, page: usize) -> Option<bool> {
        let known = self.chunks.get(page / CHUNK_PAGES)?.load(Ordering::Relaxed);
        let (look, exists) = (known >> ChunkBits::BITS, known >> (page % CHUNK_PAGES) & 1 == 1);
        let generation = u64::from(self.generation.load(Ordering::Relaxed));
        let counts = look == generation
            || exists && (u64::from(self.since.load(Ordering::Relaxed))..generation).contains(&look);
        counts.then_some(exists)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(presence: &Presence, page: usize, bits: ChunkBits) -> (bool, bool) {
        let mut asked = false;
        let exists = presence.exists(page, |_| {
            asked = true;
            Ok(bits)
        });
        (exists.unwrap(), asked)
    }

    #[test]
    fn what_exists_is_asked_again_only_when_pages_were_taken_out_and_what_does_not_in_every_look() {
        let presence = Presence::new(4 * CHUNK_BYTES).unwrap();
        assert_eq!(asked(&presence, 33, 0b10), (true, true));
        assert_eq!(asked(&presence, 33, 0), (true, false));
        assert_eq!(asked(&presence, 32, 0), (false, false));
        presence.begin_look(true);
        assert_eq!(asked(&presence, 33, 0), (true, false));
        assert_eq!(asked(&presence, 32, 0b11), (true, true));
        presence.begin_look(true);
        assert_eq!(presence.known(32), Some(true));
        presence.begin_look(false);
        assert_eq!(presence.known(32), None);
        assert_eq!(asked(&presence, 33, 0b01), (false, true));
        presence.begin_look(true);
        assert_eq!(presence.known(33), None);
        assert_eq!(presence.known(32), Some(true));
        assert_eq!(presence.known(4 * CHUNK_PAGES), None);
    }

    #[test]
    fn after_the_last_number_of_a_look_nothing_is_known() {
        let presence = Presence::new(CHUNK_BYTES).unwrap();
        presence.generation.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(asked(&presence, 0, 1), (true, true));
        presence.begin_look(true);
        assert_eq!(presence.known(0), None);
        assert_eq!(asked(&presence, 0, 1), (true, true));
        presence.begin_look(true);
        assert_eq!(presence.known(0), Some(true));
    }
}
