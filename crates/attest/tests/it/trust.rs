//! Several signatures, and keys that may sign for some services, for some time, or no longer.

use crate::fixture::*;
use attest::dsse::{Envelope, PAYLOAD_TYPE};
use attest::{Error, KeyTrust, PrivateKey, PublicKey, Refusal, TrustPolicy, Verified, VerifyOptions, verify};

const NOW: &str = "2026-12-01T00:00:00Z";

struct Signed {
    keys: Vec<PrivateKey>,
    envelope: Vec<u8>,
}

impl Signed {
    fn by(number: usize) -> Self {
        let keys: Vec<PrivateKey> = (0..number).map(|_| PrivateKey::generate().unwrap()).collect();
        let mut envelope = statement().to_envelope().unwrap();
        for key in &keys {
            envelope.sign(key).unwrap();
        }
        Self { keys, envelope: envelope.to_json().unwrap() }
    }

    fn public(&self) -> Vec<PublicKey> {
        self.keys.iter().map(PrivateKey::public).collect()
    }

    fn id(&self, index: usize) -> String {
        self.keys[index].public().id().to_owned()
    }

    fn verify(&self, trust: TrustPolicy) -> Result<Verified, Refusal> {
        let options = VerifyOptions { trust, ..VerifyOptions::default() };
        verify(&self.envelope, &self.public(), time(NOW), &options)
    }
}

fn threshold(threshold: usize) -> TrustPolicy {
    TrustPolicy { threshold, ..TrustPolicy::default() }
}

#[test]
fn as_many_different_keys_as_asked_for_must_have_signed() {
    let two = Signed::by(2);
    let verified = two.verify(threshold(2)).unwrap();
    assert_eq!(verified.signers, [two.id(0), two.id(1)]);
    let refusal = two.verify(threshold(3)).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::TooFewSigners { needed: 3, signers, .. } if signers.len() == 2),
        "{refusal}"
    );
    assert_eq!(
        refusal.to_string(),
        "Service \"web-frontend\" needs the signatures of 3 trusted keys, and 2 count"
    );
    // The same key twice is one key.
    let one = Signed::by(1);
    let mut doubled: serde_json::Value = serde_json::from_slice(&one.envelope).unwrap();
    let signature = doubled["signatures"][0].clone();
    doubled["signatures"].as_array_mut().unwrap().push(signature);
    let doubled = Signed { envelope: doubled.to_string().into_bytes(), ..one };
    assert!(matches!(doubled.verify(threshold(2)), Err(Refusal::TooFewSigners { .. })));
    assert!(doubled.verify(threshold(0)).is_ok(), "0 means 1");
}

#[test]
fn one_service_may_ask_for_more_than_the_others() {
    let mut policy = TrustPolicy::default();
    policy.services.insert("web-frontend".to_owned(), attest::ServiceTrust { threshold: 2 });
    assert!(matches!(Signed::by(1).verify(policy.clone()), Err(Refusal::TooFewSigners { .. })));
    assert!(Signed::by(2).verify(policy.clone()).is_ok());
    policy.services = [("database".to_owned(), attest::ServiceTrust { threshold: 2 })].into();
    assert!(Signed::by(1).verify(policy).is_ok());
}

fn limited(signed: &Signed, key: KeyTrust) -> TrustPolicy {
    TrustPolicy { keys: [(signed.id(0), key)].into(), ..TrustPolicy::default() }
}

#[test]
fn a_key_signs_only_for_its_services() {
    let signed = Signed::by(1);
    let scope = |service: &str| {
        let services = Some(vec![attest::Pattern::parse(service).unwrap()]);
        signed.verify(limited(&signed, KeyTrust { services, ..KeyTrust::default() }))
    };
    assert!(scope("web-*").is_ok());
    let refusal = scope("database").unwrap_err();
    assert!(
        matches!(&refusal, Refusal::KeyOutOfScope { allowed, .. } if allowed == &["database"]),
        "{refusal}"
    );
    // A second key that may is enough, and only it is named.
    let two = Signed::by(2);
    let none = KeyTrust { services: Some(vec![]), ..KeyTrust::default() };
    assert_eq!(two.verify(limited(&two, none.clone())).unwrap().signers, [two.id(1)]);
    let both = TrustPolicy { threshold: 2, ..limited(&two, none) };
    let refusal = two.verify(both).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::TooFewSigners { passed_over, .. } if *passed_over == [two.id(0)]),
        "{refusal}"
    );
}

