//! Learning mode: VMs that are watched to find out what their service does, and not held against any certificate.
//!
//! All VMs of one `[[learn]]` block of the configuration teach one learner. What it knows is written as an unsigned draft, with
//! the page for the person who reviews it, into the state directory: at first after every few looks, later once a minute,
//! and when the daemon ends. With each draft what the learner knows is kept in a file of its own, and the next run of the daemon
//! goes on from there, with the same draft. An observation ends when its block is taken out of the configuration.
//!
//! What it must never do: sign, act on a VM, learn from a look in which something is hidden or unknown, or replace what took days
//! by what took seconds: where what is kept cannot be understood, it is told and put aside, and learning starts anew with another
//! draft.

use crate::config::Learn;
use crate::events::Event;
use crate::store;
use crate::trust::chain;
use attest::{LearnOptions, Learner, Policy, Selector, Validity};
use facts::{Snapshot, Vm};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Directory of the drafts in the state directory.
pub(crate) const DIRECTORY: &str = "drafts";
/// Directory of what is kept of each learner, in the state directory.
pub(crate) const KEPT: &str = "learning";
/// Value of `schema` in a file of it.
const SCHEMA: &str = "birthmark.learning/v1";
/// How long a draft would hold, as `birthmark certify` has it when nobody says anything else.
const VALID: SignedDuration = SignedDuration::from_hours(365 * 24);
/// A draft is never older than that while its VMs are looked at.
const LONGEST: Duration = Duration::from_secs(60);

/// One file; `L` is the [`Learner`], borrowed to be written and owned when it was read.
#[derive(Serialize, Deserialize)]
struct Kept<L> {
    schema: String,
    service: String,
    /// Whether flows are learned: a learner that did not cannot begin in between.
    flows: bool,
    /// When the observation began, after which the draft is named.
    started: Timestamp,
    learner: L,
}

/// What is learned of one service.
#[derive(Debug)]
pub(crate) struct Learning {
    of: Learn,
    /// The draft.
    path: PathBuf,
    /// What the learner knows.
    kept: PathBuf,
    started: Timestamp,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    learner: Learner,
    /// Looks in the draft on disk, and when it was written; `None`: there is none.
    written: Option<(usize, Instant)>,
    /// Why it could not be written last, so that it is told once.
    told: Option<String>,
}

/// How far the learning of a service is, as `GET /v1/vms` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LearningStatus {
    /// The service.
    pub service: String,
    /// Looks at all of its VMs that were learned from.
    pub looks: usize,
    /// File of the draft; `null`: not written yet.
    pub draft: Option<PathBuf>,
}

/// What one look led to.
#[derive(Debug)]
pub(crate) struct Lesson {
    pub(crate) status: LearningStatus,
    /// Why the look is not fit to learn from.
    pub(crate) unfit: Option<String>,
    pub(crate) events: Vec<Event>,
}

impl Learning {
    /// Goes on with what an earlier run has learned, if that is kept and can be understood; the event tells when it cannot.
    pub(crate) fn new(
        of: Learn,
        state_dir: &Path,
        now: Timestamp,
    ) -> Result<(Self, Option<Event>), quarantine::Error> {
        let stem = quarantine::file_stem(&of.service)?;
        let kept = state_dir.join(KEPT).join(format!("{stem}.json"));
        let (before, problem) = match read(&kept, &of) {
            Ok(before) => (before, None),
            Err(error) => (None, Some(put_aside(&kept, &of.service, &error))),
        };
        let (started, learner) = match before {
            Some(before) => (before.started, before.learner),
            // Neither the serial nor the time matters until the draft is made.
            None => (now, Learner::new(&options(&of, 1, now))),
        };
        let name = format!("{stem}-{}.draft", started.strftime("%Y%m%dT%H%M%S%3fZ"));
        let state = Mutex::new(State { learner, written: None, told: None });
        Ok((Self { of, path: state_dir.join(DIRECTORY).join(name), kept, started, state }, problem))
    }

    /// Whether the VM is one of those that are learned from.
    pub(crate) fn includes(&self, vm: &Vm) -> bool {
        self.of.vms.iter().any(|name| name.matches(&vm.name))
    }

    pub(crate) fn service(&self) -> &str {
        &self.of.service
    }

    /// Takes a look at one of the VMs. `serial` is what the next certificate of the service would have.
    pub(crate) fn take(&self, snapshot: &Snapshot, serial: u64) -> Lesson {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = attest::cross_views(snapshot, &Policy::default());
        let unfit = match hidden.first() {
            Some(finding) => Some(format!("Nothing is learned from this look: {}", finding.message)),
            None => state.learner.look(snapshot).err().map(|error| chain(&error)),
        };
        let looks = state.learner.looks();
        let due = match state.written {
            None => looks > 0,
            Some((before, at)) => {
                looks >= before.saturating_mul(2) || (looks > before && at.elapsed() >= LONGEST)
            }
        };
        let events = if due { self.write(&mut state, serial) } else { Vec::new() };
        let draft = state.written.map(|_| self.path.clone());
        Lesson { status: LearningStatus { service: self.of.service.clone(), looks, draft }, unfit, events }
    }

