//! What is kept of a VM's findings over the end of the daemon, of the VM, and of the host: one file per VM in the state
//! directory, and none for a VM without findings.
//!
//! It is written when the findings of a VM changed, not at each look: which ones there are, and which are confirmed. It is
//! written after what changed was told and acted on, so a crash in between tells something twice and never loses it; what
//! must not be lost at all, the quarantine, has its own journal, on disk before the action.
//!
//! What it must never do: stop a VM from being looked at, or lift anything. A file that cannot be understood is told, put
//! aside, and the findings start anew.

use crate::events::{Event, VmRef};
use crate::store;
use crate::trust::chain;
use crate::watch::Watch;
use facts::Vm;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Directory of the files in the state directory.
pub(crate) const DIRECTORY: &str = "findings";
/// Value of `schema` in a file.
const SCHEMA: &str = "birthmark.findings/v1";

/// One file; `W` is the [`Watch`], borrowed to be written and owned when it was read.
#[derive(Serialize, Deserialize)]
struct Kept<W> {
    schema: String,
    /// Stable identity of the VM.
    vm_id: String,
    /// Its name, for people.
    vm_name: String,
    watch: W,
}

/// The file of one VM.
#[derive(Debug)]
pub(crate) struct Memory {
    path: Result<PathBuf, String>,
    /// Ids of the findings on disk, and whether they are confirmed.
    kept: BTreeMap<String, bool>,
    /// What went wrong last, so that it is told once.
    told: Option<String>,
}

impl Memory {
    /// What is known of the findings of a VM; nothing, when nothing is kept or it cannot be understood.
    pub(crate) fn open(state_dir: &Path, vm: &Vm) -> (Self, Watch, Option<Event>) {
        let path = quarantine::file_stem(&vm.id)
            .map(|stem| state_dir.join(DIRECTORY).join(stem + ".json"))
            .map_err(|error| chain(&error));
        let mut memory = Self { path, kept: BTreeMap::new(), told: None };
        let Ok(path) = memory.path.clone() else { return (memory, Watch::default(), None) };
        match read(&path, &vm.id) {
            Ok(watch) => {
                memory.kept = states(&watch);
                (memory, watch, None)
            }
            Err(error) => {
                let aside = path.with_extension("damaged");
                let place = match fs::rename(&path, &aside) {
                    Ok(()) => format!("the file is kept as {}", aside.display()),
                    Err(error) => format!("the file stays until it is written again ({error})"),
                };
                let reason = format!(
                    "What was known of the findings cannot be understood ({error}), so they start anew; {place}. \
                     Quarantines and accepted findings are kept elsewhere and hold"
                );
                (memory, Watch::default(), Some(Event::StateProblem { vm: VmRef::from(vm), path, reason }))
            }
        }
    }

    /// Writes what changed, if anything did. `Some`: it could not be written, which is tried again after the next look.
    pub(crate) fn keep(&mut self, vm: &Vm, watch: &Watch) -> Option<Event> {
        let states = states(watch);
        if states == self.kept {
            return None;
        }
        let written =
            self.path.clone().and_then(|path| write(&path, vm, watch).map_err(|error| error.to_string()));
        match written {
            Ok(()) => {
                self.kept = states;
                self.told = None;
                None
            }
            Err(error) => {
                let reason = format!(
                    "What is known of the findings could not be written ({error}): when the daemon starts again, it \
                     tells some of them again as new"
                );
                let told = self.told.replace(reason.clone());
                let path = self.path.clone().unwrap_or_default();
                (told.as_ref() != Some(&reason)).then(|| Event::StateProblem {
                    vm: VmRef::from(vm),
                    path,
                    reason,
                })
            }
        }
    }
}

fn read(path: &Path, vm_id: &str) -> io::Result<Watch> {
    let Some(kept) = store::read::<Option<Kept<Watch>>>(path)? else { return Ok(Watch::default()) };
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if kept.schema != SCHEMA {
        return refuse(format!("its schema is {:?}, not {SCHEMA:?}", kept.schema));
    }
    if kept.vm_id != vm_id {
        return refuse(format!("it is about VM {:?}", kept.vm_id));
    }
    Ok(kept.watch)
}

fn write(path: &Path, vm: &Vm, watch: &Watch) -> io::Result<()> {
    if watch.states().next().is_none() {
        return store::remove(path);
    }
    let (vm_id, vm_name) = (vm.id.clone(), vm.name.clone());
    store::write(path, &Kept { schema: SCHEMA.to_owned(), vm_id, vm_name, watch })
}

fn states(watch: &Watch) -> BTreeMap<String, bool> {
    watch.states().map(|(id, confirmed)| (id.to_owned(), confirmed)).collect()
}
