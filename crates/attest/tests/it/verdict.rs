//! Verdicts and reports.

use crate::fixture::*;
use attest::{judge, report};
use facts::*;

#[test]
fn a_verdict_is_never_better_than_what_was_seen() {
    let certificate = certificate();
    let certificate = Some(&certificate);
    let web = web();
    let drifted = drift(|s| s.modules.push(module("evil")));
    let blind = drift(|s| s.problems.push(problem(ProblemKind::Unmapped, "task list 0xffffffff82e1b3c0")));
    let both: Vec<_> = drifted.iter().chain(&blind).cloned().collect();
    assert_eq!(judge(certificate, &[], Some(&web)), Verdict::Conforms);
    assert_eq!(judge(certificate, &drifted, Some(&web)), Verdict::Drifted);
    assert_eq!(judge(certificate, &blind, Some(&web)), Verdict::Unreadable);
    assert_eq!(judge(certificate, &both, Some(&web)), Verdict::Drifted);
    assert_eq!(judge(certificate, &[], None), Verdict::Unreadable);
    assert_eq!(judge(None, &[], None), Verdict::Unreadable);
    assert_eq!(judge(None, &[], Some(&web)), Verdict::Uncertified);
    let empty = web_with(|s| s.processes.clear());
    assert_eq!(judge(None, &[], Some(&empty)), Verdict::Unreadable);
}

#[test]
fn a_report_is_the_contract_of_the_command_line() {
    let findings = drift(|s| s.modules.push(module("evil")));
    let report = report(web().vm, Verdict::Drifted, findings, None);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["schema"], "birthmark.report/v1");
    assert_eq!(json["verdict"], "drifted");
    assert_eq!(json["findings"][0]["rule"], "module.unknown");
    assert_eq!(json["snapshot"], serde_json::Value::Null);
}
