//! `birthmark verify` and `birthmark show`: whether a certificate is trusted, and what it allows.
//!
//! `show` also shows what is not trusted, because a person who finds such a file wants to know what it says; it says so
//! in its first lines and in JSON (`trusted`), and nothing but `show` ever reads an envelope that way.

use super::words;
use crate::Outcome;
use crate::args::VerifyArgs;
use crate::document;
use crate::files;
use crate::output::{Cell, Output, Paint, Table};
use crate::trust::Trust;
use anyhow::Context;
use attest::dsse::ENVELOPE_LIMIT;
use attest::{Certificate, Flows, Pattern, Presence, Verified};
use facts::ExeState;
use serde_json::json;

pub(crate) fn verify(args: &VerifyArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let trusted = Trust::load(&args.trust)?.verify(&args.file)?;
    let Verified { statement, signers, digest, holds_until } = &trusted.verified;
    let certificate = &statement.predicate;
    if out.json {
        out.json(&json!({
            "file": args.file.display().to_string(),
            "trusted": true,
            "service": certificate.service,
            "serial": certificate.serial,
            "not_before": certificate.validity.not_before,
            "not_after": certificate.validity.not_after,
            "signers": signers,
            "digest": digest,
            "holds_until": holds_until,
        }))?;
    } else {
        out.line(&[
            Cell::new(args.file.display().to_string()),
            Cell::new(": "),
            Cell::new("trusted").paint(Paint::Green),
        ])?;
        out.field("Service", format!("{}, serial {}", certificate.service, certificate.serial))?;
        out.field("Valid", valid(certificate))?;
        out.field("Signed by", signers.join(", "))?;
        out.field("Digest", digest)?;
    }
    Ok(Outcome::Done)
}

pub(crate) fn show(args: &VerifyArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let bytes = files::read(&args.file, "certificate", ENVELOPE_LIMIT)?;
    let (statement, trust) = match Trust::load(&args.trust)?.check(&bytes) {
        Ok(verified) => (verified.statement, Ok(verified.signers)),
        Err(refusal) => {
            let draft =
                document::read(&bytes).with_context(|| format!("{} cannot be shown", args.file.display()))?;
            (draft.statement, Err(anyhow::Error::new(refusal)))
        }
    };
    if out.json {
        out.json(&json!({
            "file": args.file.display().to_string(),
            "trusted": trust.is_ok(),
            "refusal": trust.as_ref().err().map(|refusal| format!("{refusal:#}")),
            "signers": trust.as_ref().ok(),
            "statement": statement,
        }))?;
        return Ok(Outcome::Done);
    }
    out.field("Certificate", args.file.display().to_string())?;
    match &trust {
        Ok(signers) => {
            out.field(
                "Trusted",
                Cell::new(format!("yes, signed by {}", signers.join(", "))).paint(Paint::Green),
            )?;
        }
        Err(refusal) => out.field("Trusted", Cell::new(format!("NO: {refusal:#}")).paint(Paint::Red))?,
    }
    print(&statement.predicate, out)?;
    Ok(Outcome::Done)
}

fn valid(certificate: &Certificate) -> String {
    format!("{} to {}", certificate.validity.not_before, certificate.validity.not_after)
}

/// Templates with commas; `none` in words of the caller.
fn patterns(patterns: &[Pattern], none: &str) -> String {
    if patterns.is_empty() {
        return none.to_owned();
    }
    patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(", ")
}

fn print(certificate: &Certificate, out: &mut Output) -> anyhow::Result<()> {
    out.field("Service", format!("{}, serial {}", certificate.service, certificate.serial))?;
    out.field("Valid", valid(certificate))?;
    if let Some(digest) = &certificate.supersedes {
        out.field("Supersedes", digest)?;
    }
    let chosen = certificate.selector.described();
    out.field("For VMs", if chosen.is_empty() { "none by itself".to_owned() } else { chosen.join(", ") })?;
    for kernel in &certificate.guest.kernels {
        let build = kernel.build_id.as_deref().unwrap_or("none");
        let arch = &certificate.guest.arch;
        out.field(
            "Kernel",
            format!("{} {arch}, build id {build}, types {}", kernel.release, kernel.btf_digest),
        )?;
    }
    let modules: Vec<&str> = certificate.modules.iter().map(|module| module.name.as_str()).collect();
    out.field("Modules", if modules.is_empty() { "none".to_owned() } else { modules.join(", ") })?;
    let ebpf = match certificate.ebpf.as_deref() {
        None => "not judged".to_owned(),
        Some([]) => "none".to_owned(),
        Some(programs) => {
            let program = |entry: &attest::EbpfEntry| {
                let name = entry.name.as_ref().map_or("without a name", |name| name.as_str());
                format!("{name} ({}, tag {})", entry.kind, entry.tag.as_deref().unwrap_or("any"))
            };
            programs.iter().map(program).collect::<Vec<_>>().join(", ")
        }
    };
    out.field("eBPF", ebpf)?;
    let policy = &certificate.policy;
    out.field(
        "Policy",
        format!(
            "{}, else {} after {} looks",
            words::serde_name(&policy.mode),
            words::serde_name(&policy.action),
            policy.confirmations
        ),
    )?;
    if certificate.flows.is_none() {
        out.field("Flows", "not judged")?;
    }
    for table in [
        processes(certificate),
        listeners(certificate),
        flows(certificate),
        raw_sockets(certificate),
        rules(certificate),
    ] {
        if !table.is_empty() {
            out.line(&[])?;
            out.table(&table)?;
        }
    }
    Ok(())
}

