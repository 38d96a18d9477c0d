//! Independent implementations to compare ours with, from Python's package index: a virtual environment in the lab.
//!
//! What an envelope, a document or a symbol file of ours means must not be for our own readers alone to say.

use crate::lab;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is put into the environment: a DSSE implementation with Ed25519, a validator of JSON Schema, and a memory forensics
/// framework ([`crate::volatility`]).
const PACKAGES: [&str; 3] = ["securesystemslib[crypto]==1.6.0", "jsonschema==4.26.0", "volatility3==2.28.2"];

/// File in an environment that says that everything was put into it.
const COMPLETE: &str = "complete";

/// The interpreter of the environment, if it was made already.
#[must_use]
pub fn cached() -> Option<PathBuf> {
    let environment = lab::directory().join("python").join(stamp());
    environment.join(COMPLETE).is_file().then(|| environment.join("bin/python"))
}

/// The interpreter of the environment, which is made when it is missing (a minute, once).
pub fn prepare() -> Result<PathBuf> {
    let _lock = lab::lock("python")?;
    if let Some(python) = cached() {
        return Ok(python);
    }
    let place = lab::subdirectory("python")?;
    // An environment knows its own path, so it is made under its final name, and is gone again when that fails.
    let environment = place.join(stamp());
    make(&environment).inspect_err(|_| drop(fs::remove_dir_all(&environment)))?;
    Ok(environment.join("bin/python"))
}

fn make(environment: &Path) -> Result<()> {
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    run(&mut pip)?;
    fs::write(environment.join(COMPLETE), "")
        .with_context(|| format!("{} cannot be marked", environment.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} could not be started"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Another name for other packages.
fn stamp() -> String {
    PACKAGES.join("_").replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}
