//! The kernel in a Debian package: an `ar` archive, in it a compressed `tar` archive with the files.
//!
//! The archive is read as a stream up to the kernel, which is held in memory, and nothing is unpacked to disk. Formats: `deb(5)`
//! of dpkg 1.21; `ar` as in its System V form; `tar` as in POSIX.1-1988 (ustar), of which only name, size and kind are needed.

use std::io::{self, Read};

use crate::Error;
use crate::kernel_file::bzimage::BZIMAGE_MAX;
use crate::kernel_file::compression::Compression;
use crate::kernel_file::source::{Part, Source};

const MAGIC: &[u8] = b"!<arch>\n";
/// Header of a member of an `ar` archive, in bytes.
const MEMBER: u64 = 60;
/// Most members; a package has three.
const MEMBERS_MAX: usize = 16;
/// Header and unit of a `tar` archive, in bytes.
const BLOCK: usize = 512;
/// Most bytes of the unpacked archive that are gone through before the kernel; it comes first in Debian's.
const ARCHIVE_MAX: u64 = 1 << 30;

/// Whether bytes from a file's start are an `ar` archive's.
pub(super) fn is_deb(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// The first kernel in the package: its name there, and its bytes.
pub(super) fn kernel(source: &dyn Source) -> Result<(String, Vec<u8>), Error> {
    let mut at = MAGIC.len() as u64;
    for _ in 0..MEMBERS_MAX {
        if at >= source.len() {
            break;
        }
        let header = source.bytes("package member header", at, MEMBER)?;
        let text = |from: usize, to: usize| {
            header.get(from..to).map(String::from_utf8_lossy).unwrap_or_default().trim().to_owned()
        };
        let (name, size) = (text(0, 16), text(48, 58));
        let digits = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit());
        let size: u64 = digits.then(|| size.parse().ok()).flatten().ok_or(Error::FileText {
            format: "package",
            field: "member size",
            offset: at.saturating_add(48),
            expected: "a decimal number",
        })?;
        let data = at.saturating_add(MEMBER);
        if name.starts_with("data.tar") {
            return in_archive(source, data, size);
        }
        // Members start at even offsets.
        at = data.saturating_add(size).saturating_add(size & 1);
    }
    Err(Error::PackageWithout { what: "data.tar", member: "package".to_owned() })
}

fn in_archive(source: &dyn Source, offset: u64, size: u64) -> Result<(String, Vec<u8>), Error> {
    let start = source.bytes("package data", offset, size.min(BLOCK as u64))?;
    // Only an uncompressed archive has no magic at its start.
    let compression = Compression::of(&start).unwrap_or(Compression::None);
    let failed = |source| Error::Decompress { compression: compression.to_string(), offset, source };
    let mut archive =
        compression.reader(Part::new(source, "package data", offset, size), offset)?.take(ARCHIVE_MAX);
    let mut at: u64 = 0;
    loop {
        let mut header = [0; BLOCK];
        if let Err(error) = archive.read_exact(&mut header) {
            return Err(failed(error));
        }
        if header.iter().all(|byte| *byte == 0) {
            return Err(Error::PackageWithout { what: "kernel", member: "data.tar".to_owned() });
        }
        let entry = Entry::parse(&header, at)?;
        if entry.is_kernel() {
            if entry.size > BZIMAGE_MAX {
                return Err(Error::PackageKernelTooLarge {
                    name: entry.name,
                    size: entry.size,
                    limit: BZIMAGE_MAX,
                });
            }
            let mut bytes = Vec::new();
            archive.by_ref().take(entry.size).read_to_end(&mut bytes).map_err(failed)?;
            if bytes.len() as u64 != entry.size {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            return Ok((entry.name, bytes));
        }
        let blocks = entry.size.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX);
        io::copy(&mut archive.by_ref().take(blocks), &mut io::sink()).map_err(failed)?;
        at = at.saturating_add(BLOCK as u64).saturating_add(blocks);
    }
}

/// One file of a `tar` archive.
struct Entry {
    name: String,
    size: u64,
    regular: bool,
}

impl Entry {
    /// `at`: where in the archive the header is.
    fn parse(header: &[u8; BLOCK], at: u64) -> Result<Self, Error> {
        let [name, size, sum] =
            [0..100, 124..136, 148..156].map(|range| header.get(range).unwrap_or_default());
        let number = |field, offset: u64, text| {
            octal(text).ok_or(Error::FileText {
                format: "tar",
                field,
                offset: at.saturating_add(offset),
                expected: "an octal number",
            })
        };
        let stated = number("checksum", 148, sum)?;
        // The checksum counts as spaces in itself.
        let counted = header.iter().enumerate().map(|(index, byte)| match index {
            148..156 => u64::from(b' '),
            _ => u64::from(*byte),
        });
        let counted: u64 = counted.sum();
        if stated != counted {
            return Err(Error::FileField {
                format: "tar",
                field: "checksum",
                offset: at.saturating_add(148),
                value: stated,
                expected: "the sum of the header's bytes",
            });
        }
        // Sizes of 8 GiB and more are written in another way, and are none of ours.
        let size = number("size", 124, size)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        let name = name.strip_prefix("./").unwrap_or(&name).trim_start_matches('/').to_owned();
        Ok(Self { name, size, regular: matches!(header.get(156), Some(b'0' | 0)) })
    }

    fn is_kernel(&self) -> bool {
        let (directory, file) = self.name.rsplit_once('/').unwrap_or(("", &self.name));
        let placed = directory.ends_with("boot") || directory.contains("lib/modules/");
        self.regular && placed && super::is_kernel_name(file)
    }
}

/// An octal number in ASCII, with spaces before and a space or NUL behind.
fn octal(field: &[u8]) -> Option<u64> {
    let text = str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() || !text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return None;
    }
    u64::from_str_radix(text, 8).ok()
}
