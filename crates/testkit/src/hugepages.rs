//! Huge pages of the host, set aside for a test and given back.
//!
//! The host has one number of them for everybody, so who changes it holds a lock, and leaves the number it found in a file:
//! the next one puts right what a test that was killed could not.

use crate::lab;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::PathBuf;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";

/// Huge pages of 2 MiB that exist while this does.
#[derive(Debug)]
pub struct HugePages {
    before: u64,
    _lock: File,
}

impl HugePages {
    /// Sets `mib` MiB aside. `Err` says why this host cannot: not root, other huge pages than 2 MiB, too little free memory.
    pub fn reserve(mib: u64) -> Result<Self> {
        let lock = lab::lock("hugepages")?;
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let size = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:")).map(str::trim);
        ensure!(
            size == Some("2048 kB"),
            "This host's huge pages are of {}, not of 2 MiB",
            size.unwrap_or("no size")
        );
        if let Ok(left) = fs::read_to_string(note()?) {
            set(left.trim().parse()?)?;
        }
        let before = count()?;
        fs::write(note()?, before.to_string())?;
        let pages = Self { before, _lock: lock };
        let wanted = before + mib.div_ceil(2);
        set(wanted)?;
        // The kernel makes as many as it finds room for, and says nothing.
        let made = count()?;
        ensure!(
            made >= wanted,
            "This host has room for {} huge pages, not for {}",
            made - before,
            wanted - before
        );
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if set(self.before).is_ok()
            && let Ok(note) = note()
        {
            // If it stays, the next one sets the same number again.
            let _ = fs::remove_file(note);
        }
    }
}

fn note() -> Result<PathBuf> {
    Ok(lab::subdirectory("hugepages")?.join("before"))
}

fn count() -> Result<u64> {
    let text = fs::read_to_string(COUNT).with_context(|| format!("Cannot read {COUNT}"))?;
    text.trim().parse().with_context(|| format!("{COUNT} has no number: {text}"))
}

fn set(count: u64) -> Result<()> {
    fs::write(COUNT, count.to_string()).with_context(|| format!("Cannot change {COUNT}"))
}
