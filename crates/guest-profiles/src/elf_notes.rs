//! Finds the GNU build id among a kernel's ELF notes (the bytes from `__start_notes` to `__stop_notes`).
//!
//! The bytes come from a guest: sizes are checked against the bytes given, and the walk moves on by at least the 12
//! bytes of a note's head, so it ends. Format: System V ABI, "Note Section", with the 4-byte alignment that the Linux
//! linker script uses.

use std::fmt::Write as _;

use crate::{Error, le};

const HEAD: usize = 12;
const NT_GNU_BUILD_ID: u32 = 3;
/// SHA-1 ids have 20 bytes, the longest that linkers offer have 32.
const MAX_ID: u32 = 64;

/// The first GNU build id, in lower-case hexadecimal.
pub fn build_id(notes: &[u8]) -> Result<String, Error> {
    let mut at = 0;
    // What is left when no head fits any more is alignment.
    while let (Some(name_size), Some(size), Some(kind)) =
        (le::u32(notes, at), le::u32(notes, at + 4), le::u32(notes, at + 8))
    {
        let truncated = || Error::NoteTruncated { offset: at, len: notes.len() };
        let name = piece(notes, at + HEAD, name_size).ok_or_else(truncated)?;
        let start = aligned(at + HEAD + name.len());
        let body = piece(notes, start, size).ok_or_else(truncated)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            if size == 0 || size > MAX_ID {
                return Err(Error::NoteBuildIdSize { offset: at, size, limit: MAX_ID });
            }
            return Ok(body.iter().fold(String::new(), |mut id, byte| {
                // Writing to a String cannot fail.
                let _ = write!(id, "{byte:02x}");
                id
            }));
        }
        at = aligned(start + body.len());
    }
    Err(Error::NoteNoBuildId { len: notes.len() })
}

fn piece(notes: &[u8], start: usize, size: u32) -> Option<&[u8]> {
    notes.get(start..start.checked_add(usize::try_from(size).ok()?)?)
}

/// The next multiple of four. Offsets lie within a slice, so that this cannot overflow.
fn aligned(offset: usize) -> usize {
    offset.saturating_add(3) & !3
}
