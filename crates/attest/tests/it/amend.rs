//! The next draft allows what was accepted, and nothing that a report has no say in.

use crate::fixture::*;
use attest::{Error, Statement, Validity, amend, compare, diff};
use facts::*;

const DIGEST: &str = "sha256:5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

fn validity() -> Validity {
    Validity { not_before: time("2026-12-01T00:00:00Z"), not_after: time("2027-12-01T00:00:00Z") }
}

fn next(findings: &[Finding]) -> Result<attest::Draft, Error> {
    amend(&statement(), DIGEST, findings, validity())
}

fn rogue(s: &mut Snapshot) {
    s.processes.push(process(666, "rogue", "/tmp/rogue"));
    s.sockets.list().push(tcp("0.0.0.0", 4444, &[666]));
    s.processes[9].ppid = Some(402);
}

#[test]
fn the_next_draft_allows_what_was_accepted_and_names_what_it_replaces() {
    let findings = drift(rogue);
    let draft = next(&findings).unwrap();
    let certificate = &draft.statement.predicate;
    assert_eq!(compare(certificate, &web_with(rogue)), []);
    assert_eq!((certificate.serial, certificate.supersedes.as_deref()), (8, Some(DIGEST)));
    assert_eq!(certificate.validity, validity());
    assert!(
        draft.notes.iter().all(|note| !note.review.is_empty() && note.why.contains("accepted with finding"))
    );
    let paths: Vec<_> = draft.notes.iter().map(|note| note.path.as_str()).collect();
    assert!(
        paths.contains(&"/processes/6") && paths.contains(&"/listeners/5") && paths.contains(&"/processes/0"),
        "{paths:?}"
    );
    // What was not accepted stays a finding.
    let listener: Vec<_> = findings.into_iter().filter(|f| f.rule == rule::LISTENER_UNKNOWN).collect();
    let some = next(&listener).unwrap();
    assert_eq!(
        rules(&compare(&some.statement.predicate, &web_with(rogue))),
        [rule::PROCESS_UNKNOWN, rule::PROCESS_PARENT]
    );
}

#[test]
fn a_new_kernel_is_a_new_subject_and_the_image_stays_one() {
    let findings = drift(|s| {
        s.kernel.release = "6.1.0-19-cloud-amd64".to_owned();
        s.kernel.btf_digest = Some(format!("sha256:{}", "4d".repeat(32)));
    });
    let image = Statement::new(certificate(), Some(&"ab".repeat(32)));
    let draft = amend(&image, DIGEST, &findings, validity()).unwrap();
    let subjects: Vec<_> = draft
        .statement
        .subject
        .iter()
        .map(|s| (s.name.as_str(), s.digest["sha256"][..2].to_owned()))
        .collect();
    assert_eq!(
        subjects,
        [("kernel", "3c".to_owned()), ("kernel", "4d".to_owned()), ("image", "ab".to_owned())]
    );
}

#[test]
fn too_few_of_a_required_program_becomes_allowed() {
    let gone = |s: &mut Snapshot| {
        s.processes.retain(|p| p.name != "dhclient");
        s.sockets.retain(|socket| !socket.processes.contains(&450));
    };
    let draft = next(&drift(gone)).unwrap();
    assert_eq!(compare(&draft.statement.predicate, &web_with(gone)), []);
}

#[test]
fn what_no_certificate_can_allow_is_not_accepted() {
    let disguised = drift(|s| s.processes.push(process(666, "kworker/3:0", "/tmp/rogue")));
    assert!(matches!(next(&disguised), Err(Error::NothingProposed { .. })));
}

#[test]
fn a_report_that_somebody_wrote_cannot_change_the_policy_or_take_anything_away() {
    let with = |proposal: &str| {
        let mut finding = only(drift(|s| s.modules.push(module("x"))));
        finding.evidence.insert("allow_with".to_owned(), proposal.to_owned());
        next(&[finding])
    };
    for proposal in [
        r#"[{"op": "add", "path": "/policy/mode", "value": "monitor"}]"#,
        r#"[{"op": "add", "path": "/policy", "value": {}}]"#,
        r#"[{"op": "add", "path": "", "value": {}}]"#,
        r#"[{"op": "add", "path": "/selector/names/-", "value": "**"}]"#,
        r#"[{"op": "add", "path": "/validity/notAfter", "value": "9999-01-01T00:00:00Z"}]"#,
        r#"[{"op": "add", "path": "/modules", "value": []}]"#,
        r#"[{"op": "remove", "path": "/modules/0", "value": null}]"#,
        r#"[{"op": "replace", "path": "/processes/0/executable", "value": "**"}]"#,
        r#"[{"op": "add", "path": "/modules/0", "value": {"name": "x"}}]"#,
        r#"[{"op": "add", "path": "/processes/99/names/-", "value": "x"}]"#,
        r#"[{"op": "add", "path": "/modules/-", "value": {"name": 7}}]"#,
        r#"[{"op": "add", "path": "/modules/-", "value": {"name": "x"}, "from": "/"}]"#,
        r#"{"op": "add"}"#,
        "",
    ] {
        assert!(matches!(with(proposal), Err(Error::Proposal { .. })), "{proposal}");
    }
    let contradiction =
        r#"[{"op": "add", "path": "/processes/-", "value": {"identities": [], "presence": "allowed"}}]"#;
    assert!(matches!(with(contradiction), Err(Error::WouldBeRefused(_))));
}

#[test]
fn what_is_accepted_is_all_that_differs() {
    let draft = next(&drift(|s| s.modules.push(module("nf_tables")))).unwrap();
    let changes = diff(&certificate(), &draft.statement.predicate);
    let lines: Vec<_> = changes.iter().map(|c| format!("{:?} {} {}", c.change, c.section, c.entry)).collect();
    assert_eq!(lines, ["Changed certificate certificate", "Added modules nf_tables"]);
    assert!(changes[0].details.iter().any(|detail| detail == "serial: 7 → 8"), "{changes:?}");
}
