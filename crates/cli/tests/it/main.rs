//! Tests of the command `birthmark` from outside: arguments in, output and exit status out.
//!
//! A new test goes into the file of its subject; what needs a running VM goes into `guest.rs`,
//! `ps` and `watch` on one into `processes.rs`, what terminals and pipes get into `terminal.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod calm;
mod certificate;
mod change;
mod daemon;
mod errors;
mod guest;
mod help;
mod lab_host;
mod pause;
mod processes;
mod profile;
mod provision;
mod real_kvm;
mod real_xen;
mod run;
mod shown;
mod signed;
mod signing;
mod terminal;
mod trust;
mod volatility;
mod writing;
mod xen_inside;
