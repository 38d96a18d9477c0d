//! birthmarkd in the demo, and the events it writes.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that an event is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The running daemon. Killed when dropped.
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it with a configuration in `directory`, where its state, socket and events are too.
    pub(super) fn start(program: &Path, directory: &Path, management: &str) -> Result<Self> {
        let config = directory.join("birthmarkd.toml");
        let at = |name: &str| directory.join(name).display().to_string();
        let text = format!(
            "only = [\"web-1\"]\n\
             interval = \"10ms\"\n\
             confirm_after = \"1ms\"\n\
             state_dir = {:?}\n\
             findings = {:?}\n\
             socket = {:?}\n\
             certificates = {:?}\n\
             trusted_keys = {:?}\n\
             \n\
             [quarantine]\n\
             enabled = true\n\
             mode = \"enforce\"\n\
             management = [{management:?}]\n",
            at("state"),
            at("findings.jsonl"),
            at("birthmarkd.sock"),
            at("certificates"),
            at("signing.key.pub"),
        );
        fs::write(&config, &text).with_context(|| format!("{} could not be written", config.display()))?;
        println!("\n$ cat birthmarkd.toml\n{}\n$ birthmarkd --config birthmarkd.toml &", text.trim_end());
        let log = File::create(directory.join("birthmarkd.log"))?;
        let child = Command::new(program)
            .args(["--config", "birthmarkd.toml"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} could not be started", program.display()))?;
        Ok(Self { child })
    }

    /// Ends it as systemd would.
    pub(super) fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "birthmarkd ended with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon's events, one JSON object per line.
pub(super) struct Events {
    path: PathBuf,
}

impl Events {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// All events of a kind so far.
    pub(super) fn all(&self, kind: &str) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        // The last line may be half written.
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        let mut events = Vec::new();
        for line in complete.lines() {
            let event: Value =
                serde_json::from_str(line).with_context(|| format!("An event is no JSON: {line}"))?;
            if event["event"] == kind {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// The first event of a kind that fits, waited for.
    pub(super) fn wait_for(&self, kind: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let started = Instant::now();
        loop {
            if let Some(event) = self.all(kind)?.into_iter().find(|event| fits(event)) {
                return Ok(event);
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "birthmarkd wrote no event {kind} in {} s; its log and events are beside {}",
                PATIENCE.as_secs(),
                self.path.display()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
