//! `birthmark certify`: a signed birth certificate of a VM that is known to be good.
//!
//! Everything that can be wrong without the guest (key, output file, validity) is checked before it is looked at: nobody
//! waits ten minutes to read that the key is missing. A look that is not fit to learn from, because the guest changed
//! meanwhile, is done again.

use super::words;
use crate::Outcome;
use crate::args::{ActionArg, CertifyArgs};
use crate::files;
use crate::guest::Guest;
use crate::output::{self, Output, Progress};
use crate::profiles;
use crate::signing::Signer;
use anyhow::Context;
use attest::{Action, LearnOptions, Statement, Validity};
use facts::{ConsistencyMode, ProfileSource, Snapshot};
use introspect::Tables;
use jiff::Timestamp;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time between two looks of a longer observation.
const BETWEEN: Duration = Duration::from_secs(1);
/// Most looks of one observation. A longer one looks less often: snapshots are kept until its end.
const LOOKS_MAX: u32 = 300;
/// Most attempts at a look that is fit to learn from, and the time between them.
const ATTEMPTS: u32 = 10;
const AGAIN: Duration = Duration::from_millis(20);

pub(crate) fn certify(args: &CertifyArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let signer = Signer::required(&args.key)?;
    if !args.force {
        files::must_not_exist(&args.output).context("Cannot write the certificate without --force")?;
    }
    let learn = args.learn.length(Timestamp::now())?;
    args.valid_for.after(Timestamp::now())?;
    let mut options = LearnOptions {
        service: args.service.clone(),
        serial: args.serial,
        validity: validity(args)?,
        selector: args.selector(),
        image_sha256: args.image_sha256.clone(),
        accept_unknown: args.accept_unknown,
        flows: args.flows,
    };
    let mut guest = Guest::open(&args.target.target)?.searching(args.target.scan);
    let (snapshots, looks) = observe(&mut guest, learn, &options)?;
    // From the end of the observation.
    options.validity = validity(args)?;
    let mut statement = attest::certify(&snapshots, &options)
        .with_context(|| format!("Cannot certify {}", args.target.target))?;
    if args.action == ActionArg::Alert {
        only_alert(&mut statement);
    }
    let failed = || format!("Cannot certify {}", args.target.target);
    let mut envelope = statement.to_envelope().with_context(failed)?;
    signer.sign(&mut envelope).with_context(failed)?;
    files::write(&args.output, &envelope.to_json()?, 0o644, args.force)?;
    let stored = store_profile(&mut guest)?;
    report(args, &statement, &signer, looks, stored.as_deref(), out)?;
    Ok(Outcome::Done)
}

/// From now on, in whole seconds, so that a host whose clock is a moment behind accepts it at once.
fn validity(args: &CertifyArgs) -> anyhow::Result<Validity> {
    let not_before = Timestamp::from_second(Timestamp::now().as_second())?;
    Ok(Validity { not_before, not_after: args.valid_for.after(not_before)? })
}

/// As many looks as fit into `learn`; one of an image. Gives those that differ from the one before, and how many there were: the
/// same seen again teaches nothing.
fn observe(
    guest: &mut Guest,
    learn: Duration,
    options: &LearnOptions,
) -> anyhow::Result<(Vec<Snapshot>, usize)> {
    let mut snapshots = vec![fit(guest, options)?];
    let mut looks = 1_usize;
    let still = snapshots.iter().any(|snapshot| snapshot.consistency.mode == ConsistencyMode::Still);
    if still {
        return Ok((snapshots, looks));
    }
    let pause = BETWEEN.max(learn.checked_div(LOOKS_MAX).unwrap_or(BETWEEN)).min(learn);
    let steps = learn.as_millis().checked_div(pause.as_millis().max(1)).unwrap_or(0);
    let what = format!("Observing {}", guest.vm().name);
    let progress = Progress::steps(&what, u64::try_from(steps).unwrap_or(u64::MAX));
    let started = Instant::now();
    while started.elapsed() < learn {
        sleep(pause.min(learn.saturating_sub(started.elapsed())));
        let snapshot = fit(guest, options)?;
        looks = looks.saturating_add(1);
        if !snapshots.iter().any(|other| same_facts(other, &snapshot)) {
            snapshots.push(snapshot);
        }
        progress.step();
    }
    Ok((snapshots, looks))
}

