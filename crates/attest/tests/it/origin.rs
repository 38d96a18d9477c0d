//! What was learned, held against an image: digests where they are known, an eye where the image knows nothing.

use crate::fixture::*;
use attest::{Draft, FileEntry, KernelIdentity, Learner, Note, Origin, Pattern, Subject, review};
use facts::ExeState;
use std::collections::BTreeMap;

fn file(path: &str, seed: u8) -> FileEntry {
    FileEntry {
        path: path.to_owned(),
        sha256: format!("{seed:02x}").repeat(32),
        size: 4,
        package: Some("web=1".to_owned()),
        pages: None,
    }
}

fn origin() -> Origin {
    let kernel = certificate().guest.kernels[0].clone();
    Origin {
        subject: Subject {
            name: "image".to_owned(),
            digest: BTreeMap::from([("sha256".to_owned(), "77".repeat(32))]),
        },
        files: vec![
            file("/usr/lib/systemd/systemd", 1),
            file("/usr/sbin/nginx", 2),
            file("/usr/bin/bash", 3),
            file("/usr/sbin/never", 4),
        ],
        kernels: vec![kernel],
        modules: certificate().modules,
        about: Vec::new(),
    }
}

fn learned(change: impl FnOnce(&mut facts::Snapshot)) -> Draft {
    let mut learner = Learner::new(&options());
    learner.look(&web_with(change)).unwrap();
    learner.draft(&options()).unwrap()
}

fn on<'d>(draft: &'d Draft, executable: &str) -> (&'d attest::ProcessEntry, &'d Note) {
    let literal = Pattern::literal(executable);
    let entries = &draft.statement.predicate.processes;
    let index = entries.iter().position(|entry| entry.executable.as_ref() == Some(&literal)).unwrap();
    let note = draft.notes.iter().find(|note| note.path == format!("/processes/{index}")).unwrap();
    (&entries[index], note)
}

#[test]
fn a_program_that_ran_has_the_digest_and_the_package_of_its_file_and_one_that_is_in_no_image_needs_an_eye() {
    let draft = learned(|s| s.processes.push(process(900, "rogue", "/opt/rogue"))).with_origin(origin());
    let (nginx, note) = on(&draft, "/usr/sbin/nginx");
    assert_eq!(nginx.sha256, ["02".repeat(32)]);
    assert!(note.why.ends_with("its file in the image is of web=1") && note.review.is_empty(), "{note:?}");
    let (rogue, note) = on(&draft, "/opt/rogue");
    assert!(rogue.sha256.is_empty());
    assert_eq!(note.review, ["it is NOT in the image"]);
    let page = review(&draft);
    assert!(page.contains("! /opt/rogue as rogue: it is NOT in the image"), "{page}");
    assert!(page.contains(&format!("sha256 {}, of web=1", "02".repeat(32))), "{page}");
    assert!(page.contains("1 of its 4 files that could run did not"), "{page}");
    let image = draft.statement.subject.last().unwrap();
    assert_eq!((image.name.as_str(), image.digest["sha256"].as_str()), ("image", "77".repeat(32).as_str()));
    assert_eq!(draft.statement.predicate.files, origin().files);
    assert_eq!(Draft::parse(&draft.to_json().unwrap()).unwrap(), draft, "it can be signed as it is");
}

#[test]
fn no_digest_is_taken_for_what_need_not_be_the_file_of_the_image() {
    let draft = learned(|s| {
        let replaced = facts::Process {
            exe_state: Some(ExeState::Deleted),
            ..process(901, "replaced", "/usr/sbin/never")
        };
        s.processes.push(replaced);
        let contained = facts::Process {
            container: Some("3c".repeat(32).into()),
            ..process(902, "bash", "/usr/bin/bash")
        };
        s.processes.push(contained);
    })
    .with_origin(origin());
    let (replaced, note) = on(&draft, "/usr/sbin/never");
    assert!(replaced.sha256.is_empty() && note.review[0].contains("replaced or removed"), "{note:?}");
    let entries = &draft.statement.predicate.processes;
    let contained = entries.iter().position(|entry| entry.container.is_some()).unwrap();
    assert!(entries[contained].sha256.is_empty());
    let note = draft.notes.iter().find(|note| note.path == format!("/processes/{contained}")).unwrap();
    assert!(note.review.iter().any(|why| why.contains("in a container")), "{note:?}");
}

#[test]
fn a_kernel_and_a_module_that_the_image_has_not_need_an_eye_and_none_does_when_it_has_no_kernel() {
    let module = |s: &mut facts::Snapshot| s.modules.push(module("rootkit"));
    let other = KernelIdentity { release: "5.10.0".to_owned(), ..certificate().guest.kernels[0].clone() };
    let page = review(&learned(module).with_origin(Origin { kernels: vec![other], ..origin() }));
    assert!(page.contains(": the image has no such kernel"), "{page}");
    assert!(page.contains("! rootkit: the kernels of the image have no such module"), "{page}");
    let page = review(&learned(module).with_origin(Origin { kernels: vec![], modules: vec![], ..origin() }));
    assert!(!page.contains("no such"), "{page}");
    assert!(page.contains("No kernel was found in the image"), "{page}");
}
