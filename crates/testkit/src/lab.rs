//! The lab's cache on disk, `target/lab`: where it is, and how many test processes share it without a race.
//!
//! Whoever makes something holds the lock of its kind, makes it under a temporary name, and renames it into place: what has
//! its final name is complete. Readers need no lock.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Root of the workspace this crate was built in.
pub(crate) fn workspace() -> &'static Path {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    crates.and_then(Path::parent).unwrap_or(Path::new("."))
}

/// `target/lab` (below `CARGO_TARGET_DIR` if that is set). It need not exist yet.
#[must_use]
pub fn directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => workspace().join(target).join("lab"),
        None => workspace().join("target/lab"),
    }
}

/// A subdirectory of the lab, made if missing.
pub(crate) fn subdirectory(name: &str) -> Result<PathBuf> {
    let path = directory().join(name);
    fs::create_dir_all(&path).with_context(|| format!("Cannot make the directory {}", path.display()))?;
    Ok(path)
}

/// Waits for the lock of a subdirectory of the lab; dropping the file releases it, as does the end of the process.
pub(crate) fn lock(name: &str) -> Result<File> {
    let path = subdirectory(name)?.join(".lock");
    let file =
        File::create(&path).with_context(|| format!("Cannot open the lock file {}", path.display()))?;
    file.lock().with_context(|| format!("Cannot lock {}", path.display()))?;
    Ok(file)
}

/// Runs a program to its end; an error says what it printed.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("Cannot run {program} (is it installed?)"))?;
    if !output.status.success() {
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        anyhow::bail!(
            "{program} {} ended with {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output)
}

/// SHA-256 of the parts, each with its length in front, as 64 hex digits.
pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a program of this name is on the `PATH`, where starting it looks.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Whether there is a process of this pid.
pub(crate) fn process_exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
