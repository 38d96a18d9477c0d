//! One VMM process: reading its files under `/proc`, and knowing for certain whether it still runs.
//!
//! A pid is reused, so a process is its pid *and* its start time. Once opened, a pidfd answers "does it still run" with
//! one cheap call that cannot confuse it with a successor.

use crate::Error;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Turns a failure under `/proc/PID` into the error that says what it means.
pub(crate) fn proc_error(pid: u32, path: &Path, source: io::Error) -> Error {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ESRCH) if !Path::new(&format!("/proc/{pid}")).exists() => {
            Error::ProcessGone { pid }
        }
        Some(Errno::ESRCH) => Error::ProcessGone { pid },
        Some(Errno::EACCES | Errno::EPERM) => Error::Permission { path: path.to_owned(), source },
        _ => Error::Proc { path: path.to_owned(), source },
    }
}

/// `/proc/PID/FILE`.
pub(crate) fn proc_path(pid: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// Reads `/proc/PID/FILE` whole.
pub(crate) fn read_proc(pid: u32, file: &str) -> Result<Vec<u8>, Error> {
    let path = proc_path(pid, file);
    fs::read(&path).map_err(|source| proc_error(pid, &path, source))
}

/// The command name (at most 15 bytes, without the line end).
pub(crate) fn comm(pid: u32) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(&read_proc(pid, "comm")?).trim_end_matches('\n').to_owned())
}

/// What `/proc/PID/stat` says (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Field 4.
    pub(crate) parent: u32,
    /// Field 22, in clock ticks after the host's boot.
    pub(crate) start_time: u64,
}

/// Reads it.
pub(crate) fn stat(pid: u32) -> Result<Stat, Error> {
    let stat = read_proc(pid, "stat")?;
    let text = String::from_utf8_lossy(&stat);
    parse_stat(&text).ok_or_else(|| Error::ProcSyntax {
        path: proc_path(pid, "stat"),
        line: text.chars().take(80).collect(),
    })
}

/// The command name is in parentheses and may hold any byte, so fields are counted from the last `)`.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { parent, start_time: fields.nth(17)?.parse().ok()? })
}

/// One descriptor of a process.
#[derive(Debug)]
pub(crate) struct Descriptor {
    /// Its number.
    pub(crate) number: u32,
    /// What `/proc/PID/fd/N` links to.
    pub(crate) link: PathBuf,
}

/// All descriptors of a process, by number. One that is closed meanwhile is left out.
pub(crate) fn descriptors(pid: u32) -> Result<Vec<Descriptor>, Error> {
    let folder = proc_path(pid, "fd");
    let entries = fs::read_dir(&folder).map_err(|source| proc_error(pid, &folder, source))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| proc_error(pid, &folder, source))?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(link) = fs::read_link(entry.path()) {
            found.push(Descriptor { number, link });
        }
    }
    found.sort_by_key(|descriptor| descriptor.number);
    Ok(found)
}

/// A process that can be asked whether it still runs.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    start_time: u64,
    /// `None` on a kernel without pidfd_open (before 5.3), or where a sandbox forbids it.
    pidfd: Option<OwnedFd>,
}

impl Process {
    /// Takes hold of a process that runs now.
    pub(crate) fn open(pid: u32) -> Result<Self, Error> {
        let pidfd = pidfd_open(pid).ok();
        // Read after the pidfd exists: if the process still has its entry, the pidfd is of this very process.
        let start_time = stat(pid)?.start_time;
        let process = Self { pid, start_time, pidfd };
        if process.is_alive() { Ok(process) } else { Err(Error::ProcessGone { pid }) }
    }

    /// Host process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs. A zombie does not: its memory is gone.
    pub(crate) fn is_alive(&self) -> bool {
        match &self.pidfd {
            Some(pidfd) => {
                let mut poll_fd = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                poll(&mut poll_fd, PollTimeout::ZERO) == Ok(0)
            }
            None => stat(self.pid).is_ok_and(|now| now.start_time == self.start_time),
        }
    }
}

/// A descriptor of a process.
pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes a pid and flags, touches no memory of ours, and returns a new descriptor or -1.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    let raw = i32::try_from(result).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just returned this descriptor (close-on-exec by default), and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_start_time_are_found_behind_a_hostile_command_name() {
        let stat = "42 (a) b) 1 2 3) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 9 9";
        assert_eq!(parse_stat(stat), Some(Stat { parent: 1, start_time: 777 }));
        assert_eq!(parse_stat("42 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_process_is_alive_until_it_is_a_zombie() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(process.is_alive());
        child.kill().unwrap();
        // Not reaped yet: wait until the kill has taken effect, which a blocking poll on the pidfd tells.
        let pidfd = process.pidfd.as_ref().unwrap();
        poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], 5000_u16).unwrap();
        assert!(!process.is_alive());
        child.wait().unwrap();
        assert!(!process.is_alive());
        assert!(matches!(Process::open(child.id()), Err(Error::ProcessGone { .. })));
    }
}
