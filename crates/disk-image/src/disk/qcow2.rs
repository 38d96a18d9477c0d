//! Reader of qcow2 images (`docs/interop/qcow2.rst` of QEMU), versions 2 and 3.
//!
//! Only the active state is read. What would make another file part of the image (a backing file, an external data file) is
//! refused: an image that is certified must be all there, and a hostile one must not name files of the host. Encryption, extended
//! L2 entries and features that are not known are refused by name. Must never allocate more than an L1 table of QEMU's own limit, a
//! few L2 tables and one cluster.

use super::{Blocks, Disk, array};
use crate::Error;
use flate2::read::DeflateDecoder;
use ruzstd::decoding::StreamingDecoder;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read};

const MAGIC: &[u8] = b"QFI\xfb";
/// As QEMU: `MIN_CLUSTER_BITS`, `MAX_CLUSTER_BITS`, `QCOW_MAX_L1_SIZE` (block/qcow2.h of QEMU 9).
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const L1_BYTES_MAX: u64 = 32 << 20;
/// Largest virtual disk: as QEMU's limit for an L1 table of that size and clusters of 2 MiB, rounded.
const SIZE_MAX: u64 = 1 << 60;
/// L2 tables that are kept.
const TABLES_KEPT: usize = 16;
/// Bits 9 to 55 of an L1 or L2 entry.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Incompatible features: the first may be set after a crash and is of no matter to a reader.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Whether a file that starts so is a qcow2.
pub(crate) fn is_qcow2(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Deflate,
    Zstd,
}

/// A virtual disk in a qcow2 file.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    file: Disk,
    size: u64,
    cluster_bits: u32,
    compression: Compression,
    l1: Vec<u64>,
    kept: RefCell<Kept>,
}

/// What was read lately.
#[derive(Debug, Default)]
struct Kept {
    /// L2 tables by their offset, the last used first.
    tables: VecDeque<(u64, Vec<u64>)>,
    /// The last compressed cluster, by its entry.
    cluster: Option<(u64, Vec<u8>)>,
}

/// What stands behind a cluster of the virtual disk.
enum Cluster {
    Zero,
    At(u64),
    Compressed(u64),
}

impl Qcow2 {
    pub(crate) fn open(file: Disk) -> Result<Self, Error> {
        let mut header = [0; 112];
        let present = usize::try_from(file.len()).unwrap_or(header.len()).min(header.len());
        if let Some(part) = header.get_mut(..present) {
            file.read_at(0, part)?;
        }
        let u32_at = |at| u32::from_be_bytes(array(&header, at).unwrap_or_default());
        let u64_at = |at| u64::from_be_bytes(array(&header, at).unwrap_or_default());
        let unsupported = |what: &str| Err(Error::Qcow2Unsupported { what: what.to_owned() });
        let version = u32_at(4);
        if !(2..=3).contains(&version) {
            return unsupported(&format!("version {version}; versions 2 and 3 are read"));
        }
        if u64_at(8) != 0 {
            return unsupported(
                "a backing file, without which it is not whole; make one file of it with `qemu-img convert -O qcow2`",
            );
        }
        if u32_at(32) != 0 {
            return unsupported("encryption; decrypt it with `qemu-img convert`");
        }
        let mut compression = Compression::Deflate;
        if version == 3 {
            let features = u64_at(72);
            let known = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;
            if features & CORRUPT != 0 {
                return unsupported("repair: it is marked as corrupt; see `qemu-img check -r`");
            }
            if features & EXTERNAL_DATA != 0 {
                return unsupported(
                    "an external data file; make one file of it with `qemu-img convert -O qcow2`",
                );
            }
            if features & EXTENDED_L2 != 0 {
                return unsupported("extended L2 entries; make it anew with `qemu-img convert -O qcow2`");
            }
            if features & !known != 0 {
                return unsupported(&format!("features that are not known here ({:#x})", features & !known));
            }
            if features & COMPRESSION_TYPE != 0 {
                compression = match header.get(104) {
                    Some(0) => Compression::Deflate,
                    Some(1) => Compression::Zstd,
                    other => {
                        let other = other.copied().unwrap_or_default();
                        return unsupported(&format!("compression type {other}; 0 and 1 are read"));
                    }
                };
            }
        }
        let cluster_bits = u32_at(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            let (found, limit) = (u64::from(cluster_bits), u64::from(*CLUSTER_BITS.end()));
            return Err(Error::Qcow2Value { what: "number of bits of a cluster", found, limit });
        }
        let size = u64_at(24);
        if size > SIZE_MAX {
            return Err(Error::Qcow2Value { what: "virtual size", found: size, limit: SIZE_MAX });
        }
        let l1 = Self::l1(&file, u64::from(u32_at(36)), u64_at(40))?;
        Ok(Self { file, size, cluster_bits, compression, l1, kept: RefCell::default() })
    }

