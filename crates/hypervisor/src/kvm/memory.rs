//! The memory of one QEMU guest: blocks in the host, placements in the guest, and the process that must still live.

use super::layout::Placement;
use super::locate::Located;
use super::maps::Mapping;
use super::process::Process;
use super::process_mem::{Absent, ProcessMem, open_mem};
use super::shared_mem::{SharedMem, prefetch_of};
use crate::Error;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vmi_core::{Access, Gpa, GuestMemory, MemoryError, PAGE_SIZE, Page, Region};

/// Descriptors of the VMM by the file they are of, `(device, inode)`; the lowest number each.
pub(crate) type DescriptorsByFile = HashMap<((u32, u32), u64), u32>;

/// One block of guest memory, opened.
#[derive(Debug)]
pub(crate) enum Block {
    Shared(SharedMem),
    Process(ProcessMem),
}

impl Block {
    /// Opens a block. `mem` is the process's memory, opened when it is first needed.
    pub(crate) fn open(
        pid: u32,
        found: &Located,
        descriptors: &DescriptorsByFile,
        mem: &mut Option<Arc<File>>,
    ) -> Result<Self, Error> {
        if found.mapping.shared {
            return Ok(Self::Shared(open_shared(pid, found, descriptors)?));
        }
        let mem = match mem {
            Some(mem) => Arc::clone(mem),
            None => Arc::clone(mem.insert(open_mem(pid)?)),
        };
        let absent = if found.mapping.is_anonymous() {
            Absent::Zeros
        } else {
            let offset = found.file_offset();
            let file = open_file(pid, &found.mapping, descriptors);
            file.map_or(Absent::Unknown, |file| Absent::File { file, offset })
        };
        let memory = ProcessMem::new(pid, mem, found.start, found.size, absent);
        Ok(Self::Process(memory.map_err(|source| Error::Map { pid, len: found.size, source })?))
    }

    #[inline]
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Shared(memory) => memory.read(offset, out),
            Self::Process(memory) => memory.read(offset, out),
        }
    }

    fn read_once(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Shared(memory) => memory.read_once(offset, out),
            Self::Process(memory) => memory.read_once(offset, out),
        }
    }

    fn populated(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        match self {
            Self::Shared(memory) => memory.populated(within),
            Self::Process(memory) => memory.populated(within),
        }
    }
}

/// Memory of a running guest. Made by [`crate::open`].
#[derive(Debug)]
pub struct KvmMemory {
    process: Arc<Process>,
    /// Ascending.
    placements: Vec<Placement>,
    /// The same with neighbours joined.
    regions: Vec<Region>,
    blocks: Vec<Block>,
    /// Index of the placement that was asked for last.
    last: AtomicUsize,
}

impl KvmMemory {
    /// Opens every block that a placement uses. `located` is parallel to the block numbers of `placements`.
    pub(crate) fn open(
        process: Arc<Process>,
        mut placements: Vec<Placement>,
        located: &[Located],
        descriptors: &DescriptorsByFile,
    ) -> Result<Self, Error> {
        placements.sort_by_key(|placement| placement.guest.start);
        let pid = process.pid();
        let mut mem = None;
        let mut blocks = Vec::with_capacity(located.len());
        for found in located {
            blocks.push(Block::open(pid, found, descriptors, &mut mem)?);
        }
        let regions = joined(placements.iter().map(|placement| placement.guest));
        Ok(Self { process, placements, regions, blocks, last: AtomicUsize::new(0) })
    }

    /// The placements that `[at, at + len)` touches, as parts: placement's block, offset in it, bytes.
    fn parts(&self, at: Gpa, len: u64) -> impl Iterator<Item = (&Block, Range<u64>, Gpa)> {
        let end = at.0.saturating_add(len);
        let first = self.placements.partition_point(|placement| placement.guest.end() <= at);
        self.placements
            .iter()
            .skip(first)
            .take_while(move |placement| placement.guest.start.0 < end)
            .filter_map(move |placement| {
                let block = self.blocks.get(placement.block)?;
                let from = placement.guest.start.max(at);
                let to = placement.guest.end().0.min(end);
                let offset = placement.offset.checked_add(from.0.checked_sub(placement.guest.start.0)?)?;
                Some((block, offset..offset.checked_add(to.checked_sub(from.0)?)?, from))
            })
    }

    /// The block that all of `[at, at + len)` is in, and where. `None`: it is not in one placement.
    #[inline]
    fn around(&self, at: Gpa, len: u64) -> Option<(&Block, u64)> {
        let within = |placement: &&Placement| placement.guest.contains(at, len);
        // Mostly it is where the last one was.
        let last = self.placements.get(self.last.load(Ordering::Relaxed)).filter(within);
        let placement = last.or_else(|| {
            let first = self.placements.partition_point(|placement| placement.guest.end() <= at);
            let placement = self.placements.get(first).filter(within)?;
            self.last.store(first, Ordering::Relaxed);
            Some(placement)
        })?;
        let offset = placement.offset.checked_add(at.0.checked_sub(placement.guest.start.0)?)?;
        Some((self.blocks.get(placement.block)?, offset))
    }

    /// Copies a range that is not in one placement.
    #[cold]
    fn read_across(&self, at: Gpa, len: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        if self.region_of(at, len).is_none() {
            return Err(MemoryError::Outside { at, len });
        }
        let mut rest = buf;
        for (block, part, _) in self.parts(at, len) {
            let size =
                usize::try_from(part.end.saturating_sub(part.start)).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(size);
            block.read(part.start, now).map_err(|source| self.failed(at, len, source))?;
            rest = later;
        }
        // The parts of a range inside a region cover it; a hole here would be bytes of the caller's left unread.
        if rest.is_empty() { Ok(()) } else { Err(MemoryError::Outside { at, len }) }
    }

