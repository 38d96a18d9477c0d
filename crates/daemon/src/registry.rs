//! What is known of every VM that runs now: the table that workers write and the control API reads.

use crate::learning::LearningStatus;
use facts::{Finding, Snapshot, Turnover, Verdict, Vm};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One running VM: its identity, and the process that runs it (two VMs can have been given one identity).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    id: String,
    pid: Option<u32>,
    domid: Option<u32>,
}

impl From<&Vm> for Key {
    fn from(vm: &Vm) -> Self {
        Self { id: vm.id.clone(), pid: vm.pid, domid: vm.domid }
    }
}

/// Certificate that a VM is held against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateRef {
    /// Its service.
    pub service: String,
    /// Its serial.
    pub serial: u64,
}

/// One VM as last seen.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) vm: Vm,
    /// Set when the VM ended; its worker drops it at the next look.
    pub(crate) gone: Arc<AtomicBool>,
    pub(crate) certificate: Option<CertificateRef>,
    /// What it is learned for.
    pub(crate) learning: Option<LearningStatus>,
    /// `None` until the first look.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) looks: u64,
    pub(crate) last_look: Option<String>,
    pub(crate) elapsed_us: Option<u64>,
    pub(crate) kernel: Option<String>,
    /// What came and went between the last two looks.
    pub(crate) turnover: Option<Turnover>,
    /// Tasks that came and went between looks, as far as is known.
    pub(crate) unseen: u64,
    pub(crate) confirmed: Vec<Finding>,
    pub(crate) pending: Vec<Finding>,
    /// When each of them was first seen (RFC 3339), by its id.
    pub(crate) since: BTreeMap<String, String>,
    pub(crate) problem: Option<String>,
}

impl Record {
    fn new(vm: Vm) -> Self {
        Self {
            vm,
            gone: Arc::default(),
            certificate: None,
            learning: None,
            verdict: None,
            looks: 0,
            last_look: None,
            elapsed_us: None,
            kernel: None,
            turnover: None,
            unseen: 0,
            confirmed: Vec::new(),
            pending: Vec::new(),
            since: BTreeMap::new(),
            problem: None,
        }
    }

    /// A look succeeded.
    pub(crate) fn looked(&mut self, snapshot: &Snapshot) {
        self.looks = self.looks.saturating_add(1);
        self.last_look = Some(snapshot.taken_at.clone());
        self.elapsed_us = Some(snapshot.elapsed_us);
        self.kernel = Some(snapshot.kernel.release.clone());
    }

    /// Ids of every finding that is open or may become so.
    pub(crate) fn finding_ids(&self) -> Vec<String> {
        self.confirmed.iter().chain(&self.pending).map(|finding| finding.id.clone()).collect()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<BTreeMap<Key, Record>>);

/// What a new list of VMs changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) appeared: Vec<(Vm, Arc<AtomicBool>)>,
    pub(crate) gone: Vec<Vm>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the VMs that run now.
    pub(crate) fn update(&self, vms: Vec<Vm>) -> Changes {
        let mut records = self.lock();
        let mut changes = Changes::default();
        let now: BTreeSet<Key> = vms.iter().map(Key::from).collect();
        records.retain(|key, record| {
            let stays = now.contains(key);
            if !stays {
                record.gone.store(true, Ordering::Release);
                changes.gone.push(record.vm.clone());
            }
            stays
        });
        for vm in vms {
            if let std::collections::btree_map::Entry::Vacant(vacant) = records.entry(Key::from(&vm)) {
                let record = vacant.insert(Record::new(vm.clone()));
                changes.appeared.push((vm, Arc::clone(&record.gone)));
            }
        }
        changes
    }

    /// Changes one record. Nothing happens when the VM is gone.
    pub(crate) fn change(&self, vm: &Vm, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.lock().get_mut(&Key::from(vm)) {
            change(record);
        }
    }

    /// All records, by identity.
    pub(crate) fn all(&self) -> Vec<Record> {
        self.lock().values().cloned().collect()
    }

    /// Those with this name or this identity.
    pub(crate) fn find(&self, name: &str) -> Vec<Record> {
        self.lock()
            .values()
            .filter(|record| record.vm.name == name || record.vm.id == name)
            .cloned()
            .collect()
    }
}
