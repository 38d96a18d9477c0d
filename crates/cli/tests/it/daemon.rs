//! `status`, `findings`, `quarantine`, `release`, against a server that gives the answers of a daemon.

use crate::run::{Ran, run};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// Answers one request after the other; ends with the test's process.
struct Daemon {
    dir: tempfile::TempDir,
    requests: Receiver<String>,
}

impl Daemon {
    /// `answer` gets `METHOD PATH` and gives status and body.
    fn new(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("d.sock")).unwrap();
        let (sender, requests) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
                let first = lines.next().unwrap_or_default();
                let request = first.trim_end_matches(" HTTP/1.1").to_owned();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let (status, body) = answer(&request);
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                // The client may be gone: some tests give it nonsense.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
                if sender.send(request).is_err() {
                    break;
                }
            }
        });
        Self { dir, requests }
    }

    fn with(status: u16, body: Value) -> Self {
        Self::new(move |_| (status, body.to_string()))
    }

    fn run(&self, args: &[&str]) -> Ran {
        let socket = self.dir.path().join("d.sock");
        run(args.iter().copied().chain(["--socket", socket.to_str().unwrap()]))
    }
}

fn finding(state: &str, accepted: bool) -> Value {
    json!({
        "vm": {"name": "web-1", "id": "uuid:x", "pid": 7}, "state": state, "accepted": accepted,
        "id": "00ff", "rule": "process.unknown", "severity": "high", "subject": "process \u{1b}[2Jnc",
        "message": "it runs", "evidence": {}, "views_seen": [], "views_missing": [], "confirmations": 2,
    })
}

#[test]
fn a_daemon_that_does_not_run_is_an_error_that_says_how_to_start_it() {
    for args in [&["status"][..], &["findings"], &["release", "web-1"], &["quarantine", "web-1"]] {
        let ran = run(args);
        assert!(ran.error().contains("birthmarkd --config"), "{ran:?}");
        assert!(ran.error().contains("/nonexistent/birthmarkd.sock"), "{ran:?}");
    }
}

#[test]
fn status_shows_the_daemon_its_vms_and_quarantines() {
    let quarantine = json!({
        "vm_id": "uuid:x", "vm_name": "web-1", "state": "applied", "since": "2026-11-01T00:00:00Z", "management": [],
        "devices": [{"interface": "tap0", "rules": {"state": "cut", "from_packets": 3, "from_bytes": 180,
                     "to_packets": 4, "to_bytes": 240}}],
    });
    let status = json!({
        "version": "0.1.0", "pid": 99, "started": "2026-11-01T00:00:00Z", "interval_seconds": 0.5,
        "quarantine_enabled": true, "mode": "enforce", "management": [], "vms": 1,
        "certificates": [{"service": "web", "serial": 3, "not_after": "2027-11-01T00:00:00Z"}],
        "quarantines": [quarantine],
    });
    let vms = json!([{
        "name": "web-1", "id": "uuid:x", "hypervisor": "kvm", "pid": 7, "memory_bytes": 1, "vcpus": 1, "state": "running",
        "verdict": "drifted", "certificate": {"service": "web", "serial": 3}, "kernel": "6.1.0", "looks": 12,
        "last_look": "2026-11-01T00:00:00Z", "elapsed_us": 800, "confirmed": 1, "pending": 0, "problem": null,
        "quarantine": quarantine,
    }]);
    let daemon = Daemon::new(move |request| match request {
        "GET /v1/status" => (200, status.to_string()),
        "GET /v1/vms" => (200, vms.to_string()),
        _ => (404, "{}".to_owned()),
    });
    let ran = daemon.run(&["status"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    for word in ["enforce", "web serial 3", "drifted", "tap0", "applied", "6.1.0"] {
        assert!(ran.stdout.contains(word), "{word} is missing in\n{}", ran.stdout);
    }
    let json = daemon.run(&["status", "--json"]).json();
    assert_eq!(json["daemon"]["pid"], 99);
    assert_eq!(json["vms"][0]["name"], "web-1");
}

#[test]
fn an_open_finding_is_status_1_and_an_accepted_or_pending_one_is_not() {
    for (findings, status) in [
        (json!([finding("confirmed", false)]), 1),
        (json!([finding("confirmed", true)]), 0),
        (json!([finding("pending", false)]), 0),
        (json!([]), 0),
    ] {
        let daemon = Daemon::with(200, findings.clone());
        let ran = daemon.run(&["findings"]);
        assert_eq!(ran.status, Some(status), "{findings}: {ran:?}");
        assert!(!ran.stdout.contains('\x1b'));
        assert_eq!(daemon.run(&["findings", "--json"]).json(), findings);
    }
}

#[test]
fn quarantine_and_release_name_the_vm_in_the_path_and_nothing_else() {
    let answer = json!({"event": "x", "vm": {"name": "web 1", "id": "uuid:x"}, "devices": ["tap0"], "accepted": ["00ff"]});
    let daemon = Daemon::with(200, answer);
    let ran = daemon.run(&["quarantine", "../web 1"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), "web 1 is cut off at tap0\n"), "{ran:?}");
    assert_eq!(daemon.requests.recv().unwrap(), "POST /v1/vms/%2E%2E%2Fweb%201/quarantine");
    let ran = daemon.run(&["release", "web 1"]);
    assert!(ran.stdout.starts_with("web 1 is released"), "{ran:?}");
    assert_eq!(daemon.requests.recv().unwrap(), "POST /v1/vms/web%201/release");
}

#[test]
fn what_the_daemon_refuses_is_an_error_with_its_reason() {
    let daemon = Daemon::with(404, json!({"error": "VM \"web-1\" is not in\nquarantine"}));
    let ran = daemon.run(&["release", "web-1"]);
    assert!(
        ran.error().contains("web-1 is not released") && ran.error().contains("is not in\\nquarantine"),
        "{ran:?}"
    );
}

#[test]
fn nonsense_from_the_socket_is_an_error() {
    let daemon = Daemon::new(|_| (200, "hello".to_owned()));
    daemon.run(&["status"]).error();
    let daemon = Daemon::with(200, json!({"findings": 3}));
    daemon.run(&["findings"]).error();
    let daemon = Daemon::new(|_| (500, String::new()));
    daemon.run(&["findings"]).error();
}
