//! Tombstones: the names of evicted channels. A client that was away must be told of channels that were created and
//! evicted in the meantime.
//!
//! Invariant: for every evicted channel with a history, its last eviction is in here, or the version of that eviction is
//! at or below `forgotten`. This holds whether or not the channel was created again since. The oldest tombstones are
//! forgotten first, and there are never more than `max`.

use std::collections::BTreeMap;
use std::ops::Bound;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use tickgate_protocol::channel::Channel;

/// The tombstones of one stripe.
#[derive(Debug)]
pub(in crate::hub) struct Tombstones {
    // By the version of the eviction.
    by_version: BTreeMap<u64, Tombstone>,
    by_name: HashMap<Channel, u64, RandomState>,
    forgotten: u64,
    max: usize,
}

/// An evicted channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The channel.
    pub channel: Channel,
    /// The version of its newest event.
    pub latest: u64,
    /// Events up to this version were gone before this eviction: trimmed, or evicted with an earlier state of the channel. 0
    /// for an eviction from before the start.
    pub floor: u64,
}

impl Default for Tombstones {
    fn default() -> Self {
        Self::new(1024)
    }
}

impl Tombstones {
    /// Keeps at most `max` tombstones, but at least one.
    pub(in crate::hub) fn new(max: usize) -> Self {
        Self {
            by_version: BTreeMap::new(),
            by_name: HashMap::default(),
            forgotten: 0,
            max: max.max(1),
        }
    }

    pub(in crate::hub) const fn max(&self) -> usize {
        self.max
    }

    pub(in crate::hub) fn len(&self) -> usize {
        self.by_version.len()
    }

    /// The highest version of an eviction whose name is forgotten; 0 if there is none.
    pub(in crate::hub) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Adds an eviction. `version` must be above the versions of all earlier ones.
    pub(in crate::hub) fn note(&mut self, version: u64, tombstone: Tombstone) {
        if let Some(before) = self.by_name.insert(tombstone.channel.clone(), version) {
            self.by_version.remove(&before);
        }
        self.by_version.insert(version, tombstone);
        while self.by_version.len() > self.max {
            self.forget_oldest();
        }
    }

    /// Forgets the names of all evictions up to this version.
    pub(in crate::hub) fn forget_up_to(&mut self, version: u64) {
        self.forgotten = self.forgotten.max(version);
        while self
            .by_version
            .first_key_value()
            .is_some_and(|(oldest, _)| *oldest <= version)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((version, tombstone)) = self.by_version.pop_first() {
            self.by_name.remove(&tombstone.channel);
            self.forgotten = self.forgotten.max(version);
        }
    }

    /// The floor of a channel that has no state: its events with versions at or below it may have been evicted.
    pub(in crate::hub) fn floor(&self, channel: &Channel) -> u64 {
        let known = self
            .by_name
            .get(channel)
            .and_then(|version| self.by_version.get(version));
        known.map_or(self.forgotten, |tombstone| tombstone.latest)
    }

    /// The evictions with a version above `after`, in order.
    pub(in crate::hub) fn after(&self, after: u64) -> impl Iterator<Item = (u64, &Tombstone)> {
        let range = self.by_version.range((Bound::Excluded(after), Bound::Unbounded));
        range.map(|(version, tombstone)| (*version, tombstone))
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    fn tombstone(name: &str, latest: u64) -> Tombstone {
        Tombstone {
            channel: Channel::parse(name).expect("valid"),
            latest,
            floor: 0,
        }
    }

    fn names(tombstones: &Tombstones, after: u64) -> Vec<(u64, &str)> {
        let all = tombstones.after(after);
        all.map(|(version, tombstone)| (version, tombstone.channel.as_str()))
            .collect()
    }

    #[test]
    fn the_oldest_names_are_forgotten_first_and_the_stripe_knows_it() {
        let mut tombstones = Tombstones::new(2);
        let name = |name: &str| Channel::parse(name).expect("valid");
        tombstones.note(10, tombstone("a.a", 7));
        tombstones.note(11, tombstone("a.b", 3));
        assert_eq!(
            (names(&tombstones, 0), tombstones.forgotten()),
            (vec![(10, "a.a"), (11, "a.b")], 0)
        );
        assert_eq!((tombstones.floor(&name("a.a")), tombstones.floor(&name("a.c"))), (7, 0));
        tombstones.note(13, tombstone("a.c", 12));
        assert_eq!(
            (names(&tombstones, 0), tombstones.forgotten()),
            (vec![(11, "a.b"), (13, "a.c")], 10)
        );
        assert_eq!(
            (tombstones.floor(&name("a.a")), tombstones.floor(&name("a.b"))),
            (10, 3)
        );
        assert_eq!(names(&tombstones, 11), [(13, "a.c")]);
        tombstones.forget_up_to(13);
        assert_eq!((tombstones.len(), tombstones.forgotten()), (0, 13));
    }

    #[test]
    fn each_name_has_one_tombstone_with_its_last_eviction() {
        let mut tombstones = Tombstones::new(2);
        tombstones.note(1, tombstone("a.b", 0));
        for version in 2..10 {
            tombstones.note(version, tombstone("a.a", version - 1));
        }
        assert_eq!(
            (names(&tombstones, 0), tombstones.forgotten()),
            (vec![(1, "a.b"), (9, "a.a")], 0)
        );
        assert_eq!(tombstones.floor(&Channel::parse("a.a").expect("valid")), 8);
        assert_eq!((tombstones.by_name.len(), tombstones.by_version.len()), (2, 2));
    }
}
