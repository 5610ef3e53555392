//! Replays the corpora of the fuzz targets, and variations of their inputs, so that old findings stay fixed. The properties are
//! in `fuzz/src`.
//!
//! `TICKGATE_SEEDS=100000 cargo test --release --test fuzz` tries more, `TICKGATE_SEED=17` one variation alone.

#![allow(missing_docs)]
#![allow(unreachable_pub, reason = "the checks are shared with the fuzz targets")]

#[path = "../../fuzz/src/broker.rs"]
mod broker;
#[path = "../../fuzz/src/canary.rs"]
mod canary;
#[path = "../../fuzz/src/config.rs"]
mod config;
#[path = "../../fuzz/src/decoder.rs"]
mod decoder;
#[path = "../../fuzz/src/deflate.rs"]
mod deflate;
#[path = "../../fuzz/src/engine_io.rs"]
mod engine_io;
#[path = "../../fuzz/src/http.rs"]
mod http;
#[path = "../../fuzz/src/ingress.rs"]
mod ingress;
#[path = "../../fuzz/src/messages.rs"]
mod messages;
mod mutate;
#[path = "../../fuzz/src/patterns.rs"]
mod patterns;
#[path = "../../fuzz/src/redis.rs"]
mod redis;
#[path = "../../benches/support/rig.rs"]
#[allow(dead_code, reason = "shared with the benchmarks, which use more of it")]
mod rig;
#[path = "../../fuzz/src/selection.rs"]
mod selection;
#[path = "../../fuzz/src/services.rs"]
mod services;
#[path = "../../fuzz/src/shard.rs"]
mod shard;

#[path = "../../fuzz/src/round_trip.rs"]
mod round_trip;
#[path = "../../fuzz/src/sources.rs"]
mod sources;

use std::path::Path;

/// The number of variations of each input in an ordinary run.
const VARIATIONS: u64 = 20;

/// Replays a corpus: each input, and its variations by some seeds.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .map(|entry| entry.expect("read").path())
        .collect();
    assert!(paths.len() >= 10, "only {} inputs in {folder}", paths.len());
    // A variation may copy from other inputs, so it depends on their order.
    paths.sort();
    let corpus: Vec<_> = paths.iter().map(|path| std::fs::read(path).expect("read")).collect();
    let seeds = match variable("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TICKGATE_SEEDS").unwrap_or(VARIATIONS),
    };
    for (index, path) in paths.iter().enumerate() {
        let mut running = Running { path, seed: None };
        check(&corpus[index]);
        for seed in seeds.clone() {
            running.seed = Some(seed);
            check(&mutate::mutated(&corpus, index, seed));
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// Prints the input when a check fails.
struct Running<'p> {
    path: &'p Path,
    seed: Option<u64>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = self.path.display();
            match self.seed {
                None => eprintln!("failed with {path}"),
                Some(seed) => eprintln!("failed with {path} changed by TICKGATE_SEED={seed}"),
            }
        }
    }
}

#[test]
fn the_decoder_holds() {
    replay("decoder", decoder::check_input);
}

#[test]
fn deflate_holds() {
    replay("deflate", deflate::check_input);
}

#[test]
fn the_round_trip_holds() {
    replay("round_trip", round_trip::check_input);
}

#[test]
fn messages_hold() {
    replay("messages", messages::check_input);
}

#[test]
fn the_replies_of_redis_hold() {
    replay("redis", redis::check);
}

#[test]
fn the_messages_of_sources_hold() {
    replay("sources", sources::check);
}

#[test]
fn the_messages_of_a_broker_hold() {
    replay("broker", broker::check);
}

#[test]
fn patterns_hold() {
    replay("patterns", patterns::check_input);
}

#[test]
fn the_ingress_holds() {
    replay("ingress", ingress::check_input);
}

#[test]
fn http_holds() {
    replay("http", http::check_input);
}

#[test]
fn the_selection_of_endpoints_holds() {
    replay("selection", selection::check_input);
}

#[test]
fn the_configuration_holds() {
    replay("config", config::check_input);
}

#[test]
fn the_shard_holds() {
    replay("shard", shard::check_input);
}

#[test]
fn engine_io_holds() {
    replay("engine_io", engine_io::check_input);
}

#[test]
#[should_panic(expected = "the canary was found")]
fn the_canary_dies() {
    canary::check_input(b"ticks");
}
