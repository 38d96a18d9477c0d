//! Stops a guest for a moment, on request only, so that it runs again whatever happens to us.
//!
//! QEMU's monitor is held by a process of its own, the guard, which sends `stop`, and `cont` when it is told to, when whoever started
//! it is gone (also by `SIGKILL`: then the other end of their line closes), or at the deadline, whichever is first. A guest that stood
//! before is left alone. Should the guard itself be killed, whoever started it sends `cont`. Must never be used by a look that
//! was not asked to pause.

use super::cmdline::Options;
use super::monitor::{self, Monitor};
use crate::Error;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a guard may take beyond its limit: for QEMU to answer, on a busy host.
const SLACK: Duration = Duration::from_secs(5);
/// What the guard says. Before [`STOPPING`] it has touched nothing.
const STOOD: &str = "stood";
const STOPPING: &str = "stopping";
const STOPPED: &str = "stopped";
const ASKED: &str = "asked";
const DEADLINE: &str = "deadline";

/// A guest that stands because of us.
#[derive(Debug)]
pub struct Pause {
    pid: u32,
    path: PathBuf,
    guard: Child,
    line: BufReader<UnixStream>,
}

/// How a guest stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paused {
    /// From before it was told to stop until it ran again. `None`: the guard was killed and could not say.
    pub time: Option<Duration>,
    /// Whether it stood until it was told to go on. If not, it ran again before.
    pub to_the_end: bool,
}

impl Pause {
    /// Stops the guest of a QEMU for `limit` at most. `guard` is a program that calls [`guard()`] with its standard input, output and
    /// that limit. `Ok(None)`: the guest stood already, and is left so.
    pub(crate) fn begin(
        pid: u32,
        options: &Options,
        limit: Duration,
        mut guard: Command,
    ) -> Result<Option<Self>, Error> {
        let path = monitor::socket_path(pid, options).ok_or(Error::NoMonitor { pid })?;
        let silent = |source| Error::MonitorSilent { pid, path: path.clone(), source };
        let monitor = Monitor::connect(&path).map_err(silent)?;
        let failed = |source| Error::PauseGuard { pid, source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        // Until then the guard has resumed it, or cannot.
        ours.set_read_timeout(Some(limit.saturating_add(SLACK))).map_err(failed)?;
        let started = guard
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(monitor.into_descriptor()))
            .stderr(Stdio::null())
            // Not ended by the Ctrl-C that ends us.
            .process_group(0)
            .spawn();
        // It has the guard's ends of the line and the monitor, of which we must have none: we could not see the guard end, nor
        // anybody else have the monitor.
        drop(guard);
        let guard = started.map_err(failed)?;
        let mut pause = Self { pid, path, guard, line: BufReader::new(ours) };
        let silent = |path| Error::MonitorSilent { pid, path, source: io::ErrorKind::UnexpectedEof.into() };
        match pause.word().map_err(failed)?.as_deref() {
            Some(STOPPING) => {}
            Some(STOOD) => {
                let _ = pause.guard.wait();
                return Ok(None);
            }
            // It ended and has touched nothing: the guest may stand because somebody else wants it to.
            Some(_) | None => {
                let _ = pause.guard.kill();
                let _ = pause.guard.wait();
                return Err(silent(pause.path));
            }
        }
        match pause.word().map_err(failed)?.as_deref() {
            Some(STOPPED) => Ok(Some(pause)),
            // It ended before, or after, it stopped the guest.
            Some(_) | None => {
                let path = pause.path.clone();
                pause.resume_ourselves()?;
                Err(silent(path))
            }
        }
    }

    /// Lets the guest go on.
    pub fn end(mut self) -> Result<Paused, Error> {
        // If it cannot be told, it is gone or has done it already: its last word tells.
        let _ = self.line.get_ref().write_all(b"\n");
        let word = self.word().map_err(|source| Error::PauseGuard { pid: self.pid, source })?;
        let told = word.as_deref().and_then(|word| {
            let (why, time) = word.split_once(' ')?;
            Some((why == ASKED, time.parse().ok()?))
        });
        match told {
            Some((to_the_end, time)) => {
                let _ = self.guard.wait();
                Ok(Paused { time: Some(Duration::from_micros(time)), to_the_end })
            }
            None => {
                self.resume_ourselves()?;
                Ok(Paused { time: None, to_the_end: false })
            }
        }
    }

    /// The guard's next word. `Ok(None)`: it has ended.
    fn word(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        match self.line.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line.trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn resume_ourselves(mut self) -> Result<(), Error> {
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let (pid, path) = (self.pid, self.path);
        Monitor::connect(&path)
            .and_then(|mut monitor| {
                monitor.greet()?;
                monitor.execute(&json!({"execute": "cont"}))
            })
            .map(drop)
            .map_err(|source| Error::MonitorSilent { pid, path, source })
    }
}

/// What a guard does: stops the guest whose monitor `monitor` is a fresh connection to, and resumes it at the first of a byte or the
/// end on `line`, and `limit`. What it says on `line` is for [`Pause`].
pub fn guard(line: OwnedFd, monitor: OwnedFd, limit: Duration) -> io::Result<()> {
    let mut line = UnixStream::from(line);
    let mut monitor = Monitor::of(UnixStream::from(monitor))?;
    monitor.greet()?;
    let status = monitor.execute(&json!({"execute": "query-status"}))?;
    if status.get("running").and_then(serde_json::Value::as_bool) != Some(true) {
        return writeln!(line, "{STOOD}");
    }
    writeln!(line, "{STOPPING}")?;
    let began = Instant::now();
    let stopped = monitor.execute(&json!({"execute": "stop"})).map(drop);
    let told = stopped.and_then(|()| writeln!(line, "{STOPPED}"));
    // Whatever went wrong: it may stand.
    let why = match told {
        Ok(()) => wait(&line, began, limit),
        Err(_) => ASKED,
    };
    monitor.execute(&json!({"execute": "cont"}))?;
    // Nobody may listen any more.
    let _ = writeln!(line, "{why} {}", began.elapsed().as_micros());
    told
}

/// Waits for a word, the end of the line, or the deadline.
fn wait(line: &UnixStream, began: Instant, limit: Duration) -> &'static str {
    loop {
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            return DEADLINE;
        }
        // Rounded up, so that the last part of a millisecond is not spent in a loop.
        let millis = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut polled = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::from(millis)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) | Err(_) => return ASKED,
        }
    }
}
