//! Every reason for which a certificate is refused, and that no byte of it can be changed.

use crate::fixture::*;
use attest::dsse::{self, PAYLOAD_TYPE};
use attest::{Error, PREDICATE_TYPE, PrivateKey, Refusal, Statement, Verified, VerifyOptions, verify};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NOW: &str = "2026-12-01T00:00:00Z";

fn check(envelope: &[u8], key: &PrivateKey, now: &str, options: &VerifyOptions) -> Result<Verified, Refusal> {
    verify(envelope, &[key.public()], time(now), options)
}

/// Verifies a properly signed statement after something was done to its JSON.
fn signed(change: impl FnOnce(&mut Value)) -> Result<Verified, Refusal> {
    let mut document = serde_json::to_value(statement()).unwrap();
    change(&mut document);
    signed_text(&document.to_string())
}

fn signed_text(body: &str) -> Result<Verified, Refusal> {
    let key = PrivateKey::generate().unwrap();
    let envelope = dsse::seal(PAYLOAD_TYPE, body.as_bytes(), &key).unwrap();
    check(&envelope, &key, NOW, &VerifyOptions::default())
}

#[test]
fn a_signed_certificate_is_verified_and_is_what_was_signed() {
    let key = PrivateKey::generate().unwrap();
    let envelope = statement().sign(&key).unwrap();
    let verified = check(&envelope, &key, NOW, &VerifyOptions::default()).unwrap();
    assert_eq!(verified.statement, statement());
    assert_eq!(verified.certificate().service, "web-frontend");
    assert_eq!(verified.signers, [key.public().id()]);
}

#[test]
fn validity_includes_its_start_and_excludes_its_end() {
    let key = PrivateKey::generate().unwrap();
    let envelope = statement().sign(&key).unwrap();
    let at = |now| check(&envelope, &key, now, &VerifyOptions::default());
    assert!(matches!(at("2026-10-31T23:59:59.999Z"), Err(Refusal::NotYetValid { .. })));
    assert!(at("2026-11-01T00:00:00Z").is_ok());
    assert!(at("2027-10-31T23:59:59.999Z").is_ok());
    let expired = at("2027-11-01T00:00:00Z").unwrap_err();
    assert_eq!(
        expired.to_string(),
        "The certificate expired at 2027-11-01T00:00:00Z, and it is 2027-11-01T00:00:00Z"
    );
}

#[test]
fn a_serial_below_the_highest_seen_of_its_service_is_refused() {
    let key = PrivateKey::generate().unwrap();
    let envelope = statement().sign(&key).unwrap();
    let seen = |service: &str, serial| {
        let highest_serials = BTreeMap::from([(service.to_owned(), serial)]);
        let options = VerifyOptions { highest_serials, ..VerifyOptions::default() };
        check(&envelope, &key, NOW, &options)
    };
    assert!(seen("web-frontend", 7).is_ok());
    assert!(seen("database", 8).is_ok());
    let refusal = seen("web-frontend", 8).unwrap_err();
    assert!(matches!(&refusal, Refusal::RolledBack { serial: 7, highest: 8, .. }), "{refusal}");
}

#[test]
fn the_signature_is_checked_before_the_content() {
    let key = PrivateKey::generate().unwrap();
    let stranger = PrivateKey::generate().unwrap();
    let envelope = dsse::seal(PAYLOAD_TYPE, b"no json at all", &key).unwrap();
    assert!(matches!(
        check(&envelope, &stranger, NOW, &VerifyOptions::default()),
        Err(Refusal::UntrustedKey { .. })
    ));
    assert!(matches!(check(&envelope, &key, NOW, &VerifyOptions::default()), Err(Refusal::Statement(_))));
}

#[test]
fn statements_of_another_kind_are_refused() {
    let refusal = signed(|s| s["_type"] = "https://in-toto.io/Statement/v0.1".into()).unwrap_err();
    assert!(matches!(refusal, Refusal::StatementType { .. }), "{refusal}");
    let refusal = signed(|s| s["predicateType"] = "https://slsa.dev/provenance/v1".into()).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::PredicateType { found, expected } if found.contains("slsa") && *expected == PREDICATE_TYPE)
    );
    let key = PrivateKey::generate().unwrap();
    let other = dsse::seal("text/plain", &statement().to_json().unwrap(), &key).unwrap();
    assert!(matches!(check(&other, &key, NOW, &VerifyOptions::default()), Err(Refusal::PayloadType { .. })));
}

