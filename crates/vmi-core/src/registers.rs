//! What a vCPU's registers say about where its page tables are.
//!
//! Registers come from the hypervisor, not from guest memory, so nobody in the guest can write them without living by what
//! they say. They are a hint all the same: a vCPU may be caught in user mode with page tables that map next to nothing of
//! the kernel (PTI), in a guest of its own, or before paging is on. Whoever uses them checks where they lead.

use crate::{Gpa, Gva, Levels};

/// CR0.PG: paging is on.
const CR0_PAGING: u64 = 1 << 31;
/// CR4.PAE: page tables of 8-byte entries, without which there is no 64-bit mode.
const CR4_PAE: u64 = 1 << 5;
/// CR4.LA57: five levels.
const CR4_LA57: u64 = 1 << 12;
/// Bits 51..12 of CR3: the table; below are PCID and flags.
const CR3_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The page-table root of user mode is the page behind the kernel's (``PTI_USER_PGTABLE_BIT``, arch/x86/include/asm/tlbflush.h).
const PTI_USER: u64 = 1 << 12;

/// Registers of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// Base of the interrupt descriptor table.
    pub idt: Gva,
}

impl Registers {
    /// Whether the vCPU runs with page tables of the 64-bit kind. Before that a guest is in its firmware or boot loader.
    #[must_use]
    pub fn has_paging(&self) -> bool {
        self.cr0 & CR0_PAGING != 0 && self.cr4 & CR4_PAE != 0
    }

    /// Depth of its page tables.
    #[must_use]
    pub fn levels(&self) -> Levels {
        if self.cr4 & CR4_LA57 == 0 { Levels::Four } else { Levels::Five }
    }

    /// Top-level page tables to try, the likelier first: the one in CR3, and the one that the kernel uses where the vCPU
    /// was caught in user mode with those of PTI.
    #[must_use]
    pub fn roots(&self) -> Vec<Gpa> {
        if !self.has_paging() {
            return Vec::new();
        }
        let root = self.cr3 & CR3_ADDRESS;
        if root & PTI_USER == 0 { vec![Gpa(root)] } else { vec![Gpa(root & !PTI_USER), Gpa(root)] }
    }
}
