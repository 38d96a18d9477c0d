//! The control socket: HTTP with JSON over a Unix socket, for `birthmark` and whoever speaks HTTP.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/status` | the daemon, its certificates, every quarantine of the journal |
//! | `GET /v1/vms` | every VM that runs ([`VmStatus`]) |
//! | `GET /v1/findings` | every finding that is pending or confirmed |
//! | `POST /v1/vms/{name or id}/quarantine` | the `vm.quarantined` event |
//! | `POST /v1/vms/{name or id}/release` | the `vm.released` event |
//!
//! An error is `{"error": "one sentence"}` with status 403, 404, 409 or 500.
//!
//! Who may reach the socket may read: its directory is made with mode 0750. Who may change something is asked of the
//! kernel (`SO_PEERCRED`): root, and the user that the daemon runs as.

use crate::events::{Event, VmRef};
use crate::keeper::{Keeper, KeeperError};
use crate::learning::LearningStatus;
use crate::look::nics;
use crate::registry::{CertificateRef, Record};
use crate::run::{Daemon, Shared};
use crate::trust::chain;
use anyhow::Context;
use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use facts::{Finding, Turnover, Verdict, Vm};
use jiff::Timestamp;
use quarantine::{Entry, Error, Policy, Status};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::{self, DirBuilder, Permissions};
use std::future::Future;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};

/// How one VM stands, as `GET /v1/vms` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct VmStatus {
    /// The VM.
    #[serde(flatten)]
    pub vm: Vm,
    /// What the last look said; `null` before the first.
    pub verdict: Option<Verdict>,
    /// Certificate that it is held against; `null`: none.
    pub certificate: Option<CertificateRef>,
    /// What it is learned for, and therefore held against no certificate; `null`: it is not.
    pub learning: Option<LearningStatus>,
    /// Release of its kernel, once it was looked at.
    pub kernel: Option<String>,
    /// Number of looks so far.
    pub looks: u64,
    /// When the last look began (RFC 3339).
    pub last_look: Option<String>,
    /// How long reading took, in microseconds.
    pub elapsed_us: Option<u64>,
    /// What came and went between the last two looks without being seen; `null`: not known.
    pub turnover: Option<Turnover>,
    /// All that came and went so between looks since the VM appeared, as far as it is known: a counter.
    pub unseen: u64,
    /// Number of confirmed findings.
    pub confirmed: usize,
    /// Number of findings that wait for their confirmation.
    pub pending: usize,
    /// What keeps it from being looked at; `null`: nothing.
    pub problem: Option<String>,
    /// Its quarantine; `null`: none.
    pub quarantine: Option<QuarantineStatus>,
}

/// How a quarantine stands.
#[derive(Clone, Debug, Serialize)]
pub struct QuarantineStatus {
    /// Identity of the VM.
    pub vm_id: String,
    /// Its name.
    pub vm_name: String,
    /// What the journal says.
    pub state: quarantine::State,
    /// When it was first wanted.
    pub since: Timestamp,
    /// What stays open.
    pub management: Policy,
    /// Its devices, as read from the kernel now.
    pub devices: Vec<DeviceStatus>,
}

/// How one device stands.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceStatus {
    /// Name of the device.
    pub interface: String,
    /// What the kernel says; `null` when it could not be asked.
    pub rules: Option<Status>,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A finding with its VM, as `GET /v1/findings` shows it.
#[derive(Clone, Debug, Serialize)]
struct OpenFinding {
    vm: VmRef,
    state: &'static str,
    /// When the look began that first saw it, in this run of the daemon or an earlier one (RFC 3339).
    since: Option<String>,
    accepted: bool,
    siblings: Siblings,
    #[serde(flatten)]
    finding: Finding,
}

/// How far a finding is spread over the VMs of its service. What only one of many has stands out; what all have is more
/// likely a change of the service that its certificate does not know yet.
#[derive(Clone, Copy, Debug, Serialize)]
struct Siblings {
    /// VMs of the service that have the same finding, this one included.
    sharing: usize,
    /// VMs of the service that are held against its certificate.
    watched: usize,
}

