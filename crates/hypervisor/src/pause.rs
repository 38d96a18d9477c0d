//! Stops a guest for a moment, on request only, so that it runs again whatever happens to us.
//!
//! What stops and resumes it is a process of its own, the guard: it resumes when it is told to, when whoever started it is gone (also
//! by `SIGKILL`: then the other end of their line closes), or at the deadline, whichever is first. A guest that stood before is left
//! alone. Should the guard itself be killed, whoever started it resumes the guest. How each hypervisor does both is in
//! `kvm/pause.rs` (the VMM) and `xen/pause.rs`. Must never be used by a look that was not asked to pause.

use crate::Error;
use crate::kvm::pause::{HeldVmm, VmmOf};
use crate::xen::Interface;
use crate::xen::pause::{DomainOf, Held as HeldDomain};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long a guard may take beyond its limit: for the hypervisor to answer, on a busy host.
const SLACK: Duration = Duration::from_secs(5);
/// What the guard says. Before [`STOPPING`] it has touched nothing.
const STOOD: &str = "stood";
const STOPPING: &str = "stopping";
const STOPPED: &str = "stopped";
const ASKED: &str = "asked";
const DEADLINE: &str = "deadline";
/// What stands before a domain that is asked about in a way that is refused first.
const REFUSED: &str = "refused-";
/// Somebody else had let it go on before.
const ELSEWHERE: &str = "elsewhere";

/// What a guard stops and resumes, as the last argument of its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reins {
    /// The process of a VMM.
    Process(u32),
    /// The hypervisor, about one domain.
    Domain(u16, Interface),
}

impl fmt::Display for Reins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "pid:{pid}"),
            Self::Domain(domid, Interface::Known) => write!(f, "xen:{domid}"),
            Self::Domain(domid, Interface::Refused) => write!(f, "{REFUSED}xen:{domid}"),
        }
    }
}

impl FromStr for Reins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let process = || Some(Self::Process(text.strip_prefix("pid:")?.parse().ok()?));
        let domain = || {
            let (text, interface) = match text.strip_prefix(REFUSED) {
                Some(text) => (text, Interface::Refused),
                None => (text, Interface::Known),
            };
            Some(Self::Domain(text.strip_prefix("xen:")?.parse().ok()?, interface))
        };
        process().or_else(domain).ok_or_else(|| format!("`{text}` is nothing that can be paused"))
    }
}

/// A guest's hypervisor, in the hands of the guard.
pub(crate) trait Stops {
    /// Whether the guest runs.
    fn runs(&mut self) -> io::Result<bool>;
    /// Stops it. It may stand after an error too.
    fn stop(&mut self) -> io::Result<()>;
    /// Undoes `stop`, as far as it was done. Whether the guest stood until now.
    fn resume(&mut self) -> io::Result<bool>;
}

/// A guest's hypervisor, in the hands of whoever starts the guard.
#[derive(Debug)]
pub(crate) enum Stoppable {
    Vmm(VmmOf),
    Domain(DomainOf),
}

impl Stoppable {
    /// What the guard is told, and the descriptor that it works through.
    fn reins(&self) -> Result<(Reins, OwnedFd), Error> {
        match self {
            Self::Vmm(of) => {
                let process = of.connect().map_err(|source| self.failed(source))?;
                Ok((Reins::Process(of.pid()), process))
            }
            Self::Domain(of) => Ok((Reins::Domain(of.domid(), of.interface()), of.connect()?)),
        }
    }

    /// The guard ended before it should.
    fn lost(&self) -> Error {
        self.failed(io::ErrorKind::UnexpectedEof.into())
    }

    fn failed(&self, source: io::Error) -> Error {
        let what = match self {
            Self::Vmm(of) => format!("process {}", of.pid()),
            Self::Domain(of) => format!("Xen domain {}", of.domid()),
        };
        Error::PauseGuard { what, source }
    }

