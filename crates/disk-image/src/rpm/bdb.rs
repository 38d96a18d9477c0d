//! `Packages`, a hash table of Berkeley DB: what rpm kept its packages in before version 4.16 (RHEL 8 and older, CentOS 7).
//!
//! The bytes are described by Berkeley DB's dbinc/db_page.h. Which bucket a package is in does not matter to who wants them all:
//! every page of the hash is looked through. A page is a list of items, keys and values in turn; a value that is too
//! long is a chain of pages of its own, and each of these is followed once, so the work is bounded by the size of the file. The
//! file is in the byte order of the machine that made it.

use super::{RpmError, Take};
use std::collections::BTreeMap;

/// ``DB_HASHMAGIC``, at byte 12 of the first page.
const MAGIC: u32 = 0x0006_1561;
/// Versions of hash tables: those of Berkeley DB 4.2 to 6. All have the pages that are read here.
const VERSIONS: std::ops::RangeInclusive<u32> = 8..=10;
/// Bytes before the items of a page, or the data of one of a chain.
const HEADER: usize = 26;
/// ``P_HASHMETA``, ``P_HASH_UNSORTED``, ``P_HASH``, ``P_OVERFLOW``.
const META: u8 = 8;
const HASH: [u8; 2] = [2, 13];
const OVERFLOW: u8 = 7;
/// ``H_KEYDATA`` and ``H_OFFPAGE``. The others are for keys that are there several times.
const DATA: u8 = 1;
const OFF_PAGE: u8 = 3;
/// Most bytes of a value; the header of the largest package has some.
const VALUE_MAX: usize = 128 << 20;

struct Database<'d> {
    file: &'d [u8],
    page_size: usize,
    big_endian: bool,
    /// Which pages have been followed as part of a chain.
    followed: Vec<bool>,
}

/// Whether it is such a file.
pub(super) fn is_one(file: &[u8]) -> bool {
    byte_order(file).is_some()
}

/// Gives the header of each package with its number, in the order of their installation.
pub(super) fn blobs(file: &[u8], take: &mut Take<'_>) -> Result<(), RpmError> {
    let big_endian = byte_order(file).ok_or(RpmError::NoDatabase)?;
    let mut database = Database { file, page_size: 0, big_endian, followed: Vec::new() };
    let pages = database.open()?;
    let mut packages = BTreeMap::new();
    for page in 0..pages {
        let bytes = database.page(page)?;
        if bytes.get(25).is_some_and(|kind| HASH.contains(kind)) {
            database.items(page, bytes, &mut packages)?;
        }
    }
    for (row, blob) in &packages {
        take(*row, blob)?;
    }
    Ok(())
}

/// Whether the file is in the byte order of a big-endian machine. `None`: it is no hash table.
fn byte_order(file: &[u8]) -> Option<bool> {
    let magic = file.get(12..)?.first_chunk()?;
    match (u32::from_le_bytes(*magic), u32::from_be_bytes(*magic)) {
        (MAGIC, _) => Some(false),
        (_, MAGIC) => Some(true),
        _ => None,
    }
}

impl<'d> Database<'d> {
    /// Reads the first page; the number of pages.
    fn open(&mut self) -> Result<u32, RpmError> {
        let word = |at| self.word(self.file, at).ok_or(RpmError::NoDatabase);
        let byte = |at: usize| self.file.get(at).copied().map(u64::from).ok_or(RpmError::NoDatabase);
        let refuse = |what, found| Err(RpmError::Field { what, found });
        let version = word(16)?;
        if !VERSIONS.contains(&version) {
            return refuse("version", u64::from(version));
        }
        let size = word(20)?;
        if !size.is_power_of_two() || !(512..=1 << 16).contains(&size) {
            return refuse("page size", u64::from(size));
        }
        // Encrypted, another kind of table, or pages with checksums, which have other headers. rpm makes none of these.
        for (what, at, wanted) in [("cipher", 24, 0), ("kind", 25, u64::from(META)), ("flags", 26, 0)] {
            let found = byte(at)?;
            if found != wanted {
                return refuse(what, found);
            }
        }
        let pages = word(32)?.saturating_add(1);
        self.page_size = usize::try_from(size).unwrap_or(usize::MAX);
        let length = usize::try_from(pages).unwrap_or(usize::MAX).saturating_mul(self.page_size);
        if self.file.len() < length {
            return refuse("number of pages", u64::from(pages));
        }
        self.followed = vec![false; usize::try_from(pages).unwrap_or(0)];
        Ok(pages)
    }

