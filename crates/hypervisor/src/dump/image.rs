//! An image file, mapped read-only, and the guest memory made of its segments.
//!
//! The file is mapped and not read, so a look at a dump of many gigabytes costs what it touches. Bytes are copied out by
//! volatile loads, as for a live guest: nothing keeps somebody from writing to the file meanwhile. A file that is made
//! shorter while it is mapped ends the process with `SIGBUS`; [`ImageMemory::begin_look`] checks its length.

use crate::Error;
use crate::copy::copy_volatile;
use crate::kvm::{joined, page_aligned};
use crate::sparse::data_extents;
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::path::{Path, PathBuf};
use vmi_core::{Access, Gpa, GuestMemory, MemoryError, Region, Registers};

/// A regular file that is not empty.
#[derive(Debug)]
pub(super) struct Image {
    path: PathBuf,
    file: File,
    map: Mmap,
}

impl Image {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::ImageOpen { path: path.to_owned(), source };
        // Asked before it is opened: opening a FIFO would wait for a writer.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::ImageNotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.len() == 0 {
            return Err(Error::ImageFormat { path: path.to_owned(), what: "it is empty".to_owned() });
        }
        // SAFETY: the map is never turned into a slice: bytes leave it through `copy_volatile`, so writers to the file do
        // no harm. A file cut short under the map raises SIGBUS, see the module.
        let map = unsafe { MmapOptions::new().map(&file) }.map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, map })
    }

    /// Bytes of the file when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Copies bytes of the file.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let expected = offset.saturating_add(out.len() as u64);
        let Some(start) = usize::try_from(offset).ok().filter(|_| expected <= self.len()) else {
            return Err(self.truncated(offset, expected));
        };
        // SAFETY: `start + out.len()` is `expected`, at most the length of the map, which lives as long as `self`.
        unsafe { copy_volatile(self.map.as_ptr().add(start), out) };
        Ok(())
    }

    /// Reads `N` bytes of the file.
    pub(super) fn bytes<const N: usize>(&self, offset: u64) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        self.read(offset, &mut out)?;
        Ok(out)
    }

    pub(super) fn truncated(&self, offset: u64, expected: u64) -> Error {
        Error::ImageTruncated { path: self.path.clone(), offset, expected, actual: self.len() }
    }

    pub(super) fn malformed(&self, what: String) -> Error {
        Error::ImageFormat { path: self.path.clone(), what }
    }
}

/// A run of guest memory and where it is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) guest: Region,
    pub(super) offset: u64,
}

/// Guest memory in an image.
#[derive(Debug)]
pub struct ImageMemory {
    image: Image,
    /// Ascending, without overlap, inside the file.
    segments: Vec<Segment>,
    /// The same with neighbours joined.
    regions: Vec<Region>,
    registers: Vec<Registers>,
}

impl ImageMemory {
    /// Sorts the segments, checks them against the file, and cuts off of each what an earlier one has already (a dump made
    /// with paging names one piece of memory once per virtual address).
    pub(super) fn new(
        image: Image,
        mut segments: Vec<Segment>,
        registers: Vec<Registers>,
    ) -> Result<Self, Error> {
        segments.retain(|segment| segment.guest.len > 0);
        for segment in &segments {
            let end = segment.offset.checked_add(segment.guest.len);
            if end.is_none_or(|end| end > image.len()) {
                return Err(image.truncated(segment.offset, end.unwrap_or(u64::MAX)));
            }
            if segment.guest.start.checked_add(segment.guest.len).is_none() {
                return Err(
                    image.malformed(format!("a segment at {} leaves the address space", segment.guest.start))
                );
            }
        }
        segments.sort_by_key(|segment| (segment.guest.start, std::cmp::Reverse(segment.guest.len)));
        let mut end = 0;
        let mut kept: Vec<Segment> = Vec::with_capacity(segments.len());
        for segment in segments {
            let known = end.max(segment.guest.start.0) - segment.guest.start.0;
            if known >= segment.guest.len {
                continue;
            }
            let start = Gpa(segment.guest.start.0.saturating_add(known));
            let guest = Region { start, len: segment.guest.len - known };
            end = guest.end().0;
            kept.push(Segment { guest, offset: segment.offset.saturating_add(known) });
        }
        if kept.is_empty() {
            return Err(image.malformed("it holds no memory".to_owned()));
        }
        let regions = joined(kept.iter().map(|segment| segment.guest));
        Ok(Self { image, segments: kept, regions, registers })
    }

    /// Registers of the vCPUs at the moment of the dump; empty where the image has none.
    #[must_use]
    pub fn registers(&self) -> &[Registers] {
        &self.registers
    }

    /// The parts of segments that `[at, at + len)` touches, ascending.
    fn parts(&self, at: Gpa, len: u64) -> impl Iterator<Item = Segment> {
        let end = at.0.saturating_add(len);
        let first = self.segments.partition_point(|segment| segment.guest.end() <= at);
        self.segments.iter().skip(first).take_while(move |segment| segment.guest.start.0 < end).map(
            move |segment| {
                let start = segment.guest.start.max(at);
                let skipped = start.0.saturating_sub(segment.guest.start.0);
                let len = segment.guest.end().0.min(end).saturating_sub(start.0);
                Segment { guest: Region { start, len }, offset: segment.offset.saturating_add(skipped) }
            },
        )
    }
}

impl GuestMemory for ImageMemory {
    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len() as u64;
        let outside = || MemoryError::Outside { at, len };
        if self.region_of(at, len).is_none() {
            return Err(outside());
        }
        let mut rest = buf;
        for part in self.parts(at, len) {
            let size = usize::try_from(part.guest.len).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(size);
            // Segments were checked against the file, so this cannot fail.
            self.image.read(part.offset, now).map_err(|_| outside())?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(outside()) }
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        let mut found = Vec::new();
        for part in self.parts(within.start, within.len) {
            let end = part.offset.saturating_add(part.guest.len);
            let extents = data_extents(&self.image.file, part.offset..end)
                .map_err(|source| MemoryError::Io { at: part.guest.start, len: part.guest.len, source })?;
            found.extend(extents.into_iter().map(|extent| Region {
                start: Gpa(part.guest.start.0.saturating_add(extent.start.saturating_sub(part.offset))),
                len: extent.end.saturating_sub(extent.start),
            }));
        }
        Ok(page_aligned(found, &self.regions))
    }

    fn access(&self) -> Access {
        Access::Mapped
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        let gone = |what| Err(MemoryError::Gone { what });
        match self.image.file.metadata() {
            Ok(metadata) if metadata.len() >= self.image.len() => Ok(()),
            Ok(metadata) => {
                gone(format!("{} was cut to {} bytes", self.image.path.display(), metadata.len()))
            }
            Err(error) => gone(format!("{} does not answer: {error}", self.image.path.display())),
        }
    }
}
