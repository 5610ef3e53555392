//! The order in which the channels of a stripe were used, by which they are evicted, and forgetting many of them at once.
//!
//! Invariant: every channel is in the list once, the most recently used one last.

use super::{Channels, Garbage, Ids, Tombstones};

impl Channels {
    /// Marks the channel as the most recently used one.
    pub(super) fn touch(&mut self, slot: u32, now_ms: u64) {
        self.slots[slot as usize].used_ms = now_ms;
        if self.newest != Some(slot) {
            self.unlink(slot);
            self.link(slot);
        }
    }

    pub(super) fn link(&mut self, slot: u32) {
        let older = self.newest.replace(slot);
        let state = &mut self.slots[slot as usize];
        (state.older, state.newer) = (older, None);
        match older {
            Some(older) => self.slots[older as usize].newer = Some(slot),
            None => self.oldest = Some(slot),
        }
    }

    pub(super) fn unlink(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        let (older, newer) = (state.older.take(), state.newer.take());
        match older {
            Some(older) => self.slots[older as usize].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.slots[newer as usize].older = older,
            None => self.newest = older,
        }
    }

    /// Forgets everything. Events with versions up to `newest` may be missing from now on.
    pub(in crate::hub) fn reset(&mut self, newest: u64, garbage: &mut Garbage) {
        let tombstones = Tombstones::new(self.tombstones.max());
        for mut state in std::mem::take(&mut self.slots) {
            state.1.leave_owner();
            garbage.channels.push(state.1);
        }
        self.by_name.clear();
        self.in_order.clear();
        self.deadlines.clear();
        (self.oldest, self.newest, self.bytes) = (None, None, 0);
        (self.evicted, self.tombstones) = (newest, tombstones);
        self.tombstones.forget_up_to(newest);
        self.last_version = newest;
        self.ids = Ids::default();
        self.unsaved_ids.clear();
    }

    /// Forgets the events up to a version. Merged values stay.
    pub(in crate::hub) fn forget_up_to(&mut self, version: u64, garbage: &mut Garbage) {
        let slots: Vec<u32> = self.by_name.values().copied().collect();
        for slot in slots {
            let state = &mut self.slots[slot as usize];
            if state.latest <= version && !state.class.merges() {
                let state = self.take_out(slot);
                garbage.channels.push(state);
                continue;
            }
            let before = state.bytes();
            while state
                .ring()
                .next()
                .is_some_and(|oldest| oldest.event.version <= version)
            {
                state.trim_one(garbage);
                self.counts.trimmed += 1;
            }
            state.floor = state.floor.max(version);
            state.latest = state.latest.max(version);
            self.bytes = self.bytes - before + state.count_for_owner(before);
        }
        self.evicted = self.evicted.max(version);
        self.tombstones.forget_up_to(version);
    }
}
