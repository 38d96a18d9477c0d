//! One look at one VM, from opening its memory to cutting it off.

use crate::boot::{Belief, Boots};
use crate::engine::{Guest, LookError};
use crate::events::{Event, LookRef, VmRef};
use crate::learning::Learning;
use crate::memory::Memory;
use crate::registry::CertificateRef;
use crate::run::Shared;
use crate::trust::Match;
use crate::watch::{Outcome, Watch};
use attest::Certificate;
use facts::{Nic, Snapshot, Verdict, Vm};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A look that fails is made again only after this many times what it took: finding a kernel that is not there (yet)
/// costs a pass over guest memory.
const REST_AFTER_FAILURE: u32 = 10;

/// Early looks at a guest in which nothing ran since a finding was first seen.
const UNTIL_IT_RUNS: u32 = 20;

/// How long a VM that was never looked at may be without a kernel before that is told as what it then is: a VM that cannot be
/// read. A slow firmware with a network boot takes minutes.
const BOOT: Duration = Duration::from_secs(300);

/// Why a VM that certificates select is held against none.
enum Unusable {
    NotNow(Arc<Certificate>),
    /// Certificates of these services.
    Ambiguous(Vec<String>),
}

impl Unusable {
    /// For the operator. A host whose clock went wrong sees every certificate like that, so the clock is in it.
    fn problem(&self) -> String {
        match self {
            Self::Ambiguous(services) => {
                format!("Certificates of several services fit: {}", services.join(", "))
            }
            Self::NotNow(certificate) => {
                let attest::Validity { not_before, not_after } = certificate.validity;
                let now = Timestamp::now();
                let (service, serial) = (&certificate.service, certificate.serial);
                let what = if now < not_before {
                    format!("is not valid before {not_before}")
                } else {
                    format!("ended at {not_after} or with the keys that signed it")
                };
                format!("Certificate {serial} of {service} {what}, and this host's clock says {now}")
            }
        }
    }
}

/// A VM on its way through the schedule.
#[derive(Debug)]
pub(crate) struct Job {
    vm: Vm,
    gone: Arc<AtomicBool>,
    guest: Option<Box<dyn Guest>>,
    watch: Watch,
    boots: Boots,
    memory: Memory,
    /// Looks in a row that came early to confirm a finding.
    early: u32,
    verdict: Option<Verdict>,
    /// What was told last about not being readable, or about ambiguous certificates.
    told: Option<String>,
    /// When it was first to be looked at; `None` once a look succeeded: from then on it cannot be booting for the first
    /// time, and what hides its kernel is worth an alarm.
    fresh: Option<Instant>,
}

impl Job {
    /// For a VM that appeared. Its findings are those that it had when it was last seen, until a look says otherwise.
    pub(crate) fn new(shared: &Shared, vm: Vm, gone: Arc<AtomicBool>) -> Self {
        let (memory, watch, problem) = Memory::open(&shared.config.state_dir, &vm);
        if let Some(problem) = problem {
            shared.sink.emit(&problem);
        }
        shared.registry.change(&vm, |record| {
            (record.confirmed, record.pending) = watch.findings();
            record.since = watch.since();
        });
        Self {
            vm,
            gone,
            guest: None,
            watch,
            boots: Boots::default(),
            memory,
            early: 0,
            verdict: None,
            told: None,
            fresh: Some(Instant::now()),
        }
    }

