//! Finds the symbol table in a kernel image, with nothing known but the image's bytes.
//!
//! A kernel of 6.0 or later says in VMCOREINFO where its tables are; for older ones, and for a kernel file, they are looked
//! for. Nothing about them is announced, but they prove each other: the digits `0` to `9` stand for themselves among the 256
//! tokens, the token index has the offsets of just these tokens, the markers have the offset of each 256th name, and the
//! number of symbols stands before the names (`scripts/kallsyms.c` of Linux 4.20 to 7.2; the idea of starting from the digits is
//! vmlinux-to-elf's). Where the addresses are depends on the version; all places are candidates, and
//! [`crate::Kallsyms::new`] takes the one that has `_stext` where it is known to be.
//!
//! The image comes from a guest or a file that somebody made: every step is checked and bounded, and nothing may panic.

use crate::kallsyms::{Tables, Values};
use crate::{Error, le};
use memchr::memmem;
use std::ops::Range;

/// Tokens for the characters `0` to `9`, as they stand in the token table.
const DIGITS: &[u8; 20] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// Tokens before that of the character `0`.
const BEFORE_DIGITS: usize = b'0' as usize;
const TOKENS: usize = 256;
/// Bytes of the token index.
const INDEX: usize = 2 * TOKENS;
/// Longest token table in bytes: 256 tokens of the longest name.
pub const TOKENS_MAX: usize = TOKENS * 512;
/// Bytes that [`digits`] looks for.
pub const DIGITS_LEN: u64 = DIGITS.len() as u64;
/// Longest first token, with padding before it.
const FIRST_MAX: usize = 1024;
/// Alignments that may lie between two tables, in bytes.
const PADDING: usize = 8;
/// Distance behind the token table in which the index is looked for.
const INDEX_WITHIN: usize = 64;
/// Names between two markers.
const STRIDE: u32 = 256;
/// Most bytes of 256 names: 256 times the longest, compressed to itself.
const STRIDE_BYTES: usize = 256 * 514;
/// Most symbols; Debian 7.2 has 190,000.
const SYMBOLS_MAX: u32 = 1 << 20;
/// Places that have the digits and are looked into.
pub const CANDIDATES_MAX: usize = 64;

/// Where the tables are, as ranges of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Virtual address of the image's first byte.
    address: u64,
    /// Number of symbols.
    num_syms: u32,
    /// Where that number stands; before 6.4 the addresses are before it.
    num_syms_at: usize,
    names: Range<usize>,
    token_table: Range<usize>,
    token_index: Range<usize>,
}

/// Where in a piece of an image the tokens for digits stand: each may be in a token table. For whoever reads an image in pieces.
pub fn digits(piece: &[u8]) -> impl Iterator<Item = usize> {
    memmem::find_iter(piece, DIGITS)
}

/// Whether the digits at `digits` are in a token table, proved by the index behind it. `piece` has [`TOKENS_MAX`] bytes and the
/// index on either side of them, or what the image has of that.
pub fn is_token_table(piece: &[u8], digits: usize) -> bool {
    tokens(piece, digits).is_some()
}

/// Looks for the tables in `image`, whose first byte is at the virtual address `address`.
pub fn search(image: &[u8], address: u64) -> Result<Found, Error> {
    memmem::find_iter(image, DIGITS)
        .take(CANDIDATES_MAX)
        .find_map(|digits| found_at(image, address, digits))
        .ok_or(Error::KallsymsNotFound { len: image.len() })
}

