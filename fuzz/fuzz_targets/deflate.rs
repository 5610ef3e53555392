//! The properties are in `src/deflate.rs`.
//!
//! `cargo +nightly fuzz run deflate -- -max_total_time=600`

#![no_main]

#[path = "../src/deflate.rs"]
mod deflate;

libfuzzer_sys::fuzz_target!(|data: &[u8]| deflate::check_input(data));
