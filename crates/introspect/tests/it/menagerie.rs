//! A guest with one of everything, so that no kind of process or socket is compared only in theory.

use crate::opened::Opened;
use anyhow::{Result, ensure};
use testkit::{Activity, Filter, MountSpec, Namespace, ProgramSpec, SocketSpec, Spawn, TracingWay, UnixType};

/// Fills the guest with one of everything, so that no kind of process or socket is compared only in theory. A `small` guest gets
/// no program that needs a copy of its own in memory, which would be more than its kernel can give.
/// Gives back whether the guest can have overlay file systems: Debian 13's package of 6.12 has no such module.
pub fn menagerie(opened: &Opened, small: bool) -> Result<bool> {
    let guest = &opened.guest;
    let loopback = ["127.0.0.1".parse()?, "::1".parse()?];
    let id = "0123456789abcdef".repeat(4);
    let strange = [
        Spawn {
            exe: "/usr/bin/worker".into(),
            uid: Some(1000),
            gid: Some(1001),
            threads: 5,
            ..Spawn::default()
        },
        Spawn { memfd: Some("payload".into()), ..Spawn::default() },
        Spawn { exe: "/tmp/gone".into(), unlink_exe: true, ..Spawn::default() },
        Spawn { exe: "/usr/bin/parent".into(), zombies: 2, ..Spawn::default() },
        Spawn { exe: "/usr/bin/halted".into(), stopped: true, ..Spawn::default() },
        Spawn {
            comm: Some("kworker/0:9".into()),
            rewrite_args: Some("[kworker/0:9]".into()),
            ..Spawn::default()
        },
        Spawn { args: (0..2000).map(|n| format!("argument-{n}")).collect(), ..Spawn::default() },
        Spawn { args: vec!["empty".into(), String::new(), "ü\u{1b}[31m".into()], ..Spawn::default() },
        Spawn { cgroup: Some(format!("/system.slice/docker-{id}.scope")), ..Spawn::default() },
        Spawn { chroot: Some("/srv/jail".into()), exe: "/bin/inside".into(), ..Spawn::default() },
        Spawn {
            exe: "/usr/bin/contained".into(),
            namespaces: vec![
                Namespace::Pid,
                Namespace::Net,
                Namespace::Mnt,
                Namespace::User,
                Namespace::Uts,
                Namespace::Ipc,
                Namespace::Cgroup,
            ],
            sockets: vec![
                SocketSpec::TcpListen { address: "127.0.0.1:80".parse()? },
                SocketSpec::UdpBind { address: "127.0.0.1:53".parse()? },
                SocketSpec::UnixListen { path: "@contained".into(), unix_type: UnixType::Stream },
            ],
            ..Spawn::default()
        },
        Spawn {
            exe: "/usr/bin/confined".into(),
            groups: vec![24, 4, 1000],
            capabilities: Some(0x401),
            ambient: 0x400,
            no_new_privs: true,
            seccomp: true,
            environment: vec!["TOKEN=a=b".into(), "EMPTY=".into(), "no variable".into()],
            ..Spawn::default()
        },
        Spawn { exe: "/usr/bin/interactive".into(), terminal: true, ..Spawn::default() },
        Spawn { exe: "/srv/bind/bound".into(), mount: Some(MountSpec::Bind), ..Spawn::default() },
        Spawn {
            exe: "/usr/bin/grouped".into(),
            cgroup_v1: Some("name=lab:/lxc/web".into()),
            ..Spawn::default()
        },
        Spawn { exe: "/usr/bin/ring".into(), activity: Activity::IoWorker, ..Spawn::default() },
        Spawn { activity: Activity::Spin, exe: "/usr/bin/spin".into(), ..Spawn::default() },
    ];
    let is_a_copy = |spawn: &Spawn| spawn.memfd.is_some() || spawn.unlink_exe || spawn.mount.is_some();
    for spawn in strange.into_iter().filter(|spawn| !(small && is_a_copy(spawn))) {
        guest.spawn(spawn)?;
    }
    for ip in loopback {
        guest.spawn(Spawn {
            exe: "/usr/sbin/server".into(),
            uid: Some(33),
            sockets: vec![
                SocketSpec::TcpPair { ip },
                SocketSpec::TcpTimeWait { ip },
                SocketSpec::TcpHalfClosed { ip },
                SocketSpec::TcpShutDown { ip },
                SocketSpec::TcpUnused,
                SocketSpec::UdpBind { address: (ip, 5353).into() },
                SocketSpec::UdpConnect { address: (ip, 5353).into() },
            ],
            ..Spawn::default()
        })?;
    }
    let mut wildcard = vec![
        SocketSpec::TcpListen { address: "[::]:443".parse()? },
        SocketSpec::TcpListen { address: "0.0.0.0:22".parse()? },
        SocketSpec::UdpBind { address: "[::]:123".parse()? },
    ];
    // Linux 7 has no UDP-Lite any more.
    if !guest.kernel().release.starts_with("7.") {
        wildcard.push(SocketSpec::UdpLiteBind { address: "0.0.0.0:99".parse()? });
    }
    guest.spawn(Spawn { exe: "/usr/sbin/wildcard".into(), sockets: wildcard, ..Spawn::default() })?;
    guest.spawn(Spawn {
        exe: "/usr/sbin/sniffer".into(),
        sockets: vec![
            SocketSpec::Raw { v6: false, protocol: 1 },
            SocketSpec::Raw { v6: true, protocol: 58 },
            SocketSpec::Packet { ethertype: 3, cooked: false },
            SocketSpec::Packet { ethertype: 0x0800, cooked: true },
            SocketSpec::Netlink { protocol: 0, groups: 1 },
        ],
        ..Spawn::default()
    })?;
    let unix = [UnixType::Stream, UnixType::Dgram, UnixType::Seqpacket];
    let mut sockets = Vec::new();
    for unix_type in unix {
        let name = format!("{unix_type:?}").to_lowercase();
        for path in [format!("/run/{name}.sock"), format!("@abstract/{name}")] {
            sockets.push(SocketSpec::UnixListen { path: path.clone(), unix_type });
            sockets.push(SocketSpec::UnixConnect { path, unix_type });
        }
        sockets.push(SocketSpec::UnixPair { unix_type });
    }
    sockets.push(SocketSpec::UnixShutDown);
    guest.spawn(Spawn { exe: "/usr/sbin/bus".into(), sockets, ..Spawn::default() })?;
    odd_sockets(opened)?;
    programs(opened, small)?;
    guest.spawn_many(20, Spawn { exe: "/usr/bin/idle".into(), uid: Some(65534), ..Spawn::default() })?;
    guest.load_module("dummy")?;
    let overlays = guest.load_module("overlay").is_ok();
    if overlays && !small {
        let mount = Some(MountSpec::Overlay);
        guest.spawn(Spawn { exe: "/srv/overlay/layered".into(), mount, ..Spawn::default() })?;
    }
    Ok(overlays)
}