#[test]
fn a_newer_minor_is_accepted_with_its_unknown_fields_and_a_newer_major_is_refused() {
    let newer = signed(|s| {
        s["predicate"]["schema"] = "1.9".into();
        s["predicate"]["phases"] = json!({"boot": [{"of": "10.0.0.0/8"}]});
        s["predicate"]["processes"][0]["weather"] = json!(["/sbin/init"]);
        s["predicate"]["policy"]["rules"]["socket.flow.unknown"] = json!({"severity": "low", "weight": 3});
    });
    assert_eq!(newer.unwrap().certificate().schema.to_string(), "1.9");
    // Whatever else is in it.
    let major = signed(|s| s["predicate"] = json!({"schema": "2.0", "everything": "changed"}));
    assert!(matches!(major, Err(Refusal::SchemaMajor { found, supported: 1 }) if found == "2.0"));
    for schema in [
        json!(1),
        json!("1"),
        json!("1."),
        json!("01.0"),
        json!("+1.0"),
        json!("1.0.0"),
        json!("4294967296.0"),
    ] {
        let refusal = signed(|s| s["predicate"]["schema"] = schema.clone()).unwrap_err();
        assert!(matches!(refusal, Refusal::SchemaFormat { .. }), "{schema}: {refusal}");
    }
    let none = signed(|s| drop(s["predicate"].as_object_mut().unwrap().remove("schema")));
    assert!(matches!(none, Err(Refusal::Statement(_))));
}

