//! A target, opened, and looks at it: its memory is opened once and its kernel is found once per boot.

use crate::Outcome;
use crate::args::{GuardArgs, TargetArg};
use crate::hints;
use crate::output::{self, Progress};
use crate::profiles;
use anyhow::Context;
use facts::{ConsistencyMode, Snapshot, Vm};
use guest_profiles::{Outline, Store, Stored};
use hypervisor::{OpenedVm, Target};
use introspect::{Description, Kernel, Options, Pulse, Sources, Tables};
use std::cell::RefCell;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;
use vmi_core::{Budget, Registers};

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
    pulse: Pulse,
    store: Store,
    /// Why stored profiles, or the vCPUs' pages, were not used.
    passed_over: RefCell<Vec<String>>,
    told: bool,
    scan: bool,
    pause: Option<Duration>,
    vcpu_page: bool,
}

impl Guest {
    /// Opens the guest's memory.
    pub(crate) fn open(target: &Target) -> anyhow::Result<Self> {
        let opened = hypervisor::open(target).with_context(|| format!("Cannot open {target}"))?;
        Ok(Self {
            target: target.clone(),
            opened,
            kernel: None,
            pulse: Pulse::default(),
            store: profiles::store(),
            passed_over: RefCell::default(),
            told: false,
            scan: false,
            pause: None,
            vcpu_page: false,
        })
    }

    /// The same as a target's arguments say: whether memory itself is searched, and for how long the guest may stand.
    pub(crate) fn of(args: &TargetArg) -> anyhow::Result<Self> {
        Ok(Self {
            scan: args.scan,
            pause: args.pause.map(Duration::from_millis),
            vcpu_page: args.vcpu_page,
            ..Self::open(&args.target)?
        })
    }

    /// Whether looks search memory itself too.
    pub(crate) fn searching(self, scan: bool) -> Self {
        Self { scan, ..self }
    }

    /// What the host knows of it.
    pub(crate) fn vm(&self) -> &Vm {
        &self.opened.vm
    }

    /// Looks once at what every look can show.
    pub(crate) fn look(&mut self, tables: Tables) -> anyhow::Result<Snapshot> {
        self.ask(Options { tables, ..Options::default() })
    }

    /// Looks once, at just what is wanted. The budget is this program's.
    pub(crate) fn ask(&mut self, wanted: Options) -> anyhow::Result<Snapshot> {
        let snapshot = match self.pause {
            None => self.try_look(wanted).with_context(|| format!("Cannot look into {}", self.target))?,
            Some(limit) => self.look_paused(wanted, limit)?,
        };
        // Only now, so that an error stays the one line that it should be.
        if !self.told {
            let passed_over = self.passed_over.borrow();
            let notes = self.opened.notes.iter().chain(&*passed_over);
            notes.for_each(|text| output::note(&format!("{}: {text}", self.target)));
            self.told = true;
        }
        Ok(snapshot)
    }

    /// Its kernel, found if it is not known yet.
    pub(crate) fn kernel(&mut self) -> anyhow::Result<Kernel> {
        self.try_kernel().with_context(|| format!("Cannot look into {}", self.target))
    }

    /// All types and symbols of its kernel.
    pub(crate) fn describe(&mut self) -> anyhow::Result<Description> {
        let kernel = self.kernel()?;
        kernel
            .describe(self.opened.memory.as_ref(), LOCATE)
            .with_context(|| format!("Cannot look into {}", self.target))
    }

    /// What is wrong with a profile when it is held against this guest's memory; nothing is the good answer.
    pub(crate) fn hold_against(&self, stored: &Stored) -> anyhow::Result<Vec<String>> {
        let kernel = self
            .locate(&|_| vec![stored.clone()])
            .with_context(|| format!("Cannot look into {}", self.target))?;
        let origin = kernel.profile_origin();
        if origin.stored.is_none() {
            let name = &self.opened.vm.name;
            return Ok(vec![format!("it is of another kernel than the one of {name}, {}", kernel.release())]);
        }
        Ok(origin.contradictions.clone())
    }

    /// Looks while the guest stands. Its kernel is found before, which takes longer.
    fn look_paused(&mut self, wanted: Options, limit: Duration) -> anyhow::Result<Snapshot> {
        let target = self.target.clone();
        let cannot_look = || format!("Cannot look into {target}");
        self.try_kernel().with_context(cannot_look)?;
        let program = std::env::current_exe().context("This program does not know its own file")?;
        let mut guard = Command::new(program);
        guard.arg("pause-guard").arg(limit.as_millis().to_string());
        let cannot_pause = || format!("Cannot pause {target}");
        let pause = self.opened.pause(limit, guard).with_context(cannot_pause)?;
        let looked = self.try_look(wanted);
        let Some(pause) = pause else {
            let mut snapshot = looked.with_context(cannot_look)?;
            snapshot.consistency.mode = ConsistencyMode::Still;
            return Ok(snapshot);
        };
        let paused = pause.end().with_context(|| format!("Cannot tell whether {target} runs again"))?;
        let mut snapshot = looked.with_context(cannot_look)?;
        snapshot.consistency.paused_us = paused.time.and_then(|time| u64::try_from(time.as_micros()).ok());
        if paused.to_the_end {
            snapshot.consistency.mode = ConsistencyMode::Paused;
        } else {
            output::note(&format!(
                "{target}: the look took longer than the {} ms of its pause, so the guest ran again before it ended",
                limit.as_millis()
            ));
        }
        Ok(snapshot)
    }

