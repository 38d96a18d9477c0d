//! The next certificate of a service: the present one, with the changes that some findings propose.
//!
//! What it gives is a draft for a person to review and sign. The proposals come out of reports, which are files that
//! anybody may have written, so they can only ever add to what is allowed to run, listen, speak or be loaded: the policy,
//! the selector and the validity are out of their reach.

use crate::certificate::{Certificate, Statement, Validity};
use crate::learn::{Draft, Note};
use crate::text::shown;
use crate::{Error, verify};
use facts::Finding;
use serde::Deserialize;
use serde_json::Value;

/// The only members that a proposal may change.
const REACH: [&str; 7] =
    ["/guest/kernels/", "/processes/", "/listeners/", "/flows/", "/raw_sockets/", "/modules/", "/ebpf/"];

/// One operation of a JSON Patch (RFC 6902) as findings propose them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    op: String,
    path: String,
    value: Value,
}

/// Makes the next draft of `current`, whose payload has this digest, allowing what the findings found.
pub fn amend(
    current: &Statement,
    digest: &str,
    findings: &[Finding],
    validity: Validity,
) -> Result<Draft, Error> {
    let certificate = &current.predicate;
    let mut document = serde_json::to_value(certificate).map_err(Error::Encode)?;
    let mut notes: Vec<Note> = Vec::new();
    for finding in findings {
        let id = || shown(&finding.id);
        let proposal = finding
            .evidence
            .get("allow_with")
            .ok_or_else(|| Error::NothingProposed { id: id(), rule: shown(&finding.rule) })?;
        let refused = |reason: String| Error::Proposal { id: id(), reason };
        let operations: Vec<Operation> =
            serde_json::from_str(proposal).map_err(|error| refused(error.to_string()))?;
        for operation in operations {
            let path = apply(&mut document, operation).map_err(refused)?;
            let why = format!("accepted with finding {} ({})", finding.id, finding.rule);
            notes.push(Note { path, why, looks: None, vms: None, review: vec![finding.message.clone()] });
        }
    }
    let mut next: Certificate = serde_json::from_value(document)
        .map_err(|error| Error::Proposal { id: "of the findings".to_owned(), reason: error.to_string() })?;
    next.schema = crate::SchemaVersion::CURRENT;
    next.serial = certificate.serial.saturating_add(1);
    next.supersedes = Some(digest.to_owned());
    next.validity = validity;
    // Image and all that is no kernel stays what it is about; kernels follow the list.
    let mut statement = Statement::new(next, None);
    statement.subject.extend(current.subject.iter().filter(|subject| subject.name != "kernel").cloned());
    verify::parse(&statement.to_json()?).map_err(Error::WouldBeRefused)?;
    let about = vec![format!(
        "Made from serial {} of {} ({digest}) to allow {} findings.",
        certificate.serial,
        shown(&certificate.service),
        findings.len()
    )];
    Ok(Draft::new(statement, about, notes))
}

/// Does one operation, and gives the entry that it made or changed. `Err`: why it is not done.
fn apply(document: &mut Value, operation: Operation) -> Result<String, String> {
    let Operation { op, path, value } = operation;
    if op != "add" {
        return Err(format!("its operation is {:?}, and only \"add\" is done", shown(&op)));
    }
    if !REACH.iter().any(|reach| path.starts_with(reach)) {
        return Err(format!("{:?} is not for a finding to change", shown(&path)));
    }
    let missing = || format!("the certificate has no {:?} to add to", shown(&path));
    let (parent, member) = path.rsplit_once('/').ok_or_else(missing)?;
    // `count` is left out of an entry that says nothing of it.
    if let Some((entry, "count")) = parent.rsplit_once('/')
        && let Some(Value::Object(entry)) = document.pointer_mut(entry)
    {
        entry.entry("count").or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    match document.pointer_mut(parent).ok_or_else(missing)? {
        Value::Array(list) if member == "-" => {
            list.push(value);
            Ok(entry_of(&format!("{parent}/{}", list.len().saturating_sub(1))))
        }
        Value::Object(object) => {
            object.insert(member.to_owned(), value);
            Ok(entry_of(parent))
        }
        _ => Err(missing()),
    }
}

/// The entry that a path leads into: `/processes/3/names/1` is part of `/processes/3`.
fn entry_of(path: &str) -> String {
    let depth = if path.starts_with("/guest/") || path.starts_with("/flows/") { 4 } else { 3 };
    path.split('/').take(depth).collect::<Vec<_>>().join("/")
}