    fn l1(file: &Disk, entries: u64, offset: u64) -> Result<Vec<u64>, Error> {
        let bytes = entries.saturating_mul(8);
        let limit = L1_BYTES_MAX.min(file.len());
        if bytes > limit {
            return Err(Error::Qcow2Value { what: "L1 table size", found: bytes, limit });
        }
        table(file, offset, bytes)
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// What is behind the cluster of this number.
    fn cluster(&self, number: u64) -> Result<Cluster, Error> {
        // An L2 table is one cluster of 8-byte entries.
        let l2_bits = self.cluster_bits.saturating_sub(3);
        let l1_index = usize::try_from(number >> l2_bits).unwrap_or(usize::MAX);
        let l2_index = usize::try_from(number & ((1_u64 << l2_bits) - 1)).unwrap_or(usize::MAX);
        let table_at = self.l1.get(l1_index).map_or(0, |entry| entry & OFFSET_MASK);
        if table_at == 0 {
            return Ok(Cluster::Zero);
        }
        let entry = self.l2_entry(table_at, l2_index)?;
        if entry & COMPRESSED != 0 {
            return Ok(Cluster::Compressed(entry));
        }
        let offset = entry & OFFSET_MASK;
        Ok(if offset == 0 || entry & ZERO != 0 { Cluster::Zero } else { Cluster::At(offset) })
    }

    fn l2_entry(&self, table_at: u64, index: usize) -> Result<u64, Error> {
        let mut kept = self.kept.borrow_mut();
        match kept.tables.iter().position(|(at, _)| *at == table_at) {
            Some(0) => {}
            Some(place) => kept.tables.swap(0, place),
            None => {
                let table = table(&self.file, table_at, self.cluster_size())?;
                kept.tables.push_front((table_at, table));
                kept.tables.truncate(TABLES_KEPT);
            }
        }
        Ok(kept.tables.front().and_then(|(_, table)| table.get(index)).copied().unwrap_or(0))
    }

    /// Copies what a compressed cluster has from `from` on.
    fn compressed(&self, entry: u64, from: usize, buffer: &mut [u8]) -> Result<(), Error> {
        let mut kept = self.kept.borrow_mut();
        if kept.cluster.as_ref().is_none_or(|(known, _)| *known != entry) {
            kept.cluster = Some((entry, self.decompressed(entry)?));
        }
        let cluster = kept.cluster.as_ref().map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
        let part = from.checked_add(buffer.len()).and_then(|end| cluster.get(from..end));
        let size = self.cluster_size();
        let (offset, len) = (from as u64, buffer.len() as u64);
        buffer.copy_from_slice(part.ok_or(Error::Outside { what: "cluster", offset, len, size })?);
        Ok(())
    }

    fn decompressed(&self, entry: u64) -> Result<Vec<u8>, Error> {
        // The lower bits are where it is, those above how many sectors it takes after the one that it starts in.
        let offset_bits = 62_u32.saturating_sub(self.cluster_bits.saturating_sub(8));
        let offset = entry & ((1_u64 << offset_bits) - 1);
        let more = (entry & (COMPRESSED - 1)) >> offset_bits;
        let end = (offset & !511).saturating_add(more.saturating_add(1).saturating_mul(512));
        // The last sector need not be there as a whole.
        let len = end.min(self.file.len()).saturating_sub(offset);
        let mut stored = vec![0; usize::try_from(len).unwrap_or(0)];
        self.file.read_at(offset, &mut stored)?;
        let size = usize::try_from(self.cluster_size()).unwrap_or(0);
        let mut cluster = vec![0; size];
        let failed = |source| Error::Qcow2Cluster { offset, source };
        match self.compression {
            Compression::Deflate => DeflateDecoder::new(stored.as_slice()).read_exact(&mut cluster),
            Compression::Zstd => StreamingDecoder::new_with_max_window_size(stored.as_slice(), 8 << 20)
                .map_err(io::Error::other)
                .and_then(|mut decoder| decoder.read_exact(&mut cluster)),
        }
        .map_err(failed)?;
        Ok(cluster)
    }
}

/// A table of big-endian numbers.
fn table(file: &Disk, offset: u64, bytes: u64) -> Result<Vec<u64>, Error> {
    let mut raw = vec![0; usize::try_from(bytes).unwrap_or(0)];
    file.read_at(offset, &mut raw)?;
    Ok(raw.chunks_exact(8).map(|entry| u64::from_be_bytes(array(entry, 0).unwrap_or_default())).collect())
}

impl Blocks for Qcow2 {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        super::inside("virtual disk", offset, buffer.len(), self.size)?;
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let within = at & (self.cluster_size() - 1);
            let here = usize::try_from(self.cluster_size() - within).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut(here);
            match self.cluster(at >> self.cluster_bits)? {
                Cluster::Zero => part.fill(0),
                Cluster::At(cluster) => self.file.read_at(cluster.saturating_add(within), part)?,
                Cluster::Compressed(entry) => {
                    self.compressed(entry, usize::try_from(within).unwrap_or(usize::MAX), part)?;
                }
            }
            at = at.saturating_add(here as u64);
            rest = after;
        }
        Ok(())
    }
}
