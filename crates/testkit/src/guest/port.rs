//! The host's end of the command port: lines of JSON over the unix socket behind the guest's second serial port.

use anyhow::{Context, Result, bail, ensure};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// No reply is longer; a guest that sends more has gone wrong.
const LONGEST_LINE: usize = 64 << 20;

/// A connection that is read by lines.
#[derive(Debug)]
pub(crate) struct LinePort {
    stream: UnixStream,
    received: Vec<u8>,
}

impl LinePort {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new() }
    }

    pub(crate) fn send(&mut self, line: &str) -> Result<()> {
        self.stream
            .write_all(line.as_bytes())
            .and_then(|()| self.stream.write_all(b"\n"))
            .context("Cannot send")
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
            searched = self.received.len();
            ensure!(searched < LONGEST_LINE, "A line of more than {LONGEST_LINE} bytes was received");
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("The other end has closed the connection"),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).context("Cannot receive"),
            }
        }
    }
}
