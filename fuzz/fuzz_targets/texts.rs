//! Fuzzes `image::texts`.
#![no_main]

#[path = "../src/image.rs"]
#[allow(dead_code, reason = "each target runs one of its functions")]
mod image;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::texts(bytes));
