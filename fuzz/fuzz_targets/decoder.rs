//! The properties are in `src/decoder.rs`.
//!
//! `cargo +nightly fuzz run decoder -- -max_total_time=600`

#![no_main]

#[path = "../src/decoder.rs"]
mod decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoder::check_input(data));
