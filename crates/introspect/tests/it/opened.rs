//! A booted guest, looked at from outside.

use anyhow::Result;
use facts::{Snapshot, Vm};
use hypervisor::{OpenedVm, Target};
use introspect::{Kernel, Options};
use std::time::Duration;
use testkit::{Guest, GuestSpec};
use vmi_core::Budget;

/// What finding a kernel may cost here: an emulated guest on a busy machine is slow, and that is not what is tested.
pub const PATIENT: Budget = Budget { time: Duration::from_secs(60), bytes: 64 << 30 };

pub struct Opened {
    pub guest: Guest,
    pub vm: OpenedVm,
    pub kernel: Kernel,
}

impl Opened {
    pub fn boot(spec: GuestSpec) -> Result<Self> {
        Self::open(Guest::boot(spec)?)
    }

    pub fn open(guest: Guest) -> Result<Self> {
        let vm = hypervisor::open(&Target::Pid(guest.pid()))?;
        let kernel = introspect::locate(&*vm.memory, PATIENT)?;
        Ok(Self { guest, vm, kernel })
    }

    pub fn facts(&self) -> &Vm {
        &self.vm.vm
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        let options = Options { budget: PATIENT, ..Options::default() };
        Ok(introspect::snapshot(&*self.vm.memory, &self.kernel, self.facts(), &options)?)
    }

    /// Host memory behind the guest's, in KiB: what is resident of the VMM's mappings of 64 MiB and more. The VMM's own heap
    /// is not in it: that grows as the VMM likes.
    pub fn resident(&self) -> u64 {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", self.guest.pid())).unwrap();
        let value = |line: &str, key: &str| -> Option<u64> {
            line.strip_prefix(key)?.split_whitespace().next()?.parse().ok()
        };
        let (mut size, mut resident) = (0, 0);
        for line in smaps.lines() {
            if let Some(kib) = value(line, "Size:") {
                size = kib;
            }
            // Huge pages are counted apart.
            for key in ["Rss:", "Shared_Hugetlb:", "Private_Hugetlb:"] {
                if let Some(kib) = value(line, key).filter(|_| size >= 64 << 10) {
                    resident += kib;
                }
            }
        }
        assert!(resident > 0, "no guest memory was found in the VMM's mappings");
        resident
    }
}
