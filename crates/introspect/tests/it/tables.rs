//! Every table on every kind of guest equals the guest's own `/proc`.

use crate::equal::differences;
use crate::opened::{Opened, PATIENT};
use anyhow::Result;
use testkit::{
    Activity, Backing, GuestSpec, Kernel, Machine, Namespace, Need, PagingLevels, SocketSpec, Spawn, UnixType,
};

/// Fills the guest with one of everything, so that no kind of process or socket is compared only in theory.
fn menagerie(opened: &Opened) -> Result<()> {
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
        Spawn { activity: Activity::Spin, exe: "/usr/bin/spin".into(), ..Spawn::default() },
    ];
    for spawn in strange {
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
    guest.spawn(Spawn { exe: "/usr/sbin/bus".into(), sockets, ..Spawn::default() })?;
    guest.spawn_many(20, Spawn { exe: "/usr/bin/idle".into(), uid: Some(65534), ..Spawn::default() })?;
    guest.load_module("dummy")?;
    Ok(())
}

/// Boots, fills, compares, and checks that looking allocated no memory for the guest.
fn equal(kernel: Kernel, spec: impl FnOnce(GuestSpec) -> GuestSpec) {
    if !testkit::require(&[Need::Guest(kernel)]) {
        return;
    }
    let opened = Opened::boot(spec(GuestSpec::new(kernel))).unwrap();
    menagerie(&opened).unwrap();
    let mut last = Vec::new();
    // A truth and a look are two moments; timers of TCP move on between them. Three tries settle that.
    for _ in 0..3 {
        let (truth, snapshot) = opened.guest.steady(|| opened.snapshot()).unwrap();
        last = differences(&truth, &snapshot);
        if last.is_empty() {
            assert!(snapshot.processes.len() > 60, "only {} processes", snapshot.processes.len());
            assert!(snapshot.sockets.len() > 60, "only {} sockets", snapshot.sockets.len());
            assert!(snapshot.modules.iter().any(|module| module.name == "dummy"));
            break;
        }
    }
    assert!(last.is_empty(), "{} differences:\n{}", last.len(), last.join("\n"));
    nothing_is_allocated(&opened);
    the_kernels_file_gives_the_same_profile(&opened);
}

/// Guests of this kernel need not be trusted for their profile: a provisioning pipeline makes the same one of the kernel's file.
fn the_kernels_file_gives_the_same_profile(opened: &Opened) {
    let file = &opened.guest.kernel().vmlinuz;
    let kernel = guest_profiles::kernel_file::read(file, &guest_profiles::linux::WANTED).unwrap();
    let text = |profile: &guest_profiles::Profile| String::from_utf8(profile.to_json()).unwrap();
    assert_eq!(text(&kernel.profile), text(opened.kernel.profile()), "{}", file.display());
}

/// With the guest stopped, every page the VMM gains would be ours.
fn nothing_is_allocated(opened: &Opened) {
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let before = opened.resident();
    introspect::locate(&*opened.vm.memory, PATIENT).unwrap();
    for _ in 0..10 {
        opened.snapshot().unwrap();
    }
    let after = opened.resident();
    opened.guest.qmp(&serde_json::json!({"execute": "cont"})).unwrap();
    assert_eq!(before, after, "KiB of guest memory resident before and after looking");
}

#[test]
fn kernel_6_1_with_4_levels_in_a_memfd_on_q35() {
    equal(Kernel::V6_1, |spec| spec);
}

#[test]
fn kernel_6_1_with_5_levels_in_anonymous_memory_on_i440fx() {
    equal(Kernel::V6_1, |spec| {
        spec.machine(Machine::I440fx).backing(Backing::Anonymous).levels(PagingLevels::Five)
    });
}

#[test]
fn kernel_6_1_with_4_gib_across_the_pci_hole_of_i440fx() {
    equal(Kernel::V6_1, |spec| spec.machine(Machine::I440fx).memory_mib(4096));
}

#[test]
fn kernel_6_12_with_5_levels_in_a_memfd_on_q35() {
    equal(Kernel::V6_12, |spec| spec.levels(PagingLevels::Five));
}

#[test]
fn kernel_6_12_with_4_levels_in_anonymous_memory_on_q35_with_2_vcpus() {
    equal(Kernel::V6_12, |spec| spec.backing(Backing::Anonymous).vcpus(2));
}

#[test]
fn kernel_6_12_with_4_gib_across_the_pci_hole_of_q35() {
    equal(Kernel::V6_12, |spec| spec.memory_mib(4096));
}
