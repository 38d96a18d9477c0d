//! `birthmark review`, `diff` and `accept`: how a certificate changes under the eyes of a person.
//!
//! None of them signs. `accept` starts from a certificate that is trusted, since what it makes is that one and a little
//! more; `review` and `diff` show any file, and judge nothing.

use crate::Outcome;
use crate::args::{AcceptArgs, DiffArgs, ReviewArgs};
use crate::client::Client;
use crate::document;
use crate::files;
use crate::output::{Cell, Output, Paint};
use crate::trust::Trust;
use anyhow::{Context, bail};
use attest::dsse::ENVELOPE_LIMIT;
use attest::{Change, ChangeKind, Draft, Validity};
use facts::{Finding, Report};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// Most bytes of a report: it holds a whole snapshot.
const REPORT_LIMIT: usize = 256 << 20;

pub(crate) fn review(args: &ReviewArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let draft = read(&args.file)?;
    let since = args.since.as_deref().map(read).transpose()?.map(|since| since.statement.predicate);
    if out.json {
        let warnings: Vec<Value> = attest::warnings(&draft.statement.predicate)
            .into_iter()
            .map(|warning| json!({ "path": warning.path, "text": warning.text }))
            .collect();
        out.json(&json!({
            "file": args.file.display().to_string(),
            "about": draft.about,
            "warnings": warnings,
            "notes": draft.notes,
            "changes": since.map(|since| attest::diff(&since, &draft.statement.predicate)),
        }))?;
    } else {
        let page = match &since {
            Some(since) => attest::review_since(&draft, since),
            None => attest::review(&draft),
        };
        for line in page.lines() {
            out.line(&[Cell::new(line)])?;
        }
    }
    Ok(Outcome::Done)
}

pub(crate) fn diff(args: &DiffArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let changes = attest::diff(&old.statement.predicate, &new.statement.predicate);
    if out.json {
        out.json(&changes)?;
    } else if changes.is_empty() {
        out.line(&[Cell::new("No difference")])?;
    } else {
        print(&changes, out)?;
    }
    Ok(if changes.is_empty() { Outcome::Done } else { Outcome::Findings })
}

pub(crate) fn accept(args: &AcceptArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    if !args.force {
        files::must_not_exist(&args.output).context("Cannot write the draft without --force")?;
    }
    let trusted = Trust::load(&args.trust)?.verify(&args.certificate)?;
    let findings = chosen(args)?;
    let verified = &trusted.verified;
    let current = verified.certificate();
    let not_before = Timestamp::from_second(Timestamp::now().as_second())?;
    let not_after = match &args.valid_for {
        Some(valid_for) => valid_for.after(not_before)?,
        None => current.validity.not_after,
    };
    let draft =
        attest::amend(&verified.statement, &verified.digest, &findings, Validity { not_before, not_after })
            .with_context(|| format!("No draft is made of {}", args.certificate.display()))?;
    files::write(&args.output, &draft.to_json()?, 0o644, args.force)?;
    let next = &draft.statement.predicate;
    let changes = attest::diff(current, next);
    if out.json {
        out.json(&json!({
            "file": args.output.display().to_string(),
            "service": next.service,
            "serial": next.serial,
            "supersedes": next.supersedes,
            "changes": changes,
        }))?;
    } else {
        out.field("Draft", args.output.display().to_string())?;
        out.field("Service", format!("{}, serial {} after {}", next.service, next.serial, current.serial))?;
        out.field("Next", "`birthmark review` shows all of it, `birthmark sign` signs it")?;
        out.line(&[])?;
        print(&changes, out)?;
    }
    Ok(Outcome::Done)
}

fn read(path: &Path) -> anyhow::Result<Draft> {
    let bytes = files::read(path, "certificate or draft", ENVELOPE_LIMIT)?;
    document::read(&bytes).with_context(|| format!("{} cannot be shown", path.display()))
}

/// The findings with the ids that were given: of a report, or of birthmarkd. One that is not there is an error.
fn chosen(args: &AcceptArgs) -> anyhow::Result<Vec<Finding>> {
    let all: Vec<Finding> = match &args.report {
        Some(path) => {
            let bytes = files::read(path, "report", REPORT_LIMIT)?;
            let report: Report = serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is no report of `birthmark audit --json`", path.display()))?;
            report.findings
        }
        None => {
            let answer = Client::new(&args.daemon.socket).get("findings")?;
            Vec::deserialize(&answer)
                .context("birthmarkd gave an answer that this version does not understand")?
        }
    };
    let mut chosen: Vec<Finding> = Vec::new();
    for id in &args.findings {
        // Siblings have the same findings under the same ids: one is enough.
        match all.iter().find(|finding| finding.id == *id) {
            Some(_) if chosen.iter().any(|other| other.id == *id) => {}
            Some(finding) => chosen.push(finding.clone()),
            None => bail!("There is no finding {id} (`birthmark findings` shows those that are open)"),
        }
    }
    Ok(chosen)
}

fn print(changes: &[Change], out: &mut Output) -> anyhow::Result<()> {
    for change in changes {
        let (mark, paint) = match change.change {
            ChangeKind::Added => ("+", Paint::Green),
            ChangeKind::Removed => ("-", Paint::Red),
            ChangeKind::Changed => ("~", Paint::Bold),
        };
        let (mark, paint) = if change.alarm.is_some() { ("!", Paint::Red) } else { (mark, paint) };
        out.line(&[
            Cell::new(format!("{mark} {}: ", change.section)).paint(paint),
            Cell::new(&change.entry),
        ])?;
        for detail in change.alarm.iter().chain(&change.details) {
            out.line(&[Cell::new(format!("    {detail}"))])?;
        }
    }
    Ok(())
}
