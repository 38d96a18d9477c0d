//! The program itself: how it starts, ends, is killed, and goes on.

use crate::client::Client;
use crate::world::{ENFORCE, Site, events, vm, wait_until};
use facts::Nic;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quarantine::{Journal, Nftables, Policy, Quarantine};
use std::fs;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_birthmarkd");

/// A child that does not outlive the test.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_with(config: &str) -> Output {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("d.toml");
    fs::write(&path, config).unwrap();
    Command::new(PROGRAM).arg("--config").arg(path).output().unwrap()
}

fn one_line(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn a_malformed_configuration_is_one_line_and_status_2() {
    let line = one_line(&run_with("certificates = \"/c\"\ntrusted_keys = \"/k\"\ninterval = \"soon\"\n"));
    assert!(line.contains("d.toml, line 3, key \"interval\": \"soon\" is not a time"), "{line}");
    let missing = Command::new(PROGRAM).args(["--config", "/nonexistent/d.toml"]).output().unwrap();
    let line = one_line(&missing);
    assert!(line.contains("/nonexistent/d.toml") && line.contains("No such file"), "{line}");
    assert_eq!(Command::new(PROGRAM).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_state_directory_that_cannot_be_used_is_one_line_and_status_2() {
    let line = one_line(&run_with(
        "certificates = \"/c\"\ntrusted_keys = \"/k\"\nstate_dir = \"/proc/none\"\nsocket = \"/proc/none/s\"\n",
    ));
    assert!(line.contains("/proc/none"), "{line}");
}

fn start(site: &Site, quarantine: &str) -> Guarded {
    start_with(site, &site.config_text(quarantine).replace("20ms", "1s"))
}

/// Starts the program with this configuration, and waits until it is ready.
pub fn start_with(site: &Site, config: &str) -> Guarded {
    fs::write(site.path("d.toml"), config).unwrap();
    let before = events(&site.path("findings.jsonl"), "daemon.started").len();
    let program = Guarded::start(PROGRAM, &["--config", site.path("d.toml").to_str().unwrap()]);
    wait_until("the daemon", || events(&site.path("findings.jsonl"), "daemon.started").len() > before);
    wait_until("its socket", || std::os::unix::net::UnixStream::connect(site.path("run/d.sock")).is_ok());
    program
}

#[test]
fn signals_end_it_cleanly_and_reload_certificates() {
    let site = Site::new();
    let loaded = || events(&site.path("findings.jsonl"), "certificate.loaded").len();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut program = start(&site, "");
        let before = loaded();
        assert!(before > 0);
        program.signal(Signal::SIGHUP);
        wait_until("the certificates to be read again", || loaded() > before);
        program.signal(signal);
        assert_eq!(program.exit_code(), Some(0), "{signal}");
        assert!(!site.path("run/d.sock").exists());
    }
    assert_eq!(events(&site.path("findings.jsonl"), "daemon.stopped").len(), 2);
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let site = Site::new();
    let _first = start(&site, "");
    let second = Command::new(PROGRAM).arg("--config").arg(site.path("d.toml")).output().unwrap();
    assert!(one_line(&second).contains("only one birthmarkd"));
    assert_eq!(Client::new(&site.path("run/d.sock")).get("/v1/status").0, 200);
}

#[test]
fn a_killed_daemon_neither_loses_nor_lifts_a_quarantine() {
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("not root")
    } else if Nftables::find().is_err() {
        Some("nft is not installed")
    } else {
        None
    };
    if let Some(missing) = missing {
        assert!(std::env::var("BIRTHMARK_TESTS").as_deref() != Ok("all"), "cannot run: {missing}");
        eprintln!("skipped: {missing}");
        return;
    }
    // A namespace that plays the VMM's, with a device that plays the tap.
    let vmm = Guarded::start("unshare", &["--net", "sleep", "600"]);
    let comm = format!("/proc/{}/comm", vmm.0.id());
    wait_until("the namespace", || fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n"));
    let namespace = format!("/proc/{}/ns/net", vmm.0.id());
    let inside = |command: &str| {
        let output = Command::new("nsenter")
            .arg(format!("--net={namespace}"))
            .args(command.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    inside("ip link add tap0 type veth peer name other");
    let rules = || inside("nft list ruleset");

    let site = Site::new();
    {
        let journal = Journal::open(&site.path("state/quarantine")).unwrap();
        let nft = Box::new(Nftables::find().unwrap());
        let nic = Nic { interface: "tap0".into(), namespace: namespace.clone() };
        let mut quarantine = Quarantine::new(journal, nft).unwrap();
        quarantine.cut_off(&vm("web", 1), &[nic], &Policy::strict()).unwrap();
    }
    inside("nft flush ruleset");
    let program = start(&site, ENFORCE);
    assert!(rules().contains("birthmark_tap0"), "the daemon started without putting the rules back");
    program.signal(Signal::SIGKILL);
    drop(program);
    assert!(rules().contains("birthmark_tap0"), "the rules went with the daemon");
    inside("nft flush ruleset");

    let program = start(&site, ENFORCE);
    assert!(rules().contains("birthmark_tap0"), "the quarantine was lost with the daemon");
    let client = Client::new(&site.path("run/d.sock"));
    let (_, status) = client.get("/v1/status");
    assert_eq!(status["quarantines"][0]["devices"][0]["rules"]["state"], "cut", "{status}");
    assert_eq!(client.post("/v1/vms/web/release").0, 200);
    assert!(rules().trim().is_empty());
    program.signal(Signal::SIGKILL);
    drop(program);
    let _program = start(&site, ENFORCE);
    assert!(rules().trim().is_empty(), "a release was lost");
}
