//! A booted guest, looked at from outside.

use anyhow::Result;
use facts::{Snapshot, Vm};
use hypervisor::{OpenedVm, Target};
use introspect::{Kernel, Options};
use testkit::{Guest, GuestSpec};
use vmi_core::Budget;

pub struct Opened {
    pub guest: Guest,
    pub vm: OpenedVm,
    pub kernel: Kernel,
}

impl Opened {
    pub fn boot(spec: GuestSpec) -> Result<Self> {
        let guest = Guest::boot(spec)?;
        let vm = hypervisor::open(&Target::Pid(guest.pid()))?;
        let kernel = introspect::locate(&*vm.memory, Budget::default())?;
        Ok(Self { guest, vm, kernel })
    }

    pub fn facts(&self) -> &Vm {
        &self.vm.vm
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(introspect::snapshot(&*self.vm.memory, &self.kernel, self.facts(), &Options::default())?)
    }

    /// Host memory that the VMM holds, in KiB: `(RssAnon, RssShmem)`.
    pub fn resident(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.guest.pid())).unwrap();
        let value = |key: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap()
        };
        (value("RssAnon:"), value("RssShmem:"))
    }
}
