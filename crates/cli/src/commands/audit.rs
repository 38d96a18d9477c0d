//! `birthmark audit`: the verdict on a VM, and what it stands on.
//!
//! A finding about a running guest counts only when looks in a row agree (invariant 8): as long as something is seen that
//! is not confirmed yet, the guest is looked at again a moment later, when something has run in it. A verdict that nothing is known stands behind
//! (`unreadable`) ends as an error, never as a good or a bad result.

use super::words;
use crate::Outcome;
use crate::args::AuditArgs;
use crate::guest::Guest;
use crate::output::{self, Cell, Output, Paint};
use crate::trust::{Trust, Trusted, remember};
use anyhow::bail;
use attest::{Certificate, LEAST_CONFIRMATIONS, Policy, Tasks, Tracker};
use facts::{Finding, Report, Snapshot, Turnover, Verdict, Vm};
use introspect::Tables;
use std::thread::sleep;
use std::time::Duration;

/// Time between two looks: longer than any race of the guest's kernel, short for a person.
const PAUSE: Duration = Duration::from_millis(20);
/// Looks beyond those that the policy asks for, for a guest that shows something new each time.
const MORE_LOOKS: u32 = 4;
/// Most looks, whatever a policy asks for.
const LOOKS_MAX: u32 = 200;

/// Looks that may show a guest, or a process of it, to which nothing has happened since the one before: a second of them. One that
/// stands longer is idle, or pretends to be; one that waits longer is starved.
const STANDING_MAX: u32 = 50;

/// What the looks together say.
struct Seen {
    snapshot: Snapshot,
    /// Confirmed, worst first.
    findings: Vec<Finding>,
    /// Seen in the last look and not confirmed.
    pending: usize,
    looks: u32,
    /// What came and went between the first and the last.
    turnover: Option<Turnover>,
}

pub(crate) fn audit(args: &AuditArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let trust = Trust::load(&args.trust)?;
    // Before the guest is opened: a certificate that is refused needs no guest to be refused.
    let named = args.certificate.as_ref().map(|path| trust.verify(path)).transpose()?;
    let mut guest = match Guest::of(&args.target) {
        Ok(guest) => guest,
        Err(error) => {
            // It is there, and cannot be read; of what is not there, there is nothing to report.
            if let Some(vm) = hypervisor::find(&args.target.target) {
                unreadable(vm, &error, out)?;
            }
            return Err(error);
        }
    };
    let trusted = match named {
        Some(trusted) => Some(trusted),
        None => trust.find(&args.trust, guest.vm())?,
    };
    if let Some(trusted) = &trusted {
        remember(&args.trust, trusted);
    }
    let certificate = trusted.as_ref().map(|trusted| trusted.verified.certificate());
    let seen = match observe(&mut guest, certificate) {
        Ok(seen) => seen,
        Err(error) => {
            unreadable(guest.vm().clone(), &error, out)?;
            return Err(error);
        }
    };
    let Seen { snapshot, findings, pending, looks, turnover } = seen;
    let verdict = attest::judge(certificate, &findings, Some(&snapshot));
    let report = attest::report(snapshot.vm.clone(), verdict, findings, Some(snapshot));
    let why = (verdict == Verdict::Unreadable).then(|| reason(&report));
    let report = Report { turnover, reason: why, ..report };
    if out.json {
        out.json(&report)?;
    } else {
        print(&report, trusted.as_ref(), pending, looks, out)?;
    }
    match verdict {
        Verdict::Conforms => Ok(Outcome::Done),
        Verdict::Drifted | Verdict::Uncertified => Ok(Outcome::Findings),
        Verdict::Unreadable => {
            bail!(
                "Too much of {} could not be read to tell whether it conforms: {}",
                args.target.target,
                report.reason.unwrap_or_default()
            )
        }
    }
}

/// The report of a VM that nothing was read of. A person has the error, which is to follow.
fn unreadable(vm: Vm, error: &anyhow::Error, out: &mut Output) -> anyhow::Result<()> {
    if out.json {
        let report = attest::report(vm, Verdict::Unreadable, Vec::new(), None);
        out.json(&Report { reason: Some(format!("{error:#}")), ..report })?;
    }
    Ok(())
}

