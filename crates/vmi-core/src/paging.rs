//! x86-64 page tables: 4 and 5 levels, 4 KiB, 2 MiB and 1 GiB pages (Intel SDM volume 3, section 4.5).
//!
//! Only *where* a page is matters here, not what the guest may do with it: permission bits, PCIDs and the rest are
//! masked off. Every entry is hostile; an entry that leads outside guest memory ends the walk, and a walk has as many
//! steps as there are levels, so it cannot loop.

use crate::look::PhysicalReadError;
use crate::{Gpa, Gva, Look};

/// Depth of the page tables: CR4.LA57 clear or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Levels {
    /// 48-bit virtual addresses.
    Four,
    /// 57-bit virtual addresses.
    Five,
}

impl Levels {
    /// 4 or 5.
    #[must_use]
    pub fn count(self) -> u8 {
        match self {
            Self::Four => 4,
            Self::Five => 5,
        }
    }

    /// Shift of the index bits at each level: 48 (PML5), 39 (PML4), 30 (PDPT), 21 (PD), 12 (PT).
    fn shifts(self) -> &'static [u32] {
        match self {
            Self::Four => &[39, 30, 21, 12],
            Self::Five => &[48, 39, 30, 21, 12],
        }
    }

    /// Whether the upper bits are copies of the highest translated bit, as the CPU demands.
    #[must_use]
    pub fn is_canonical(self, at: Gva) -> bool {
        let unused = match self {
            Self::Four => 16,
            Self::Five => 7,
        };
        #[allow(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "sign extension is the point")]
        let extended = (((at.0 << unused) as i64) >> unused) as u64;
        extended == at.0
    }
}

/// Where a virtual address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Physical address of the byte.
    pub at: Gpa,
    /// Size of the page it is in: 4 KiB, 2 MiB or 1 GiB.
    pub page_size: u64,
}

impl Translation {
    /// Bytes from the byte to the end of its page.
    pub(crate) fn left(&self) -> u64 {
        self.page_size - (self.at.0 & (self.page_size - 1))
    }
}

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// ``_PAGE_PROTNONE``, arch/x86/include/asm/pgtable_types.h: Linux keeps a page that the CPU may not touch for now, as automatic NUMA
/// balancing does to learn who uses it. Entries of swap leave the bit clear.
const KEPT: u64 = 1 << 8;
/// Bits 51..12: the physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Walks the tables at `root`. `Ok(None)`: not mapped. `Err`: an entry leads outside memory, or the backend failed.
pub(crate) fn translate(
    look: &Look<'_>,
    root: Gpa,
    levels: Levels,
    at: Gva,
) -> Result<Option<Translation>, PhysicalReadError> {
    if !levels.is_canonical(at) {
        return Ok(None);
    }
    let mut table = root.0 & ADDRESS;
    for shift in levels.shifts() {
        match followed(entry(look, entry_of(table, *shift, at))?, *shift, at) {
            Followed::Table(next) => table = next,
            Followed::Page(page) => return Ok(Some(page)),
            Followed::Nowhere => return Ok(None),
        }
    }
    Ok(None)
}

/// The way to a byte through tables that are not at hand, gone a step at a time by somebody who has other things to do while memory
/// answers: each step follows an entry that was expected before, and expects what it leads to. What it finds is no fact.
#[derive(Clone, Copy, Debug)]
pub struct Approach {
    to: Gva,
    /// The entry that is on its way.
    entry: Gpa,
    /// Shifts of its index and of those after it.
    shifts: &'static [u32],
}

impl Approach {
    /// Expects the first entry on the way to `to` in the tables at `root`. `None`: there is no such address.
    #[must_use]
    pub fn begin(look: &Look<'_>, root: Gpa, levels: Levels, to: Gva) -> Option<Self> {
        let shifts = levels.shifts();
        let entry = entry_of(root.0 & ADDRESS, *shifts.first()?, to);
        look.memory().expect(entry, 8);
        levels.is_canonical(to).then_some(Self { to, entry, shifts })
    }

    /// Follows the entry, and expects the next one, or the byte. `None`: that was the last step, or it leads nowhere.
    #[must_use]
    pub fn step(self, look: &Look<'_>) -> Option<Self> {
        let (shift, shifts) = self.shifts.split_first()?;
        match followed(entry(look, self.entry).ok()?, *shift, self.to) {
            Followed::Table(table) => {
                let entry = entry_of(table, *shifts.first()?, self.to);
                look.memory().expect(entry, 8);
                Some(Self { entry, shifts, ..self })
            }
            Followed::Page(page) => {
                look.memory().expect(page.at, 1);
                None
            }
            Followed::Nowhere => None,
        }
    }
}

/// The entry at `at`.
#[inline]
fn entry(look: &Look<'_>, at: Gpa) -> Result<u64, PhysicalReadError> {
    if let Some(page) = look.page(at) {
        look.charge(8)?;
        return Ok(page.word(at.0));
    }
    let mut bytes = [0; 8];
    look.read(at, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Where in the table at `table`, whose entries are for `1 << shift` bytes each, the entry for `at` is.
fn entry_of(table: u64, shift: u32, at: Gva) -> Gpa {
    Gpa(table | ((at.0 >> shift & 0x1ff) << 3))
}

/// Where an entry leads.
enum Followed {
    Table(u64),
    Page(Translation),
    Nowhere,
}

fn followed(entry: u64, shift: u32, at: Gva) -> Followed {
    let mut entry = entry;
    if entry & PRESENT == 0 {
        let is_leaf = shift == 12 || (shift == 21 && entry & LARGE != 0);
        if entry & KEPT == 0 || !is_leaf {
            return Followed::Nowhere;
        }
        // So that no CPU speculates through it, its address is inverted (arch/x86/include/asm/pgtable-invert.h, since 4.19).
        entry ^= ADDRESS;
    }
    let is_page = shift == 12 || (entry & LARGE != 0 && matches!(shift, 21 | 30));
    if !is_page {
        return Followed::Table(entry & ADDRESS);
    }
    let page_size = 1u64 << shift;
    let base = entry & ADDRESS & !(page_size - 1);
    Followed::Page(Translation { at: Gpa(base | (at.0 & (page_size - 1))), page_size })
}
