//! A stock Volatility 3, for holding our symbol files against the program that they are for.
//!
//! It has a Python environment of its own ([`crate::python`]). It runs with a cache and a symbol directory that the caller names, so that
//! runs do not see each other's files, and asks no network.

use crate::{lab, python};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// The pids that its plugin `linux.pslist` finds in a memory image with the symbol files of a directory, and their names.
pub fn pslist(image: &Path, symbols: &Path, work: &Path) -> Result<Vec<(u32, String)>> {
    let mut command = Command::new(python::prepare_volatility()?);
    command
        .args(["--quiet", "--offline", "--renderer", "json"])
        .arg("--cache-path")
        .arg(work)
        .arg("--symbol-dirs")
        .arg(symbols)
        .arg("--file")
        .arg(image)
        .arg("linux.pslist.PsList");
    let output = lab::run(&mut command)?;
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("Volatility printed {}", String::from_utf8_lossy(&output.stdout)))?;
    rows.iter()
        .map(|row| {
            let pid = row["PID"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            let name = row["COMM"].as_str();
            pid.zip(name.map(str::to_owned)).with_context(|| format!("A row without pid or name: {row}"))
        })
        .collect()
}
