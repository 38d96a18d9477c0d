//! Everything that cuts off and restores, behind one lock: the quarantine itself and the findings that were accepted.
//!
//! Cutting off (a worker, on findings; an operator, over the socket) and restoring exclude each other, so that a VM that
//! is being released is not cut off again for what the release accepts.
//!
//! A release accepts the findings that are open at that moment, until they close: on disk before the release begins, so
//! that a crash between the two leaves the VM cut off, never released and cut off again in turns.

use crate::config::Mode;
use crate::events::{Cause, Event, VmRef};
use crate::store;
use crate::trust::chain;
use facts::{Nic, Vm};
use quarantine::{CutOff, Entry, Error, Outcome, Policy, Quarantine, State, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

/// Cuts off and restores.
#[derive(Debug)]
pub(crate) struct Keeper {
    quarantine: Quarantine,
    enabled: bool,
    mode: Mode,
    management: Policy,
    accepted_path: PathBuf,
    /// Ids of accepted findings by VM id.
    accepted: BTreeMap<String, BTreeSet<String>>,
    /// What went wrong last, by VM id, so that it is told once.
    told: BTreeMap<String, String>,
}

/// Why a request cannot be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    /// The configuration forbids it.
    #[error("Quarantine is not enabled in the configuration of birthmarkd ([quarantine] enabled = true)")]
    Disabled,
    /// The quarantine failed.
    #[error(transparent)]
    Quarantine(#[from] Error),
    /// The accepted findings could not be kept.
    #[error("The accepted findings could not be written to {path}")]
    Accepted {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Keeper {
    pub(crate) fn new(
        quarantine: Quarantine,
        config: &crate::config::QuarantineConfig,
        accepted_path: PathBuf,
    ) -> io::Result<Self> {
        let accepted = store::read(&accepted_path)?;
        Ok(Self {
            quarantine,
            enabled: config.enabled,
            mode: config.mode,
            management: config.management.clone(),
            accepted_path,
            accepted,
            told: BTreeMap::new(),
        })
    }

    /// After a look: cuts `vm` off when there are grounds that nobody accepted and it is not cut off yet. `first_seen` tells
    /// when the earliest of some findings was first seen. `alive` are the findings of the look, confirmed or not: what
    /// is not among them is accepted no longer.
    pub(crate) fn judge(
        &mut self,
        vm: &Vm,
        grounds: &[String],
        alive: &BTreeSet<&str>,
        nics: impl FnOnce() -> Vec<Nic>,
        first_seen: impl FnOnce(&[String]) -> Option<Instant>,
    ) -> Vec<Event> {
        self.forget_closed(&vm.id, alive);
        if !self.enabled || self.mode != Mode::Enforce {
            return Vec::new();
        }
        let accepted = self.accepted.get(&vm.id);
        let grounds: Vec<String> = grounds
            .iter()
            .filter(|id| !accepted.is_some_and(|accepted| accepted.contains(*id)))
            .cloned()
            .collect();
        if grounds.is_empty() {
            return Vec::new();
        }
        match self.quarantine.entry(&vm.id) {
            Ok(Some(entry)) if entry.state != State::Releasing => return Vec::new(),
            Ok(_) => {}
            Err(error) => return self.failed(VmRef::from(vm), &error).into_iter().collect(),
        }
        let decided = Instant::now();
        match self.quarantine.cut_off(vm, &nics(), &self.management) {
            Ok(done) => {
                self.told.remove(&vm.id);
                let first = first_seen(&grounds);
                vec![quarantined(vm, Cause::Findings, grounds, &done, &self.management, first, Some(decided))]
            }
            Err(error) => self.failed(VmRef::from(vm), &error).into_iter().collect(),
        }
    }

    /// An operator wants `vm` cut off.
    pub(crate) fn cut_off(&mut self, vm: &Vm, nics: &[Nic]) -> Result<Event, KeeperError> {
        if !self.enabled {
            return Err(KeeperError::Disabled);
        }
        let decided = Instant::now();
        let done = self.quarantine.cut_off(vm, nics, &self.management)?;
        self.told.remove(&vm.id);
        Ok(quarantined(vm, Cause::Operator, Vec::new(), &done, &self.management, None, Some(decided)))
    }

    /// An operator wants a VM restored; `open` are the findings that are accepted by that.
    pub(crate) fn release(&mut self, vm: VmRef, open: Vec<String>) -> Result<Event, KeeperError> {
        if self.quarantine.entry(&vm.id)?.is_none() {
            return Err(Error::NotQuarantined { vm: vm.name }.into());
        }
        if !open.is_empty() {
            self.accepted.entry(vm.id.clone()).or_default().extend(open.iter().cloned());
            self.keep_accepted()?;
        }
        self.quarantine.release(&vm.id)?;
        self.told.remove(&vm.id);
        Ok(Event::VmReleased { vm, cause: Cause::Operator, accepted: open })
    }

    /// A VM that is in the journal runs: cuts it off at the devices it has now, unless it already is.
    pub(crate) fn ensure(&mut self, vm: &Vm, nics: impl FnOnce() -> Vec<Nic>) -> Option<Event> {
        let entry = match self.quarantine.entry(&vm.id) {
            Ok(Some(entry)) if entry.state != State::Releasing => entry,
            Ok(_) => return None,
            Err(error) => return self.failed(VmRef::from(vm), &error),
        };
        let nics = nics();
        let located: Result<BTreeSet<_>, _> = nics.iter().map(|nic| self.quarantine.locate(nic)).collect();
        let held = located.is_ok_and(|places| places == entry.places.iter().cloned().collect());
        if held && entry.state == State::Applied {
            return None;
        }
        match self.quarantine.cut_off(vm, &nics, &entry.management) {
            Ok(done) => {
                self.told.remove(&vm.id);
                Some(quarantined(vm, Cause::Journal, Vec::new(), &done, &entry.management, None, None))
            }
            Err(error) => self.failed(VmRef::from(vm), &error),
        }
    }

    /// After a start (`true`: every rule is written again) and from time to time: mends and finishes.
    pub(crate) fn settle(&mut self, started: bool) -> Vec<Event> {
        let all = if started { self.quarantine.reconcile() } else { self.quarantine.check() };
        let all = match all {
            Ok(all) => all,
            Err(error) => return self.failed_at(String::new(), None, chain(&error)).into_iter().collect(),
        };
        let mut events = Vec::new();
        for one in all {
            let vm = one.vm_id.zip(one.vm_name).map(|(id, name)| VmRef { name, id, pid: None });
            match (one.result, vm) {
                (Ok(Outcome::Applied), Some(vm)) => {
                    self.told.remove(&vm.id);
                    events.push(if started { self.held(vm) } else { Event::QuarantineRestored { vm } });
                }
                (Ok(Outcome::Released), Some(vm)) => {
                    events.push(Event::VmReleased { vm, cause: Cause::Journal, accepted: Vec::new() });
                }
                (Ok(_), _) => {}
                (Err(error), vm) => {
                    let key = vm.as_ref().map_or_else(|| error.to_string(), |vm| vm.id.clone());
                    events.extend(self.failed_at(key, vm, chain(&error)));
                }
            }
        }
        events
    }

    /// Every VM of the journal that can be read.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.quarantine.entries().unwrap_or_default().into_iter().flatten().collect()
    }

    /// How the devices of an entry stand.
    pub(crate) fn devices(&self, entry: &Entry) -> Vec<(String, Result<Status, Error>)> {
        let stands = |place| self.quarantine.status(place);
        entry.places.iter().map(|place| (place.interface.to_string(), stands(place))).collect()
    }

    /// Ids of the findings that are accepted for a VM.
    pub(crate) fn accepted(&self, vm_id: &str) -> BTreeSet<String> {
        self.accepted.get(vm_id).cloned().unwrap_or_default()
    }

    fn held(&self, vm: VmRef) -> Event {
        let entry = self.quarantine.entry(&vm.id).ok().flatten();
        let (devices, management) = entry.map_or_else(Default::default, |entry| {
            (entry.places.iter().map(|place| place.interface.to_string()).collect(), entry.management)
        });
        Event::VmQuarantined {
            vm,
            cause: Cause::Journal,
            findings: Vec::new(),
            devices,
            management,
            seconds_to_rule: None,
            seconds_to_apply: None,
        }
    }

    fn forget_closed(&mut self, vm_id: &str, alive: &BTreeSet<&str>) {
        let Some(accepted) = self.accepted.get_mut(vm_id) else { return };
        let before = accepted.len();
        accepted.retain(|id| alive.contains(id.as_str()));
        if accepted.len() == before {
            return;
        }
        if accepted.is_empty() {
            self.accepted.remove(vm_id);
        }
        if let Err(error) = self.keep_accepted() {
            tracing::error!(error = chain(&error), "a closed finding stays accepted on disk");
        }
    }

    fn keep_accepted(&self) -> Result<(), KeeperError> {
        store::write(&self.accepted_path, &self.accepted)
            .map_err(|source| KeeperError::Accepted { path: self.accepted_path.clone(), source })
    }

    fn failed(&mut self, vm: VmRef, error: &Error) -> Option<Event> {
        self.failed_at(vm.id.clone(), Some(vm), chain(error))
    }

    /// An event, unless the same was told before.
    fn failed_at(&mut self, key: String, vm: Option<VmRef>, reason: String) -> Option<Event> {
        let before = self.told.insert(key, reason.clone());
        (before.as_ref() != Some(&reason)).then_some(Event::QuarantineFailed { vm, reason })
    }
}

fn quarantined(
    vm: &Vm,
    cause: Cause,
    findings: Vec<String>,
    done: &CutOff,
    management: &Policy,
    first_seen: Option<Instant>,
    decided: Option<Instant>,
) -> Event {
    let since = |start: Instant| done.in_place.saturating_duration_since(start).as_secs_f64();
    Event::VmQuarantined {
        vm: VmRef::from(vm),
        cause,
        findings,
        devices: done.places.iter().map(|place| place.interface.to_string()).collect(),
        management: management.clone(),
        seconds_to_rule: first_seen.map(since),
        seconds_to_apply: decided.map(since),
    }
}
