//! The kernel inside a `bzImage`, decompressed: QEMU and Xen boot it directly, and an emulated CPU is spared the work.
//!
//! The header says where the compressed kernel is (Documentation/arch/x86/boot.rst: `setup_sects` at 0x1f1,
//! `payload_offset` at 0x248, `payload_length` at 0x24c). Its last four bytes are the decompressed length.

use crate::{KernelFiles, lab};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What begins a compressed kernel, and what decompresses it. Debian's cloud kernels have LZ4 (its older frame), the others xz.
const COMPRESSIONS: [(&[u8], &str); 3] =
    [(b"\xfd7zXZ\0", "xz"), (b"\x02\x21\x4c\x18", "lz4"), (b"\x28\xb5\x2f\xfd", "zstd")];

/// Path of the ELF file, made if it is not in the cache.
pub(crate) fn extract(kernel: &KernelFiles) -> Result<PathBuf> {
    let home = lab::subdirectory("vmlinux")?;
    let path = home.join(&kernel.package);
    if path.is_file() {
        return Ok(path);
    }
    let _lock = lab::lock("vmlinux")?;
    let image =
        fs::read(&kernel.vmlinuz).with_context(|| format!("Cannot read {}", kernel.vmlinuz.display()))?;
    let payload = payload(&image)
        .with_context(|| format!("{} is no bzImage with a payload", kernel.vmlinuz.display()))?;
    let Some((_, program)) = COMPRESSIONS.iter().find(|(magic, _)| payload.starts_with(magic)) else {
        bail!("{} is compressed in a way not known here", kernel.vmlinuz.display());
    };
    let compressed = tempfile::NamedTempFile::new_in(&home)?;
    fs::write(compressed.path(), payload)?;
    let elf = lab::run(Command::new(program).arg("-dc").arg(compressed.path()))?.stdout;
    ensure!(elf.starts_with(b"\x7fELF"), "{} holds no ELF file", kernel.vmlinuz.display());
    let work = tempfile::NamedTempFile::new_in(&home)?;
    fs::write(work.path(), elf)?;
    work.persist(&path)?;
    Ok(path)
}

/// The compressed kernel, without the length behind it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    const SECTOR: usize = 512;
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    ensure_magic(image)?;
    let setup_sectors = usize::from(*image.get(0x1f1)?).max(1);
    let start = (setup_sectors + 1) * SECTOR + word(0x248)?;
    image.get(start..start + word(0x24c)?.checked_sub(4)?)
}

fn ensure_magic(image: &[u8]) -> Option<()> {
    (image.get(0x202..0x206)? == b"HdrS").then_some(())
}
