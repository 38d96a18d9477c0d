//! Guests that Birthmark can open, as a driver of the [vmi-rs](https://github.com/vmi-rs/vmi) crates: their architecture, their sessions
//! and tools then work on KVM, QEMU, Xen and memory images as Birthmark reads them, without a patch, a module or a pause.
//!
//! ```no_run
//! use vmi_core::{Pa, Va, VmiCore};
//! use vmi_rs_adapter::Driver;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vmi = VmiCore::new(Driver::open("web-1")?)?;
//! let root = Pa(0x1a0_c000); // of the page tables, as `birthmark snapshot web-1 --json` has it
//! let banner = vmi.read_string((Va(0xffff_ffff_82a0_0180), root))?;
//! # Ok(())
//! # }
//! ```
//!
//! Reading only: of vmi-rs's traits those are here that change nothing, [`VmiRead`] and [`VmiQueryRegisters`]. What vmi-rs cannot
//! do stays so: it walks page tables of four levels, so a guest with five is refused where that can be told, and its caches
//! ([`VmiCore`](vmi_core::VmiCore)) are never emptied unless the caller does ([`Driver::new_look`]).

use birthmark_memory::{Levels, MemoryError, PAGE_SIZE};
use hypervisor::{OpenedVm, Target};
use std::fmt;
use std::ops::Deref;
use vmi_arch_amd64::{Amd64, Idtr, Registers};
use vmi_core::driver::{VmiQueryRegisters, VmiRead};
use vmi_core::{Architecture, Gfn, VcpuId, VmiDriver, VmiError, VmiInfo, VmiMappedPage};

/// `EFER.LME` and `EFER.LMA`: long mode.
const LONG_MODE: u64 = 1 << 8 | 1 << 10;

/// A guest, read-only.
#[derive(Debug)]
pub struct Driver {
    vm: OpenedVm,
}

/// Why a vCPU's registers are not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRegisters {
    /// The guest has no vCPU of that number, or its image has no registers.
    NoSuchVcpu(VcpuId),
    /// It runs with page tables of five levels, which vmi-rs would walk as if they had four.
    FiveLevels(VcpuId),
    /// It has not switched paging on yet.
    NoPaging(VcpuId),
}

impl fmt::Display for NoRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchVcpu(vcpu) => {
                write!(f, "Registers of vCPU {vcpu} are not known: there is none, or its image has none")
            }
            Self::FiveLevels(vcpu) => {
                write!(f, "vCPU {vcpu} has page tables of five levels, of which vmi-rs reads four")
            }
            Self::NoPaging(vcpu) => {
                write!(f, "vCPU {vcpu} has paging switched off: its guest has not come to a kernel yet")
            }
        }
    }
}

impl std::error::Error for NoRegisters {}

impl Driver {
    /// Opens a guest by the name, `pid:N`, `uuid:U`, `xen:DOMID` or image path that `birthmark` takes too.
    pub fn open(target: &str) -> Result<Self, hypervisor::Error> {
        Ok(Self::of(hypervisor::open(&target.parse::<Target>()?)?))
    }

    /// A guest that was opened already.
    #[must_use]
    pub fn of(vm: OpenedVm) -> Self {
        Self { vm }
    }

    /// The guest.
    #[must_use]
    pub fn vm(&self) -> &OpenedVm {
        &self.vm
    }

    /// Forgets what was known of which pages exist, and says whether the guest is still there. To be followed by
    /// `flush_gfn_cache` and `flush_v2p_cache` of the [`VmiCore`](vmi_core::VmiCore): vmi-rs keeps pages for ever.
    pub fn new_look(&self) -> Result<(), MemoryError> {
        self.vm.memory.begin_look()
    }
}

/// Bytes of a page.
const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);

/// A copy of a page of the guest, aligned so that what is in it can be looked at in place, as vmi-rs does with page tables.
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// vmi-rs asks for what it can look through; an array of 4 KiB is too large to be moved about.
struct Copied(Box<Page>);

impl Deref for Copied {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.0
    }
}

impl VmiDriver for Driver {
    type Architecture = Amd64;

    fn info(&self) -> Result<VmiInfo, VmiError> {
        let end = self.vm.memory.regions().last().map_or(0, |region| region.end().0);
        Ok(VmiInfo {
            page_size: Amd64::PAGE_SIZE,
            page_shift: Amd64::PAGE_SHIFT,
            max_gfn: Gfn((end / PAGE_SIZE).saturating_sub(1)),
            // An image may not say how many it had; one there was.
            vcpus: self.vm.vm.vcpus.and_then(|count| u16::try_from(count).ok()).unwrap_or(1),
        })
    }
}

impl VmiRead for Driver {
    fn read_page(&self, gfn: Gfn) -> Result<VmiMappedPage, VmiError> {
        let at = gfn.0.checked_mul(PAGE_SIZE).ok_or(VmiError::OutOfBounds)?;
        let mut page = Copied(Box::new(Page([0; PAGE])));
        match self.vm.memory.read(birthmark_memory::Gpa(at), &mut page.0.0) {
            Ok(()) => Ok(VmiMappedPage::new(page)),
            // Devices, or nothing: it is no memory, and zeros would be a lie.
            Err(MemoryError::Outside { .. }) => Err(VmiError::OutOfBounds),
            Err(error) => Err(VmiError::driver(error)),
        }
    }
}

impl VmiQueryRegisters for Driver {
    /// CR0, CR3, CR4, IDTR and EFER's long mode. All others are 0: they cannot be had without the vCPU's help.
    fn registers(&self, vcpu: VcpuId) -> Result<Registers, VmiError> {
        let known = self.vm.registers().map_err(VmiError::driver)?;
        let known =
            known.get(usize::from(vcpu.0)).ok_or_else(|| VmiError::driver(NoRegisters::NoSuchVcpu(vcpu)))?;
        if !known.has_paging() {
            return Err(VmiError::driver(NoRegisters::NoPaging(vcpu)));
        }
        if known.levels() == Levels::Five {
            return Err(VmiError::driver(NoRegisters::FiveLevels(vcpu)));
        }
        Ok(Registers {
            cr0: known.cr0.into(),
            cr3: known.cr3.into(),
            cr4: known.cr4.into(),
            idtr: Idtr { base: known.idt.0, limit: 0xfff },
            msr_efer: LONG_MODE.into(),
            ..Registers::default()
        })
    }
}
