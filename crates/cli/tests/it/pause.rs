//! `--pause` on a real guest: it stands while it is looked at, and runs again whatever happens.

use crate::run::{birthmark, run};
use hypervisor::Target;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use testkit::vmm::{MapForm, Mapped, Vmm, VmmSpec};
use testkit::{Guest, GuestSpec, Kernel, Need};

fn guest() -> Option<Guest> {
    testkit::require(&[Need::Guest(Kernel::V6_1), Need::Root])
        .then(|| Guest::boot(GuestSpec::new(Kernel::V6_1).memory_mib(256)).unwrap())
}

/// Whether QEMU says that the guest runs. It says so once its process goes on.
fn runs(guest: &Guest) -> bool {
    let status = guest.qmp(&json!({"execute": "query-status"})).unwrap();
    status["running"].as_bool().unwrap()
}

/// Whether every thread of QEMU is stopped.
fn stands(guest: &Guest) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap();
    let mut names = threads.map(|thread| thread.unwrap().file_name());
    names.all(|thread| state(thread.to_str().unwrap().parse().unwrap()) == Some('T'))
}

/// Waits until it does, or does not; how long that took.
fn wait_until_stands(guest: &Guest, wanted: bool) -> Duration {
    let began = Instant::now();
    while stands(guest) != wanted {
        assert!(began.elapsed() < Duration::from_secs(30), "it never stands: {wanted}");
    }
    began.elapsed()
}

/// The state letter of a thread, a zombie's too.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// The guard that a running command has started. `None`: it has ended before that was seen.
fn guard_of(command: &Child) -> Option<Pid> {
    while state(command.id()) != Some('Z') {
        let path = format!("/proc/{0}/task/{0}/children", command.id());
        for child in std::fs::read_to_string(path).unwrap_or_default().split_whitespace() {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if line.windows(11).any(|part| part == b"pause-guard") {
                return Some(Pid::from_raw(child.parse().unwrap()));
            }
        }
    }
    None
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

/// A look whose guest stands, stopped in its middle so that it takes for ever; and its guard.
fn stopped_look(guest: &Guest, limit_ms: &str) -> (Child, Pid, Pid) {
    // On a busy machine the look may be over before this test has seen its guard.
    for _ in 0..50 {
        let mut look = paused_look(&format!("pid:{}", guest.pid()), limit_ms);
        let pid = Pid::from_raw(look.id().try_into().unwrap());
        if let Some(guard) = guard_of(&look) {
            kill(pid, Signal::SIGSTOP).unwrap();
            let guard_lives = || state(guard.as_raw().try_into().unwrap()).is_some_and(|state| state != 'Z');
            while guard_lives() {
                if stands(guest) {
                    return (look, pid, guard);
                }
            }
            kill(pid, Signal::SIGCONT).unwrap();
        }
        look.wait().unwrap();
    }
    panic!("every look was over too soon");
}

#[test]
fn a_guest_that_an_operator_pauses_before_or_meanwhile_stays_paused() {
    let Some(guest) = guest() else { return };
    let target = format!("pid:{}", guest.pid());
    guest.qmp(&json!({"execute": "stop"})).unwrap();
    let looked = run(["snapshot", &target, "--json", "--pause", "5000"]);
    assert_eq!((looked.status, looked.stderr.as_str()), (Some(0), ""), "{looked:?}");
    assert_eq!(looked.json()["consistency"]["mode"], "paused");
    assert!(!stands(&guest) && !runs(&guest));
    guest.qmp(&json!({"execute": "cont"})).unwrap();

    let (mut look, pid, _) = stopped_look(&guest, "10000");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| guest.qmp(&json!({"execute": "stop"})));
        kill(pid, Signal::SIGKILL).unwrap();
        look.wait().unwrap();
        asked.join().unwrap().unwrap();
    });
    wait_until_stands(&guest, false);
    assert!(!runs(&guest), "the operator's pause was undone");
    guest.qmp(&json!({"execute": "cont"})).unwrap();
    guest.truth().unwrap();
}