#[test]
fn duplicate_keys_anywhere_in_the_statement_are_refused() {
    let body = String::from_utf8(statement().to_json().unwrap()).unwrap();
    let once = |from: &str, to: &str| {
        assert!(body.contains(from), "{from}");
        signed_text(&body.replacen(from, to, 1)).unwrap_err()
    };
    for refusal in [
        once(r#""serial": 7"#, r#""serial": 7, "serial": 9"#),
        once(r#""sha256": ""#, r#""sha256": "00", "sha256": ""#),
        once(r#""module.unknown": {"#, r#""module.unknown": {}, "module.unknown": {"#),
        once(r#""serial": 7"#, r#""serial": 7, "later": {"a": 1, "a": 1}"#),
    ] {
        assert!(
            matches!(&refusal, Refusal::Statement(e) if e.to_string().contains("duplicate")),
            "{refusal}"
        );
    }
    assert!(signed_text(&body).is_ok());
}

#[test]
fn a_field_of_another_type_or_a_missing_one_is_refused() {
    for field in
        ["serial", "service", "validity", "guest", "processes", "listeners", "raw_sockets", "modules"]
    {
        let missing = signed(|s| drop(s["predicate"].as_object_mut().unwrap().remove(field)));
        assert!(matches!(missing, Err(Refusal::Predicate(_))), "{field}");
        let other = signed(|s| s["predicate"][field] = true.into());
        assert!(matches!(other, Err(Refusal::Predicate(_))), "{field}");
    }
    for (pointer, value) in [
        ("/predicate/processes/0/presence", json!("optional")),
        ("/predicate/processes/0/executable", json!("/bin/x\\")),
        ("/predicate/processes/0/identities/0/capabilities", json!(["cap_fly"])),
        ("/predicate/listeners/0/port", json!(65536)),
        ("/predicate/listeners/0/port", json!("9-1")),
        ("/predicate/listeners/0/address", json!("localhost")),
        ("/predicate/validity/notAfter", json!("tomorrow")),
        ("/predicate/serial", json!(-1)),
        ("/predicate/policy/mode", json!("off")),
    ] {
        let refusal = signed(|s| *s.pointer_mut(pointer).unwrap() = value.clone()).unwrap_err();
        assert!(matches!(refusal, Refusal::Predicate(_)), "{pointer} {value}: {refusal}");
    }
}

#[test]
fn a_statement_that_contradicts_itself_is_refused_and_not_signed() {
    type Case = (&'static str, fn(&mut Statement), fn(&Refusal) -> bool);
    let cases: [Case; 23] = [
        ("no service", |s| s.predicate.service = "  ".to_owned(), |r| matches!(r, Refusal::NoService)),
        ("serial 0", |s| s.predicate.serial = 0, |r| matches!(r, Refusal::SerialZero)),
        (
            "reversed validity",
            |s| s.predicate.validity.not_after = s.predicate.validity.not_before,
            |r| matches!(r, Refusal::ValidityReversed { .. }),
        ),
        ("no subject", |s| s.subject.clear(), |r| matches!(r, Refusal::NoSubject)),
        ("empty digest", |s| s.subject[0].digest.clear(), |r| matches!(r, Refusal::NoSubject)),
        ("no kernel", |s| s.predicate.guest.kernels.clear(), |r| matches!(r, Refusal::NoKernel)),
        (
            "kernel is no subject",
            |s| s.predicate.guest.kernels[0].btf_digest = "sha256:00".to_owned(),
            |r| matches!(r, Refusal::KernelNotSubject { .. }),
        ),
        (
            "digest without its algorithm",
            |s| s.predicate.guest.kernels[0].btf_digest = "3c".repeat(32),
            |r| matches!(r, Refusal::KernelNotSubject { .. }),
        ),
        (
            "no identity",
            |s| s.predicate.processes[1].identities.clear(),
            |r| matches!(r, Refusal::ProcessEntry { index: 1, .. }),
        ),
        (
            "no executable",
            |s| s.predicate.processes[0].executable = None,
            |r| matches!(r, Refusal::ProcessEntry { index: 0, .. }),
        ),
        (
            "kernel thread with an executable",
            |s| s.predicate.processes[0].kernel_thread = true,
            |r| matches!(r, Refusal::ProcessEntry { index: 0, .. }),
        ),
        (
            "allowed, but at least one",
            |s| s.predicate.processes.iter_mut().for_each(|e| e.count.min = 1),
            |r| matches!(r, Refusal::ProcessEntry { .. }),
        ),
        (
            "at most none of what is required",
            |s| s.predicate.processes.iter_mut().for_each(|e| e.count.max = Some(0)),
            |r| matches!(r, Refusal::ProcessEntry { .. }),
        ),
        (
            "listener without a port",
            |s| s.predicate.listeners[0].port = None,
            |r| matches!(r, Refusal::ListenerEntry { index: 0, .. }),
        ),
        (
            "unix listener without a path",
            |s| s.predicate.listeners.iter_mut().for_each(|l| l.path = None),
            |r| matches!(r, Refusal::ListenerEntry { .. }),
        ),
        (
            "empty parents",
            |s| s.predicate.processes[1].parents = Some(Vec::new()),
            |r| matches!(r, Refusal::ProcessEntry { index: 1, .. }),
        ),
        (
            "digest of a program in capitals",
            |s| s.predicate.processes[1].sha256 = vec!["AB".repeat(32)],
            |r| matches!(r, Refusal::ProcessEntry { index: 1, .. }),
        ),
        (
            "kernel threads with a digest",
            |s| s.predicate.processes.last_mut().unwrap().sha256 = vec!["ab".repeat(32)],
            |r| matches!(r, Refusal::ProcessEntry { .. }),
        ),
        (
            "flow at port 0",
            |s| {
                let json = r#"{"protocol": "tcp", "cidr": "10.0.0.0/8", "port": 0, "processes": []}"#;
                let entry = serde_json::from_str(json).unwrap();
                s.predicate.flows = Some(attest::Flows { egress: vec![], ingress: vec![entry] });
            },
            |r| matches!(r, Refusal::FlowEntry { direction: "ingress", index: 0, .. }),
        ),
        (
            "supersedes no digest",
            |s| s.predicate.supersedes = Some("6".to_owned()),
            |r| matches!(r, Refusal::SupersedesFormat { .. }),
        ),
        (
            "supersedes a short digest",
            |s| s.predicate.supersedes = Some("sha256:00".to_owned()),
            |r| matches!(r, Refusal::SupersedesFormat { .. }),
        ),
        (
            "one confirmation",
            |s| s.predicate.policy.confirmations = 1,
            |r| matches!(r, Refusal::TooFewConfirmations { confirmations: 1, least: 2, .. }),
        ),
        (
            "one confirmation of a rule",
            |s| s.predicate.policy.rules.values_mut().for_each(|p| p.confirmations = Some(1)),
            |r| matches!(r, Refusal::TooFewConfirmations { rule, .. } if rule != "default"),
        ),
    ];
    let key = PrivateKey::generate().unwrap();
    for (name, change, expected) in cases {
        let mut bad = statement();
        change(&mut bad);
        let Err(Error::WouldBeRefused(refusal)) = bad.sign(&key) else { panic!("{name} was signed") };
        assert!(expected(&refusal), "{name}: {refusal}");
        let refusal = signed_text(&serde_json::to_string(&bad).unwrap()).unwrap_err();
        assert!(expected(&refusal), "{name}: {refusal}");
    }
}

#[test]
fn a_selector_takes_names_ids_and_metadata_and_an_empty_one_takes_nothing() {
    let vm = web().vm;
    let certificate = certificate();
    assert!(certificate.selector.selects(&vm));
    let other = facts::Vm { name: "web-10".to_owned(), ..vm.clone() };
    assert!(!certificate.selector.selects(&other));
    let wide: attest::Selector = serde_json::from_str(r#"{"names": ["web-#"]}"#).unwrap();
    assert!(wide.selects(&other));
    let by_id: attest::Selector = serde_json::from_str(r#"{"uuids": ["6f2d1a38-*"]}"#).unwrap();
    assert!(by_id.selects(&other));
    assert!(!attest::Selector::default().selects(&vm));
    let by_metadata: attest::Selector =
        serde_json::from_str(r#"{"metadata": [{"key": "instance/flavor@name", "value": "m1.*"}]}"#).unwrap();
    let flavor = |name: &str| facts::Vm {
        libvirt: Some(facts::Libvirt {
            metadata: vec![facts::Metadata {
                namespace: None,
                key: "instance/flavor@name".to_owned(),
                value: name.to_owned(),
            }],
            ..facts::Libvirt::default()
        }),
        ..vm.clone()
    };
    assert!(by_metadata.selects(&flavor("m1.small")));
    assert!(!by_metadata.selects(&flavor("c1.small")) && !by_metadata.selects(&vm));
    let by_title: attest::Selector =
        serde_json::from_str(r#"{"metadata": [{"key": "title", "value": "Web*"}]}"#).unwrap();
    let titled = |title: &str| facts::Vm {
        libvirt: Some(facts::Libvirt { title: Some(title.to_owned()), ..facts::Libvirt::default() }),
        ..vm.clone()
    };
    assert!(by_title.selects(&titled("Web 1")) && !by_title.selects(&titled("Mail")));
}

#[test]
fn no_changed_byte_of_a_real_certificate_is_accepted() {
    let key = PrivateKey::generate().unwrap();
    let envelope = statement().sign(&key).unwrap();
    let good = check(&envelope, &key, NOW, &VerifyOptions::default()).unwrap();
    // Each byte of the end, with key id and signature; of the long payload one in 23 (dsse.rs alters every bit of a short one).
    let payload = envelope.len() - 300;
    for at in (0..payload).step_by(23).chain(payload..envelope.len()) {
        let mut altered = envelope.clone();
        altered[at] ^= 1 << (at % 8);
        // Outside of what is signed (the key id, a space) a change may be harmless, but then nothing else is read.
        if let Ok(verified) = check(&altered, &key, NOW, &VerifyOptions::default()) {
            assert_eq!(verified, good, "byte {at}");
            let signed = String::from_utf8_lossy(&envelope[..at]);
            assert!(
                signed.contains("signatures") && !signed.contains("\"sig\""),
                "byte {at} of what is signed"
            );
        }
    }
}

#[test]
fn what_is_too_big_or_too_deep_is_refused_wherever_it_is() {
    let huge = vec![b'['; 100 << 20];
    let key = PrivateKey::generate().unwrap();
    assert!(matches!(check(&huge, &key, NOW, &VerifyOptions::default()), Err(Refusal::TooLarge { .. })));
    assert!(matches!(attest::parse(&huge), Err(Refusal::TooLarge { .. })));
    assert!(matches!(attest::Draft::parse(&huge), Err(Refusal::TooLarge { .. })));
    assert!(matches!(dsse::Envelope::read(&huge, PAYLOAD_TYPE), Err(Refusal::TooLarge { .. })));
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let statement =
        serde_json::to_string(&statement()).unwrap().replacen('{', &format!("{{\"x\":{deep},"), 1);
    let refusal = signed_text(&statement).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::Statement(error) if error.to_string().contains("recursion")),
        "{refusal}"
    );
    assert!(matches!(attest::Draft::parse(deep.as_bytes()), Err(Refusal::Draft(_))));
}