/// Kinds of sockets that few guests have, common ones with something in their queues, and those that no descriptor leads to.
fn odd_sockets(opened: &Opened) -> Result<()> {
    let guest = &opened.guest;
    let files = guest.run(&["ls", "/lib/modules", "/proc/sys/net"])?.stdout;
    let has = |file: &str| files.lines().any(|line| line == file);
    for module in [
        "tcp_diag",
        "udp_diag",
        "raw_diag",
        "mptcp_diag",
        "unix_diag",
        "af_packet_diag",
        "netlink_diag",
        "vsock_diag",
        "xsk_diag",
        "vsock_loopback",
        "af_alg",
        "crc32c_generic",
        "sctp",
    ] {
        if has(&format!("{module}.ko")) {
            guest.load_module(module)?;
        }
    }
    let range = [
        "sh",
        "-c",
        &format!(
            "cd /proc/sys/net/ipv4; echo 25000 >ip_local_reserved_ports; echo {PORTS} >ip_local_port_range"
        ),
    ];
    let set = guest.run(&range)?;
    ensure!(set.status == Some(0), "{set:?}");
    let v4 = "127.0.0.1".parse()?;
    let mut sockets = vec![
        SocketSpec::Ping { v6: false },
        SocketSpec::Ping { v6: true },
        SocketSpec::NetlinkMember { protocol: 0, group: 33 },
        SocketSpec::Capture { filter: Filter::Classic, interface: None },
        SocketSpec::Capture { filter: Filter::Ebpf, interface: Some("lo".into()) },
        SocketSpec::CaptureMapped,
        SocketSpec::UdpOnInterface { address: "127.0.0.1:5355".parse()?, interface: "lo".into() },
        SocketSpec::TcpMarked { address: MARKED.parse()?, mark: MARK },
        SocketSpec::TcpMapped,
        SocketSpec::TcpQueued { ip: v4 },
        SocketSpec::TcpQueued { ip: "::1".parse()? },
        SocketSpec::TcpOrphan { ip: v4 },
        SocketSpec::TcpSynSent { ip: v4 },
        SocketSpec::TcpSynReceived { ip: v4 },
        SocketSpec::UdpQueued { ip: v4 },
        SocketSpec::UnixQueued { unix_type: UnixType::Stream },
        SocketSpec::UnixQueued { unix_type: UnixType::Dgram },
        SocketSpec::UnixQueued { unix_type: UnixType::Seqpacket },
        SocketSpec::Xdp,
    ];
    // Not every kernel has these.
    let others = [
        ("mptcp", SocketSpec::MptcpPair { ip: v4 }),
        ("sctp.ko", SocketSpec::SctpListen { address: "127.0.0.1:9104".parse()? }),
        ("sctp.ko", SocketSpec::SctpPairs),
        ("vsock_loopback.ko", SocketSpec::VsockListen { port: 1024 }),
        ("vsock_loopback.ko", SocketSpec::VsockPair),
        ("af_alg.ko", SocketSpec::Alg),
    ];
    sockets.extend(others.into_iter().filter(|(file, _)| has(file)).map(|(_, spec)| spec));
    if !guest.kernel().release.starts_with('7') {
        sockets.push(SocketSpec::UdpLiteBind { address: "[::1]:98".parse()? });
    }
    guest.spawn(Spawn { exe: "/usr/sbin/odd".into(), sockets, ..Spawn::default() })?;
    let in_thread = vec![SocketSpec::TcpInThread { address: "127.0.0.1:9103".parse()? }];
    guest.spawn(Spawn { exe: "/usr/sbin/threaded".into(), sockets: in_thread, ..Spawn::default() })?;
    guest.spawn(Spawn {
        exe: "/usr/sbin/holder".into(),
        sockets: vec![
            SocketSpec::TcpRegistered { address: "127.0.0.1:9101".parse()? },
            SocketSpec::TcpInFlight { address: "127.0.0.1:9102".parse()? },
        ],
        ..Spawn::default()
    })?;
    Ok(())
}

