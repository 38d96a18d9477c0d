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
    signatures: [OutgoingSignature<'a>; 1],
}

#[derive(Serialize)]
struct OutgoingSignature<'a> {
    keyid: &'a str,
    sig: String,
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
    let signature = key.sign(&pae(payload_type, body));
    let public = key.public();
    let envelope = OutgoingEnvelope {
        payload: STANDARD.encode(body),
        payload_type,
        signatures: [OutgoingSignature { keyid: public.id(), sig: STANDARD.encode(signature.to_bytes()) }],
    };
    let mut bytes = serde_json::to_vec(&envelope).map_err(Error::Encode)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Checks the envelope and gives the signed bytes. At least one signature must be by a trusted key; signatures by others
/// are ignored.
pub fn open(envelope: &[u8], payload_type: &'static str, trusted: &[PublicKey]) -> Result<Opened, Refusal> {
    if envelope.len() > ENVELOPE_LIMIT {
        return Err(Refusal::TooLarge { bytes: envelope.len(), limit: ENVELOPE_LIMIT });
    }
    let envelope: IncomingEnvelope = json::from_slice(envelope).map_err(Refusal::Envelope)?;
    let Some(payload) = envelope.payload else {
        return Err(match envelope.statement {
            Some(_) => Refusal::Unsigned,
            None => Refusal::EnvelopeField { field: "payload" },
        });
    };
    let found = envelope.payload_type.ok_or(Refusal::EnvelopeField { field: "payloadType" })?;
    if found != payload_type {
        return Err(Refusal::PayloadType { found: shown(&found), expected: payload_type });
    }
    let signatures = envelope.signatures.unwrap_or_default();
    if signatures.is_empty() {
        return Err(Refusal::Unsigned);
    }
    if signatures.len() > SIGNATURE_LIMIT {
        return Err(Refusal::TooManySignatures { count: signatures.len(), limit: SIGNATURE_LIMIT });
    }
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
    if text.contains(['-', '_']) { URL_SAFE_ALPHABET.decode(text) } else { STANDARD_ALPHABET.decode(text) }
}
