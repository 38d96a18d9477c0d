//! Every test, with nothing skipped. The last line printed is the test runner's own summary.

use crate::run::{cargo, command, step};
use crate::{adapter, setup};
use anyhow::Result;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::lab()?;
    // Tests and demo use the programs as users do: as built binaries.
    step(cargo().args(["build", "--workspace", "--bins"]))?;
    adapter::build()?;
    if nextest()? {
        let mut nextest = cargo();
        nextest.args(["nextest", "run", "--workspace", "--profile", "all"]).args(arguments);
        step(nextest.env("BIRTHMARK_TESTS", "all"))
    } else {
        // Without nextest, cargo's own runner does; guests then share the machine by a thread limit.
        let mut test = cargo();
        test.args(["test", "--workspace", "--all-targets"]).args(arguments).args(["--", "--test-threads=2"]);
        step(test.env("BIRTHMARK_TESTS", "all"))
    }
}

/// Whether there is a cargo-nextest.
fn nextest() -> Result<bool> {
    Ok(command("cargo").args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success()))
}