    /// The daemon ends: writes what is not in the draft yet.
    pub(crate) fn finish(&self, serial: u64) -> Vec<Event> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let written = state.written.map_or(0, |(looks, _)| looks);
        if state.learner.looks() > written { self.write(&mut state, serial) } else { Vec::new() }
    }

    fn write(&self, state: &mut State, serial: u64) -> Vec<Event> {
        let (service, path) = (self.of.service.clone(), self.path.clone());
        let mut page = path.clone().into_os_string();
        page.push(".review.txt");
        let page = PathBuf::from(page);
        let mut events = Vec::new();
        let done = self.draft(&state.learner, serial, &page).and_then(|()| {
            let first = state.written.is_none();
            state.written = Some((state.learner.looks(), Instant::now()));
            if first {
                let (service, path) = (service.clone(), path.clone());
                events.push(Event::LearningDraft { service, path, review_page: page });
            }
            self.keep(&state.learner)
        });
        let problem = done.err();
        if let Some(reason) = problem.clone().filter(|reason| state.told.as_ref() != Some(reason)) {
            events.push(Event::LearningProblem { service, path, reason });
        }
        state.told = problem;
        events
    }

    fn draft(&self, learner: &Learner, serial: u64, page: &Path) -> Result<(), String> {
        let draft =
            learner.draft(&options(&self.of, serial, Timestamp::now())).map_err(|error| chain(&error))?;
        let json = draft.to_json().map_err(|error| chain(&error))?;
        let written = store::replace(page, attest::review(&draft).as_bytes())
            .and_then(|()| store::replace(&self.path, &json));
        written.map_err(|error: io::Error| format!("The draft could not be written: {error}"))
    }

    /// For the next run of the daemon.
    fn keep(&self, learner: &Learner) -> Result<(), String> {
        let (schema, service) = (SCHEMA.to_owned(), self.of.service.clone());
        let kept = Kept { schema, service, flows: self.of.flows, started: self.started, learner };
        store::write(&self.kept, &kept).map_err(|error| {
            format!("What was learned could not be kept, so that a restart of the daemon would begin anew: {error}")
        })
    }
}

/// What an earlier run has learned of the service. `None`: nothing is kept.
fn read(path: &Path, of: &Learn) -> io::Result<Option<Kept<Learner>>> {
    let Some(kept) = store::read::<Option<Kept<Learner>>>(path)? else { return Ok(None) };
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if kept.schema != SCHEMA {
        return refuse(format!("its schema is {:?}, not {SCHEMA:?}", kept.schema));
    }
    if kept.service != of.service {
        return refuse(format!("it is about the service {:?}", kept.service));
    }
    if kept.flows != of.flows {
        let before = if kept.flows { "with" } else { "without" };
        return refuse(format!("it was learned {before} flows, and the configuration says otherwise"));
    }
    Ok(Some(kept))
}

/// What cannot be gone on with stays for a person to see, and its draft does too.
fn put_aside(path: &Path, service: &str, error: &io::Error) -> Event {
    let aside = path.with_extension("aside");
    let place = match fs::rename(path, &aside) {
        Ok(()) => format!("the file is kept as {}", aside.display()),
        Err(error) => format!("the file stays until it is written again ({error})"),
    };
    let reason = format!(
        "What was learned before is of no use ({error}), so learning starts anew; {place}. The draft of it stays"
    );
    Event::LearningProblem { service: service.to_owned(), path: path.to_owned(), reason }
}

/// Removes what is kept of services that are not learned any more: should they be again, that is another observation.
pub(crate) fn forget_others(state_dir: &Path, services: &[Learn]) -> io::Result<()> {
    let stems = services.iter().filter_map(|of| quarantine::file_stem(&of.service).ok());
    let known: BTreeSet<String> = stems.map(|stem| format!("{stem}.json")).collect();
    for entry in fs::read_dir(state_dir.join(KEPT))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "json") && !known.contains(&name) {
            store::remove(&path)?;
        }
    }
    Ok(())
}

fn options(of: &Learn, serial: u64, now: Timestamp) -> LearnOptions {
    // In whole seconds, so that a host whose clock is a moment behind accepts it at once.
    let not_before = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let not_after = not_before.checked_add(VALID).unwrap_or(Timestamp::MAX);
    LearnOptions {
        service: of.service.clone(),
        serial,
        validity: Validity { not_before, not_after },
        selector: Some(Selector { names: of.vms.clone(), ..Selector::default() }),
        image_sha256: None,
        accept_unknown: false,
        flows: of.flows,
    }
}
