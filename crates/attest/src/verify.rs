//! Whether a certificate may be trusted: signature, kind, form, who signed, time, serial, in that order.
//!
//! The signature comes first, so that nothing of an unsigned document is interpreted beyond its envelope. Must never
//! read a clock (the caller says what time it is) and never return a certificate next to a doubt.

use crate::certificate::{
    Certificate, PREDICATE_TYPE, SCHEMA_MAJOR, STATEMENT_TYPE, SchemaVersion, Statement,
};
use crate::keys::{PublicKey, hex};
use crate::text::shown;
use crate::trust::TrustPolicy;
use crate::{Refusal, dsse, json};
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What else is demanded of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// The highest serial seen so far by service; a certificate with a lower one is refused. (By service, since the
    /// caller learns the service from the certificate.)
    pub highest_serials: BTreeMap<String, u64>,
    /// Whom to trust with what.
    pub trust: TrustPolicy,
    /// Take also a certificate whose time has not come. The caller asks again whenever it uses it.
    pub early: bool,
}

/// A certificate that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The whole statement.
    pub statement: Statement,
    /// Ids of the trusted keys that signed it and may do so.
    pub signers: Vec<String>,
    /// `sha256:…` of the signed bytes: what a revocation list and the next certificate's `supersedes` call it.
    pub digest: String,
    /// First instant at which it no longer holds: the end of its validity, or of that of the keys it stands on.
    pub holds_until: Timestamp,
}

impl Verified {
    /// The certificate in it.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.statement.predicate
    }
}

/// What says how the rest is to be read, of a document that could not be read as a certificate.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "_type")]
    statement_type: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: KindOfPredicate,
}

#[derive(Deserialize)]
struct KindOfPredicate {
    schema: serde_json::Value,
}

/// Verifies the bytes of an envelope at the time `now`.
pub fn verify(
    envelope: &[u8],
    trusted: &[PublicKey],
    now: Timestamp,
    options: &VerifyOptions,
) -> Result<Verified, Refusal> {
    let opened = dsse::open(envelope, dsse::PAYLOAD_TYPE, trusted)?;
    let signers = options.trust.unrevoked(opened.signers)?;
    let digest = digest(&opened.body);
    if options.trust.revoked.certificates.contains(&digest) {
        return Err(Refusal::CertificateRevoked { digest });
    }
    let statement = parse(&opened.body)?;
    let certificate = &statement.predicate;
    let (signers, keys_end) = options.trust.agree(signers, &certificate.service, now)?;
    let validity = certificate.validity;
    if now < validity.not_before && !options.early {
        return Err(Refusal::NotYetValid { not_before: validity.not_before, now });
    }
    if now >= validity.not_after {
        return Err(Refusal::Expired { not_after: validity.not_after, now });
    }
    let highest = options.highest_serials.get(&certificate.service).copied();
    if let Some(highest) = highest.filter(|highest| certificate.serial < *highest) {
        let service = certificate.service.clone();
        return Err(Refusal::RolledBack { service, serial: certificate.serial, highest });
    }
    let holds_until = keys_end.map_or(validity.not_after, |end| end.min(validity.not_after));
    Ok(Verified { statement, signers, digest, holds_until })
}

/// What a certificate is called: `sha256:…` of the bytes that are signed.
#[must_use]
pub fn digest(body: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(body)))
}

/// Parses the bytes of a statement without any signature: to show a draft, or what a refused envelope says. What comes
/// out is **not trusted**.
pub fn parse(body: &[u8]) -> Result<Statement, Refusal> {
    if body.len() > dsse::ENVELOPE_LIMIT {
        return Err(Refusal::TooLarge { bytes: body.len(), limit: dsse::ENVELOPE_LIMIT });
    }
    json::unambiguous(body).map_err(Refusal::Statement)?;
    let statement: Statement = match serde_json::from_slice(body) {
        Ok(statement) => statement,
        // What it is tells more than what is wrong with it as something that it is not.
        Err(error) => {
            let kind: Kind = serde_json::from_slice(body).map_err(Refusal::Statement)?;
            kind.check()?;
            return Err(Refusal::Predicate(error));
        }
    };
    check_types(&statement.statement_type, &statement.predicate_type)?;
    check_major(statement.predicate.schema)?;
    statement.check()?;
    Ok(statement)
}

impl Kind {
    fn check(&self) -> Result<(), Refusal> {
        let schema = &self.predicate.schema;
        let version = schema.as_str().and_then(SchemaVersion::parse);
        check_types(&self.statement_type, &self.predicate_type)?;
        check_major(version.ok_or_else(|| Refusal::SchemaFormat { found: shown(&schema.to_string()) })?)
    }
}

/// Whether it is a birth certificate.
fn check_types(statement_type: &str, predicate_type: &str) -> Result<(), Refusal> {
    if statement_type != STATEMENT_TYPE {
        return Err(Refusal::StatementType { found: shown(statement_type), expected: STATEMENT_TYPE });
    }
    if predicate_type != PREDICATE_TYPE {
        return Err(Refusal::PredicateType { found: shown(predicate_type), expected: PREDICATE_TYPE });
    }
    Ok(())
}

/// Whether this program knows what a predicate of that version means.
fn check_major(version: SchemaVersion) -> Result<(), Refusal> {
    if version.major != SCHEMA_MAJOR {
        return Err(Refusal::SchemaMajor { found: version.to_string(), supported: SCHEMA_MAJOR });
    }
    Ok(())
}
