//! What a file says, whoever signed it or nobody: a draft, a bare statement, or an envelope.
//!
//! Only ever to be shown, compared or reviewed. Nothing may be judged by what comes out of here.

use anyhow::{Context, bail};
use attest::Draft;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::Deserialize;

/// The envelope's fields that say what it holds.
#[derive(Deserialize)]
struct Envelope {
    payload: Option<String>,
    /// A draft has one.
    schema: Option<String>,
}

/// Whether the bytes are meant as a draft.
pub(crate) fn is_draft(bytes: &[u8]) -> bool {
    serde_json::from_slice(bytes)
        .is_ok_and(|envelope: Envelope| envelope.payload.is_none() && envelope.schema.is_some())
}

/// The statement in the bytes, as a draft: with its notes if it has any. **Not trusted.**
pub(crate) fn read(bytes: &[u8]) -> anyhow::Result<Draft> {
    let envelope: Envelope = serde_json::from_slice(bytes).context("It is not JSON of an envelope")?;
    let unsigned = |statement| Draft::new(statement, Vec::new(), Vec::new());
    let Some(payload) = envelope.payload else {
        return Ok(match envelope.schema {
            Some(_) => Draft::parse(bytes)?,
            None => unsigned(attest::parse(bytes)?),
        });
    };
    let body = STANDARD
        .decode(&payload)
        .or_else(|_| URL_SAFE.decode(&payload))
        .context("Its payload is not base64")?;
    if body.is_empty() {
        bail!("Its payload is empty");
    }
    Ok(unsigned(attest::parse(&body)?))
}
