//! What must be green before a change lands, one line per job.

use crate::run::{cargo, command, installed, step};
use crate::{adapter, setup, test, tidy};
use anyhow::Result;

pub(crate) fn run() -> Result<()> {
    step(cargo().args(["fmt", "--all", "--check"]))?;
    tidy::run()?;
    step(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    adapter::lint()?;
    deny()?;
    xenctrl()?;
    step(cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    test::run(&[])
}

/// Licences, bans and duplicate versions. The advisory database is fetched from the network, which a build machine may
/// not have, so advisories are a job of their own: `cargo deny check advisories`.
fn deny() -> Result<()> {
    if !installed("cargo-deny") && !command("cargo").args(["deny", "--version"]).output()?.status.success() {
        step(cargo().args(["install", "--locked", "cargo-deny"]))?;
    }
    step(cargo().args(["deny", "--workspace", "check", "bans", "licenses", "sources"]))
}

/// That the feature which is GPL still compiles. Nothing else is built with it.
fn xenctrl() -> Result<()> {
    setup::xenctrl()?;
    step(cargo().args(["clippy", "-p", "hypervisor", "--features", "xenctrl", "--", "-D", "warnings"]))
}
