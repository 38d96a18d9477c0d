//! A running guest: boot, command port, QMP, its memory as seen by QEMU. Dropping it kills QEMU and removes its files.

mod dimm;
mod memory;
mod port;
mod process;
mod qmp;
mod spec;

pub use memory::RamRange;
pub(crate) use spec::Boot;
pub use spec::{Backing, GuestSpec, Machine, Nic, PagingLevels};

use crate::command::{Command, Output, Reply, Request, Spawn, Spawned, Traffic, Transport};
use crate::kernels::{self, KernelFiles};
use crate::truth::Truth;
use crate::{initramfs, lab};
use anyhow::{Context, Result, anyhow, bail, ensure};
use port::LinePort;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A boot that takes longer has hung.
const LONGEST_BOOT: Duration = Duration::from_secs(240);
/// Boots to try: emulated CPUs lose one now and then (facts/lab.md, "Flaky boots").
const BOOTS: u32 = 3;
/// A command that takes longer has hung.
const LONGEST_COMMAND: Duration = Duration::from_secs(240);

/// A booted guest whose workload answers. All methods take `&self`: tests may share one between threads.
#[derive(Debug)]
pub struct Guest {
    spec: GuestSpec,
    name: String,
    kernel: KernelFiles,
    vm: Vm,
    port: Mutex<CommandPort>,
}

#[derive(Debug)]
struct CommandPort {
    lines: LinePort,
    last_id: u64,
}

impl Guest {
    /// Boots a guest and waits until its workload answers. What is not in the lab's cache (kernel, workload, initramfs) is
    /// made first. A boot that hangs, panics or ends is repeated, three in all; then the error shows the console's end.
    pub fn boot(spec: GuestSpec) -> Result<Self> {
        ensure!(
            spec.machine != Machine::Microvm || (spec.nic.is_none() && !spec.wide_port),
            "A microvm has no virtio devices here"
        );
        let memory_devices = spec.numa_nodes > 1 || spec.dimm_slots || spec.second_block_mib.is_some();
        ensure!(
            spec.machine != Machine::Microvm || !memory_devices,
            "A microvm has no NUMA nodes, memory slots or PCI"
        );
        let kernel = kernels::cached_or_fetch(spec.kernel)?;
        let initrd = initramfs::build(&kernel)?.into();
        let boot = Boot { kernel: kernel.vmlinuz.clone(), initrd, parameters: None };
        Self::boot_files(spec, &kernel, &boot)
    }

    /// The same with files of the caller's, for hosts of the lab.
    pub(crate) fn boot_files(spec: GuestSpec, kernel: &KernelFiles, boot: &Boot) -> Result<Self> {
        let mut attempt = 1;
        let guest = loop {
            match Self::boot_once(&spec, kernel, boot) {
                Ok(guest) => break guest,
                Err(_) if attempt < BOOTS => attempt += 1,
                Err(error) => return Err(error.context(format!("No guest came up in {BOOTS} boots"))),
            }
        };
        for module in guest.spec.device_modules() {
            guest.load_module(module)?;
        }
        Ok(guest)
    }

    /// [`Guest::boot`], or `None` if this machine cannot (what [`crate::require`] decides, and says).
    pub fn boot_or_skip(spec: GuestSpec) -> Result<Option<Self>> {
        if !crate::require(&[crate::Need::Guest(spec.kernel)]) {
            return Ok(None);
        }
        Self::boot(spec).map(Some)
    }

    fn boot_once(spec: &GuestSpec, kernel: &KernelFiles, boot: &Boot) -> Result<Self> {
        static GUESTS: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let process = std::process::id();
        let number = GUESTS.fetch_add(1, Ordering::Relaxed);
        let name = spec.name.clone().unwrap_or_else(|| format!("lab-{process}-{number}"));
        let directory =
            tempfile::Builder::new().prefix(&format!("{DIRECTORY_PREFIX}{process}-")).tempdir()?;
        let mut lines = LinePort::make_pipe(&directory.path().join(spec::PORT))?;
        let child = process::start(process::Start {
            program: "qemu-system-x86_64",
            arguments: spec.qemu_command_line(&name, boot, directory.path()),
            namespace: spec.nic.as_ref().and_then(|nic| nic.namespace.clone()),
            stderr: File::create(directory.path().join("qemu.log"))?,
        })?;
        let mut vm = Vm { child, directory };
        match vm.wait_for_workload(&mut lines) {
            Ok(()) => {
                let port = Mutex::new(CommandPort { lines, last_id: 0 });
                Ok(Self { spec: spec.clone(), name, kernel: kernel.clone(), vm, port })
            }
            Err(error) => Err(error.context(vm.last_words())),
        }
    }

