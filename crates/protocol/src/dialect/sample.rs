//! An event that owns its parts, for tests of the encodings.

use crate::channel::Channel;
use crate::event::EventView;

pub(super) struct Sample {
    channel: Channel,
    name: String,
    data: String,
    timestamp_ms: u64,
    offset: Option<u64>,
}

impl Sample {
    pub(super) fn new(channel: &str, name: &str, data: &str, timestamp_ms: u64, offset: Option<u64>) -> Self {
        Self {
            channel: Channel::parse(channel).expect("a valid channel"),
            name: name.to_owned(),
            data: data.to_owned(),
            timestamp_ms,
            offset,
        }
    }

    pub(super) fn view(&self) -> EventView<'_> {
        EventView {
            channel: &self.channel,
            name: &self.name,
            data: self.data.as_bytes(),
            timestamp_ms: self.timestamp_ms,
            offset: self.offset,
            is_snapshot: false,
        }
    }
}
