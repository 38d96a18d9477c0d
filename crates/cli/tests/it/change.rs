//! `review`, `diff` and `accept`, without a guest.

use crate::run::run;
use crate::signed::{Signer, snapshot, statement, text};
use attest::{Draft, compare};
use facts::{Process, Verdict};
use std::fs;

/// A report about the certificate's guest with a program too many, and the id of the finding.
fn report(signer: &Signer) -> (String, String) {
    let mut seen = snapshot();
    seen.processes.push(Process {
        pid: 77,
        ppid: Some(1),
        name: "rogue".into(),
        exe: Some("/tmp/\x1b[2Jrogue".into()),
        ..seen.processes[0].clone()
    });
    let certificate = statement("2020-01-01T00:00:00Z", "9000-01-01T00:00:00Z").predicate;
    let findings = compare(&certificate, &seen);
    let [finding] = findings.as_slice() else { panic!("{findings:#?}") };
    let id = finding.id.clone();
    let report = attest::report(seen.vm.clone(), Verdict::Drifted, findings, Some(seen));
    let path = signer.path("report.json");
    fs::write(&path, serde_json::to_vec(&report).unwrap()).unwrap();
    (text(&path), id)
}

#[test]
fn an_accepted_finding_is_in_the_next_draft_and_its_difference_is_shown() {
    let signer = Signer::new();
    let (file, public) = (signer.valid_certificate(), signer.public());
    let (report, id) = report(&signer);
    let next = text(&signer.path("next.draft"));
    let accept = |id: &str| {
        run([
            "accept",
            id,
            "--certificate",
            &file,
            "--trusted-key",
            &public,
            "--report",
            &report,
            "-o",
            &next,
        ])
    };
    assert!(accept("0123456789abcdef").error().contains("no finding 0123456789abcdef"));
    let ran = accept(&id);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.stdout.contains("serial 8 after 7"), "{}", ran.stdout);
    assert!(ran.stdout.contains("+ processes: /tmp/\\u{1b}[2Jrogue as rogue"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\x1b'));
    assert!(accept(&id).error().contains("--force"));

    let diff = run(["diff", &file, &next]);
    assert_eq!(diff.status, Some(1), "{diff:?}");
    assert!(diff.stdout.contains("serial: 7 → 8"), "{}", diff.stdout);
    let same = run(["diff", &file, &file]);
    assert_eq!((same.status, same.stdout.as_str()), (Some(0), "No difference\n"));
    assert_eq!(run(["diff", &file, &next, "--json"]).json().as_array().unwrap().len(), 2);

    // The draft is signed, and takes over from the certificate that it names.
    let signed = text(&signer.path("next.json"));
    let key = text(&signer.path("key"));
    assert_eq!(run(["sign", &next, "--key", &key, "-o", &signed]).status, Some(0));
    let old = run(["verify", &file, "--trusted-key", &public, "--json"]).json();
    let shown = run(["show", &signed, "--trusted-key", &public, "--json"]).json();
    assert_eq!(shown["statement"]["predicate"]["supersedes"], old["digest"]);
}

#[test]
fn nothing_is_accepted_into_a_certificate_that_is_not_trusted() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let (report, id) = report(&signer);
    let (file, next) = (signer.valid_certificate(), text(&signer.path("next")));
    let ran = run([
        "accept",
        &id,
        "--certificate",
        &file,
        "--trusted-key",
        &stranger.public(),
        "--report",
        &report,
        "-o",
        &next,
    ]);
    assert!(ran.error().contains("is refused"), "{ran:?}");
    assert!(!signer.path("next").exists());
}

#[test]
fn the_review_page_says_what_is_allowed_and_warns_of_what_is_too_much() {
    let signer = Signer::new();
    let mut open = statement("2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z");
    open.predicate.processes[0].executable = Some(attest::Pattern::parse("/**").unwrap());
    let draft = text(&signer.path("draft"));
    fs::write(&draft, Draft::new(open, vec!["By hand.".to_owned()], vec![]).to_json().unwrap()).unwrap();
    let ran = run(["review", &draft]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    for wanted in ["By hand.", "Needs your eye (1)", "matches nearly all programs", "REQUIRED, at least 1"] {
        assert!(ran.stdout.contains(wanted), "{wanted} is not in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains(|c: char| c.is_control() && c != '\n'), "{:?}", ran.stdout);
    assert_eq!(run(["review", &draft, "--json"]).json()["warnings"][0]["path"], "/processes/0");
    // A certificate has a page too, whoever signed it.
    let ran = run(["review", &signer.valid_certificate()]);
    assert!(ran.stdout.contains("Birth certificate of web, serial 7"), "{ran:?}");
    assert!(run(["review", "/no/such/file"]).error().contains("/no/such/file"));
    fs::write(&draft, "{}").unwrap();
    assert!(run(["review", &draft]).error().contains("cannot be shown"));
}