fn processes(certificate: &Certificate) -> Table {
    let mut table =
        Table::new(&["PROGRAM", "PRESENCE", ">COUNT", "UID:GID", "CAPABILITIES", "NAMES", "ARGS", "PARENTS"]);
    for entry in &certificate.processes {
        let program = match (&entry.executable, entry.exe_state) {
            _ if entry.kernel_thread => "(kernel threads)".to_owned(),
            (Some(executable), ExeState::Present) => executable.as_str().to_owned(),
            (Some(executable), state) => format!("{} ({})", executable.as_str(), words::serde_name(&state)),
            (None, state) => format!("({})", words::serde_name(&state)),
        };
        let program = match &entry.container {
            Some(container) => format!("{program} in container {}", container.as_str()),
            None => program,
        };
        let (presence, paint) = match entry.presence {
            Presence::Required => ("required", Paint::Bold),
            Presence::Allowed => ("allowed", Paint::Plain),
        };
        let count = match entry.count.max {
            Some(max) => format!("{}-{max}", entry.least()),
            None => format!("{}+", entry.least()),
        };
        let who: Vec<String> = entry
            .identities
            .iter()
            .map(|one| {
                let effective = |real: u32, effective: u32| {
                    if real == effective { real.to_string() } else { format!("{real}→{effective}") }
                };
                format!("{}:{}", effective(one.uid, one.euid), effective(one.gid, one.egid))
            })
            .collect();
        let mut capabilities: Vec<String> =
            entry.identities.iter().flat_map(|one| one.capabilities.names()).collect();
        capabilities.sort();
        capabilities.dedup();
        let args =
            entry.args.as_ref().map(|args| args.iter().map(Pattern::as_str).collect::<Vec<_>>().join(" "));
        table.row([
            Cell::new(program),
            Cell::new(presence).paint(paint),
            Cell::new(count),
            Cell::new(who.join(", ")),
            if capabilities.is_empty() { Cell::new("none") } else { Cell::new(capabilities.join(", ")) },
            Cell::new(patterns(&entry.names, "any")),
            args.map_or_else(|| Cell::new("any"), Cell::new),
            entry
                .parents
                .as_ref()
                .map_or_else(|| Cell::new("any"), |parents| Cell::new(patterns(parents, "none"))),
        ]);
    }
    table
}

fn listeners(certificate: &Certificate) -> Table {
    let mut table = Table::new(&["LISTENER", "FAMILY", "AT", "HELD BY"]);
    for entry in &certificate.listeners {
        let at = match (&entry.path, &entry.address, &entry.port) {
            (Some(path), _, _) => path.as_str().to_owned(),
            (None, address, port) => {
                let address = address.map_or_else(|| "any".to_owned(), |address| address.to_string());
                let port = port.map_or_else(|| "any".to_owned(), |port| port.to_string());
                format!("{address} port {port}")
            }
        };
        table.row([
            Cell::new(&entry.protocol),
            Cell::new(words::serde_name(&entry.family)),
            Cell::new(at),
            Cell::new(patterns(&entry.processes, "the kernel")),
        ]);
    }
    table
}

fn flows(certificate: &Certificate) -> Table {
    let mut table = Table::new(&["FLOW", "PROTOCOL", "PEERS", ">PORT", "HELD BY"]);
    let none = Flows::default();
    let Flows { egress, ingress } = certificate.flows.as_ref().unwrap_or(&none);
    for (direction, entries) in [("egress", egress), ("ingress", ingress)] {
        for entry in entries {
            table.row([
                Cell::new(direction),
                Cell::new(&entry.protocol),
                Cell::new(entry.cidr.to_string()),
                Cell::new(entry.port.to_string()),
                Cell::new(patterns(&entry.processes, "the kernel")),
            ]);
        }
    }
    table
}

fn raw_sockets(certificate: &Certificate) -> Table {
    let mut table = Table::new(&["RAW SOCKET", "PROTOCOL", "HELD BY"]);
    for entry in &certificate.raw_sockets {
        table.row([
            Cell::new(words::serde_name(&entry.family)),
            entry.protocol.as_ref().map_or_else(|| Cell::new("any"), Cell::new),
            Cell::new(patterns(&entry.processes, "the kernel")),
        ]);
    }
    table
}

fn rules(certificate: &Certificate) -> Table {
    let mut table = Table::new(&["RULE", "SEVERITY", "ACTION", ">LOOKS", "MODE"]);
    for rule in certificate.policy.rules.keys() {
        let decision = certificate.policy.decide(rule);
        table.row([
            Cell::new(rule),
            words::severity(decision.severity),
            Cell::new(words::serde_name(&decision.action)),
            Cell::new(decision.confirmations.to_string()),
            Cell::new(words::serde_name(&decision.mode)),
        ]);
    }
    table
}
