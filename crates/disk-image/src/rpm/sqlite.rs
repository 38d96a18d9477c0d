//! Rows of one table of an SQLite database, read-only (<https://sqlite.org/fileformat2.html>).
//!
//! Only what a table of rowids takes: its b-tree, overflow pages, records, and the write-ahead log that a program that was stopped has
//! left. No index, no SQL. Each page of a table is followed once, so the work is bounded by the size of the file.

use super::RpmError;
use std::collections::HashMap;

/// Most columns of a row that is read.
const COLUMNS_MAX: usize = 64;
/// Most bytes of a row; the header of the largest package has some.
const ROW_MAX: u64 = 128 << 20;
/// The first page starts with the header of the file.
const FILE_HEADER: usize = 100;
const MAGIC: &[u8] = b"SQLite format 3\0";
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'r> {
    /// None, or a number with a fraction, which nothing here has.
    Other,
    Number(i64),
    /// Text too.
    Bytes(&'r [u8]),
}

/// What is done with each row: its number and its values.
type Take<'t> = dyn FnMut(i64, &[Value<'_>]) -> Result<(), RpmError> + 't;

/// A database.
pub(super) struct Sqlite<'d> {
    file: &'d [u8],
    page_size: usize,
    /// Bytes of a page that are not reserved.
    usable: usize,
    /// Newer pages, out of the log.
    log: HashMap<u32, &'d [u8]>,
    /// Number of the last page.
    last: u32,
}

impl<'d> Sqlite<'d> {
    pub(super) fn open(file: &'d [u8], log: &'d [u8]) -> Result<Self, RpmError> {
        if !file.starts_with(MAGIC) {
            return Err(RpmError::NoDatabase);
        }
        let field = |what, found: u64| RpmError::Field { what, found };
        let stated = number(file, 16, 2).ok_or(RpmError::NoDatabase)?;
        let page_size = if stated == 1 { 1 << 16 } else { usize::try_from(stated).unwrap_or(0) };
        if !page_size.is_power_of_two() || !(512..=1 << 16).contains(&page_size) {
            return Err(field("page size", stated));
        }
        let reserved = number(file, 20, 1).ok_or(RpmError::NoDatabase)?;
        let usable = page_size.saturating_sub(usize::try_from(reserved).unwrap_or(usize::MAX));
        if usable < 480 {
            return Err(field("number of reserved bytes", reserved));
        }
        let in_file = u32::try_from(file.len().div_ceil(page_size)).unwrap_or(u32::MAX);
        let mut log = newer_pages(log, page_size);
        // A database grows page by page: one far behind its end would only make the list of followed pages long.
        let most = in_file.saturating_add(u32::try_from(log.len()).unwrap_or(u32::MAX));
        log.retain(|page, _| *page <= most);
        let last = log.keys().copied().max().unwrap_or(0).max(in_file);
        Ok(Self { file, page_size, usable, log, last })
    }

