//! The properties are in `src/patterns.rs`.
//!
//! `cargo +nightly fuzz run patterns -- -max_total_time=600`

#![no_main]

#[path = "../src/patterns.rs"]
mod patterns;

libfuzzer_sys::fuzz_target!(|data: &[u8]| patterns::check_input(data));
