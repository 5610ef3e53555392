//! The properties are in `src/engine_io.rs`.
//!
//! `cargo +nightly fuzz run engine_io -- -max_total_time=600`

#![no_main]

#[path = "../src/engine_io.rs"]
mod engine_io;

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_io::check_input(data));
