//! Which shards want which channels, within one stripe.
//!
//! Invariant: a lookup gives exactly the shards that hold a pattern matching the channel, and its cost depends on
//! how many *shapes* of pattern are held, never on how many patterns or on how many channel names were ever seen.
//!
//! A shape is a pattern's length and the places of its stars. For a channel there is at most one pattern of each
//! shape that can match, and its text is the channel's with stars put in: one hash lookup per shape ("tuple space
//! search"). A channel of three segments can meet eleven shapes at most, and usually meets four (`a.b.c`, `a.b.*`,
//! `a.*`, `*`). Nothing is cached per channel, so a million one-off channel names leave nothing behind.

use std::hash::BuildHasher;

use foldhash::fast::{FixedState, RandomState};
use hashbrown::HashMap;
use memchr::memchr_iter;

use super::STRIPES;
use tickgate_protocol::channel::{Pattern, SEGMENTS_MAX, Shape, segments};

/// Which stripes the channels lie in that a pattern can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stripes {
    /// Its first two segments are literal, or it has only one: all its channels share a stripe.
    One(u8),
    /// They can lie anywhere.
    All,
}

impl Stripes {
    pub(super) fn of(pattern: &str) -> Self {
        let mut segments = segments(pattern);
        match (segments.next(), segments.next()) {
            (Some("*"), _) | (_, Some("*")) => Self::All,
            _ => Self::One(stripe_of(pattern)),
        }
    }

    pub(super) fn iter(self) -> std::ops::RangeInclusive<u8> {
        match self {
            Self::One(stripe) => stripe..=stripe,
            Self::All => 0..=u8::try_from(STRIPES - 1).unwrap_or(u8::MAX),
        }
    }
}

/// The stripe of a channel: a hash of its first two segments.
pub(super) fn stripe_of(channel: &str) -> u8 {
    let end = memchr_iter(b'.', channel.as_bytes()).nth(1).unwrap_or(channel.len());
    // A fixed seed: both sides of a join must agree, and nobody gains by meeting in one stripe.
    let hash = FixedState::with_seed(0x7469_636b_6761_7465).hash_one(&channel.as_bytes()[..end]);
    u8::try_from(hash % STRIPES as u64).unwrap_or(0)
}

/// The interest of one stripe.
#[derive(Default)]
pub(super) struct Interest {
    shards: HashMap<Pattern, u64, RandomState>,
    // By the length of the channels they can match, less one.
    shapes: [Vec<Held>; SEGMENTS_MAX],
    candidate: String,
}

/// A shape, and how many patterns have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    shape: Shape,
    holders: u32,
}

/// The lengths, less one, of the channels that patterns of a shape can match.
fn lengths(shape: Shape) -> std::ops::Range<usize> {
    let shortest = usize::from(shape.segments) - 1;
    shortest..if shape.is_open() { SEGMENTS_MAX } else { shortest + 1 }
}

impl Interest {
    /// Adds the shards of a bit mask to those that hold the pattern.
    pub(super) fn add(&mut self, pattern: &Pattern, shards: u64) {
        if let Some(held) = self.shards.get_mut(pattern) {
            *held |= shards;
            return;
        }
        self.shards.insert(pattern.clone(), shards);
        let shape = pattern.shape();
        for length in lengths(shape) {
            match self.shapes[length].iter_mut().find(|held| held.shape == shape) {
                Some(held) => held.holders += 1,
                None => self.shapes[length].push(Held { shape, holders: 1 }),
            }
        }
    }

    /// Takes the shards of a bit mask away from those that hold the pattern.
    pub(super) fn remove(&mut self, pattern: &Pattern, shards: u64) {
        let Some(held) = self.shards.get_mut(pattern) else {
            return;
        };
        *held &= !shards;
        if *held != 0 {
            return;
        }
        self.shards.remove(pattern);
        let shape = pattern.shape();
        for length in lengths(shape) {
            let shapes = &mut self.shapes[length];
            if let Some(place) = shapes.iter().position(|held| held.shape == shape) {
                shapes[place].holders -= 1;
                if shapes[place].holders == 0 {
                    shapes.swap_remove(place);
                }
            }
        }
    }

