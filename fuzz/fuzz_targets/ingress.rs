//! The properties are in `src/ingress.rs`.
//!
//! `cargo +nightly fuzz run --features gateway ingress -- -max_total_time=600`

#![no_main]

#[path = "../src/ingress.rs"]
mod ingress;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::check_input(data));
