//! Sets the guest up (as pid 1), then serves the command port and reaps whoever ends, for ever.
//!
//! It has one thread (it forks) and no sockets of its own, so that it is the least possible noise in its own tables.

use crate::{disk, launch, port, survey, system};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;
use testkit::command::{Activity, Command, Output, Reply, Request, SocketSpec, Spawn, Spawned, Transport};

/// Any error, as text for the reply.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Adds what was being done to an error.
pub(crate) fn context<T, E: std::fmt::Display>(result: std::result::Result<T, E>, doing: &str) -> Result<T> {
    result.map_err(|error| format!("{doing}: {error}"))
}

/// Where traffic processes leave their counts.
pub(crate) const TRAFFIC: &str = "/run/traffic";

/// Argument with which a system on a disk starts this program.
pub(crate) const SERVICE: &str = "service";

/// Never returns while the guest runs; if it does, the kernel panics and the console says why.
pub(crate) fn run() -> ExitCode {
    failed(match std::env::var(disk::VARIABLE) {
        Ok(disk) => disk::hand_over(&disk).map(|never| match never {}),
        Err(_) => set_up().and_then(serve),
    })
}

/// The same where another program is pid 1 and has set everything up.
pub(crate) fn run_as_service() -> ExitCode {
    let set_up = context(fs::create_dir_all(TRAFFIC), TRAFFIC).and_then(|()| port::open_own());
    failed(set_up.and_then(serve))
}

fn failed(result: Result<()>) -> ExitCode {
    if let Err(error) = result {
        #[expect(clippy::print_stderr, reason = "the console is the only place left to say it")]
        {
            eprintln!("birthmark-guest-agent: {error}");
        }
    }
    ExitCode::FAILURE
}

/// Mounts, loopback, and the command port in raw mode.
fn set_up() -> Result<File> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/run"),
        ("tmpfs", "/dev/shm"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        context(fs::create_dir_all(place), place)?;
        context(mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>), place)?;
    }
    context(fs::create_dir_all(TRAFFIC), TRAFFIC)?;
    context(system::loopback_up(), "Cannot bring the loopback up")?;
    // Namespaces of users are off for others than root on some distributions; here root makes them all.
    port::open_own()
}

fn serve(mut port: File) -> Result<()> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    context(sigprocmask(SigmaskHow::SIG_BLOCK, Some(&children), None), "Cannot block SIGCHLD")?;
    let ended =
        context(SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC), "signalfd")?;
    reply(&mut port, 0, Ok(json!("ready")))?;
    let mut received = Vec::new();
    loop {
        let readable = {
            let mut polled =
                [PollFd::new(port.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(format!("poll: {error}")),
            }
            polled[0].any().unwrap_or(false)
        };
        while let Ok(Some(_)) = ended.read_signal() {}
        reap();
        if !readable {
            continue;
        }
        let mut buffer = [0; 4096];
        let count = context(port.read(&mut buffer), "Cannot read the command port")?;
        received.extend_from_slice(&buffer[..count]);
        while let Some(end) = received.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = received.drain(..=end).collect();
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => {
                    let result = execute(request.command);
                    reply(&mut port, request.id, result)?;
                }
                Err(error) => reply(&mut port, 0, Err(format!("Not a request: {error}")))?,
            }
        }
    }
}

fn reply(port: &mut File, id: u64, result: Result<Value>) -> Result<()> {
    let reply = match result {
        Ok(value) => Reply { id, ok: Some(value), error: None },
        Err(error) => Reply { id, ok: None, error: Some(error) },
    };
    let mut line = context(serde_json::to_vec(&reply), "Cannot write a reply")?;
    line.push(b'\n');
    context(port.write_all(&line), "Cannot write to the command port")
}

/// Reaps every child that has ended, orphans included.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

