//! The properties are in `src/engine.rs`.
//!
//! `cargo +nightly fuzz run engine -- -max_total_time=600`

#![no_main]

#[path = "../src/desk.rs"]
mod desk;
#[path = "../src/engine.rs"]
mod engine;
#[path = "../../benches/support/rig.rs"]
#[allow(dead_code, reason = "shared with the benchmarks, which use more of it")]
mod rig;

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::check_input(data));
