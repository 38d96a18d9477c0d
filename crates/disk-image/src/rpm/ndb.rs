//! `Packages.db`, what rpm keeps its packages in where it is built for its own format (ndb: openSUSE, SUSE).
//!
//! The file is a header, pages of slots, and blobs in blocks of 16 bytes, all little-endian; a slot leads to the blob of a package.
//! (rpm's lib/backend/ndb/rpmpkg.c is the only description there is.) Each blob says its own number and length twice and carries
//! an Adler-32 sum, and all of that is checked. Blobs lie beside each other, so the work is bounded by the size of the file.

use super::{RpmError, Take};
use std::collections::BTreeSet;

pub(super) const MAGIC: &[u8] = b"RpmP";
const PAGE: usize = 4096;
const SLOT: usize = 16;
/// The first slots of the first page are the header.
const HEADER: usize = 32;
const BLOCK: u64 = 16;
const HEAD: usize = 16;
const TAIL: usize = 12;

/// Where a slot leads.
struct Slot {
    package: u32,
    /// First block, and their number.
    block: u64,
    blocks: u64,
}

/// Gives the header of each package with its number, in the order of their installation.
pub(super) fn blobs(file: &[u8], take: &mut Take<'_>) -> Result<(), RpmError> {
    let field = |what, at| word(file, at).map(|found| (what, u64::from(found))).ok_or(RpmError::NoDatabase);
    let (what, found) = field("version", 4)?;
    if found != 0 {
        return Err(RpmError::Field { what, found });
    }
    let (what, found) = field("number of pages", 12)?;
    let pages = usize::try_from(found).unwrap_or(usize::MAX);
    let slots = file.get(..pages.saturating_mul(PAGE)).and_then(|slots| slots.get(HEADER..));
    let slots = slots.ok_or(RpmError::Field { what, found })?;
    let mut used = Vec::new();
    for slot in slots.chunks_exact(SLOT) {
        if let Some(slot) = read_slot(slot, file.len(), pages)? {
            used.push(slot);
        }
    }
    used.sort_by_key(|slot| slot.block);
    let mut end = 0;
    let mut numbers = BTreeSet::new();
    for slot in &used {
        let wrong = |what| Err(RpmError::Package { row: i64::from(slot.package), what });
        if slot.block < end {
            return wrong("lies over another");
        }
        if !numbers.insert(slot.package) {
            return wrong("is there twice");
        }
        end = slot.block.saturating_add(slot.blocks);
    }
    used.sort_by_key(|slot| slot.package);
    for slot in &used {
        let row = i64::from(slot.package);
        let blob = blob(file, slot).map_err(|what| RpmError::Package { row, what })?;
        take(row, blob)?;
    }
    Ok(())
}

/// One slot; `None`: it is free.
fn read_slot(slot: &[u8], len: usize, pages: usize) -> Result<Option<Slot>, RpmError> {
    let number = |at| word(slot, at).unwrap_or(0);
    if !slot.starts_with(b"Slot") {
        return Err(RpmError::Field { what: "mark of a slot", found: u64::from(number(0)) });
    }
    let (package, block, blocks) = (number(4), u64::from(number(8)), u64::from(number(12)));
    if block == 0 {
        return Ok(None);
    }
    let wrong = |what| Err(RpmError::Package { row: i64::from(package), what });
    let length = u64::try_from(len).unwrap_or(u64::MAX);
    if block.saturating_add(blocks).saturating_mul(BLOCK) > length {
        return wrong("is cut off");
    }
    let first = u64::try_from(pages.saturating_mul(PAGE)).unwrap_or(u64::MAX);
    if package == 0 || block.saturating_mul(BLOCK) < first {
        return wrong("lies where none can");
    }
    Ok(Some(Slot { package, block, blocks }))
}

/// The blob that a slot leads to. `Err`: what is wrong with it.
fn blob<'d>(file: &'d [u8], slot: &Slot) -> Result<&'d [u8], &'static str> {
    const WRONG: &str = "has a blob that contradicts itself";
    let bytes = |blocks: u64| usize::try_from(blocks.saturating_mul(BLOCK)).unwrap_or(usize::MAX);
    let start = bytes(slot.block);
    let whole = file.get(start..start.saturating_add(bytes(slot.blocks))).ok_or("is cut off")?;
    let tail_at = whole.len().checked_sub(TAIL).ok_or(WRONG)?;
    let (summed, tail) = whole.split_at_checked(tail_at).ok_or(WRONG)?;
    let (head, data) = summed.split_at_checked(HEAD).ok_or(WRONG)?;
    let length = word(head, 12).ok_or(WRONG)?;
    let stated = usize::try_from(length).unwrap_or(usize::MAX);
    let blocks = u64::try_from(stated.saturating_add(HEAD + TAIL)).unwrap_or(u64::MAX).div_ceil(BLOCK);
    let marks = head.starts_with(b"BlbS") && tail.ends_with(b"BlbE");
    let lengths = blocks == slot.blocks && word(tail, 4) == Some(length);
    if !marks || !lengths || word(head, 4) != Some(slot.package) {
        return Err(WRONG);
    }
    if word(tail, 0) != Some(adler32(summed)) {
        return Err("has a blob whose checksum is another");
    }
    data.get(..stated).ok_or(WRONG)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// Adler-32 (RFC 1950).
fn adler32(bytes: &[u8]) -> u32 {
    /// The largest prime below 65536.
    const BASE: u32 = 65521;
    let (mut low, mut high) = (1_u32, 0_u32);
    // So many bytes cannot overflow the sums.
    for chunk in bytes.chunks(5552) {
        for byte in chunk {
            low = low.wrapping_add(u32::from(*byte));
            high = high.wrapping_add(low);
        }
        low %= BASE;
        high %= BASE;
    }
    (high << 16) | low
}
