//! What the tables of a real guest look like on terminals of several widths, in pipes and twice in a row, with processes in the guest
//! that try to spoil them.

use crate::run::{birthmark, run};
use nix::pty::{Winsize, openpty};
use serde_json::Value;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::process::Stdio;
use testkit::{Guest, GuestSpec, Kernel, Need, SocketSpec, Spawn, UnixType};
use unicode_width::UnicodeWidthChar;

/// Processes in a chain, each the parent of the next: deeper than any terminal is wide.
const DEPTH: usize = 120;

const TABLES: [&[&str]; 9] = [
    &["ps"],
    &["ps", "--tree"],
    &["ps", "--threads", "--env"],
    &["ps", "--tree", "--no-kernel", "-o", "pid,name"],
    &["sockets"],
    &["sockets", "-e"],
    &["modules"],
    &["ebpf"],
    &["list"],
];

/// A guest in which processes have names, arguments and sockets that no table is made for.
fn hostile_guest() -> Option<Guest> {
    if !testkit::require(&[Need::Guest(Kernel::V6_1), Need::Root]) {
        return None;
    }
    let guest = Guest::boot(GuestSpec::new(Kernel::V6_1)).unwrap();
    guest.load_module("dummy").unwrap();
    let spawn = |exe: &str, comm: &str, args: &[&str], sockets: Vec<SocketSpec>| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let comm = (!comm.is_empty()).then(|| comm.to_owned());
        guest.spawn(Spawn { exe: exe.into(), comm, args, sockets, ..Spawn::default() }).unwrap();
    };
    let ip = "127.0.0.1".parse().unwrap();
    let sockets = vec![
        SocketSpec::TcpPair { ip },
        SocketSpec::TcpMapped,
        SocketSpec::UnixListen { path: "@a\x1b[2J\nb".into(), unix_type: UnixType::Stream },
        SocketSpec::UnixListen { path: format!("/tmp/{}", "路".repeat(30)), unix_type: UnixType::Dgram },
        SocketSpec::Packet { ethertype: 3, cooked: false },
    ];
    spawn("/usr/bin/web", "", &[], sockets);
    spawn("/tmp/日本語プログラム", "日本語", &["日本語", "引数"], Vec::new());
    spawn("/tmp/\x1b]0;x\x07\nb", "\x1b[2J\nroot", &["\x1b[31m", "\u{9b}31m", "\r"], Vec::new());
    spawn("/tmp/marks", "", &[&"a\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}".repeat(500)], Vec::new());
    spawn("/tmp/long", "", &[&"A".repeat(100_000)], Vec::new());
    spawn("/tmp/thread", "[kthreadd]", &[], Vec::new());
    spawn("/tmp/branch", "└─ sshd", &[], Vec::new());
    let chain = format!(
        "f(){{ [ $1 -gt 0 ] && {{ (f $(($1-1))); :; }}; sleep 10000; }}; (f {DEPTH}) >/dev/null 2>&1 </dev/null &"
    );
    assert_eq!(guest.run(&["sh", "-c", &chain]).unwrap().status, Some(0));
    let vm = format!("pid:{}", guest.pid());
    let chained = || run(["ps", vm.as_str(), "--json", "--name", "busybox"]).json().as_array().unwrap().len();
    while chained() < DEPTH {
        std::thread::yield_now();
    }
    Some(guest)
}