#[test]
fn a_vmm_that_stood_before_is_left_standing() {
    let Some(guest) = guest() else { return };
    let target = format!("pid:{}", guest.pid());
    let qemu = Pid::from_raw(guest.pid().try_into().unwrap());
    assert_eq!(run(["ps", &target]).status, Some(0), "its kernel is known from here on");
    kill(qemu, Signal::SIGSTOP).unwrap();
    wait_until_stands(&guest, true);
    let looked = run(["snapshot", &target, "--json", "--pause", "5000"]);
    assert_eq!((looked.status, looked.stderr.as_str()), (Some(0), ""), "{looked:?}");
    let consistency = &looked.json()["consistency"];
    assert_eq!((&consistency["mode"], &consistency["paused_us"]), (&json!("still"), &json!(null)));
    assert!(stands(&guest));
    kill(qemu, Signal::SIGCONT).unwrap();
    assert!(runs(&guest));
}

#[test]
fn a_guest_whose_monitor_somebody_else_has_stands_too() {
    let Some(guest) = guest() else { return };
    let mut other = BufReader::new(UnixStream::connect(guest.qmp_socket()).unwrap());
    other.read_line(&mut String::new()).unwrap();
    let looked = run(["snapshot", &format!("pid:{}", guest.pid()), "--json", "--pause", "5000"]);
    assert_eq!((looked.status, looked.stderr.as_str()), (Some(0), ""), "{looked:?}");
    assert_eq!(looked.json()["consistency"]["mode"], "paused");
    drop(other);
    assert!(runs(&guest));
}

#[test]
fn a_guest_runs_again_at_the_deadline_while_the_look_still_goes_on_and_the_look_says_so() {
    let Some(guest) = guest() else { return };
    let target = format!("pid:{}", guest.pid());
    assert_eq!(run(["ps", &target]).status, Some(0), "its kernel is known from here on");
    let (look, pid, guard) = stopped_look(&guest, "1500");
    let stood = wait_until_stands(&guest, false);
    assert!((500..5000).contains(&stood.as_millis()), "it stood for {stood:?} more");
    assert!(runs(&guest));
    assert!(kill(guard, None).is_ok(), "its end is for the look to see");
    kill(pid, Signal::SIGCONT).unwrap();
    let ended = look.wait_with_output().unwrap();
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
    let (mut look, pid, _) = stopped_look(&guest, "10000");
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(look.wait().unwrap().signal(), Some(9));
    let stood = wait_until_stands(&guest, false);
    assert!(stood < Duration::from_secs(5), "the guard's deadline may have been what ended it: {stood:?}");
    guest.truth().unwrap();

    let (look, pid, guard) = stopped_look(&guest, "10000");
    kill(guard, Signal::SIGKILL).unwrap();
    assert!(stands(&guest));
    kill(pid, Signal::SIGCONT).unwrap();
    let ended = look.wait_with_output().unwrap();
    assert!(runs(&guest), "{ended:?}");
    guest.truth().unwrap();
}

#[test]
fn a_guest_of_another_vmm_stands_too() {
    if !testkit::require(&[Need::Root]) || !Vmm::can_start() {
        return;
    }
    let spec = VmmSpec::new("firecracker", (512 << 20, 0), Mapped::Anonymous, MapForm::ZeroPage);
    let vmm = Vmm::start(&VmmSpec { runs_on: true, ..spec }).unwrap();
    let opened = hypervisor::open(&Target::Pid(vmm.pid())).unwrap();
    let mut guard = birthmark(["pause-guard", "5000"]);
    guard.stdin(Stdio::null());
    let pause = opened.pause(Duration::from_secs(5), guard).unwrap().unwrap();
    // Not every thread of it: this kernel's KVM has one of its own in every VMM.
    assert_eq!(state(vmm.pid()), Some('T'));
    let paused = pause.end().unwrap();
    assert!(paused.to_the_end && paused.time.unwrap() < Duration::from_secs(5), "{paused:?}");
    assert!(state(vmm.pid()) != Some('T') && opened.is_alive());
}

#[test]
fn a_pause_of_no_time_or_of_more_than_ten_seconds_is_refused() {
    let Some(guest) = guest() else { return };
    let refused = run(["ps", &format!("pid:{}", guest.pid()), "--pause", "0"]);
    assert_eq!(refused.status, Some(2));
    assert_eq!(run(["ps", &format!("pid:{}", guest.pid()), "--pause", "10001"]).status, Some(2));
}
