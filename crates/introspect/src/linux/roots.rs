//! Page tables to try when the kernel does not describe itself: those of the vCPUs, and those that memory holds.
//!
//! Any address space of the guest serves, because all of them map the kernel (but for the user half of PTI, which maps too
//! little of it). What is found here is a candidate and no more; [`super::symbols`] asks it for a kernel.

use vmi_core::{Access, Gpa, GuestMemory, Levels, Look, MemoryError, PAGE_SIZE, Region, Registers};

/// Candidates that are tried. All address spaces of one kernel share the tables of the kernel's half and count as one, so
/// honest guests have one or two.
const CANDIDATES_MAX: usize = 16;
/// Bytes that a copying backend is asked for at once.
const CHUNK: u64 = 1 << 20;
/// [`PAGE_SIZE`] as the length of an array.
const PAGE_BYTES: usize = 4096;
/// Entry that maps the last part of the address space, where the kernel image is.
const LAST: u64 = 511;
/// First entry of a top-level table for the upper half of the address space.
const UPPER_HALF: usize = 256;
/// Entry of the level below that maps the 1 GiB from ``__START_KERNEL_map``.
const IMAGE: u64 = 510;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Bits 51..12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 62..52, which Linux leaves zero in the tables of the kernel's half.
const UNUSED: u64 = 0x7ff0_0000_0000_0000;

/// A top-level page table and its depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) at: Gpa,
    pub(super) levels: Levels,
}

/// The page tables that the vCPUs use, each once.
pub(super) fn of_registers(registers: &[Registers]) -> Vec<Root> {
    let mut roots = Vec::new();
    for vcpu in registers {
        for at in vcpu.roots() {
            let root = Root { at, levels: vcpu.levels() };
            if !roots.contains(&root) && roots.len() < CANDIDATES_MAX {
                roots.push(root);
            }
        }
    }
    roots
}

/// Whether the page tables of a vCPU map anything in the upper half of the address space, where every 64-bit kernel is.
/// Firmware, boot loaders and the kernel's own decompressor use the lower half only, or no such page tables at all.
pub(super) fn has_kernel_half(look: &Look<'_>, vcpu: &Registers) -> bool {
    vcpu.roots().into_iter().any(|root| {
        let mut page = [0; PAGE_BYTES];
        look.read(root, &mut page).is_ok()
            && page.as_chunks::<8>().0.iter().skip(UPPER_HALF).any(|entry| entry[0] & 1 != 0)
    })
}

/// Page tables that map something where the kernel image belongs, one for each set of kernel tables. One pass over
/// populated memory.
pub(super) fn search(look: &Look<'_>) -> Result<Vec<Root>, MemoryError> {
    let memory = look.memory();
    let mut found = Candidates { look, known: Vec::new(), roots: Vec::new() };
    for region in memory.regions() {
        for extent in memory.populated(*region)? {
            match memory.access() {
                Access::Mapped => search_pages(memory, extent, &mut found)?,
                Access::PerCall => search_chunks(memory, extent, &mut found)?,
            }
        }
    }
    Ok(found.roots)
}

fn search_pages(
    memory: &dyn GuestMemory,
    extent: Region,
    found: &mut Candidates<'_, '_>,
) -> Result<(), MemoryError> {
    let mut at = extent.start.page_base();
    while extent.contains(at, PAGE_SIZE) {
        if let Some(last) = at.element(LAST, 8) {
            let mut entry = [0; 8];
            match memory.read(last, &mut entry) {
                Ok(()) => found.consider(at, u64::from_le_bytes(entry)),
                Err(MemoryError::PagedOut { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(next) = at.checked_add(PAGE_SIZE) else { break };
        at = next;
    }
    Ok(())
}

fn search_chunks(
    memory: &dyn GuestMemory,
    extent: Region,
    found: &mut Candidates<'_, '_>,
) -> Result<(), MemoryError> {
    let mut chunk = Vec::new();
    let mut at = extent.start.page_base();
    while extent.contains(at, PAGE_SIZE) {
        let len = (extent.end().0 - at.0).min(CHUNK) & !(PAGE_SIZE - 1);
        chunk.resize(usize::try_from(len).unwrap_or(0), 0);
        match memory.read(at, &mut chunk) {
            Ok(()) => {}
            Err(MemoryError::PagedOut { .. }) => {
                search_pages(memory, Region { start: at, len }, found)?;
                chunk.clear();
            }
            Err(error) => return Err(error),
        }
        for (index, page) in chunk.chunks_exact(PAGE_BYTES).enumerate() {
            if let (Some(page_at), Some(entry)) = (at.element(index as u64, PAGE_SIZE), page.last_chunk()) {
                found.consider(page_at, u64::from_le_bytes(*entry));
            }
        }
        let Some(next) = at.checked_add(len) else { break };
        at = next;
    }
    Ok(())
}

struct Candidates<'l, 'm> {
    look: &'l Look<'m>,
    /// Tables that the last entries of roots lead to.
    known: Vec<Gpa>,
    roots: Vec<Root>,
}

impl Candidates<'_, '_> {
    /// Takes the page at `at`, whose last entry is `entry`, if it could be a root.
    fn consider(&mut self, at: Gpa, entry: u64) {
        let Some(below) = table(entry).filter(|below| !self.known.contains(below)) else { return };
        // The same tables are a root's of four levels, or the second level's of five: then the page above is found too.
        let levels = if self.maps_an_image(below) {
            Levels::Four
        } else if self.entry(below, LAST).and_then(table).is_some_and(|below| self.maps_an_image(below)) {
            Levels::Five
        } else {
            return;
        };
        if self.roots.len() < CANDIDATES_MAX {
            self.known.push(below);
            self.roots.push(Root { at, levels });
        }
    }

    /// Whether the third-level table at `table` maps pages where the kernel image belongs.
    fn maps_an_image(&self, third: Gpa) -> bool {
        let Some(second) = self.entry(third, IMAGE).and_then(table) else { return false };
        (0..=LAST)
            .filter_map(|index| self.entry(second, index))
            .any(|entry| entry & (PRESENT | LARGE) == PRESENT | LARGE)
    }

    fn entry(&self, table: Gpa, index: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.look.read(table.element(index, 8)?, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

/// The next table that an entry leads to.
fn table(entry: u64) -> Option<Gpa> {
    (entry & (PRESENT | LARGE | UNUSED) == PRESENT).then_some(Gpa(entry & ADDRESS))
}
