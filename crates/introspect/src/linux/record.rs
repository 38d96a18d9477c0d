//! A copy of those words of a kernel object in which the wanted members lie.
//!
//! An object of which a dozen members are wanted costs a dozen reads, each with its translation. Here it is looked up once, and the words
//! with wanted members in them are loaded one after the other; what lies between, which may be kilobytes of a ``struct task_struct``, is
//! left where it is: each cache line of it would have to be waited for. A member is loaded once, however often it is asked for: what a guest
//! makes of it meanwhile is not seen twice.

use crate::session::{Session, member};
use vmi_core::{Gva, LINE, PAGE_SIZE, ReadError};

/// Bytes of a word.
const WORD_LEN: usize = size_of::<u64>();
const WORD: u64 = WORD_LEN as u64;
/// Most words of a record. No object that is read this way has more with wanted members in them.
const WORDS_MAX: usize = 32;
/// Bytes of the largest object. A profile may lie.
const OBJECT_MAX: u64 = 64 << 10;
/// Most bytes between two words that are copied together where memory gives no words: about what one more read costs.
const GAP_MAX: u64 = 96;
/// Most bytes that are copied together.
const RUN_MAX: usize = 512;
/// Where a word stands that is not wanted.
const NOWHERE: u8 = u8::MAX;

const _: () = assert!(WORDS_MAX < NOWHERE as usize);

/// The words of a type in which the wanted members lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Offset of each, ascending.
    words: Vec<u64>,
    /// Where each word of the type stands in `words`, or [`NOWHERE`].
    places: Vec<u8>,
    /// How many of `words`, from the first on, are near each other, and then of the rest.
    runs: Vec<usize>,
    /// Lines in which they lie, of an object that begins with a line: the first page of it, and so on.
    lines: Vec<u64>,
}

impl Members {
    /// Members of eight bytes or less at these offsets.
    pub(crate) fn at(offsets: impl IntoIterator<Item = u64>) -> Self {
        Self::of(offsets.into_iter().map(|offset| (offset, WORD)))
    }

    /// Members at these offsets, of so many bytes. What lies beyond the largest object that there is (a profile that lies) is not among them.
    pub(crate) fn of(members: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut words = Vec::new();
        for (offset, len) in members {
            let end = offset.saturating_add(len).min(OBJECT_MAX);
            words.extend((offset / WORD * WORD..end).step_by(WORD_LEN));
        }
        words.sort_unstable();
        words.dedup();
        words.truncate(WORDS_MAX);
        let mut all = Self::default();
        for (place, offset) in (0..).zip(&words) {
            let index = |of: u64| usize::try_from(offset / of).unwrap_or(usize::MAX);
            all.places.resize(index(WORD), NOWHERE);
            all.places.push(place);
            all.lines.resize(index(PAGE_SIZE).saturating_add(1), 0);
            if let Some(lines) = all.lines.last_mut() {
                *lines |= 1 << (offset % PAGE_SIZE / LINE);
            }
        }
        let mut first = words.first().copied().unwrap_or_default();
        let runs = words.chunk_by(|word, next| {
            let is_near =
                next.saturating_sub(*word) <= GAP_MAX && next.saturating_sub(first) < RUN_MAX as u64;
            first = if is_near { first } else { *next };
            is_near
        });
        all.runs = runs.map(<[u64]>::len).collect();
        Self { words, ..all }
    }

    /// Has them fetched, of the object at `object`.
    pub(crate) fn expect(&self, session: &Session<'_>, object: Gva) {
        // Nearly all objects of the kernel begin with a line.
        if object.0.is_multiple_of(LINE) {
            for (page, lines) in (0..).zip(&self.lines) {
                if let Some(at) = object.element(page, PAGE_SIZE) {
                    session.space.expect_lines(at, *lines);
                }
            }
        } else {
            self.words.iter().for_each(|offset| session.expect(object, *offset, WORD));
        }
    }
}

/// The words with the wanted members of one object.
#[derive(Debug)]
pub(crate) struct Record<'l> {
    at: Gva,
    members: &'l Members,
    words: [u64; WORDS_MAX],
}

impl<'l> Record<'l> {
    /// Of the object at `object`, with none of its members yet.
    #[inline]
    pub(crate) fn of(object: Gva, members: &'l Members) -> Self {
        Self { at: object, members, words: [0; WORDS_MAX] }
    }

    /// Copies the members to where they stay.
    #[inline]
    pub(crate) fn read(&mut self, session: &Session<'_>) -> Result<(), ReadError> {
        match session.space.words(self.at, &self.members.words, &mut self.words) {
            Some(()) => Ok(()),
            None => self.read_runs(session),
        }
    }

