//! `status`, `findings`, `quarantine`, `release`: what birthmarkd knows and does.
//!
//! `--json` hands on what the daemon said. The tables need only part of it, and a field that a newer daemon leaves out
//! is shown as unknown.

use super::words;
use crate::Outcome;
use crate::args::{DaemonArgs, VmArgs};
use crate::client::Client;
use crate::output::{Cell, Output, Paint, Table};
use anyhow::Context;
use facts::{Finding, Verdict};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Daemon {
    version: Option<String>,
    pid: Option<u32>,
    started: Option<String>,
    interval_seconds: Option<f64>,
    quarantine_enabled: Option<bool>,
    mode: Option<String>,
    #[serde(default)]
    certificates: Vec<Certificate>,
    #[serde(default)]
    quarantines: Vec<Quarantine>,
}

#[derive(Deserialize)]
struct Certificate {
    service: String,
    serial: u64,
}

#[derive(Deserialize)]
struct Quarantine {
    vm_name: String,
    state: String,
    since: Option<String>,
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    interface: String,
    rules: Option<Rules>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Rules {
    state: String,
    from_packets: Option<u64>,
    to_packets: Option<u64>,
}

#[derive(Deserialize)]
struct Vm {
    name: String,
    pid: Option<u32>,
    verdict: Option<Verdict>,
    certificate: Option<Certificate>,
    learning: Option<Learning>,
    kernel: Option<String>,
    looks: Option<u64>,
    elapsed_us: Option<u64>,
    confirmed: Option<usize>,
    pending: Option<usize>,
    problem: Option<String>,
    quarantine: Option<Quarantine>,
}

/// A VM that is learned from instead of being held against a certificate.
#[derive(Deserialize)]
struct Learning {
    service: String,
    looks: usize,
}

#[derive(Deserialize)]
struct VmName {
    name: String,
}

#[derive(Deserialize)]
struct OpenFinding {
    vm: VmName,
    state: String,
    since: Option<String>,
    #[serde(default)]
    accepted: bool,
    siblings: Option<Siblings>,
    #[serde(flatten)]
    finding: Finding,
}

/// How many VMs of the service have the finding, of how many.
#[derive(Deserialize)]
struct Siblings {
    sharing: usize,
    watched: usize,
}

impl Siblings {
    /// What only one of several has stands out.
    fn cell(&self) -> Cell {
        let text = format!("{} of {}", self.sharing, self.watched);
        let unique = self.sharing <= 1 && self.watched > 1;
        Cell::new(text).paint(if unique { Paint::Red } else { Paint::Plain })
    }
}

/// The part of an answer that is shown.
fn read<T: DeserializeOwned>(answer: &Value) -> anyhow::Result<T> {
    T::deserialize(answer).context("birthmarkd gave an answer that this version does not understand")
}

pub(crate) fn status(args: &DaemonArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let client = Client::new(&args.socket);
    let (daemon, vms) = (client.get("status")?, client.get("vms")?);
    if out.json {
        out.json(&json!({ "daemon": daemon, "vms": vms }))?;
        return Ok(Outcome::Done);
    }
    let (daemon, vms): (Daemon, Vec<Vm>) = (read(&daemon)?, read(&vms)?);
    let unknown = || "?".to_owned();
    out.field(
        "birthmarkd",
        format!(
            "{}, pid {}, since {}",
            daemon.version.unwrap_or_else(unknown),
            daemon.pid.map_or_else(unknown, |pid| pid.to_string()),
            daemon.started.unwrap_or_else(unknown)
        ),
    )?;
    let looks = daemon.interval_seconds.map_or_else(unknown, |seconds| format!("every {seconds} s"));
    out.field("Looks", looks)?;
    out.field(
        "Quarantine",
        match (daemon.quarantine_enabled, daemon.mode) {
            (Some(true), Some(mode)) => format!("enabled, {mode}"),
            (Some(false), _) => "not enabled".to_owned(),
            _ => unknown(),
        },
    )?;
    let certificates: Vec<String> =
        daemon.certificates.iter().map(|one| format!("{} serial {}", one.service, one.serial)).collect();
    out.field(
        "Certificates",
        if certificates.is_empty() { "none".to_owned() } else { certificates.join(", ") },
    )?;
    for table in [vm_table(vms), quarantine_table(daemon.quarantines)] {
        if !table.is_empty() {
            out.line(&[])?;
            out.table(&table)?;
        }
    }
    Ok(Outcome::Done)
}

fn vm_table(vms: Vec<Vm>) -> Table {
    let mut table = Table::new(&[
        "VM",
        ">PID",
        "VERDICT",
        ">FINDINGS",
        ">PENDING",
        "CERTIFICATE",
        "KERNEL",
        ">LOOKS",
        ">MICROSECONDS",
        "QUARANTINE",
        "PROBLEM",
    ]);
    for vm in vms {
        table.row([
            Cell::new(vm.name),
            Cell::some(vm.pid),
            vm.verdict.map_or_else(|| Cell::known(None::<&str>), words::verdict),
            Cell::known(vm.confirmed),
            Cell::known(vm.pending),
            Cell::some(match (vm.learning, vm.certificate) {
                (Some(Learning { service, looks }), _) => {
                    Some(format!("learning {service}, {}", words::count(looks, "look")))
                }
                (None, certificate) => {
                    certificate.map(|one| format!("{} serial {}", one.service, one.serial))
                }
            }),
            Cell::known(vm.kernel),
            Cell::known(vm.looks),
            Cell::known(vm.elapsed_us),
            vm.quarantine.map_or_else(|| Cell::new("-"), |one| Cell::new(one.state).paint(Paint::Red)),
            Cell::some(vm.problem),
        ]);
    }
    table
}

fn quarantine_table(quarantines: Vec<Quarantine>) -> Table {
    let mut table = Table::new(&[
        "QUARANTINE",
        "STATE",
        "SINCE",
        "DEVICE",
        "RULES",
        ">DROPPED FROM",
        ">DROPPED TO",
        "ERROR",
    ]);
    for Quarantine { vm_name, state, since, devices } in quarantines {
        let mut row = |device: Option<Device>| {
            let interface = Cell::some(device.as_ref().map(|device| &device.interface));
            let error = Cell::some(device.as_ref().and_then(|device| device.error.as_ref()));
            let rules = device.and_then(|device| device.rules);
            let paint = match rules.as_ref().map(|rules| rules.state.as_str()) {
                Some("cut") => Paint::Green,
                _ => Paint::Red,
            };
            table.row([
                Cell::new(&vm_name),
                Cell::new(&state),
                Cell::known(since.as_ref()),
                interface,
                Cell::known(rules.as_ref().map(|rules| &rules.state)).paint(paint),
                Cell::some(rules.as_ref().and_then(|rules| rules.from_packets)),
                Cell::some(rules.as_ref().and_then(|rules| rules.to_packets)),
                error,
            ]);
        };
        if devices.is_empty() {
            row(None);
        }
        devices.into_iter().for_each(|device| row(Some(device)));
    }
    table
}

/// Exit status 1 when a finding is confirmed and nobody has accepted it.
pub(crate) fn findings(args: &DaemonArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let answer = Client::new(&args.socket).get("findings")?;
    let findings: Vec<OpenFinding> = read(&answer)?;
    if out.json {
        out.json(&answer)?;
    } else {
        let mut table =
            Table::new(&["VM", "STATE", "SINCE", "SEVERITY", "SIBLINGS", "RULE", "SUBJECT", "ID", "MESSAGE"]);
        for one in &findings {
            let state = if one.accepted { format!("{}, accepted", one.state) } else { one.state.clone() };
            table.row([
                Cell::new(&one.vm.name),
                Cell::new(state),
                // To the second: 2026-11-24T12:00:00.
                Cell::known(one.since.as_deref().map(|since| since.get(..19).unwrap_or(since))),
                words::severity(one.finding.severity),
                one.siblings.as_ref().map_or_else(|| Cell::known(None::<&str>), Siblings::cell),
                Cell::new(&one.finding.rule),
                Cell::new(&one.finding.subject),
                Cell::new(&one.finding.id),
                Cell::new(&one.finding.message),
            ]);
        }
        if table.is_empty() {
            out.line(&[Cell::new("No findings")])?;
        } else {
            out.table(&table)?;
        }
    }
    let open = findings.iter().any(|one| one.state == "confirmed" && !one.accepted);
    Ok(if open { Outcome::Findings } else { Outcome::Done })
}

pub(crate) fn quarantine(args: &VmArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    #[derive(Deserialize)]
    struct Answer {
        vm: VmName,
        devices: Vec<String>,
    }
    let answer = Client::new(&args.daemon.socket)
        .act(&args.vm, "quarantine")
        .with_context(|| format!("{} is not quarantined", args.vm))?;
    if out.json {
        out.json(&answer)?;
    } else {
        let Answer { vm, devices } = read(&answer)?;
        out.line(&[Cell::new(format!("{} is cut off at {}", vm.name, devices.join(", ")))])?;
    }
    Ok(Outcome::Done)
}

pub(crate) fn release(args: &VmArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    #[derive(Deserialize)]
    struct Answer {
        vm: VmName,
        #[serde(default)]
        accepted: Vec<String>,
    }
    let answer = Client::new(&args.daemon.socket)
        .act(&args.vm, "release")
        .with_context(|| format!("{} is not released", args.vm))?;
    if out.json {
        out.json(&answer)?;
    } else {
        let Answer { vm, accepted } = read(&answer)?;
        let accepted = match accepted.len() {
            0 => String::new(),
            number => format!("; {} accepted until gone", words::count(number, "open finding")),
        };
        out.line(&[Cell::new(format!("{} is released{accepted}", vm.name))])?;
    }
    Ok(Outcome::Done)
}
