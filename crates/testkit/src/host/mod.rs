//! A whole host with guests of its own, inside a VM of the lab: a real KVM, a real Xen, without hardware virtualisation.
//!
//! The host is a lab guest with more in its initramfs, so the agent runs it: programs are run in it as
//! `sh -c`, and commands are relayed to the agents of the guests that run inside. One boot is meant to be shared by all
//! that is to be shown on it.

mod kvm;
mod rootfs;
mod xen;

pub(crate) use kvm::is_cached as kvm_is_cached;
pub use kvm::{InnerBacking, KvmHost};
pub(crate) use xen::is_cached as xen_is_cached;
pub use xen::{DomainKind, XenHost};

use crate::command::{Command, Output, Spawn, Spawned};
use crate::guest::{Boot, Guest, GuestSpec};
use crate::kernels::{self, KernelFiles};
use crate::packages::{self, Packages};
use crate::truth::Truth;
use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A guest inside that does not answer after this time has hung. Emulated twice over, a boot takes ten seconds, and four of them on a
/// slow and busy machine minutes.
const LONGEST_BOOT: Duration = Duration::from_secs(600);

/// A guest inside that answers a command later has hung. Less than what its host may take to pass it on.
const LONGEST_COMMAND: Duration = Duration::from_secs(200);
/// What is asked while a guest boots may be lost, and is asked again.
const LONGEST_PING: Duration = Duration::from_secs(10);

/// Where programs are on a lab host.
const PATH: &str = "PATH=/lab:/usr/sbin:/usr/bin:/sbin:/bin:/run/busybox";

/// The kernel of guests inside, and of a host with KVM: one with every module, unlike those that the lab's other guests run.
const CLOUD_KERNEL: Packages = Packages { name: "cloud-kernel", wanted: &["linux-image-cloud-amd64"] };

/// Image and modules of a kernel's packages.
fn kernel(of: Packages) -> Result<KernelFiles> {
    kernels::files(&packages::unpack(of)?)
}

/// A script that is asked again until it succeeds, and never does, has failed.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What every host needs once: busybox's programs where a package has no better one, and terminals.
const SET_UP: &str = "/bin/busybox mkdir -p /run/busybox /dev/pts && /bin/busybox --install -s /run/busybox && \
                      mount -t devpts devpts /dev/pts && rm -rf /var/run && ln -s /run /var/run";

/// Downloads and builds what every host needs, so that no test waits for it.
pub(crate) fn prepare() -> Result<()> {
    kvm::prepare()?;
    xen::prepare().map(drop)
}

/// A built example of one of our packages, for [`KvmHost::boot_with`].
pub fn example(name: &str) -> Result<PathBuf> {
    rootfs::example(name)
}

/// A host inside a VM. Dropping it ends it and all that runs in it.
#[derive(Debug)]
pub struct Host {
    guest: Guest,
}

impl Host {
    fn boot(spec: GuestSpec, kernel: &KernelFiles, boot: &Boot, modules: &[&str]) -> Result<Self> {
        let host = Self { guest: Guest::boot_files(spec, kernel, boot)? };
        for module in modules {
            host.guest.load_module(module)?;
        }
        host.succeed(SET_UP)?;
        Ok(host)
    }

    /// Runs a shell script on the host. `birthmark` and `birthmarkd` are on its path.
    pub fn run(&self, script: &str) -> Result<Output> {
        // Busybox's own shell would run its own version of every program, `ip` for one.
        self.guest.run(&["env", PATH, "/bin/dash", "-c", script])
    }

    /// Runs a shell script that must succeed; gives what it printed.
    pub fn succeed(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(
            output.status == Some(0),
            "`{script}` ended with {:?}: {}{}",
            output.status,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Runs a shell script that must succeed and print JSON.
    pub fn json<T: DeserializeOwned>(&self, script: &str) -> Result<T> {
        let text = self.succeed(script)?;
        serde_json::from_str(&text).with_context(|| format!("`{script}` printed {text}"))
    }

    /// Runs a shell script again and again until it succeeds.
    pub fn wait_for(&self, script: &str) -> Result<String> {
        let deadline = Instant::now() + LONGEST_WAIT;
        loop {
            match self.succeed(script) {
                Err(error) if Instant::now() > deadline => return Err(error.context("It never succeeded")),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
                printed => return printed,
            }
        }
    }

    /// Starts a program that goes on after this returns; what it prints goes to `/run/NAME.log`.
    pub fn start(&self, name: &str, command: &str) -> Result<()> {
        self.succeed(&format!("setsid {command} </dev/null >/run/{name}.log 2>&1 &")).map(drop)
    }

    /// A guest whose command port is this terminal or socket of the host.
    #[must_use]
    pub fn guest(&self, name: &str, port: &str) -> Inner<'_> {
        Inner { host: self, name: name.to_owned(), port: port.to_owned() }
    }
}

/// A guest that runs on a lab host. It ends with the host.
#[derive(Debug)]
pub struct Inner<'h> {
    host: &'h Host,
    name: String,
    /// Terminal or socket on the host.
    port: String,
}

impl Inner<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until its agent answers.
    pub fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + LONGEST_BOOT;
        while let Err(error) = self.ask::<String>(&Command::Ping, LONGEST_PING) {
            if Instant::now() > deadline {
                return Err(error.context(format!("The guest {} did not come up", self.name)));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn command<T: DeserializeOwned>(&self, command: &Command) -> Result<T> {
        self.ask(command, LONGEST_COMMAND)
    }

    fn ask<T: DeserializeOwned>(&self, command: &Command, longest: Duration) -> Result<T> {
        let relay = Command::Relay {
            port: self.port.clone(),
            inner: Box::new(command.clone()),
            seconds: longest.as_secs(),
        };
        let value = self.host.guest.command(&relay)?;
        serde_json::from_value(value).with_context(|| format!("The reply to {command:?} has another form"))
    }

    /// Its own view of itself.
    pub fn truth(&self) -> Result<Truth> {
        self.command(&Command::Truth)
    }

    /// Runs `look` between two truths that show the same objects; see [`Guest::steady`].
    pub fn steady<T>(&self, mut look: impl FnMut() -> Result<T>) -> Result<(Truth, T)> {
        let mut before = self.truth()?;
        for _ in 0..5 {
            let seen = look()?;
            let after = self.truth()?;
            if before.same_objects(&after) {
                return Ok((after, seen));
            }
            before = after;
        }
        bail!("The guest {} changed during each of five looks", self.name)
    }

    /// Starts a process in it.
    pub fn spawn(&self, spawn: Spawn) -> Result<Spawned> {
        self.command(&Command::Spawn(spawn))
    }

    /// Kills a process of it.
    pub fn kill(&self, pid: u32) -> Result<()> {
        self.command::<serde_json::Value>(&Command::Kill { pid, signal: None }).map(drop)
    }

    /// Loads a module of its initramfs.
    pub fn load_module(&self, name: &str) -> Result<()> {
        self.command::<serde_json::Value>(&Command::LoadModule { name: name.to_owned() }).map(drop)
    }

    /// Brings one of its interfaces up, `address` as in `10.0.0.2/24`.
    pub fn net_up(&self, interface: &str, address: &str, gateway: Option<IpAddr>) -> Result<()> {
        let (interface, address) = (interface.to_owned(), Some(address.to_owned()));
        self.command::<serde_json::Value>(&Command::NetUp { interface, address, gateway }).map(drop)
    }
}
