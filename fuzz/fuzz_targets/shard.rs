//! The properties are in `src/shard.rs`.
//!
//! `cargo +nightly fuzz run --features gateway shard -- -max_total_time=600`

#![no_main]

#[path = "../../benches/support/rig.rs"]
#[allow(dead_code, reason = "shared with the benchmarks, which use more of it")]
mod rig;
#[path = "../src/services.rs"]
mod services;
#[path = "../src/shard.rs"]
mod shard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shard::check_input(data));
