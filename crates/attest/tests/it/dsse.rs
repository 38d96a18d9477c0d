//! The envelope: the encoding that is signed, and what is refused.

use crate::fixture::*;
use attest::dsse::{self, ENVELOPE_LIMIT, PAYLOAD_TYPE, SIGNATURE_LIMIT};
use attest::{PrivateKey, PublicKey, Refusal};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const TYPE: &str = "http://example.com/HelloWorld";

fn keys() -> (PrivateKey, [PublicKey; 1]) {
    let key = PrivateKey::generate().unwrap();
    let public = [key.public()];
    (key, public)
}

fn sealed(key: &PrivateKey) -> Value {
    serde_json::from_slice(&dsse::seal(TYPE, b"hello world", key).unwrap()).unwrap()
}

fn open(envelope: &Value, trusted: &[PublicKey]) -> Result<dsse::Opened, Refusal> {
    dsse::open(envelope.to_string().as_bytes(), TYPE, trusted)
}

#[test]
fn the_pre_authentication_encoding_is_that_of_the_protocols_test_vector() {
    let pae = dsse::pae(TYPE, b"hello world");
    assert_eq!(pae, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    assert_eq!(dsse::pae("", b""), b"DSSEv1 0  0 ");
    // Lengths are bytes, not characters.
    assert_eq!(dsse::pae("ü", &[0xff, 0]), [b"DSSEv1 2 \xc3\xbc 2 ".as_slice(), &[0xff, 0]].concat());
}

#[test]
fn what_was_sealed_is_opened_and_says_who_sealed_it() {
    let (key, trusted) = keys();
    let envelope = sealed(&key);
    assert_eq!(envelope["payload"], "aGVsbG8gd29ybGQ=");
    assert_eq!(envelope["payloadType"], TYPE);
    let opened = open(&envelope, &trusted).unwrap();
    assert_eq!(opened.body, b"hello world");
    assert_eq!(opened.signers, [key.public().id()]);
}

#[test]
fn both_alphabets_with_and_without_padding_are_read_and_a_mix_is_not() {
    let (key, trusted) = keys();
    let body: Vec<u8> = [0xfb, 0xef, 0xbe, 0xff, 0xff, 0xff, 0x01].to_vec();
    let mut envelope: Value = serde_json::from_slice(&dsse::seal(TYPE, &body, &key).unwrap()).unwrap();
    assert_eq!(envelope["payload"], "++++////AQ==");
    let signature = envelope["signatures"][0]["sig"].as_str().unwrap().to_owned();
    for payload in ["++++////AQ==", "++++////AQ", "----____AQ==", "----____AQ"] {
        envelope["payload"] = payload.into();
        envelope["signatures"][0]["sig"] =
            signature.replace('+', "-").replace('/', "_").trim_end_matches('=').into();
        assert_eq!(open(&envelope, &trusted).unwrap().body, body, "{payload}");
    }
    for payload in ["++++____AQ==", "++++////AR==", "+++ +////AQ==", "++++////A", "++++////AQ==\n"] {
        envelope["payload"] = payload.into();
        assert!(matches!(open(&envelope, &trusted), Err(Refusal::PayloadEncoding(_))), "{payload}");
    }
}

#[test]
fn unknown_fields_are_ignored() {
    let (key, trusted) = keys();
    let mut envelope = sealed(&key);
    envelope["future"] = json!({"a": [1, {"b": null}]});
    envelope["signatures"][0]["cert"] = "x".into();
    assert!(open(&envelope, &trusted).is_ok());
}

#[test]
fn a_key_id_is_only_a_hint() {
    let (key, trusted) = keys();
    for hint in [Value::Null, "".into(), "deadbeef".into()] {
        let mut envelope = sealed(&key);
        envelope["signatures"][0]["keyid"] = hint;
        assert!(open(&envelope, &trusted).is_ok());
        envelope["signatures"][0].as_object_mut().unwrap().remove("keyid");
        assert!(open(&envelope, &trusted).is_ok());
    }
    // A trusted key id does not make somebody else's signature good.
    let (stranger, _) = keys();
    let mut forged = sealed(&stranger);
    forged["signatures"][0]["keyid"] = key.public().id().into();
    let refusal = open(&forged, &trusted).unwrap_err();
    assert!(matches!(&refusal, Refusal::SignatureMismatch { key_id: Some(id) } if id == key.public().id()));
}

#[test]
fn one_trusted_signature_among_others_is_enough_and_counts_once() {
    let (key, trusted) = keys();
    let (stranger, _) = keys();
    let mut envelope = sealed(&stranger);
    let ours = sealed(&key)["signatures"][0].clone();
    let list = envelope["signatures"].as_array_mut().unwrap();
    list.push(json!({"sig": "AAAA"}));
    list.push(ours.clone());
    list.push(ours);
    assert_eq!(open(&envelope, &trusted).unwrap().signers, [key.public().id()]);
}

#[test]
fn an_unsigned_envelope_and_a_bare_document_are_unsigned() {
    let (key, trusted) = keys();
    let mut envelope = sealed(&key);
    envelope["signatures"] = json!([]);
    assert!(matches!(open(&envelope, &trusted), Err(Refusal::Unsigned)));
    envelope.as_object_mut().unwrap().remove("signatures");
    assert!(matches!(open(&envelope, &trusted), Err(Refusal::Unsigned)));
    let bare = serde_json::to_value(statement()).unwrap();
    assert!(matches!(open(&bare, &trusted), Err(Refusal::Unsigned)));
}

#[test]
fn each_refusal_of_an_envelope_has_its_own_reason() {
    let (key, trusted) = keys();
    let good = sealed(&key);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut envelope = good.clone();
        change(&mut envelope);
        open(&envelope, &trusted).unwrap_err()
    };
    assert!(matches!(with(&|e| *e = json!({})), Refusal::EnvelopeField { field: "payload" }));
    assert!(matches!(
        with(&|e| drop(e.as_object_mut().unwrap().remove("payloadType"))),
        Refusal::EnvelopeField { field: "payloadType" }
    ));
    let refusal = with(&|e| e["payloadType"] = PAYLOAD_TYPE.into());
    assert!(matches!(&refusal, Refusal::PayloadType { found, .. } if found == PAYLOAD_TYPE), "{refusal}");
    assert!(matches!(with(&|e| e["payload"] = "aGVsbG8gd29ybGU=".into()), Refusal::SignatureMismatch { .. }));
    assert!(matches!(with(&|e| e["payload"] = 1.into()), Refusal::Envelope(_)));
    assert!(matches!(
        with(&|e| e["signatures"][0]["sig"] = "AAAA".into()),
        Refusal::SignatureEncoding { index: 0 }
    ));
    assert!(matches!(with(&|e| e["signatures"][0] = json!({"keyid": "x"})), Refusal::Envelope(_)));
    let one = good["signatures"][0].clone();
    let many = with(&|e| e["signatures"] = vec![one.clone(); SIGNATURE_LIMIT + 1].into());
    assert!(matches!(many, Refusal::TooManySignatures { count: 33, limit: 32 }));
    let (stranger, others) = keys();
    let untrusted = open(&good, &others).unwrap_err();
    assert!(
        matches!(&untrusted, Refusal::UntrustedKey { key_ids, trusted: 1 } if *key_ids == [key.public().id()])
    );
    assert!(untrusted.to_string().contains(key.public().id()));
    assert!(matches!(open(&good, &[]), Err(Refusal::NoTrustedKey)));
    drop(stranger);
}

