//! What a started process does: makes itself look as told, opens its sockets, says that it is ready, and then acts.

use crate::init::{Result, TRAFFIC, context};
use crate::launch::{Holding, READY_FD, Ready};
use crate::sockets::{self, Held};
use crate::{io_worker, programs, socket_storm, system};
use nix::libc;
use nix::sys::prctl;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, FromRawFd};
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use testkit::command::{Activity, ProgramSpec, Spawn, TracingWay, Traffic};

/// Never returns unless its activity ends or it cannot do as told.
pub(crate) fn run(order: &str) -> ExitCode {
    // SAFETY: whoever started this process passed the descriptor for this use, and nothing else here knows it.
    let mut ready = unsafe { File::from_raw_fd(READY_FD) };
    let prepared = context(serde_json::from_str::<Spawn>(order), "Not an order").and_then(|spawn| {
        let (held, holding) = prepare(&spawn)?;
        Ok((spawn.activity, held, holding))
    });
    let (said, rest): (Ready, _) = match prepared {
        Ok((activity, held, holding)) => (Ok(holding), Some((activity, held))),
        Err(error) => (Err(error), None),
    };
    let told = serde_json::to_vec(&said).map_err(std::io::Error::other).and_then(|mut line| {
        line.push(b'\n');
        ready.write_all(&line)
    });
    drop(ready);
    if let (Ok(()), Some((activity, held))) = (told, rest) {
        act(&activity, held);
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

fn prepare(spawn: &Spawn) -> Result<(Held, Holding)> {
    if let Some(name) = &spawn.comm {
        context(prctl::set_name(&context(CString::new(name.as_str()), "Not a name")?), "prctl")?;
    }
    let workers = workers(spawn)?;
    let held = sockets::open_all(&spawn.sockets)?;
    // Held for as long as the process lives.
    programs::load_all(&spawn.programs)?.into_iter().for_each(std::mem::forget);
    // Before the threads: only a process with one thread may fork and go on.
    let zombies = (0..spawn.zombies).map(|_| zombie());
    let children = zombies.collect::<Result<Vec<u32>>>()?.into_iter().chain(workers).collect();
    if let Some(text) = &spawn.rewrite_args {
        rewrite_args(text)?;
    }
    let count = context(usize::try_from(spawn.threads), "Too many threads")?;
    let started = Arc::new(Barrier::new(count + 1));
    for _ in 0..count {
        let started = Arc::clone(&started);
        let thread = move || {
            started.wait();
            sleep_for_ever();
        };
        context(std::thread::Builder::new().stack_size(64 << 10).spawn(thread), "Cannot start a thread")?;
    }
    started.wait();
    if spawn.activity == Activity::IoWorker {
        // Held for as long as the process lives.
        std::mem::forget(io_worker::start()?);
    }
    if let Activity::SocketStorm { mark } = spawn.activity {
        socket_storm::mark(mark)?;
    }
    let addresses = held.addresses.clone();
    Ok((held, Holding { addresses, children }))
}

/// A child that has ended and is never waited for.
fn zombie() -> Result<u32> {
    let pid = context(system::fork_into(0), "fork")?;
    if pid == 0 {
        // SAFETY: ends the child without running the exit handlers it shares with its parent.
        unsafe { libc::_exit(0) }
    }
    let child = Pid::from_raw(context(i32::try_from(pid), "Not a pid")?);
    // Waits for its end but leaves it as it is.
    context(waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT), "waitid")?;
    Ok(pid)
}

/// Children that hold sockets of their own and sleep. They end with their parent.
fn workers(spawn: &Spawn) -> Result<Vec<u32>> {
    let (mut ready, ready_writer) = context(std::io::pipe(), "pipe")?;
    let parent = nix::unistd::getpid();
    let mut pids = Vec::new();
    for _ in 0..spawn.workers {
        let pid = context(system::fork_into(0), "fork")?;
        if pid == 0 {
            work(spawn, parent, ready_writer);
        }
        pids.push(pid);
    }
    drop(ready_writer);
    // Each says one byte, and the last who can say anything ends the reading.
    let mut said = Vec::new();
    context(ready.read_to_end(&mut said), "Cannot read what the workers say")?;
    if said.len() == pids.len() {
        return Ok(pids);
    }
    Err(format!("{} of {} workers came up", said.len(), pids.len()))
}

fn work(spawn: &Spawn, parent: Pid, mut ready: std::io::PipeWriter) -> ! {
    let armed = prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    let held = sockets::open_all(&spawn.sockets);
    if armed.is_ok() && held.is_ok() && nix::unistd::getppid() == parent && ready.write_all(b"r").is_ok() {
        drop(ready);
        sleep_for_ever();
    }
    // SAFETY: ends the worker without running the exit handlers it shares with its parent.
    unsafe { libc::_exit(1) }
}

/// Overwrites the memory that `/proc/PID/cmdline` shows, as `setproctitle` does; the rest of it becomes zero.
fn rewrite_args(text: &str) -> Result<()> {
    let stat = context(fs::read_to_string("/proc/self/stat"), "/proc/self/stat")?;
    // Fields 48 and 49 of proc(5), arg_start and arg_end; the first after the name is field 3.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<usize>().ok());
    let (Some(start), Some(end)) = (field(48), field(49)) else {
        return Err("No arguments to overwrite".to_owned());
    };
    let room = end.checked_sub(start).ok_or("The arguments end before they begin")?;
    if text.len() >= room {
        return Err(format!("{} bytes do not fit over arguments of {room}", text.len()));
    }
    for (at, byte) in (start..end).zip(text.bytes().chain(std::iter::repeat(0))) {
        // SAFETY: the kernel says that [arg_start, arg_end) is where it put the arguments: writable memory of this process.
        // std read them through argv at start-up and looks at them again only in `std::env::args`, not used here.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(byte) };
    }
    Ok(())
}

fn sleep_for_ever() -> ! {
    loop {
        nix::unistd::pause();
    }
}

fn act(activity: &Activity, held: Held) {
    match activity {
        Activity::Idle | Activity::IoWorker => {}
        Activity::Echo => echo(&held.listeners),
        Activity::PingPong { interval_ms } => {
            if let Some(stream) = held.streams.first() {
                ping_pong(stream, Duration::from_millis(u64::from(*interval_ms)));
            }
        }
        Activity::ForkStorm { parallel, seconds } => {
            fork_storm(*parallel, Duration::from_secs(u64::from(*seconds)));
            return;
        }
        Activity::ProgramStorm => {
            program_storm();
            return;
        }
        Activity::SocketStorm { .. } => {
            // It ends, so that whoever waits for its sockets notices.
            let _ = socket_storm::run();
            return;
        }
        Activity::Spin => loop {
            std::hint::spin_loop();
        },
    }
    sleep_for_ever();
}

/// Loads programs and lets them go again, until one of a kind that every kernel has is refused. Those that take the kernel longer to take off
/// again are among them now and then, as far as this kernel has them.
fn program_storm() {
    let quick = [
        ProgramSpec::RawTracepoint { name: "sched_process_exit".to_owned() },
        ProgramSpec::CgroupLink { cgroup: "/storm".to_owned() },
        ProgramSpec::WithFunction,
    ];
    let slow = [
        ProgramSpec::KprobeLink { function: "vfs_rmdir".to_owned() },
        ProgramSpec::KprobeMulti { functions: vec!["vfs_mknod".to_owned()] },
        ProgramSpec::UprobeMulti { path: "/srv/stormed".to_owned(), offsets: vec![16, 32] },
        ProgramSpec::Netfilter,
        ProgramSpec::SocketLookupLink,
        ProgramSpec::Tracing { way: TracingWay::Entry, function: "vfs_symlink".to_owned() },
    ];
    for spec in slow.iter().cycle() {
        for _ in 0..5 {
            if programs::load_all(&quick).is_err() {
                return;
            }
        }
        let _ = programs::load_all(std::slice::from_ref(spec));
    }
}

/// Counts of a traffic process, kept in a file of its own.
#[derive(Default, Serialize, Deserialize)]
struct Counts {
    sent: u64,
    received: u64,
    last_received_ns: Option<u64>,
}

impl Counts {
    fn received(&mut self, count: usize) {
        self.received += count as u64;
        self.last_received_ns = Some(system::boot_clock_ns());
    }

    /// Counts that cannot be written are noticed by whoever asks for them.
    fn save(&self) {
        let path = format!("{TRAFFIC}/{}", std::process::id());
        let new = format!("{path}.new");
        let text = serde_json::to_vec(self).unwrap_or_default();
        let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
    }
}

/// What a traffic process has counted.
pub(crate) fn read_traffic(pid: u32) -> Result<Traffic> {
    let text = context(fs::read(format!("{TRAFFIC}/{pid}")), "No traffic of this process")?;
    let counts: Counts = context(serde_json::from_slice(&text), "Not the counts of a process")?;
    let silent = |last| system::boot_clock_ns().saturating_sub(last) / 1_000_000;
    let silent_ms = counts.last_received_ns.map(silent);
    Ok(Traffic { sent: counts.sent, received: counts.received, silent_ms })
}

/// Sends back what comes in, on any number of connections, with one thread. Returns only if it cannot go on.
fn echo(listeners: &[TcpListener]) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut counts = Counts::default();
    counts.save();
    let mut streams: Vec<TcpStream> = Vec::new();
    loop {
        let ready: Vec<bool> = {
            let listening = listeners.iter().map(AsFd::as_fd);
            let mut polled: Vec<PollFd<'_>> = listening
                .chain(streams.iter().map(AsFd::as_fd))
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(_) => return,
            }
            polled.iter().map(|fd| fd.any().unwrap_or(false)).collect()
        };
        let (accepting, reading) = ready.split_at(listeners.len());
        let mut reading = reading.iter();
        streams.retain_mut(|stream| {
            if !reading.next().is_some_and(|&ready| ready) {
                return true;
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    counts.received(count);
                    counts.sent += count as u64;
                    stream.write_all(&buffer[..count]).is_ok()
                }
                _ => false,
            }
        });
        for (listener, _) in listeners.iter().zip(accepting).filter(|(_, ready)| **ready) {
            if let Ok((stream, _)) = listener.accept() {
                streams.push(stream);
            }
        }
        counts.save();
    }
}

