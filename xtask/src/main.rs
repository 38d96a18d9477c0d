//! The project's own commands, run as `cargo xtask NAME`.
//!
//! What CI, a contributor and a stranger on a fresh machine run is the same code, written here once: each command does
//! its own set-up. It is a build tool, so it prints, and it stops at the first thing that fails.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for a terminal")]

mod adapter;
mod bench;
mod ci;
mod demo;
mod hosts;
mod matrix;
mod profiles;
mod run;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  demo           a real guest is certified, drifts, and is cut off: under two minutes, all set-up included
  test [ARGS]    every test, real guests included; ARGS go to cargo nextest
  ci             what must be green before a change lands: fmt, clippy, tidy, deny, docs, test
  tidy           the house rules that no compiler checks
  matrix         every pair of kernels, machines and kinds of memory, on real guests: about an hour; writes
                 docs/support-matrix.md (--fresh forgets earlier results, --document only writes, --hosts runs
                 the lab's hosts instead and writes the part about them)
  bench [ARGS]   every bench; ARGS go to cargo bench
  profiles       makes the shipped kernel profiles (profiles/) anew
  setup          installs what the lab needs and fetches its kernels (the others do this themselves)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let result = match command {
        "demo" => demo::run(),
        "test" => test::run(rest),
        "ci" => ci::run(),
        "tidy" => tidy::run(),
        "matrix" => matrix::run(rest),
        "bench" => bench::run(rest),
        "profiles" => profiles::run(),
        "setup" => setup::lab(),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprint!("There is no command {other}.\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
