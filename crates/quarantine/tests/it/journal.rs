//! The journal's files: what is read, what is refused, and what is left alone.

use crate::kernel::{Shared, nic, vm};
use quarantine::{Entry, Error, Journal, Outcome, Policy, Quarantine, State};
use std::fs;
use tempfile::TempDir;

fn entry(id: &str) -> Entry {
    Entry::intent(
        id,
        "web",
        &Policy::with_management(&["10.0.0.0/29".parse().unwrap()]).unwrap(),
        vec![],
        "boot",
    )
}

#[test]
fn an_entry_comes_back_as_it_was_written() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let written = entry("6f0c1f0e-0000-4000-8000-000000000001");
    journal.write(&written).unwrap();
    assert_eq!(journal.get(&written.vm_id).unwrap().unwrap(), written);
    assert_eq!(journal.read_all().unwrap().len(), 1);
    journal.remove(&written.vm_id).unwrap();
    assert!(journal.get(&written.vm_id).unwrap().is_none());
    assert!(journal.read_all().unwrap().is_empty());
}

#[test]
fn an_id_never_leaves_the_directory() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(&dir.path().join("q")).unwrap();
    for id in ["../../etc/passwd", "a/b", ".", "..", "ä\0", "lock", "%2F", "/"] {
        journal.write(&entry(id)).unwrap();
        assert_eq!(journal.get(id).unwrap().unwrap().vm_id, id);
    }
    assert_eq!(journal.read_all().unwrap().into_iter().filter(Result::is_ok).count(), 8);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_id_that_names_no_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    assert!(matches!(journal.write(&entry("")), Err(Error::VmId { .. })));
    assert!(matches!(journal.write(&entry(&"x".repeat(300))), Err(Error::VmId { .. })));
}

#[test]
fn a_damaged_file_is_named_and_left_and_the_others_go_on() {
    let dir = TempDir::new().unwrap();
    let kernel = Shared::default();
    let mut quarantine =
        Quarantine::new(Journal::open(dir.path()).unwrap(), Box::new(kernel.clone())).unwrap();
    quarantine.cut_off(&vm("web"), &[nic("tap0")], &Policy::strict()).unwrap();
    let damaged = dir.path().join("broken.json");
    for text in ["", "{", "[]", "{\"schema\":\"birthmark.quarantine/v1\"}"] {
        fs::write(&damaged, text).unwrap();
        let results = quarantine.reconcile().unwrap();
        assert_eq!(results.len(), 2, "{text}");
        let errors: Vec<String> =
            results.iter().filter_map(|one| one.result.as_ref().err()).map(ToString::to_string).collect();
        assert_eq!(errors.len(), 1, "{text}");
        assert!(errors[0].contains("broken.json"), "{errors:?}");
        assert!(results.iter().any(|one| matches!(one.result, Ok(Outcome::Applied))));
        assert_eq!(fs::read_to_string(&damaged).unwrap(), text);
    }
}

#[test]
fn a_file_that_lies_about_its_vm_or_its_schema_is_refused() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.write(&entry("one")).unwrap();
    fs::rename(dir.path().join("one.json"), dir.path().join("two.json")).unwrap();
    assert!(matches!(journal.get("two"), Err(Error::JournalRefused { .. })));
    journal.write(&entry("one")).unwrap();
    let file = dir.path().join("one.json");
    let text = fs::read_to_string(&file).unwrap().replace("quarantine/v1", "quarantine/v9");
    fs::write(&file, text).unwrap();
    assert!(journal.get("one").unwrap_err().to_string().contains("quarantine/v9"));
}

#[test]
fn a_damaged_file_of_a_vm_is_never_overwritten_by_a_new_quarantine() {
    let dir = TempDir::new().unwrap();
    let mut quarantine =
        Quarantine::new(Journal::open(dir.path()).unwrap(), Box::new(Shared::default())).unwrap();
    let file = dir.path().join("id-of-web.json");
    fs::write(&file, "{").unwrap();
    let failure = quarantine.cut_off(&vm("web"), &[nic("tap0")], &Policy::strict());
    assert!(matches!(failure, Err(Error::JournalCorrupt { .. })));
    assert!(matches!(quarantine.release("id-of-web"), Err(Error::JournalCorrupt { .. })));
    assert_eq!(fs::read_to_string(&file).unwrap(), "{");
}

#[test]
fn two_processes_cannot_hold_one_journal() {
    let dir = TempDir::new().unwrap();
    let first = Journal::open(dir.path()).unwrap();
    assert!(matches!(Journal::open(dir.path()), Err(Error::JournalLocked { .. })));
    drop(first);
    Journal::open(dir.path()).unwrap();
}

#[test]
fn entries_of_another_boot_wait_for_their_vm() {
    let dir = TempDir::new().unwrap();
    let kernel = Shared::default();
    let mut quarantine =
        Quarantine::new(Journal::open(dir.path()).unwrap(), Box::new(kernel.clone())).unwrap();
    quarantine.cut_off(&vm("web"), &[nic("tap0")], &Policy::strict()).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let file = dir.path().join("id-of-web.json");
    let text = fs::read_to_string(&file).unwrap().replace(boot.trim(), "another-boot");
    fs::write(&file, text).unwrap();
    kernel.lock().cut.clear();
    let results = quarantine.reconcile().unwrap();
    assert!(matches!(results[0].result, Ok(Outcome::Waiting)));
    assert!(kernel.cut_devices().is_empty(), "a place of another boot names nothing");
    quarantine.cut_off(&vm("web"), &[nic("tap7")], &Policy::strict()).unwrap();
    assert_eq!(kernel.cut_devices(), ["tap7"]);
    assert_eq!(quarantine.entry("id-of-web").unwrap().unwrap().state, State::Applied);
}
