//! The properties are in `src/door.rs`.
//!
//! `cargo +nightly fuzz run door -- -max_total_time=600`

#![no_main]

#[path = "../src/door.rs"]
mod door;

libfuzzer_sys::fuzz_target!(|data: &[u8]| door::check_input(data));
