//! Partition tables: MBR with logical partitions, and GPT.
//!
//! The numbers are those that Linux gives: entries of the table by their place, logical partitions from 5 on. Checksums of a GPT are
//! not compared: they guard against accidents, and a hostile image has right ones. Must never follow a chain of extended
//! partitions for ever.

use super::{Blocks, array};
use crate::Error;

/// A partition, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) number: u32,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// A sector of an MBR, and of a GPT on a disk that does not say otherwise.
const SECTOR: u64 = 512;
/// Most entries of a GPT; tools make 128.
const GPT_ENTRIES_MAX: u32 = 1024;
/// Largest entry of a GPT; tools make 128 bytes.
const GPT_ENTRY_MAX: u32 = 4096;
/// Most logical partitions.
const LOGICAL_MAX: u32 = 128;
const ENTRIES_AT: usize = 446;
const SIGNATURE_AT: usize = 510;
/// The type that says that the disk has a GPT.
const PROTECTIVE: u8 = 0xee;
/// Types of extended partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// The partitions of a disk, by number; those that are not within it are left out. None: it has no partition table.
pub(crate) fn partitions(disk: &dyn Blocks) -> Result<Vec<Partition>, Error> {
    let Some(entries) = sector(disk, 0) else { return Ok(Vec::new()) };
    let mut found =
        if entries.iter().any(|entry| entry.kind == PROTECTIVE) { gpt(disk)? } else { mbr(disk, entries) };
    found.retain(|partition| {
        partition.len > 0 && partition.start.checked_add(partition.len).is_some_and(|end| end <= disk.len())
    });
    Ok(found)
}

#[derive(Clone, Copy)]
struct Entry {
    kind: u8,
    first: u64,
    sectors: u64,
}

/// The four entries of an MBR or of a link in a chain of extended partitions. `None`: it is none.
fn sector(disk: &dyn Blocks, at: u64) -> Option<[Entry; 4]> {
    let mut bytes = [0; 512];
    disk.read_at(at, &mut bytes).ok()?;
    if array(&bytes, SIGNATURE_AT) != Some([0x55, 0xaa]) {
        return None;
    }
    let mut entries = [Entry { kind: 0, first: 0, sectors: 0 }; 4];
    for (entry, raw) in entries.iter_mut().zip(bytes.get(ENTRIES_AT..SIGNATURE_AT)?.chunks_exact(16)) {
        let number = |at| array(raw, at).map(|le| u64::from(u32::from_le_bytes(le)));
        *entry = Entry { kind: *raw.get(4)?, first: number(8)?, sectors: number(12)? };
    }
    Some(entries)
}

fn mbr(disk: &dyn Blocks, entries: [Entry; 4]) -> Vec<Partition> {
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(entries) {
        if EXTENDED.contains(&entry.kind) {
            logical(disk, entry.first, &mut found);
        } else if entry.kind != 0 {
            found.push(Partition { number, start: bytes(entry.first), len: bytes(entry.sectors) });
        }
    }
    found.sort_by_key(|partition| partition.number);
    found
}

/// The chain: each link has a partition, relative to the link, and the next link, relative to the extended partition.
fn logical(disk: &dyn Blocks, extended: u64, found: &mut Vec<Partition>) {
    let mut link = extended;
    for number in 5..5_u32.saturating_add(LOGICAL_MAX) {
        let Some([partition, next, ..]) = sector(disk, link.saturating_mul(SECTOR)) else { return };
        if partition.kind != 0 {
            found.push(Partition {
                number,
                start: link.saturating_add(partition.first).saturating_mul(SECTOR),
                len: partition.sectors.saturating_mul(SECTOR),
            });
        }
        if !EXTENDED.contains(&next.kind) || next.first == 0 {
            return;
        }
        link = extended.saturating_add(next.first);
    }
}

fn gpt(disk: &dyn Blocks) -> Result<Vec<Partition>, Error> {
    for sector in [SECTOR, 4096] {
        let mut header = [0; 92];
        if disk.read_at(sector, &mut header).is_err() || !header.starts_with(b"EFI PART") {
            continue;
        }
        let table = u64::from_le_bytes(array(&header, 72).unwrap_or_default());
        let count = u32::from_le_bytes(array(&header, 80).unwrap_or_default());
        let size = u32::from_le_bytes(array(&header, 84).unwrap_or_default());
        let check = |what, found: u32, limit: u32| {
            let (wide, limit_wide) = (u64::from(found), u64::from(limit));
            if found > limit {
                Err(Error::PartitionTable { what, found: wide, limit: limit_wide })
            } else {
                Ok(())
            }
        };
        check("a number of entries of", count, GPT_ENTRIES_MAX)?;
        check("a size of an entry of", size, GPT_ENTRY_MAX)?;
        let mut found = Vec::new();
        for number in 1..=count {
            let offset = u64::from(number.saturating_sub(1)).saturating_mul(u64::from(size));
            let at = table.saturating_mul(sector).saturating_add(offset);
            let mut entry = [0; 48];
            disk.read_at(at, &mut entry)?;
            let first = u64::from_le_bytes(array(&entry, 32).unwrap_or_default());
            let last = u64::from_le_bytes(array(&entry, 40).unwrap_or_default());
            let used = array::<16>(&entry, 0).is_some_and(|kind| kind != [0; 16]);
            if used && last >= first {
                let sectors = last.saturating_sub(first).saturating_add(1);
                found.push(Partition {
                    number,
                    start: first.saturating_mul(sector),
                    len: sectors.saturating_mul(sector),
                });
            }
        }
        return Ok(found);
    }
    Ok(Vec::new())
}
