//! The first thing anyone sees: a real guest is certified, drifts, and is cut off.
//!
//! Nothing here is played: a Debian kernel boots under QEMU's software emulation behind a tap on a bridge in a network
//! namespace of its own, and everything that is shown was done by the programs that users get. What takes part in it,
//! guest, daemon and namespace, ends with it, however it ends.

mod guard;
mod pulse;

use crate::run::{cargo, root, step};
use crate::setup;
use anyhow::{Context, Result, bail, ensure};
use guard::{Daemon, Events};
use pulse::Pulse;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::net::NetNs;
use testkit::{Activity, Guest, GuestSpec, Kernel, Nic, SocketSpec, Spawn, Transport};

const TAP: &str = "tap-web-1";
/// The world outside: what the guest serves, and what it loses.
const WORLD: &str = "10.77.0.1/24";
const GUEST: &str = "10.77.0.2/24";
const SERVICE: &str = "10.77.0.2:80";
/// The guest's kernel.
const KERNEL: Kernel = Kernel::V6_12;
/// The management network: what stays open in quarantine.
const MANAGEMENT: &str = "10.77.1.0/24";
const OPERATOR: &str = "10.77.1.1/24";
const GUEST_MANAGEMENT: &str = "10.77.1.2/24";
const SERVICE_MANAGEMENT: &str = "10.77.1.2:80";
/// How long nothing may come through before a connection is called dead: a hundred times what an answer takes.
const SILENCE: Duration = Duration::from_millis(500);

pub(crate) fn run() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "The demo makes a network namespace and a tap: run it as root");
    let started = Instant::now();
    title("Setting up: packages, a Debian kernel, and a build");
    setup::guest(KERNEL)?;
    step(cargo().args(["build", "--quiet", "--package", "cli", "--package", "daemon", "--bins"]))?;
    let stage = Stage::set()?;
    stage.guest_is_seen()?;
    stage.guest_is_certified()?;
    stage.guest_drifts_and_is_cut_off()?;
    title("Done");
    say(&format!("The whole demo took {:.0} s, the build included.", started.elapsed().as_secs_f64()));
    Ok(())
}

/// The guest, its network, and the directory everything is kept in.
struct Stage {
    guest: Guest,
    network: NetNs,
    directory: PathBuf,
    birthmark: PathBuf,
    birthmarkd: PathBuf,
}

impl Stage {
    fn set() -> Result<Self> {
        title("A guest boots behind a tap on a bridge, in a network namespace of its own");
        let network = NetNs::new()?;
        network.bridge("br0", WORLD)?;
        network.ip(&["address", "add", OPERATOR, "dev", "br0"])?;
        network.tap(TAP, Some("br0"))?;
        let booting = Instant::now();
        let nic = Nic {
            tap: TAP.to_owned(),
            namespace: Some(network.name().to_owned()),
            mac: "52:54:00:00:00:01".to_owned(),
        };
        let guest = Guest::boot(GuestSpec::new(KERNEL).name("web-1").memory_mib(512).nic(nic))?;
        guest.net_up("eth0", GUEST, None)?;
        guest.net_up("eth0", GUEST_MANAGEMENT, None)?;
        guest.spawn(Spawn {
            exe: "/usr/sbin/webserver".into(),
            args: vec!["/usr/sbin/webserver".into(), "--port".into(), "80".into()],
            sockets: vec![SocketSpec::TcpListen { address: "0.0.0.0:80".parse()? }],
            activity: Activity::Echo,
            ..Spawn::default()
        })?;
        guest.spawn_many(
            3,
            Spawn { exe: "/usr/bin/worker".into(), uid: Some(33), gid: Some(33), ..Spawn::default() },
        )?;
        say(&format!(
            "Linux {} was up after {:.1} s, under software emulation, with nothing of ours in it that Birthmark uses.",
            guest.kernel().release,
            booting.elapsed().as_secs_f64()
        ));
        let directory = root().join("target/demo");
        if directory.exists() {
            std::fs::remove_dir_all(&directory).context("An earlier demo's files could not be removed")?;
        }
        std::fs::create_dir_all(directory.join("certificates"))?;
        let binary = |name: &str| testkit::lab::directory().with_file_name("debug").join(name);
        Ok(Self {
            guest,
            network,
            directory,
            birthmark: binary("birthmark"),
            birthmarkd: binary("birthmarkd"),
        })
    }

    fn guest_is_seen(&self) -> Result<()> {
        title("What the host sees, reading the guest's memory and asking nobody");
        self.birthmark(&["list"])?;
        self.birthmark(&["ps", "web-1", "--no-kernel"])?;
        self.birthmark(&["sockets", "web-1"])?;
        self.birthmark(&["modules", "web-1"])
    }

    fn guest_is_certified(&self) -> Result<()> {
        title("The guest is known to be good now: it gets its birth certificate, signed");
        self.birthmark(&["keygen", "-o", "signing.key"])?;
        self.birthmark(&[
            "certify",
            "web-1",
            "--service",
            "web",
            "--key",
            "signing.key",
            "-o",
            "certificates/web.json",
        ])?;
        self.birthmark(&["verify", "certificates/web.json", "--trusted-key", "signing.key.pub"])?;
        let audit =
            ["audit", "web-1", "--certificate", "certificates/web.json", "--trusted-key", "signing.key.pub"];
        self.birthmark(&audit)
    }