    #[cold]
    fn failed(&self, at: Gpa, len: u64, source: io::Error) -> MemoryError {
        if !self.process.is_alive() {
            return self.gone();
        }
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return MemoryError::Gone { what: format!("the memory of process {} ended", self.process.pid()) };
        }
        MemoryError::Io { at, len, source }
    }

    fn gone(&self) -> MemoryError {
        MemoryError::Gone { what: format!("process {} has ended", self.process.pid()) }
    }
}

impl GuestMemory for KvmMemory {
    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len() as u64;
        // Nearly every read lies in one placement.
        match self.around(at, len) {
            Some((block, offset)) => block.read(offset, buf).map_err(|source| self.failed(at, len, source)),
            None => self.read_across(at, len, buf),
        }
    }

    fn page(&self, at: Gpa) -> Option<&Page> {
        match self.around(at.page_base(), PAGE_SIZE)? {
            (Block::Shared(memory), offset) => memory.page(offset),
            (Block::Process(_), _) => None,
        }
    }

    fn read_once(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len() as u64;
        match self.around(at, len) {
            Some((block, offset)) => {
                block.read_once(offset, buf).map_err(|source| self.failed(at, len, source))
            }
            None => self.read(at, buf),
        }
    }

    fn expect(&self, at: Gpa, len: u64) {
        if let Some((Block::Shared(memory), offset)) = self.around(at, len) {
            memory.expect(offset, len);
        }
    }

    fn expect_of(&self, page: &Page, lines: u64) {
        prefetch_of(page, lines);
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        let mut found = Vec::new();
        for (block, part, guest) in self.parts(within.start, within.len) {
            let extents = block
                .populated(part.clone())
                .map_err(|source| self.failed(guest, part.end.saturating_sub(part.start), source))?;
            found.extend(extents.into_iter().map(|extent| Region {
                start: Gpa(guest.0.saturating_add(extent.start.saturating_sub(part.start))),
                len: extent.end.saturating_sub(extent.start),
            }));
        }
        Ok(page_aligned(found, &self.regions))
    }

    fn access(&self) -> Access {
        let mapped = |block: &Block| matches!(block, Block::Shared(memory) if memory.is_mapped());
        if self.blocks.iter().all(mapped) { Access::Mapped } else { Access::PerCall }
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        if !self.process.is_alive() {
            return Err(self.gone());
        }
        for block in &self.blocks {
            match block {
                Block::Shared(memory) => memory.begin_look().map_err(|what| MemoryError::Gone { what })?,
                Block::Process(memory) => memory.begin_look(),
            }
        }
        Ok(())
    }
}

/// Regions with those that touch made one. They must be ascending.
pub(crate) fn joined(regions: impl Iterator<Item = Region>) -> Vec<Region> {
    let mut all: Vec<Region> = Vec::new();
    for region in regions.filter(|region| region.len > 0) {
        match all.last_mut() {
            Some(last) if last.end() >= region.start => {
                last.len = last.len.max(region.end().0.saturating_sub(last.start.0));
            }
            _ => all.push(region),
        }
    }
    all
}

/// Ascending extents widened to whole pages, cut to the regions, and joined.
pub(crate) fn page_aligned(extents: Vec<Region>, regions: &[Region]) -> Vec<Region> {
    let widened = joined(extents.into_iter().map(|extent| {
        let start = extent.start.page_base();
        let end = extent.end().0.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        Region { start, len: end.saturating_sub(start.0) }
    }));
    let mut cut = Vec::new();
    for extent in widened {
        let first = regions.partition_point(|region| region.end() <= extent.start);
        for region in regions.iter().skip(first).take_while(|region| region.start < extent.end()) {
            let start = extent.start.max(region.start);
            let len = extent.end().0.min(region.end().0).saturating_sub(start.0);
            cut.push(Region { start, len });
        }
    }
    cut
}

/// Opens the file behind a mapping for reading: through the VMM's own descriptor of it, else through `map_files`.
fn open_file(pid: u32, mapping: &Mapping, descriptors: &DescriptorsByFile) -> io::Result<File> {
    let by_descriptor = descriptors
        .get(&(mapping.device, mapping.inode))
        .map(|number| PathBuf::from(format!("/proc/{pid}/fd/{number}")));
    if let Some(Ok(file)) = by_descriptor.map(File::open) {
        return Ok(file);
    }
    File::open(format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end))
}

fn open_shared(pid: u32, found: &Located, descriptors: &DescriptorsByFile) -> Result<SharedMem, Error> {
    let mapping = &found.mapping;
    let file = open_file(pid, mapping, descriptors).map_err(|source| Error::SharedUnopenable {
        pid,
        start: found.start,
        name: mapping.name.clone(),
        source,
    })?;
    let offset = found.file_offset();
    let expected = offset.saturating_add(found.size);
    let actual = file.metadata().map_err(|source| Error::Map { pid, len: found.size, source })?.len();
    if actual < expected {
        return Err(Error::SharedTooShort { pid, expected, actual });
    }
    SharedMem::new(file, offset, found.size, Some((pid, found.start))).map_err(|source| Error::Map {
        pid,
        len: found.size,
        source,
    })
}
