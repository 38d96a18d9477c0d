//! The commands on real guests, compared with what the guest says about itself.

use crate::run::{Ran, birthmark, run, run_as_nobody};
use crate::signed::text;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use testkit::{Guest, GuestSpec, Kernel, Need, ProgramSpec, SocketSpec, Spawn};

/// A guest, or `None` where there can be none.
fn guest() -> Option<Guest> {
    testkit::require(&[Need::Guest(Kernel::V6_1), Need::Root])
        .then(|| Guest::boot(GuestSpec::new(Kernel::V6_1)).unwrap())
}

fn target(guest: &Guest) -> String {
    format!("pid:{}", guest.pid())
}

/// The rows of a table as JSON.
fn rows(command: &str, target: &str) -> Vec<Value> {
    let ran = run([command, target, "--json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{command}: {ran:?}");
    ran.json().as_array().unwrap().clone()
}

fn pids(rows: &[Value]) -> BTreeSet<u64> {
    rows.iter().map(|row| row["pid"].as_u64().unwrap()).collect()
}

#[test]
fn every_table_agrees_with_the_guest() {
    let Some(guest) = guest() else { return };
    guest.load_module("dummy").unwrap();
    let address = "127.0.0.1:8080".parse().unwrap();
    let web = guest
        .spawn(Spawn {
            exe: "/usr/bin/web".into(),
            sockets: vec![SocketSpec::TcpListen { address }],
            uid: Some(33),
            ..Spawn::default()
        })
        .unwrap();
    let vm = target(&guest);

    let (truth, processes) = guest.steady(|| Ok(rows("ps", &vm))).unwrap();
    let said: BTreeSet<u64> = truth.processes.iter().map(|process| process.pid.into()).collect();
    assert_eq!(pids(&processes), said);
    // A search of memory finds the same processes, and each of them.
    let ran = run(["ps", vm.as_str(), "--scan", "--json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let searched = ran.json().as_array().unwrap().clone();
    assert_eq!(pids(&searched), said);
    assert!(searched.iter().all(|row| row["views"].as_array().unwrap().contains(&json!("slab"))));
    let row = processes.iter().find(|row| row["pid"] == web.pid).unwrap();
    assert_eq!(
        (&row["exe"], &row["exe_state"], &row["uid"]),
        (&json!("/usr/bin/web"), &json!("present"), &json!(33))
    );
    assert!(row["task"].as_str().unwrap().starts_with("0xffff"));

    let (truth, sockets) = guest.steady(|| Ok(rows("sockets", &vm))).unwrap();
    let said: BTreeSet<u64> =
        truth.sockets.iter().filter_map(|socket| socket.inode).filter(|inode| *inode > 0).collect();
    let seen: BTreeSet<u64> = sockets.iter().filter_map(|row| row["inode"].as_u64()).collect();
    assert_eq!(seen, said);
    let listener = sockets.iter().find(|row| row["local_port"] == 8080).unwrap();
    assert_eq!((&listener["state"], &listener["processes"]), (&json!("listen"), &json!([web.pid])));

    let names = |rows: &[Value]| rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
    let said: BTreeSet<String> =
        guest.truth().unwrap().modules.iter().map(|module| module.name.clone()).collect();
    let seen: BTreeSet<String> = names(&rows("modules", &vm));
    assert_eq!(seen, said);

    let program = ProgramSpec::CgroupLink { cgroup: "/filtered".into() };
    let filter = guest.spawn(Spawn { programs: vec![program], ..Spawn::default() }).unwrap();
    let programs = rows("ebpf", &vm);
    let [row] = programs.as_slice() else { panic!("{programs:#?}") };
    assert_eq!(
        (&row["type"], &row["name"], &row["processes"]),
        (&json!("cgroup_skb"), &json!("leaving"), &json!([filter.pid]))
    );
    let place = json!({
        "kind": "cgroup",
        "target": "/filtered",
        "attach_type": "cgroup_inet_egress",
        "link": row["attached_to"][0]["link"],
        "sites": null,
        "priority": null
    });
    assert_eq!(row["attached_to"], json!([place]));
    let line = "cgroup:/filtered(cgroup_inet_egress)";
    for command in ["ebpf", "modules", "snapshot"] {
        let table = run([command, &vm]).stdout;
        assert!(table.lines().any(|shown| shown.contains(line) && shown.contains("cgroup_skb")), "{table}");
    }
    guest.kill(filter.pid).unwrap();
    assert_eq!(rows("ebpf", &vm), Vec::<Value>::new());

    let snapshot = run(["snapshot", &vm, "--json"]).json();
    assert_eq!(snapshot["schema"], "birthmark.snapshot/v1");
    assert_eq!(snapshot["kernel"]["release"], truth.kernel.release.as_str());
    assert_eq!(snapshot["vm"]["pid"], guest.pid());
    let listed = run(["list", "--json"]).json();
    let listed = listed.as_array().unwrap().iter().find(|row| row["pid"] == guest.pid()).unwrap();
    assert_eq!((&listed["name"], &listed["state"]), (&json!(guest.name()), &json!("running")));
    assert_eq!(listed["id"], snapshot["vm"]["id"]);

    // For people: a line per object, kernel threads in brackets, or left out. By name this time.
    let table = run(["ps", guest.name()]).stdout;
    assert!(table.lines().any(|line| line.contains("[kthreadd]")), "{table}");
    let table = run(["ps", guest.name(), "--no-kernel"]).stdout;
    assert_eq!(table.lines().count(), 3, "the header, /init and web:\n{table}");
    let table = run(["sockets", &vm]).stdout;
    let line = table.lines().find(|line| line.contains("127.0.0.1:8080")).unwrap();
    assert!(line.contains(&format!("web({})", web.pid)), "{line}");
    let cells: Vec<&str> = line.split_whitespace().take(5).collect();
    assert_eq!(cells, ["tcp", "listen", "0", "128", "127.0.0.1:8080"], "queues as ss has them");

    // The same, chosen with the options of ss and with words.
    let chosen = |args: &[&str]| -> Vec<Value> {
        let ran = run(["sockets", &vm, "--json"].into_iter().chain(args.iter().copied()));
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{args:?}: {ran:?}");
        ran.json().as_array().unwrap().clone()
    };
    let one = chosen(&["-tlnp4", "sport=8000-9000", "process=we*"]);
    let [row] = one.as_slice() else { panic!("{one:#?}") };
    assert_eq!(
        (&row["local_port"], &row["ownership"], &row["backlog"]),
        (&json!(8080), &json!("process"), &json!(128))
    );
    assert!(chosen(&["-6"]).iter().all(|row| row["family"] == "inet6"));
    let netlink = chosen(&["--netlink", "ownership=kernel"]);
    assert!(!netlink.is_empty() && netlink.iter().all(|row| row["family"] == "netlink"), "{netlink:?}");
    assert_eq!(chosen(&["ownership=nobody"]), [Value::Null; 0], "nothing hides");
    assert!(run(["sockets", &vm, "state=open"]).error().contains("there is no state `open`"));

    let table = run(["modules", &vm]).stdout;
    assert!(table.lines().any(|line| line.starts_with("dummy ")), "{table}");

    // Whoever may not look at it is told so, and gets no empty table.
    let ran = run_as_nobody(["ps", &vm]);
    assert!(ran.error().contains("root"), "{ran:?}");
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_hostile_process_cannot_reach_the_terminal() {
    let Some(guest) = guest() else { return };
    let spawned = guest
        .spawn(Spawn {
            exe: "/tmp/a\u{9b}31m\u{202e}b\nc".into(),
            comm: Some("\x1b[2Jx\x07".into()),
            args: vec!["\x1b]0;owned\x07".into(), "two\nlines".into()],
            ..Spawn::default()
        })
        .unwrap();
    let vm = target(&guest);
    for args in [["ps", &vm].as_slice(), &["ps", &vm, "--json"], &["snapshot", &vm], &["audit", &vm]] {
        let ran = run(args);
        let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!ran.stdout.contains(obeyed), "{args:?}: {:?}", ran.stdout);
    }
    let table = run(["ps", &vm, "--no-kernel"]).stdout;
    assert_eq!(table.lines().count(), 3, "a name with a newline is still one line:\n{table}");
    assert!(table.contains("\\u{1b}[2Jx\\u{7}"), "{table}");
    let processes = rows("ps", &vm);
    let row = processes.iter().find(|row| row["pid"] == spawned.pid).unwrap();
    assert_eq!(row["name"], "\x1b[2Jx\x07", "programs get the name as it is");
    assert_eq!(row["args"][1], "two\nlines");
}

#[test]
fn a_vm_is_certified_conforms_and_drifts() {
    let Some(guest) = guest() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (key, file) = (text(&dir.path().join("key")), text(&dir.path().join("web.json")));
    let vm = target(&guest);
    assert_eq!(run(["keygen", "-o", &key]).status, Some(0));
    let public = format!("{key}.pub");

    let uncertified = run(["audit", &vm, "--json"]);
    assert_eq!(uncertified.status, Some(1));
    assert_eq!(uncertified.json()["verdict"], "uncertified");
    assert!(uncertified.json()["turnover"].is_null(), "one look tells of nothing that came and went");

    let name = format!("name={}*", guest.name());
    let certify = ["certify", &vm, "--service", "web", "--key", &key, "-o", &file, "--selector", &name];
    let ran = run(certify.iter().chain(&["--learn", "2s", "--json"]));
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.json()["looks"].as_u64().unwrap() >= 3, "{ran:?}");
    assert!(run(certify).error().contains("exists already"));
    assert_eq!(run(["verify", &file, "--trusted-key", &public]).status, Some(0));

    let audit = ["audit", &vm, "--certificate", &file, "--trusted-key", &public];
    let ran = run(audit);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("conforms"), "{ran:?}");

    let address = "0.0.0.0:4444".parse().unwrap();
    let rogue = guest
        .spawn(Spawn {
            exe: "/tmp/rogue".into(),
            sockets: vec![SocketSpec::TcpListen { address }],
            ..Spawn::default()
        })
        .unwrap();
    let ran = run(audit.iter().chain(&["--json"]));
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let report = ran.json();
    assert_eq!((&report["schema"], &report["verdict"]), (&json!("birthmark.report/v1"), &json!("drifted")));
    let confirmations: BTreeMap<&str, u64> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["rule"].as_str().unwrap(), finding["confirmations"].as_u64().unwrap()))
        .collect();
    assert!(confirmations.contains_key("process.unknown"), "{confirmations:?}");
    assert!(confirmations.contains_key("socket.listener.unknown"), "{confirmations:?}");
    assert!(confirmations.values().all(|looks| *looks >= 2), "a race is no drift: {confirmations:?}");
    // Two looks were needed, so it is known what came and went between them.
    let turnover = &report["turnover"];
    assert!(turnover["created"].as_u64() >= turnover["unseen"].as_u64(), "{turnover}");
    assert!(turnover["since"].as_str() < report["snapshot"]["taken_at"].as_str(), "{turnover}");
    let table = run(audit);
    assert_eq!(table.status, Some(1));
    for word in ["drifted", "/tmp/rogue", "expected", "seen", "came and went between the looks"] {
        assert!(table.stdout.contains(word), "{word} is missing in\n{}", table.stdout);
    }

    // The same, with certificate and key where the host keeps them.
    let config = tempfile::tempdir().unwrap();
    for (from, to) in [(&file, "certificates/web.json"), (&public, "trusted-keys/web.pub")] {
        let to = config.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
    let by_directory = ["audit", &vm, "--config-dir", config.path().to_str().unwrap()];
    assert!(run(by_directory).stdout.contains("drifted"));
    guest.kill(rogue.pid).unwrap();
    let ran = run(by_directory);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    the_finding_is_accepted(&guest, &key, &by_directory, config.path(), &report);
    // A file that is refused might be the one for this VM: that is not the same as no certificate.
    fs::write(config.path().join("certificates/web.json"), "{}").unwrap();
    assert!(run(by_directory).error().contains("is refused"));
}