    fn guest_drifts_and_is_cut_off(&self) -> Result<()> {
        title("The daemon watches it, and two connections go through the tap");
        let events = Events::new(self.directory.join("findings.jsonl"));
        let daemon = Daemon::start(&self.birthmarkd, &self.directory, MANAGEMENT)?;
        let verdict = events.wait_for("vm.verdict", |event| event["vm"]["name"] == "web-1")?;
        say(&format!(
            "birthmarkd looks every 10 ms and says: web-1 {}",
            verdict["verdict"].as_str().unwrap_or("?")
        ));
        let world = self.network.enter(|| Pulse::start(SERVICE))??;
        let operator = self.network.enter(|| Pulse::start(SERVICE_MANAGEMENT))??;
        world.wait_for_answers(50)?;
        operator.wait_for_answers(50)?;
        say(
            "An established connection from the world, and one from the management network: bytes go both ways.",
        );

        title("A rogue listener starts in the guest");
        let order = Instant::now();
        let rogue = self.guest.listen("/tmp/rogue", Transport::Tcp, "0.0.0.0:4444".parse()?)?;
        let listening = Instant::now();
        let cut = events.wait_for("vm.quarantined", |event| event["vm"]["name"] == "web-1")?;
        world.wait_for_silence(SILENCE)?;
        let passed = world.last_answer().saturating_duration_since(order);

        for finding in events.all("finding.confirmed")? {
            say(&format!(
                "finding  {}  {}",
                finding["finding"]["rule"].as_str().unwrap_or("?"),
                finding["finding"]["message"].as_str().unwrap_or("?")
            ));
        }
        let milliseconds =
            |key: &str| cut[key].as_f64().map_or("?".to_owned(), |s| format!("{:.1} ms", s * 1000.0));
        say(&format!(
            "{:.0} ms after the order to exec it went to the guest, the last packet had passed the tap",
            passed.as_secs_f64() * 1000.0
        ));
        say(&format!(
            "(the guest, emulated, took {:.0} ms to fork, exec, listen and say so)",
            listening.saturating_duration_since(order).as_secs_f64() * 1000.0
        ));
        say(&format!(
            "{} passed from the first look that saw it to the rule in place, of which nft took {}",
            milliseconds("seconds_to_rule"),
            milliseconds("seconds_to_apply")
        ));
        self.shell(self.network.name(), &format!("nft list table netdev birthmark_{TAP}"))?;

        title("It is cut off: what still works, and what does not");
        say(&format!(
            "established connection from the world: dead for {:.1} s",
            world.silence().as_secs_f64()
        ));
        let refused = self.network.enter(|| pulse::connects(SERVICE, Duration::from_secs(1)))?;
        ensure!(!refused, "A new connection from the world came through a quarantine");
        say("new connection from the world:          no answer");
        let before = operator.answers();
        operator.wait_for_answers(before + 50)?;
        say(&format!("connection from management ({MANAGEMENT}): alive, {} answers", operator.answers()));
        self.birthmark(&["status", "--socket", "birthmarkd.sock"])?;

        title("An operator removes the rogue and releases the guest");
        self.guest.kill(rogue.pid)?;
        self.birthmark(&["release", "web-1", "--socket", "birthmarkd.sock"])?;
        ensure!(
            self.network.enter(|| pulse::connects(SERVICE, Duration::from_secs(5)))?,
            "A new connection from the world did not come through after the release"
        );
        say("new connection from the world: answered again");
        let before = world.answers();
        world.wait_for_answers(before + 1)?;
        say("the old one too: it was cut, not reset");
        daemon.stop()?;
        self.birthmark(&[
            "audit",
            "web-1",
            "--certificate",
            "certificates/web.json",
            "--trusted-key",
            "signing.key.pub",
        ])
    }

    /// Runs the command line as a user would, in the demo's directory, and shows both.
    fn birthmark(&self, arguments: &[&str]) -> Result<()> {
        println!("\n$ birthmark {}", arguments.join(" "));
        let status = Command::new(&self.birthmark)
            // What the host remembers of its own services is none of the demo's business.
            .env("BIRTHMARK_STATE_DIR", &self.directory)
            .args(arguments)
            .current_dir(&self.directory)
            .status()
            .with_context(|| format!("{} could not be started", self.birthmark.display()))?;
        if !status.success() {
            bail!("birthmark {} ended with {status}", arguments.join(" "));
        }
        Ok(())
    }

    /// Runs a command in the demo's network namespace, and shows both.
    fn shell(&self, namespace: &str, line: &str) -> Result<()> {
        println!("\n$ {line}");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).args(line.split_whitespace());
        let status = command.status().with_context(|| format!("`{line}` could not be started"))?;
        ensure!(status.success(), "`{line}` ended with {status}");
        Ok(())
    }
}

fn title(text: &str) {
    println!("\n=== {text}");
}

fn say(text: &str) {
    println!("  {text}");
}