#[test]
fn a_type_that_was_changed_after_signing_is_refused() {
    let (key, trusted) = keys();
    let mut envelope = sealed(&key);
    envelope["payloadType"] = PAYLOAD_TYPE.into();
    let refusal = dsse::open(envelope.to_string().as_bytes(), PAYLOAD_TYPE, &trusted).unwrap_err();
    assert!(matches!(refusal, Refusal::SignatureMismatch { .. }), "{refusal}");
}

#[test]
fn too_many_bytes_duplicate_keys_deep_nesting_and_trailing_bytes_are_refused() {
    let (key, trusted) = keys();
    let refuse = |bytes: &[u8]| dsse::open(bytes, TYPE, &trusted).unwrap_err();
    let huge = vec![b' '; ENVELOPE_LIMIT + 1];
    assert!(matches!(refuse(&huge), Refusal::TooLarge { .. }));
    let good = sealed(&key).to_string();
    for duplicate in [
        good.replacen('{', r#"{"payload":"","#, 1),
        good.replacen('{', r#"{"x":1,"x":2,"#, 1),
        good.replacen('{', r#"{"x":{"y":[{"z":1,"\u007a":2}]},"#, 1),
        good.replace(r#""sig""#, r#""keyid":"other","sig""#),
    ] {
        let refusal = refuse(duplicate.as_bytes());
        assert!(
            matches!(&refusal, Refusal::Envelope(e) if e.to_string().contains("duplicate")),
            "{duplicate}"
        );
    }
    let deep = good.replacen('{', &format!(r#"{{"x":{}{},"#, "[".repeat(200), "]".repeat(200)), 1);
    assert!(matches!(refuse(deep.as_bytes()), Refusal::Envelope(e) if e.to_string().contains("recursion")));
    assert!(matches!(refuse(format!("{good} x").as_bytes()), Refusal::Envelope(_)));
    assert!(matches!(refuse(b""), Refusal::Envelope(_)));
}

/// Every single-bit change, and every changed byte, of what is signed and of the signature.
#[test]
fn no_changed_byte_of_payload_type_or_signature_is_accepted() {
    let (key, trusted) = keys();
    let envelope = dsse::seal(TYPE, b"hello world, here is a longer body", &key).unwrap();
    let text = String::from_utf8(envelope.clone()).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let mut flipped = 0;
    for part in [&value["payload"], &value["payloadType"], &value["signatures"][0]["sig"]] {
        let part = part.as_str().unwrap();
        let start = text.find(part).unwrap();
        for at in start..start + part.len() {
            let masks: BTreeSet<u8> = (0..8).map(|bit| 1 << bit).chain([0xff, 0x55, 0xaa]).collect();
            for mask in masks {
                let mut altered = envelope.clone();
                altered[at] ^= mask;
                assert!(dsse::open(&altered, TYPE, &trusted).is_err(), "byte {at} xor {mask:#x}");
                flipped += 1;
            }
        }
    }
    assert!(flipped > 1500, "{flipped}");
    assert!(dsse::open(&envelope, TYPE, &trusted).is_ok());
}

#[test]
fn a_refusal_is_short_and_safe_to_print_whatever_the_document_says() {
    let (key, trusted) = keys();
    let hostile = format!("\u{1b}[2J{}", "x".repeat(100_000));
    let mut foreign = sealed(&PrivateKey::generate().unwrap());
    foreign["signatures"][0]["keyid"] = hostile.clone().into();
    let mut other_type = sealed(&key);
    other_type["payloadType"] = hostile.into();
    for envelope in [foreign, other_type] {
        let message = open(&envelope, &trusted).unwrap_err().to_string();
        assert!(message.len() < 500 && !message.contains('\u{1b}'), "{message:?}");
    }
}