/// What was drift is accepted, reviewed and signed; then it conforms, and the certificate before is refused.
fn the_finding_is_accepted(guest: &Guest, key: &str, audit: &[&str], config: &Path, report: &Value) {
    let path = |name: &str| text(&config.join(name));
    let certificate = path("certificates/web.json");
    fs::write(path("report.json"), report.to_string()).unwrap();
    let ids: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["id"].as_str().unwrap())
        .collect();
    let accept = ["accept", "--certificate", &certificate, "--config-dir", config.to_str().unwrap()];
    let files = ["--report", &path("report.json"), "-o", &path("next.draft")];
    let ran = run(accept.iter().chain(&ids).chain(&files));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let page = run(["review", &path("next.draft")]).stdout;
    assert!(page.contains("/tmp/rogue") && page.contains("accepted with finding"), "{page}");
    fs::copy(&certificate, path("old.json")).unwrap();
    let ran = run(["sign", &path("next.draft"), "--key", key, "-o", &certificate, "--force"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let address = "0.0.0.0:4444".parse().unwrap();
    let rogue = guest
        .spawn(Spawn {
            exe: "/tmp/rogue".into(),
            sockets: vec![SocketSpec::TcpListen { address }],
            ..Spawn::default()
        })
        .unwrap();
    let ran = run(audit);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    guest.kill(rogue.pid).unwrap();
    // The audit has seen serial 2.
    fs::copy(path("old.json"), &certificate).unwrap();
    assert!(run(audit).error().contains("serial 2 of service \"web\" was seen before"));
}

#[test]
fn siblings_are_learned_together_into_a_draft_with_its_page() {
    let (Some(one), Some(two)) = (guest(), guest()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let draft = text(&dir.path().join("web.draft"));
    let spawn = |guest: &Guest, exe: &str, args: &[&str]| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        guest.spawn(Spawn { exe: exe.into(), args, ..Spawn::default() }).unwrap()
    };
    for guest in [&one, &two] {
        spawn(guest, "/usr/bin/service", &["--password=hunter2"]);
    }
    spawn(&two, "/tmp/tmp.aB3xY9Qz/odd", &[]);
    let (a, b) = (target(&one), target(&two));
    let ran = run(["certify", &a, &b, "--service", "web", "-o", &draft, "--learn", "2s", "--json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(ran.json()["key_id"], Value::Null);
    let written = fs::read_to_string(&draft).unwrap();
    assert!(!written.contains("hunter2"), "{written}");
    let page = fs::read_to_string(format!("{draft}.review.txt")).unwrap();
    assert!(page.contains("/tmp/tmp.*/odd") && page.contains("seen on one of 2 VMs only"), "{page}");
    assert!(page.contains("/usr/bin/service") && page.contains("on 2 VMs"), "{page}");
    assert!(run(["verify", &draft]).status == Some(2), "a draft is no certificate");

    // Reviewed and signed, it is for both.
    let (key, file) = (text(&dir.path().join("key")), text(&dir.path().join("web.json")));
    assert_eq!(run(["keygen", "-o", &key]).status, Some(0));
    assert_eq!(run(["sign", &draft, "--key", &key, "-o", &file]).status, Some(0));
    for vm in [&a, &b] {
        let ran = run(["audit", vm, "--certificate", &file, "--trusted-key", &format!("{key}.pub")]);
        assert_eq!(ran.status, Some(0), "{ran:?}");
    }
}

#[test]
fn an_interrupted_observation_writes_nothing() {
    let Some(guest) = guest() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (key, file) = (text(&dir.path().join("key")), text(&dir.path().join("web.json")));
    assert_eq!(run(["keygen", "-o", &key]).status, Some(0));
    let vm = target(&guest);
    let certify = ["certify", &vm, "--service", "w", "--key", &key, "-o", &file, "--learn", "10m"];
    let mut child = birthmark(certify).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    // It observes once it has the guest's memory open.
    while !holds_memory_of(pid, guest.pid()) {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself: {:?}", child.wait_with_output());
        std::thread::yield_now();
    }
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(2), "{output:?}");
    assert!(output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
    let left: BTreeSet<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["key", "key.pub"].map(Into::into).into());
}

/// Whether a process has a memory file of the guest mapped.
fn holds_memory_of(pid: u32, guest: u32) -> bool {
    let memory = |pid: u32| -> BTreeSet<String> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let inode = |line: &str| line.split_whitespace().nth(4).map(str::to_owned);
        maps.lines().filter(|line| line.contains("memfd:")).filter_map(inode).collect()
    };
    !memory(pid).is_disjoint(&memory(guest))
}

#[test]
fn a_memory_image_shows_what_the_guest_had_and_a_cut_one_is_refused() {
    let Some(guest) = guest() else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("guest.elf");
    guest.qmp(&json!({"execute": "stop"})).unwrap();
    let live = rows("ps", &target(&guest));
    let arguments = json!({"paging": false, "protocol": format!("file:{}", text(&image))});
    guest.qmp(&json!({"execute": "dump-guest-memory", "arguments": arguments})).unwrap();
    let dumped = rows("ps", &text(&image));
    assert_eq!(dumped, live);
    let vm = run(["snapshot", "--json", &text(&image)]).json();
    assert_eq!((&vm["vm"]["hypervisor"], &vm["consistency"]["mode"]), (&json!("image"), &json!("still")));

    cut(&image);
    let ran = run(["ps", &text(&image)]);
    assert!(ran.error().contains("truncated"), "{ran:?}");
    assert_eq!(ran.stdout, "");
}

fn cut(image: &Path) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len / 2).unwrap();
}

