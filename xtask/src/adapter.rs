//! `examples/vmi-rs-adapter`, a crate with a lockfile of its own: built and linted with ours, and kept beside them in `target`.

use crate::run::{cargo, root, step};
use anyhow::Result;
use std::process::Command;

/// Builds what `crates/introspect/tests/it/vmi_rs.rs` runs, which downloads nothing itself.
pub(crate) fn build() -> Result<()> {
    step(in_adapter(&["build", "--locked", "--examples"]).arg("--quiet"))
}

/// What `cargo xtask ci` does with every crate of the workspace.
pub(crate) fn lint() -> Result<()> {
    step(&mut in_adapter(&["fmt", "--check"]))?;
    step(in_adapter(&["clippy", "--locked", "--all-targets"]).args(["--", "-D", "warnings"]))
}

fn in_adapter(arguments: &[&str]) -> Command {
    let mut cargo = cargo();
    cargo.args(arguments).current_dir(root().join("examples/vmi-rs-adapter"));
    cargo.env("CARGO_TARGET_DIR", root().join("target/vmi-rs-adapter"));
    cargo
}
