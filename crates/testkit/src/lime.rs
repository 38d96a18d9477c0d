//! Writer of memory images in LiME's format, version 1 (little endian): before each range a header of 32 bytes, magic
//! `EMiL` (0x4C694D45), version, first and last address, 8 reserved bytes; then the bytes of the range.
//! Source: the format section of LiME's documentation.

use crate::truth::PhysicalRange;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u32 = 0x4C69_4D45;
const VERSION: u32 = 1;

/// Writes these ranges of a raw image (byte n is physical address n) as a LiME image.
pub fn write(raw: &File, ranges: &[PhysicalRange], path: &Path) -> Result<()> {
    let mut output =
        BufWriter::new(File::create(path).with_context(|| format!("Cannot make {}", path.display()))?);
    let mut buffer = vec![0; 1 << 20];
    for range in ranges {
        ensure!(range.start <= range.end, "The range {:#x}-{:#x} is upside down", range.start, range.end);
        output.write_all(&MAGIC.to_le_bytes())?;
        output.write_all(&VERSION.to_le_bytes())?;
        output.write_all(&range.start.to_le_bytes())?;
        output.write_all(&range.end.to_le_bytes())?;
        output.write_all(&[0; 8])?;
        let (mut position, mut left) = (range.start, range.end - range.start + 1);
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            raw.read_exact_at(&mut buffer[..count], position)
                .with_context(|| format!("The raw image has no byte at {position:#x}"))?;
            output.write_all(&buffer[..count])?;
            position += count as u64;
            left -= count as u64;
        }
    }
    output.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::write;
    use crate::truth::PhysicalRange;
    use std::fs::{self, File};

    #[test]
    fn each_range_follows_its_header() {
        let directory = tempfile::tempdir().unwrap();
        let (raw, lime) = (directory.path().join("raw"), directory.path().join("lime"));
        fs::write(&raw, b"0123456789").unwrap();
        let ranges = [PhysicalRange { start: 1, end: 2 }, PhysicalRange { start: 8, end: 9 }];
        write(&File::open(&raw).unwrap(), &ranges, &lime).unwrap();
        let image = fs::read(&lime).unwrap();
        assert_eq!(image.len(), 2 * (32 + 2));
        assert_eq!(&image[..8], b"EMiL\x01\0\0\0");
        assert_eq!(&image[8..32], [[1, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat());
        assert_eq!(&image[32..34], b"12");
        assert_eq!(&image[66..], b"89");
        assert!(write(&File::open(&raw).unwrap(), &[PhysicalRange { start: 8, end: 10 }], &lime).is_err());
    }
}