impl Found {
    /// The tables with each place that the addresses may be in.
    pub fn tables<'a>(&self, image: &'a [u8]) -> Vec<Tables<'a>> {
        let count = usize::try_from(self.num_syms).unwrap_or(usize::MAX);
        // Without padding: where tables are aligned to eight bytes (before 7.0) this one ends so, and where they are aligned to
        // four nothing is between them.
        let after = self.token_index.end;
        let offsets_len = count.saturating_mul(4);
        let base_behind = |offsets: usize| {
            le::u64(image, offsets.checked_add(offsets_len)?.checked_next_multiple_of(PADDING)?)
        };
        let before = |len: usize| self.num_syms_at.checked_sub(len);
        let offsets = |start: usize, relative_base: Option<u64>| {
            Some(Values::Offsets {
                bytes: image.get(start..start.checked_add(offsets_len)?)?,
                address: self.address.wrapping_add(start as u64),
                relative_base,
            })
        };
        let addresses =
            |start: usize| image.get(start..start.checked_add(count.checked_mul(8)?)?).map(Values::Addresses);
        let values = [
            // 6.4 and later: behind the token index; since 7.0 no base follows, and whatever is read there is not used.
            offsets(after, base_behind(after)),
            // Before 6.4: offsets, base, number of symbols.
            before(offsets_len.saturating_add(8).next_multiple_of(PADDING))
                .and_then(|start| offsets(start, base_behind(start))),
            before(count.saturating_mul(8)).and_then(addresses),
            addresses(after),
        ];
        let part = |range: &Range<usize>| image.get(range.clone()).unwrap_or_default();
        values
            .into_iter()
            .flatten()
            .map(|values| Tables {
                num_syms: self.num_syms,
                names: part(&self.names),
                token_table: part(&self.token_table),
                token_index: part(&self.token_index),
                values,
            })
            .collect()
    }
}

fn found_at(image: &[u8], address: u64, digits: usize) -> Option<Found> {
    let (token_table, token_index) = tokens(image, digits)?;
    let (num_syms, num_syms_at, names) = Markers::before(image, token_table.start).find_map(names)?;
    Some(Found { address, num_syms, num_syms_at, names, token_table, token_index })
}

/// The token table around its digits, and the index that has the offsets of just these tokens.
fn tokens(image: &[u8], digits: usize) -> Option<(Range<usize>, Range<usize>)> {
    let lowest = digits.saturating_sub(TOKENS_MAX);
    let head = image.get(lowest..digits)?;
    // Each token ends with a NUL. The first one starts behind the NUL before it, or behind padding that follows no NUL.
    let mut ends = head.iter().enumerate().rev().filter(|(_, byte)| **byte == 0).map(|(at, _)| at);
    let first_end = ends.nth(BEFORE_DIGITS - 1)?;
    let earliest = ends.next().map_or(0, |end| end + 1).max(first_end.saturating_sub(FIRST_MAX));
    (earliest..=first_end)
        .map(|start| lowest + start)
        .filter(|start| start.is_multiple_of(4))
        .find_map(|start| with_index(image, start))
}

/// The table that starts at `start`, if an index of it follows.
fn with_index(image: &[u8], start: usize) -> Option<(Range<usize>, Range<usize>)> {
    let mut expected = Vec::with_capacity(INDEX);
    let mut at = start;
    for _ in 0..TOKENS {
        expected.extend_from_slice(&u16::try_from(at - start).ok()?.to_le_bytes());
        let token = image.get(at..image.len().min(at.checked_add(TOKENS_MAX)?))?;
        at = at.checked_add(token.iter().position(|byte| *byte == 0)?)?.checked_add(1)?;
    }
    (at..at.checked_add(INDEX_WITHIN)?)
        .filter(|index| index.is_multiple_of(4))
        .map(|index| index..index.saturating_add(INDEX))
        .find(|index| image.get(index.clone()) == Some(&expected))
        .map(|index| (start..at, index))
}

/// An array of markers: the offset of each 256th name.
#[derive(Clone, Copy)]
struct Markers<'i> {
    image: &'i [u8],
    start: usize,
    /// Bytes of one: `unsigned int` since 4.20, `unsigned long` before.
    size: usize,
    count: usize,
}

