//! What the fuzz targets of certificates do with their bytes: what anybody may hand to a host as a certificate.
//!
//! `crates/attest/tests/it/hostile.rs` includes this file and runs it on a stable compiler. It is no module of `lib.rs`, whose
//! other includer does not know certificates.

use attest::dsse::{Envelope, PAYLOAD_TYPE};
use attest::{Draft, PrivateKey, VerifyOptions, compare, diff, parse, review, verify, warnings};

/// A key that signs what the fuzzer makes, so that it gets past the signature.
const KEY: &str = include_str!("../../crates/attest/tests/it/data/openssl.key");
/// A guest to hold certificates against.
const GUEST: &str = include_str!("../../crates/attest/tests/it/data/web.json");

/// Any bytes as an envelope: nothing that this key has not signed is ever verified.
pub fn envelope(bytes: &[u8]) {
    let key = PrivateKey::from_pem(KEY).expect("it is a key");
    let now = "2026-12-01T00:00:00Z".parse().expect("it is a time");
    let verified = verify(bytes, &[key.public()], now, &VerifyOptions::default());
    let Ok(envelope) = Envelope::read(bytes, PAYLOAD_TYPE) else {
        assert!(verified.is_err());
        return;
    };
    if let Ok(verified) = verified {
        assert_eq!(verified.digest, attest::digest(envelope.body()));
        assert_eq!(parse(envelope.body()).expect("it was verified"), verified.statement);
    }
    let again = envelope.to_json().expect("it was JSON");
    assert_eq!(Envelope::read(&again, PAYLOAD_TYPE).expect("we wrote it").body(), envelope.body());
}

/// Any bytes as the statement that a trusted key has signed.
pub fn statement(bytes: &[u8]) {
    let Ok(statement) = parse(bytes) else { return };
    let key = PrivateKey::from_pem(KEY).expect("it is a key");
    let signed = statement.sign(&key).expect("what is parsed makes sense");
    let now = statement.predicate.validity.not_before;
    let verified = verify(&signed, &[key.public()], now, &VerifyOptions::default()).expect("it holds now");
    assert_eq!(verified.statement, statement);
    assert!(diff(&statement.predicate, &verified.statement.predicate).is_empty());
    let guest = serde_json::from_str(GUEST).expect("it is a snapshot");
    for finding in compare(&statement.predicate, &guest) {
        assert!(!finding.id.is_empty() && !finding.message.is_empty());
    }
    let _ = warnings(&statement.predicate);
    let page = review(&Draft::new(statement, Vec::new(), Vec::new()));
    assert!(!page.chars().any(|c| c.is_control() && c != '\n'));
}

/// Any bytes as a draft.
pub fn draft(bytes: &[u8]) {
    let Ok(draft) = Draft::parse(bytes) else { return };
    let page = review(&draft);
    assert!(!page.chars().any(|c| c.is_control() && c != '\n'));
    let again = draft.to_json().expect("it was JSON");
    assert_eq!(Draft::parse(&again).expect("we wrote it"), draft);
}