impl Siblings {
    fn of(records: &[Record], record: &Record, id: &str) -> Self {
        let service = record.certificate.as_ref().map(|certificate| &certificate.service);
        let all = records.iter().filter(|other| {
            service.is_some() && other.certificate.as_ref().map(|certificate| &certificate.service) == service
        });
        let has =
            |other: &&Record| other.confirmed.iter().chain(&other.pending).any(|finding| finding.id == id);
        Self { sharing: all.clone().filter(has).count(), watched: all.count() }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Effective user id; `None` when the kernel did not tell.
    uid: Option<u32>,
}

impl Peer {
    fn may_change(self) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw())
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let stream: &UnixStream = stream.io();
        Self { uid: stream.peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

/// The socket, bound. It is removed when this is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    shared: Arc<Shared>,
}

impl Control {
    /// Binds the configured socket. Needs a tokio runtime. A socket that a daemon left behind is replaced: the lock on
    /// the state directory has shown that none runs.
    pub fn bind(daemon: &Daemon) -> anyhow::Result<Self> {
        let shared = daemon.shared();
        let path = shared.config.socket.clone();
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if let Some(directory) = directory {
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(directory)
                .with_context(|| format!("Cannot make the directory {}", directory.display()))?;
        }
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            fs::remove_file(&path).with_context(|| format!("Cannot replace {}", path.display()))?;
        }
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("Cannot listen on the control socket {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o660))
            .with_context(|| format!("Cannot set the mode of {}", path.display()))?;
        Ok(Self { listener, path, shared })
    }

    /// Answers until `end` is ready.
    pub async fn serve(self, end: impl Future<Output = ()>) -> anyhow::Result<()> {
        let listener = self.listener;
        let _socket = RemoveOnDrop(self.path);
        let service = router(self.shared).into_make_service_with_connect_info::<Peer>();
        tokio::select! {
            served = async { axum::serve(listener, service).await } => served.context("The control socket failed"),
            () = end => Ok(()),
        }
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/status", get(|State(shared)| answer(shared, |shared| Ok(status(shared)))))
        .route("/v1/vms", get(|State(shared)| answer(shared, |shared| Ok(json!(vms(shared))))))
        .route("/v1/findings", get(|State(shared)| answer(shared, |shared| Ok(json!(findings(shared))))))
        .route("/v1/vms/{name}/quarantine", post(quarantine))
        .route("/v1/vms/{name}/release", post(release))
        .fallback(|| async { Refused::new(StatusCode::NOT_FOUND, "There is no such request") })
        .with_state(shared)
}

/// A request that is not done, and why.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    why: String,
}

impl Refused {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.why }))).into_response()
    }
}

