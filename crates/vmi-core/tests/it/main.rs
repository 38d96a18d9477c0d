//! What vmi-core promises, on memory that is made up for the purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]
#![allow(clippy::cast_possible_truncation, reason = "a test's own small numbers")]

mod look; // budgets and the page cache
mod made_up; // the memory the other files use
mod memory; // regions
mod paging; // translation
mod space; // reads through an address space
