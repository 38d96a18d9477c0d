//! Tests of guest-profiles: one module per subject, the readers against real kernels and against tables made here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod btf;
mod btf_builder;
mod debian;
mod dwarf;
mod elf_notes;
mod hostile;
mod isf;
mod kallsyms;
mod kallsyms_builder;
mod kallsyms_search;
mod kernel_builder;
mod kernel_file;
mod kernels;
mod profile;
mod shipped;
mod store;
mod vmcoreinfo;