#[test]
fn a_key_signs_only_in_its_time_and_the_certificate_holds_no_longer_than_its_keys() {
    let signed = Signed::by(1);
    let between = |not_before: &str, not_after: &str| {
        let (not_before, not_after) = (Some(time(not_before)), Some(time(not_after)));
        signed.verify(limited(&signed, KeyTrust { not_before, not_after, services: None }))
    };
    let verified = between("2026-01-01T00:00:00Z", "2026-12-02T00:00:00Z").unwrap();
    assert_eq!(verified.holds_until, time("2026-12-02T00:00:00Z"));
    assert_eq!(
        between("2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z").unwrap().holds_until,
        time("2027-11-01T00:00:00Z")
    );
    assert!(matches!(between("2026-01-01T00:00:00Z", NOW), Err(Refusal::KeyExpired { .. })));
    assert!(matches!(
        between("2026-12-01T00:00:01Z", "2027-01-01T00:00:00Z"),
        Err(Refusal::KeyNotYetValid { .. })
    ));
    // Two keys, one needed: it holds until the second has ended too.
    let two = Signed::by(2);
    let until = |end: &str| KeyTrust { not_after: Some(time(end)), ..KeyTrust::default() };
    let keys = [(two.id(0), until("2026-12-05T00:00:00Z")), (two.id(1), until("2026-12-03T00:00:00Z"))];
    let policy = TrustPolicy { keys: keys.into(), ..TrustPolicy::default() };
    assert_eq!(two.verify(policy.clone()).unwrap().holds_until, time("2026-12-05T00:00:00Z"));
    let both = TrustPolicy { threshold: 2, ..policy };
    assert_eq!(two.verify(both).unwrap().holds_until, time("2026-12-03T00:00:00Z"));
}

#[test]
fn a_revoked_key_counts_no_longer_and_its_content_is_not_even_read() {
    let signed = Signed::by(1);
    let revoke = |signed: &Signed, index: usize| {
        let mut policy = TrustPolicy::default();
        policy.revoked.keys.insert(signed.id(index));
        policy
    };
    assert!(matches!(signed.verify(revoke(&signed, 0)), Err(Refusal::KeyRevoked { .. })));
    let key = PrivateKey::generate().unwrap();
    let envelope = attest::dsse::seal(PAYLOAD_TYPE, b"no json", &key).unwrap();
    let rubbish = Signed { keys: vec![key], envelope };
    assert!(matches!(rubbish.verify(revoke(&rubbish, 0)), Err(Refusal::KeyRevoked { .. })));
    let two = Signed::by(2);
    assert_eq!(two.verify(revoke(&two, 0)).unwrap().signers, [two.id(1)]);
}

#[test]
fn a_revoked_certificate_is_refused_whoever_signed_it() {
    let two = Signed::by(2);
    let digest = two.verify(TrustPolicy::default()).unwrap().digest;
    assert_eq!(digest, attest::digest(&statement().to_json().unwrap()));
    let mut policy = TrustPolicy::default();
    policy.revoked.certificates.insert(digest);
    assert!(matches!(two.verify(policy), Err(Refusal::CertificateRevoked { .. })));
}

#[test]
fn a_word_that_the_policy_does_not_know_is_refused_and_not_ignored() {
    for text in [r#"{"treshold": 2}"#, r#"{"revoked": {"key": []}}"#, r#"{"keys": {"a": {"service": []}}}"#] {
        assert!(serde_json::from_str::<TrustPolicy>(text).is_err(), "{text}");
    }
    assert_eq!(serde_json::from_str::<TrustPolicy>("{}").unwrap(), TrustPolicy::default());
}

#[test]
fn a_certificate_whose_time_has_not_come_is_taken_early_only_when_asked_for() {
    let signed = Signed::by(1);
    let at = |early| {
        let options = VerifyOptions { early, ..VerifyOptions::default() };
        verify(&signed.envelope, &signed.public(), time("2026-10-01T00:00:00Z"), &options)
    };
    assert!(matches!(at(false), Err(Refusal::NotYetValid { .. })));
    assert!(at(true).is_ok());
}

#[test]
fn signatures_are_added_one_after_the_other_and_what_is_no_signature_is_not() {
    let (first, second) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let mut envelope = Envelope::read(&statement().sign(&first).unwrap(), PAYLOAD_TYPE).unwrap();
    assert!(matches!(envelope.sign(&first), Err(Error::AlreadySigned { .. })));
    envelope.sign(&second).unwrap();
    let signed = Signed { envelope: envelope.to_json().unwrap(), keys: vec![first, second] };
    assert_eq!(signed.verify(threshold(2)).unwrap().signers.len(), 2);
    // Made elsewhere: by another key, over other bytes, or no signature at all.
    let third = PrivateKey::generate().unwrap();
    let mut other = Envelope::new(PAYLOAD_TYPE, b"other".to_vec());
    other.sign(&third).unwrap();
    for wrong in [&[0_u8; 64][..], &[], &[7; 63]] {
        assert!(matches!(envelope.add(&third.public(), wrong), Err(Error::NotASignature { .. })));
    }
    assert!(matches!(Envelope::read(b"{}", PAYLOAD_TYPE), Err(Refusal::EnvelopeField { .. })));
}
