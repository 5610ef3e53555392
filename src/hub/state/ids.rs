//! Which events were published already: a publisher that repeats a request repeats its ids.
//!
//! Invariant: an id is in here only if its event was accepted, and for at least the window since, unless
//! [`Ids::forget_half`] was called.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::event::EventId;

/// The ids of one stripe, each with the version its event got.
#[derive(Default)]
pub(in crate::hub) struct Ids {
    // Both are asked, one is written; the older one is dropped whole.
    young: Generation,
    old: Generation,
    born_ms: u64,
}

type Generation = HashMap<EventId, u64, RandomState>;

/// What an id takes, with its share of a table that is at most 7/8 full.
pub(in crate::hub) const ID_BYTES: usize = 29;

impl Ids {
    /// The version of the event that was accepted under this id.
    pub(in crate::hub) fn find(&mut self, id: &EventId, now_ms: u64, window_ms: u64) -> Option<u64> {
        self.age(now_ms, window_ms);
        self.young.get(id).or_else(|| self.old.get(id)).copied()
    }

    /// Notes that an event was accepted; to be called after [`Ids::find`] with the same time.
    pub(in crate::hub) fn insert(&mut self, id: EventId, version: u64) {
        self.young.insert(id, version);
    }

    fn age(&mut self, now_ms: u64, window_ms: u64) {
        let age_ms = now_ms.saturating_sub(self.born_ms);
        if age_ms < window_ms {
            return;
        }
        let young = std::mem::take(&mut self.young);
        // After two windows of silence both are too old.
        self.old = if age_ms < window_ms.saturating_mul(2) {
            young
        } else {
            Generation::default()
        };
        self.born_ms = now_ms;
    }

    /// Forgets the older half of the ids, for want of room.
    pub(in crate::hub) fn forget_half(&mut self, now_ms: u64) {
        self.old = std::mem::take(&mut self.young);
        self.born_ms = now_ms;
    }

    /// All of them, with their versions.
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

    const WINDOW_MS: u64 = 300_000;

    fn id(n: u8) -> EventId {
        EventId([n; 16])
    }

    #[test]
    fn an_id_is_remembered_for_the_window_and_forgotten_after_two() {
        for first_ms in [0, WINDOW_MS - 1, WINDOW_MS] {
            let mut ids = Ids::default();
            assert_eq!(ids.find(&id(1), first_ms, WINDOW_MS), None);
            ids.insert(id(1), 7);
            assert_eq!(ids.find(&id(1), first_ms + WINDOW_MS - 1, WINDOW_MS), Some(7));
        }
        let mut ids = Ids::default();
        ids.insert(id(1), 7);
        assert_eq!(ids.find(&id(1), 2 * WINDOW_MS, WINDOW_MS), None);
        let mut ids = Ids::default();
        ids.insert(id(1), 7);
        assert_eq!(ids.find(&id(2), WINDOW_MS, WINDOW_MS), None);
        assert_eq!(ids.find(&id(1), 2 * WINDOW_MS, WINDOW_MS), None);
    }

    #[test]
    fn half_of_the_ids_can_be_forgotten() {
        let mut ids = Ids::default();
        ids.insert(id(1), 1);
        ids.forget_half(5);
        ids.insert(id(2), 2);
        assert_eq!(ids.len(), 2);
        ids.forget_half(6);
        assert_eq!(ids.find(&id(1), 6, WINDOW_MS), None);
        assert_eq!(ids.find(&id(2), 6, WINDOW_MS), Some(2));
    }
}
