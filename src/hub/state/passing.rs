//! Deleting what is kept of a channel, and what ends by itself as time passes.
//!
//! Invariant: a channel of which something ends has an entry among the deadlines of its stripe that is not later than that
//! end. So publishing only moves the end; the entry is corrected when its time has come.
//!
//! A channel that nothing was published to for the `fresh_within` of its class is stale. Subscribers are told when a channel
//! becomes stale, and when it is not any more.
//!
//! A deleted channel is kept as the event that tells of it, for clients that are behind. After [`DELETED_KEPT_MS`] it is
//! removed as if it were evicted.

use super::channel::{ChannelState, Garbage};
use super::{Channels, mono};
use crate::event::Deletion;
use crate::time::Now;
use tickgate_protocol::channel::Channel;

/// How long the event that tells of a deletion is kept, in milliseconds.
const DELETED_KEPT_MS: i64 = 60_000;

/// When an end that was reported is reported again, unless something was published since or the deletion took place, in
/// milliseconds.
const REPORT_AGAIN_MS: u64 = 5_000;

/// Most channels that are looked at under one lock.
const CHANNELS_MAX: usize = 1024;

/// What came to pass in the channels; see [`Hub::pass_time`](crate::hub::Hub::pass_time).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The channels whose last values have ended.
    pub ended: Vec<Channel>,
    /// The channels that nothing was published to for too long.
    pub stale: Vec<Channel>,
    /// The channels that are not stale any more.
    pub fresh: Vec<Channel>,
}

impl Channels {
    /// Whether there is something to delete.
    pub(super) fn may_delete(&self, channel: &Channel, deletion: Deletion, now: Now) -> bool {
        self.find(channel).is_some_and(|state| match deletion {
            _ if state.deleted_at_ms.is_some() => false,
            Deletion::Everything => true,
            Deletion::EndedLast => state.last_has_ended(mono(now)),
        })
    }

    /// The channel's last value is confirmed without an event: it is kept longer. With `fresh_ms`, newcomers get it for so
    /// many milliseconds from now, if its publisher limited that.
    pub(in crate::hub) fn renew(&mut self, channel: &Channel, fresh_ms: Option<u32>, now: Now) {
        let Some(slot) = self.by_name.get(channel) else { return };
        let state = &mut self.slots[*slot as usize];
        if let (Some(until_ms), Some(fresh_ms)) = (&mut state.fresh_until_ms, fresh_ms) {
            *until_ms = mono(now) + i64::from(fresh_ms);
        }
        if let (Some(until_ms), Some(ttl_ms)) = (&mut state.last_until_ms, state.class.last_ttl_ms) {
            *until_ms = mono(now).saturating_add_unsigned(ttl_ms);
            // The snapshot has the age of the value.
            state.unsaved = true;
        }
        if state.deleted_at_ms.is_none() {
            self.revived.extend(state.hear(mono(now)));
            let slot = *slot;
            self.plan(slot);
        }
    }

    /// Enters the time at which something of the channel ends.
    pub(super) fn plan(&mut self, slot: u32) {
        if let Some(end_ms) = self.slots[slot as usize].end_ms() {
            self.plan_at(slot, u64::try_from(end_ms).unwrap_or(0));
        }
    }

    fn plan_at(&mut self, slot: u32, at_ms: u64) {
        let state = &mut self.slots[slot as usize];
        if state.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= at_ms) {
            return;
        }
        if let Some(later_ms) = state.deadline_ms.replace(at_ms) {
            self.deadlines.remove(&(later_ms, slot));
        }
        self.deadlines.insert((at_ms, slot));
    }

    /// Removes channels that were deleted a while ago, and reports what came to pass. Returns whether there may be more.
    pub(in crate::hub) fn pass(&mut self, now: Now, passed: &mut Passed, garbage: &mut Garbage) -> bool {
        passed.fresh.append(&mut self.revived);
        for _ in 0..CHANNELS_MAX {
            let Some((_, slot)) = self.deadlines.first().filter(|(at_ms, _)| *at_ms <= now.mono_ms) else {
                return false;
            };
            let slot = *slot;
            self.deadlines.pop_first();
            let state = &mut self.slots[slot as usize];
            state.deadline_ms = None;
            match state.end_ms() {
                Some(end_ms) if end_ms <= mono(now) => {}
                _ => {
                    self.plan(slot);
                    continue;
                }
            }
            if state.deleted_at_ms.is_none() {
                if state.is_silent(mono(now)) {
                    state.is_stale = true;
                    self.stale.insert(slot);
                    self.counts.stale += 1;
                    passed.stale.push(state.channel.clone());
                }
                if state.last_has_ended(mono(now)) {
                    passed.ended.push(state.channel.clone());
                    self.plan_at(slot, now.mono_ms + REPORT_AGAIN_MS);
                } else {
                    self.plan(slot);
                }
            } else if state.ring().len() == 0 {
                self.remove(slot, garbage);
            } else {
                // The history tells of the deletion as long as it lasts.
                self.plan_at(slot, now.mono_ms + DELETED_KEPT_MS.unsigned_abs());
            }
        }
        true
    }

    /// The channels that are stale, in no particular order.
    pub(in crate::hub) fn stale(&mut self) -> impl Iterator<Item = &Channel> {
        let slots = &self.slots;
        self.stale
            .retain(|slot| slots.get(*slot as usize).is_some_and(|state| state.is_stale));
        self.stale
            .iter()
            .filter_map(|slot| Some(&slots.get(*slot as usize)?.channel))
    }
}

