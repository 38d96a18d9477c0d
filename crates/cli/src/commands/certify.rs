//! `birthmark certify`: a birth certificate of a VM, or of several siblings, known to be good.
//!
//! With a key it is signed at once. Without one it is a draft with a page for the person who reviews it (`birthmark review`
//! shows that page again, `birthmark sign` signs).
//!
//! An image and a VM together: what is learned from the VM, held against the image that it started from.
//!
//! Everything that can be wrong without the guest (key, output file, validity, the image) is checked before it is looked at: nobody
//! waits ten minutes to read that the key is missing. A look that is not fit to learn from, because the guest changed
//! meanwhile, is done again.

use super::{provision, words};
use crate::Outcome;
use crate::args::{ActionArg, CertifyArgs};
use crate::files;
use crate::guest::Guest;
use crate::output::{self, Output, Progress};
use crate::profiles;
use crate::signing::Signer;
use anyhow::{Context, bail};
use attest::dsse::ENVELOPE_LIMIT;
use attest::{Action, Draft, LearnOptions, Learner, Statement, Validity};
use facts::{ConsistencyMode, ProfileSource};
use guest_profiles::Profile;
use introspect::Tables;
use jiff::Timestamp;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time between two looks of a longer observation.
const BETWEEN: Duration = Duration::from_secs(1);
/// Most attempts at a look that is fit to learn from, and the time between them.
const ATTEMPTS: u32 = 10;
const AGAIN: Duration = Duration::from_millis(20);

pub(crate) fn certify(args: &CertifyArgs, out: &mut Output) -> anyhow::Result<Outcome> {
    let signer = Signer::named(&args.key)?;
    let page = review_page(&args.output);
    if !args.force {
        files::must_not_exist(&args.output).context("Cannot write the certificate without --force")?;
        if signer.is_none() {
            files::must_not_exist(&page).context("Cannot write the review page without --force")?;
        }
    }
    if let (Some(image), Some(learned)) = (&args.image, &args.learned) {
        let draft = held_against(args, image, learned)?;
        let failed = || format!("Cannot certify {}", learned.display());
        return finish(args, draft, signer.as_ref(), &[], None, failed, out);
    }
    if let (Some(image), true) = (&args.image, args.targets.is_empty()) {
        let provisioned = provision::draft(args, image)?;
        let failed = || format!("Cannot certify {}", image.display());
        return finish(args, provisioned.draft, signer.as_ref(), &provisioned.profiles, None, failed, out);
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
    let origin = args.image.as_deref().map(|image| provision::origin(args, image)).transpose()?;
    let open = |target| Ok(Guest::open(target)?.searching(args.scan));
    let mut guests = args.targets.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let mut learner = Learner::new(&options);
    observe(&mut guests, learn, &mut learner)?;
    // From the end of the observation.
    options.validity = validity(args)?;
    let names: Vec<String> = args.targets.iter().map(ToString::to_string).collect();
    let failed = || format!("Cannot certify {}", names.join(", "));
    let mut draft = learner.draft(&options).with_context(failed)?;
    if let Some(origin) = origin {
        draft = draft.with_origin(origin);
    }
    let mut profiles = Vec::new();
    for guest in &mut guests {
        let kernel = guest.kernel()?;
        // A stored profile that was used already is there.
        if kernel.profile_origin().source != ProfileSource::Store {
            profiles.push(kernel.profile().clone());
        }
    }
    finish(args, draft, signer.as_ref(), &profiles, Some(learner.looks()), failed, out)
}

/// What was learned before, with what the image tells.
fn held_against(args: &CertifyArgs, image: &Path, learned: &Path) -> anyhow::Result<Draft> {
    let bytes = files::read(learned, "draft", ENVELOPE_LIMIT)?;
    let draft = Draft::parse(&bytes).with_context(|| format!("{} is of no use", learned.display()))?;
    let service = &draft.statement.predicate.service;
    if *service != args.service {
        bail!("{} is of the service {service:?}, and not of {:?}", learned.display(), args.service);
    }
    Ok(draft.with_origin(provision::origin(args, image)?))
}

/// Signs or leaves a draft, keeps the profiles of the kernels, and tells.
fn finish(
    args: &CertifyArgs,
    mut draft: Draft,
    signer: Option<&Signer>,
    profiles: &[Profile],
    looks: Option<usize>,
    failed: impl Fn() -> String,
    out: &mut Output,
) -> anyhow::Result<Outcome> {
    let page = review_page(&args.output);
    if args.action == ActionArg::Alert {
        only_alert(&mut draft.statement);
    }
    let mut envelope = draft.statement.to_envelope().with_context(&failed)?;
    match signer {
        Some(signer) => {
            signer.sign(&mut envelope).with_context(&failed)?;
            files::write(&args.output, &envelope.to_json()?, 0o644, args.force)?;
        }
        None => {
            files::write(&page, attest::review(&draft).as_bytes(), 0o644, args.force)?;
            files::write(&args.output, &draft.to_json()?, 0o644, args.force)?;
        }
    }
    let stored: Vec<PathBuf> = profiles.iter().filter_map(store_profile).collect();
    report(args, &draft.statement, signer, looks, &stored, out)?;
    Ok(Outcome::Done)
}

/// The page about a draft, beside it.
fn review_page(draft: &Path) -> PathBuf {
    let mut name = draft.as_os_str().to_owned();
    name.push(".review.txt");
    PathBuf::from(name)
}

/// From now on, in whole seconds, so that a host whose clock is a moment behind accepts it at once.
fn validity(args: &CertifyArgs) -> anyhow::Result<Validity> {
    let not_before = Timestamp::from_second(Timestamp::now().as_second())?;
    Ok(Validity { not_before, not_after: args.valid_for.after(not_before)? })
}

/// As many looks as fit into `learn`, at all guests in turn; one of an image.
fn observe(guests: &mut [Guest], learn: Duration, learner: &mut Learner) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for guest in guests {
        if look(guest, learner)? == ConsistencyMode::Live {
            running.push(guest);
        }
    }
    if running.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = running.iter().map(|guest| guest.vm().name.as_str()).collect();
    let pause = BETWEEN.min(learn);
    let steps = learn.as_millis().checked_div(pause.as_millis().max(1)).unwrap_or(0);
    let progress =
        Progress::steps(&format!("Observing {}", names.join(", ")), u64::try_from(steps).unwrap_or(u64::MAX));
    let started = Instant::now();
    while started.elapsed() < learn {
        sleep(pause.min(learn.saturating_sub(started.elapsed())));
        for guest in &mut running {
            look(guest, learner)?;
        }
        progress.step();
    }
    Ok(())
}

