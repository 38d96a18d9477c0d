//! Guest memory that notes what is read of it.

use crate::report::size;
use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use vmi_core::{Access, Gpa, GuestMemory, MemoryError, PAGE_SIZE, Region};

/// What the processor fetches at once.
const LINE: u64 = 64;

/// Memory with a note of every read.
#[derive(Debug)]
pub struct Traced<'m> {
    inner: &'m dyn GuestMemory,
    reads: Mutex<Vec<Region>>,
}

/// What was read of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Reads, repeated ones included.
    pub reads: usize,
    /// Bytes of these reads.
    pub bytes: u64,
    /// The cache lines touched, neighbours joined.
    pub lines: Vec<Region>,
    /// The pages touched, neighbours joined.
    pub pages: Vec<Region>,
}

impl<'m> Traced<'m> {
    /// Passes everything on to `inner`.
    #[must_use]
    pub fn new(inner: &'m dyn GuestMemory) -> Self {
        Self { inner, reads: Mutex::default() }
    }

    /// What was read so far.
    #[must_use]
    pub fn footprint(self) -> Footprint {
        let reads = self.reads.into_inner().unwrap_or_else(PoisonError::into_inner);
        Footprint {
            reads: reads.len(),
            bytes: reads.iter().map(|read| read.len).sum(),
            lines: touched(&reads, LINE),
            pages: touched(&reads, PAGE_SIZE),
        }
    }
}

impl Footprint {
    /// Cache lines touched, each once: the least that can be fetched to know what the look knows.
    #[must_use]
    pub fn line_count(&self) -> u64 {
        bytes(&self.lines) / LINE
    }

    /// Adds the two raw copies of what was read, of the pages and of the lines.
    #[expect(clippy::expect_used, reason = "a bench that cannot measure has nothing else to do than to stop")]
    pub fn copies(&self, group: &mut BenchmarkGroup<'_, WallTime>, memory: &dyn GuestMemory) {
        for (name, runs) in [("pages", &self.pages), ("lines", &self.lines)] {
            let mut buffer = Vec::new();
            group.bench_function(name, |b| b.iter(|| copy(memory, runs, &mut buffer).expect("memory")));
        }
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} reads of {}, in {} cache lines ({}), {} of pages",
            self.reads,
            size(self.bytes),
            self.line_count(),
            size(bytes(&self.lines)),
            size(bytes(&self.pages))
        )
    }
}

/// The aligned units of `unit` bytes that the reads touch, ascending, neighbours joined.
fn touched(reads: &[Region], unit: u64) -> Vec<Region> {
    let units: BTreeSet<u64> = reads
        .iter()
        .filter(|read| read.len > 0)
        .flat_map(|read| read.start.0 / unit..=(read.end().0 - 1) / unit)
        .collect();
    let mut runs: Vec<Region> = Vec::new();
    for start in units.into_iter().map(|number| Gpa(number * unit)) {
        match runs.last_mut() {
            Some(last) if last.end() == start => last.len += unit,
            _ => runs.push(Region { start, len: unit }),
        }
    }
    runs
}

/// Bytes of some runs.
#[must_use]
pub fn bytes(runs: &[Region]) -> u64 {
    runs.iter().map(|run| run.len).sum()
}

/// Copies runs out of a guest into `buffer`, one after the other, and does nothing with them.
pub fn copy(memory: &dyn GuestMemory, runs: &[Region], buffer: &mut Vec<u8>) -> Result<(), MemoryError> {
    for run in runs {
        buffer.resize(usize::try_from(run.len).unwrap_or(0), 0);
        memory.read(run.start, buffer)?;
    }
    Ok(())
}

impl GuestMemory for Traced<'_> {
    fn regions(&self) -> &[Region] {
        self.inner.regions()
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.inner.read(at, buf)?;
        // What is tried where there is no memory is not read.
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.push(Region { start: at, len: buf.len() as u64 });
        Ok(())
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        self.inner.populated(within)
    }

    fn access(&self) -> Access {
        self.inner.access()
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        self.inner.begin_look()
    }
}
