//! Fuzzes `birthmark_fuzz::vmcoreinfo`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| birthmark_fuzz::vmcoreinfo(bytes));
