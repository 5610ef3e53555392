//! The names of channels that were evicted: a client that was away has to hear of those that came and went meanwhile.
//!
//! Invariant: of a channel with a history that was evicted the last eviction is in here, whether the channel was made
//! anew since or not, or its number is at or below `forgotten`. The oldest go first, and there are never more than
//! `most`.

use std::collections::BTreeMap;
use std::ops::Bound;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use tickgate_protocol::channel::Channel;

/// Those of one stripe.
#[derive(Debug)]
pub(in crate::hub) struct Tombstones {
    by_number: BTreeMap<u64, Tombstone>,
    by_name: HashMap<Channel, u64, RandomState>,
    forgotten: u64,
    most: usize,
}

/// A channel that was evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Which.
    pub channel: Channel,
    /// Version of its newest event.
    pub latest: u64,
}

impl Default for Tombstones {
    fn default() -> Self {
        Self::new(1024)
    }
}

impl Tombstones {
    /// No more than `most`, and one at least.
    pub(in crate::hub) fn new(most: usize) -> Self {
        Self {
            by_number: BTreeMap::new(),
            by_name: HashMap::default(),
            forgotten: 0,
            most: most.max(1),
        }
    }

    pub(in crate::hub) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// The highest number of an eviction of which the name is not known any more.
    pub(in crate::hub) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A channel was evicted; `number` is above all that were noted.
    pub(in crate::hub) fn note(&mut self, number: u64, tombstone: Tombstone) {
        if let Some(before) = self.by_name.insert(tombstone.channel.clone(), number) {
            self.by_number.remove(&before);
        }
        self.by_number.insert(number, tombstone);
        while self.by_number.len() > self.most {
            self.forget_oldest();
        }
    }

    /// Names up to this number are not known.
    pub(in crate::hub) fn forget_up_to(&mut self, number: u64) {
        self.forgotten = self.forgotten.max(number);
        while self
            .by_number
            .first_key_value()
            .is_some_and(|(oldest, _)| *oldest <= number)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((number, tombstone)) = self.by_number.pop_first() {
            self.by_name.remove(&tombstone.channel);
            self.forgotten = self.forgotten.max(number);
        }
    }

    /// Events of the channel at or below it may have been evicted.
    pub(in crate::hub) fn floor(&self, channel: &Channel) -> u64 {
        let known = self.by_name.get(channel).and_then(|number| self.by_number.get(number));
        known.map_or(self.forgotten, |tombstone| tombstone.latest)
    }

    /// Those with a number above `after`, in order.
    pub(in crate::hub) fn after(&self, after: u64) -> impl Iterator<Item = (u64, &Tombstone)> {
        let range = self.by_number.range((Bound::Excluded(after), Bound::Unbounded));
        range.map(|(number, tombstone)| (*number, tombstone))
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
        }
    }

    fn told(tombstones: &Tombstones, after: u64) -> Vec<(u64, &str)> {
        let all = tombstones.after(after);
        all.map(|(number, tombstone)| (number, tombstone.channel.as_str()))
            .collect()
    }

    #[test]
    fn the_oldest_are_forgotten_first_and_that_is_known() {
        let mut tombstones = Tombstones::new(2);
        let name = |name: &str| Channel::parse(name).expect("valid");
        tombstones.note(10, tombstone("a.a", 7));
        tombstones.note(11, tombstone("a.b", 3));
        assert_eq!(
            (told(&tombstones, 0), tombstones.forgotten()),
            (vec![(10, "a.a"), (11, "a.b")], 0)
        );
        assert_eq!((tombstones.floor(&name("a.a")), tombstones.floor(&name("a.c"))), (7, 0));
        tombstones.note(13, tombstone("a.c", 12));
        assert_eq!(
            (told(&tombstones, 0), tombstones.forgotten()),
            (vec![(11, "a.b"), (13, "a.c")], 10)
        );
        assert_eq!(
            (tombstones.floor(&name("a.a")), tombstones.floor(&name("a.b"))),
            (10, 3)
        );
        assert_eq!(told(&tombstones, 11), [(13, "a.c")]);
        tombstones.forget_up_to(13);
        assert_eq!((tombstones.len(), tombstones.forgotten()), (0, 13));
    }

    #[test]
    fn of_a_name_the_last_eviction_is_known_and_takes_one_place() {
        let mut tombstones = Tombstones::new(2);
        tombstones.note(1, tombstone("a.b", 0));
        for number in 2..10 {
            tombstones.note(number, tombstone("a.a", number - 1));
        }
        assert_eq!(
            (told(&tombstones, 0), tombstones.forgotten()),
            (vec![(1, "a.b"), (9, "a.a")], 0)
        );
        assert_eq!(tombstones.floor(&Channel::parse("a.a").expect("valid")), 8);
        assert_eq!((tombstones.by_name.len(), tombstones.by_number.len()), (2, 2));
    }
}
