//! Tells by its content what a partition holds, so that a file system that is not read is named instead of called unknown.
//!
//! Must never believe the type in a partition table: it is a hint that installers set as they like.

use super::Blocks;
use std::fmt;

/// What is in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// ext2, ext3 or ext4: the one that is read.
    Ext,
    /// Another one, or what is no file system.
    Named(&'static str),
    /// Nothing that is known here.
    Unknown,
}

/// Bytes that are looked at: btrfs has its superblock at 64 KiB.
const PROBED: usize = 68 << 10;

impl FileSystem {
    pub(crate) fn of(blocks: &dyn Blocks) -> Self {
        const MAGICS: [(usize, &[u8], &str); 15] = [
            (0, b"XFSB", "XFS"),
            (0x10040, b"_BHRfS_M", "btrfs"),
            (0, b"hsqs", "squashfs"),
            (1024, &0xf2f5_2010_u32.to_le_bytes(), "F2FS"),
            (1024, &0xe0f5_e1e2_u32.to_le_bytes(), "EROFS"),
            (0, b"LUKS\xba\xbe", "LUKS encryption"),
            (512, b"LABELONE", "LVM"),
            (4096, &0xa92b_4efc_u32.to_le_bytes(), "Linux RAID"),
            (4086, b"SWAPSPACE2", "swap"),
            (0x8001, b"CD001", "ISO 9660"),
            (3, b"NTFS    ", "NTFS"),
            (3, b"-FVE-FS-", "BitLocker encryption"),
            (54, b"FAT", "FAT"),
            (82, b"FAT32", "FAT"),
            (3, b"EXFAT   ", "exFAT"),
        ];
        let wanted = usize::try_from(blocks.len()).unwrap_or(PROBED).min(PROBED);
        let mut start = vec![0; wanted];
        if blocks.read_at(0, &mut start).is_err() {
            return Self::Unknown;
        }
        let has = |offset: usize, magic: &[u8]| start.get(offset..).is_some_and(|at| at.starts_with(magic));
        if has(1024 + 56, &0xef53_u16.to_le_bytes()) {
            return Self::Ext;
        }
        let named = MAGICS.iter().find(|(offset, magic, _)| has(*offset, magic));
        named.map_or(Self::Unknown, |(.., name)| Self::Named(name))
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext => "ext2/3/4",
            Self::Named(name) => name,
            Self::Unknown => "something unknown",
        })
    }
}
