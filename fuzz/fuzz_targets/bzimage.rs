//! Fuzzes `birthmark_fuzz::kernel_file`, from the corpus of `bzimage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| birthmark_fuzz::kernel_file(bytes));
