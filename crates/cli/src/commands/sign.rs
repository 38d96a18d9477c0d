//! `birthmark sign`: signs a draft, or adds a signature to a certificate that others have signed.
//!
//! What verification would refuse whatever the time is not signed, by whomever it was signed before.

use crate::Outcome;
use crate::args::SignArgs;
use crate::document;
use crate::files;
use crate::output::Output;
use crate::signing::Signer;
use anyhow::Context;
use attest::dsse::{ENVELOPE_LIMIT, Envelope, PAYLOAD_TYPE};
use attest::{Draft, Refusal, Statement};
use serde_json::json;

pub(crate) fn sign(args: &SignArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let signer = Signer::required(&args.key)?;
    if !args.force {
        files::must_not_exist(&args.output).context("Cannot write the certificate without --force")?;
    }
    let bytes = files::read(&args.file, "draft or certificate", ENVELOPE_LIMIT)?;
    let failed = || format!("Cannot sign {}", args.file.display());
    let (mut envelope, statement) = envelope(&bytes).with_context(failed)?;
    signer.sign(&mut envelope).with_context(failed)?;
    files::write(&args.output, &envelope.to_json()?, 0o644, args.force)?;
    let (service, serial) = (&statement.predicate.service, statement.predicate.serial);
    let digest = attest::digest(envelope.body());
    if out.json {
        out.json(&json!({
            "file": args.output.display().to_string(),
            "service": service,
            "serial": serial,
            "key_id": signer.key_id(),
            "digest": digest,
        }))?;
    } else {
        out.field("Certificate", args.output.display().to_string())?;
        out.field("Service", format!("{service}, serial {serial}"))?;
        out.field("Signed by", signer.key_id())?;
        out.field("Digest", digest)?;
    }
    Ok(Outcome::Done)
}

/// What is to be signed: a draft, a bare statement, or an envelope with its signatures.
fn envelope(bytes: &[u8]) -> anyhow::Result<(Envelope, Statement)> {
    if document::is_draft(bytes) {
        let draft = Draft::parse(bytes)?;
        return Ok((draft.statement.to_envelope()?, draft.statement));
    }
    match Envelope::read(bytes, PAYLOAD_TYPE) {
        Ok(envelope) => {
            let statement = attest::parse(envelope.body())?;
            Ok((envelope, statement))
        }
        // A bare statement.
        Err(Refusal::Unsigned) => {
            let statement = attest::parse(bytes)?;
            Ok((statement.to_envelope()?, statement))
        }
        Err(refusal) => Err(refusal.into()),
    }
}