impl ChannelState {
    /// Something was published, or confirmed. Returns the channel if it was stale.
    pub(super) fn hear(&mut self, now_ms: i64) -> Option<Channel> {
        self.heard_at_ms = now_ms;
        std::mem::take(&mut self.is_stale).then(|| self.channel.clone())
    }

    // When the silence of the channel is too long, in monotonic milliseconds.
    fn fresh_until_ms(&self) -> Option<i64> {
        let within_ms = self.class.fresh_within_ms.filter(|_| !self.is_stale)?;
        Some(self.heard_at_ms.saturating_add_unsigned(within_ms))
    }

    fn is_silent(&self, now_ms: i64) -> bool {
        self.fresh_until_ms().is_some_and(|until_ms| until_ms <= now_ms)
    }

    /// The last value is new.
    pub(super) fn begin_last(&mut self, now_ms: i64) {
        self.deleted_at_ms = None;
        let ttl_ms = self.class.last_ttl_ms;
        self.last_until_ms = ttl_ms.map(|ttl_ms| now_ms.saturating_add_unsigned(ttl_ms));
    }

    /// The event that was just stored tells of a deletion.
    pub(super) fn delete(&mut self, deletion: Deletion, now_ms: i64, garbage: &mut Garbage) {
        if deletion == Deletion::Everything {
            while self.ring().len() > 1 {
                self.trim_one(garbage);
            }
        }
        garbage.books.extend(self.book.take().map(|book| *book));
        self.deleted_at_ms = Some(now_ms);
        self.last_until_ms = None;
        self.is_stale = false;
    }

    /// Restores how old the last value is. What was kept without a value was deleted.
    pub(super) fn restore_last(&mut self, age_ms: Option<i64>, now_ms: i64) {
        if self.last.is_some() {
            self.begin_last(now_ms - age_ms.unwrap_or(0));
        } else if self.class.cache_last && self.class.history.is_none() {
            self.deleted_at_ms = Some(now_ms);
        }
    }

    /// How long ago the last value was published or confirmed, if it ends by itself.
    pub(super) fn last_age_ms(&self, now_ms: i64) -> Option<i64> {
        let begin_ms = self.last_until_ms?.saturating_sub_unsigned(self.class.last_ttl_ms?);
        Some(now_ms - begin_ms)
    }

    fn last_has_ended(&self, now_ms: i64) -> bool {
        self.last_until_ms.is_some_and(|until_ms| until_ms <= now_ms)
    }

    /// Whether there is a value that can end.
    pub(super) fn has_value(&self) -> bool {
        self.class.cache_last && self.last.is_some() && self.deleted_at_ms.is_none()
    }

    /// Whether subscribers were told of a silence that does not count any more.
    pub(super) fn is_fresh_again(&mut self, now_ms: i64) -> bool {
        let was_stale = std::mem::take(&mut self.is_stale);
        self.is_stale = was_stale && self.is_silent(now_ms);
        was_stale && !self.is_stale
    }

    // When something ends, in monotonic milliseconds.
    fn end_ms(&self) -> Option<i64> {
        match self.deleted_at_ms {
            Some(at_ms) => Some(at_ms + DELETED_KEPT_MS),
            None => match (self.last_until_ms, self.fresh_until_ms()) {
                (Some(last_ms), Some(fresh_ms)) => Some(last_ms.min(fresh_ms)),
                (last_ms, fresh_ms) => last_ms.or(fresh_ms),
            },
        }
    }
}
