//! Keys in PEM, and each kind given where the other belongs.

use attest::{Error, PrivateKey, PublicKey};

/// Made by OpenSSL 3.0: `openssl genpkey -algorithm ed25519`, `openssl pkey -pubout`.
pub const PRIVATE: &str = include_str!("data/openssl.key");
pub const PUBLIC: &str = include_str!("data/openssl.pub");
/// `openssl pkey -pubin -outform DER | sha256sum`
const KEY_ID: &str = include_str!("data/openssl.id");

#[test]
fn keys_survive_pem() {
    let key = PrivateKey::generate().unwrap();
    let read = PrivateKey::from_pem(&key.to_pem().unwrap()).unwrap();
    assert_eq!(read.public(), key.public());
    assert_eq!(PublicKey::from_pem(&key.public().to_pem().unwrap()).unwrap(), key.public());
    assert_ne!(PrivateKey::generate().unwrap().public(), key.public());
}

#[test]
fn keys_of_openssl_are_read_and_written_alike() {
    let key = PrivateKey::from_pem(PRIVATE).unwrap();
    assert_eq!(key.public(), PublicKey::from_pem(PUBLIC).unwrap());
    assert_eq!(key.public().id(), KEY_ID.trim());
    assert_eq!(key.to_pem().unwrap(), PRIVATE);
    assert_eq!(key.public().to_pem().unwrap(), PUBLIC);
}

#[test]
fn a_key_in_the_wrong_place_is_told_apart_from_a_broken_one() {
    assert!(matches!(PrivateKey::from_pem(PUBLIC), Err(Error::PublicKeyGiven)));
    assert!(matches!(PublicKey::from_pem(PRIVATE), Err(Error::PrivateKeyGiven)));
    let label = |label: &str| PRIVATE.replace("PRIVATE KEY", label);
    assert!(matches!(PrivateKey::from_pem(&label("ENCRYPTED PRIVATE KEY")), Err(Error::EncryptedKey)));
    assert!(matches!(PrivateKey::from_pem(&label("RSA PRIVATE KEY")), Err(Error::OtherPem { .. })));
    assert!(matches!(PublicKey::from_pem(&label("CERTIFICATE")), Err(Error::OtherPem { .. })));
    assert!(matches!(PrivateKey::from_pem("ssh-ed25519 AAAA"), Err(Error::NotPem { bytes: 16 })));
    assert!(matches!(PublicKey::from_pem(""), Err(Error::NotPem { bytes: 0 })));
}

#[test]
fn a_broken_or_foreign_key_is_refused() {
    let truncated: String = PRIVATE
        .lines()
        .take(1)
        .chain(["AAAA", "-----END PRIVATE KEY-----"])
        .map(|l| format!("{l}\n"))
        .collect();
    assert!(matches!(PrivateKey::from_pem(&truncated), Err(Error::PrivateKey(_))));
    // The same block with another algorithm (X25519 instead of Ed25519: OID 1.3.101.110).
    let other = PUBLIC.replace("MCowBQYDK2VwAyEA", "MCowBQYDK2VuAyEA");
    assert_ne!(other, PUBLIC);
    assert!(matches!(PublicKey::from_pem(&other), Err(Error::PublicKey(_))));
}

#[test]
fn a_private_key_does_not_show_itself() {
    let key = PrivateKey::from_pem(PRIVATE).unwrap();
    assert_eq!(format!("{key:?}"), format!("PrivateKey({})", KEY_ID.trim()));
}