    /// The same of memory that gives no words.
    #[inline(never)]
    fn read_runs(&mut self, session: &Session<'_>) -> Result<(), ReadError> {
        let (mut offsets, mut words) = (self.members.words.as_slice(), self.words.iter_mut());
        for count in &self.members.runs {
            let Some((run, rest)) = offsets.split_at_checked(*count) else { break };
            let (Some(first), Some(last)) = (run.first(), run.last()) else { break };
            let len = last.saturating_sub(*first).saturating_add(WORD);
            let mut bytes = [0; RUN_MAX + WORD_LEN];
            let bytes = usize::try_from(len).ok().and_then(|len| bytes.get_mut(..len)).unwrap_or_default();
            session.space.read(member(self.at, *first)?, bytes)?;
            for (offset, word) in run.iter().zip(&mut words) {
                let within = usize::try_from(offset.saturating_sub(*first)).unwrap_or(usize::MAX);
                let copied = bytes.get(within..).and_then(|bytes| bytes.first_chunk());
                *word = copied.map_or(0, |copied| u64::from_le_bytes(*copied));
            }
            offsets = rest;
        }
        Ok(())
    }

    /// The word that byte `offset` of the object is in. `None`: it is not wanted.
    #[inline]
    fn word(&self, offset: u64) -> Option<u64> {
        let place = self.members.places.get(usize::try_from(offset / WORD).ok()?)?;
        self.words.get(usize::from(*place)).copied()
    }

    /// `N` bytes, `offset` bytes into the object. `Err`: they are not among the members.
    #[inline]
    pub(crate) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], ReadError> {
        let within = offset % WORD;
        let bytes = if within.saturating_add(N as u64) <= WORD {
            let word = self.word(offset).map(|word| (word >> within.saturating_mul(8)).to_le_bytes());
            word.and_then(|bytes| bytes.first_chunk().copied())
        } else {
            self.array_of_words(offset)
        };
        bytes.ok_or(ReadError::NotAnAddress { at: self.at, len: offset })
    }

    /// The same of bytes of more than one word.
    fn array_of_words<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (at, byte) in (offset..).zip(&mut bytes) {
            let word = self.word(at)?.to_le_bytes();
            *byte = *word.get(usize::try_from(at % WORD).ok()?)?;
        }
        Some(bytes)
    }

    /// One byte.
    #[inline]
    pub(crate) fn u8(&self, offset: u64) -> Result<u8, ReadError> {
        Ok(self.array::<1>(offset)?[0])
    }

    /// Two bytes, little-endian.
    #[inline]
    pub(crate) fn u16(&self, offset: u64) -> Result<u16, ReadError> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// Four bytes, little-endian.
    #[inline]
    pub(crate) fn u32(&self, offset: u64) -> Result<u32, ReadError> {
        self.array(offset).map(u32::from_le_bytes)
    }

    /// Eight bytes, little-endian.
    #[inline]
    pub(crate) fn u64(&self, offset: u64) -> Result<u64, ReadError> {
        self.array(offset).map(u64::from_le_bytes)
    }

    /// A pointer.
    #[inline]
    pub(crate) fn pointer(&self, offset: u64) -> Result<Gva, ReadError> {
        self.u64(offset).map(Gva)
    }
}

#[cfg(test)]
mod tests {
    use super::{Members, NOWHERE, OBJECT_MAX, WORDS_MAX};

    #[test]
    fn members_near_each_other_are_one_run_and_what_lies_far_between_is_none() {
        let members = Members::of([(1000, 16), (40, 8), (0, 4), (1012, 4)]);
        assert_eq!((members.words, members.runs), (vec![0, 40, 1000, 1008], vec![2, 2]));
        assert_eq!((members.places[0], members.places[5], members.places[126]), (0, 1, 3));
        assert_eq!((members.places[1], members.places.len()), (NOWHERE, 127));
    }

    #[test]
    fn a_run_is_no_longer_than_what_is_copied_at_once() {
        let members = Members::at((0..20).map(|number| number * 96));
        assert_eq!(members.runs, [6, 6, 6, 2]);
    }

    #[test]
    fn lines_are_those_that_members_lie_in_page_by_page() {
        let members = Members::at([0, 63, 130, 4096, 3 * 4096 - 8]);
        assert_eq!(members.lines, [0b111, 1, 1 << 63]);
    }

    #[test]
    fn members_beyond_all_objects_and_more_of_them_than_there_is_room_for_are_not_known() {
        assert_eq!(Members::at([OBJECT_MAX, u64::MAX - 2, u64::MAX]), Members::default());
        assert_eq!(Members::at((0..100).map(|number| number * 16)).words.len(), WORDS_MAX);
    }
}
