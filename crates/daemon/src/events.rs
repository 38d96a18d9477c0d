//! What the daemon tells the world: one JSON object per line, in order, each complete.
//!
//! The names are a contract, like the finding itself (DESIGN 4.2): `time` and `event` are always there. This is not the
//! log: the log (standard error) is for whoever runs the daemon, events are for whoever guards the VMs.

use facts::{Finding, Turnover, Verdict, Vm};
use jiff::Timestamp;
use quarantine::Policy;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Which VM an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmRef {
    /// Its name.
    pub name: String,
    /// Its stable identity.
    pub id: String,
    /// Process id of its VMM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

impl From<&Vm> for VmRef {
    fn from(vm: &Vm) -> Self {
        Self { name: vm.name.clone(), id: vm.id.clone(), pid: vm.pid }
    }
}

/// The look that an event comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LookRef {
    /// When it began (RFC 3339).
    pub taken_at: String,
    /// How long reading took, in microseconds.
    pub elapsed_us: u64,
    /// What came and went since the look before without being seen; `null` when there was none of the same boot, or the
    /// kernel's counters are not known.
    pub turnover: Option<Turnover>,
}

/// Who wanted a VM cut off or restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Confirmed findings.
    Findings,
    /// A request over the control socket.
    Operator,
    /// The journal: it was wanted before.
    Journal,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event")]
