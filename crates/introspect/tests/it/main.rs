//! What introspect promises, proved on real guests against their own `/proc`.
//!
//! A new kernel structure gets a file here of the same name as its walker; guests that several files need are booted in
//! `tables`, which compares every table on every kind of guest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod anchor; // a kernel whose symbol table has no data
mod booting; // a guest from power-on until user space
mod cell; // one kind of guest, booted and compared
mod changing; // memory that changes at one moment of a look
mod churn; // a guest that changes while it is looked at
mod cross_views; // several views of processes and modules
mod crowd; // thousands of processes and sockets
mod debian; // a full Debian with all its services
mod ebpf_views; // eBPF programs that hide, and those that only seem to
mod equal; // compares a snapshot with the guest's /proc, entry by entry
mod equal_ebpf;
mod equal_sockets; // the same of sockets, line by line
mod equal_ss; // the same as `ss` prints them
mod hostile; // a guest that lies
mod images; // memory images
mod lent; // a sock that works for another, or only seemed to
mod locate; // every way to the kernel
mod matrix; // every pair of values, for `cargo xtask matrix`
mod menagerie; // a guest with one of everything
mod opened; // a booted guest with its memory opened and its kernel located
mod own_tables; // symbols and types, against /proc/kallsyms and /sys/kernel/btf
mod paged_out; // pages that a pager keeps
mod reused; // a sock that is two
mod rhashtable; // resizable hash tables that are on the move
mod socket_views; // sockets that hide, and those that only seem to
mod tables; // every table on every kind of guest: the sample that CI runs
mod vmi_rs; // the adapter for vmi-rs
