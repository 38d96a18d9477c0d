//! The DSSE 1.0 envelope: base64 of signed bytes, their type, and signatures over both.
//!
//! The signature is checked over the very bytes that are parsed afterwards (verify, then parse; the envelope is never
//! read again), and it covers the type too, so that a document of another kind cannot be passed off as a certificate.
//! A key id is an unauthenticated hint: it only chooses which key is tried first. Unknown fields are ignored, as the
//! protocol asks. Must never hand out bytes that no trusted key has signed.

use crate::keys::{PrivateKey, PublicKey};
use crate::text::shown;
use crate::{Error, Refusal, json};
use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use ed25519_dalek::Signature;
use serde::{Deserialize, Serialize, de::IgnoredAny};

/// Largest envelope that is read, in bytes.
pub const ENVELOPE_LIMIT: usize = 16 * 1024 * 1024;
/// Most signatures that are checked on one envelope.
pub const SIGNATURE_LIMIT: usize = 32;
/// `payloadType` of a birth certificate: it is an in-toto Statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

const LENIENT_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD_ALPHABET: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT_PADDING);
const URL_SAFE_ALPHABET: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT_PADDING);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutgoingEnvelope<'a> {
    payload: String,
    payload_type: &'a str,
    signatures: Vec<OutgoingSignature<'a>>,
}

#[derive(Serialize)]
struct OutgoingSignature<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    keyid: Option<&'a str>,
    sig: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IncomingEnvelope {
    payload: Option<String>,
    payload_type: Option<String>,
    signatures: Option<Vec<IncomingSignature>>,
    /// Only a bare statement has it: somebody forgot to sign.
    #[serde(rename = "_type")]
    statement: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct IncomingSignature {
    keyid: Option<String>,
    sig: String,
}

/// Bytes that a trusted key has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The payload.
    pub body: Vec<u8>,
    /// Ids of the trusted keys whose signatures match, without duplicates, in the order of the signatures.
    pub signers: Vec<String>,
}