impl<'i> Markers<'i> {
    /// Runs of numbers before the token table that ascend from zero as markers do. Between the markers and the token table
    /// there is padding or, in 6.2 and 6.3 and in stable kernels that took it over, ``kallsyms_seqs_of_names`` with three
    /// bytes for each symbol: whether that fits the number of markers is checked too. One pass.
    fn before(image: &'i [u8], token_table: usize) -> impl Iterator<Item = Self> {
        let lowest = token_table.saturating_sub(4 * SYMBOLS_MAX as usize).next_multiple_of(8);
        [4, 8].into_iter().flat_map(move |size| {
            let mut at = lowest;
            std::iter::from_fn(move || {
                while at < token_table {
                    let mut run = Self { image, start: at, size, count: 1 };
                    if run.get(0) == Some(0) {
                        while run.start + run.count * size < token_table && run.goes_on() {
                            run.count += 1;
                        }
                    }
                    at += run.count * size;
                    if run.count > 1 {
                        return Some(run);
                    }
                }
                None
            })
            // What follows the last marker may look like one more.
            .flat_map(|run| (0..3).map(move |less| Self { count: run.count.saturating_sub(less), ..run }))
            .filter(move |run| run.count > 1 && run.fits_before(token_table))
        })
    }

    fn get(&self, index: usize) -> Option<u64> {
        let at = self.start.checked_add(index.checked_mul(self.size)?)?;
        if self.size == 4 { le::u32(self.image, at).map(u64::from) } else { le::u64(self.image, at) }
    }

    /// Whether what follows could be the next marker.
    fn goes_on(&self) -> bool {
        let step = self
            .get(self.count - 1)
            .zip(self.get(self.count))
            .and_then(|(last, next)| next.checked_sub(last));
        step.is_some_and(|step| (u64::from(STRIDE)..=STRIDE_BYTES as u64).contains(&step))
    }

    fn fits_before(&self, token_table: usize) -> bool {
        let per_stride = 3 * STRIDE as usize;
        let gap = token_table.saturating_sub(self.start + self.count * self.size);
        gap < PADDING || (per_stride * (self.count - 1)..per_stride * self.count + PADDING).contains(&gap)
    }
}

/// The names that the markers mark, and their number, which stands before them.
fn names(markers: Markers<'_>) -> Option<(u32, usize, Range<usize>)> {
    let image = markers.image;
    let last = usize::try_from(markers.get(markers.count - 1)?).ok()?;
    let latest = markers.start.checked_sub(last)?;
    let earliest = latest.saturating_sub(STRIDE_BYTES);
    let blocks = u32::try_from(markers.count).ok()?;
    (earliest..=latest).rev().filter(|start| start.is_multiple_of(4)).find_map(|start| {
        [8, 4].into_iter().find_map(|before| {
            let count_at = start.checked_sub(before)?;
            let count = le::u32(image, count_at).filter(|count| count.div_ceil(STRIDE) == blocks)?;
            let names = start..markers.start;
            are_marked(image.get(names.clone())?, count, markers).then_some((count, count_at, names))
        })
    })
}

/// Whether walking `count` names meets each marker, and ends where the names do but for padding.
fn are_marked(names: &[u8], count: u32, markers: Markers<'_>) -> bool {
    let ends = |end: Option<usize>| end.is_some_and(|end| end <= names.len() && names.len() - end < PADDING);
    // From the last marker first: that alone refuses all places but a few, so an image cannot make the walk through all
    // names a long one for each.
    let last =
        markers.get(markers.count - 1).and_then(|last| usize::try_from(last).ok()).unwrap_or(usize::MAX);
    let rest = count - count.saturating_sub(1) / STRIDE * STRIDE;
    if !ends((0..rest).try_fold(last, |at, _| behind(names, at))) {
        return false;
    }
    let all = (0..count).try_fold(0, |at, index| {
        let marker = index.is_multiple_of(STRIDE).then(|| markers.get((index / STRIDE) as usize));
        if marker.is_some_and(|marker| marker != Some(at as u64)) {
            return None;
        }
        behind(names, at)
    });
    ends(all)
}

/// Where the name behind the one at `at` starts: a length of one byte, or of two since 6.1, and as many bytes.
fn behind(names: &[u8], at: usize) -> Option<usize> {
    let first = *names.get(at)?;
    let length = if first & 0x80 == 0 {
        usize::from(first) + 1
    } else {
        (usize::from(first & 0x7f) | usize::from(*names.get(at.checked_add(1)?)?) << 7) + 2
    };
    at.checked_add(length)
}
