//! The properties are in `src/messages.rs`.
//!
//! `cargo +nightly fuzz run messages -- -max_total_time=600`

#![no_main]

#[path = "../src/messages.rs"]
mod messages;

libfuzzer_sys::fuzz_target!(|data: &[u8]| messages::check_input(data));
