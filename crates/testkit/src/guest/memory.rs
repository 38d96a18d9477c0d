//! The guest's memory as QEMU knows it: layout, images in the formats an operator brings, and writes made on purpose.
//!
//! The layout is asked of QEMU (`info mtree -f`), never derived: tests compare the engine's own derivation with it. Writing
//! is what tests need to hide a task or patch text the way a rootkit would; the engine itself has no such thing.

use super::{Backing, Guest};
use crate::lime;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use std::fs::{self, File, OpenOptions};

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A range of guest physical addresses backed by the guest's RAM, ROM shadows included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First guest physical address.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// Where it is in the RAM block: offset in the memfd or file, or in the anonymous mapping.
    pub offset: u64,
}

impl Guest {
    /// Where the guest's RAM is in its physical address space, ascending; adjacent ranges are joined.
    pub fn ram_ranges(&self) -> Result<Vec<RamRange>> {
        let arguments = json!({"command-line": "info mtree -f"});
        let reply = self.qmp(&json!({"execute": "human-monitor-command", "arguments": arguments}))?;
        let text = reply.as_str().context("QEMU's memory tree is not text")?;
        parse_flat_view(text)
    }

    /// Writes an ELF core of the guest's physical memory (QEMU's `dump-guest-memory`). The guest is paused meanwhile.
    pub fn dump_elf(&self, path: &Path) -> Result<()> {
        let arguments = json!({"paging": false, "protocol": format!("file:{}", absolute(path)?.display())});
        self.qmp(&json!({"execute": "dump-guest-memory", "arguments": arguments})).map(drop)
    }

    /// Writes a raw image: byte n is guest physical address n; holes between RAM are holes in the file. The guest is paused
    /// meanwhile.
    pub fn dump_raw(&self, path: &Path) -> Result<()> {
        self.paused(|guest| guest.copy_ram(path))
    }

    /// Writes an image in LiME's format, with the same ranges LiME would write: the guest's `System RAM`.
    pub fn dump_lime(&self, path: &Path) -> Result<()> {
        let ranges = self.truth()?.kernel.system_ram;
        let raw = self.directory().join("lime.raw");
        self.dump_raw(&raw)?;
        lime::write(&File::open(&raw)?, &ranges, path)?;
        fs::remove_file(&raw)?;
        Ok(())
    }

    /// Runs something while the guest's CPUs stand still (QMP `stop`, then `cont`, also after an error).
    pub fn paused<T>(&self, act: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.qmp(&json!({"execute": "stop"}))?;
        let result = act(self);
        self.qmp(&json!({"execute": "cont"}))?;
        result
    }

    /// Reads guest memory at a guest physical address, which must be RAM; not for anonymous memory.
    pub fn peek_physical(&self, address: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let offset = self.offset_of(address, length)?;
        self.open_ram()?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Writes guest memory at a guest physical address, behind the guest's back: drift on purpose. The range must be RAM
    /// without a hole; not for anonymous memory.
    pub fn poke_physical(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let offset = self.offset_of(address, bytes.len())?;
        self.open_ram()?.write_all_at(bytes, offset)?;
        Ok(())
    }

    fn copy_ram(&self, path: &Path) -> Result<()> {
        let image = File::create(path).with_context(|| format!("Cannot make {}", path.display()))?;
        for range in self.ram_ranges()? {
            let part = self.directory().join("part.raw");
            let arguments = json!({"val": range.address, "size": range.length, "filename": part});
            self.qmp(&json!({"execute": "pmemsave", "arguments": arguments}))?;
            copy_sparse(&File::open(&part)?, &image, range.address)?;
            fs::remove_file(&part)?;
        }
        Ok(())
    }

    fn offset_of(&self, address: u64, length: usize) -> Result<u64> {
        let end = address.checked_add(length as u64).context("The range ends beyond the address space")?;
        self.ram_ranges()?
            .iter()
            .find(|range| range.address <= address && end <= range.address + range.length)
            .map(|range| range.offset + (address - range.address))
            .with_context(|| format!("{address:#x}..{end:#x} is not RAM of the guest {}", self.name()))
    }

    fn open_ram(&self) -> Result<File> {
        let path = match &self.spec().backing {
            Backing::File(path) => path.clone(),
            Backing::Memfd | Backing::HugePages => self.memfd_path()?,
            Backing::Anonymous => {
                bail!("The guest {} has anonymous memory; boot it with a memfd", self.name())
            }
        };
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("Cannot open {}", path.display()))
    }

