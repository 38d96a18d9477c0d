//! Keys and certificates to try things with, made by the libraries and not by the command.

use attest::{LearnOptions, PrivateKey, Statement, Validity, certify};
use facts::{
    Address, Consistency, ConsistencyMode, ExeState, Hypervisor, Kernel, Namespaces, Process, ProcessState,
    ProfileOrigin, ProfileSource, Snapshot, Views, Vm, VmState,
};
use std::fs;
use std::path::{Path, PathBuf};

/// A directory with a pair of keys.
pub struct Signer {
    pub dir: tempfile::TempDir,
    key: PrivateKey,
}

impl Signer {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate().unwrap();
        fs::write(dir.path().join("key"), key.to_pem().unwrap()).unwrap();
        fs::write(dir.path().join("key.pub"), key.public().to_pem().unwrap()).unwrap();
        Self { dir, key }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn public(&self) -> String {
        text(&self.path("key.pub"))
    }

    /// Writes a certificate that holds between these times.
    pub fn certificate(&self, name: &str, not_before: &str, not_after: &str) -> String {
        let path = self.path(name);
        fs::write(&path, statement(not_before, not_after).sign(&self.key).unwrap()).unwrap();
        text(&path)
    }

    pub fn valid_certificate(&self) -> String {
        self.certificate("web.json", "2020-01-01T00:00:00Z", "9000-01-01T00:00:00Z")
    }
}

/// A statement about service `web`, serial 7.
pub fn statement(not_before: &str, not_after: &str) -> Statement {
    let validity =
        Validity { not_before: not_before.parse().unwrap(), not_after: not_after.parse().unwrap() };
    let options = LearnOptions {
        service: "web".to_owned(),
        serial: 7,
        validity,
        selector: None,
        image_sha256: None,
        accept_unknown: false,
        flows: false,
    };
    certify(&[snapshot()], &options).unwrap()
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A guest with one process, whose name is as hostile as a name can be.
pub fn snapshot() -> Snapshot {
    Snapshot {
        schema: facts::SNAPSHOT_SCHEMA.to_owned(),
        vm: Vm {
            name: "web-1".to_owned(),
            id: "uuid:x".to_owned(),
            hypervisor: Hypervisor::Kvm,
            pid: Some(7),
            domid: None,
            memory_bytes: Some(1 << 30),
            vcpus: Some(1),
            state: VmState::Running,
            libvirt: None,
        },
        taken_at: "2026-11-01T00:00:00Z".to_owned(),
        elapsed_us: 1,
        consistency: Consistency { mode: ConsistencyMode::Live, retries: 0, torn: 0, paused_us: None },
        kernel: Kernel {
            release: "6.1.0-1-amd64".to_owned(),
            version: None,
            banner: None,
            build_id: Some("00ff".to_owned()),
            btf_digest: Some(format!("sha256:{}", "ab".repeat(32))),
            arch: "x86_64".to_owned(),
            page_table_levels: 4,
            kaslr_offset: Address(0),
            page_table_root: Address(0x1000),
            boot_id: None,
            booted_at: None,
            profile: ProfileOrigin {
                source: ProfileSource::Guest,
                digest: "sha256:00".to_owned(),
                stored: None,
                contradictions: Vec::new(),
            },
        },
        views: Views::default(),
        activity: facts::Activity::default(),
        processes: vec![Process {
            pid: 1,
            ppid: Some(0),
            threads: Some(1),
            name: "\x1b[31minit".into(),
            exe: Some("/sbin/\u{202e}init".into()),
            exe_state: Some(ExeState::Present),
            args: Some(vec!["/sbin/init".to_owned()]),
            uid: Some(0),
            euid: Some(0),
            gid: Some(0),
            egid: Some(0),
            capabilities_effective: Some(Address(0x1ff_ffff_ffff)),
            state: Some(ProcessState::Sleeping),
            start_time_ns: Some(1),
            namespaces: Namespaces::default(),
            cgroup: Some("/".into()),
            views: ["task_list"].into(),
            task: Address(0xffff_8880_0000_0000),
            ..Process::default()
        }],
        sockets: facts::Rows::default(),
        modules: Vec::new(),
        ebpf_programs: None,
        problems: Vec::new(),
    }
}
