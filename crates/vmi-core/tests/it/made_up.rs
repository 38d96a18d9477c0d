//! Physical memory made of pages that a test wrote, which counts what it is asked. Where it is mapped, words of pages that were
//! written come by one load.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use vmi_core::{Access, Gpa, GuestMemory, MemoryError, PAGE_SIZE, Region};

#[derive(Debug)]
pub struct MadeUp {
    pub pages: BTreeMap<u64, Vec<u8>>,
    pub regions: Vec<Region>,
    pub access: Access,
    pub reads: AtomicU64,
    pub words: AtomicU64,
}

impl MadeUp {
    /// `len` bytes of zeros from address 0.
    pub fn zeros(len: u64, access: Access) -> Self {
        Self {
            pages: BTreeMap::new(),
            regions: vec![Region { start: Gpa(0), len }],
            access,
            reads: AtomicU64::new(0),
            words: AtomicU64::new(0),
        }
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let at = at + index as u64;
            let page = self.pages.entry(at / PAGE_SIZE).or_insert_with(|| vec![0; PAGE_SIZE as usize]);
            page[(at % PAGE_SIZE) as usize] = *byte;
        }
    }

    pub fn write_u64(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl GuestMemory for MadeUp {
    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.region_of(at, buf.len() as u64).is_none() {
            return Err(MemoryError::Outside { at, len: buf.len() as u64 });
        }
        for (index, byte) in buf.iter_mut().enumerate() {
            let at = at.0 + index as u64;
            *byte = self.pages.get(&(at / PAGE_SIZE)).map_or(0, |page| page[(at % PAGE_SIZE) as usize]);
        }
        Ok(())
    }

    fn word(&self, at: Gpa) -> Option<u64> {
        assert_eq!(at.0 % 8, 0, "a word is asked for only where one can be");
        let page = self.pages.get(&(at.0 / PAGE_SIZE)).filter(|_| self.access == Access::Mapped)?;
        self.words.fetch_add(1, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        let start = (at.0 % PAGE_SIZE) as usize;
        Some(u64::from_le_bytes(page[start..start + 8].try_into().unwrap()))
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        Ok(vec![within])
    }

    fn access(&self) -> Access {
        self.access
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}
