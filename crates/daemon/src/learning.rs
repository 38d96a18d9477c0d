//! Learning mode: VMs that are watched to find out what their service does, and not held against any certificate.
//!
//! All VMs of one `[[learn]]` block of the configuration teach one learner. What it knows is written as an unsigned draft, with
//! the page for the person who reviews it, into the state directory: at first after every few looks, later once a minute,
//! and when the daemon ends. Each run of the daemon writes a draft of its own, so that a restart never replaces what took
//! days by what took seconds.
//!
//! What it must never do: sign, act on a VM, or learn from a look in which something is hidden or unknown.

use crate::config::Learn;
use crate::events::Event;
use crate::store;
use crate::trust::chain;
use attest::{LearnOptions, Learner, Policy, Selector, Validity};
use facts::{Snapshot, Vm};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Directory of the drafts in the state directory.
pub(crate) const DIRECTORY: &str = "drafts";
/// How long a draft would hold, as `birthmark certify` has it when nobody says anything else.
const VALID: SignedDuration = SignedDuration::from_hours(365 * 24);
/// A draft is never older than that while its VMs are looked at.
const LONGEST: Duration = Duration::from_secs(60);

/// What is learned of one service.
#[derive(Debug)]
pub(crate) struct Learning {
    of: Learn,
    path: PathBuf,
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
    pub(crate) fn new(of: Learn, state_dir: &Path, started: Timestamp) -> Result<Self, quarantine::Error> {
        let stem = quarantine::file_stem(&of.service)?;
        let name = format!("{stem}-{}.draft", started.strftime("%Y%m%dT%H%M%S%3fZ"));
        // Neither the serial nor the time matters until the draft is made.
        let learner = Learner::new(&options(&of, 1, started));
        let state = Mutex::new(State { learner, written: None, told: None });
        Ok(Self { of, path: state_dir.join(DIRECTORY).join(name), state })
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
        match self.draft(&state.learner, serial, &page) {
            Ok(()) => {
                let first = state.written.is_none();
                state.written = Some((state.learner.looks(), Instant::now()));
                state.told = None;
                let event = Event::LearningDraft { service, path, review_page: page };
                if first { vec![event] } else { Vec::new() }
            }
            Err(reason) => {
                if state.told.as_ref() == Some(&reason) {
                    return Vec::new();
                }
                state.told = Some(reason.clone());
                vec![Event::LearningProblem { service, path, reason }]
            }
        }
    }

    fn draft(&self, learner: &Learner, serial: u64, page: &Path) -> Result<(), String> {
        let draft =
            learner.draft(&options(&self.of, serial, Timestamp::now())).map_err(|error| chain(&error))?;
        let json = draft.to_json().map_err(|error| chain(&error))?;
        let written = store::replace(page, attest::review(&draft).as_bytes())
            .and_then(|()| store::replace(&self.path, &json));
        written.map_err(|error: io::Error| format!("The draft could not be written: {error}"))
    }
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
