//! Channels that have state get another class.
//!
//! Invariant: the class stays in its lane ([`Class::lane_key`]), so what is kept is of the same kind. Only its bounds and
//! its ends change.

use std::sync::Arc;

use super::channel::{ChannelState, Garbage};
use super::{Channels, mono};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class, Classes};

/// Most channels that are looked at under one lock.
const CHANNELS_MAX: usize = 1024;

impl Channels {
    /// The first channel that would leave its lane, and the key by which.
    pub(in crate::hub) fn leaving_lane(&self, classes: &Classes) -> Option<(Channel, &'static str)> {
        self.slots.iter().find_map(|(_, state)| {
            let key = state.class.lane_key(classes.of(&state.channel))?;
            Some((state.channel.clone(), key))
        })
    }

    /// Gives the channels from slot `from` on their classes. Returns where to continue.
    pub(in crate::hub) fn adopt_classes(
        &mut self,
        from: usize,
        classes: &Classes,
        now: Now,
        garbage: &mut Garbage,
    ) -> Option<usize> {
        let end = from + CHANNELS_MAX;
        for slot in from..end.min(self.slots.capacity()) {
            let Some(state) = self.slots.get_mut(slot) else {
                continue;
            };
            let class = classes.of(&state.channel);
            if state.class == *class {
                continue;
            }
            let before = state.bytes();
            self.revived.extend(state.adopt(class, mono(now)));
            self.counts.trimmed += state.shed(mono(now), garbage);
            self.bytes = self.bytes - before + state.count_for_owner(before);
            if let Ok(slot) = u32::try_from(slot) {
                self.plan(slot);
            }
        }
        (end < self.slots.capacity()).then_some(end)
    }
}

impl ChannelState {
    /// Takes another class. Returns the channel if it is not stale any more.
    fn adopt(&mut self, class: &Arc<Class>, now_ms: i64) -> Option<Channel> {
        let age_ms = self.last_age_ms(now_ms);
        let had_ttl_ms = std::mem::replace(&mut self.class, Arc::clone(class)).last_ttl_ms;
        if had_ttl_ms != class.last_ttl_ms && self.has_value() {
            let age_ms = age_ms.unwrap_or_else(|| now_ms - self.heard_at_ms.min(now_ms));
            self.begin_last(now_ms - age_ms);
            // The snapshot has the age of the value.
            self.unsaved = true;
        }
        self.is_fresh_again(now_ms).then(|| self.channel.clone())
    }
}
