//! Intent first, then action, then proof: the journal and a backend put together.
//!
//! Every method leaves a state from which [`Quarantine::reconcile`] or [`Quarantine::check`] goes on. A failed action
//! leaves the intent on disk: what was wanted is still wanted, and is tried again.
//!
//! Rules follow the VM, never the name of a device: when a device is gone, its rules are taken away (the next device of
//! that name may belong to another VM), and the entry waits until the VM has a device again.

use crate::{Cut, Dropped, Enforce, Entry, Error, Journal, Place, Policy, State, Status};
use facts::{Nic, Vm};
use jiff::Timestamp;
use std::time::Instant;

/// What [`Quarantine::cut_off`] did.
#[derive(Clone, Debug)]
pub struct CutOff {
    /// The devices that are cut off.
    pub places: Vec<Place>,
    /// When the kernel had taken the last rule. That the rules are there was read back afterwards.
    pub in_place: Instant,
}

/// How one VM of the journal came out.
#[derive(Debug)]
pub struct Reconciled {
    /// Identity of the VM; `None` when its file cannot be read.
    pub vm_id: Option<String>,
    /// Its name.
    pub vm_name: Option<String>,
    /// What was done, or why it could not be.
    pub result: Result<Outcome, Error>,
}

/// What was done about one VM of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its rules were in place already.
    Held,
    /// Its rules were written again and are in place.
    Applied,
    /// A release that had begun is finished.
    Released,
    /// None of its devices exists now. It is cut off when it shows up again, by [`Quarantine::cut_off`].
    Waiting,
}

/// Cuts VMs off and restores them, through crashes.
#[derive(Debug)]
pub struct Quarantine {
    journal: Journal,
    enforcer: Box<dyn Enforce>,
    boot_id: String,
}

impl Quarantine {
    /// Puts the two parts together. Does nothing yet: call [`Self::reconcile`] next.
    pub fn new(journal: Journal, enforcer: Box<dyn Enforce>) -> Result<Self, Error> {
        const PATH: &str = "/proc/sys/kernel/random/boot_id";
        let boot_id = std::fs::read_to_string(PATH)
            .map_err(|source| Error::Journal { action: "read", path: PATH.into(), source })?
            .trim()
            .to_owned();
        Ok(Self { journal, enforcer, boot_id })
    }

    /// Cuts `vm` off at `nics`, all the devices it has now. When it is cut off already, devices that it has gained are
    /// added, devices that it has lost are restored, and `policy` replaces the one before. On an error the intent stays
    /// on disk, unless it is the journal itself that failed.
    pub fn cut_off(&mut self, vm: &Vm, nics: &[Nic], policy: &Policy) -> Result<CutOff, Error> {
        let before = self.journal.get(&vm.id)?;
        let mut unlocated = Ok(());
        let mut places = Vec::new();
        for nic in nics {
            match self.enforcer.locate(nic) {
                Ok(place) => places.push(place),
                Err(error) => unlocated = Err(error),
            }
        }
        places.sort();
        places.dedup();
        let old = match &before {
            Some(before) if before.boot_id == self.boot_id => before.places.clone(),
            _ => Vec::new(),
        };
        let mut entry = Entry::intent(&vm.id, &vm.name, policy, places.clone(), &self.boot_id);
        if let Some(before) = &before {
            entry.since = before.since;
        }
        // Until the new rules are in place, a crash must find the old places too.
        entry.places.extend(old.iter().filter(|place| !places.contains(place)).cloned());
        self.journal.write(&entry)?;
        if nics.is_empty() {
            return Err(Error::NothingToCut { vm: vm.name.clone() });
        }
        let cuts = self.with_counters(&places, &old)?;
        let in_place = self.enforcer.apply(&cuts, policy)?;
        unlocated?;
        let same_table = |a: &Place, b: &Place| a.interface == b.interface && a.inode == b.inode;
        let lost: Vec<Place> =
            old.into_iter().filter(|old| !places.iter().any(|place| same_table(place, old))).collect();
        self.enforcer.remove(&lost)?;
        self.write(&mut entry, State::Applied, places.clone())?;
        Ok(CutOff { places, in_place })
    }

    /// Lifts the quarantine of one VM and reads back that it is lifted. On an error the release stays begun, and is
    /// finished by [`Self::reconcile`] or [`Self::check`].
    pub fn release(&mut self, vm_id: &str) -> Result<(), Error> {
        let Some(mut entry) = self.journal.get(vm_id)? else {
            return Err(Error::NotQuarantined { vm: vm_id.to_owned() });
        };
        let places = entry.places.clone();
        self.write(&mut entry, State::Releasing, places)?;
        self.finish_release(&entry)
    }

