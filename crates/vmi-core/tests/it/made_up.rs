//! Physical memory made of pages that a test wrote, which counts what it is asked. Where it is mapped, pages that were written are lent.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use vmi_core::{Access, Gpa, GuestMemory, LINE, MemoryError, PAGE_SIZE, Page, Region};

#[derive(Debug)]
pub struct MadeUp {
    pub pages: BTreeMap<u64, Vec<u8>>,
    pub regions: Vec<Region>,
    pub access: Access,
    pub reads: AtomicU64,
    lent: BTreeMap<u64, Page>,
    /// How often a page was lent.
    pub loans: AtomicU64,
    /// What is expected to be read: number of a page, and lines of it, one bit each.
    pub expected: Mutex<Vec<(u64, u64)>>,
}

impl MadeUp {
    /// `len` bytes of zeros from address 0.
    pub fn zeros(len: u64, access: Access) -> Self {
        Self {
            pages: BTreeMap::new(),
            regions: vec![Region { start: Gpa(0), len }],
            access,
            reads: AtomicU64::new(0),
            lent: BTreeMap::new(),
            loans: AtomicU64::new(0),
            expected: Mutex::default(),
        }
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let at = at + index as u64;
            let page = self.pages.entry(at / PAGE_SIZE).or_insert_with(|| vec![0; PAGE_SIZE as usize]);
            page[(at % PAGE_SIZE) as usize] = *byte;
        }
        for number in at / PAGE_SIZE..=(at + bytes.len().max(1) as u64 - 1) / PAGE_SIZE {
            let page = &self.pages[&number];
            let word = |index: usize| u64::from_ne_bytes(*page[index * 8..].first_chunk().unwrap()).into();
            self.lent.insert(number, Page::new(std::array::from_fn(word)));
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

    fn page(&self, at: Gpa) -> Option<&Page> {
        let page = self.lent.get(&(at.0 / PAGE_SIZE)).filter(|_| self.access == Access::Mapped)?;
        self.loans.fetch_add(1, Ordering::Relaxed);
        Some(page)
    }

    fn expect(&self, at: Gpa, len: u64) {
        let lines = (at.0 % PAGE_SIZE / LINE..=(at.0 % PAGE_SIZE + len - 1) / LINE)
            .fold(0, |all, line| all | 1 << line);
        self.expected.lock().unwrap().push((at.0 / PAGE_SIZE, lines));
    }

    fn expect_of(&self, page: &Page, lines: u64) {
        let number = self.lent.iter().find(|(_, lent)| std::ptr::eq(*lent, page)).unwrap().0;
        self.expected.lock().unwrap().push((*number, lines));
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
