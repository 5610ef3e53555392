//! Interest: which shards want which channels, within one stripe.
//!
//! Invariant: a lookup returns exactly the shards that hold a pattern matching the channel. Its cost depends on how many
//! *shapes* of patterns are held. It does not depend on how many patterns are held or how many channel names were seen.
//!
//! The shape of a pattern is its number of segments and which of them are stars. At most one pattern of each shape can
//! match a given channel: the channel's name with stars at these segments. So a lookup is one hash lookup per shape
//! ("tuple space search"). At most eleven shapes can match a channel of three segments, and usually four are held
//! (`a.b.c`, `a.b.*`, `a.*`, `*`). Nothing is cached per channel, so a million one-off channel names leave nothing behind.

use std::hash::BuildHasher;

use foldhash::fast::{FixedState, RandomState};
use hashbrown::HashMap;
use memchr::memchr_iter;

use super::STRIPES;
use tickgate_protocol::channel::{Channel, Name, Pattern, SEGMENTS_MAX, Shape, segments};

/// The stripes of the channels that a pattern can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stripes {
    /// The first two segments of the pattern are literal, or it has a single literal segment. All channels that it
    /// matches share a stripe.
    One(u8),
    /// The channels can be in any stripe.
    All,
}

impl Stripes {
    pub(super) fn of(pattern: &Pattern) -> Self {
        let mut segments = segments(pattern.as_str());
        match (segments.next(), segments.next()) {
            (Some("*"), _) | (_, Some("*")) => Self::All,
            _ => Self::One(stripe_of_name(pattern.as_str())),
        }
    }

    pub(super) fn iter(self) -> std::ops::RangeInclusive<u8> {
        match self {
            Self::One(stripe) => stripe..=stripe,
            Self::All => 0..=u8::try_from(STRIPES - 1).unwrap_or(u8::MAX),
        }
    }
}

/// The stripe of a channel: a hash of its first two segments. It does not depend on the tenant, because a tenant may have
/// another number after a restart.
#[must_use]
pub fn stripe_of(channel: &Channel) -> u8 {
    stripe_of_name(channel.as_str())
}

fn stripe_of_name(name: &str) -> u8 {
    let end = memchr_iter(b'.', name.as_bytes()).nth(1).unwrap_or(name.len());
    // The seed is fixed because publishers and joins must agree. An attacker gains nothing from channels in one stripe.
    let hash = FixedState::with_seed(0x7469_636b_6761_7465).hash_one(&name.as_bytes()[..end]);
    u8::try_from(hash % STRIPES as u64).unwrap_or(0)
}

/// The interest of one stripe.
#[derive(Default)]
pub(super) struct Interest {
    shards: HashMap<Pattern, u64, RandomState>,
    // The shapes that can match a channel of `index + 1` segments.
    shapes: [Vec<HeldShape>; SEGMENTS_MAX],
    // Scratch space for the text of a pattern.
    candidate: String,
}

/// A shape, and how many held patterns have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeldShape {
    shape: Shape,
    patterns: u32,
}

/// The indices into [`Interest::shapes`] at which a shape is listed.
fn indices(shape: Shape) -> std::ops::Range<usize> {
    let shortest = usize::from(shape.segments) - 1;
    shortest..if shape.is_open() { SEGMENTS_MAX } else { shortest + 1 }
}

impl Interest {
    /// Adds the shards of a bit mask to the holders of the pattern.
    pub(super) fn add(&mut self, pattern: &Pattern, shards: u64) {
        if let Some(held) = self.shards.get_mut(pattern) {
            *held |= shards;
            return;
        }
        self.shards.insert(pattern.clone(), shards);
        let shape = pattern.shape();
        for index in indices(shape) {
            match self.shapes[index].iter_mut().find(|held| held.shape == shape) {
                Some(held) => held.patterns += 1,
                None => self.shapes[index].push(HeldShape { shape, patterns: 1 }),
            }
        }
    }

