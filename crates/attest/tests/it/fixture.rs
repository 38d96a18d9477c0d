//! Snapshots made by hand: a small web server and its parts.

use attest::{
    Certificate, Count, LearnOptions, Pattern, Presence, ProcessEntry, Statement, Validity, certify,
};
use facts::*;
use jiff::Timestamp;
use std::net::IpAddr;

pub const ALL_CAPABILITIES: u64 = 0x1ff_ffff_ffff;

pub fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub fn process(pid: u32, name: &str, exe: &str) -> Process {
    Process {
        pid,
        ppid: Some(1),
        threads: Some(1),
        name: name.into(),
        exe: Some(exe.into()),
        exe_state: Some(ExeState::Present),
        args: Some(vec![exe.to_owned()]),
        uid: Some(0),
        euid: Some(0),
        gid: Some(0),
        egid: Some(0),
        capabilities_effective: Some(Address(ALL_CAPABILITIES)),
        state: Some(ProcessState::Sleeping),
        start_time_ns: Some(u64::from(pid) * 1_000_000),
        namespaces: Namespaces { net: Some(4026531840), ..Namespaces::default() },
        cgroup: Some("/".into()),
        views: ["task_list"].into(),
        task: Address(0xffff_8880_0000_0000 + u64::from(pid) * 0x2000),
        ..Process::default()
    }
}

pub fn as_user(process: Process, id: u32) -> Process {
    Process {
        uid: Some(id),
        euid: Some(id),
        gid: Some(id),
        egid: Some(id),
        capabilities_effective: Some(Address(0)),
        ..process
    }
}

pub fn kernel_thread(pid: u32, name: &str) -> Process {
    Process {
        ppid: Some(2),
        exe: None,
        exe_state: Some(ExeState::None),
        args: Some(vec![]),
        kernel_thread: true,
        exiting: false,
        ..process(pid, name, "")
    }
}

pub fn zombie(pid: u32, name: &str) -> Process {
    Process {
        exe: None,
        exe_state: Some(ExeState::None),
        args: Some(vec![]),
        state: Some(ProcessState::Zombie),
        ..process(pid, name, "")
    }
}

pub fn socket(family: Family, kind: &str, protocol: &str, state: SocketState, owners: &[u32]) -> Socket {
    Socket {
        family,
        protocol_family: 0,
        kind: Some(kind.into()),
        protocol: Some(protocol.into()),
        state: Some(state),
        local_address: None,
        local_port: None,
        remote_address: None,
        remote_port: None,
        path: None,
        inode: Some(12345),
        net_namespace: Some(4026531840),
        uid: Some(0),
        processes: owners.into(),
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
        views: ["hash_table"].into(),
        sock: Address(0xffff_8881_0000_0000),
    }
}

fn internet(address: &str, port: u16, socket: Socket) -> Socket {
    let address: IpAddr = address.parse().unwrap();
    let family = if address.is_ipv4() { Family::Inet } else { Family::Inet6 };
    let sock = Address(0xffff_8881_0000_0000 + u64::from(port) * 0x1000);
    Socket { family, local_address: Some(address), local_port: Some(port), sock, ..socket }
}

pub fn tcp(address: &str, port: u16, owners: &[u32]) -> Socket {
    internet(address, port, socket(Family::Inet, "stream", "tcp", SocketState::Listen, owners))
}

/// A connection of the guest's address 10.0.2.15 (or `::15`) with a peer.
pub fn flow(local_port: u16, peer: &str, remote_port: u16, owners: &[u32]) -> Socket {
    let peer: IpAddr = peer.parse().unwrap();
    let local = if peer.is_ipv4() { "10.0.2.15" } else { "2001:db8::15" };
    Socket {
        state: Some(SocketState::Established),
        remote_address: Some(peer),
        remote_port: Some(remote_port),
        ..tcp(local, local_port, owners)
    }
}

pub fn udp(address: &str, port: u16, owners: &[u32]) -> Socket {
    internet(address, port, socket(Family::Inet, "dgram", "udp", SocketState::Unconnected, owners))
}

pub fn unix(path: &str, owners: &[u32]) -> Socket {
    let socket = socket(Family::Unix, "stream", "unix", SocketState::Listen, owners);
    Socket { path: Some(path.into()), ..socket }
}

pub fn module(name: &str) -> Module {
    Module {
        name: name.to_owned(),
        size: Some(4096),
        references: Some(0),
        state: Some(ModuleState::Live),
        views: vec!["module_list".into()],
        module: Address(0xffff_ffff_c000_0000),
    }
}

pub fn problem(kind: ProblemKind, location: &str) -> Problem {
    Problem { kind, location: location.to_owned(), detail: "A read failed.".to_owned() }
}

/// systemd, a web server with two workers, a DHCP client, kernel threads, a module.
pub fn ebpf(name: &str, kind: &str, tag: &str) -> EbpfProgram {
    EbpfProgram {
        id: Some(4),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        tag: Some(tag.to_owned()),
        loaded_at_ns: Some(9_000_000_000),
        loaded_at: None,
        uid: Some(0),
        instructions: Some(64),
        jited_bytes: Some(389),
        maps: Some(vec![]),
        attached_to: vec![EbpfAttachment {
            kind: "cgroup".to_owned(),
            target: Some("/system.slice/nginx.service".to_owned()),
            attach_type: Some("cgroup_device".to_owned()),
            link: None,
            sites: None,
            priority: None,
        }],
        processes: vec![1],
        views: vec!["program_table".into(), "attachment".into()],
        views_missing: vec![],
        program: Address(0xffff_c900_0001_0000),
    }
}

