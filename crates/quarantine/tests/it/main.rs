//! Integration tests of `quarantine`: the journal through crashes, and real rules in network namespaces of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod crash;
mod journal;
mod kernel;
mod lab;
mod network;
