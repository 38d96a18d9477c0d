//! A host that is not there: VMs whose snapshots a test sets, a kernel that remembers what is cut off, and a daemon on it.

use crate::client::Client;
use attest::{LearnOptions, Pattern, PrivateKey, Selector, Validity, certify};
use daemon::{Config, Control, Daemon, Engine, Guest, Listed, LookError};
use facts::{
    Address, Consistency, ConsistencyMode, ExeState, Family, Hypervisor, Kernel, Namespaces, Nic, Ownership,
    Process, ProfileOrigin, ProfileSource, Snapshot, Socket, SocketState, Views, Vm, VmState,
};
use jiff::{Timestamp, ToSpan};
use quarantine::{Cut, Dropped, Enforce, Error, InterfaceName, Place, Policy, Status};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::oneshot;

pub fn vm(name: &str, pid: u32) -> Vm {
    Vm {
        name: name.into(),
        id: format!("uuid:{name}"),
        hypervisor: Hypervisor::Kvm,
        pid: Some(pid),
        domid: None,
        memory_bytes: Some(1 << 30),
        vcpus: Some(1),
        state: VmState::Running,
        libvirt: None,
    }
}

pub fn process(pid: u32, exe: &str) -> Process {
    Process {
        pid,
        ppid: Some(if pid == 1 { 0 } else { 1 }),
        threads: Some(1),
        name: exe.rsplit('/').next().unwrap().into(),
        exe: Some(exe.into()),
        exe_state: Some(ExeState::Present),
        args: Some(vec![exe.into()]),
        uid: Some(0),
        euid: Some(0),
        gid: Some(0),
        egid: Some(0),
        capabilities_effective: Some(Address(0)),
        state: Some(facts::ProcessState::Sleeping),
        start_time_ns: Some(1),
        namespaces: Namespaces::default(),
        cgroup: None,
        views: ["task_list"].into(),
        task: Address(0xffff_8880_0000_0000 + u64::from(pid) * 0x1000),
        ..Process::default()
    }
}

pub fn snapshot(vm: &Vm) -> Snapshot {
    Snapshot {
        schema: facts::SNAPSHOT_SCHEMA.into(),
        vm: vm.clone(),
        taken_at: Timestamp::now().to_string(),
        elapsed_us: 42,
        consistency: Consistency { mode: ConsistencyMode::Live, retries: 0, torn: 0, paused_us: None },
        kernel: Kernel {
            release: "6.1.0-test".into(),
            version: None,
            banner: None,
            build_id: Some("ab".repeat(20)),
            btf_digest: Some(format!("sha256:{}", "cd".repeat(32))),
            arch: "x86_64".into(),
            page_table_levels: 4,
            kaslr_offset: Address(0),
            page_table_root: Address(0x1000),
            boot_id: None,
            booted_at: None,
            profile: ProfileOrigin {
                stored: None,
                contradictions: Vec::new(),
                source: ProfileSource::Guest,
                digest: format!("sha256:{}", "ef".repeat(32)),
            },
        },
        views: Views::default(),
        activity: facts::Activity::default(),
        processes: vec![process(1, "/sbin/init"), process(20, "/usr/sbin/sshd")],
        sockets: vec![Socket {
            family: Family::Inet,
            protocol_family: 2,
            kind: Some("stream".into()),
            protocol: Some("tcp".into()),
            state: Some(SocketState::Listen),
            local_address: Some("0.0.0.0".parse().unwrap()),
            local_port: Some(22),
            remote_address: None,
            remote_port: None,
            path: None,
            inode: Some(99),
            net_namespace: Some(1),
            uid: Some(0),
            processes: vec![20].into(),
            ownership: Some(Ownership::Process),
            receive_queue: Some(0),
            send_queue: Some(128),
            backlog: Some(128),
            interface: None,
            filter: None,
            peer: None,
            descriptors: facts::Descriptors::new(),
            shutdown: None,
            cookie: None,
            mark: None,
            autobound: None,
            cgroup: None,
            netlink: None,
            vsock_local: None,
            vsock_remote: None,
            views_missing: facts::Names::default(),
            file: Some(Address(0xffff_8880_2000_0000)),
            views: ["tcp_hash"].into(),
            sock: Address(0xffff_8880_1000_0000),
        }]
        .into(),
        modules: vec![],
        ebpf_programs: None,
        problems: vec![],
    }
}

/// What a VM shows when it is looked at.
#[derive(Clone, Debug)]
pub enum Face {
    Snapshot(Box<Snapshot>),
    /// These in turn, over and over.
    Flicker(Vec<Snapshot>),
    Unreadable(String),
    Booting(String),
    Ends,
}

