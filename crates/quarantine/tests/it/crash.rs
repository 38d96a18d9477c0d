//! The process dies at every point; a new one goes on. Neither a quarantine nor a release is lost.

use crate::kernel::{Die, Kernel, Shared, nic, vm};
use quarantine::{Error, Journal, Outcome, Policy, Quarantine, State};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tempfile::TempDir;

fn process(dir: &Path, kernel: &Shared) -> Quarantine {
    Quarantine::new(Journal::open(dir).unwrap(), Box::new(kernel.clone())).unwrap()
}

/// Runs `work` in a process that dies at `die`.
fn killed(dir: &Path, kernel: &Shared, die: Die, work: impl FnOnce(&mut Quarantine)) {
    let mut quarantine = process(dir, kernel);
    kernel.lock().die = Some(die);
    let result = catch_unwind(AssertUnwindSafe(|| work(&mut quarantine)));
    assert!(result.is_err(), "the process was to die at {die:?}");
}

#[test]
fn a_quarantine_survives_death_before_and_after_the_rules() {
    for die in [Die::BeforeApply, Die::AfterApply] {
        let dir = TempDir::new().unwrap();
        let kernel = Shared::default();
        killed(dir.path(), &kernel, die, |quarantine| {
            quarantine.cut_off(&vm("web"), &[nic("tap0"), nic("tap1")], &Policy::strict()).unwrap();
        });
        let mut next = process(dir.path(), &kernel);
        assert_eq!(next.entry("id-of-web").unwrap().unwrap().state, State::Intent, "{die:?}");
        let results = next.reconcile().unwrap();
        assert!(matches!(results[0].result, Ok(Outcome::Applied)), "{die:?}");
        assert_eq!(kernel.cut_devices(), ["tap0", "tap1"], "{die:?}");
        assert_eq!(next.entry("id-of-web").unwrap().unwrap().state, State::Applied, "{die:?}");
    }
}

#[test]
fn a_release_survives_death_before_and_after_the_rules_are_gone() {
    for die in [Die::BeforeRemove, Die::AfterRemove] {
        let dir = TempDir::new().unwrap();
        let kernel = Shared::default();
        process(dir.path(), &kernel).cut_off(&vm("web"), &[nic("tap0")], &Policy::strict()).unwrap();
        killed(dir.path(), &kernel, die, |quarantine| quarantine.release("id-of-web").unwrap());
        let mut next = process(dir.path(), &kernel);
        let results = next.reconcile().unwrap();
        assert!(matches!(results[0].result, Ok(Outcome::Released)), "{die:?}");
        assert!(kernel.cut_devices().is_empty(), "{die:?}");
        assert!(next.entries().unwrap().is_empty(), "{die:?}");
    }
}

#[test]
fn a_quarantine_that_stands_survives_a_restart() {
    let dir = TempDir::new().unwrap();
    let kernel = Shared::default();
    let policy = Policy::with_management(&["10.0.0.0/29".parse().unwrap()]).unwrap();
    process(dir.path(), &kernel).cut_off(&vm("web"), &[nic("tap0")], &policy).unwrap();
    kernel.lock().cut.clear();
    process(dir.path(), &kernel).reconcile().unwrap();
    assert_eq!(kernel.lock().cut.values().collect::<Vec<_>>(), [&policy]);
}

#[test]
fn death_while_a_file_is_written_leaves_the_old_state() {
    let dir = TempDir::new().unwrap();
    let kernel = Shared::default();
    process(dir.path(), &kernel).cut_off(&vm("web"), &[nic("tap0")], &Policy::strict()).unwrap();
    // What a death between writing and renaming leaves: half a new file beside the old one.
    fs::write(dir.path().join("id-of-web.new"), "{\"schema\":\"birthm").unwrap();
    kernel.lock().cut.clear();
    let mut next = process(dir.path(), &kernel);
    assert!(matches!(next.reconcile().unwrap()[0].result, Ok(Outcome::Applied)));
    assert_eq!(kernel.cut_devices(), ["tap0"]);
    next.release("id-of-web").unwrap();
    assert!(next.entries().unwrap().is_empty());
}

