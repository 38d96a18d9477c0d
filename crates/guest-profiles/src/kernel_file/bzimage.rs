//! The bzImage, as which x86 kernels are booted: a boot sector, set-up code, and the compressed vmlinux.
//!
//! Format: `Documentation/arch/x86/boot.rst` (Linux 6.12), whose names the fields have here. The payload ends with the size that
//! it decompresses to (4 bytes, little-endian): gzip's own trailer, or one that the kernel's build appends to all others.

use crate::kernel_file::compression::Compression;
use crate::kernel_file::source::{PIECE_MAX, Source};
use crate::{Error, le};

/// Bytes of the boot sector and the header behind it, up to `payload_length`.
const HEAD: u64 = 0x250;
const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8; 4] = b"HdrS";
/// Largest bzImage read, in bytes. Debian's have 6 to 13 MiB.
pub(super) const BZIMAGE_MAX: u64 = 48 << 20;
/// `payload_offset` and `payload_length` exist since this version of the protocol (2.6.26).
const VERSION_MIN: u16 = 0x208;

/// Whether bytes from a file's start have the magic of the boot protocol.
pub(super) fn is_bzimage(start: &[u8]) -> bool {
    le::array(start, MAGIC_AT).as_ref() == Some(MAGIC)
}

/// The vmlinux in the payload.
pub(super) fn unpack(source: &dyn Source) -> Result<Vec<u8>, Error> {
    if source.len() > BZIMAGE_MAX {
        return Err(Error::FileTooLarge {
            what: "bzImage".to_owned(),
            size: source.len(),
            limit: BZIMAGE_MAX,
        });
    }
    let head = source.bytes("bzImage header", 0, HEAD)?;
    let field = |field, offset: usize, value: u64, expected| Error::FileField {
        format: "bzImage",
        field,
        offset: offset as u64,
        value,
        expected,
    };
    let short = || Error::FilePiece { what: "bzImage header", offset: 0, len: HEAD, size: head.len() as u64 };
    let version = le::u16(&head, 0x206).ok_or_else(short)?;
    if version < VERSION_MIN {
        return Err(field("version", 0x206, version.into(), "at least 0x208"));
    }
    let setup_sects = match head.get(0x1f1).copied().ok_or_else(short)? {
        // As the protocol says, for ancient loaders.
        0 => 4,
        sectors => u64::from(sectors),
    };
    let payload_offset = u64::from(le::u32(&head, 0x248).ok_or_else(short)?);
    let payload_length = u64::from(le::u32(&head, 0x24c).ok_or_else(short)?);
    // At most 256 sectors and 32 bits.
    let offset = (setup_sects + 1) * 512 + payload_offset;
    if payload_length < 8 {
        return Err(field("payload_length", 0x24c, payload_length, "at least 8"));
    }
    let payload = source.bytes("bzImage payload", offset, payload_length)?;
    let compression = Compression::of(&payload).ok_or_else(|| Error::FileField {
        format: "bzImage",
        field: "payload magic",
        offset,
        value: u64::from(le::u32(&payload, 0).unwrap_or_default()),
        expected: "that of a compression or of an ELF file",
    })?;
    let size_at = payload.len().saturating_sub(4);
    let size = le::u32(&payload, size_at).unwrap_or_default();
    let data = match compression {
        Compression::None => return Ok(payload.into_owned()),
        Compression::Gzip => payload.get(..),
        _ => payload.get(..size_at),
    };
    if size == 0 || u64::from(size) > PIECE_MAX {
        let at = offset.saturating_add(size_at as u64);
        return Err(Error::FileField {
            format: "bzImage",
            field: "uncompressed size",
            offset: at,
            value: size.into(),
            expected: "1 to 0x6000000",
        });
    }
    compression.unpack(data.unwrap_or_default(), offset, usize::try_from(size).unwrap_or(usize::MAX))
}
