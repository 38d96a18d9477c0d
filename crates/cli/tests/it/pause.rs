//! `--pause` on a real guest: it stands while it is looked at, and runs again whatever happens.

use crate::run::{birthmark, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use testkit::{Guest, GuestSpec, Kernel, Need};

fn guest() -> Option<Guest> {
    testkit::require(&[Need::Guest(Kernel::V6_1), Need::Root])
        .then(|| Guest::boot(GuestSpec::new(Kernel::V6_1).memory_mib(256)).unwrap())
}

/// Whether QEMU says that the guest runs. Asks until the guard has let go of the monitor.
fn runs(guest: &Guest) -> bool {
    let status = guest.qmp(&json!({"execute": "query-status"})).unwrap();
    status["running"].as_bool().unwrap()
}

/// The guest's own clock, which stands when it does.
fn clock_ns(guest: &Guest) -> u64 {
    guest.truth().unwrap().kernel.boot_clock_ns
}

/// The guard that a running command has started.
fn guard_of(command: &Child) -> Pid {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let path = format!("/proc/{0}/task/{0}/children", command.id());
        for child in std::fs::read_to_string(path).unwrap_or_default().split_whitespace() {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if line.windows(11).any(|part| part == b"pause-guard") {
                return Pid::from_raw(child.parse().unwrap());
            }
        }
    }
    panic!("it has started no guard");
}

fn paused_look(target: &str, limit_ms: &str) -> Child {
    birthmark(["snapshot", target, "--json", "--pause", limit_ms])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_guest_stands_while_it_is_looked_at_and_no_longer() {
    let Some(guest) = guest() else { return };
    let target = format!("pid:{}", guest.pid());
    let looked = run(["snapshot", &target, "--json", "--pause", "5000"]);
    assert_eq!((looked.status, looked.stderr.as_str()), (Some(0), ""), "{looked:?}");
    let consistency = &looked.json()["consistency"];
    assert_eq!(consistency["mode"], "paused");
    let stood = consistency["paused_us"].as_u64().unwrap();
    assert!((1..5_000_000).contains(&stood), "{stood} µs");
    assert!(runs(&guest));
    guest.truth().unwrap();

    for command in ["ps", "sockets", "modules", "ebpf"] {
        let ran = run([command, &target, "--pause", "5000"]);
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{command}: {ran:?}");
    }
    let audit = run(["audit", &target, "--json", "--pause", "5000"]);
    assert_eq!(audit.json()["snapshot"]["consistency"]["mode"], "paused", "{audit:?}");
    assert!(runs(&guest));
    // Nobody asks, and nothing stands.
    let live = run(["snapshot", &target, "--json"]).json();
    assert_eq!(
        (&live["consistency"]["mode"], &live["consistency"]["paused_us"]),
        (&json!("live"), &json!(null))
    );
}

#[test]
fn a_guest_that_stood_before_is_left_standing() {
    let Some(guest) = guest() else { return };
    let target = format!("pid:{}", guest.pid());
    guest.qmp(&json!({"execute": "stop"})).unwrap();
    let looked = run(["snapshot", &target, "--json", "--pause", "5000"]);
    assert_eq!((looked.status, looked.stderr.as_str()), (Some(0), ""), "{looked:?}");
    let consistency = &looked.json()["consistency"];
    assert_eq!((&consistency["mode"], &consistency["paused_us"]), (&json!("still"), &json!(null)));
    assert!(!runs(&guest));
    guest.qmp(&json!({"execute": "cont"})).unwrap();
}

#[test]
fn a_guest_runs_again_at_the_deadline_while_the_look_still_goes_on_and_the_look_says_so() {
    let Some(guest) = guest() else { return };
    let target = format!("pid:{}", guest.pid());
    assert_eq!(run(["ps", &target]).status, Some(0), "its kernel is known from here on");
    let (began, before) = (Instant::now(), clock_ns(&guest));
    let look = paused_look(&target, "1500");
    let guard = guard_of(&look);
    // A look that takes for ever.
    let pid = Pid::from_raw(look.id().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    // Answers only when the guest runs.
    let after = clock_ns(&guest);
    let host = u64::try_from(began.elapsed().as_nanos()).unwrap();
    let stood = host.saturating_sub(after - before);
    assert!(stood > 500_000_000, "it stood for about {stood} ns");
    assert!(host < 20_000_000_000, "{host} ns");
    assert!(kill(guard, None).is_ok(), "its end is for the look to see");
    kill(pid, Signal::SIGCONT).unwrap();
    let ended = look.wait_with_output().unwrap();
    // Not before: it may have been stopped while it still had the monitor that it had just handed to the guard.
    assert!(runs(&guest));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success() && stderr.contains("longer than the 1500 ms"), "{stderr}");
    let snapshot: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(snapshot["consistency"]["mode"], "live");
    let stood = snapshot["consistency"]["paused_us"].as_u64().unwrap();
    assert!((1_500_000..3_000_000).contains(&stood), "{stood} µs");
}

#[test]
fn a_guest_runs_again_when_whoever_paused_it_is_killed_or_its_guard_is() {
    let Some(guest) = guest() else { return };
    let target = format!("pid:{}", guest.pid());
    assert_eq!(run(["ps", &target]).status, Some(0), "its kernel is known from here on");
    let limit = Duration::from_secs(10);
    let mut look = paused_look(&target, "10000");
    guard_of(&look);
    let pid = Pid::from_raw(look.id().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(look.wait().unwrap().signal(), Some(9));
    guest.truth().unwrap();
    assert!(runs(&guest) && began.elapsed() < limit, "{:?}", began.elapsed());

    let look = paused_look(&target, "10000");
    let guard = guard_of(&look);
    kill(guard, Signal::SIGKILL).unwrap();
    let ended = look.wait_with_output().unwrap();
    guest.truth().unwrap();
    assert!(runs(&guest), "{ended:?}");
}

#[test]
fn a_pause_of_no_time_or_of_more_than_ten_seconds_is_refused() {
    let Some(guest) = guest() else { return };
    let refused = run(["ps", &format!("pid:{}", guest.pid()), "--pause", "0"]);
    assert_eq!(refused.status, Some(2));
    assert_eq!(run(["ps", &format!("pid:{}", guest.pid()), "--pause", "10001"]).status, Some(2));
}
