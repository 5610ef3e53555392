//! The properties are in `src/redis.rs`.
//!
//! `cargo +nightly fuzz run --features gateway redis -- -max_total_time=600`

#![no_main]

#[path = "../src/redis.rs"]
mod redis;

libfuzzer_sys::fuzz_target!(|data: &[u8]| redis::check(data));
