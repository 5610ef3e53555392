//! The properties are in `src/round_trip.rs`.
//!
//! `cargo +nightly fuzz run round_trip -- -max_total_time=600`

#![no_main]

#[path = "../src/decoder.rs"]
#[allow(dead_code, reason = "shared with the target `decoder`, which uses more of it")]
mod decoder;
#[path = "../src/round_trip.rs"]
mod round_trip;

libfuzzer_sys::fuzz_target!(|data: &[u8]| round_trip::check_input(data));
