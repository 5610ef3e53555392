//! Shrinkable generators of channels and patterns, for the tests of every module.
//!
//! The alphabet is small, so that patterns often match channels. The segment `c` occurs only in channels, so that for a `*`
//! there is always a segment that no pattern names.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use tickgate_protocol::channel::{Channel, Pattern, SEGMENTS_MAX};

/// A channel of 1 to 8 segments from `a`, `b` and `c`.
pub(crate) fn channel() -> impl Strategy<Value = Channel> {
    vec(select(vec!["a", "b", "c"]), 1..=SEGMENTS_MAX).prop_map(|s| Channel::parse(&s.join(".")).expect("valid"))
}

/// A pattern of 1 to 8 segments from `a`, `b` and `*`. Patterns of up to 3 segments are more frequent.
pub(crate) fn pattern() -> impl Strategy<Value = Pattern> {
    let segments = |max| vec(select(vec!["*", "a", "b"]), 1..=max);
    prop_oneof![segments(3), segments(SEGMENTS_MAX)].prop_map(|s| Pattern::parse(&s.join(".")).expect("valid"))
}

/// Every valid channel of up to `depth` segments from `alphabet`.
pub(crate) fn all_channels(alphabet: &[&str], depth: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut last = vec![String::new()];
    for level in 0..depth {
        let dot = if level == 0 { "" } else { "." };
        last = last
            .iter()
            .flat_map(|head| alphabet.iter().map(move |s| format!("{head}{dot}{s}")))
            .collect();
        all.extend(last.iter().filter(|name| Channel::parse(name).is_ok()).cloned());
    }
    all
}