    /// Resumes what a guard that was killed had stopped.
    fn resume(&self) -> Result<(), Error> {
        match self {
            Self::Vmm(of) => of.resume().map_err(|source| self.failed(source)),
            Self::Domain(of) => of.resume(),
        }
    }
}

/// A guest that stands because of us.
#[derive(Debug)]
pub struct Pause {
    what: Stoppable,
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
    /// Stops a guest for `limit` at most. `guard` is a program that calls [`guard()`] with its standard input, output, its last
    /// argument (which is added here) and that limit. `Ok(None)`: the guest stood already, and is left so.
    pub(crate) fn begin(what: Stoppable, limit: Duration, mut guard: Command) -> Result<Option<Self>, Error> {
        let (reins, through) = what.reins()?;
        let (ours, theirs) = UnixStream::pair().map_err(|source| what.failed(source))?;
        // Until then the guard has resumed it, or cannot.
        ours.set_read_timeout(Some(limit.saturating_add(SLACK))).map_err(|source| what.failed(source))?;
        let started = guard
            .arg(reins.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(through))
            .stderr(Stdio::null())
            // Not ended by the Ctrl-C that ends us.
            .process_group(0)
            .spawn();
        // It has the guard's ends of the line and the monitor, of which we must have none: we could not see the guard end, nor
        // anybody else have the monitor.
        drop(guard);
        let guard = started.map_err(|source| what.failed(source))?;
        let mut pause = Self { what, guard, line: BufReader::new(ours) };
        match pause.word()?.as_deref() {
            Some(STOPPING) => {}
            Some(STOOD) => {
                let _ = pause.guard.wait();
                return Ok(None);
            }
            // It ended and has touched nothing: the guest may stand because somebody else wants it to.
            Some(_) | None => {
                pause.put_down();
                return Err(pause.what.lost());
            }
        }
        match pause.word()?.as_deref() {
            Some(STOPPED) => Ok(Some(pause)),
            // It ended before, or after, it stopped the guest.
            Some(_) | None => {
                pause.put_down();
                pause.what.resume()?;
                Err(pause.what.lost())
            }
        }
    }

    /// Lets the guest go on.
    pub fn end(mut self) -> Result<Paused, Error> {
        // If it cannot be told, it is gone or has done it already: its last word tells.
        let _ = self.line.get_ref().write_all(b"\n");
        let word = self.word()?;
        let told = word.as_deref().and_then(|word| {
            let (why, time) = word.split_once(' ')?;
            Some((why == ASKED, time.parse().ok()?))
        });
        if let Some((to_the_end, time)) = told {
            let _ = self.guard.wait();
            return Ok(Paused { time: Some(Duration::from_micros(time)), to_the_end });
        }
        self.put_down();
        self.what.resume()?;
        Ok(Paused { time: None, to_the_end: false })
    }