fn execute(command: Command) -> Result<Value> {
    let socket = |exe: String, socket: SocketSpec| Spawn { exe, sockets: vec![socket], ..Spawn::default() };
    match command {
        Command::Ping => Ok(json!("pong")),
        Command::Truth => {
            reap();
            json(survey::truth()?)
        }
        Command::Spawn(spawn) => json(launch::start(&spawn)?),
        Command::SpawnMany { count, spawn } => {
            json((0..count).map(|_| launch::start(&spawn)).collect::<Result<Vec<Spawned>>>()?)
        }
        Command::Listen { protocol: Transport::Tcp, address, exe } => {
            json(launch::start(&socket(exe, SocketSpec::TcpListen { address }))?)
        }
        Command::Listen { protocol: Transport::Udp, address, exe } => {
            json(launch::start(&socket(exe, SocketSpec::UdpBind { address }))?)
        }
        Command::Connect { protocol, address, exe } => {
            json(launch::start(&socket(exe, connected(protocol, address)))?)
        }
        Command::Kill { pid, signal } => signal_process(pid, signal.unwrap_or(libc::SIGKILL)),
        Command::ForkStorm { parallel, seconds } => {
            let activity = Activity::ForkStorm { parallel, seconds };
            json(launch::start(&Spawn { exe: "/bin/fork-storm".to_owned(), activity, ..Spawn::default() })?)
        }
        Command::Traffic { pid } => json(crate::workload::read_traffic(pid)?),
        Command::LoadModule { name } => load_module(&name, &module_needs()?, 0),
        Command::UnloadModule { name } => {
            let name = context(std::ffi::CString::new(name), "Not a module's name")?;
            context(
                nix::kmod::delete_module(&name, nix::kmod::DeleteModuleFlags::O_NONBLOCK),
                "delete_module",
            )?;
            Ok(Value::Null)
        }
        Command::NetUp { interface, address, gateway } => {
            if let Some(address) = address {
                succeed(&["ip", "address", "add", &address, "dev", &interface])?;
            }
            succeed(&["ip", "link", "set", &interface, "up"])?;
            if let Some(gateway) = gateway {
                succeed(&["ip", "route", "add", "default", "via", &gateway.to_string()])?;
            }
            Ok(Value::Null)
        }
        Command::Run { args } => json(run_program(&args)?),
        Command::Relay { port, inner, seconds } => port::relay(&port, &inner, Duration::from_secs(seconds)),
        Command::Poweroff => {
            // Without ACPI (microvm) only a reset ends the machine, and QEMU takes a reset for its end (-no-reboot).
            let mode = if fs::exists("/sys/firmware/acpi/pm_profile").unwrap_or(false) {
                RebootMode::RB_POWER_OFF
            } else {
                RebootMode::RB_AUTOBOOT
            };
            match reboot(mode) {
                Ok(never) => match never {},
                Err(error) => Err(format!("reboot: {error}")),
            }
        }
    }
}

fn json(value: impl serde::Serialize) -> Result<Value> {
    context(serde_json::to_value(value), "Cannot write a reply")
}

fn connected(protocol: Transport, address: SocketAddr) -> SocketSpec {
    match protocol {
        Transport::Tcp => SocketSpec::TcpConnect { address },
        Transport::Udp => SocketSpec::UdpConnect { address },
    }
}

fn signal_process(pid: u32, signal: i32) -> Result<Value> {
    let pid = context(i32::try_from(pid), "Not a pid")?;
    if pid < 2 {
        return Err(format!("{pid} is no process to send a signal to"));
    }
    let known = context(Signal::try_from(signal), "Not a signal")?;
    context(kill(Pid::from_raw(pid), known), "kill")?;
    if known == Signal::SIGKILL {
        // Fails if it is not a child of this process; then its own parent reaps it.
        let _ = waitpid(Pid::from_raw(pid), None);
    }
    Ok(Value::Null)
}

/// What each module of the initramfs needs.
pub(crate) fn module_needs() -> Result<BTreeMap<String, Vec<String>>> {
    let text = context(fs::read_to_string("/lib/modules/needs"), "Cannot read the list of modules")?;
    let line = |line: &str| {
        let (name, needs) = line.split_once(':')?;
        Some((name.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Loads what a module needs, then the module. A need that is not in the list is built into this kernel.
pub(crate) fn load_module(name: &str, needs: &BTreeMap<String, Vec<String>>, depth: u32) -> Result<Value> {
    if fs::exists(format!("/sys/module/{name}")).unwrap_or(false) {
        return Ok(Value::Null);
    }
    match needs.get(name) {
        _ if depth > 16 => return Err(format!("The needs of {name} go round in circles")),
        None => return Err(format!("There is no module {name} in this guest")),
        Some(needed) => {
            for need in needed {
                load_module(need, needs, depth + 1)?;
            }
        }
    }
    let path = format!("/lib/modules/{name}.ko");
    let file = context(File::open(&path), &path)?;
    context(nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()), &path)?;
    Ok(Value::Null)
}

fn run_program(args: &[String]) -> Result<Output> {
    let mut command = std::process::Command::new("/bin/busybox");
    command.args(args).env("PATH", "/bin").stdin(std::process::Stdio::null());
    let output = context(command.output(), "Cannot run busybox")?;
    Ok(Output {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn succeed(args: &[&str]) -> Result<()> {
    let output = run_program(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())?;
    if output.status == Some(0) {
        return Ok(());
    }
    Err(format!("{} failed: {}{}", args.join(" "), output.stdout.trim(), output.stderr.trim()))
}
