//! Fuzzes `birthmark_fuzz::elf_notes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| birthmark_fuzz::elf_notes(bytes));