/// Who has a mark, at a port that the kernel would give in this guest too.
const MARKED: &str = "127.0.0.1:25000";
pub const MARK: u32 = 0x8000_0017;
/// The ports that it gives, none of which it gives where nobody says so.
const PORTS: &str = "20000 29999";

/// More functions than a snapshot names of one link.
const MANY: [&str; 10] = [
    "vfs_symlink",
    "vfs_readlink",
    "vfs_create",
    "vfs_fallocate",
    "vfs_truncate",
    "vfs_setxattr",
    "vfs_removexattr",
    "vfs_listxattr",
    "vfs_getxattr",
    "do_truncate",
];

/// An eBPF program in each place that this kernel has. It must refuse the others, so that none is passed over that it has.
fn programs(opened: &Opened, small: bool) -> Result<()> {
    let guest = &opened.guest;
    let release: Vec<u32> = guest.kernel().release.split('.').map_while(|part| part.parse().ok()).collect();
    let since = |major: u32, minor: u32| release >= vec![major, minor];
    let group = "/system.slice/filtered.service";
    let traced = |way, function: &str| ProgramSpec::Tracing { way, function: function.into() };
    let several = |functions: &[&str]| ProgramSpec::KprobeMulti {
        functions: functions.iter().map(|name| (*name).to_owned()).collect(),
    };
    guest.load_module("veth")?;
    let mut all = vec![
        (true, ProgramSpec::SocketFilter),
        (true, ProgramSpec::WithFunction),
        (true, ProgramSpec::CgroupLink { cgroup: group.into() }),
        (true, ProgramSpec::Cgroup { cgroup: group.into() }),
        (true, ProgramSpec::RawTracepoint { name: "sched_process_exit".into() }),
        (true, ProgramSpec::Pinned { name: "sched_process_hang".into() }),
        (true, ProgramSpec::Kprobe { function: "vfs_unlink".into() }),
        (true, ProgramSpec::XdpLink),
        (true, ProgramSpec::Xdp { native: false }),
        (true, ProgramSpec::Xdp { native: true }),
        (true, ProgramSpec::SocketLookupLink),
        (true, ProgramSpec::FlowDissector),
        (true, ProgramSpec::Tracepoint { system: "sched".into(), name: "sched_process_fork".into() }),
        (since(5, 15), ProgramSpec::KprobeLink { function: "vfs_rmdir".into() }),
        (since(5, 15), ProgramSpec::ClockLink),
        // Linux has it since 5.18, Debian with 6.12 (CONFIG_FPROBE).
        (since(6, 12), several(&["vfs_mknod"])),
        (since(6, 12), several(&MANY)),
        (
            since(6, 6),
            ProgramSpec::UprobeMulti {
                path: "/srv/probed".into(),
                offsets: (1..12).map(|at| at * 16).collect(),
            },
        ),
        (since(6, 4), ProgramSpec::Netfilter),
        (since(6, 6), ProgramSpec::TcxLink),
        (since(6, 6), ProgramSpec::Tcx),
        (since(6, 7), ProgramSpec::NetkitLink),
        (since(6, 7), ProgramSpec::Netkit),
        (since(6, 10), ProgramSpec::Sockmap),
    ];
    // Loading these takes more memory for the kernel's types than the smallest guest has.
    if !small {
        all.extend([
            (true, traced(TracingWay::Entry, "vfs_symlink")),
            (true, traced(TracingWay::Exit, "vfs_link")),
            (true, traced(TracingWay::ModifyReturn, "security_inode_rmdir")),
            (true, traced(TracingWay::Hook, "path_chroot")),
            (true, ProgramSpec::TypedTracepoint { name: "sched_process_wait".into() }),
            (true, ProgramSpec::Iterator { target: "task".into() }),
            (true, ProgramSpec::StructOps { name: "cc_by_itself".into(), link: false }),
            (since(6, 4), ProgramSpec::StructOps { name: "cc_by_link".into(), link: true }),
            (since(6, 0), ProgramSpec::GroupHook { cgroup: group.into(), hook: "socket_bind".into() }),
        ]);
    }
    let (programs, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(has, _)| *has);
    let programs = programs.into_iter().map(|(_, spec)| spec).collect();
    guest.spawn(Spawn { exe: "/usr/sbin/tracer".into(), programs, ..Spawn::default() })?;
    for (_, spec) in others {
        let refused = guest.spawn(Spawn { programs: vec![spec.clone()], ..Spawn::default() });
        ensure!(refused.is_err(), "{} has {spec:?}, which is taken to be newer", guest.kernel().release);
    }
    Ok(())
}
