//! Lines of JSON over a stream: the host's end of the command port, and of QMP.
//!
//! QEMU writes what the guest sends on a serial port byte by byte. Waking up for each byte would take the CPU from the very
//! guest that is sending, so once a line has begun the reader sleeps between reads.

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// No reply is longer; a guest that sends more has gone wrong.
const LONGEST_LINE: usize = 64 << 20;

/// How long to let bytes gather.
const GATHER: Duration = Duration::from_millis(1);

/// A stream that is read by lines.
#[derive(Debug)]
pub(crate) struct LinePort {
    reader: File,
    writer: File,
    received: Vec<u8>,
}

impl LinePort {
    /// Makes the two FIFOs of QEMU's character device `pipe` with this path, and opens the host's end of them. To be done
    /// before QEMU starts.
    pub(crate) fn make_pipe(path: &Path) -> Result<Self> {
        let [input, output] = ["in", "out"].map(|end| path.with_extension(end));
        for fifo in [&input, &output] {
            nix::unistd::mkfifo(fifo, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
                .with_context(|| format!("Cannot make {}", fifo.display()))?;
        }
        // Opened for both, a FIFO does not wait for its other end.
        let writer = OpenOptions::new().read(true).write(true).open(&input)?;
        // Opened for reading only, so that the end of QEMU is noticed.
        let reader = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&output)?;
        Ok(Self { reader, writer, received: Vec::new() })
    }

    pub(crate) fn from_stream(stream: UnixStream) -> Result<Self> {
        let writer = File::from(OwnedFd::from(stream.try_clone()?));
        Ok(Self { reader: File::from(OwnedFd::from(stream)), writer, received: Vec::new() })
    }

    pub(crate) fn send(&mut self, line: &str) -> Result<()> {
        self.writer.write_all(format!("{line}\n").as_bytes()).context("Cannot send")
    }

    /// Next line without its end; `None` if there was none within the time. An incomplete one is kept for later.
    pub(crate) fn receive(&mut self, timeout: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + timeout;
        let mut searched = 0;
        loop {
            let fresh = self.received.get(searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=searched + at).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if !fresh.is_empty() {
                std::thread::sleep(GATHER);
            }
            searched = self.received.len();
            ensure!(searched < LONGEST_LINE, "A line of more than {LONGEST_LINE} bytes was received");
            let left = deadline.saturating_duration_since(Instant::now());
            let mut polled = [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("Cannot wait for a line"),
            }
            let mut buffer = [0; 64 << 10];
            match self.reader.read(&mut buffer).context("Cannot receive")? {
                0 => bail!("The other end has closed the connection"),
                count => self.received.extend_from_slice(&buffer[..count]),
            }
        }
    }
}
