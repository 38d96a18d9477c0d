//! Fuzzes `birthmark_fuzz::stored`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| birthmark_fuzz::stored(bytes));