#[non_exhaustive]
pub enum Event {
    /// The daemon is ready.
    #[serde(rename = "daemon.started")]
    DaemonStarted {
        /// Version of this program.
        version: &'static str,
        /// Its process id.
        pid: u32,
    },
    /// The daemon ends. Quarantines stay in place.
    #[serde(rename = "daemon.stopped")]
    DaemonStopped,
    /// A VM was seen for the first time.
    #[serde(rename = "vm.appeared")]
    VmAppeared {
        /// It.
        vm: VmRef,
        /// Service of the certificate that is for it; `null`: there is none.
        service: Option<String>,
    },
    /// A VM ended.
    #[serde(rename = "vm.gone")]
    VmGone {
        /// It.
        vm: VmRef,
    },
    /// A VM cannot be read. Once per reason.
    #[serde(rename = "vm.unreadable")]
    VmUnreadable {
        /// It.
        vm: VmRef,
        /// Why.
        reason: String,
    },
    /// A VM that was never looked at has no running kernel yet. Once per reason; after some minutes it is `vm.unreadable`.
    #[serde(rename = "vm.booting")]
    VmBooting {
        /// It.
        vm: VmRef,
        /// What was seen instead.
        reason: String,
    },
    /// The verdict on a VM changed. The first one counts as a change.
    #[serde(rename = "vm.verdict")]
    VmVerdict {
        /// It.
        vm: VmRef,
        /// What holds now.
        verdict: Verdict,
        /// The look that said so; `null` when there was none.
        look: Option<LookRef>,
    },
    /// A finding was seen for the first time. It may be a race in a running guest.
    #[serde(rename = "finding.opened")]
    FindingOpened {
        /// The VM.
        vm: VmRef,
        /// It.
        finding: Finding,
        /// The look that saw it.
        look: LookRef,
    },
    /// Enough looks in a row saw a finding: it is drift.
    #[serde(rename = "finding.confirmed")]
    FindingConfirmed {
        /// The VM.
        vm: VmRef,
        /// It.
        finding: Finding,
        /// The look that confirmed it.
        look: LookRef,
        /// From the start of the look that first saw it to the end of the one that confirmed it; `null` when an earlier run
        /// of the daemon saw it first.
        seconds_to_confirm: Option<f64>,
    },
    /// A confirmed finding that an earlier run of the daemon, or of the VM, told is still there. Once per run.
    #[serde(rename = "finding.still_open")]
    FindingStillOpen {
        /// The VM.
        vm: VmRef,
        /// It; with the evidence of then when this very look did not see it.
        finding: Finding,
        /// When the look that first saw it began (RFC 3339).
        since: String,
        /// The first look of this run.
        look: LookRef,
    },
    /// A finding that was not confirmed is gone again.
    #[serde(rename = "finding.dismissed")]
    FindingDismissed {
        /// The VM.
        vm: VmRef,
        /// Its id.
        id: String,
        /// Its rule.
        rule: String,
    },
    /// A confirmed finding is gone.
    #[serde(rename = "finding.closed")]
    FindingClosed {
        /// The VM.
        vm: VmRef,
        /// Its id.
        id: String,
        /// Its rule.
        rule: String,
    },
    /// A VM is cut off; read back from the kernel.
    #[serde(rename = "vm.quarantined")]
    VmQuarantined {
        /// It.
        vm: VmRef,
        /// Who wanted it.
        cause: Cause,
        /// Ids of the findings that are the reason.
        findings: Vec<String>,
        /// Devices that are cut off.
        devices: Vec<String>,
        /// What stays open.
        management: Policy,
        /// From the start of the look that first saw the earliest of the findings to the moment at which the kernel had
        /// the rules; `null` when no finding is the reason, or an earlier run of the daemon saw it first.
        seconds_to_rule: Option<f64>,
        /// How long it took to put the rules in place once that was decided.
        seconds_to_apply: Option<f64>,
    },
    /// A VM should be cut off and is not (fully). It is tried again every two seconds; told once per reason.
    #[serde(rename = "quarantine.failed")]
    QuarantineFailed {
        /// It; `null` when the journal's file is damaged.
        vm: Option<VmRef>,
        /// Why.
        reason: String,
    },
    /// Rules were missing and are in place again: something else removed them.
    #[serde(rename = "quarantine.restored")]
    QuarantineRestored {
        /// The VM.
        vm: VmRef,
    },
    /// A VM is restored.
    #[serde(rename = "vm.released")]
    VmReleased {
        /// It.
        vm: VmRef,
        /// Who wanted it.
        cause: Cause,
        /// Ids of the findings that count as accepted until they close.
        accepted: Vec<String>,
    },
    /// A certificate may be used.
    #[serde(rename = "certificate.loaded")]
    CertificateLoaded {
        /// Its file.
        path: PathBuf,
        /// Its service.
        service: String,
        /// Its serial.
        serial: u64,
    },
    /// A certificate or a key may not be used.
    #[serde(rename = "certificate.refused")]
    CertificateRefused {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificates of several services are for one VM, so none is used.
    #[serde(rename = "certificate.ambiguous")]
    CertificateAmbiguous {
        /// The VM.
        vm: VmRef,
        /// The services.
        services: Vec<String>,
    },
    /// There is a draft of a certificate of a service that is learned. Once a run; it is replaced as more is seen.
    #[serde(rename = "learning.draft")]
    LearningDraft {
        /// The service.
        service: String,
        /// The draft.
        path: PathBuf,
        /// The page for the person who reviews it.
        review_page: PathBuf,
    },
    /// The draft of a service that is learned, or what was learned, could not be made, read or written. Once per reason.
    #[serde(rename = "learning.problem")]
    LearningProblem {
        /// The service.
        service: String,
        /// The draft, or what could not be read.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What is kept of a VM's findings could not be read, and they start anew, or not be written. Once per reason.
    #[serde(rename = "state.problem")]
    StateProblem {
        /// The VM.
        vm: VmRef,
        /// Its file.
        path: PathBuf,
        /// Which of the two, and why.
        reason: String,
    },
    /// VMs could not be listed, or not all of them. Once per reason.
    #[serde(rename = "host.problem")]
    HostProblem {
        /// What.
        reason: String,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    time: Timestamp,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Debug)]
enum Output {
    Standard,
    File { path: PathBuf, file: File },
}

/// Where events go.
#[derive(Debug)]
pub struct Sink(Mutex<Output>);

impl Sink {
    /// Appends to a file (made with mode 0640); `-` is standard output.
    pub fn open(path: &Path) -> io::Result<Self> {
        let output = if path == Path::new("-") {
            Output::Standard
        } else {
            Output::File { path: path.to_owned(), file: append(path)? }
        };
        Ok(Self(Mutex::new(output)))
    }

    /// Opens the file again, under which name another one may stand now (log rotation).
    pub fn reopen(&self) -> io::Result<()> {
        if let Output::File { path, file } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            *file = append(path)?;
        }
        Ok(())
    }

    /// Writes one event. A full disk must not stop the daemon from guarding, so a failure is logged, not returned.
    pub fn emit(&self, event: &Event) {
        let written = serde_json::to_vec(&Line { time: Timestamp::now(), event })
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
                    Output::Standard => {
                        let mut out = io::stdout().lock();
                        out.write_all(&line)?;
                        out.flush()
                    }
                    Output::File { file, .. } => file.write_all(&line),
                }
            });
        if let Err(error) = written {
            tracing::error!(%error, ?event, "an event could not be written");
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}
