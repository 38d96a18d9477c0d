//! The command port: opening this guest's own, and passing a command on to a guest that runs inside this one.
//!
//! Its own port is `/dev/ttyS1`, or what the kernel's command line names (`PORT=/dev/hvc0` or `PORT=/dev/vport0p1`, which the
//! kernel hands to its first process as an environment variable). Where this system is itself a host, the ports of its guests are terminals or
//! Unix sockets.

use crate::init::{Result, context, load_module, module_needs};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, SetArg};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use testkit::command::{Command, Reply, Request};

/// How long a device may take to appear after its driver was loaded.
const DEVICE: Duration = Duration::from_secs(10);

/// This guest's command port in raw mode.
pub(crate) fn open_own() -> Result<File> {
    let path = std::env::var("PORT").unwrap_or_else(|_| "/dev/ttyS1".to_owned());
    let open = if path.starts_with("/dev/vport") { open_port } else { open_terminal };
    let port = match open(&path) {
        Ok(port) => port,
        // A virtio console or port, whose driver is a module.
        Err(_) if path.starts_with("/dev/hvc") || path.starts_with("/dev/vport") => {
            load_module("virtio_pci", &module_needs()?, 0)?;
            load_module("virtio_console", &module_needs()?, 0)?;
            let deadline = Instant::now() + DEVICE;
            loop {
                match open(&path) {
                    Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                    result => break result?,
                }
            }
        }
        Err(error) => return Err(error),
    };
    Ok(port)
}

/// A stream of bytes; a terminal is to be nobody's controlling one.
fn open_port(path: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    let port = options.read(true).write(true).custom_flags(nix::libc::O_NOCTTY).open(path);
    context(port, &format!("Cannot open the command port {path}"))
}

fn open_terminal(path: &str) -> Result<File> {
    let port = open_port(path)?;
    let mut settings = context(termios::tcgetattr(&port), "Cannot read the settings of the command port")?;
    termios::cfmakeraw(&mut settings);
    context(termios::tcsetattr(&port, SetArg::TCSANOW, &settings), "Cannot set the command port up")?;
    Ok(port)
}

/// Passes a command on to the guest whose port is at `path`, and gives its answer. Other lines (the greeting, the kernel's
/// messages where the port is also its console) are passed over.
pub(crate) fn relay(path: &str, command: &Command, longest: Duration) -> Result<Value> {
    let kind = context(fs::metadata(path), path)?.file_type();
    let mut port = if kind.is_socket() {
        File::from(OwnedFd::from(context(UnixStream::connect(path), path)?))
    } else {
        open_terminal(path)?
    };
    let id = crate::system::boot_clock_ns();
    let mut line = context(serde_json::to_vec(&Request { id, command: command.clone() }), "Cannot write")?;
    line.push(b'\n');
    let reader = context(port.try_clone(), path)?;
    context(port.write_all(&line), "Cannot write to the port of a guest")?;
    answer(reader, id, longest)
}

fn answer(reader: File, id: u64, longest: Duration) -> Result<Value> {
    let deadline = Instant::now() + longest;
    let mut lines = BufReader::new(Deadlined { file: reader, deadline });
    loop {
        let mut line = Vec::new();
        let count = context(lines.read_until(b'\n', &mut line), "No answer of the guest inside")?;
        if count == 0 {
            return Err("The guest inside has closed its port".to_owned());
        }
        match serde_json::from_slice::<Reply>(&line) {
            Ok(Reply { id: of, ok, error }) if of == id => {
                return error.map_or(Ok(ok.unwrap_or_default()), Err);
            }
            _ => {}
        }
    }
}

/// A file whose reads give up at a deadline.
struct Deadlined {
    file: File,
    deadline: Instant,
}

impl Read for Deadlined {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => self.file.read(buffer),
        }
    }
}
