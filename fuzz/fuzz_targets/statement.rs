//! Fuzzes `certificate::statement`.
#![no_main]

#[path = "../src/certificate.rs"]
#[allow(dead_code, reason = "each target runs one of its functions")]
mod certificate;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| certificate::statement(bytes));
