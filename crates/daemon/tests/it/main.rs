//! Integration tests of `daemon`: configuration, the flow from a look to a quarantine, the control socket, and the real
//! program through a kill.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod boot;
mod client;
mod config;
mod control;
mod flow;
mod learning;
mod life;
mod program;
mod real;
mod trust;
mod world;
