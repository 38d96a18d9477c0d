//! The root file system of a lab host: Debian packages as they are unpacked, the agent as pid 1, and our own programs.
//!
//! Two archives, which the kernel unpacks one after the other: a large one that stays in the cache, and a small one with
//! what is built anew with every change of ours. Neither is compressed, because the emulated CPU would need long for it.

use crate::cpio::Archive;
use crate::kernels::KernelFiles;
use crate::packages::Packages;
use crate::{agent, initramfs, lab, packages};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a host is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contents {
    pub(super) packages: Packages,
    /// Modules of its kernel that can be loaded.
    pub(super) modules: &'static [&'static str],
    /// Directories below `usr/share` and the like that are left out of what the packages have.
    pub(super) left_out: &'static [&'static str],
    /// Files that no package has: path, permissions, content.
    pub(super) files: &'static [(&'static str, u32, &'static str)],
}

/// Documentation, translations, and interpreters that nothing on a lab host runs.
const NEVER: [&str; 14] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/icons",
    "usr/share/perl",
    "usr/share/iso-codes",
    "usr/share/xml",
    "usr/share/zoneinfo",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/python3.11",
    "usr/bin/qemu-system-i386",
];

/// Changes when the layout of the archive changes, so that an old one in the cache is not used.
const LAYOUT: &[u8] = b"3";

/// Path of the large archive, built if it is not in the cache.
pub(super) fn build(contents: Contents, kernel: &KernelFiles) -> Result<PathBuf> {
    let tree = packages::unpack(contents.packages)?;
    let agent = initramfs::read(&agent::build()?)?;
    let busybox = initramfs::read(&initramfs::busybox()?)?;
    let described = format!("{contents:?} {}", tree.display());
    let parts = [LAYOUT, described.as_bytes(), kernel.package.as_bytes(), &agent, &busybox];
    let home = lab::subdirectory("hosts")?;
    let path = home.join(lab::digest(parts)).with_extension("cpio");
    if path.is_file() {
        return Ok(path);
    }
    let _lock = lab::lock("hosts")?;
    if path.is_file() {
        return Ok(path);
    }
    let mut archive = Archive::default();
    // What the packages have replaces busybox's version of it.
    initramfs::add_agent(&mut archive, kernel, &agent, &busybox, contents.modules)?;
    add_tree(&mut archive, &tree, Path::new(""), contents.left_out)?;
    for (path, permissions, content) in contents.files {
        archive.file(path, *permissions, content.as_bytes());
    }
    let work = tempfile::NamedTempFile::new_in(&home)?;
    fs::write(work.path(), archive.finish())?;
    work.persist(&path)?;
    Ok(path)
}

/// The small archive.
pub(super) fn build_own(files: &[(&str, PathBuf)]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.directory("lab", 0o755);
    for (path, from) in files {
        archive.file(path, 0o755, &initramfs::read(from)?);
    }
    Ok(archive.finish())
}

/// Our two programs without their symbols, built if they are older than their sources.
pub(super) fn programs() -> Result<[PathBuf; 2]> {
    // The same command as the set-up's, so that after it there is nothing left to build.
    let built = build_own_programs("--bins")?;
    Ok([stripped(&built.join("birthmark"))?, stripped(&built.join("birthmarkd"))?])
}

/// The same of an example of one of our packages.
pub(super) fn example(name: &str) -> Result<PathBuf> {
    // As the tests' own build did.
    stripped(&build_own_programs("--examples")?.join("examples").join(name))
}

/// Where they are.
fn build_own_programs(which: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--offline", "--workspace", which]).current_dir(lab::workspace());
    lab::run(&mut build).context("Cannot build our own programs")?;
    let target = lab::directory();
    Ok(target.parent().unwrap_or(&target).join("debug"))
}

/// A program without its symbols, of which most of it consists.
pub(super) fn stripped(from: &Path) -> Result<PathBuf> {
    let home = lab::subdirectory("programs")?;
    let metadata = fs::metadata(from).with_context(|| format!("There is no {}", from.display()))?;
    let stamp = format!("{:?} {} {}", metadata.modified()?, metadata.len(), from.display());
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let path = home.join(format!("{name}-{}", &lab::digest([stamp.as_bytes()])[..16]));
    if !path.is_file() {
        let _lock = lab::lock("programs")?;
        let work = tempfile::NamedTempFile::new_in(&home)?;
        lab::run(Command::new("strip").arg("-o").arg(work.path()).arg(from))?;
        work.persist(&path)?;
    }
    Ok(path)
}

fn add_tree(archive: &mut Archive, root: &Path, inside: &Path, left_out: &[&str]) -> Result<()> {
    let directory = root.join(inside);
    let mut entries = fs::read_dir(&directory)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| format!("Cannot list {}", directory.display()))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = inside.join(entry.file_name());
        let name = path.to_string_lossy();
        if NEVER.contains(&name.as_ref()) || left_out.contains(&name.as_ref()) {
            continue;
        }
        let kind = entry.file_type()?;
        let permissions = entry.metadata()?.permissions().mode() & 0o7777;
        if kind.is_dir() {
            archive.directory(&name, permissions);
            add_tree(archive, root, &path, left_out)?;
        } else if kind.is_symlink() {
            archive.symlink(&name, &fs::read_link(entry.path())?.to_string_lossy());
        } else if kind.is_file() {
            archive.file(&name, permissions, &initramfs::read(&entry.path())?);
        }
    }
    Ok(())
}