    /// Removes the shards of a bit mask from the holders of the pattern.
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
        for index in indices(shape) {
            let shapes = &mut self.shapes[index];
            if let Some(at) = shapes.iter().position(|held| held.shape == shape) {
                shapes[at].patterns -= 1;
                if shapes[at].patterns == 0 {
                    shapes.swap_remove(at);
                }
            }
        }
    }

    /// Removes the shards of a bit mask from the holders of all patterns, and returns the patterns that they held.
    pub(super) fn remove_all(&mut self, shards: u64) -> Vec<Pattern> {
        let held = self.shards.iter().filter(|(_, by)| **by & shards != 0);
        let held: Vec<Pattern> = held.map(|(pattern, _)| pattern.clone()).collect();
        for pattern in &held {
            self.remove(pattern, shards);
        }
        held
    }

    /// The patterns that are held.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.shards.keys()
    }

    /// Whether a shard holds exactly this pattern.
    pub(super) fn holds(&self, pattern: &Pattern) -> bool {
        self.shards.contains_key(pattern)
    }

    /// The shards that hold a pattern matching the channel, as a bit mask.
    pub(super) fn lookup(&mut self, channel: &Channel) -> u64 {
        let Name { tenant, text: channel } = channel.key();
        let dots = memchr_iter(b'.', channel.as_bytes()).count().min(SEGMENTS_MAX - 1);
        let mut shards = 0;
        for HeldShape { shape, .. } in &self.shapes[dots] {
            let text = if shape.stars == 0 {
                channel
            } else {
                shape.write_candidate(channel, &mut self.candidate);
                &self.candidate
            };
            shards |= self.shards.get(&Name { tenant, text }).copied().unwrap_or(0);
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
    use tickgate_protocol::channel::Tenant;

    fn segment() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["*", "*", "a", "b", "cc", "BTC/USDT"])
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        (prop::collection::vec(segment(), 1..=8), tenant()).prop_map(|(parts, tenant)| {
            let pattern = Pattern::parse(&parts.join(".")).expect("valid");
            pattern.in_tenant(tenant)
        })
    }

    fn channel() -> impl Strategy<Value = Channel> {
        let segments = prop::collection::vec(prop::sample::select(vec!["a", "b", "cc", "BTC/USDT"]), 1..=8);
        (segments, tenant()).prop_map(|(parts, tenant)| {
            let channel = Channel::parse(&parts.join(".")).expect("valid");
            channel.in_tenant(tenant)
        })
    }

    fn tenant() -> impl Strategy<Value = Tenant> {
        (0usize..3).prop_map(|index| Tenant::new(index).expect("few"))
    }

    proptest! {
        // The model is a list of (pattern, shard), compared one by one.
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
                    prop_assert_eq!(interest.lookup(channel), naive, "{:?}", channel);
                }
            }
            for (pattern, shard) in model {
                interest.remove(&pattern, 1 << shard);
            }
            prop_assert!(interest.is_empty());
        }

        #[test]
        fn the_stripes_of_a_pattern_contain_the_stripe_of_every_channel_it_matches(pattern in pattern(), channel in channel()) {
            if pattern.matches(&channel) {
                prop_assert!(Stripes::of(&pattern).iter().any(|stripe| stripe == stripe_of(&channel)));
            }
        }
    }

    #[test]
    fn stripes_of_short_and_starred_patterns() {
        let of = |text| Stripes::of(&Pattern::parse(text).expect("valid"));
        for all in ["*", "a.*", "a.*.c", "*.b", "*.*"] {
            assert_eq!(of(all), Stripes::All, "{all}");
        }
        for one in ["a", "a.b", "a.b.*", "a.b.*.d"] {
            assert_eq!(of(one).iter().count(), 1, "{one}");
        }
        assert_eq!(Stripes::All.iter().count(), STRIPES);
    }

    #[test]
    fn removing_a_shard_removes_all_its_interest() {
        let mut interest = Interest::default();
        for text in ["a.b", "a.*", "*", "a.*.c"] {
            interest.add(&Pattern::parse(text).expect("valid"), 0b11);
        }
        assert_eq!(interest.remove_all(0b01).len(), 4);
        let channel = Channel::parse("a.b").expect("valid");
        assert_eq!(interest.lookup(&channel), 0b10);
        assert_eq!(interest.remove_all(0b01), []);
        assert_eq!(interest.remove_all(0b10).len(), 4);
        assert!(interest.is_empty());
    }
}