/// What a command prints on a terminal of this width, and its status.
fn on_terminal(args: &[&str], columns: u16, colour: bool) -> (String, Option<i32>) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).unwrap();
    let mut command = birthmark(args);
    if colour {
        command.env("TERM", "xterm").env_remove("NO_COLOR");
    } else {
        command.env("NO_COLOR", "1");
    }
    let mut child = command.stdin(Stdio::null()).stdout(pty.slave).stderr(Stdio::piped()).spawn().unwrap();
    // The command's copy of the other end goes with it.
    drop(command);
    let mut terminal = File::from(pty.master);
    let mut printed = Vec::new();
    let mut some = [0; 65_536];
    loop {
        match terminal.read(&mut some) {
            Ok(0) => break,
            Ok(length) => printed.extend_from_slice(&some[..length]),
            // That is how a terminal says that nobody writes to it any more.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told, "", "{args:?}");
    let printed = String::from_utf8(printed).unwrap().replace("\r\n", "\n");
    (printed, child.wait().unwrap().code())
}

fn columns_of(line: &str) -> usize {
    line.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The command with the target where it belongs.
fn with<'a>(table: &[&'a str], vm: &'a str) -> Vec<&'a str> {
    let mut args = table.to_vec();
    if table[0] != "list" {
        args.insert(1, vm);
    }
    args
}

#[test]
fn every_table_fits_every_terminal_and_obeys_no_guest() {
    let Some(guest) = hostile_guest() else { return };
    let vm = format!("pid:{}", guest.pid());
    for table in TABLES {
        let args = with(table, &vm);
        for width in [12, 40, 60, 80, 120, 200] {
            let (printed, status) = on_terminal(&args, width, false);
            assert_eq!(status, Some(0), "{args:?}");
            for line in printed.lines() {
                assert!(columns_of(line) <= width.into(), "{args:?} at {width}: {line}");
                assert!(!line.contains(|c: char| c.is_control()), "{args:?} at {width}: {line:?}");
            }
        }
        // Colours are all that a terminal is told.
        let (coloured, _) = on_terminal(&args, 80, true);
        let (plain, _) = on_terminal(&args, 80, false);
        let mut without = coloured.clone();
        for code in ["1;31", "0", "1", "2", "32", "33"] {
            without = without.replace(&format!("\x1b[{code}m"), "");
        }
        assert!(!without.contains('\x1b'), "{args:?}: {coloured:?}");
        assert_eq!(without.lines().next(), plain.lines().next(), "{args:?}");
        assert!(coloured.starts_with("\x1b[1m"), "a header stands out: {coloured:?}");
    }

    // What a responder came for is there where there is little room.
    let (tree, _) = on_terminal(&["ps", &vm, "--tree", "--no-kernel"], 60, false);
    let deep = tree.lines().filter(|line| line.contains("└─ busybox")).count();
    assert!(deep >= DEPTH, "the name at the end of a branch is shown:\n{tree}");
    let rows = run(["sockets", &vm, "--json", "-t", "state", "established"]).json();
    let (narrow, _) = on_terminal(&["sockets", &vm, "-t", "state", "established"], 60, false);
    for row in rows.as_array().unwrap() {
        let port = format!(":{} ", row["local_port"]);
        assert!(narrow.contains(&port), "a port is shown as a whole, {port}:\n{narrow}");
    }
    assert!(narrow.lines().next().unwrap().ends_with(" …"), "it says that columns are left out:\n{narrow}");

    // A pipe gets all of it, a line per row.
    let piped = run(["ps", &vm]).stdout;
    let rows = run(["ps", &vm, "--json"]).json();
    assert_eq!(piped.lines().count(), rows.as_array().unwrap().len() + 1);
    assert!(piped.contains(&"A".repeat(100_000)), "nothing is cut");
    assert!(piped.contains("\"[kthreadd]\"") && piped.contains("\"└─ sshd\""), "{piped:.20000}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let Some(guest) = hostile_guest() else { return };
    let vm = format!("pid:{}", guest.pid());
    let json = [["ps", "--json"].as_slice(), &["sockets", "--json"], &["snapshot"], &["snapshot", "--json"]];
    for table in TABLES.iter().chain(&json) {
        let args = with(table, &vm);
        let mut child = birthmark(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 1];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), [].as_slice()), "{args:?}");
    }
    // One that watches hears of it although there is nothing to print.
    for args in [["watch", &vm, "--interval", "1h"].as_slice(), &["watch", &vm, "--interval", "1h", "--json"]]
    {
        let mut child = birthmark(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 1];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), [].as_slice()), "{args:?}");
    }
}

/// What a running guest changes by itself is not what is compared.
fn without_what_moves(rows: &Value) -> Vec<Value> {
    // Of the views, those of the run queues and the CPUs.
    let moves = [
        "cpu_time_ns",
        "resident_bytes",
        "state",
        "executing",
        "views",
        "receive_queue",
        "send_queue",
        "thread_list",
    ];
    let mut rows = rows.as_array().unwrap().clone();
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        // A worker of the kernel calls itself after what it does now.
        if row.get("kernel_thread") == Some(&Value::Bool(true)) {
            row.remove("name");
        }
        moves.iter().for_each(|field| drop(row.remove(*field)));
    }
    rows
}

#[test]
fn two_looks_at_a_running_guest_show_the_same_rows_in_the_same_order() {
    let Some(guest) = hostile_guest() else { return };
    let vm = format!("pid:{}", guest.pid());
    let stormy = guest.fork_storm(1, 60).unwrap();
    for table in
        [["ps"].as_slice(), &["ps", "--threads", "--sort", "-uid"], &["sockets"], &["modules"], &["ebpf"]]
    {
        let mut args = with(table, &vm);
        args.push("--json");
        // What lives in both looks stands in the same order in both, whatever else comes and goes.
        let looks = [run(&args).json(), run(&args).json()].map(|rows| without_what_moves(&rows));
        let key = |row: &Value| row.get("pid").or(row.get("sock")).or(row.get("module")).cloned();
        let [first, second] = &looks;
        let both = |row: &&Value| first.contains(row) && second.contains(row);
        let [one, other]: [Vec<&Value>; 2] = [first, second].map(|rows| rows.iter().filter(both).collect());
        assert_eq!(one, other, "{args:?}");
        let stays = |row: &&Value| second.iter().any(|now| key(now) == key(row));
        let changed: Vec<&Value> = first.iter().filter(stays).filter(|row| !second.contains(row)).collect();
        // Only the storm's own processes may be given their pids again.
        let forks = |row: &&Value| row["pid"].as_u64() > Some(stormy.pid.into());
        assert!(changed.iter().all(forks), "{args:?}: {changed:#?}");
        let least = if table[0] == "ps" { DEPTH } else { usize::from(table[0] != "ebpf") };
        assert!(one.len() >= least, "{args:?}: {one:#?}");
    }
    guest.kill(stormy.pid).unwrap();
    // In a file that stands still, byte for byte.
    guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    for table in ["ps", "sockets", "modules", "ebpf"] {
        let looks = [run([table, &vm, "--json"]).stdout, run([table, &vm, "--json"]).stdout];
        assert_eq!(looks[0], looks[1], "{table}");
    }
}
