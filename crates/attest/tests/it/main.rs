//! The crate from outside: documents in and out, snapshots against certificates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod amend;
mod capabilities;
mod compare_ebpf;
mod compare_flow;
mod compare_hidden;
mod compare_kernel;
mod compare_passing; // processes on their way
mod compare_process;
mod compare_socket;
mod diff;
mod document;
mod dsse;
mod fixture;
mod hostile;
mod interoperation;
mod keys;
mod learn;
mod origin;
mod parsers;
mod patch;
mod pattern;
mod policy;
mod review;
mod tracker;
mod trust;
mod turnover;
mod verdict;
mod verify;