    /// After a start: cuts off again what the journal says is cut off, and finishes releases that had begun. The outer
    /// error is the directory's; each file has a result of its own, damaged ones included.
    pub fn reconcile(&mut self) -> Result<Vec<Reconciled>, Error> {
        self.go_through(true)
    }

    /// From time to time: the same, but rules that are in place are left as they are.
    pub fn check(&mut self) -> Result<Vec<Reconciled>, Error> {
        self.go_through(false)
    }

    /// Every VM of the journal.
    pub fn entries(&self) -> Result<Vec<Result<Entry, Error>>, Error> {
        self.journal.read_all()
    }

    /// The journal's entry of one VM; `None` when it is not in quarantine.
    pub fn entry(&self, vm_id: &str) -> Result<Option<Entry>, Error> {
        self.journal.get(vm_id)
    }

    /// Where a device is now, to be compared with an entry's places.
    pub fn locate(&self, nic: &Nic) -> Result<Place, Error> {
        self.enforcer.locate(nic)
    }

    /// How one device stands.
    pub fn status(&self, place: &Place) -> Result<Status, Error> {
        self.enforcer.status(place)
    }

    fn go_through(&mut self, rewrite: bool) -> Result<Vec<Reconciled>, Error> {
        let mut all = Vec::new();
        for entry in self.journal.read_all()? {
            all.push(match entry {
                Err(error) => Reconciled { vm_id: None, vm_name: None, result: Err(error) },
                Ok(entry) => Reconciled {
                    vm_id: Some(entry.vm_id.clone()),
                    vm_name: Some(entry.vm_name.clone()),
                    result: self.settle(entry, rewrite),
                },
            });
        }
        Ok(all)
    }

    fn settle(&mut self, mut entry: Entry, rewrite: bool) -> Result<Outcome, Error> {
        if entry.state == State::Releasing {
            return self.finish_release(&entry).map(|()| Outcome::Released);
        }
        if entry.boot_id != self.boot_id {
            return Ok(Outcome::Waiting);
        }
        let (mut present, mut lost, mut held) = (Vec::new(), Vec::new(), true);
        for place in &entry.places {
            let counted = match self.enforcer.status(place) {
                Ok(Status::Cut { dropped }) => dropped,
                Ok(Status::Broken { .. } | Status::Open) => {
                    held = false;
                    Dropped::default()
                }
                Ok(Status::Absent) => {
                    lost.push(place.clone());
                    continue;
                }
                Err(Error::NamespaceGone { .. }) => {
                    lost.push(place.clone());
                    continue;
                }
                Err(error) => return Err(error),
            };
            present.push(Cut { place: place.clone(), counted });
        }
        self.enforcer.remove(&lost)?;
        let outcome = match (present.is_empty(), held && !rewrite) {
            (true, _) => Outcome::Waiting,
            (false, true) => Outcome::Held,
            (false, false) => {
                self.enforcer.apply(&present, &entry.management)?;
                Outcome::Applied
            }
        };
        let state = if outcome == Outcome::Waiting { State::Intent } else { State::Applied };
        if state != entry.state || !lost.is_empty() {
            let places = present.into_iter().map(|cut| cut.place).collect();
            self.write(&mut entry, state, places)?;
        }
        Ok(outcome)
    }

    /// Places that were cut off before keep their counters.
    fn with_counters(&self, places: &[Place], old: &[Place]) -> Result<Vec<Cut>, Error> {
        let counted = |place: &Place| match self.enforcer.status(place) {
            Ok(Status::Cut { dropped }) => Ok(dropped),
            Ok(Status::Broken { .. } | Status::Open | Status::Absent) => Ok(Dropped::default()),
            Err(error) => Err(error),
        };
        let cut = |place: &Place| {
            let counted = if old.contains(place) { counted(place)? } else { Dropped::default() };
            Ok(Cut { place: place.clone(), counted })
        };
        places.iter().map(cut).collect()
    }

    fn write(&self, entry: &mut Entry, state: State, places: Vec<Place>) -> Result<(), Error> {
        entry.state = state;
        entry.places = places;
        entry.updated = Timestamp::now();
        self.journal.write(entry)
    }

    fn finish_release(&mut self, entry: &Entry) -> Result<(), Error> {
        // Rules of another boot ended with it.
        if entry.boot_id == self.boot_id {
            self.enforcer.remove(&entry.places)?;
        }
        self.journal.remove(&entry.vm_id)
    }
}
