//! `ps` in all its forms, and `watch`, on a real guest.

use crate::run::{birthmark, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use testkit::{Guest, GuestSpec, Kernel, Need, ProgramSpec, SocketSpec, Spawn};

fn guest() -> Option<Guest> {
    testkit::require(&[Need::Guest(Kernel::V6_1), Need::Root])
        .then(|| Guest::boot(GuestSpec::new(Kernel::V6_1)).unwrap())
}

fn pids(vm: &str, options: &[&str]) -> Vec<u64> {
    let ran = run(["ps", vm, "--json"].iter().chain(options));
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{options:?}");
    ran.json().as_array().unwrap().iter().map(|row| row["pid"].as_u64().unwrap()).collect()
}

#[test]
fn ps_selects_sorts_and_shows_what_was_asked_for() {
    let Some(guest) = guest() else { return };
    let id = "0123456789abcdef".repeat(4);
    let inside = guest
        .spawn(Spawn {
            exe: "/usr/bin/inside".into(),
            cgroup: Some(format!("/system.slice/docker-{id}.scope")),
            namespaces: vec![testkit::Namespace::Uts],
            uid: Some(33),
            environment: vec!["TOKEN=hunter2".into()],
            threads: 2,
            ..Spawn::default()
        })
        .unwrap();
    let parent =
        guest.spawn(Spawn { exe: "/usr/bin/parent".into(), zombies: 1, ..Spawn::default() }).unwrap();
    let vm = format!("pid:{}", guest.pid());
    let (inside_pid, parent_pid) = (u64::from(inside.pid), u64::from(parent.pid));

    // Selection.
    let row = run(["ps", &vm, "--json", "--pid", &inside_pid.to_string()]).json()[0].clone();
    let uts = row["namespaces"]["uts"].to_string();
    for options in [
        ["--pid", &inside_pid.to_string()],
        ["--name", "insi*"],
        ["--uid", "33"],
        ["--container", "*"],
        ["--container", &id[..12]],
        ["--namespace", &uts],
    ] {
        assert_eq!(pids(&vm, &options), [inside_pid], "{options:?}");
    }
    assert_eq!(pids(&vm, &["--name", "inside", "--uid", "0"]), [0; 0]);
    assert_eq!((&row["container"], &row["container_runtime"]), (&json!(id), &json!("docker")));
    assert!(row["started_at"].as_str().unwrap().starts_with("20"), "{row}");
    assert_eq!((&row["thread_list"], &row["environment"]), (&Value::Null, &Value::Null));

    // Order.
    let all = pids(&vm, &[]);
    assert!(all.is_sorted());
    let mut turned = all.clone();
    turned.reverse();
    assert_eq!(pids(&vm, &["--sort", "-pid"]), turned);
    let by_memory = run(["ps", &vm, "--json", "--sort", "-rss"]).json();
    let sizes: Vec<u64> =
        by_memory.as_array().unwrap().iter().filter_map(|row| row["resident_bytes"].as_u64()).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[0] > 0, "{sizes:?}");

    // Secrets are shown to nobody who did not ask for them.
    let hidden = run(["ps", &vm, "--json", "--env", "--uid", "33"]).json();
    let token = |rows: &Value| {
        let variables = rows[0]["environment"].as_array().unwrap().clone();
        variables.into_iter().find(|variable| variable["name"] == "TOKEN").unwrap()["value"].clone()
    };
    assert_eq!(token(&hidden), Value::Null);
    for options in [["--env"].as_slice(), &[], &["--threads", "--tree"]] {
        let ran = run(["ps", vm.as_str()].iter().chain(options));
        assert!(!ran.stdout.contains("hunter2"), "{options:?}");
    }
    assert!(run(["ps", &vm, "--env"]).stdout.contains("TOKEN"));
    assert_eq!(token(&run(["ps", &vm, "--json", "--env", "--show-values", "--uid", "33"]).json()), "hunter2");
    assert!(run(["ps", &vm, "--show-values"]).error().contains("--env"));

    // Threads, columns, the tree.
    let threads = run(["ps", &vm, "--threads", "-o", "pid,tid,comm,state", "--name", "inside"]).stdout;
    let lines: Vec<Vec<&str>> = threads.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["PID", "TID", "NAME", "STATE"]);
    assert_eq!(lines.len(), 4, "the header, the leader and two threads:\n{threads}");
    assert_eq!((lines[1][2], lines[2][2]), ("inside", "{inside}"));
    let tids: BTreeSet<&str> = lines[1..].iter().map(|line| line[1]).collect();
    assert_eq!(tids.len(), 3);
    let tree = run(["ps", &vm, "--tree", "--no-kernel", "-o", "pid,name"]).stdout;
    assert!(tree.contains(&format!("{parent_pid}  └─ parent")), "{tree}");
    assert!(tree.contains("   └─ parent"), "its zombie is below it:\n{tree}");
    let wide = run([
        "ps",
        &vm,
        "-o",
        "pid,started,time,rss,pgid,sid,tty,caps,bounding,seccomp,nnp,cgroup,views,task",
    ]);
    let header = wide.stdout.lines().next().unwrap().split_whitespace().count();
    assert_eq!((wide.status, header), (Some(0), 14), "{wide:?}");
    assert!(run(["ps", &vm, "-o", "nonsense"]).error().contains("nonsense"));
    assert!(run(["ps", &vm, "--sort", "nonsense"]).error().contains("nonsense"));
}