    /// The guard's next word. `Ok(None)`: it has ended.
    fn word(&mut self) -> Result<Option<String>, Error> {
        let mut line = String::new();
        match self.line.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line.trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(self.what.failed(error)),
        }
    }

    /// Ends a guard that does not do as it should, so that it does nothing after us.
    fn put_down(&mut self) {
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

/// What a guard does: stops the guest, and resumes it at the first of a byte or the end on `line`, and `limit`. `through` is a
/// pidfd of the guest's VMM, or an open `/dev/xen/privcmd`, as `reins` says. What it says on `line` is for [`Pause`].
pub fn guard(line: OwnedFd, through: OwnedFd, reins: Reins, limit: Duration) -> io::Result<()> {
    let line = UnixStream::from(line);
    match reins {
        Reins::Process(pid) => hold(line, &mut HeldVmm::of(through, pid), limit),
        Reins::Domain(domid, interface) => hold(line, &mut HeldDomain::of(through, domid, interface)?, limit),
    }
}

fn hold(mut line: UnixStream, guest: &mut dyn Stops, limit: Duration) -> io::Result<()> {
    if !guest.runs()? {
        return writeln!(line, "{STOOD}");
    }
    writeln!(line, "{STOPPING}")?;
    let began = Instant::now();
    let stopped = guest.stop();
    let told = stopped.and_then(|()| writeln!(line, "{STOPPED}"));
    // Whatever went wrong: it may stand.
    let why = match told {
        Ok(()) => wait(&line, began, limit),
        Err(_) => ASKED,
    };
    let why = if guest.resume()? { why } else { ELSEWHERE };
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn reins_are_read_as_they_are_written() {
        for reins in [
            Reins::Process(4_194_304),
            Reins::Domain(0, Interface::Known),
            Reins::Domain(32_751, Interface::Known),
            Reins::Domain(7, Interface::Refused),
        ] {
            assert_eq!(reins.to_string().parse(), Ok(reins));
        }
        let never =
            ["", "monitor", "xen:", "refused-", "refused-7", "refused-pid:7", "xen:70000", "xen:-1", "kvm"];
        for text in never.into_iter().chain(["pid:", "pid:-1", "pid:web"]) {
            assert!(text.parse::<Reins>().is_err(), "{text}");
        }
    }

    /// A guest that counts what is done to it; `elsewhere`: somebody else resumes it.
    struct Made {
        runs: bool,
        elsewhere: bool,
        stops: u32,
        resumes: u32,
    }

    impl Stops for Made {
        fn runs(&mut self) -> io::Result<bool> {
            Ok(self.runs)
        }

        fn stop(&mut self) -> io::Result<()> {
            self.stops += 1;
            Ok(())
        }

        fn resume(&mut self) -> io::Result<bool> {
            self.resumes += 1;
            Ok(!self.elsewhere)
        }
    }

    /// What the guard said, and what it did to the guest, when the other end of its line does `act`.
    fn held(
        mut guest: Made,
        limit: Duration,
        act: impl FnOnce(UnixStream) -> Option<UnixStream>,
    ) -> (String, Made) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let heard = ours.try_clone().unwrap();
        let guard = thread::spawn(move || {
            // Nobody may listen any more.
            let _ = hold(theirs, &mut guest, limit);
            guest
        });
        let kept = act(ours);
        let guest = guard.join().unwrap();
        drop(kept);
        // A word that the guard did not read is an error at the end of what it said.
        let said = BufReader::new(heard).lines().map_while(Result::ok);
        (said.collect::<Vec<_>>().join("|"), guest)
    }

    fn running() -> Made {
        Made { runs: true, elsewhere: false, stops: 0, resumes: 0 }
    }

    #[test]
    fn a_guest_is_resumed_once_when_asked_at_the_deadline_and_when_nobody_is_there_any_more() {
        let long = Duration::from_secs(60);
        let (said, guest) = held(running(), long, |line| {
            (&line).write_all(b"\n").unwrap();
            Some(line)
        });
        assert!(said.starts_with("stopping|stopped|asked "), "{said}");
        assert_eq!((guest.stops, guest.resumes), (1, 1));

        let (said, guest) = held(running(), Duration::from_millis(30), Some);
        let time = said.strip_prefix("stopping|stopped|deadline ").unwrap();
        assert!(time.parse::<u64>().unwrap() >= 30_000, "{said}");
        assert_eq!((guest.stops, guest.resumes), (1, 1));

        // As when the look is killed: nothing of it keeps the line open.
        let (_, guest) = held(running(), long, |line| {
            line.shutdown(std::net::Shutdown::Write).unwrap();
            None
        });
        assert_eq!((guest.stops, guest.resumes), (1, 1));
    }

    #[test]
    fn a_guest_that_stood_is_not_touched_and_one_that_was_resumed_elsewhere_is_told_of() {
        let long = Duration::from_secs(60);
        let (said, guest) = held(Made { runs: false, ..running() }, long, Some);
        assert_eq!((said.as_str(), guest.stops, guest.resumes), ("stood", 0, 0));
        let (said, _) = held(Made { elsewhere: true, ..running() }, long, |line| {
            (&line).write_all(b"\n").unwrap();
            Some(line)
        });
        assert!(said.starts_with("stopping|stopped|elsewhere "), "{said}");
    }
}