    /// Takes the shards of a bit mask away from everything; gives the patterns they held.
    pub(super) fn remove_all(&mut self, shards: u64) -> Vec<Pattern> {
        let held = self.shards.iter().filter(|(_, by)| **by & shards != 0);
        let held: Vec<Pattern> = held.map(|(pattern, _)| pattern.clone()).collect();
        for pattern in &held {
            self.remove(pattern, shards);
        }
        held
    }

    /// Whether some shard holds this pattern.
    pub(super) fn holds(&self, pattern: &Pattern) -> bool {
        self.shards.contains_key(pattern)
    }

    /// The shards, as a bit mask, that hold a pattern matching the (valid) channel.
    pub(super) fn lookup(&mut self, channel: &str) -> u64 {
        let length = memchr_iter(b'.', channel.as_bytes()).count().min(SEGMENTS_MAX - 1);
        let mut shards = 0;
        for Held { shape, .. } in &self.shapes[length] {
            let text = if shape.stars == 0 {
                channel
            } else {
                shape.write_candidate(channel, &mut self.candidate);
                &self.candidate
            };
            shards |= self.shards.get(text).copied().unwrap_or(0);
        }
        shards
    }

    #[cfg(test)]
    #[cfg(not(shuttle))]
    fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.shapes.iter().all(Vec::is_empty)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["*", "*", "a", "b", "cc", "BTC/USDT"])
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        prop::collection::vec(segment(), 1..=8).prop_map(|parts| Pattern::parse(&parts.join(".")).expect("valid"))
    }

    fn channel() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "cc", "BTC/USDT"]), 1..=8)
            .prop_map(|parts| parts.join("."))
    }

    proptest! {
        // Beside it runs the naive model: a list of (pattern, shard), asked one by one.
        #[test]
        fn agrees_with_a_naive_matcher(
            steps in prop::collection::vec((pattern(), 0u32..64, prop::bool::weighted(0.7)), 1..60),
            channels in prop::collection::vec(channel(), 1..20),
        ) {
            let mut interest = Interest::default();
            let mut model: Vec<(Pattern, u32)> = Vec::new();
            for (pattern, shard, add) in steps {
                let pattern = if add || model.is_empty() { pattern } else { model[shard as usize % model.len()].0.clone() };
                model.retain(|(held, by)| (held, by) != (&pattern, &shard));
                if add {
                    interest.add(&pattern, 1 << shard);
                    model.push((pattern, shard));
                } else {
                    interest.remove(&pattern, 1 << shard);
                }
                for channel in &channels {
                    let naive = model.iter().filter(|(held, _)| held.matches(channel)).fold(0, |mask, (_, by)| mask | 1u64 << by);
                    prop_assert_eq!(interest.lookup(channel), naive, "{}", channel);
                }
            }
            for (pattern, shard) in model {
                interest.remove(&pattern, 1 << shard);
            }
            prop_assert!(interest.is_empty());
        }

        #[test]
        fn a_pattern_lives_in_the_stripe_of_every_channel_it_matches(pattern in pattern(), channel in channel()) {
            if pattern.matches(&channel) {
                prop_assert!(Stripes::of(pattern.as_str()).iter().any(|stripe| stripe == stripe_of(&channel)));
            }
        }
    }

    #[test]
    fn stripes_of_short_and_starred_patterns() {
        for all in ["*", "a.*", "a.*.c", "*.b", "*.*"] {
            assert_eq!(Stripes::of(all), Stripes::All, "{all}");
        }
        for one in ["a", "a.b", "a.b.*", "a.b.*.d"] {
            assert_eq!(Stripes::of(one).iter().count(), 1, "{one}");
        }
        assert_eq!(Stripes::All.iter().count(), STRIPES);
    }

    #[test]
    fn a_shard_that_goes_takes_all_its_interest_along() {
        let mut interest = Interest::default();
        for text in ["a.b", "a.*", "*", "a.*.c"] {
            interest.add(&Pattern::parse(text).expect("valid"), 0b11);
        }
        assert_eq!(interest.remove_all(0b01).len(), 4);
        assert_eq!(interest.lookup("a.b"), 0b10);
        assert_eq!(interest.remove_all(0b01), []);
        assert_eq!(interest.remove_all(0b10).len(), 4);
        assert!(interest.is_empty());
    }
}
