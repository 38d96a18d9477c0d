//! Every odd kind of process the workload can be shows in the guest's own `/proc` the way it should.
//!
//! One guest serves several cases: a boot takes seconds, a command milliseconds.

use crate::guest;
use testkit::truth::Process;
use testkit::{Activity, Command, Guest, Kernel, Namespace, Spawn, Spawned};

fn start(guest: &Guest, spawn: Spawn) -> (Spawned, Process) {
    let spawned = guest.spawn(spawn).unwrap();
    let process = guest.truth().unwrap().process(spawned.pid).unwrap().clone();
    (spawned, process)
}

#[test]
fn names_users_and_arguments_are_as_told() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec) else { return };
    let (rogue, process) = start(
        &guest,
        Spawn {
            exe: "/tmp/rogue".into(),
            args: vec!["[kworker/0:0]".into(), String::new(), "x y".into()],
            uid: Some(1000),
            gid: Some(1001),
            comm: Some("looks harmless".into()),
            ..Spawn::default()
        },
    );
    assert_eq!(process.exe.as_deref(), Some("/tmp/rogue"));
    assert_eq!(process.args, ["[kworker/0:0]", "", "x y"]);
    assert_eq!((process.uids, process.gids), ([1000; 4], [1001; 4]));
    assert_eq!(process.comm, "looks harmless");
    assert_eq!((process.capabilities_effective, process.ppid, process.kernel_thread), (0, 1, false));
    guest.kill(rogue.pid).unwrap();
    assert!(guest.truth().unwrap().process(rogue.pid).is_none(), "killed and reaped");

    let long: Vec<String> = (0..2000).map(|number| format!("argument-{number:08}")).collect();
    let (_, process) = start(&guest, Spawn { args: long.clone(), ..Spawn::default() });
    assert_eq!(process.args, long);

    let args = vec!["server".into(), "with-room-for-a-title".into()];
    let (_, process) =
        start(&guest, Spawn { args, rewrite_args: Some("server: idle".into()), ..Spawn::default() });
    assert_eq!(process.args[0], "server: idle");
    assert!(process.args[1..].iter().all(String::is_empty));

    let sleep = Spawn {
        exe: "/bin/busybox".into(),
        foreign: true,
        args: vec!["sleep".into(), "1000".into()],
        ..Spawn::default()
    };
    let (_, process) = start(&guest, sleep);
    assert_eq!(
        (process.exe.as_deref(), process.args.as_slice()),
        (Some("/bin/busybox"), &["sleep".into(), "1000".into()][..])
    );

    let error = guest.spawn(Spawn { exe: "/none".into(), foreign: true, ..Spawn::default() }).unwrap_err();
    assert!(format!("{error:#}").contains("/none"), "{error:#}");
}

#[test]
fn programs_without_a_file_and_processes_in_odd_states_are_seen() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec) else { return };
    let (_, process) = start(&guest, Spawn { memfd: Some("payload".into()), ..Spawn::default() });
    assert_eq!(process.exe.as_deref(), Some("/memfd:payload (deleted)"));

    let gone = Spawn { exe: "/tmp/gone".into(), unlink_exe: true, ..Spawn::default() };
    let (_, process) = start(&guest, gone);
    assert_eq!(process.exe.as_deref(), Some("/tmp/gone (deleted)"));

    let (_, process) = start(&guest, Spawn { stopped: true, ..Spawn::default() });
    assert_eq!(process.state, 'T');

    let (_, process) = start(&guest, Spawn { threads: 7, ..Spawn::default() });
    assert_eq!(process.threads, 8);

    let (parent, _) = start(&guest, Spawn { zombies: 2, ..Spawn::default() });
    let truth = guest.truth().unwrap();
    assert_eq!(parent.children.len(), 2);
    for &pid in &parent.children {
        let zombie = truth.process(pid).unwrap();
        assert_eq!((zombie.state, zombie.ppid, &zombie.exe), ('Z', parent.pid, &None));
        assert!(zombie.args.is_empty() && zombie.namespaces.net.is_none());
    }
    guest.kill(parent.pid).unwrap();
    let truth = guest.truth().unwrap();
    assert!(parent.children.iter().all(|&pid| truth.process(pid).is_none()), "orphans are reaped");

    let (_, process) =
        start(&guest, Spawn { chroot: Some("/var/jail".into()), exe: "/inside".into(), ..Spawn::default() });
    assert_eq!(process.exe.as_deref(), Some("/var/jail/inside"));
}