pub fn web() -> Snapshot {
    Snapshot {
        schema: SNAPSHOT_SCHEMA.to_owned(),
        vm: Vm {
            name: "web-1".to_owned(),
            id: "6f2d1a38-2f0e-4c1c-9f0b-1b1a52f6b001".to_owned(),
            hypervisor: Hypervisor::Kvm,
            pid: Some(4711),
            domid: None,
            memory_bytes: Some(1 << 29),
            vcpus: Some(1),
            state: VmState::Running,
            libvirt: None,
        },
        taken_at: "2026-11-20T10:00:00Z".to_owned(),
        elapsed_us: 900,
        consistency: Consistency { mode: ConsistencyMode::Live, retries: 0, torn: 0, paused_us: None },
        kernel: Kernel {
            release: "6.1.0-18-cloud-amd64".to_owned(),
            version: None,
            banner: None,
            build_id: Some("8f2b0c6d4e1a39f7c5d2b8a6e4f1c3d5a7b9e0f2".to_owned()),
            btf_digest: Some(format!("sha256:{}", "3c".repeat(32))),
            arch: "x86_64".to_owned(),
            page_table_levels: 4,
            kaslr_offset: Address(0x1200_0000),
            page_table_root: Address(0x260_a000),
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
        processes: vec![
            Process { ppid: Some(0), ..process(1, "systemd", "/usr/lib/systemd/systemd") },
            kernel_thread(2, "kthreadd"),
            kernel_thread(14, "ksoftirqd/0"),
            kernel_thread(30, "kworker/0:1-events"),
            process(400, "nginx", "/usr/sbin/nginx"),
            Process { ppid: Some(400), ..as_user(process(401, "nginx", "/usr/sbin/nginx"), 33) },
            Process { ppid: Some(400), ..as_user(process(402, "nginx", "/usr/sbin/nginx"), 33) },
            process(450, "dhclient", "/usr/sbin/dhclient"),
            process(470, "sshd", "/usr/sbin/sshd"),
            Process { ppid: Some(470), ..process(900, "bash", "/usr/bin/bash") },
        ],
        sockets: vec![
            tcp("0.0.0.0", 443, &[400, 401, 402]),
            tcp("::", 443, &[400, 401, 402]),
            tcp("0.0.0.0", 22, &[1, 470]),
            udp("10.0.2.15", 68, &[450]),
            unix("/run/systemd/private", &[1]),
            socket(Family::Packet, "raw", "0x0800", SocketState::Unconnected, &[450]),
        ]
        .into(),
        modules: vec![module("virtio_net"), module("ext4")],
        ebpf_programs: Some(vec![ebpf("sd_devices", "cgroup_device", "d9e3c8a1b2f40576")]),
        problems: vec![],
    }
}

pub fn options() -> LearnOptions {
    LearnOptions {
        service: "web-frontend".to_owned(),
        serial: 7,
        validity: Validity {
            not_before: time("2026-11-01T00:00:00Z"),
            not_after: time("2027-11-01T00:00:00Z"),
        },
        selector: None,
        image_sha256: None,
        accept_unknown: false,
        flows: false,
    }
}

pub fn statement() -> Statement {
    certify(&[web()], &options()).unwrap()
}

pub fn certificate() -> Certificate {
    statement().predicate
}

/// A certificate in which no field is left out.
pub fn certificate_with_everything() -> Certificate {
    let mut certificate = certificate();
    certificate.supersedes = Some(format!("sha256:{}", "5a".repeat(32)));
    certificate.selector.uuids = vec![Pattern::parse("uuid:6f2d1a38-*").unwrap()];
    certificate.flows = Some(
        serde_json::from_str(
            r#"{
                "egress": [{"protocol": "tcp", "cidr": "10.0.5.0/24", "port": 5432, "processes": ["/usr/sbin/nginx"]}],
                "ingress": [{"protocol": "tcp", "cidr": "0.0.0.0/0", "port": 443, "processes": ["/usr/sbin/nginx"]}]
            }"#,
        )
        .unwrap(),
    );
    let nginx = certificate.processes.iter_mut().find(|entry| entry.names[0].as_str() == "nginx").unwrap();
    nginx.sha256 = vec!["ab".repeat(32)];
    nginx.count.max = Some(64);
    let contained = ProcessEntry {
        container: Some(Pattern::parse("*").unwrap()),
        exe_state: ExeState::Deleted,
        count: Count::default(),
        presence: Presence::Allowed,
        ..nginx.clone()
    };
    certificate.processes.push(contained);
    certificate.files = vec![attest::FileEntry {
        path: "/usr/sbin/nginx".to_owned(),
        sha256: "ab".repeat(32),
        size: 4,
        package: Some("nginx=1.22.1-9".to_owned()),
        pages: Some("q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=".to_owned()),
    }];
    certificate
}

/// The web server after something was done to it.
pub fn web_with(change: impl FnOnce(&mut Snapshot)) -> Snapshot {
    let mut snapshot = web();
    change(&mut snapshot);
    snapshot
}

/// The findings of a web server after something was done to it.
pub fn drift(change: impl FnOnce(&mut Snapshot)) -> Vec<Finding> {
    attest::compare(&certificate(), &web_with(change))
}

pub fn rules(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.rule.as_str()).collect()
}

/// The one finding there is.
#[track_caller]
pub fn only(findings: Vec<Finding>) -> Finding {
    let [finding] = findings.as_slice() else { panic!("Expected one finding, got {findings:#?}") };
    finding.clone()
}
