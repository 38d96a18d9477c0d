//! Stops and resumes the VMM of a guest of KVM or QEMU, for `crate::pause` (decision 0034).
//!
//! A VMM that is stopped runs no vCPU, and takes no word from anybody until it goes on. So what an operator asks of it meanwhile
//! happens after that, and what he asked before still holds: a guest that he paused does not run because its VMM does. No monitor
//! is needed, and none is spoken to.

use super::process::{Process, pidfd_open, proc_error, proc_path};
use crate::Error;
use crate::pause::Stops;
use nix::libc;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the threads of a VMM may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_micros(100);

/// The process of a VMM, in the hands of whoever starts the guard.
#[derive(Debug)]
pub(crate) struct VmmOf {
    pid: u32,
    pidfd: OwnedFd,
}

impl VmmOf {
    pub(crate) fn new(process: &Process) -> Result<Self, Error> {
        let pid = process.pid();
        let pidfd = pidfd_open(pid).map_err(|source| proc_error(pid, &proc_path(pid, "task"), source))?;
        // After that, so the descriptor is of this very process.
        if process.is_alive() { Ok(Self { pid, pidfd }) } else { Err(Error::ProcessGone { pid }) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The process, for the guard.
    pub(crate) fn connect(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Lets the VMM go on, whether or not it stands.
    pub(crate) fn resume(&self) -> io::Result<()> {
        send(&self.pidfd, libc::SIGCONT)
    }
}

/// The process of a VMM in the hands of the guard.
#[derive(Debug)]
pub(crate) struct HeldVmm {
    pid: u32,
    pidfd: OwnedFd,
}

impl HeldVmm {
    pub(crate) fn of(pidfd: OwnedFd, pid: u32) -> Self {
        Self { pid, pidfd }
    }

    /// Whether every thread of it is stopped.
    fn stands(&self) -> io::Result<bool> {
        for thread in fs::read_dir(proc_path(self.pid, "task"))? {
            match fs::read_to_string(thread?.path().join("stat")) {
                Ok(stat) if !is_stopped(&stat) => return Ok(false),
                // One that has ended does nothing any more.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(true)
    }
}

impl Stops for HeldVmm {
    fn runs(&mut self) -> io::Result<bool> {
        self.stands().map(|stands| !stands)
    }

    fn stop(&mut self) -> io::Result<()> {
        let began = Instant::now();
        send(&self.pidfd, libc::SIGSTOP)?;
        while !self.stands()? {
            if began.elapsed() > STOPS_WITHIN {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(POLL);
        }
        Ok(())
    }

    fn resume(&mut self) -> io::Result<bool> {
        let stood = self.stands();
        send(&self.pidfd, libc::SIGCONT)?;
        stood
    }
}

/// Whether a thread is stopped, by its `/proc/PID/task/TID/stat`, or is one of the kernel's own in the process (of vhost, io_uring or KVM),
/// which runs no vCPU and heeds no signal.
fn is_stopped(stat: &str) -> bool {
    /// ``PF_IO_WORKER`` and ``PF_USER_WORKER``.
    const WORKER: u32 = 0x10 | 0x4000;
    let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    let state = fields.next();
    let flags: u32 = fields.nth(5).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    matches!(state, Some("T" | "t" | "Z" | "X")) || flags & WORKER != 0
}

fn send(pidfd: &OwnedFd, signal: libc::c_int) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal takes a descriptor, a number, no structure and no flags, and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, nothing, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn held() -> (Running, HeldVmm) {
        let child = Running(Command::new("sleep").arg("60").spawn().unwrap());
        let of = VmmOf::new(&Process::open(child.0.id()).unwrap()).unwrap();
        let held = HeldVmm::of(of.connect().unwrap(), of.pid());
        (child, held)
    }

    #[test]
    fn a_process_stands_from_stop_to_resume_and_one_that_was_let_go_on_is_told_of() {
        let (_child, mut held) = held();
        assert!(held.runs().unwrap());
        held.stop().unwrap();
        assert!(!held.runs().unwrap());
        assert!(held.resume().unwrap());
        assert!(held.runs().unwrap());

        held.stop().unwrap();
        send(&held.pidfd, libc::SIGCONT).unwrap();
        assert!(!held.resume().unwrap(), "somebody else let it go on before");
    }

    #[test]
    fn a_process_that_has_ended_is_an_error_to_stop() {
        let (mut child, mut held) = held();
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        assert!(held.runs().is_err());
        assert!(held.stop().is_err());
    }

    #[test]
    fn every_thread_has_to_stand_but_for_the_kernels_own() {
        let stat = |state: &str, flags: u32| format!("7 (CPU 0/KVM) S) {state} 1 7 7 0 -1 {flags} 1 0 0");
        assert!(is_stopped(&stat("T", 0x0040_0040)) && is_stopped(&stat("t", 0)));
        for runs in ["R", "S", "D"] {
            assert!(!is_stopped(&stat(runs, 0x0040_0040)), "{runs}");
            assert!(is_stopped(&stat(runs, 0x0040_4040)) && is_stopped(&stat(runs, 0x0040_0050)), "{runs}");
        }
        assert!(!is_stopped("") && !is_stopped("7 (x)"));
    }
}
