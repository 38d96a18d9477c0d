//! Debian's kernels: which there are, and how one gets from the distribution's archive into `target/lab/kernels`.
//!
//! A kernel is named by its meta package, because the package with the image changes its name with every security update.
//! `archive.rs` resolves and downloads it. Nothing is installed: of the package only the image and the modules that a
//! guest may want are unpacked into the cache (all of it would be 400 MB a kernel), under a directory that carries its
//! version, and a small file `current` names the newest.

use crate::archive::{Archive, Package};
use crate::lab;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel of the lab. More are added as constants; nothing else depends on which there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Short name, also the name in the cache.
    pub name: &'static str,
    /// Release of Debian that has it.
    pub release: &'static str,
    /// Meta package that depends on the package with the image.
    pub meta_package: &'static str,
    /// What its release begins with: guards against a distribution where the meta package means another series.
    pub series: &'static str,
}

const CLOUD: &str = "linux-image-cloud-amd64";
const AMD64: &str = "linux-image-amd64";
const RT: &str = "linux-image-rt-amd64";

impl Kernel {
    const fn new(
        name: &'static str,
        release: &'static str,
        meta_package: &'static str,
        series: &'static str,
    ) -> Self {
        Self { name, release, meta_package, series }
    }

    /// Linux 5.10, cloud flavour (Debian 11).
    pub const V5_10: Self = Self::new("5.10-cloud", "bullseye", CLOUD, "5.10.");
    /// Linux 5.10, the flavour for real machines.
    pub const V5_10_AMD64: Self = Self::new("5.10-amd64", "bullseye", AMD64, "5.10.");
    /// Linux 5.10, `PREEMPT_RT`.
    pub const V5_10_RT: Self = Self::new("5.10-rt", "bullseye", RT, "5.10.");
    /// Linux 6.1, cloud flavour (Debian 12).
    pub const V6_1: Self = Self::new("6.1-cloud", "bookworm", CLOUD, "6.1.");
    /// Linux 6.1, the flavour for real machines.
    pub const V6_1_AMD64: Self = Self::new("6.1-amd64", "bookworm", AMD64, "6.1.");
    /// Linux 6.1, `PREEMPT_RT`.
    pub const V6_1_RT: Self = Self::new("6.1-rt", "bookworm", RT, "6.1.");
    /// Linux 6.12, cloud flavour (Debian 13).
    pub const V6_12: Self = Self::new("6.12-cloud", "trixie", CLOUD, "6.12.");
    /// Linux 6.12, the flavour for real machines.
    pub const V6_12_AMD64: Self = Self::new("6.12-amd64", "trixie", AMD64, "6.12.");
    /// Linux 6.12, `PREEMPT_RT`.
    pub const V6_12_RT: Self = Self::new("6.12-rt", "trixie", RT, "6.12.");
    /// Debian unstable's kernel, 7.2 or newer, cloud flavour.
    pub const V7: Self = Self::new("7-cloud", "sid", CLOUD, "7.");
    /// Debian unstable's kernel, the flavour for real machines.
    pub const V7_AMD64: Self = Self::new("7-amd64", "sid", AMD64, "7.");
    /// Debian unstable's kernel, `PREEMPT_RT`.
    pub const V7_RT: Self = Self::new("7-rt", "sid", RT, "7.");
    /// The newest kernel for Debian 13, from its backports, cloud flavour; now before unstable's, now behind it.
    pub const V7_BACKPORTS: Self = Self::new("7-backports-cloud", "trixie-backports", CLOUD, "7.");

    /// All kernels of the lab, the oldest first.
    pub const ALL: [Self; 13] = [
        Self::V5_10,
        Self::V5_10_AMD64,
        Self::V5_10_RT,
        Self::V6_1,
        Self::V6_1_AMD64,
        Self::V6_1_RT,
        Self::V6_12,
        Self::V6_12_AMD64,
        Self::V6_12_RT,
        Self::V7,
        Self::V7_AMD64,
        Self::V7_RT,
        Self::V7_BACKPORTS,
    ];

    /// What CI boots: every series and every flavour, with few large downloads (490 MB in all).
    pub const SAMPLE: [Self; 8] = [
        Self::V5_10,
        Self::V6_1,
        Self::V6_1_RT,
        Self::V6_12,
        Self::V6_12_RT,
        Self::V7,
        Self::V7_AMD64,
        Self::V7_BACKPORTS,
    ];

