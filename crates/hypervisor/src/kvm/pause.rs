//! Stops and resumes a guest of QEMU: `stop` and `cont` to its monitor, for `crate::pause`.

use super::cmdline::Options;
use super::monitor::{self, Monitor};
use crate::Error;
use crate::pause::Stops;
use serde_json::json;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Where the monitor is.
#[derive(Debug)]
pub(crate) struct MonitorOf {
    pid: u32,
    path: PathBuf,
}

impl MonitorOf {
    pub(crate) fn find(pid: u32, options: &Options) -> Result<Self, Error> {
        let path = monitor::socket_path(pid, options).ok_or(Error::NoMonitor { pid })?;
        Ok(Self { pid, path })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A fresh connection.
    pub(crate) fn connect(&self) -> Result<OwnedFd, Error> {
        let monitor = Monitor::connect(&self.path).map_err(|source| self.silent(source))?;
        Ok(monitor.into_descriptor())
    }

    /// Lets the guest go on, whether or not it stands.
    pub(crate) fn resume(&self) -> Result<(), Error> {
        Monitor::connect(&self.path)
            .and_then(|mut monitor| {
                monitor.greet()?;
                monitor.execute(&json!({"execute": "cont"}))
            })
            .map(drop)
            .map_err(|source| self.silent(source))
    }

    pub(crate) fn silent(&self, source: io::Error) -> Error {
        Error::MonitorSilent { pid: self.pid, path: self.path.clone(), source }
    }
}

/// The monitor in the hands of the guard.
#[derive(Debug)]
pub(crate) struct Monitored {
    monitor: Monitor,
}

impl Monitored {
    /// `connection` is one that nothing was read from yet.
    pub(crate) fn of(connection: OwnedFd) -> io::Result<Self> {
        let mut monitor = Monitor::of(UnixStream::from(connection))?;
        monitor.greet()?;
        Ok(Self { monitor })
    }
}

impl Stops for Monitored {
    fn runs(&mut self) -> io::Result<bool> {
        let status = self.monitor.execute(&json!({"execute": "query-status"}))?;
        Ok(status.get("running").and_then(serde_json::Value::as_bool) == Some(true))
    }

    fn stop(&mut self) -> io::Result<()> {
        self.monitor.execute(&json!({"execute": "stop"})).map(drop)
    }

    /// Nobody else had the monitor meanwhile, so it stood.
    fn resume(&mut self) -> io::Result<bool> {
        self.monitor.execute(&json!({"execute": "cont"})).map(|_| true)
    }
}