    /// Does what is due. Returns when it is due again; `None` when the VM is gone.
    pub(crate) fn run(&mut self, shared: &Shared) -> Option<Instant> {
        if self.gone.load(Ordering::Acquire) {
            return None;
        }
        let started = Instant::now();
        if let Some(learning) = shared.learning(&self.vm) {
            return Some(self.learn(shared, learning, started));
        }
        let certificate = match shared.trust().find(&self.vm, Timestamp::now()) {
            Match::One(certificate) => certificate,
            Match::None => return Some(self.uncertified(shared, None)),
            Match::NotNow(certificate) => {
                return Some(self.uncertified(shared, Some(Unusable::NotNow(certificate))));
            }
            Match::Ambiguous(services) => {
                return Some(self.uncertified(shared, Some(Unusable::Ambiguous(services))));
            }
        };
        let snapshot = match self.snapshot(shared) {
            Ok(snapshot) => snapshot,
            Err(error) => return Some(self.failed(shared, &error, started)),
        };
        self.told = None;
        self.fresh = None;
        let ended = Instant::now();
        let least = shared.config.confirmations;
        let belief = self.boots.take(&snapshot, started, shared.config.boot_grace);
        let outcome = self.watch.take(&self.vm, &snapshot, &certificate, least, &belief, started, ended);
        shared.registry.change(&self.vm, |record| {
            record.certificate =
                Some(CertificateRef { service: certificate.service.clone(), serial: certificate.serial });
            record.verdict = Some(outcome.verdict);
            record.looked(&snapshot);
            record.turnover.clone_from(&outcome.look.turnover);
            let unseen = outcome.look.turnover.as_ref().map_or(0, |turnover| turnover.unseen);
            record.unseen = record.unseen.saturating_add(unseen);
            record.confirmed.clone_from(&outcome.confirmed);
            record.pending.clone_from(&outcome.pending);
            record.since = self.watch.since();
            record.problem = None;
        });
        // The rules come first: what is told can wait, what leaks cannot.
        let action = self.act(shared, &outcome);
        for event in outcome.events.iter().chain(&action) {
            shared.sink.emit(event);
        }
        self.tell_verdict(shared, outcome.verdict, Some(&outcome.look));
        // Last: whoever reads the events may hear of a finding twice after a crash, but never not at all.
        if let Some(problem) = self.memory.keep(&self.vm, &self.watch) {
            shared.sink.emit(&problem);
        }
        Some(self.due_again(shared, &outcome, &belief))
    }

    /// A look at a VM that is not held against anything. Nothing that it shows is acted on.
    fn learn(&mut self, shared: &Shared, learning: &Learning, started: Instant) -> Instant {
        let snapshot = match self.snapshot(shared) {
            Ok(snapshot) => snapshot,
            Err(error) => return self.failed(shared, &error, started),
        };
        self.told = None;
        self.fresh = None;
        self.early = 0;
        if self.boots.take(&snapshot, started, shared.config.boot_grace).overwritten {
            let reason = "Nothing is learned from this look: no process ran since the last one, and yet they are others; \
                          the machine was reset, and its memory is written over";
            shared.registry.change(&self.vm, |record| record.problem = Some(reason.to_owned()));
            return after(shared.config.interval);
        }
        let lesson = learning.take(&snapshot, shared.trust().next_serial(learning.service()));
        shared.registry.change(&self.vm, |record| {
            record.certificate = None;
            record.learning = Some(lesson.status);
            record.verdict = Some(Verdict::Uncertified);
            record.looked(&snapshot);
            record.confirmed.clear();
            record.pending.clear();
            record.problem = lesson.unfit;
        });
        for event in &lesson.events {
            shared.sink.emit(event);
        }
        self.tell_verdict(shared, Verdict::Uncertified, None);
        after(shared.config.interval)
    }

    fn snapshot(&mut self, shared: &Shared) -> Result<Snapshot, LookError> {
        let guest = match &mut self.guest {
            Some(guest) => guest,
            none => none.insert(shared.engine.open(&self.vm)?),
        };
        guest.look()
    }

    fn act(&self, shared: &Shared, outcome: &Outcome) -> Vec<Event> {
        let alive: BTreeSet<&str> =
            outcome.confirmed.iter().chain(&outcome.pending).map(|finding| finding.id.as_str()).collect();
        let nics = || nics(shared, &self.vm);
        let first_seen = |ids: &[String]| self.watch.first_seen(ids);
        shared.keeper().judge(&self.vm, &outcome.grounds, &alive, nics, first_seen)
    }