    /// QEMU's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.vm.child.id()
    }

    /// The VM's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was asked to be.
    #[must_use]
    pub fn spec(&self) -> &GuestSpec {
        &self.spec
    }

    /// The kernel it runs.
    #[must_use]
    pub fn kernel(&self) -> &KernelFiles {
        &self.kernel
    }

    /// Directory of its sockets and logs, gone with the guest.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.vm.directory.path()
    }

    /// QMP socket; serves one client at a time, and [`Guest::qmp`] is one.
    #[must_use]
    pub fn qmp_socket(&self) -> PathBuf {
        self.directory().join("qmp.sock")
    }

    /// What the guest printed on its console so far.
    #[must_use]
    pub fn console(&self) -> String {
        self.vm.console()
    }

    /// Runs a command and gives its result as JSON. An error of the guest is an `Err`.
    pub fn command(&self, command: &Command) -> Result<Value> {
        let mut port =
            self.port.lock().map_err(|_| anyhow!("A thread panicked while it used the command port"))?;
        port.last_id += 1;
        let id = port.last_id;
        let request = serde_json::to_string(&Request { id, command: command.clone() })?;
        port.lines.send(&request)?;
        let deadline = Instant::now() + LONGEST_COMMAND;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                port.lines.receive(left).and_then(|line| line.context("No reply in time")).with_context(
                    || {
                        format!(
                            "The guest did not answer {request}; its console ends:\n{}",
                            tail(&self.console())
                        )
                    },
                )?;
            let reply: Reply = serde_json::from_str(&line)
                .with_context(|| format!("The guest answered {request} with {line}"))?;
            // A late reply to a request that was given up has another id.
            if reply.id == id {
                return match reply.error {
                    Some(error) => Err(anyhow!("The guest could not do {request}: {error}")),
                    None => Ok(reply.ok.unwrap_or_default()),
                };
            }
            ensure!(reply.id != 0, "The guest did not understand {request}: {line}");
        }
    }

    fn typed<T: DeserializeOwned>(&self, command: &Command) -> Result<T> {
        let value = self.command(command)?;
        serde_json::from_value(value).with_context(|| format!("The reply to {command:?} has another form"))
    }

    /// The guest's own view of itself.
    pub fn truth(&self) -> Result<Truth> {
        self.typed(&Command::Truth)
    }

    /// Runs `look` between two truths that show the same objects, and gives the second with what `look` returned. A look
    /// during which the guest changed is repeated, ten times at most.
    pub fn steady<T>(&self, mut look: impl FnMut() -> Result<T>) -> Result<(Truth, T)> {
        let mut before = self.truth()?;
        for _ in 0..10 {
            let seen = look()?;
            let after = self.truth()?;
            if before.same_objects(&after) {
                return Ok((after, seen));
            }
            before = after;
        }
        bail!("The guest {} changed during each of ten looks", self.name)
    }

    /// Starts a process.
    pub fn spawn(&self, spawn: Spawn) -> Result<Spawned> {
        self.typed(&Command::Spawn(spawn))
    }

    /// Starts `count` copies of a process.
    pub fn spawn_many(&self, count: u32, spawn: Spawn) -> Result<Vec<Spawned>> {
        self.typed(&Command::SpawnMany { count, spawn })
    }

    /// Starts a program that listens.
    pub fn listen(&self, exe: &str, protocol: Transport, address: SocketAddr) -> Result<Spawned> {
        self.typed(&Command::Listen { protocol, address, exe: exe.to_owned() })
    }

    /// Starts a program that connects.
    pub fn connect(&self, exe: &str, protocol: Transport, address: SocketAddr) -> Result<Spawned> {
        self.typed(&Command::Connect { protocol, address, exe: exe.to_owned() })
    }

    /// Kills a process and waits until it is gone (if it is the agent's own child, as every spawned one is).
    pub fn kill(&self, pid: u32) -> Result<()> {
        self.command(&Command::Kill { pid, signal: None }).map(drop)
    }

    /// Starts processes that fork as fast as they can; `kill` of the pid ends it early.
    pub fn fork_storm(&self, parallel: u32, seconds: u32) -> Result<Spawned> {
        self.typed(&Command::ForkStorm { parallel, seconds })
    }

    /// What an echo or ping-pong process has sent and received.
    pub fn traffic(&self, pid: u32) -> Result<Traffic> {
        self.typed(&Command::Traffic { pid })
    }

    /// Loads a module and those it needs.
    pub fn load_module(&self, name: &str) -> Result<()> {
        self.command(&Command::LoadModule { name: name.to_owned() }).map(drop)
    }

    /// Unloads a module.
    pub fn unload_module(&self, name: &str) -> Result<()> {
        self.command(&Command::UnloadModule { name: name.to_owned() }).map(drop)
    }

    /// Brings an interface up, `address` as in `10.0.0.2/24`.
    pub fn net_up(&self, interface: &str, address: &str, gateway: Option<IpAddr>) -> Result<()> {
        let (interface, address) = (interface.to_owned(), Some(address.to_owned()));
        self.command(&Command::NetUp { interface, address, gateway }).map(drop)
    }

    /// Runs a program of the guest to its end.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.typed(&Command::Run { args: args.iter().map(|&arg| arg.to_owned()).collect() })
    }

    /// Resets the machine, as its button would, and waits until the workload of the new boot answers. Everything that ran is gone;
    /// QEMU, its memory and its files stay.
    pub fn reset(&mut self) -> Result<()> {
        // With `-no-reboot` a reset would end QEMU.
        self.qmp(&json!({"execute": "set-action", "arguments": {"reboot": "reset"}}))?;
        let port =
            self.port.get_mut().map_err(|_| anyhow!("A thread panicked while it used the command port"))?;
        // What the last boot still had to say is no greeting of the next.
        while port.lines.receive(Duration::ZERO)?.is_some() {}
        qmp::execute(&self.vm.directory.path().join("qmp.sock"), &json!({"execute": "system_reset"}))?;
        self.vm.wait_for_workload(&mut port.lines).with_context(|| self.vm.last_words())?;
        for module in self.spec.device_modules() {
            self.load_module(module)?;
        }
        Ok(())
    }

    /// Powers the guest off and waits until QEMU has ended.
    pub fn power_off(mut self) -> Result<()> {
        let request = serde_json::to_string(&Request { id: 0, command: Command::Poweroff })?;
        let port =
            self.port.get_mut().map_err(|_| anyhow!("A thread panicked while it used the command port"))?;
        port.lines.send(&request)?;
        let deadline = Instant::now() + LONGEST_COMMAND;
        while self.vm.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "The guest {} did not power off", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Runs a QMP command, `{"execute": …}`.
    pub fn qmp(&self, command: &Value) -> Result<Value> {
        qmp::execute(&self.qmp_socket(), command)
    }
}

