//! `cargo xtask profiles`: the profiles that are shipped (`profiles/`), made anew of the kernels of the lab.
//!
//! To be run when the table of what the engine asks for changes (`guest-profiles/src/linux.rs`), or when Debian has newer kernels;
//! `crates/guest-profiles/tests/it/shipped.rs` says when. No guest is booted.

use crate::run::{cargo, command, root, step};
use anyhow::{Context, Result};
use std::fs;
use testkit::{Kernel, kernels};

pub(crate) fn run() -> Result<()> {
    let mut build = cargo();
    step(build.args(["build", "--quiet", "--package", "cli", "--bin", "birthmark"]))?;
    let made = tempfile::tempdir().context("There is no place for the new profiles")?;
    let mut birthmark = command("target/debug/birthmark");
    birthmark.args(["profile", "build"]);
    let mut count = 0;
    for kernel in Kernel::ALL {
        match kernels::cached_or_fetch(kernel) {
            Ok(files) => {
                birthmark.arg(files.vmlinuz);
                count += 1;
            }
            // An archive may have taken a kernel away that its lists still name.
            Err(error) => eprintln!("profiles: kernel {} cannot be had: {error:#}", kernel.name),
        }
    }
    step(birthmark.arg("--output").arg(made.path()))?;

    let shipped = root().join("profiles");
    fs::create_dir_all(&shipped).with_context(|| format!("{} could not be made", shipped.display()))?;
    for entry in fs::read_dir(&shipped)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "xz") {
            fs::remove_file(path)?;
        }
    }
    for entry in fs::read_dir(made.path())? {
        let entry = entry?;
        fs::copy(entry.path(), shipped.join(entry.file_name()))?;
    }
    eprintln!("profiles: those of {count} kernels are in {}", shipped.display());
    Ok(())
}