    /// Soon, when a finding waits for its confirmation; but a guest that makes up new findings at every look gets no
    /// more than one early run of looks per interval.
    fn due_again(&mut self, shared: &Shared, outcome: &Outcome, belief: &Belief) -> Instant {
        // An idle guest takes a while until something runs in it.
        let patience = if belief.runs == Some(false) && !belief.booting { UNTIL_IT_RUNS } else { 0 };
        let most = outcome.looks_to_confirm.saturating_add(patience);
        let wait = if !outcome.pending.is_empty() && self.early < most {
            self.early = self.early.saturating_add(1);
            shared.config.confirm_after
        } else {
            self.early = 0;
            shared.config.interval
        };
        after(wait)
    }

    fn uncertified(&mut self, shared: &Shared, unusable: Option<Unusable>) -> Instant {
        // What was open under the certificate is nobody's finding now, but goes on when that comes back; under another
        // service's, the first looks close it.
        self.early = 0;
        let problem = unusable.as_ref().map(Unusable::problem);
        if let Some(Unusable::Ambiguous(services)) = unusable
            && self.told != problem
        {
            shared.sink.emit(&Event::CertificateAmbiguous { vm: VmRef::from(&self.vm), services });
        }
        self.told.clone_from(&problem);
        shared.registry.change(&self.vm, |record| {
            record.certificate = None;
            record.verdict = Some(Verdict::Uncertified);
            record.confirmed.clear();
            record.pending.clear();
            record.problem = problem;
        });
        self.tell_verdict(shared, Verdict::Uncertified, None);
        after(shared.config.interval)
    }

    fn failed(&mut self, shared: &Shared, error: &LookError, started: Instant) -> Instant {
        // Opened anew next time: what was opened may be what is wrong.
        self.guest = None;
        self.early = 0;
        if matches!(error, LookError::NotYet(_)) {
            self.boots.not_yet();
        }
        let rest = started.elapsed().saturating_mul(REST_AFTER_FAILURE);
        let booting = self.fresh.is_some_and(|since| since.elapsed() < BOOT);
        let reason = match error {
            // A VM that ended is told by the discovery, which knows it from the host.
            LookError::Gone(_) => None,
            LookError::NotYet(reason) if booting => {
                shared.registry.change(&self.vm, |record| record.problem = Some(reason.clone()));
                if self.told.as_ref() != Some(reason) {
                    let (vm, reason) = (VmRef::from(&self.vm), reason.clone());
                    shared.sink.emit(&Event::VmBooting { vm, reason });
                }
                self.told = Some(reason.clone());
                None
            }
            LookError::NotYet(reason) | LookError::Unreadable(reason) => Some(reason),
        };
        if let Some(reason) = reason {
            shared.registry.change(&self.vm, |record| {
                record.verdict = Some(Verdict::Unreadable);
                record.problem = Some(reason.clone());
            });
            if self.told.as_ref() != Some(reason) {
                let (vm, reason) = (VmRef::from(&self.vm), reason.clone());
                shared.sink.emit(&Event::VmUnreadable { vm, reason });
            }
            self.told = Some(reason.clone());
            self.tell_verdict(shared, Verdict::Unreadable, None);
        }
        after(rest.max(shared.config.interval))
    }

    fn tell_verdict(&mut self, shared: &Shared, verdict: Verdict, look: Option<&LookRef>) {
        if self.verdict.replace(verdict) == Some(verdict) {
            return;
        }
        let look = look.cloned();
        shared.sink.emit(&Event::VmVerdict { vm: VmRef::from(&self.vm), verdict, look });
    }
}

/// The devices of a VM; none when they cannot be told, which the quarantine then reports.
pub(crate) fn nics(shared: &Shared, vm: &Vm) -> Vec<Nic> {
    shared.engine.nics(vm).unwrap_or_else(|error| {
        tracing::warn!(vm = vm.name, %error, "the VM's network devices cannot be told");
        Vec::new()
    })
}

fn after(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}
