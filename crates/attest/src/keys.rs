//! Ed25519 keys: generate, read, write, name.
//!
//! Private keys are PKCS#8 PEM and public keys SPKI PEM, so that `openssl` reads and makes them too. A key's id is the
//! SHA-256 of its SPKI DER in hex. Must never read a file, print a private key, or accept one where the other belongs.

use crate::Error;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::spki::{DecodePublicKey, EncodePublicKey};
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use std::fmt;

/// A key that signs. Its memory is wiped when it is dropped.
pub struct PrivateKey(SigningKey);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().id())
    }
}

impl PrivateKey {
    /// A new key from the operating system's random numbers.
    pub fn generate() -> Result<Self, Error> {
        let mut seed = [0_u8; 32];
        getrandom::fill(&mut seed).map_err(|reason| Error::Random { reason })?;
        let key = SigningKey::from_bytes(&seed);
        seed.fill(0);
        Ok(Self(key))
    }

    /// Reads PKCS#8 PEM.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        match pem_label(text)? {
            "PRIVATE KEY" => SigningKey::from_pkcs8_pem(text.trim()).map(Self).map_err(Error::PrivateKey),
            "PUBLIC KEY" => Err(Error::PublicKeyGiven),
            "ENCRYPTED PRIVATE KEY" => Err(Error::EncryptedKey),
            label => Err(Error::OtherPem { label: label.to_owned() }),
        }
    }

    /// Writes PKCS#8 PEM. The caller keeps it secret: a file of mode 0600, no log, no output.
    pub fn to_pem(&self) -> Result<String, Error> {
        // The version-1 form without the public key: OpenSSL 3.0 refuses the one with it.
        let bytes = ed25519_dalek::pkcs8::KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem =
            bytes.to_pkcs8_pem(LineEnding::LF).map_err(|e| Error::EncodeKey { reason: e.to_string() })?;
        Ok(pem.as_str().to_owned())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::new(self.0.verifying_key())
    }

    /// Signs bytes (of a DSSE pre-authentication encoding; see [`crate::dsse::pae`]).
    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message)
    }
}

/// A key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    id: String,
}

impl PublicKey {
    fn new(key: VerifyingKey) -> Self {
        // SPKI of Ed25519 (RFC 8410) is this header and the 32 bytes of the key.
        const HEADER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let digest = Sha256::new().chain_update(HEADER).chain_update(key.as_bytes()).finalize();
        Self { key, id: hex(&digest) }
    }

    /// Reads SPKI PEM.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        match pem_label(text)? {
            "PUBLIC KEY" => {
                VerifyingKey::from_public_key_pem(text.trim()).map(Self::new).map_err(Error::PublicKey)
            }
            "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => Err(Error::PrivateKeyGiven),
            label => Err(Error::OtherPem { label: label.to_owned() }),
        }
    }

    /// Writes SPKI PEM.
    pub fn to_pem(&self) -> Result<String, Error> {
        self.key
            .to_public_key_pem(LineEnding::LF)
            .map_err(|reason| Error::EncodeKey { reason: reason.to_string() })
    }

    /// SHA-256 of the SPKI DER, in lower-case hex.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the signature is this key's, by the strict rules (no small-order keys, no malleable signatures).
    pub(crate) fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        self.key.verify_strict(message, signature).is_ok()
    }
}

/// Label of the first PEM block.
fn pem_label(text: &str) -> Result<&str, Error> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .ok_or(Error::NotPem { bytes: text.len() })
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