#[test]
fn containers_have_namespaces_users_and_control_groups_of_their_own() {
    for kernel in Kernel::OLDEST_AND_NEWEST {
        let Some(guest) = guest(kernel, |spec| spec) else { return };
        let cgroup = format!("/system.slice/docker-{}.scope", "ab".repeat(32));
        let all = vec![
            Namespace::Pid,
            Namespace::Net,
            Namespace::Mnt,
            Namespace::User,
            Namespace::Uts,
            Namespace::Ipc,
            Namespace::Cgroup,
        ];
        let spawn = Spawn { namespaces: all, cgroup: Some(cgroup.clone()), ..Spawn::default() };
        let (inner, process) = start(&guest, spawn);
        let truth = guest.truth().unwrap();
        let (ours, theirs) = (truth.process(1).unwrap().namespaces, process.namespaces);
        for (one, other) in [
            (ours.pid, theirs.pid),
            (ours.net, theirs.net),
            (ours.mnt, theirs.mnt),
            (ours.user, theirs.user),
            (ours.uts, theirs.uts),
            (ours.ipc, theirs.ipc),
            (ours.cgroup, theirs.cgroup),
        ] {
            assert!(one.is_some() && other.is_some() && one != other, "{ours:?} {theirs:?}");
        }
        assert_eq!(process.namespace_pids, [inner.pid, 1]);
        assert_eq!(process.uids, [100_000; 4]);
        assert_eq!(process.cgroup.as_deref(), Some(cgroup.as_str()));
    }
}

#[test]
fn many_processes_and_a_storm_of_forks_are_made_and_ended() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec) else { return };
    let many = guest.spawn_many(60, Spawn::default()).unwrap();
    assert_eq!(guest.truth().unwrap().user_processes().count(), 61);
    guest.kill(many[0].pid).unwrap();

    let newest = |guest: &Guest| -> u32 {
        let next = guest.run(&["cat", "/proc/sys/kernel/ns_last_pid"]).unwrap();
        next.stdout.trim().parse().unwrap()
    };
    let before = newest(&guest);
    let storm = guest.fork_storm(3, 600).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while newest(&guest) < before + 200 {
        assert!(std::time::Instant::now() < deadline, "the storm makes no processes");
    }
    assert!(guest.truth().unwrap().process(storm.pid).is_some(), "the truth can be told in a storm");
    guest.kill(storm.pid).unwrap();
    // The helpers are killed with the leader, but reaped a moment later.
    let left =
        || guest.truth().unwrap().processes.iter().filter(|process| process.comm == "fork-storm").count();
    while left() > 0 {
        assert!(std::time::Instant::now() < deadline, "the storm goes on");
    }

    let spin = guest.spawn(Spawn { activity: Activity::Spin, ..Spawn::default() }).unwrap();
    assert_eq!(guest.truth().unwrap().process(spin.pid).unwrap().state, 'R');
}

#[test]
fn modules_are_loaded_with_their_needs_and_unloaded() {
    for kernel in Kernel::OLDEST_AND_NEWEST {
        let Some(guest) = guest(kernel, |spec| spec) else { return };
        let names = || -> Vec<String> {
            guest.truth().unwrap().modules.into_iter().map(|module| module.name).collect()
        };
        assert_eq!(names(), [""; 0]);
        guest.load_module("virtio_net").unwrap();
        let truth = guest.truth().unwrap();
        let module = |name: &str| truth.modules.iter().find(|module| module.name == name).unwrap();
        assert_eq!((module("virtio_net").state.as_str(), module("virtio_net").references), ("Live", Some(0)));
        assert_eq!(module("net_failover").references, Some(1));
        assert!(module("failover").size > 0 && module("failover").address != 0);
        guest.unload_module("virtio_net").unwrap();
        assert!(!names().contains(&"virtio_net".to_owned()));
        assert!(guest.unload_module("failover").is_err(), "it is in use");
        assert!(guest.load_module("no_such_module").is_err());
    }
}

#[test]
fn small_commands_answer_and_bad_ones_are_errors() {
    let Some(guest) = guest(Kernel::V6_1, |spec| spec) else { return };
    assert_eq!(guest.command(&Command::Ping).unwrap(), "pong");
    let output = guest.run(&["echo", "hello"]).unwrap();
    assert_eq!((output.status, output.stdout.as_str()), (Some(0), "hello\n"));
    assert_eq!(guest.run(&["ls", "/none"]).unwrap().status, Some(1));
    assert!(guest.kill(1).is_err(), "the agent does not kill itself");
    assert!(guest.kill(3_000_000).is_err());
    assert!(guest.traffic(1).is_err());
    let (truth, looks) = guest.steady(|| Ok(1)).unwrap();
    assert_eq!((looks, truth.process(1).unwrap().pid), (1, 1));
}
