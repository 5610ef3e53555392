//! The properties are in `src/selection.rs`.
//!
//! `cargo +nightly fuzz run --features gateway selection -- -max_total_time=600`

#![no_main]

#[path = "../src/selection.rs"]
mod selection;
#[path = "../src/services.rs"]
#[allow(dead_code, reason = "shared with other targets, which use more of it")]
mod services;

libfuzzer_sys::fuzz_target!(|data: &[u8]| selection::check_input(data));
