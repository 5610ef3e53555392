//! The properties are in `src/sources.rs`.
//!
//! `cargo +nightly fuzz run sources --features gateway -- -max_total_time=600`

#![no_main]

#[path = "../src/sources.rs"]
mod sources;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sources::check(data));
