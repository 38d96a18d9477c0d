//! A kernel that is not there: remembers which devices are cut off, and can "die" before or after an action.

use facts::{Nic, Vm, VmState};
use quarantine::{Cut, Dropped, Enforce, Error, InterfaceName, Place, Policy, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// Where the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Die {
    BeforeApply,
    AfterApply,
    BeforeRemove,
    AfterRemove,
}

#[derive(Debug, Default)]
pub struct Kernel {
    pub cut: BTreeMap<Place, Policy>,
    pub absent: BTreeSet<String>,
    pub die: Option<Die>,
    pub refuse: bool,
    pub applied: u32,
}

/// Survives the "process" that uses it, as a kernel does.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Kernel>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn cut_devices(&self) -> Vec<String> {
        self.lock().cut.keys().map(|place| place.interface.to_string()).collect()
    }

    fn die_at(&self, point: Die) {
        let die = self.lock().die.take_if(|die| *die == point).is_some();
        assert!(!die, "killed");
    }
}

impl Enforce for Shared {
    fn locate(&self, nic: &Nic) -> Result<Place, Error> {
        if self.lock().absent.contains(&nic.interface) {
            return Err(Error::DeviceAbsent {
                interface: nic.interface.clone(),
                namespace: nic.namespace.clone(),
            });
        }
        let interface = InterfaceName::new(&nic.interface)?;
        Ok(Place { interface, index: 1, namespace: nic.namespace.clone(), inode: 1 })
    }

    fn apply(&self, cuts: &[Cut], policy: &Policy) -> Result<Instant, Error> {
        self.die_at(Die::BeforeApply);
        if self.lock().refuse {
            return Err(Error::NftMissing);
        }
        for cut in cuts {
            self.lock().cut.insert(cut.place.clone(), policy.clone());
        }
        self.lock().applied += 1;
        self.die_at(Die::AfterApply);
        Ok(Instant::now())
    }

    fn remove(&self, places: &[Place]) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        self.die_at(Die::BeforeRemove);
        if self.lock().refuse {
            return Err(Error::NftMissing);
        }
        for place in places {
            self.lock().cut.remove(place);
        }
        self.die_at(Die::AfterRemove);
        Ok(())
    }

    fn status(&self, place: &Place) -> Result<Status, Error> {
        let kernel = self.lock();
        Ok(if kernel.absent.contains(place.interface.as_str()) {
            Status::Absent
        } else if kernel.cut.contains_key(place) {
            Status::Cut { dropped: Dropped::default() }
        } else {
            Status::Open
        })
    }
}

pub fn vm(name: &str) -> Vm {
    Vm {
        name: name.into(),
        id: format!("id-of-{name}"),
        hypervisor: facts::Hypervisor::Kvm,
        pid: Some(1),
        domid: None,
        memory_bytes: None,
        vcpus: None,
        state: VmState::Running,
        libvirt: None,
    }
}

pub fn nic(interface: &str) -> Nic {
    Nic { interface: interface.into(), namespace: "/proc/self/ns/net".into() }
}
