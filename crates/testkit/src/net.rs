//! Network namespaces, bridges and taps for guests, with all of it gone when the test is.
//!
//! Everything is inside a namespace that this process made; the host's own network is never touched.

use crate::lab;
use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "bmlab-";

/// A network namespace, deleted when dropped (with its bridges and taps; a guest in it keeps it alive until it ends).
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes one with its loopback up, and removes those of test processes that were killed.
    pub fn new() -> Result<Self> {
        static NAMESPACES: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        lab::run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "dev", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` with these arguments in it; gives what that printed.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        let output = lab::run(Command::new("ip").args(["-netns", &self.name]).args(arguments))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command that will run in it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Makes a bridge that is up, with an address such as `10.7.0.1/24`.
    pub fn bridge(&self, name: &str, address: &str) -> Result<()> {
        self.ip(&["link", "add", name, "type", "bridge"])?;
        self.ip(&["address", "add", address, "dev", name])?;
        self.ip(&["link", "set", "dev", name, "up"]).map(drop)
    }

    /// Makes a tap that is up, as a port of the bridge if there is one.
    pub fn tap(&self, name: &str, bridge: Option<&str>) -> Result<()> {
        self.ip(&["tuntap", "add", "dev", name, "mode", "tap"])?;
        self.attach(name, bridge)
    }

    /// Makes a pair of connected interfaces, both up here, the first as a port of the bridge if there is one.
    pub fn veth(&self, name: &str, peer: &str, bridge: Option<&str>) -> Result<()> {
        self.ip(&["link", "add", name, "type", "veth", "peer", "name", peer])?;
        self.ip(&["link", "set", "dev", peer, "up"])?;
        self.attach(name, bridge)
    }

    fn attach(&self, name: &str, bridge: Option<&str>) -> Result<()> {
        if let Some(bridge) = bridge {
            self.ip(&["link", "set", "dev", name, "master", bridge])?;
        }
        self.ip(&["link", "set", "dev", name, "up"]).map(drop)
    }

    /// Runs something on a thread of its own that is in the namespace: sockets it opens belong there and stay there.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).with_context(|| format!("Cannot open {path}"))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("Cannot enter {path}"))?;
                Ok(act())
            });
            thread.join().map_err(|_| anyhow!("What ran in the namespace panicked"))?
        })
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the next test process tries again.
        let _ = lab::run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}

fn remove_leftovers() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|name| name.split('-').next()?.parse().ok());
        if owner.is_some_and(|owner| !lab::process_exists(owner)) {
            // Another test process may be doing the same.
            let _ = lab::run(Command::new("ip").args(["netns", "delete", &name]));
        }
    }
}