#[test]
fn what_the_boot_before_a_reset_left_is_never_shown() {
    let Some(mut guest) = guest() else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../profiles");
    let vm = target(&guest);
    let boot_id = || {
        let mut look = birthmark(["snapshot", vm.as_str(), "--json"]);
        let ran = look.env("BIRTHMARK_HINTS", directory.path()).env("BIRTHMARK_PROFILES", shipped).output();
        let ran = Ran::from(ran.unwrap());
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a hint for the next look");
        ran.json()["kernel"]["boot_id"].clone()
    };
    let mut boots = BTreeSet::new();
    for boot in 0..3 {
        // The kernel gives each boot its name when somebody asks first.
        let said = guest.run(&["cat", "/proc/sys/kernel/random/boot_id"]).unwrap();
        // What the boot before left would be found by its hint, and by the stored profile of its build.
        assert_eq!(boot_id(), said.stdout.trim(), "boot {boot}");
        assert!(boots.insert(said.stdout));
        guest.reset().unwrap();
    }
}

#[test]
fn a_vm_that_has_ended_is_an_error() {
    let Some(guest) = guest() else { return };
    let vm = target(&guest);
    let name = guest.name().to_owned();
    assert_eq!(run(["ps", &vm]).status, Some(0));
    drop(guest);
    assert!(run(["ps", &vm]).error().contains("birthmark list"));
    assert!(run(["ps", &name]).error().contains("No VM"));
}