impl From<KeeperError> for Refused {
    fn from(error: KeeperError) -> Self {
        let status = match &error {
            KeeperError::Disabled | KeeperError::Quarantine(Error::NothingToCut { .. }) => {
                StatusCode::CONFLICT
            }
            KeeperError::Quarantine(Error::NotQuarantined { .. }) => StatusCode::NOT_FOUND,
            KeeperError::Quarantine(_) | KeeperError::Accepted { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, chain(&error))
    }
}

/// Does work that may wait (for a lock, for `nft`) beside the thread that serves.
async fn answer(
    shared: Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<Value, Refused> + Send + 'static,
) -> Result<Json<Value>, Refused> {
    match tokio::task::spawn_blocking(move || work(&shared)).await {
        Ok(result) => result.map(Json),
        Err(error) => Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn quarantine(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refused> {
    permit(peer)?;
    answer(shared, move |shared| {
        let vm = running(shared, &name)?.vm;
        let event = shared.keeper().cut_off(&vm, &nics(shared, &vm))?;
        told(shared, &event)
    })
    .await
}

async fn release(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refused> {
    permit(peer)?;
    answer(shared, move |shared| {
        let mut keeper = shared.keeper();
        let entry = journalled(&keeper, &name)?;
        let records = shared.registry.all();
        let record = records.iter().find(|record| record.vm.id == entry.vm_id);
        let vm = match record {
            Some(record) => VmRef::from(&record.vm),
            None => VmRef { name: entry.vm_name, id: entry.vm_id, pid: None },
        };
        let event = keeper.release(vm, record.map(Record::finding_ids).unwrap_or_default())?;
        drop(keeper);
        told(shared, &event)
    })
    .await
}

fn permit(peer: Peer) -> Result<(), Refused> {
    if peer.may_change() {
        return Ok(());
    }
    let why = "Only root and the user that birthmarkd runs as may change something";
    Err(Refused::new(StatusCode::FORBIDDEN, why))
}

fn told(shared: &Shared, event: &Event) -> Result<Value, Refused> {
    shared.sink.emit(event);
    serde_json::to_value(event)
        .map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn running(shared: &Shared, name: &str) -> Result<Record, Refused> {
    let mut found = shared.registry.find(name);
    match (found.pop(), found.len()) {
        (Some(record), 0) => Ok(record),
        (None, _) => Err(Refused::new(StatusCode::NOT_FOUND, format!("No VM {name:?} runs on this host"))),
        (Some(_), others) => {
            let count = others.saturating_add(1);
            let why = format!("{count} VMs are named {name:?}; use the id of one (GET /v1/vms)");
            Err(Refused::new(StatusCode::CONFLICT, why))
        }
    }
}

fn journalled(keeper: &Keeper, name: &str) -> Result<Entry, Refused> {
    let mut found: Vec<Entry> =
        keeper.entries().into_iter().filter(|entry| entry.vm_id == name || entry.vm_name == name).collect();
    match (found.pop(), found.len()) {
        (Some(entry), 0) => Ok(entry),
        (None, _) => Err(Refused::new(StatusCode::NOT_FOUND, format!("VM {name:?} is not in quarantine"))),
        (Some(_), others) => {
            let count = others.saturating_add(1);
            let why =
                format!("{count} VMs in quarantine are named {name:?}; use the id of one (GET /v1/status)");
            Err(Refused::new(StatusCode::CONFLICT, why))
        }
    }
}

fn quarantine_status(keeper: &Keeper, entry: Entry) -> QuarantineStatus {
    let devices = keeper
        .devices(&entry)
        .into_iter()
        .map(|(interface, stands)| match stands {
            Ok(status) => DeviceStatus { interface, rules: Some(status), error: None },
            Err(error) => DeviceStatus { interface, rules: None, error: Some(chain(&error)) },
        })
        .collect();
    let Entry { vm_id, vm_name, state, since, management, .. } = entry;
    QuarantineStatus { vm_id, vm_name, state, since, management, devices }
}

fn status(shared: &Shared) -> Value {
    let keeper = shared.keeper();
    let quarantines: Vec<_> =
        keeper.entries().into_iter().map(|entry| quarantine_status(&keeper, entry)).collect();
    let trust = shared.trust();
    let certificates: Vec<Value> = trust
        .certificates()
        .map(|one| {
            json!({ "service": one.service, "serial": one.serial, "not_after": one.validity.not_after })
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "started": shared.started,
        "interval_seconds": shared.config.interval.as_secs_f64(),
        "quarantine_enabled": shared.config.quarantine.enabled,
        "mode": shared.config.quarantine.mode,
        "management": shared.config.quarantine.management,
        "vms": shared.registry.all().len(),
        "certificates": certificates,
        "quarantines": quarantines,
    })
}

fn vms(shared: &Shared) -> Vec<VmStatus> {
    let keeper = shared.keeper();
    let mut entries = keeper.entries();
    shared
        .registry
        .all()
        .into_iter()
        .map(|record| {
            let entry = entries.iter().position(|entry| entry.vm_id == record.vm.id);
            let entry = entry.map(|index| entries.swap_remove(index));
            VmStatus {
                verdict: record.verdict,
                certificate: record.certificate,
                learning: record.learning,
                kernel: record.kernel,
                looks: record.looks,
                last_look: record.last_look,
                elapsed_us: record.elapsed_us,
                turnover: record.turnover,
                unseen: record.unseen,
                confirmed: record.confirmed.len(),
                pending: record.pending.len(),
                problem: record.problem,
                quarantine: entry.map(|entry| quarantine_status(&keeper, entry)),
                vm: record.vm,
            }
        })
        .collect()
}

fn findings(shared: &Shared) -> Vec<OpenFinding> {
    let records = shared.registry.all();
    let keeper = shared.keeper();
    let mut all = Vec::new();
    for record in &records {
        let accepted = keeper.accepted(&record.vm.id);
        for (state, findings) in [("confirmed", &record.confirmed), ("pending", &record.pending)] {
            all.extend(findings.iter().map(|finding| OpenFinding {
                vm: VmRef::from(&record.vm),
                state,
                since: record.since.get(&finding.id).cloned(),
                accepted: accepted.contains(&finding.id),
                siblings: Siblings::of(&records, record, &finding.id),
                finding: finding.clone(),
            }));
        }
    }
    all
}
