//! LiME images: runs of memory, each behind a header of 32 bytes.
//!
//! Header (LiME's doc/README, "lime" format version 1), little-endian: magic u32 `0x4c694d45`, version u32, first address
//! u64, last address u64 (inclusive), 8 bytes reserved.

use super::image::{Image, Segment};
use crate::Error;
use vmi_core::{Gpa, Region};

pub(super) const MAGIC: [u8; 4] = 0x4c69_4d45_u32.to_le_bytes();
const HEADER: u64 = 32;
/// More runs than any machine's memory map has.
const MAX_RUNS: usize = 65536;

/// The memory that a LiME image holds.
pub(super) fn segments(image: &Image) -> Result<Vec<Segment>, Error> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut at = 0_u64;
    while at < image.len() {
        let magic: [u8; 4] = image.bytes(at)?;
        if magic != MAGIC {
            return Err(image.malformed(format!("there is no LiME header at offset {at:#x}")));
        }
        let version = u32::from_le_bytes(image.bytes(at.saturating_add(4))?);
        let first = u64::from_le_bytes(image.bytes(at.saturating_add(8))?);
        let last = u64::from_le_bytes(image.bytes(at.saturating_add(16))?);
        match version {
            1 => {}
            2 => {
                return Err(
                    image.malformed("it is compressed by AVML; convert it with avml-convert".to_owned())
                );
            }
            _ => return Err(image.malformed(format!("it is LiME version {version}; version 1 is known"))),
        }
        let offset = at.saturating_add(HEADER);
        let len = last.checked_sub(first).and_then(|len| len.checked_add(1));
        let Some(len) = len else {
            return Err(
                image.malformed(format!("its run at offset {at:#x} goes from {first:#x} to {last:#x}"))
            );
        };
        let end = offset.saturating_add(len);
        if end > image.len() {
            return Err(image.truncated(offset, end));
        }
        if segments.len() >= MAX_RUNS {
            return Err(image.malformed(format!("it has more than {MAX_RUNS} runs")));
        }
        segments.push(Segment { guest: Region { start: Gpa(first), len }, offset });
        at = end;
    }
    Ok(segments)
}