/// A snapshot that can be learned from, if one of a few looks gives one; else the reason why the last is none.
fn fit(guest: &mut Guest, options: &LearnOptions) -> anyhow::Result<Snapshot> {
    let mut attempt = 1;
    loop {
        let snapshot = guest.look(Tables::ALL)?;
        match attest::certify(std::slice::from_ref(&snapshot), options) {
            Ok(_) => return Ok(snapshot),
            Err(error) if attempt == ATTEMPTS || snapshot.consistency.mode == ConsistencyMode::Still => {
                return Err(error).with_context(|| format!("Cannot certify {}", snapshot.vm.name));
            }
            Err(_) => sleep(AGAIN),
        }
        attempt += 1;
    }
}

fn same_facts(one: &Snapshot, other: &Snapshot) -> bool {
    one.processes == other.processes
        && one.sockets == other.sockets
        && one.modules == other.modules
        && one.kernel == other.kernel
}

/// Keeps the profile of the kernel that was just certified: this is the moment at which the guest is trusted, and later looks are
/// judged by what the host knows from now (invariant 9). That it cannot be kept is told, and the certificate holds all the same:
/// it pins the kernel by itself. `None`: there is no store, or a stored profile was used already.
fn store_profile(guest: &mut Guest) -> anyhow::Result<Option<PathBuf>> {
    let store = profiles::store();
    let kernel = guest.kernel()?;
    if store.directories().is_empty() || kernel.profile_origin().source == ProfileSource::Store {
        return Ok(None);
    }
    match store.add(kernel.profile()) {
        Ok(added) => Ok(Some(added.path)),
        Err(error) => {
            let error = anyhow::Error::new(error);
            output::note(&format!("The profile of kernel {} is not stored: {error:#}", kernel.release()));
            Ok(None)
        }
    }
}

/// Every rule tells and does no more.
fn only_alert(statement: &mut Statement) {
    let policy = &mut statement.predicate.policy;
    policy.action = Action::Alert;
    for rule in policy.rules.values_mut() {
        rule.action = Some(Action::Alert);
    }
}

fn report(
    args: &CertifyArgs,
    statement: &Statement,
    signer: &Signer,
    looks: usize,
    stored: Option<&Path>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let certificate = &statement.predicate;
    if out.json {
        return out.json(&json!({
            "file": args.output.display().to_string(),
            "service": certificate.service,
            "serial": certificate.serial,
            "not_before": certificate.validity.not_before,
            "not_after": certificate.validity.not_after,
            "key_id": signer.key_id(),
            "looks": looks,
            "processes": certificate.processes.len(),
            "listeners": certificate.listeners.len(),
            "raw_sockets": certificate.raw_sockets.len(),
            "modules": certificate.modules.len(),
            "stored_profile": stored.map(|path| path.display().to_string()),
        }));
    }
    out.field("Certificate", args.output.display().to_string())?;
    out.field("Service", format!("{}, serial {}", certificate.service, certificate.serial))?;
    out.field("Valid", format!("{} to {}", certificate.validity.not_before, certificate.validity.not_after))?;
    out.field("Signed by", signer.key_id())?;
    out.field(
        "Learned",
        format!(
            "{}, {}, {} and {} in {} (`birthmark show` lists them)",
            words::count(certificate.processes.len(), "program"),
            words::count(certificate.listeners.len(), "listener"),
            words::count(certificate.raw_sockets.len(), "raw socket"),
            words::count(certificate.modules.len(), "module"),
            words::count(looks, "look"),
        ),
    )?;
    match stored {
        Some(path) => out.field("Profile", path.display().to_string()),
        None => Ok(()),
    }
}