#[derive(Debug, Default)]
pub struct Host {
    pub vms: BTreeMap<String, (Vm, Face)>,
    pub nics: BTreeMap<String, Vec<String>>,
    pub looks: BTreeMap<String, usize>,
    pub cut: BTreeMap<String, Policy>,
    pub refuse: bool,
}

/// Engine and kernel in one; survives the daemon that uses it.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Host>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Host> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn run(&self, vm: &Vm, device: &str) {
        let mut host = self.lock();
        host.nics.insert(vm.name.clone(), vec![device.into()]);
        host.vms.insert(vm.name.clone(), (vm.clone(), Face::Snapshot(Box::new(snapshot(vm)))));
    }

    pub fn show(&self, name: &str, face: Face) {
        self.lock().vms.get_mut(name).unwrap().1 = face;
    }

    /// The VM shows a program that its certificate does not know.
    pub fn drift(&self, name: &str, exe: &str) {
        let vm = self.lock().vms[name].0.clone();
        let mut snapshot = snapshot(&vm);
        snapshot.processes.push(process(666, exe));
        self.show(name, Face::Snapshot(Box::new(snapshot)));
    }

    pub fn conform(&self, name: &str) {
        let vm = self.lock().vms[name].0.clone();
        self.show(name, Face::Snapshot(Box::new(snapshot(&vm))));
    }

    pub fn is_cut(&self, device: &str) -> bool {
        self.lock().cut.contains_key(device)
    }

    pub fn looks(&self, name: &str) -> usize {
        self.lock().looks.get(name).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
struct FakeGuest {
    host: Shared,
    name: String,
}

impl Guest for FakeGuest {
    fn look(&mut self) -> Result<Snapshot, LookError> {
        let mut host = self.host.lock();
        let looks = host.looks.entry(self.name.clone()).or_default();
        let number = *looks;
        *looks += 1;
        match host.vms.get(&self.name).map(|(_, face)| face) {
            None | Some(Face::Ends) => Err(LookError::Gone("The VM ended".into())),
            Some(Face::Booting(reason)) => Err(LookError::NotYet(reason.clone())),
            Some(Face::Unreadable(reason)) => Err(LookError::Unreadable(reason.clone())),
            Some(Face::Snapshot(snapshot)) => Ok((**snapshot).clone()),
            Some(Face::Flicker(all)) => Ok(all[number % all.len()].clone()),
        }
    }
}

impl Engine for Shared {
    fn list(&self) -> Result<Listed, LookError> {
        let vms = self.lock().vms.values().map(|(vm, _)| vm.clone()).collect();
        Ok(Listed { vms, problems: vec![] })
    }

    fn open(&self, vm: &Vm) -> Result<Box<dyn Guest>, LookError> {
        Ok(Box::new(FakeGuest { host: self.clone(), name: vm.name.clone() }))
    }

    fn nics(&self, vm: &Vm) -> Result<Vec<Nic>, LookError> {
        let names = self.lock().nics.get(&vm.name).cloned().unwrap_or_default();
        let nic = |interface| Nic { interface, namespace: "/proc/self/ns/net".into() };
        Ok(names.into_iter().map(nic).collect())
    }
}

impl Enforce for Shared {
    fn locate(&self, nic: &Nic) -> Result<Place, Error> {
        let interface = InterfaceName::new(&nic.interface)?;
        Ok(Place { interface, index: 1, namespace: nic.namespace.clone(), inode: 1 })
    }

    fn apply(&self, cuts: &[Cut], policy: &Policy) -> Result<Instant, Error> {
        let mut host = self.lock();
        if host.refuse {
            return Err(Error::NftMissing);
        }
        for cut in cuts {
            host.cut.insert(cut.place.interface.to_string(), policy.clone());
        }
        Ok(Instant::now())
    }

    fn remove(&self, places: &[Place]) -> Result<(), Error> {
        for place in places {
            self.lock().cut.remove(place.interface.as_str());
        }
        Ok(())
    }

    fn status(&self, place: &Place) -> Result<Status, Error> {
        Ok(match self.is_cut(place.interface.as_str()) {
            true => Status::Cut { dropped: Dropped { from_packets: 3, ..Dropped::default() } },
            false => Status::Open,
        })
    }
}

/// Directories, keys and certificates of one daemon.
#[derive(Debug)]
pub struct Site {
    pub dir: TempDir,
    pub key: PrivateKey,
}

impl Site {
    /// With a certificate of service `web` for the VM named `web`.
    pub fn new() -> Self {
        let site = Self { dir: TempDir::new().unwrap(), key: PrivateKey::generate().unwrap() };
        fs::create_dir(site.path("certificates")).unwrap();
        fs::write(site.path("trusted.pub"), site.key.public().to_pem().unwrap()).unwrap();
        site.certify("web", 1, &snapshot(&vm("web", 1)), "web.json");
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn certify(&self, service: &str, serial: u64, good: &Snapshot, file: &str) -> PathBuf {
        self.certify_from(Timestamp::now() - 1.hour(), service, serial, good, file)
    }

    /// One that holds from then on for two hours.
    pub fn certify_from(
        &self,
        not_before: Timestamp,
        service: &str,
        serial: u64,
        good: &Snapshot,
        file: &str,
    ) -> PathBuf {
        let validity = Validity { not_before, not_after: not_before + 2.hours() };
        self.write(good, file, LearnOptions { serial, validity, ..learn(service) })
    }

    /// One for all VMs with such a name.
    pub fn certify_all(&self, names: &str, service: &str, good: &Snapshot, file: &str) -> PathBuf {
        let names = vec![Pattern::parse(names).unwrap()];
        let selector = Some(Selector { names, ..Selector::default() });
        self.write(good, file, LearnOptions { selector, ..learn(service) })
    }

    fn write(&self, good: &Snapshot, file: &str, options: LearnOptions) -> PathBuf {
        let envelope = certify(std::slice::from_ref(good), &options).unwrap().sign(&self.key).unwrap();
        let path = self.path("certificates").join(file);
        fs::write(&path, envelope).unwrap();
        path
    }

    pub fn config_text(&self, quarantine: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            "interval = \"20ms\"\nconfirm_after = \"1ms\"\nboot_grace = \"0s\"\nstate_dir = \"{dir}/state\"\n\
             findings = \"{dir}/findings.jsonl\"\nsocket = \"{dir}/run/d.sock\"\n\
             certificates = \"{dir}/certificates\"\ntrusted_keys = [\"{dir}/trusted.pub\"]\n\
             profiles = [\"{dir}/profiles\"]\n{quarantine}"
        )
    }

    pub fn start(&self, host: &Shared, quarantine: &str) -> Running {
        let config = Config::parse(&self.config_text(quarantine), Path::new("test.toml")).unwrap();
        let socket = config.socket.clone();
        let daemon = Daemon::start(config, Box::new(host.clone()), Box::new(host.clone())).unwrap();
        let (end, ended) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let control = Control::bind(&daemon).unwrap();
                ready.send(()).unwrap();
                control.serve(async { _ = ended.await }).await.unwrap();
            });
            daemon.stop();
        });
        is_ready.recv().unwrap();
        Running { events: self.path("findings.jsonl"), socket, end: Some(end), thread: Some(thread) }
    }
}