/// Looks until nothing is pending, or until more looks are of no use.
fn observe(guest: &mut Guest, certificate: Option<&Certificate>) -> anyhow::Result<Seen> {
    let usual = Policy::default();
    let policy = certificate.map_or(&usual, |certificate| &certificate.policy);
    let mut tracker = Tracker::default();
    let mut looks = 0_u32;
    let mut most = LOOKS_MAX;
    let mut first: Option<Tasks> = None;
    let mut last: Option<Tasks> = None;
    let mut standing = 0_u32;
    loop {
        let snapshot = guest.look(Tables::ALL)?;
        // The same moment again, in which a race is still what it was: a busy host has given the guest's CPUs to somebody else, or a busy
        // guest its CPU to another process.
        if standing < STANDING_MAX && last.as_mut().is_some_and(|last| last.is_same_moment(&snapshot)) {
            standing = standing.saturating_add(1);
            sleep(PAUSE);
            continue;
        }
        last = Some(Tasks::of(&snapshot));
        looks = looks.saturating_add(1);
        let found = match certificate {
            Some(certificate) => attest::compare(certificate, &snapshot),
            // What no certificate is needed to know.
            None => attest::cross_views(&snapshot, policy),
        };
        let progress = tracker.feed(found, policy, snapshot.consistency.mode);
        if looks == 1 {
            let wanted = |finding: &Finding| policy.decide(&finding.rule).confirmations;
            let wanted = progress.pending.iter().map(wanted).max().unwrap_or(LEAST_CONFIRMATIONS);
            most = wanted.saturating_add(MORE_LOOKS).min(LOOKS_MAX);
        }
        if progress.pending.is_empty() || looks >= most {
            let turnover = first.and_then(|first| first.turnover(&snapshot));
            return Ok(Seen {
                turnover,
                snapshot,
                findings: progress.confirmed(),
                pending: progress.pending.len(),
                looks,
            });
        }
        first = first.or_else(|| last.clone());
        sleep(PAUSE);
    }
}

/// What makes the guest unreadable, in a few words.
fn reason(report: &Report) -> String {
    if let Some(finding) = report.findings.first() {
        return finding.message.clone();
    }
    let problems = report.snapshot.as_ref().map(|snapshot| snapshot.problems.as_slice()).unwrap_or_default();
    problems.first().map_or_else(
        || "its process table is empty".to_owned(),
        |first| format!("{}: {}", first.location, first.detail),
    )
}

fn print(
    report: &Report,
    trusted: Option<&Trusted>,
    pending: usize,
    looks: u32,
    out: &mut Output,
) -> anyhow::Result<()> {
    out.field("VM", Cell::new(words::vm(&report.vm)).paint(Paint::Bold))?;
    if let Some(snapshot) = &report.snapshot {
        out.field("Kernel", &snapshot.kernel.release)?;
        out.field("Profile", words::profile(&snapshot.kernel.profile))?;
        let looks = words::count(usize::try_from(looks).unwrap_or(usize::MAX), "look");
        out.field(
            "Seen",
            format!(
                "{} processes, {} sockets, {} modules in {looks}, the last of {} µs",
                snapshot.processes.len(),
                snapshot.sockets.len(),
                snapshot.modules.len(),
                snapshot.elapsed_us
            ),
        )?;
    }
    if let Some(Turnover { created, unseen, .. }) = &report.turnover {
        out.field("Unseen", format!("{unseen} of {created} new tasks came and went between the looks"))?;
    }
    match trusted {
        None => out.field("Certificate", "none is for this VM (`birthmark certify` makes one)")?,
        Some(trusted) => {
            let certificate = trusted.verified.certificate();
            out.field(
                "Certificate",
                format!(
                    "{} serial {}, valid until {}, {}",
                    certificate.service,
                    certificate.serial,
                    certificate.validity.not_after,
                    trusted.path.display()
                ),
            )?;
        }
    }
    let findings = report.findings.as_slice();
    let mut verdict = vec![words::verdict(report.verdict)];
    if !findings.is_empty() {
        verdict.push(Cell::new(format!(", {}", words::count(findings.len(), "finding"))));
    }
    out.line(&[&[Cell::new("Verdict       ").paint(Paint::Dim)], verdict.as_slice()].concat())?;
    for finding in findings {
        print_finding(finding, out)?;
    }
    if pending > 0 {
        output::note(&format!(
            "{}: {} seen in passing and not confirmed (the guest changed meanwhile)",
            report.vm.name,
            words::count(pending, "more deviation")
        ));
    }
    Ok(())
}

/// A finding as a paragraph: rule and subject, what it means, then its evidence, expected and seen first.
fn print_finding(finding: &Finding, out: &mut Output) -> anyhow::Result<()> {
    out.line(&[])?;
    out.line(&[
        words::severity(finding.severity),
        Cell::new("  "),
        Cell::new(&finding.rule).paint(Paint::Bold),
        Cell::new("  "),
        Cell::new(&finding.subject),
    ])?;
    out.line(&[Cell::new("  "), Cell::new(&finding.message)])?;
    let first = ["expected", "seen"];
    let leading = first.iter().filter_map(|name| finding.evidence.get_key_value(*name));
    let rest = finding.evidence.iter().filter(|(name, _)| !first.contains(&name.as_str()));
    for (name, value) in leading.chain(rest) {
        evidence(name, value, out)?;
    }
    if !finding.views_seen.is_empty() {
        evidence("seen in", &finding.views_seen.join(", "), out)?;
    }
    if !finding.views_missing.is_empty() {
        evidence("missing in", &finding.views_missing.join(", "), out)?;
    }
    let looks = words::count(usize::try_from(finding.confirmations).unwrap_or(usize::MAX), "look");
    evidence("id", &format!("{}, seen in {looks}", finding.id), out)
}

fn evidence(name: &str, value: &str, out: &mut Output) -> anyhow::Result<()> {
    out.line(&[Cell::new(format!("    {name:<16}")).paint(Paint::Dim), Cell::new(value)])
}
