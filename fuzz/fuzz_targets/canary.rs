//! The properties are in `src/canary.rs`.
//!
//! `cargo +nightly fuzz run canary -- -max_total_time=600`

#![no_main]

#[path = "../src/canary.rs"]
mod canary;

libfuzzer_sys::fuzz_target!(|data: &[u8]| canary::check_input(data));
