//! The properties are in `src/broker.rs`.
//!
//! `cargo +nightly fuzz run --features gateway broker -- -max_total_time=600`

#![no_main]

#[path = "../src/broker.rs"]
mod broker;

libfuzzer_sys::fuzz_target!(|data: &[u8]| broker::check(data));
