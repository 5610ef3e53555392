//! The properties are in `src/http.rs`.
//!
//! `cargo +nightly fuzz run --features gateway http -- -max_total_time=600`

#![no_main]

#[path = "../src/http.rs"]
mod http;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http::check_input(data));