/// Sends a line at each interval and reads what comes back, until the connection is closed or reset.
fn ping_pong(mut stream: &TcpStream, interval: Duration) {
    let mut counts = Counts::default();
    if stream.set_nonblocking(true).is_err() {
        return;
    }
    loop {
        let next = Instant::now() + interval;
        match stream.write(b"ping\n") {
            Ok(count) => counts.sent += count as u64,
            // A full buffer: the peer has been silent for long.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => counts.received(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        counts.save();
    }
}

/// Forks and reaps in `parallel` processes (this one included) until the time is up.
fn fork_storm(parallel: u32, time: Duration) {
    let deadline = Instant::now() + time;
    let leader = nix::unistd::getpid();
    let mut helpers = Vec::new();
    for _ in 1..parallel {
        match system::fork_into(0) {
            Ok(0) => {
                // The helpers end with the leader, also when it is killed.
                let armed = prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
                if armed.is_ok() && nix::unistd::getppid() == leader {
                    fork_until(deadline);
                }
                // SAFETY: ends the helper without running the exit handlers it shares with its parent.
                unsafe { libc::_exit(0) }
            }
            Ok(pid) => helpers.push(pid),
            Err(_) => break,
        }
    }
    fork_until(deadline);
    for pid in helpers.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
        let _ = waitpid(Pid::from_raw(pid), None);
    }
}

fn fork_until(deadline: Instant) {
    while Instant::now() < deadline {
        match system::fork_into(0) {
            // SAFETY: ends the child without running the exit handlers it shares with its parent.
            Ok(0) => unsafe { libc::_exit(0) },
            Ok(pid) => {
                let _ = waitpid(i32::try_from(pid).ok().map(Pid::from_raw), None);
            }
            Err(_) => std::thread::yield_now(),
        }
    }
}
