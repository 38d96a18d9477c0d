//! A full Debian, with the services that such machines have and a container beside them.
//!
//! It takes most of a minute to boot, so all that is shown on it is one test.

use crate::opened::Opened;
use crate::{equal, equal_ss};
use anyhow::Result;
use facts::{ContainerRuntime, Snapshot};
use testkit::{Need, SocketSpec, Spawn, UnixType, debian};

#[test]
fn a_full_debian_equals_its_own_proc_and_what_ss_prints() {
    if !testkit::require(&[Need::Debian]) {
        return;
    }
    let opened = Opened::open(debian::boot().unwrap()).unwrap();
    // What `ss` asks answers to the truth too: the kernel loads it when it is first asked.
    debian::succeed(&opened.guest, "ss -a >/dev/null").unwrap();
    connections(&opened).unwrap();
    equals_proc(&opened).unwrap();
    equals_ss(&opened);
}

/// An idle server has listeners only.
fn connections(opened: &Opened) -> Result<()> {
    // Only the administrator may mark packets.
    let marked = vec![SocketSpec::TcpMarked { address: "127.0.0.1:4712".parse()?, mark: 0xcafe }];
    opened.guest.spawn(Spawn {
        exe: "/usr/local/bin/gateway".into(),
        sockets: marked,
        ..Spawn::default()
    })?;
    let mut sockets = vec![
        SocketSpec::UnixQueued { unix_type: UnixType::Dgram },
        SocketSpec::UnixPair { unix_type: UnixType::Seqpacket },
        SocketSpec::UdpConnect { address: "[::1]:5353".parse()? },
    ];
    for ip in ["127.0.0.1".parse()?, "::1".parse()?] {
        sockets.extend([
            SocketSpec::TcpPair { ip },
            SocketSpec::TcpQueued { ip },
            SocketSpec::TcpHalfClosed { ip },
            SocketSpec::TcpSynReceived { ip },
            SocketSpec::TcpTimeWait { ip },
            SocketSpec::UdpQueued { ip },
        ]);
    }
    opened.guest.spawn(Spawn {
        exe: "/usr/local/bin/client".into(),
        uid: Some(1000),
        sockets,
        ..Spawn::default()
    })?;
    Ok(())
}

/// Compares until truth and look agree: they are two moments of a machine that is not idle.
fn equals_proc(opened: &Opened) -> Result<()> {
    let mut last = Vec::new();
    for _ in 0..5 {
        let (truth, snapshot) = opened.guest.steady(|| opened.everything())?;
        last = equal::differences(&truth, &snapshot);
        if last.is_empty() {
            has_what_it_should(&snapshot);
            return Ok(());
        }
    }
    anyhow::bail!("{} differences:\n{}", last.len(), last.join("\n"))
}

fn equals_ss(opened: &Opened) {
    let mut last = Vec::new();
    for _ in 0..10 {
        let before = equal_ss::lines(&opened.guest, &opened.snapshot().unwrap());
        let snapshot = opened.snapshot().unwrap();
        let after = equal_ss::lines(&opened.guest, &snapshot);
        if before != after {
            continue;
        }
        last = equal_ss::differences(&after, &snapshot);
        if last.is_empty() {
            assert!(after.len() > 60, "too little was compared: {} lines", after.len());
            assert!(after.iter().any(equal_ss::Line::is_told_whole), "{after:#?}");
            assert!(after.iter().any(equal_ss::Line::is_shut), "{after:#?}");
            assert_eq!(after.iter().filter(|line| line.is_marked()).count(), 2, "{after:#?}");
            return;
        }
    }
    panic!("{} differences:\n{}", last.len(), last.join("\n"));
}

/// What the comparison could not have missed because the guest had nothing of the kind.
fn has_what_it_should(snapshot: &Snapshot) {
    let exes: Vec<&str> = snapshot.processes.iter().filter_map(|process| process.exe.as_deref()).collect();
    for exe in [
        "/usr/lib/systemd/systemd",
        "/usr/sbin/sshd",
        "/usr/sbin/nginx",
        "/usr/lib/postgresql/15/bin/postgres",
        "/usr/sbin/cron",
        "/usr/bin/dbus-daemon",
    ] {
        assert!(exes.contains(&exe), "no {exe} among {exes:?}");
    }
    let init = snapshot.processes.iter().find(|process| process.pid == 1).unwrap();
    let contained: Vec<_> = snapshot.processes.iter().filter(|process| process.container.is_some()).collect();
    assert_eq!(contained.len(), 2, "{contained:#?}");
    for process in contained {
        assert_eq!(process.container.as_deref(), Some("0123456789abcdef".repeat(4).as_str()));
        assert_eq!(process.container_runtime, Some(ContainerRuntime::Docker));
        assert_ne!(process.namespaces.pid, init.namespaces.pid);
        assert_ne!(process.namespaces.net, init.namespaces.net);
        assert_ne!(process.namespaces.mnt, init.namespaces.mnt);
    }
    let inside = |socket: &&facts::Socket| {
        socket.net_namespace != init.namespaces.net && socket.local_port == Some(8080)
    };
    assert_eq!(snapshot.sockets.iter().filter(inside).count(), 1);
}
