//! Whether a certificate may be trusted: signature, kind, form, time, serial, in that order.
//!
//! The signature comes first, so that nothing of an unsigned document is interpreted beyond its envelope. Must never
//! read a clock (the caller says what time it is) and never return a certificate next to a doubt.

use crate::certificate::{
    Certificate, PREDICATE_TYPE, SCHEMA_MAJOR, STATEMENT_TYPE, SchemaVersion, Statement,
};
use crate::keys::PublicKey;
use crate::text::shown;
use crate::{Refusal, dsse, json};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What else is demanded of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// The highest serial seen so far by service; a certificate with a lower one is refused. (By service, since the
    /// caller learns the service from the certificate.)
    pub highest_serials: BTreeMap<String, u64>,
}

/// A certificate that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The whole statement.
    pub statement: Statement,
    /// Ids of the trusted keys that signed it.
    pub signers: Vec<String>,
}

impl Verified {
    /// The certificate in it.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.statement.predicate
    }
}

/// What decides how the rest is to be read.
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
    let statement = parse(&opened.body)?;
    let certificate = &statement.predicate;
    let validity = certificate.validity;
    if now < validity.not_before {
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
    Ok(Verified { statement, signers: opened.signers })
}

/// Parses the bytes of a statement without any signature: to show a draft, or what a refused envelope says. What comes
/// out is **not trusted**.
pub fn parse(body: &[u8]) -> Result<Statement, Refusal> {
    if body.len() > dsse::ENVELOPE_LIMIT {
        return Err(Refusal::TooLarge { bytes: body.len(), limit: dsse::ENVELOPE_LIMIT });
    }
    let kind: Kind = json::from_slice(body).map_err(Refusal::Statement)?;
    if kind.statement_type != STATEMENT_TYPE {
        return Err(Refusal::StatementType { found: shown(&kind.statement_type), expected: STATEMENT_TYPE });
    }
    if kind.predicate_type != PREDICATE_TYPE {
        return Err(Refusal::PredicateType { found: shown(&kind.predicate_type), expected: PREDICATE_TYPE });
    }
    let schema = kind.predicate.schema;
    let version = schema.as_str().and_then(SchemaVersion::parse);
    match version {
        None => return Err(Refusal::SchemaFormat { found: shown(&schema.to_string()) }),
        Some(version) if version.major != SCHEMA_MAJOR => {
            return Err(Refusal::SchemaMajor { found: version.to_string(), supported: SCHEMA_MAJOR });
        }
        Some(_) => {}
    }
    // No second look for duplicates: the pass above saw every object of these bytes.
    let statement: Statement = serde_json::from_slice(body).map_err(Refusal::Predicate)?;
    statement.check()?;
    Ok(statement)
}