    /// For what changes slowly from series to series: what holds on both is taken to hold between them.
    pub const OLDEST_AND_NEWEST: [Self; 2] = [Self::V5_10, Self::V7];

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

/// The kernel itself and its modules: what is unpacked of a package.
const WANTED: [&str; 2] = ["./boot/vmlinuz-*", "*/lib/modules/*"];
/// Drivers of devices that no guest has, most of the 400 MB: what is not.
const UNWANTED: [&str; 12] = [
    "sound/*",
    "net/mac80211/*",
    "drivers/net/*/*",
    "drivers/gpu/*",
    "drivers/media/*",
    "drivers/infiniband/*",
    "drivers/scsi/*",
    "drivers/usb/*",
    "drivers/staging/*",
    "drivers/iio/*",
    "drivers/input/*",
    "drivers/hwmon/*",
];

/// File that names the package that is used, and what was wanted when it was unpacked.
const CURRENT: &str = "current";

/// Stands for the files that are wanted: a package that was unpacked when they were others must not be used.
pub(crate) fn contents() -> String {
    let words = WANTED.iter().chain(&UNWANTED).map(|pattern| pattern.as_bytes());
    lab::digest(words).chars().take(16).collect()
}

/// Directory in the cache of all packages of this kernel.
fn home(kernel: Kernel) -> PathBuf {
    lab::directory().join("kernels").join(kernel.name)
}

/// What the cache has for this kernel; asks nobody. `None`: nothing yet.
#[must_use]
pub fn cached(kernel: Kernel) -> Option<KernelFiles> {
    let home = home(kernel);
    files(&home.join(current(&home)?)).ok()
}

/// The package that is used, if it has what is wanted today.
fn current(home: &Path) -> Option<String> {
    let pointer = fs::read_to_string(home.join(CURRENT)).ok()?;
    let (package, unpacked) = pointer.trim().split_once(' ')?;
    (unpacked == contents()).then(|| package.to_owned())
}

/// The newest its release has, downloaded if it is not in the cache yet; without a network, what the cache has. `Err` only if there is none at all.
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
    let home = home(kernel);
    let archive = Archive::open(kernel.release)?;
    match resolve_and_unpack(kernel, &archive, &home) {
        Ok(files) => Ok(files),
        // Lists may name a file that the archive no longer has.
        Err(first) => {
            archive.update().context(first)?;
            resolve_and_unpack(kernel, &archive, &home)
        }
    }
}

fn resolve_and_unpack(kernel: Kernel, archive: &Archive, home: &Path) -> Result<KernelFiles> {
    let meta = archive.newest(kernel.meta_package)?;
    let image = meta.depends.iter().find(|name| name.starts_with("linux-image-"));
    let image = image.with_context(|| format!("{} {} depends on no image", meta.name, meta.version))?;
    let image = archive.newest(image)?;
    let package = format!("{}_{}", image.name, image.version);
    let place = home.join(&package);
    if current(home).as_ref() != Some(&package) {
        // Since 7.2 image and modules are packages of their own, which the package of the image depends on.
        let parts = image
            .depends
            .iter()
            .filter(|name| ["linux-binary-", "linux-modules-"].iter().any(|prefix| name.starts_with(prefix)));
        let mut parts = parts.map(|name| archive.newest(name)).collect::<Result<Vec<_>>>()?;
        if parts.is_empty() {
            parts.push(image);
        }
        fs::create_dir_all(home).with_context(|| format!("Cannot make {}", home.display()))?;
        let work = tempfile::Builder::new().prefix(".unpack-").tempdir_in(home)?;
        let root = work.path().join("root");
        fs::create_dir(&root)?;
        for part in &parts {
            unpack(archive, part, work.path(), &root)?;
        }
        let found = files(&root)?;
        ensure!(
            found.release.starts_with(kernel.series),
            "{} means {} in Debian {}, which is not a kernel {}x",
            kernel.meta_package,
            found.release,
            kernel.release,
            kernel.series
        );
        // What is there may be of another time.
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("Cannot remove {}", place.display()));
            }
            _ => {}
        }
        fs::rename(&root, &place).with_context(|| format!("Cannot put {} in place", place.display()))?;
    }
    let pointer = tempfile::NamedTempFile::new_in(home)?;
    fs::write(pointer.path(), format!("{package} {}", contents()))?;
    pointer.persist(home.join(CURRENT))?;
    files(&place)
}

/// Downloads a package and unpacks what is wanted of it, without keeping the rest or the package.
fn unpack(archive: &Archive, package: &Package, work: &Path, root: &Path) -> Result<()> {
    let deb = archive.download(package, work)?;
    let tar = work.join("fsys.tar");
    let output = fs::File::create(&tar).with_context(|| format!("Cannot make {}", tar.display()))?;
    let status = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&deb).stdout(output).status()?;
    ensure!(status.success(), "dpkg-deb could not read {}: {status}", deb.display());
    // A pattern that nothing matches is no error: a package has the image, or modules, or both.
    let mut extract = Command::new("tar");
    extract.env("LC_ALL", "C");
    extract.arg("-xf").arg(&tar).arg("-C").arg(root).arg("--wildcards");
    extract.args(UNWANTED.map(|path| format!("--exclude=*/kernel/{path}"))).args(WANTED);
    let output = extract.output().context("Cannot run tar")?;
    let words = String::from_utf8_lossy(&output.stderr);
    let unexpected = words.lines().find(|line| {
        !line.ends_with("Not found in archive") && !line.contains("Exiting with failure status")
    });
    if let Some(line) = unexpected {
        bail!("tar could not unpack {}: {line}", package.name);
    }
    fs::remove_file(&tar)?;
    fs::remove_file(&deb)?;
    Ok(())
}

/// Finds image and modules in an unpacked package.
pub(crate) fn files(root: &Path) -> Result<KernelFiles> {
    let parent =
        ["lib/modules", "usr/lib/modules"].map(|path| root.join(path)).into_iter().find(|path| path.is_dir());
    let parent = parent.with_context(|| format!("{} has no modules", root.display()))?;
    let modules = only_entry(&parent, |_| true)?;
    // Since 7.2 the image lies beside its modules.
    let vmlinuz = Some(modules.join("vmlinuz"))
        .filter(|path| path.is_file())
        .map_or_else(|| only_entry(&root.join("boot"), |name| name.starts_with("vmlinuz-")), Ok)?;
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
