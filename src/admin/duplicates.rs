//! Which events were published already: a publisher that repeats a request repeats its `id`s.
//!
//! Invariant: an id is remembered for its channel for at least [`WINDOW_MS`], unless more than [`IDS_MAX`] others came
//! since; what is remembered is bounded.

use std::collections::HashSet;

use aws_lc_rs::digest;
use parking_lot::Mutex;

use crate::channel::Channel;
use crate::message::RequestId;

/// How long an id is remembered, in milliseconds.
pub(super) const WINDOW_MS: u64 = 5 * 60 * 1000;
/// How many ids are remembered at least; at most twice as many, 16 bytes each and the table around them.
pub(super) const IDS_MAX: usize = 500_000;

/// The ids of one gateway's publishers.
#[derive(Debug)]
pub(super) struct Duplicates(Mutex<Generations>);

#[derive(Debug)]
struct Generations {
    // Both are asked, one is written; the older one is dropped whole.
    young: HashSet<Name>,
    old: HashSet<Name>,
    born_ms: u64,
}

/// The first half of a SHA-256: nobody can make two of them meet.
type Name = [u8; 16];

impl Duplicates {
    pub(super) fn new(now_mono_ms: u64) -> Self {
        Self(Mutex::new(Generations {
            young: HashSet::new(),
            old: HashSet::new(),
            born_ms: now_mono_ms,
        }))
    }

    /// Remembers it. `true`: it was there already.
    pub(super) fn seen(&self, channel: &Channel, id: &RequestId, now_mono_ms: u64) -> bool {
        let name = name(channel, id);
        let mut generations = self.0.lock();
        let age_ms = now_mono_ms.saturating_sub(generations.born_ms);
        if age_ms >= WINDOW_MS || generations.young.len() >= IDS_MAX {
            let young = std::mem::take(&mut generations.young);
            // After two windows of silence both are too old.
            generations.old = if age_ms < 2 * WINDOW_MS { young } else { HashSet::new() };
            generations.born_ms = now_mono_ms;
        }
        generations.old.contains(&name) || !generations.young.insert(name)
    }
}

fn name(channel: &Channel, id: &RequestId) -> Name {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(channel.as_str().as_bytes());
    match id {
        // A channel has no control characters, so the parts cannot run into each other.
        RequestId::Text(text) => {
            hash.update(b"\0");
            hash.update(text.as_bytes());
        }
        RequestId::Number(number) => {
            hash.update(b"\x01");
            hash.update(&number.to_be_bytes());
        }
        // No publisher names an event so; it would be a name of its own.
        RequestId::Acknowledgement { number, .. } => {
            hash.update(b"\x02");
            hash.update(&number.to_be_bytes());
        }
    }
    let mut name = Name::default();
    name.copy_from_slice(&hash.finish().as_ref()[..16]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::parse(name).expect("valid")
    }

    #[test]
    fn an_id_counts_for_its_channel_and_kind() {
        let duplicates = Duplicates::new(0);
        let (one, text) = (RequestId::Number(1), RequestId::Text("1".into()));
        for (name, id, seen) in [
            ("a.b", &one, false),
            ("a.b", &one, true),
            ("a.b", &text, false),
            ("a.c", &one, false),
            ("a.b", &text, true),
        ] {
            assert_eq!(duplicates.seen(&channel(name), id, 0), seen, "{name} {id:?}");
        }
    }

    #[test]
    fn an_id_is_remembered_for_the_window_and_forgotten_after_two() {
        let id = RequestId::Number(1);
        let at = channel("a");
        for first_ms in [0, WINDOW_MS - 1, WINDOW_MS] {
            let duplicates = Duplicates::new(0);
            assert!(!duplicates.seen(&at, &id, first_ms));
            assert!(duplicates.seen(&at, &id, first_ms + WINDOW_MS - 1));
        }
        let duplicates = Duplicates::new(0);
        assert!(!duplicates.seen(&at, &id, 0));
        assert!(!duplicates.seen(&at, &id, 2 * WINDOW_MS));
        let duplicates = Duplicates::new(0);
        assert!(!duplicates.seen(&at, &id, 0));
        assert!(!duplicates.seen(&at, &RequestId::Number(2), WINDOW_MS));
        assert!(!duplicates.seen(&at, &id, 2 * WINDOW_MS));
    }
}
