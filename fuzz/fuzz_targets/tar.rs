//! Fuzzes `image::image`, from the corpus of `tar`.
#![no_main]

#[path = "../src/image.rs"]
#[allow(dead_code, reason = "each target runs one of its functions")]
mod image;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::image(bytes));