/// Lines of a `watch --json` that runs.
struct Watching {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watching {
    fn start(vm: &str) -> Self {
        let mut child = birthmark(["watch", vm, "--json", "--interval", "100ms"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut watching = Self { child, lines };
        assert!(watching.next().unwrap()["processes"].as_u64().unwrap() > 3);
        watching
    }

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        (self.lines.read_line(&mut line).unwrap() > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Reads on until one fits; fails when the output ends before.
    fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        std::iter::from_fn(|| self.next()).find(fits).expect("the output ended before")
    }
}

#[test]
fn watch_tells_what_appears_what_goes_and_what_was_never_seen() {
    let Some(mut guest) = guest() else { return };
    let vm = format!("pid:{}", guest.pid());
    let mut watching = Watching::start(&vm);

    let address = "127.0.0.1:4444".parse().unwrap();
    let sockets = vec![SocketSpec::TcpListen { address }];
    let rogue = guest.spawn(Spawn { exe: "/tmp/rogue".into(), sockets, ..Spawn::default() }).unwrap();
    let is = |event: &Value, kind: &str, what: &str| event["event"] == kind && event["what"] == what;
    let event =
        watching.until(|event| is(event, "process", "appeared") && event["process"]["pid"] == rogue.pid);
    assert!(event["at"].as_str().unwrap().contains('T'));
    watching.until(|event| is(event, "listener", "appeared") && event["listener"]["local_port"] == 4444);
    guest.load_module("dummy").unwrap();
    watching.until(|event| is(event, "module", "appeared") && event["module"]["name"] == "dummy");
    guest.kill(rogue.pid).unwrap();
    watching.until(|event| is(event, "process", "went") && event["process"]["pid"] == rogue.pid);
    watching.until(|event| is(event, "listener", "went") && event["listener"]["local_port"] == 4444);

    let program = ProgramSpec::CgroupLink { cgroup: "/filtered".into() };
    let filter = guest.spawn(Spawn { programs: vec![program], ..Spawn::default() }).unwrap();
    let event = watching.until(|event| is(event, "program", "appeared"));
    assert_eq!(event["program"]["attached_to"][0]["target"], "/filtered");
    guest.kill(filter.pid).unwrap();
    watching.until(|event| is(event, "program", "went"));

    // Processes that live for a moment are counted, however few of them are seen.
    guest.fork_storm(2, 120).unwrap();
    let event = watching.until(|event| event["event"] == "unseen" && event["unseen"].as_u64() > Some(0));
    assert!(event["created"].as_u64() >= event["unseen"].as_u64(), "{event}");

    // An interrupt ends it between two lines, and is no failure.
    kill(Pid::from_raw(watching.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    while watching.next().is_some() {}
    let ended = watching.child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), [].as_slice()));

    // A guest that boots again is watched on, and its processes did not go one by one.
    let mut watching = Watching::start(&vm);
    guest.reset().unwrap();
    let again = watching.until(|event| {
        assert!(event["event"] != "process" || event["process"]["pid"] != 1, "{event}");
        event["event"] == "rebooted"
    });
    assert!(again["processes"].as_u64().is_some(), "{again}");
    let rogue = guest.spawn(Spawn { exe: "/tmp/again".into(), ..Spawn::default() }).unwrap();
    watching.until(|event| is(event, "process", "appeared") && event["process"]["pid"] == rogue.pid);

    // The end of the VM ends it.
    drop(guest);
    watching.until(|event| event["event"] == "ended");
    assert_eq!(watching.next(), None);
    let ended = watching.child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), [].as_slice()));
}