    fn memfd_path(&self) -> Result<PathBuf> {
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid()))? {
            let path = entry?.path();
            if fs::read_link(&path)
                .is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:memory-backend-memfd"))
            {
                return Ok(path);
            }
        }
        Err(anyhow!("QEMU {} has no descriptor of its memory", self.pid()))
    }
}

/// QEMU resolves relative paths in its own directory.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))
}

/// Copies a file to an offset of another one, leaving out what is zero.
fn copy_sparse(from: &File, to: &File, at: u64) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let length = from.metadata()?.len();
    let mut position = 0;
    while position < length {
        let count = from.read_at(&mut buffer, position)?;
        anyhow::ensure!(count > 0, "The copy of guest memory became shorter while it was read");
        let chunk = &buffer[..count];
        if chunk.iter().any(|&byte| byte != 0) {
            to.write_all_at(chunk, at + position)?;
        }
        position += count as u64;
    }
    if to.metadata()?.len() < at + length {
        to.set_len(at + length)?;
    }
    Ok(())
}

/// The lines of RAM in the flat view of the address space `memory`, as QEMU 7.2 prints it (softmmu/memory.c):
/// `  0000000000000000-000000000009ffff (prio 0, ram): ram @0000000000000000 KVM`. Memory of devices (flash, video, option
/// ROMs) has other names than the machine's RAM.
fn parse_flat_view(text: &str) -> Result<Vec<RamRange>> {
    let view = text
        .split("FlatView #")
        .find(|view| view.lines().any(|line| line.trim().starts_with("AS \"memory\"")))
        .context("QEMU's memory tree has no address space \"memory\"")?;
    let mut ranges: Vec<RamRange> = Vec::new();
    for line in view.lines() {
        let Some((range, rest)) = line.trim().split_once(" (prio 0, ") else { continue };
        let Some(rest) = rest.strip_prefix("ram): ").or_else(|| rest.strip_prefix("rom): ")) else {
            continue;
        };
        let mut words = rest.split_whitespace();
        if !matches!(words.next(), Some("ram" | "pc.ram" | "microvm.ram")) {
            continue;
        }
        let hex = |digits: &str| {
            u64::from_str_radix(digits, 16).with_context(|| format!("Not hexadecimal: {line}"))
        };
        let (start, end) = range.split_once('-').with_context(|| format!("Not a range: {line}"))?;
        let (address, end) = (hex(start)?, hex(end)?);
        let offset = words.next().and_then(|word| word.strip_prefix('@')).map_or(Ok(0), hex)?;
        let length = end - address + 1;
        match ranges.last_mut() {
            Some(last) if last.address + last.length == address && last.offset + last.length == offset => {
                last.length += length;
            }
            _ => ranges.push(RamRange { address, length, offset }),
        }
    }
    if ranges.is_empty() {
        bail!("QEMU's memory tree shows no RAM:\n{view}");
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::{RamRange, parse_flat_view};

    #[test]
    fn ram_below_and_above_four_gib_is_found_and_device_memory_is_not() {
        let text = "FlatView #0\n AS \"I/O\", root: io\n Root memory region: io\n  0000000000000000-0000000000000007 (prio 0, i/o): dma\n\n\
            FlatView #1\n AS \"memory\", root: system\n AS \"cpu-memory-0\", root: system\n Root memory region: system\n  \
            0000000000000000-00000000000bffff (prio 0, ram): ram\n  \
            00000000000c0000-00000000000dffff (prio 0, rom): ram @00000000000c0000\n  \
            00000000000e0000-000000007fffffff (prio 0, ram): ram @00000000000e0000\n  \
            00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios\n  \
            0000000100000000-000000013fffffff (prio 0, ram): ram @0000000080000000\n\n";
        assert_eq!(
            parse_flat_view(text).unwrap(),
            [
                RamRange { address: 0, length: 0x8000_0000, offset: 0 },
                RamRange { address: 1 << 32, length: 0x4000_0000, offset: 0x8000_0000 },
            ]
        );
        assert!(parse_flat_view("FlatView #0\n AS \"memory\", root: system\n").is_err());
    }
}