    /// First page of a table. `None`: there is no such table.
    pub(super) fn table(&self, name: &str) -> Result<Option<u32>, RpmError> {
        let mut found = None;
        self.rows(1, &mut |_, values| {
            if let [Value::Bytes(b"table"), Value::Bytes(of), _, Value::Number(root), ..] = values
                && *of == name.as_bytes()
            {
                let what = "names a table at a page that cannot be";
                let root = u32::try_from(*root).map_err(|_| RpmError::Page { page: 1, what })?;
                found.get_or_insert(root);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Hands over the rows of the table that begins at a page, in their order.
    pub(super) fn rows(&self, root: u32, take: &mut Take<'_>) -> Result<(), RpmError> {
        let mut seen = Seen(vec![0; usize::try_from(self.last / 8).unwrap_or(0).saturating_add(1)]);
        let mut open = vec![root];
        let mut row = Vec::new();
        // Cells may lie over each other, so that a small file could give rows without end.
        let all = self.log.len().saturating_mul(self.page_size).saturating_add(self.file.len());
        let mut read = 0_usize;
        while let Some(page) = open.pop() {
            let wrong = |what| RpmError::Page { page, what };
            let bytes = self.page(page, &mut seen)?;
            let at = if page == 1 { FILE_HEADER } else { 0 };
            let cut = || wrong("is cut off");
            let kind = number(bytes, at, 1).ok_or_else(cut)?;
            let cells = usize::try_from(number(bytes, at.saturating_add(3), 2).ok_or_else(cut)?).unwrap_or(0);
            match kind {
                0x05 => {
                    let right = number(bytes, at.saturating_add(8), 4).ok_or_else(cut)?;
                    let mut children = Vec::new();
                    for cell in cells_of(bytes, at.saturating_add(12), cells).ok_or_else(cut)? {
                        children.push(number(bytes, cell, 4).ok_or_else(cut)?);
                    }
                    // The first one on top, so that rows come in their order.
                    let all = std::iter::once(right).chain(children.into_iter().rev());
                    open.extend(all.map(|child| u32::try_from(child).unwrap_or(u32::MAX)));
                }
                0x0d => {
                    for cell in cells_of(bytes, at.saturating_add(8), cells).ok_or_else(cut)? {
                        let id = self.row(page, bytes, cell, &mut seen, &mut row)?;
                        read = read.saturating_add(row.len());
                        if read > all {
                            return Err(wrong("has rows that lie over each other"));
                        }
                        take(id, &values(&row).ok_or_else(|| wrong("has a row that contradicts itself"))?)?;
                    }
                }
                _ => return Err(wrong("is no part of a table")),
            }
        }
        Ok(())
    }

    /// A page that was not followed yet.
    fn page(&self, page: u32, seen: &mut Seen) -> Result<&'d [u8], RpmError> {
        let wrong = |what| RpmError::Page { page, what };
        if page == 0 || page > self.last {
            return Err(wrong("is not there"));
        }
        if !seen.first_time(page) {
            return Err(wrong("is part of two things"));
        }
        if let Some(newer) = self.log.get(&page) {
            return newer.get(..self.usable).ok_or_else(|| wrong("is cut off"));
        }
        let start =
            usize::try_from(page.saturating_sub(1)).unwrap_or(usize::MAX).saturating_mul(self.page_size);
        self.file.get(start..).and_then(|rest| rest.get(..self.usable)).ok_or_else(|| wrong("is cut off"))
    }

    /// Reads the row in a cell of a leaf; gives its number.
    fn row(
        &self,
        page: u32,
        bytes: &[u8],
        cell: usize,
        seen: &mut Seen,
        row: &mut Vec<u8>,
    ) -> Result<i64, RpmError> {
        let wrong = |what| RpmError::Page { page, what };
        let cut = || wrong("has a row that is cut off");
        let (size, after) = varint(bytes, cell).ok_or_else(cut)?;
        let (id, after) = varint(bytes, after).ok_or_else(cut)?;
        if size > ROW_MAX {
            return Err(wrong("has a row of more than 128 MiB"));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let here = self.local(size);
        row.clear();
        let local = bytes.get(after..after.saturating_add(here)).ok_or_else(cut)?;
        row.extend_from_slice(local);
        if here < size {
            let mut next = number(bytes, after.saturating_add(here), 4).ok_or_else(cut)?;
            while row.len() < size {
                let number_of_next = u32::try_from(next).unwrap_or(u32::MAX);
                let overflow = self.page(number_of_next, seen)?;
                let (link, content) = overflow.split_at_checked(4).ok_or_else(cut)?;
                next = number(link, 0, 4).ok_or_else(cut)?;
                let rest = size.saturating_sub(row.len()).min(content.len());
                row.extend_from_slice(content.get(..rest).ok_or_else(cut)?);
            }
        }
        Ok(id.cast_signed())
    }

    /// How many bytes of a row of this size are in its cell.
    fn local(&self, size: usize) -> usize {
        let most = self.usable.saturating_sub(35);
        if size <= most {
            return size;
        }
        let least = (self.usable.saturating_sub(12).saturating_mul(32) / 255).saturating_sub(23);
        let rest = size.saturating_sub(least).checked_rem(self.usable.saturating_sub(4)).unwrap_or(0);
        let wanted = least.saturating_add(rest);
        if wanted <= most { wanted } else { least }
    }
}

/// Which pages were followed, a bit for each.
struct Seen(Vec<u8>);

impl Seen {
    fn first_time(&mut self, page: u32) -> bool {
        let Some(byte) = usize::try_from(page / 8).ok().and_then(|index| self.0.get_mut(index)) else {
            return false;
        };
        let bit = 1_u8.checked_shl(page % 8).unwrap_or(0);
        let first = *byte & bit == 0;
        *byte |= bit;
        first
    }
}

/// Where the cells of a page begin. `None`: the page ends before their list does.
fn cells_of(page: &[u8], at: usize, count: usize) -> Option<Vec<usize>> {
    let list = page.get(at..)?.get(..count.saturating_mul(2))?;
    let cell = |pair: &[u8]| number(pair, 0, 2).and_then(|cell| usize::try_from(cell).ok());
    list.chunks_exact(2).map(cell).collect()
}

/// The values of a row.
fn values(row: &[u8]) -> Option<Vec<Value<'_>>> {
    let (header, mut kind_at) = varint(row, 0)?;
    let header = usize::try_from(header).ok()?;
    let mut at = header;
    let mut values = Vec::new();
    while kind_at < header && values.len() < COLUMNS_MAX {
        let (kind, next) = varint(row, kind_at)?;
        kind_at = next;
        let mut bytes = |len: u64| {
            let end = at.checked_add(usize::try_from(len).ok()?)?;
            let bytes = row.get(at..end)?;
            at = end;
            Some(bytes)
        };
        values.push(match kind {
            0 => Value::Other,
            1..=4 => Value::Number(signed(bytes(kind)?)),
            5 => Value::Number(signed(bytes(6)?)),
            6 => Value::Number(signed(bytes(8)?)),
            7 => bytes(8).map(|_| Value::Other)?,
            8 => Value::Number(0),
            9 => Value::Number(1),
            10 | 11 => return None,
            _ => Value::Bytes(bytes(kind.checked_sub(12)? / 2)?),
        });
    }
    Some(values)
}

/// A number of so many bytes, the largest first.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

/// The same with a sign.
fn signed(bytes: &[u8]) -> i64 {
    let start = if bytes.first().is_some_and(|first| first & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(start, |value, byte| (value << 8) | i64::from(*byte))
}

/// A number of one to nine bytes, and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (index, byte) in bytes.get(at..)?.iter().take(9).enumerate() {
        let end = at.checked_add(index)?.checked_add(1)?;
        if index == 8 {
            return Some(((value << 8) | u64::from(*byte), end));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, end));
        }
    }
    None
}