/// QEMU and its files.
#[derive(Debug)]
struct Vm {
    child: Child,
    directory: tempfile::TempDir,
}

impl Vm {
    /// Waits for the workload's greeting on the command port, or for a reason why it will not come.
    fn wait_for_workload(&mut self, lines: &mut LinePort) -> Result<()> {
        let deadline = Instant::now() + LONGEST_BOOT;
        loop {
            let line = lines.receive(Duration::from_millis(200));
            if let Ok(Some(line)) = &line {
                let greeting: Option<Reply> = serde_json::from_str(line).ok();
                if greeting.and_then(|reply| reply.ok).is_some_and(|value| value == "ready") {
                    return Ok(());
                }
            }
            self.still_booting(deadline)?;
            line?;
        }
    }

    /// `Err` once it will not come up any more.
    fn still_booting(&mut self, deadline: Instant) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("QEMU ended with {status}");
        }
        ensure!(!self.console().contains("Kernel panic"), "The guest's kernel panicked");
        ensure!(Instant::now() < deadline, "The guest did not come up in {} s", LONGEST_BOOT.as_secs());
        Ok(())
    }

    fn console(&self) -> String {
        read_lossy(&self.directory.path().join("console.log"))
    }

    /// What QEMU and the guest's console said last.
    fn last_words(&self) -> String {
        let qemu = read_lossy(&self.directory.path().join("qemu.log"));
        format!("QEMU said: {}\nThe console ends:\n{}", qemu.trim(), tail(&self.console()))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The last 40 lines.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

const DIRECTORY_PREFIX: &str = "birthmark-lab-";

/// Removes the directories of guests whose test process was killed before it could.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(DIRECTORY_PREFIX)?.split('-').next()?.parse().ok());
        if owner.is_some_and(|owner: u32| !lab::process_exists(owner)) {
            // Another test process may be doing the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