/// Pre-authentication encoding, the bytes that are signed: `DSSEv1 LEN(type) type LEN(body) body`.
#[must_use]
pub fn pae(payload_type: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Signs `body` and gives the envelope as one line of JSON with a newline.
pub fn seal(payload_type: &str, body: &[u8], key: &PrivateKey) -> Result<Vec<u8>, Error> {
    let mut envelope = Envelope::new(payload_type, body.to_vec());
    envelope.sign(key)?;
    envelope.to_json()
}

/// An envelope to which signatures are added, by keys here or elsewhere.
#[derive(Clone, Debug)]
pub struct Envelope {
    payload_type: String,
    body: Vec<u8>,
    /// Key ids and signatures in base64, as they came.
    signatures: Vec<(Option<String>, String)>,
}

impl Envelope {
    /// An envelope without any signature.
    #[must_use]
    pub fn new(payload_type: &str, body: Vec<u8>) -> Self {
        Self { payload_type: payload_type.to_owned(), body, signatures: Vec::new() }
    }

    /// Reads an envelope to add a signature to it. Nothing in it is trusted: whoever signs has to look at the body.
    pub fn read(envelope: &[u8], payload_type: &'static str) -> Result<Self, Refusal> {
        let incoming = IncomingEnvelope::read(envelope)?;
        let (payload, signatures) = incoming.content(payload_type)?;
        let body = decode(&payload).map_err(Refusal::PayloadEncoding)?;
        let signatures = signatures.into_iter().map(|one| (one.keyid, one.sig)).collect();
        Ok(Self { payload_type: payload_type.to_owned(), body, signatures })
    }

    /// What is in it.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The bytes to sign.
    #[must_use]
    pub fn to_be_signed(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.body)
    }

    /// Adds the signature of a key. `Err`: it has one of that key.
    pub fn sign(&mut self, key: &PrivateKey) -> Result<(), Error> {
        let signature = key.sign(&self.to_be_signed());
        self.add(&key.public(), &signature.to_bytes())
    }

    /// Adds a signature that was made elsewhere, of 64 bytes, over [`Envelope::to_be_signed`]. `Err`: it is not one of that
    /// key over these bytes, or there is one of that key already.
    pub fn add(&mut self, key: &PublicKey, signature: &[u8]) -> Result<(), Error> {
        let message = self.to_be_signed();
        let of_key =
            |bytes: &[u8]| Signature::from_slice(bytes).is_ok_and(|one| key.verifies(&message, &one));
        if !of_key(signature) {
            return Err(Error::NotASignature { key_id: key.id().to_owned(), bytes: signature.len() });
        }
        if self.signatures.iter().any(|(_, other)| decode(other).is_ok_and(|bytes| of_key(&bytes))) {
            return Err(Error::AlreadySigned { key_id: key.id().to_owned() });
        }
        self.signatures.push((Some(key.id().to_owned()), STANDARD.encode(signature)));
        Ok(())
    }

    /// The envelope as one line of JSON with a newline.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let signatures = self
            .signatures
            .iter()
            .map(|(keyid, sig)| OutgoingSignature { keyid: keyid.as_deref(), sig })
            .collect();
        let envelope = OutgoingEnvelope {
            payload: STANDARD.encode(&self.body),
            payload_type: &self.payload_type,
            signatures,
        };
        let mut bytes = serde_json::to_vec(&envelope).map_err(Error::Encode)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

impl IncomingEnvelope {
    fn read(envelope: &[u8]) -> Result<Self, Refusal> {
        if envelope.len() > ENVELOPE_LIMIT {
            return Err(Refusal::TooLarge { bytes: envelope.len(), limit: ENVELOPE_LIMIT });
        }
        json::from_slice(envelope).map_err(Refusal::Envelope)
    }

    /// The payload in base64 and the signatures, at least one and not too many.
    fn content(self, payload_type: &'static str) -> Result<(String, Vec<IncomingSignature>), Refusal> {
        let Some(payload) = self.payload else {
            return Err(match self.statement {
                Some(_) => Refusal::Unsigned,
                None => Refusal::EnvelopeField { field: "payload" },
            });
        };
        let found = self.payload_type.ok_or(Refusal::EnvelopeField { field: "payloadType" })?;
        if found != payload_type {
            return Err(Refusal::PayloadType { found: shown(&found), expected: payload_type });
        }
        let signatures = self.signatures.unwrap_or_default();
        if signatures.is_empty() {
            return Err(Refusal::Unsigned);
        }
        if signatures.len() > SIGNATURE_LIMIT {
            return Err(Refusal::TooManySignatures { count: signatures.len(), limit: SIGNATURE_LIMIT });
        }
        Ok((payload, signatures))
    }
}

/// Checks the envelope and gives the signed bytes. At least one signature must be by a trusted key; signatures by others
/// are ignored.
pub fn open(envelope: &[u8], payload_type: &'static str, trusted: &[PublicKey]) -> Result<Opened, Refusal> {
    let (payload, signatures) = IncomingEnvelope::read(envelope)?.content(payload_type)?;
    if trusted.is_empty() {
        return Err(Refusal::NoTrustedKey);
    }
    let body = decode(&payload).map_err(Refusal::PayloadEncoding)?;
    let signers = signers(&pae(payload_type, &body), &signatures, trusted)?;
    Ok(Opened { body, signers })
}

/// Ids of the trusted keys that signed the message; the most telling refusal when there is none.
fn signers(
    message: &[u8],
    signatures: &[IncomingSignature],
    trusted: &[PublicKey],
) -> Result<Vec<String>, Refusal> {
    let mut signers: Vec<String> = Vec::new();
    let mut malformed = None;
    let mut untrusted = Vec::new();
    let mut mismatch = None;
    for (index, signature) in signatures.iter().enumerate() {
        let Some(bytes) = decode(&signature.sig).ok().and_then(|sig| Signature::from_slice(&sig).ok()) else {
            malformed = malformed.or(Some(index));
            continue;
        };
        let hint = signature.keyid.as_deref().filter(|id| !id.is_empty());
        let (named, others): (Vec<_>, Vec<_>) = trusted.iter().partition(|key| Some(key.id()) == hint);
        match named.iter().chain(&others).find(|key| key.verifies(message, &bytes)) {
            Some(key) if signers.iter().any(|id| id == key.id()) => {}
            Some(key) => signers.push(key.id().to_owned()),
            None => match hint {
                Some(id) if named.is_empty() => untrusted.push(shown(id)),
                _ => mismatch = mismatch.or(Some(hint.map(str::to_owned))),
            },
        }
    }
    if !signers.is_empty() {
        return Ok(signers);
    }
    Err(match (mismatch, malformed) {
        (Some(key_id), _) => Refusal::SignatureMismatch { key_id },
        (None, Some(index)) if untrusted.is_empty() => Refusal::SignatureEncoding { index },
        _ => Refusal::UntrustedKey { key_ids: untrusted, trusted: trusted.len() },
    })
}

/// Standard or URL-safe alphabet, never a mix of both; padding may be left out.
fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let url_safe = [b'-', b'_'].iter().any(|mark| text.as_bytes().contains(mark));
    if url_safe { URL_SAFE_ALPHABET.decode(text) } else { STANDARD_ALPHABET.decode(text) }
}
