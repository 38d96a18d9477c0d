//! Debian packages with all they need, unpacked side by side into the lab's cache: what a lab host is made of.
//!
//! The host's own `apt` resolves and downloads them as if nothing were installed, so that the same set comes out on every
//! machine of that distribution. Nothing is installed and no script of a package runs; no host name is known here.

use crate::lab;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A set of packages, and its name in the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packages {
    pub(crate) name: &'static str,
    pub(crate) wanted: &'static [&'static str],
}

/// Where the tree is, if it is complete.
pub(crate) fn cached(packages: Packages) -> Option<PathBuf> {
    let tree = place(packages);
    tree.is_dir().then_some(tree)
}

/// The tree, downloaded and unpacked if it is not in the cache.
pub(crate) fn unpack(packages: Packages) -> Result<PathBuf> {
    if let Some(tree) = cached(packages) {
        return Ok(tree);
    }
    let _lock = lab::lock("trees")?;
    if let Some(tree) = cached(packages) {
        return Ok(tree);
    }
    match download_and_unpack(packages) {
        // Lists that are missing or name a file the archive no longer has.
        Err(first) if nix::unistd::geteuid().is_root() => {
            lab::run(Command::new("apt-get").args(["-q", "update"])).context(first)?;
            download_and_unpack(packages)
        }
        result => result,
    }
}

/// The name carries what was asked for, so that a changed list is not served from the cache.
fn place(packages: Packages) -> PathBuf {
    let digest = lab::digest(packages.wanted.iter().map(|name| name.as_bytes()));
    lab::directory().join("trees").join(format!("{}-{}", packages.name, &digest[..16]))
}

fn download_and_unpack(packages: Packages) -> Result<PathBuf> {
    let home = lab::subdirectory("trees")?;
    let work = tempfile::Builder::new().prefix(".unpack-").tempdir_in(&home)?;
    let archives = work.path().join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    let status = work.path().join("status");
    fs::write(&status, "")?;
    lab::run(
        Command::new("apt-get")
            .args(["-q", "-y", "--no-install-recommends", "--download-only"])
            .args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"])
            .arg("-o")
            .arg(format!("Dir::State::status={}", status.display()))
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", archives.display()))
            .arg("install")
            .args(packages.wanted),
    )?;
    let tree = work.path().join("tree");
    let mut unpacked = 0;
    for entry in fs::read_dir(&archives)? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            lab::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree))?;
            unpacked += 1;
        }
    }
    if unpacked == 0 {
        bail!("apt-get downloaded no package of {}", packages.wanted.join(", "));
    }
    let place = place(packages);
    fs::rename(&tree, &place).with_context(|| format!("Cannot put {} in place", place.display()))?;
    Ok(place)
}
