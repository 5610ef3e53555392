//! A connection without a shard around it.

use crate::shard::catch_up::{CatchUp, Due, Need};
use crate::shard::frame::FramedEvent;
use crate::shard::numbers::Numbers;
use tickgate_protocol::channel::{Channel, Class, Overflow};

/// What one connection catches up with, in a shard that has no other.
#[derive(Default)]
pub(super) struct Alone {
    pub(super) catch_up: CatchUp,
    pub(super) numbers: Numbers,
    pub(super) has_records: bool,
}

impl std::ops::Deref for Alone {
    type Target = CatchUp;

    fn deref(&self) -> &CatchUp {
        &self.catch_up
    }
}

impl std::ops::DerefMut for Alone {
    fn deref_mut(&mut self) -> &mut CatchUp {
        &mut self.catch_up
    }
}

impl Alone {
    pub(super) fn set_aside(&mut self, channel: &Channel, version: u64, due: u32) -> bool {
        let class = Class {
            cache_last: true,
            overflow: Overflow::Conflate,
            record_key: self.has_records.then(|| "code".into()),
            ..Class::default()
        };
        let event = FramedEvent {
            channel: channel.clone(),
            class: class.into(),
            version,
        };
        self.catch_up.set_aside(&mut self.numbers, &event, due)
    }

    pub(super) fn subscribe(&mut self, channel: Channel, need: Need) {
        let next = match need {
            Need::After(offset) => offset + 1,
            _ => 0,
        };
        self.catch_up.subscribe(&mut self.numbers, channel, need, next);
    }

    pub(super) fn take_due(&mut self, head: Option<u32>) -> Option<Due> {
        self.catch_up.take_due(&mut self.numbers, head)
    }

    pub(super) fn withholds(&mut self, channel: &Channel, index: u64) -> bool {
        self.catch_up.withholds(self.numbers.get(channel), channel, index)
    }

    pub(super) fn passes_over(&mut self, channel: &Channel, version: u64) -> bool {
        self.catch_up.passes_over(&self.numbers, channel, version)
    }

    pub(super) fn sweep(&mut self, most: usize) -> (usize, bool) {
        self.catch_up.sweep(&mut self.numbers, most)
    }
}