    fn page(&self, number: u32) -> Result<&'d [u8], RpmError> {
        let start = usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(self.page_size);
        let inside = usize::try_from(number).is_ok_and(|number| number < self.followed.len());
        let bytes = self.file.get(start..start.saturating_add(self.page_size)).filter(|_| inside);
        bytes.ok_or(RpmError::Page { page: number, what: "is not there" })
    }

    /// Adds the packages of a page.
    fn items(
        &mut self,
        number: u32,
        page: &'d [u8],
        packages: &mut BTreeMap<i64, Vec<u8>>,
    ) -> Result<(), RpmError> {
        let wrong = |what| RpmError::Page { page: number, what };
        let count = usize::from(self.half(page, 20).ok_or(wrong("is cut off"))?);
        if !count.is_multiple_of(2) {
            return Err(wrong("has a key without a value"));
        }
        let first = HEADER.saturating_add(count.saturating_mul(2));
        // Items lie from the end of the page to its start, one before the other.
        let mut end = page.len();
        let mut items = Vec::with_capacity(count);
        for index in 0..count {
            let at = HEADER.saturating_add(index.saturating_mul(2));
            let start = usize::from(self.half(page, at).ok_or(wrong("is cut off"))?);
            let item = page.get(start..end).filter(|item| start >= first && !item.is_empty());
            items.push(item.ok_or(wrong("has items that lie over each other"))?);
            end = start;
        }
        for pair in items.chunks_exact(2) {
            let [key, value] = pair else { continue };
            let key = match key.split_first() {
                Some((&DATA, key)) => self.word(key, 0).filter(|_| key.len() == 4),
                _ => None,
            };
            let row = i64::from(key.ok_or(wrong("has a key that is no number"))?);
            let value = match value.split_first() {
                Some((&DATA, value)) => value.to_vec(),
                Some((&OFF_PAGE, _)) => {
                    let place = self.word(value, 4).zip(self.word(value, 8));
                    let (page, length) = place.ok_or(wrong("has a value that is cut off"))?;
                    self.chain(page, length)?
                }
                _ => return Err(wrong("has a value of another kind")),
            };
            // Under 0 is the number of the next package.
            if row != 0 && packages.insert(row, value).is_some() {
                return Err(RpmError::Package { row, what: "is there twice" });
            }
        }
        Ok(())
    }

    /// A value that has pages of its own.
    fn chain(&mut self, first: u32, length: u32) -> Result<Vec<u8>, RpmError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > VALUE_MAX.min(self.file.len()) {
            return Err(RpmError::Page { page: first, what: "starts a value that is too long" });
        }
        let mut value = Vec::new();
        let mut number = first;
        while number != 0 {
            let wrong = |what| RpmError::Page { page: number, what };
            let page = self.page(number)?;
            let followed = usize::try_from(number).ok().and_then(|index| self.followed.get_mut(index));
            if followed.is_none_or(|followed| std::mem::replace(followed, true)) {
                return Err(wrong("is part of two things"));
            }
            if page.get(25) != Some(&OVERFLOW) {
                return Err(wrong("is no part of a value"));
            }
            let here = self.half(page, 22).map(usize::from);
            let data = here.and_then(|here| page.get(HEADER..)?.get(..here));
            value.extend_from_slice(data.ok_or(wrong("says more than it has"))?);
            number = self.word(page, 16).ok_or(wrong("is cut off"))?;
        }
        if value.len() != length {
            return Err(RpmError::Page { page: first, what: "starts a value of another length" });
        }
        Ok(value)
    }

    fn word(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let word = *bytes.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    }

    fn half(&self, bytes: &[u8], at: usize) -> Option<u16> {
        let half = *bytes.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u16::from_be_bytes(half) } else { u16::from_le_bytes(half) })
    }
}