#[test]
fn a_move_to_other_devices_survives_death_at_every_point() {
    for die in [Die::BeforeApply, Die::AfterApply, Die::BeforeRemove, Die::AfterRemove] {
        let dir = TempDir::new().unwrap();
        let kernel = Shared::default();
        process(dir.path(), &kernel).cut_off(&vm("web"), &[nic("tap0")], &Policy::strict()).unwrap();
        killed(dir.path(), &kernel, die, |quarantine| {
            quarantine.cut_off(&vm("web"), &[nic("tap1")], &Policy::strict()).unwrap();
        });
        let mut next = process(dir.path(), &kernel);
        next.reconcile().unwrap();
        assert!(kernel.cut_devices().contains(&"tap1".to_owned()), "{die:?}");
        next.cut_off(&vm("web"), &[nic("tap1")], &Policy::strict()).unwrap();
        assert_eq!(kernel.cut_devices(), ["tap1"], "{die:?}");
    }
}

#[test]
fn a_refused_action_stays_wanted() {
    let dir = TempDir::new().unwrap();
    let kernel = Shared::default();
    let mut quarantine = process(dir.path(), &kernel);
    kernel.lock().refuse = true;
    let failure = quarantine.cut_off(&vm("web"), &[nic("tap0")], &Policy::strict());
    assert!(matches!(failure, Err(Error::NftMissing)));
    kernel.lock().refuse = false;
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Applied)));
    assert_eq!(kernel.cut_devices(), ["tap0"]);

    kernel.lock().refuse = true;
    assert!(quarantine.release("id-of-web").is_err());
    kernel.lock().refuse = false;
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Released)));
    assert!(kernel.cut_devices().is_empty());
}

#[test]
fn a_vm_without_devices_is_remembered_and_told() {
    let dir = TempDir::new().unwrap();
    let kernel = Shared::default();
    let mut quarantine = process(dir.path(), &kernel);
    let failure = quarantine.cut_off(&vm("web"), &[], &Policy::strict());
    assert!(matches!(failure, Err(Error::NothingToCut { .. })));
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Waiting)));
    quarantine.cut_off(&vm("web"), &[nic("tap0")], &Policy::strict()).unwrap();
    assert_eq!(kernel.cut_devices(), ["tap0"]);
}

#[test]
fn one_absent_device_does_not_save_the_others() {
    let dir = TempDir::new().unwrap();
    let kernel = Shared::default();
    kernel.lock().absent.insert("tap1".into());
    let mut quarantine = process(dir.path(), &kernel);
    let failure = quarantine.cut_off(&vm("web"), &[nic("tap0"), nic("tap1")], &Policy::strict());
    assert!(matches!(failure, Err(Error::DeviceAbsent { .. })));
    assert_eq!(kernel.cut_devices(), ["tap0"]);
}

#[test]
fn rules_of_a_device_that_went_away_do_not_stay_for_its_next_owner() {
    let dir = TempDir::new().unwrap();
    let kernel = Shared::default();
    let mut quarantine = process(dir.path(), &kernel);
    quarantine.cut_off(&vm("web"), &[nic("tap0")], &Policy::strict()).unwrap();
    kernel.lock().absent.insert("tap0".into());
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Waiting)));
    assert!(kernel.cut_devices().is_empty());
    assert_eq!(quarantine.entry("id-of-web").unwrap().unwrap().state, State::Intent);
}

#[test]
fn rules_in_place_are_left_alone_by_a_check_and_mended_when_removed() {
    let dir = TempDir::new().unwrap();
    let kernel = Shared::default();
    let mut quarantine = process(dir.path(), &kernel);
    quarantine.cut_off(&vm("web"), &[nic("tap0")], &Policy::strict()).unwrap();
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Held)));
    assert_eq!(kernel.lock().applied, 1);
    kernel.lock().cut.clear();
    assert!(matches!(quarantine.check().unwrap()[0].result, Ok(Outcome::Applied)));
    let Kernel { cut, applied, .. } = &*kernel.lock();
    assert_eq!((cut.len(), *applied), (1, 2));
}

#[test]
fn what_is_not_in_quarantine_cannot_be_released() {
    let dir = TempDir::new().unwrap();
    let mut quarantine = process(dir.path(), &Shared::default());
    assert!(matches!(quarantine.release("id-of-web"), Err(Error::NotQuarantined { .. })));
}
