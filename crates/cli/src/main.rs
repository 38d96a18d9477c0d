//! `birthmark`: the command of operators, responders and provisioning pipelines (DESIGN 4.1).
//!
//! This file parses, dispatches and gives the exit status: 0 conforms or done, 1 findings or drift, 2 error. What can be
//! seen is in `guest`, each command family in `commands`, and everything that is printed goes through `output`. The tool
//! must never change a guest, and never leave a half-written file.

mod advice;
mod args;
mod client;
mod commands;
mod document;
mod duration;
mod files;
mod guest;
mod hints;
mod output;
mod profiles;
mod signing;
mod trust;

use args::{Cli, Command};
use clap::Parser;
use clap::error::ErrorKind;
use output::Output;
use std::process::ExitCode;

/// How a command ended that did what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Conforms, or done.
    Done,
    /// Findings, drift, no certificate, or a check that failed.
    Findings,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let mut out = Output::new(cli.json);
    let result = run(cli.command, &mut out);
    // What was got is printed also when the command failed.
    let result = out.finish().and(result);
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(error) => {
            output::error(&error, advice::advice(&error));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command, out: &mut Output) -> anyhow::Result<Outcome> {
    match command {
        Command::List => commands::list::list(out),
        Command::Snapshot(args) => commands::tables::snapshot(&args, out),
        Command::Ps(args) => commands::ps::ps(&args, out),
        Command::Sockets(args) => commands::sockets::sockets(&args, out),
        Command::Modules(args) => commands::tables::modules(&args, out),
        Command::Ebpf(args) => commands::tables::ebpf(&args, out),
        Command::Watch(args) => commands::watch::watch(&args, out),
        Command::Audit(args) => commands::audit::audit(&args, out),
        Command::Certify(args) => commands::certify::certify(&args, out),
        Command::Keygen(args) => commands::keys::keygen(&args, out),
        Command::Verify(args) => commands::certificate::verify(&args, out),
        Command::Show(args) => commands::certificate::show(&args, out),
        Command::Profile(command) => commands::profile::profile(&command, out),
        Command::Review(args) => commands::change::review(&args, out),
        Command::Diff(args) => commands::change::diff(&args, out),
        Command::Accept(args) => commands::change::accept(&args, out),
        Command::Sign(args) => commands::sign::sign(&args, out),
        Command::Status(args) => commands::daemon::status(&args, out),
        Command::Findings(args) => commands::daemon::findings(&args, out),
        Command::Quarantine(args) => commands::daemon::quarantine(&args, out),
        Command::Release(args) => commands::daemon::release(&args, out),
        Command::Doctor(args) => commands::doctor::doctor(&args, out),
        Command::PauseGuard(args) => guest::guard(&args),
    }
}

/// Help and version as clap lays them out; a wrong command line as one line.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::help(&error.render().to_string());
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            output::note("No command was given (see `birthmark --help`)");
            ExitCode::from(2)
        }
        _ => {
            let text = error.render().to_string();
            // The first paragraph says what is wrong; hints and usage follow.
            let what: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            let what = what.join(" ");
            let what = what.strip_prefix("error: ").unwrap_or(&what);
            output::note(&format!("{what} (see `birthmark --help`)"));
            ExitCode::from(2)
        }
    }
}
