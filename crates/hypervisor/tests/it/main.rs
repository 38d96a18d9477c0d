//! Tests of finding guests and reading their memory, on parsers alone, on memory files of the test's own, and on real QEMU.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, unsafe_code)]
// A test that is not run says so on the output that the test harness captures.
#![allow(clippy::print_stdout)]

mod cmdline;
mod images;
mod lab;
mod layout;
mod locate;
mod maps;
#[cfg(feature = "memslots")]
mod memory_slots;
mod monitor;
mod other_vmms;
mod plugged;
mod process_memory;
mod qemu;
mod run_page;
mod shared_memory;
mod target;
