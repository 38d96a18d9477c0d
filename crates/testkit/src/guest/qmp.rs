//! QEMU's machine protocol, for the tests' own use: pause, dump, ask for the memory layout.
//!
//! QEMU serves one client at a time on this socket, so a connection lasts for one command.

use super::port::LinePort;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Dumping 4 GiB under load takes long; a command that takes longer has hung.
const LONGEST_COMMAND: Duration = Duration::from_secs(120);

/// Runs one command (`{"execute": …, "arguments": …}`) and gives what it returned.
pub(crate) fn execute(socket: &Path, command: &Value) -> Result<Value> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("Cannot connect to QMP at {}", socket.display()))?;
    let mut port = LinePort::from_stream(stream)?;
    let deadline = Instant::now() + LONGEST_COMMAND;
    // The greeting.
    port.receive(LONGEST_COMMAND)?;
    exchange(&mut port, &json!({"execute": "qmp_capabilities"}), deadline)?;
    exchange(&mut port, command, deadline)
}

fn exchange(port: &mut LinePort, command: &Value, deadline: Instant) -> Result<Value> {
    port.send(&command.to_string())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = port.receive(left)?.with_context(|| format!("QEMU did not answer {command} in time"))?;
        let mut reply: Value =
            serde_json::from_str(&line).with_context(|| format!("QEMU answered {command} with {line}"))?;
        if let Some(result) = reply.get_mut("return") {
            return Ok(result.take());
        }
        if let Some(error) = reply.get("error") {
            bail!("QEMU refused {command}: {error}");
        }
        // Anything else is an event.
    }
}
