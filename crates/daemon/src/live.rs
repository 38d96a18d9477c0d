//! The real [`Engine`]: VMs of this host, their memory, their kernels.
//!
//! A VM's memory is opened once. Its kernel is located once per boot and proved to be the same one, cheaply, before
//! each look.

use crate::engine::{Engine, Guest, Listed, LookError};
use crate::trust::chain;
use facts::{Nic, Snapshot, Vm};
use guest_profiles::{Profile, Store, Stored};
use hypervisor::{OpenedVm, Target};
use introspect::{Kernel, Options, Pulse, Sources};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use vmi_core::{Budget, MemoryError, Registers};

/// What finding a kernel may cost: one pass over guest memory, once per boot.
const LOCATE: Budget = Budget { time: Duration::from_secs(60), bytes: 1 << 40 };

/// The VMs of this host.
#[derive(Debug)]
pub struct LiveEngine {
    profiles: Arc<Profiles>,
}

impl LiveEngine {
    /// With the host's stored profiles in these directories.
    #[must_use]
    pub fn new(profiles: Vec<PathBuf>) -> Self {
        let store = Store::new(profiles);
        Self { profiles: Arc::new(Profiles { store, of_guests: Mutex::default() }) }
    }
}

/// Profiles in memory: one of each, however many VMs run that kernel.
#[derive(Debug)]
struct Profiles {
    store: Store,
    /// Those that no stored profile was there for.
    of_guests: Mutex<Vec<Weak<Profile>>>,
}

impl Profiles {
    /// The stored ones of a release. What cannot be used is logged.
    fn stored(&self, release: &str) -> Vec<Stored> {
        let found = self.store.of_release(release);
        for refused in &found.refused {
            tracing::warn!(error = chain(refused), "a stored profile is passed over");
        }
        found.profiles
    }

    /// The same profile as another VM has it, if one has.
    fn share(&self, profile: Arc<Profile>) -> Arc<Profile> {
        let mut known = self.of_guests.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.strong_count() > 0);
        if let Some(same) = known.iter().filter_map(Weak::upgrade).find(|one| *one == profile) {
            return same;
        }
        known.push(Arc::downgrade(&profile));
        profile
    }
}

impl Engine for LiveEngine {
    fn list(&self) -> Result<Listed, LookError> {
        let listing = hypervisor::list().map_err(|error| LookError::Unreadable(chain(&error)))?;
        let problems = listing.problems.into_iter().map(|problem| problem.detail).collect();
        Ok(Listed { vms: listing.vms, problems })
    }

    fn open(&self, vm: &Vm) -> Result<Box<dyn Guest>, LookError> {
        let target = target(vm)?;
        let opened = hypervisor::open(&target).map_err(|error| hypervisor_error(&error))?;
        if opened.vm.id != vm.id {
            return Err(LookError::Gone(format!("{target} is another VM now")));
        }
        for note in &opened.notes {
            tracing::warn!(vm = vm.name, "{note}");
        }
        Ok(Box::new(LiveGuest {
            opened,
            profiles: Arc::clone(&self.profiles),
            kernel: None,
            pulse: Pulse::default(),
            lost: false,
        }))
    }

    fn nics(&self, vm: &Vm) -> Result<Vec<Nic>, LookError> {
        hypervisor::nics(vm).map_err(|error| hypervisor_error(&error))
    }
}

/// By what the host numbers it: a name may be another VM's by now.
fn target(vm: &Vm) -> Result<Target, LookError> {
    match (vm.pid, vm.domid) {
        (Some(pid), _) => Ok(Target::Pid(pid)),
        (None, Some(domid)) => Ok(Target::Xen(domid)),
        (None, None) => Err(LookError::Unreadable(format!("VM {} does not run on this host", vm.name))),
    }
}

fn hypervisor_error(error: &hypervisor::Error) -> LookError {
    match error {
        hypervisor::Error::ProcessGone { .. } | hypervisor::Error::NoSuchVm { .. } => {
            LookError::Gone(chain(error))
        }
        _ => LookError::Unreadable(chain(error)),
    }
}

#[derive(Debug)]
struct LiveGuest {
    opened: OpenedVm,
    profiles: Arc<Profiles>,
    /// The kernel of the last look.
    kernel: Option<Kernel>,
    pulse: Pulse,
    /// Another boot may have begun, and its kernel was not found yet.
    lost: bool,
}

impl LiveGuest {
    /// Only asked when memory alone did not show the kernel. A monitor that another client holds is no error: libvirt does.
    fn registers(&self) -> Vec<Registers> {
        self.opened.registers().unwrap_or_else(|error| {
            tracing::debug!(vm = self.opened.vm.name, error = chain(&error), "no registers");
            Vec::new()
        })
    }

    fn locate(&self) -> Result<Kernel, introspect::Error> {
        let registers = || self.registers();
        let stored = |release: &str| self.profiles.stored(release);
        // Nobody waits for the first look: it may search all memory, and see a second kernel where there is one.
        let sources = Sources { registers: &registers, profiles: &stored, ..Sources::default() };
        introspect::locate_with(self.opened.memory.as_ref(), &sources, LOCATE)
    }

    fn look_error(&self, error: &introspect::Error) -> LookError {
        match error {
            introspect::Error::Memory(MemoryError::Gone { .. }) => LookError::Gone(chain(error)),
            _ if !self.opened.is_alive() => LookError::Gone(chain(error)),
            _ if error.may_be_booting() => LookError::NotYet(chain(error)),
            _ => LookError::Unreadable(chain(error)),
        }
    }
}

impl Guest for LiveGuest {
    fn look(&mut self) -> Result<Snapshot, LookError> {
        let memory = self.opened.memory.as_ref();
        let held = match self.kernel.as_ref().filter(|_| !self.lost) {
            Some(kernel) => self.pulse.holds(kernel, memory),
            None => Ok(false),
        };
        if !held.map_err(|error| self.look_error(&error))? {
            self.lost = true;
            let found = self.locate().map_err(|error| self.look_error(&error))?;
            self.lost = false;
            // A kernel that only stood still keeps the profile that it was judged by.
            if !self.kernel.as_ref().is_some_and(|kernel| kernel.is_same_boot(&found)) {
                self.kernel = Some(found.with_shared_profile(|profile| self.profiles.share(profile)));
            }
        }
        let Some(kernel) = &self.kernel else {
            return Err(LookError::Unreadable("no kernel was found".to_owned()));
        };
        let snapshot =
            introspect::snapshot(self.opened.memory.as_ref(), kernel, &self.opened.vm, &Options::default());
        snapshot.map_err(|error| self.look_error(&error))
    }
}