/// Learns from a look, if one of a few is fit for it; else the reason why the last is not.
fn look(guest: &mut Guest, learner: &mut Learner) -> anyhow::Result<ConsistencyMode> {
    let mut attempt = 1;
    loop {
        let snapshot = guest.look(Tables::ALL)?;
        let mode = snapshot.consistency.mode;
        match learner.look(&snapshot) {
            Ok(()) => return Ok(mode),
            Err(error) if attempt == ATTEMPTS || mode == ConsistencyMode::Still => {
                return Err(error).with_context(|| format!("Cannot certify {}", snapshot.vm.name));
            }
            Err(_) => sleep(AGAIN),
        }
        attempt += 1;
    }
}

/// Keeps the profile of the kernel that was just certified: this is the moment at which the guest is trusted, and later looks are
/// judged by what the host knows from now (invariant 9). That it cannot be kept is told, and the certificate holds all the same:
/// it pins the kernel by itself. `None`: there is no store.
fn store_profile(profile: &Profile) -> Option<PathBuf> {
    let store = profiles::store();
    if store.directories().is_empty() {
        return None;
    }
    match store.add(profile) {
        Ok(added) => Some(added.path),
        Err(error) => {
            let error = anyhow::Error::new(error);
            output::note(&format!("The profile of kernel {} is not stored: {error:#}", profile.release));
            None
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
    signer: Option<&Signer>,
    looks: Option<usize>,
    stored: &[PathBuf],
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
            "key_id": signer.map(Signer::key_id),
            "looks": looks,
            "processes": certificate.processes.len(),
            "listeners": certificate.listeners.len(),
            "raw_sockets": certificate.raw_sockets.len(),
            "modules": certificate.modules.len(),
            "ebpf": certificate.ebpf.as_ref().map(Vec::len),
            "files": certificate.files.len(),
            "review_page": signer.is_none().then(|| review_page(&args.output).display().to_string()),
            "stored_profile": stored.first().map(|path| path.display().to_string()),
        }));
    }
    let what = if signer.is_some() { "Certificate" } else { "Draft" };
    out.field(what, args.output.display().to_string())?;
    out.field("Service", format!("{}, serial {}", certificate.service, certificate.serial))?;
    out.field("Valid", format!("{} to {}", certificate.validity.not_before, certificate.validity.not_after))?;
    match signer {
        Some(signer) => out.field("Signed by", signer.key_id())?,
        None => {
            let page = review_page(&args.output);
            out.field("Signed by", "nobody: read the page, then `birthmark sign`")?;
            out.field("Review page", page.display().to_string())?;
        }
    }
    out.field(
        "Learned",
        format!(
            "{}, {}, {}, {} and {} in {} (`birthmark show` lists them)",
            words::count(certificate.processes.len(), "program"),
            words::count(certificate.listeners.len(), "listener"),
            words::count(certificate.raw_sockets.len(), "raw socket"),
            words::count(certificate.modules.len(), "module"),
            match &certificate.ebpf {
                Some(programs) => words::count(programs.len(), "eBPF program"),
                None => "unknown eBPF programs".to_owned(),
            },
            match (looks, &args.learned) {
                (Some(looks), _) => words::count(looks, "look"),
                (None, Some(learned)) => learned.display().to_string(),
                (None, None) => "the image".to_owned(),
            },
        ),
    )?;
    if !certificate.files.is_empty() {
        let with_digest = certificate.processes.iter().filter(|entry| !entry.sha256.is_empty()).count();
        let files = words::count(certificate.files.len(), "file");
        out.field("Image", format!("{files} that can run; {with_digest} of the programs are such files"))?;
    }
    for path in stored {
        out.field("Profile", path.display().to_string())?;
    }
    Ok(())
}
