//! The ids of accepted events, to find duplicates: a publisher that repeats a request repeats its ids.
//!
//! Invariant: an id is in here only if its event was accepted, and only until the generation after its own ends (see
//! [`Generations`](crate::hub::generations)). There is one table per generation. A lookup searches both, an insertion
//! writes the younger one, and the older one is dropped as a whole.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::event::EventId;

/// The ids of one stripe, each with the version of its event; 0 if the channel keeps no state.
#[derive(Default)]
pub(in crate::hub) struct Ids {
    // The newest generation that this stripe has seen. `young` has its ids, `old` those of the one before.
    generation: u64,
    young: Table,
    old: Table,
}

type Table = HashMap<EventId, u64, RandomState>;

impl Ids {
    /// The version of the event that was accepted with this id.
    pub(in crate::hub) fn find(&mut self, id: &EventId, generation: u64) -> Option<u64> {
        self.begin(generation);
        self.young.get(id).or_else(|| self.old.get(id)).copied()
    }

    /// Adds an id to the generation in which it was counted.
    pub(in crate::hub) fn insert(&mut self, id: EventId, version: u64, generation: u64) {
        self.begin(generation);
        self.young.insert(id, version);
    }

    /// Begins a generation: drops the ids that are older than the generation before it.
    pub(in crate::hub) fn begin(&mut self, generation: u64) {
        if generation == self.generation {
            return;
        }
        let young = std::mem::take(&mut self.young);
        self.old = if generation == self.generation + 1 {
            young
        } else {
            Table::default()
        };
        self.generation = generation;
    }

    /// All ids with their versions, those of the older generation first.
    pub(in crate::hub) fn iter(&self) -> impl Iterator<Item = (EventId, u64)> {
        self.old.iter().chain(&self.young).map(|(id, version)| (*id, *version))
    }

    pub(in crate::hub) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    #[test]
    fn two_generations_are_remembered_even_if_the_stripe_missed_some() {
        let id = |n: u8| EventId([n; 16]);
        let mut ids = Ids::default();
        ids.insert(id(1), 7, 3);
        ids.insert(id(2), 8, 4);
        assert_eq!((ids.find(&id(1), 4), ids.find(&id(2), 4)), (Some(7), Some(8)));
        assert_eq!((ids.find(&id(1), 5), ids.find(&id(2), 5)), (None, Some(8)));
        assert_eq!(ids.len(), 1);
        // This stripe was not used during the generations 5 and 6.
        ids.insert(id(3), 9, 7);
        assert_eq!((ids.find(&id(2), 7), ids.len()), (None, 1));
    }
}
