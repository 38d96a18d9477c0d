//! Debian's kernels: which there are, and how one gets from the distribution's archive into `target/lab/kernels`.
//!
//! A kernel is named by its meta package, because the package with the image changes its name with every security update.
//! The host's own `apt` resolves and downloads it; no host name is known here. Nothing is installed: the package is unpacked
//! into the cache, under a directory that carries its version, and a small file `current` names the newest.

use crate::lab;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel of the lab. More are added as constants; nothing else depends on which there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Short name, also the name in the cache.
    pub name: &'static str,
    /// Meta package that depends on the package with the image.
    pub meta_package: &'static str,
    /// What its release begins with: guards against a distribution where the meta package means another series.
    pub series: &'static str,
}

impl Kernel {
    /// Linux 6.1, cloud flavour (Debian 12's own).
    pub const V6_1: Self =
        Self { name: "6.1-cloud", meta_package: "linux-image-cloud-amd64", series: "6.1." };
    /// Linux 6.12, cloud flavour.
    pub const V6_12: Self =
        Self { name: "6.12-cloud", meta_package: "linux-image-6.12-cloud-amd64", series: "6.12." };
    /// All of them, the oldest first.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The kernel of this name, full (`6.1-cloud`) or as a series (`6.1`).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.name == name || kernel.name.split('-').next() == Some(name))
    }
}

/// A kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFiles {
    /// Compressed image, bootable by QEMU.
    pub vmlinuz: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// `uname -r`.
    pub release: String,
    /// Package and version, `PACKAGE_VERSION`.
    pub package: String,
}

/// What the cache has for this kernel; asks nobody. `None`: nothing yet.
#[must_use]
pub fn cached(kernel: Kernel) -> Option<KernelFiles> {
    let home = lab::directory().join("kernels").join(kernel.name);
    let package = fs::read_to_string(home.join("current")).ok()?;
    files(&home.join(package.trim())).ok()
}

/// The newest this host's package lists know, downloaded if it is not in the cache yet; without lists or network, what the
/// cache has. `Err` only if there is none at all.
pub fn fetch(kernel: Kernel) -> Result<KernelFiles> {
    let _lock = lab::lock("kernels")?;
    match fetch_newest(kernel) {
        Ok(files) => Ok(files),
        Err(error) => cached(kernel).ok_or(error),
    }
}

/// What the cache has, else as [`fetch`]. For tests: once there is a kernel, they ask nobody.
pub fn cached_or_fetch(kernel: Kernel) -> Result<KernelFiles> {
    cached(kernel).map_or_else(|| fetch(kernel), Ok)
}

fn fetch_newest(kernel: Kernel) -> Result<KernelFiles> {
    let home = lab::directory().join("kernels").join(kernel.name);
    match resolve_and_unpack(kernel, &home) {
        Ok(files) => Ok(files),
        // Lists that are missing or name a file the archive no longer has.
        Err(first) if nix::unistd::geteuid().is_root() => {
            lab::run(Command::new("apt-get").args(["-q", "update"])).context(first)?;
            resolve_and_unpack(kernel, &home)
        }
        Err(error) => Err(error),
    }
}

fn resolve_and_unpack(kernel: Kernel, home: &Path) -> Result<KernelFiles> {
    let image = image_package(kernel)?;
    let version = candidate_version(&image)?;
    let package = format!("{image}_{version}");
    let place = home.join(&package);
    if !place.is_dir() {
        fs::create_dir_all(home).with_context(|| format!("Cannot make {}", home.display()))?;
        let work = tempfile::Builder::new().prefix(".unpack-").tempdir_in(home)?;
        lab::run(
            Command::new("apt-get")
                .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
                .arg(format!("{image}={version}"))
                .current_dir(work.path()),
        )?;
        let archive = only_entry(work.path(), |name| name.ends_with(".deb"))?;
        let root = work.path().join("root");
        lab::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root))?;
        let found = files(&root)?;
        ensure!(
            found.release.starts_with(kernel.series),
            "{} means {} here, which is not a kernel {}x",
            kernel.meta_package,
            found.release,
            kernel.series
        );
        fs::rename(&root, &place).with_context(|| format!("Cannot put {} in place", place.display()))?;
    }
    let pointer = tempfile::NamedTempFile::new_in(home)?;
    fs::write(pointer.path(), &package)?;
    pointer.persist(home.join("current"))?;
    files(&place)
}

/// The package that the meta package depends on.
fn image_package(kernel: Kernel) -> Result<String> {
    let output = lab::run(Command::new("apt-cache").args(["depends", "--important", kernel.meta_package]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| format!("No package list of this host knows {}", kernel.meta_package))
}

fn candidate_version(package: &str) -> Result<String> {
    let output = lab::run(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("Version: "))
        .map(str::to_owned)
        .with_context(|| format!("apt-cache shows no version of {package}"))
}

/// Finds image and modules in an unpacked package.
fn files(root: &Path) -> Result<KernelFiles> {
    let vmlinuz = only_entry(&root.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let parent =
        ["lib/modules", "usr/lib/modules"].map(|path| root.join(path)).into_iter().find(|path| path.is_dir());
    let parent = parent.with_context(|| format!("{} has no modules", root.display()))?;
    let modules = only_entry(&parent, |_| true)?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let package = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(KernelFiles { vmlinuz, modules, release, package })
}

fn only_entry(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("Cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if wanted(&entry.file_name().to_string_lossy()) {
            return Ok(entry.path());
        }
    }
    bail!("{} does not have the expected file", directory.display())
}
