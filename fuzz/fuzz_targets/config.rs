//! The properties are in `src/config.rs`.
//!
//! `cargo +nightly fuzz run --features gateway config -- -max_total_time=600`

#![no_main]

#[path = "../src/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| config::check_input(data));
