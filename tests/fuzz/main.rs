//! The fuzz targets' corpora, replayed: what fuzzing once found stays right. The properties are in `fuzz/src`; the frame
//! decoder's corpus is replayed by `tests/wire`.

#![allow(missing_docs)]
#![allow(unreachable_pub, reason = "the checks are shared with the fuzz targets")]

#[path = "../../fuzz/src/canary.rs"]
mod canary;
#[path = "../../fuzz/src/config.rs"]
mod config;
#[path = "../../fuzz/src/deflate.rs"]
mod deflate;
#[path = "../../fuzz/src/door.rs"]
mod door;
#[path = "../../fuzz/src/engine.rs"]
mod engine;
#[path = "../../fuzz/src/messages.rs"]
mod messages;
#[path = "../../fuzz/src/patterns.rs"]
mod patterns;
#[path = "../../benches/support/rig.rs"]
#[allow(dead_code, reason = "shared with the benchmarks, which use more of it")]
mod rig;

/// Replays a corpus; the name of each input is told before, so that the one that fails stands last.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let inputs: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .map(|entry| entry.expect("read").path())
        .collect();
    assert!(inputs.len() >= 10, "only {} inputs in {folder}", inputs.len());
    for input in inputs {
        println!("{}", input.display());
        check(&std::fs::read(&input).expect("read"));
    }
}

#[test]
fn deflate_holds() {
    replay("deflate", deflate::check_input);
}

#[test]
fn messages_hold() {
    replay("messages", messages::check_input);
}

#[test]
fn patterns_hold() {
    replay("patterns", patterns::check_input);
}

#[test]
fn the_door_holds() {
    replay("door", door::check_input);
}

#[test]
fn the_configuration_holds() {
    replay("config", config::check_input);
}

#[test]
fn the_engine_holds() {
    replay("engine", engine::check_input);
}

#[test]
#[should_panic(expected = "the canary was found")]
fn the_canary_dies() {
    canary::check_input(b"ticks");
}
