//! The disk of a full Debian: packages as their maintainers set them up, with what a small web host has, and a container.
//!
//! `mmdebstrap` installs the packages from the archive that the host's own apt uses, `mke2fs` makes a file system of the tree;
//! nothing is mounted. The kernel is the image's own. What is made is kept in the lab's cache under a digest of this recipe;
//! the workload is not in it (a guest's initramfs brings it). No host name is in the image.

use crate::archive;
use crate::kernels::{self, KernelFiles};
use crate::lab;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const RELEASE: &str = "bookworm";

/// Packages beside those that every Debian has.
const PACKAGES: [&str; 18] = [
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "udev",
    "kmod",
    "linux-image-cloud-amd64",
    "openssh-server",
    "openssh-client",
    "nginx-light",
    "postgresql-15",
    "cron",
    "logrotate",
    "iproute2",
    "runc",
    "busybox-static",
    "unattended-upgrades",
    "procps",
    "rsyslog",
];

/// What nobody in a test reads.
const NEVER: [&str; 3] = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*"];

/// Files that no package has: path, permissions, content.
const FILES: [(&str, u32, &str); 15] = [
    ("etc/hostname", 0o644, "lab-debian\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost lab-debian\n::1 localhost\n"),
    // With one, systemd does not take the boot for the first and enables nothing by itself.
    ("etc/machine-id", 0o444, "6c61622d64656269616e2d6775657374\n"),
    ("etc/systemd/network/lab.network", 0o644, "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n"),
    ("etc/systemd/system/birthmark-guest-agent.service", 0o644, include_str!("agent.service")),
    ("etc/systemd/system/lab-container.service", 0o644, include_str!("container.service")),
    ("var/lib/lab-container/config.json", 0o644, include_str!("container.json")),
    ("var/lib/lab-container/rootfs/www/index.html", 0o644, "hello\n"),
    ("etc/apt/sources.list", 0o644, "deb [trusted=yes] file:/srv/repository ./\n"),
    ("etc/apt/apt.conf.d/52lab", 0o644, "Unattended-Upgrade::Origins-Pattern { \"origin=Lab\"; };\n"),
    ("srv/package/DEBIAN/control", 0o644, include_str!("package.control")),
    ("srv/package/DEBIAN/postinst", 0o755, include_str!("package.postinst")),
    ("srv/package/lib/systemd/system/lab-metrics.service", 0o644, include_str!("package.service")),
    ("etc/ssh/sshd_config.d/lab.conf", 0o644, "PasswordAuthentication no\n"),
    ("srv/set-up", 0o755, include_str!("set-up.sh")),
];

/// Units that start at boot though no package of Debian says so, and the units that want them.
const WANTED: [(&str, &str); 3] = [
    ("/etc/systemd/system/birthmark-guest-agent.service", "multi-user.target.wants"),
    ("/etc/systemd/system/lab-container.service", "multi-user.target.wants"),
    ("/lib/systemd/system/systemd-networkd.service", "multi-user.target.wants"),
];

/// What a guest boots.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// A raw disk with one ext4 file system.
    pub(super) disk: PathBuf,
    /// The kernel that is installed on it.
    pub(super) kernel: KernelFiles,
}

/// The image, if it is in the cache.
pub(super) fn cached() -> Option<Image> {
    let home = place();
    let kernel = kernels::files(&home.join("kernel")).ok()?;
    Some(Image { disk: home.join("disk.raw"), kernel })
}

/// The image, made if it is not in the cache.
pub(super) fn build() -> Result<Image> {
    if let Some(image) = cached() {
        return Ok(image);
    }
    let _lock = lab::lock("debian")?;
    if let Some(image) = cached() {
        return Ok(image);
    }
    let work = tempfile::Builder::new().prefix(".make-").tempdir_in(lab::subdirectory("debian")?)?;
    let root = work.path().join("root");
    install(&root, &work.path().join("sources.list"))?;
    set_up(&root)?;
    let whole = work.path().join("whole");
    let kernel = whole.join("kernel");
    fs::create_dir_all(kernel.join("lib"))?;
    for (from, to) in [("boot", "boot"), ("usr/lib/modules", "lib/modules")] {
        lab::run(
            Command::new("cp").args(["-a", "--reflink=auto"]).arg(root.join(from)).arg(kernel.join(to)),
        )?;
    }
    lab::run(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-L", "root", "-d"])
            .arg(&root)
            .arg(whole.join("disk.raw"))
            .arg("2G"),
    )?;
    fs::rename(&whole, place()).with_context(|| format!("Cannot put {} in place", place().display()))?;
    cached().context("The image that was made lacks its kernel")
}

/// The name carries the recipe, so that an image of another one is not used.
fn place() -> PathBuf {
    let mut parts: Vec<String> = PACKAGES.iter().chain(&NEVER).map(|&part| part.to_owned()).collect();
    parts.extend(FILES.iter().map(|file| format!("{file:?}")));
    parts.extend(WANTED.iter().map(|unit| format!("{unit:?}")));
    let digest = lab::digest(parts.iter().map(String::as_bytes));
    lab::directory().join("debian").join(&digest[..16])
}

fn install(root: &Path, sources: &Path) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "Only root can make the disk of a Debian guest");
    fs::write(sources, archive::sources_of(RELEASE)?)?;
    let settings = lab::run(Command::new("apt-config").arg("dump"))?.stdout;
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--mode=root"]);
    command.args(["--aptopt=APT::Sandbox::User \"root\"", "--aptopt=Acquire::Languages \"none\""]);
    // How this host reaches the archive; the image does not keep it (`set-up.sh`).
    let reaches = ["Acquire::http::", "Acquire::https::", "Acquire::Check-"];
    for line in String::from_utf8_lossy(&settings).lines() {
        if reaches.iter().any(|prefix| line.starts_with(prefix)) {
            command.arg(format!("--aptopt={line}"));
        }
    }
    command.args(NEVER.map(|path| format!("--dpkgopt=path-exclude={path}")));
    command.arg(format!("--include={}", PACKAGES.join(","))).arg(RELEASE).arg(root).arg(sources);
    lab::run(&mut command).context("Cannot install Debian into a directory")?;
    Ok(())
}

fn set_up(root: &Path) -> Result<()> {
    for (path, permissions, content) in FILES {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let written = fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(permissions)));
        written.with_context(|| format!("Cannot write {}", path.display()))?;
    }
    let units = root.join("etc/systemd/system");
    for (unit, wanted_by) in WANTED {
        let name = Path::new(unit).file_name().unwrap_or_default();
        symlink(unit, units.join(wanted_by).join(name)).with_context(|| format!("Cannot enable {unit}"))?;
    }
    lab::run(Command::new("chroot").arg(root).args(["/bin/sh", "/srv/set-up"]))
        .context("Cannot set the image up")?;
    Ok(())
}
