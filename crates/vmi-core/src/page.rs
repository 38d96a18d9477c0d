//! One page of guest memory that a backend has mapped: where a read is a load, and asks nobody.
//!
//! The guest goes on writing to it, so there is no reference to its bytes: words are loaded, one by one, and what is loaded is a copy.

use crate::PAGE_SIZE;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a page.
const WORDS: usize = 512;
/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Bytes that a processor fetches at once (of x86-64 and most ARMv8).
pub const LINE: u64 = 64;

const _: () = assert!(size_of::<Page>() as u64 == PAGE_SIZE && align_of::<Page>() == WORD);
const _: () = assert!(PAGE_SIZE / LINE == u64::BITS as u64);

/// The lines, one bit each, of `len` bytes from byte `offset` of a page on, as far as they are in it.
#[inline]
pub(crate) fn lines(offset: u64, len: u64) -> u64 {
    let first = offset % PAGE_SIZE / LINE;
    let last = (offset % PAGE_SIZE).saturating_add(len.saturating_sub(1)).min(PAGE_SIZE - 1) / LINE;
    (u64::MAX << first) & (u64::MAX >> (u64::BITS as u64 - 1 - last))
}

/// 4096 bytes of guest memory that are there to be loaded. A backend makes a reference to one of a page of its mapping, which must be
/// readable, begin at a multiple of 8, and stay for as long as the reference; nothing here ever stores to it.
#[repr(transparent)]
pub struct Page([AtomicU64; WORDS]);

impl Page {
    /// A page of these words, each in the byte order of the machine. For memory that is no mapping.
    #[must_use]
    pub const fn new(words: [AtomicU64; WORDS]) -> Self {
        Self(words)
    }

    /// The eight bytes around byte `offset` of the page that begin at a multiple of eight, of one moment, little-endian. What of `offset` is
    /// beyond the page does not count.
    #[inline]
    #[must_use]
    pub fn word(&self, offset: u64) -> u64 {
        // The lowest nine bits are an index of the array, which the compiler sees.
        let index = usize::try_from(offset / WORD as u64 % WORDS as u64).unwrap_or(0);
        self.0.get(index).map_or(0, |word| u64::from_le(word.load(Ordering::Relaxed)))
    }

    /// Copies bytes from byte `offset` of the page on: words where all of them are wanted, each of one moment. `None`, and some of `out`
    /// written, when they go on beyond its end.
    #[inline]
    #[must_use]
    pub fn copy(&self, offset: usize, out: &mut [u8]) -> Option<()> {
        let words = self.0.get(offset / WORD..)?;
        let mut words = words.iter().map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
        let (begin, mut rest) = (offset % WORD, out);
        if begin > 0 {
            let (head, behind) = rest.split_at_mut(rest.len().min(WORD.saturating_sub(begin)));
            head.copy_from_slice(words.next()?.get(begin..)?.get(..head.len())?);
            rest = behind;
        }
        let (whole, tail) = rest.as_chunks_mut::<WORD>();
        for place in whole {
            *place = words.next()?;
        }
        if !tail.is_empty() {
            tail.copy_from_slice(words.next()?.get(..tail.len())?);
        }
        Some(())
    }

    /// The place of byte `offset`, to have it fetched. What of `offset` is beyond the page does not count.
    #[inline]
    #[must_use]
    pub fn place(&self, offset: u64) -> *const u8 {
        let offset = usize::try_from(offset % PAGE_SIZE).unwrap_or(0);
        self.0.as_ptr().cast::<u8>().wrapping_add(offset)
    }
}

impl fmt::Debug for Page {
    /// Its address only: what a guest has in memory has no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({:p})", self.0.as_ptr())
    }
}

#[cfg(test)]
mod tests {
    use super::{Page, WORDS};
    use std::array;
    use std::sync::atomic::AtomicU64;

    /// A page whose bytes tell where they stand.
    fn page() -> (Page, Vec<u8>) {
        let bytes: Vec<u8> = (0..4096_u32).map(|at| (at * 7 + at / 256).to_le_bytes()[0]).collect();
        let word = |index: usize| u64::from_ne_bytes(*bytes[index * 8..].first_chunk().unwrap());
        (Page::new(array::from_fn::<_, WORDS, _>(|index| AtomicU64::new(word(index)))), bytes)
    }

    #[test]
    fn bytes_come_out_as_they_stand_at_each_alignment_and_length_and_none_of_beyond_the_end() {
        let (page, bytes) = page();
        for offset in (0..40).chain(4050..4100) {
            for len in (0..50).chain([4096]) {
                let mut out = vec![0; len];
                let whole = bytes.get(offset..offset + len);
                let copied = page.copy(offset, &mut out);
                assert_eq!(copied.is_some(), whole.is_some(), "{len} from {offset}");
                assert!(whole.is_none_or(|whole| whole == out), "{len} from {offset}");
            }
        }
    }

    #[test]
    fn a_word_is_the_one_that_a_byte_is_in_whatever_page_the_offset_is_of() {
        let (page, bytes) = page();
        for offset in [0_usize, 5, 8, 4088, 4095] {
            let word = u64::from_le_bytes(*bytes[offset / 8 * 8..].first_chunk().unwrap());
            assert_eq!(page.word(offset as u64), word);
            assert_eq!(page.word((offset + (12345 << 12)) as u64), word);
        }
    }
}