fn learn(service: &str) -> LearnOptions {
    let now = Timestamp::now();
    LearnOptions {
        service: service.into(),
        serial: 1,
        validity: Validity { not_before: now - 1.hour(), not_after: now + 1.hour() },
        selector: None,
        image_sha256: None,
        accept_unknown: true,
        flows: false,
    }
}

pub const ENFORCE: &str =
    "[quarantine]\nenabled = true\nmode = \"enforce\"\nmanagement = [\"10.0.0.0/29\"]\n";
pub const MONITOR: &str = "[quarantine]\nenabled = true\n";

/// A daemon that runs until this is dropped.
#[derive(Debug)]
pub struct Running {
    events: PathBuf,
    pub socket: PathBuf,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    pub fn events(&self, kind: &str) -> Vec<Value> {
        events(&self.events, kind)
    }

    /// Waits for an event of which `is` holds.
    pub fn wait_for(&self, kind: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        wait_until(kind, || {
            found = self.events(kind).into_iter().find(|event| is(event));
            found.is_some()
        });
        found.unwrap()
    }

    /// Ends it as SIGTERM does.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Events of one kind in a file; every line must be one.
pub fn events(path: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let events = complete.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let events: Vec<Value> = events.collect();
    for event in &events {
        event["time"].as_str().unwrap().parse::<Timestamp>().unwrap();
        assert!(event["event"].is_string(), "{event}");
    }
    events.into_iter().filter(|event| event["event"] == kind).collect()
}

/// Waits for a condition, at most ten seconds.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_up_to(Duration::from_secs(10), what, condition);
}

pub fn wait_up_to(longest: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < longest, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}
