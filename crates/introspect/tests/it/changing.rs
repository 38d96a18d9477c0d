//! Memory that changes while it is looked at, at one moment and no other: what is in front of a stopped guest's memory answers as that was
//! at first, until some word has been read so often.

use std::sync::atomic::{AtomicU64, Ordering};
use vmi_core::{Access, Gpa, GuestMemory, MemoryError, Region};

/// Words, by their physical addresses.
pub type Words = Vec<(u64, u64)>;

/// Memory in which words are others at first.
#[derive(Debug)]
pub struct Changing<'m> {
    memory: &'m dyn GuestMemory,
    access: Access,
    first: Words,
    then: Words,
    watched: u64,
    /// How often the watched word is read before it changes, and was read.
    until: u64,
    reads: AtomicU64,
}

impl<'m> Changing<'m> {
    /// `watched`: physical address of the word after the reading of which, for the time `until`, `then` holds and not `first`.
    pub fn new(
        memory: &'m dyn GuestMemory,
        access: Access,
        first: &Words,
        then: &Words,
        watched: u64,
        until: u64,
    ) -> Self {
        let (first, then) = (first.clone(), then.clone());
        Self { memory, access, first, then, watched, until, reads: AtomicU64::new(0) }
    }

    /// How often the watched word was read.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl GuestMemory for Changing<'_> {
    fn regions(&self) -> &[Region] {
        self.memory.regions()
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(at, buf)?;
        let covers = |word: u64| at.0 <= word && word + 8 <= at.0 + buf.len() as u64;
        let reads = match covers(self.watched) {
            true => self.reads.fetch_add(1, Ordering::Relaxed),
            false => self.reads(),
        };
        let words = if reads < self.until { &self.first } else { &self.then };
        for (word, value) in words {
            let bytes = (0..8).zip(value.to_le_bytes());
            for (place, byte) in
                bytes.filter_map(|(index, byte)| Some(((word + index).checked_sub(at.0)?, byte)))
            {
                if let Some(place) = buf.get_mut(usize::try_from(place).unwrap()) {
                    *place = byte;
                }
            }
        }
        Ok(())
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        self.memory.populated(within)
    }

    fn access(&self) -> Access {
        self.access
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        self.memory.begin_look()
    }
}