/// The pages that a write-ahead log has newer than the file: those up to its last commit. What follows a wrong checksum is of an
/// older log and counts for nothing, as it does for SQLite.
fn newer_pages(log: &[u8], page_size: usize) -> HashMap<u32, &[u8]> {
    let mut newer = HashMap::new();
    let Some((header, frames)) = log.split_at_checked(LOG_HEADER) else { return newer };
    let big = match number(header, 0, 4) {
        Some(0x377f_0682) => false,
        Some(0x377f_0683) => true,
        _ => return newer,
    };
    let stated = number(header, 8, 4).and_then(|size| usize::try_from(size).ok());
    let sum = header.get(..24).map(|part| checksum((0, 0), part, big));
    if stated != Some(page_size) || sum != pair(header, 24) {
        return newer;
    }
    let (Some(mut sum), salts) = (sum, header.get(16..24)) else { return newer };
    let mut pending: Vec<(u32, &[u8])> = Vec::new();
    for frame in frames.chunks_exact(FRAME_HEADER.saturating_add(page_size)) {
        let Some((head, page)) = frame.split_at_checked(FRAME_HEADER) else { break };
        let Some(start) = head.get(..8) else { break };
        sum = checksum(checksum(sum, start, big), page, big);
        if head.get(8..16) != salts || Some(sum) != pair(head, 16) {
            break;
        }
        let Some(number_of_page) = number(head, 0, 4).and_then(|page| u32::try_from(page).ok()) else {
            break;
        };
        pending.push((number_of_page, page));
        if number(head, 4, 4) != Some(0) {
            newer.extend(pending.drain(..));
        }
    }
    newer
}

fn pair(bytes: &[u8], at: usize) -> Option<(u32, u32)> {
    let word = |at: usize| number(bytes, at, 4).and_then(|word| u32::try_from(word).ok());
    Some((word(at)?, word(at.checked_add(4)?)?))
}

/// The checksum of a log goes on over these bytes.
fn checksum(sum: (u32, u32), bytes: &[u8], big: bool) -> (u32, u32) {
    let word = |word: &[u8]| {
        let word: [u8; 4] = word.try_into().unwrap_or_default();
        if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    };
    bytes.chunks_exact(8).fold(sum, |(one, two), words| {
        let (first, second) = words.split_at(4);
        let one = one.wrapping_add(word(first)).wrapping_add(two);
        (one, two.wrapping_add(word(second)).wrapping_add(one))
    })
}