    fn try_look(&mut self, wanted: Options) -> Result<Snapshot, introspect::Error> {
        let options = Options { budget: LOOK, scan: self.scan, ..wanted };
        let known = if self.kernel.is_some() { Some(self.try_kernel()?) } else { self.known()? };
        let memory = self.opened.memory.as_ref();
        if let Some(kernel) = known {
            let snapshot = introspect::snapshot(memory, &kernel, &self.opened.vm, &options);
            self.keep(kernel);
            return snapshot;
        }
        let progress = self.searching_kernel();
        let (kernel, snapshot) = self.by_sources(&|release| self.stored(release), |sources| {
            introspect::first_look(memory, sources, LOCATE, &self.opened.vm, &options)
        })?;
        drop(progress);
        self.note(&kernel)?;
        self.keep(kernel);
        Ok(snapshot)
    }

    fn try_kernel(&mut self) -> Result<Kernel, introspect::Error> {
        if let Some(kernel) = self.known()? {
            return Ok(self.keep(kernel));
        }
        let _progress = self.searching_kernel();
        let mut kernel = self.locate(&|release| self.stored(release))?;
        if let Some(last) = self.kernel.take_if(|last| last.is_same_boot(&kernel)) {
            // It only stood still, and keeps the profile that it was judged by.
            kernel = last;
        }
        self.note(&kernel)?;
        Ok(self.keep(kernel))
    }

    fn searching_kernel(&self) -> Progress {
        Progress::spinner(&format!("Finding the kernel of {}", self.target))
    }

    /// Keeps the kernel for the next look.
    fn keep(&mut self, kernel: Kernel) -> Kernel {
        self.kernel.insert(kernel).clone()
    }

    /// Writes down what the next run of this program needs not to search the kernel.
    fn note(&self, kernel: &Kernel) -> Result<(), introspect::Error> {
        if let Some(pid) = self.opened.vm.pid {
            hints::write(pid, &kernel.hint(self.opened.memory.as_ref())?);
        }
        Ok(())
    }

    /// Of the vCPUs, as far as they may be asked for. None is no error: then memory is searched.
    fn registers(&self) -> Vec<Registers> {
        let asked = self.opened.registers();
        if asked.is_err() && self.vcpu_page {
            return self.opened.registers_by_run_page().unwrap_or_else(|error| {
                self.passed_over.borrow_mut().push(format!("--vcpu-page: {:#}", anyhow::Error::new(error)));
                Vec::new()
            });
        }
        asked.unwrap_or_default()
    }

    fn locate(&self, profiles: &dyn Fn(&str) -> Vec<Stored>) -> Result<Kernel, introspect::Error> {
        let memory = self.opened.memory.as_ref();
        self.by_sources(profiles, |sources| introspect::locate_with(memory, sources, LOCATE))
    }

    /// Calls `search` with everything that a search for the kernel may go by.
    fn by_sources<T>(
        &self,
        profiles: &dyn Fn(&str) -> Vec<Stored>,
        search: impl FnOnce(&Sources<'_>) -> T,
    ) -> T {
        let registers = || self.registers();
        // What cannot be used is told when it is of the guest's release.
        let known = || -> Box<dyn Iterator<Item = Outline>> { Box::new(self.store.outlines()) };
        search(&Sources { registers: &registers, profiles, known: &known })
    }

    /// Stored profiles of a release. Those that cannot be used are told after the look, so that an error stays one line.
    fn stored(&self, release: &str) -> Vec<Stored> {
        let found = self.store.of_release(release);
        let passed = |error| format!("a stored profile is passed over: {:#}", anyhow::Error::new(error));
        self.passed_over.borrow_mut().extend(found.refused.into_iter().map(passed));
        found.profiles
    }

    /// The kernel of the last look, or of the last run of this program, if it still runs. What an earlier run knew out of the
    /// guest's own memory counts no longer once there is a stored profile of its release.
    fn known(&mut self) -> Result<Option<Kernel>, introspect::Error> {
        let memory = self.opened.memory.as_ref();
        if let Some(kernel) = &self.kernel {
            return Ok(self.pulse.holds(kernel, memory)?.then(|| kernel.clone()));
        }
        let Some(hint) = self.opened.vm.pid.and_then(hints::read) else { return Ok(None) };
        if hint.profile_origin().stored.is_none() && self.store.has_release(hint.release()) {
            return Ok(None);
        }
        Kernel::resume(memory, hint)
    }
}

/// What the process does that lets a paused guest go on: the line to whoever paused it is its standard input, the way to the
/// guest's hypervisor its standard output.
pub(crate) fn guard(args: &GuardArgs) -> anyhow::Result<Outcome> {
    let line = std::io::stdin().as_fd().try_clone_to_owned().context("There is no line to guard")?;
    let through = std::io::stdout().as_fd().try_clone_to_owned().context("There is nothing to guard")?;
    hypervisor::pause::guard(line, through, args.reins, Duration::from_millis(args.limit_ms))
        .context("The guard of a pause could not do its work")?;
    Ok(Outcome::Done)
}
