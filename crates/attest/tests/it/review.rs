//! The page for the person who signs: everything is on it, and what lets too much through is told.

use crate::fixture::*;
use attest::{Certificate, Draft, Learner, Pattern, Statement, review, warnings};

fn draft() -> Draft {
    let mut learner = Learner::new(&options());
    learner.look(&web()).unwrap();
    learner.look(&web_with(|s| s.modules.push(module("nf_tables")))).unwrap();
    learner.draft(&options()).unwrap()
}

#[test]
fn every_entry_is_on_the_page_with_why_and_how_often() {
    let draft = draft();
    let page = review(&draft);
    for wanted in [
        "web-frontend, serial 7",
        "Learned from 2 looks at 1 VMs: web-1.",
        "/usr/sbin/nginx as nginx",
        "REQUIRED, at least 1",
        "as uid 33, euid 33, gid 33, egid 33, capabilities none",
        "started by: /usr/lib/systemd/systemd, /usr/sbin/nginx",
        "arguments: /usr/sbin/dhclient",
        "tcp 0.0.0.0 port 443 held by /usr/sbin/nginx",
        "packet 0x0800 held by /usr/sbin/dhclient",
        "virtio_net",
        "6.1.0-18-cloud-amd64",
        "why: started by init and there in every look, so its absence is drift; seen in 2 looks",
        "not judged: it may speak with anybody",
        "process.unknown           high      cuts the VM off, after 2 looks",
        "! nf_tables: seen in one of 2 looks only",
    ] {
        assert!(page.contains(wanted), "{wanted:?} is not on\n{page}");
    }
    let everything = Draft::new(Statement::new(certificate_with_everything(), None), vec![], vec![]);
    let page = review(&everything);
    for wanted in ["tcp 10.0.5.0/24 port 5432", "sha256 abab", "at most 64", "in a container *", "Supersedes"]
    {
        assert!(page.contains(wanted), "{wanted:?} is not on\n{page}");
    }
}

#[track_caller]
fn warned(change: impl FnOnce(&mut Certificate), path: &str, text: &str) {
    let mut certificate = certificate();
    change(&mut certificate);
    let told = warnings(&certificate);
    assert!(told.iter().any(|w| w.path == path && w.text.contains(text)), "{path} {text}: {told:#?}");
    let page = review(&Draft::new(Statement::new(certificate, None), vec![], vec![]));
    assert!(page.contains(text), "{page}");
}

#[test]
fn what_lets_more_through_than_a_person_may_have_meant_is_warned_of() {
    let pattern = |text: &str| Pattern::parse(text).unwrap();
    assert_eq!(warnings(&certificate()), [], "what is learned from a small web server needs no warning");
    for open in ["**", "*", "/**", "/*"] {
        warned(
            |c| c.processes[0].executable = Some(pattern(open)),
            "/processes/0",
            "matches nearly all programs",
        );
    }
    warned(|c| c.selector.names = vec![pattern("**")], "/selector/names", "matches nearly all VMs");
    warned(|c| c.listeners[0].processes = vec![pattern("/**")], "/listeners/0", "nearly all programs");
    warned(
        |c| c.listeners[0].port = Some(attest::PortRule { first: 1, last: 65535 }),
        "/listeners/0",
        "are many",
    );
    warned(|c| c.raw_sockets[0].processes = vec![pattern("**")], "/raw_sockets/0", "nearly all programs");
    warned(|c| c.modules[0].name = pattern("*"), "/modules/0", "nearly all modules");
    warned(|c| c.processes[0].executable = Some(pattern("/tmp/x")), "/processes/0", "many may write to");
    warned(|c| c.processes[0].exe_state = facts::ExeState::Deleted, "/processes/0", "need not exist");
    warned(|c| c.processes[0].identities[0].euid = 33, "/processes/0", "every capability");
    warned(|c| c.policy.mode = attest::Mode::Monitor, "/policy/mode", "no action is ever taken");
    warned(
        |c| {
            c.policy.rules.insert("proces.unknown".to_owned(), attest::RulePolicy::default());
        },
        "/policy/rules",
        "has no rule \"proces.unknown\"",
    );
    warned(|c| c.validity.not_after = time("2036-01-01T00:00:00Z"), "/validity", "days");
    warned(
        |c| {
            let flows = r#"{"egress": [{"protocol": "tcp", "cidr": "0.0.0.0/0", "port": 443, "processes": []}], "ingress": []}"#;
            c.flows = Some(serde_json::from_str(flows).unwrap());
        },
        "/flows/egress/0",
        "call anybody",
    );
}

#[test]
fn a_guest_cannot_write_on_the_page() {
    let mut learner = Learner::new(&options());
    let hostile = web_with(|s| {
        s.vm.name = "web\x1b[2J".to_owned();
        s.processes.push(process(666, "a\x1b[31m\u{202e}b\n  nothing", "/opt/a\nb"));
        s.sockets.list().push(unix("/run/\x1b]0;x\x07", &[666]));
    });
    learner.look(&hostile).unwrap();
    let page = review(&learner.draft(&options()).unwrap());
    assert!(!page.contains(['\x1b', '\u{202e}', '\x07']), "{page}");
    assert!(page.contains("\\u{1b}"), "{page}");
}

#[test]
fn a_draft_survives_its_file_and_is_never_taken_for_a_certificate() {
    let draft = draft();
    assert_eq!(Draft::parse(&draft.to_json().unwrap()).unwrap(), draft);
    let key = attest::PrivateKey::generate().unwrap();
    let bytes = draft.to_json().unwrap();
    let verified = attest::verify(
        &bytes,
        &[key.public()],
        time("2026-12-01T00:00:00Z"),
        &attest::VerifyOptions::default(),
    );
    assert!(verified.is_err());
    assert!(Draft::parse(&statement().sign(&key).unwrap()).is_err());
    let other = String::from_utf8(bytes).unwrap().replace("birthmark.draft/v1", "birthmark.draft/v2");
    assert!(matches!(Draft::parse(other.as_bytes()), Err(attest::Refusal::DraftSchema { .. })));
}

#[test]
fn nothing_is_left_out_of_the_page_however_much_it_is() {
    let mut certificate = certificate();
    let names = (0..100).map(|n| Pattern::literal(&format!("{}-{n}", "name".repeat(10)))).collect();
    certificate.processes[0].names = names;
    certificate.processes[0].args =
        Some((0..100).map(|n| Pattern::literal(&format!("argument-{n}"))).collect());
    let page = review(&Draft::new(Statement::new(certificate, None), vec![], vec![]));
    for n in 0..100 {
        assert!(page.contains(&format!("namename-{n}")) && page.contains(&format!("argument-{n}")), "{n}");
    }
}
