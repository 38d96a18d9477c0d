//! The most memory that a program had while it ran.
//!
//! The kernel only tells it of all children of a process together, so each program is run by a process of its own: this
//! program once more, which does nothing else.

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use std::path::Path;
use std::process::{Command, Stdio};

/// First argument of the process that runs a program and tells.
const CHILD: &str = "--peak-memory-of";

/// Runs `program`, without hints and stored profiles, and gives the most bytes that were resident of it.
pub fn of(program: &Path, arguments: &[&str]) -> Result<u64> {
    let output = Command::new(std::env::current_exe()?)
        .arg(CHILD)
        .arg(program)
        .args(arguments)
        .env("BIRTHMARK_HINTS", "")
        .env("BIRTHMARK_PROFILES", "")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "{} {arguments:?} did not run: {output:?}", program.display());
    text.trim().parse().with_context(|| format!("{text:?} is no number of bytes"))
}

/// What to do when this is the process that runs a program: to be asked first of all. `None`: it is not.
#[expect(clippy::print_stdout, reason = "the number is what its parent waits for")]
pub fn as_child() -> Option<Result<()>> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != CHILD {
        return None;
    }
    let mut run = || {
        let program = arguments.next().context("There is no program")?;
        let status = Command::new(program).args(arguments.by_ref()).stdout(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "The program ended with {status}");
        let kibibytes = u64::try_from(getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss())?;
        println!("{}", kibibytes.saturating_mul(1024));
        Ok(())
    };
    Some(run())
}
