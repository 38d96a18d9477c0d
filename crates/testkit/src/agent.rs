//! Builds the programs of the testkit, the guest's workload `birthmark-guest-agent` first of all, as static ones.
//!
//! Cargo builds a test's library dependencies but not their programs, so the testkit asks Cargo itself, once per version of
//! the sources, with a target directory of its own (the outer Cargo may hold the lock of the usual one).

use crate::lab;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "birthmark-guest-agent";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Path of the workload, built if it is not in the cache.
pub(crate) fn build() -> Result<PathBuf> {
    program(NAME)
}

/// Path of a program, built if it is not in the cache.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let home = lab::subdirectory("agent")?;
    let path = home.join(sources_digest(name)?);
    if path.is_file() {
        return Ok(path);
    }
    let _lock = lab::lock("agent")?;
    if path.is_file() {
        return Ok(path);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = home.join("target");
    lab::run(
        Command::new(cargo)
            .args([
                "build",
                "--quiet",
                "--offline",
                "--package",
                "testkit",
                "--bin",
                name,
                "--target",
                TARGET,
            ])
            .arg("--target-dir")
            .arg(&target)
            .current_dir(lab::workspace())
            // Emulated, it is slow enough as it is.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            // The outer build's flags (coverage, sanitizers) are not for the guest.
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static\u{1f}-Cstrip=symbols",
            ),
    )
    .with_context(|| format!("Cannot build {name}"))?;
    let built = target.join(TARGET).join("debug").join(name);
    let copy = tempfile::NamedTempFile::new_in(&home)?;
    fs::copy(&built, copy.path()).with_context(|| format!("Cannot copy {}", built.display()))?;
    copy.persist(&path)?;
    Ok(path)
}

/// Digest of all that the program is made of.
fn sources_digest(name: &str) -> Result<String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![
        package.join("Cargo.toml"),
        package.join("src/command.rs"),
        package.join("src/truth.rs"),
        package.join("src/vmm.rs"),
        lab::workspace().join("Cargo.lock"),
    ];
    for entry in fs::read_dir(package.join("src/bin").join(name))? {
        paths.push(entry?.path());
    }
    paths.sort();
    let contents = paths
        .iter()
        .map(|path| fs::read(path).with_context(|| format!("Cannot read {}", path.display())))
        .collect::<Result<Vec<_>>>()?;
    Ok(lab::digest(contents.iter().map(Vec::as_slice)))
}
