//! Independent implementations to compare ours with, from Python's package index: virtual environments in the lab.
//!
//! What an envelope, a document or a symbol file of ours means must not be for our own readers alone to say.

use crate::lab;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A DSSE implementation with Ed25519, and a validator of JSON Schema.
const CHECKERS: Environment = Environment(&["securesystemslib[crypto]==1.6.0", "jsonschema==4.26.0"]);
/// A memory forensics framework, alone: with a validator of JSON Schema beside it, it would check its 15 MB of symbols by that for
/// minutes before each run.
const VOLATILITY: Environment = Environment(&["volatility3==2.28.2"]);

/// File in an environment that says that everything was put into it.
const COMPLETE: &str = "complete";

/// The interpreter of the environment of checkers, if it was made already.
#[must_use]
pub fn cached() -> Option<PathBuf> {
    CHECKERS.program("python")
}

/// The interpreter of the environment of checkers, which is made when it is missing (a minute, once).
pub fn prepare() -> Result<PathBuf> {
    CHECKERS.prepare("python")
}

/// Volatility, if it was installed already.
#[must_use]
pub fn cached_volatility() -> Option<PathBuf> {
    VOLATILITY.program("vol")
}

/// Volatility, which is installed when it is missing.
pub fn prepare_volatility() -> Result<PathBuf> {
    VOLATILITY.prepare("vol")
}

/// An environment with these packages.
#[derive(Clone, Copy, Debug)]
struct Environment(&'static [&'static str]);

impl Environment {
    /// One of its programs, if it was made already.
    fn program(self, name: &str) -> Option<PathBuf> {
        let place = lab::directory().join("python").join(self.stamp());
        place.join(COMPLETE).is_file().then(|| place.join("bin").join(name))
    }

    fn prepare(self, name: &str) -> Result<PathBuf> {
        let _lock = lab::lock("python")?;
        if let Some(program) = self.program(name) {
            return Ok(program);
        }
        // An environment knows its own path, so it is made under its final name, and is gone again when that fails.
        let place = lab::subdirectory("python")?.join(self.stamp());
        self.make(&place).inspect_err(|_| drop(fs::remove_dir_all(&place)))?;
        Ok(place.join("bin").join(name))
    }

    fn make(self, place: &Path) -> Result<()> {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(place))?;
        let mut pip = Command::new(place.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(self.0);
        run(&mut pip)?;
        fs::write(place.join(COMPLETE), "").with_context(|| format!("{} cannot be marked", place.display()))
    }

    /// Another name for other packages.
    fn stamp(self) -> String {
        self.0.join("_").replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} could not be started"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
