//! A target, opened, and looks at it: its memory is opened once and its kernel is found once per boot.

use crate::hints;
use crate::output::{self, Progress};
use anyhow::Context;
use facts::{Snapshot, Vm};
use hypervisor::{OpenedVm, Target};
use introspect::{Kernel, Options, Sources, Tables};
use std::time::Duration;
use vmi_core::{Budget, GuestMemory};

/// What finding a kernel may cost: one pass over guest memory.
const LOCATE: Budget = Budget { time: Duration::from_secs(60), bytes: 1 << 40 };
/// What one look may cost. A person waits, so more than the daemon allows itself.
const LOOK: Budget = Budget { time: Duration::from_secs(10), bytes: 4 << 30 };

/// A guest, ready to be looked at.
#[derive(Debug)]
pub(crate) struct Guest {
    target: Target,
    opened: OpenedVm,
    kernel: Option<Kernel>,
    told: bool,
}

impl Guest {
    /// Opens the guest's memory.
    pub(crate) fn open(target: &Target) -> anyhow::Result<Self> {
        let opened = hypervisor::open(target).with_context(|| format!("Cannot open {target}"))?;
        Ok(Self { target: target.clone(), opened, kernel: None, told: false })
    }

    /// What the host knows of it.
    pub(crate) fn vm(&self) -> &Vm {
        &self.opened.vm
    }

    /// Looks once.
    pub(crate) fn look(&mut self, tables: Tables) -> anyhow::Result<Snapshot> {
        let snapshot = self.try_look(tables).with_context(|| format!("Cannot look into {}", self.target))?;
        // Only now, so that an error stays the one line that it should be.
        if !self.told {
            self.opened.notes.iter().for_each(|text| output::note(&format!("{}: {text}", self.target)));
            self.told = true;
        }
        Ok(snapshot)
    }

    fn try_look(&mut self, tables: Tables) -> Result<Snapshot, introspect::Error> {
        let memory = self.opened.memory.as_ref();
        let kernel = match self.known(memory)? {
            Some(kernel) => kernel,
            None => {
                let _progress = Progress::spinner(&format!("Finding the kernel of {}", self.target));
                let registers = || self.opened.registers().unwrap_or_default();
                let sources = Sources { registers: &registers, ..Sources::default() };
                let kernel = introspect::locate_with(memory, &sources, LOCATE)?;
                if let Some(pid) = self.opened.vm.pid {
                    hints::write(pid, &kernel.hint());
                }
                kernel
            }
        };
        let options = Options { budget: LOOK, tables };
        let snapshot = introspect::snapshot(memory, &kernel, &self.opened.vm, &options);
        self.kernel = Some(kernel);
        snapshot
    }

    /// The kernel of the last look, or of the last run of this program, if it still runs.
    fn known(&self, memory: &dyn GuestMemory) -> Result<Option<Kernel>, introspect::Error> {
        if let Some(kernel) = &self.kernel {
            return Ok(kernel.is_current(memory)?.then(|| kernel.clone()));
        }
        match self.opened.vm.pid.and_then(hints::read) {
            Some(hint) => Kernel::resume(memory, hint),
            None => Ok(None),
        }
    }
}
