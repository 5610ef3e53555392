//! One published event, and the finished frames it is sent as.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use bytes::Bytes;
use tickgate_protocol::channel::{Channel, Class};
use tickgate_protocol::event::{EventView, WireFormat};
use tickgate_protocol::message::RequestId;

use crate::sync::{AtomicU32, Ordering};

/// An event as a publisher gives it: checked, not yet numbered.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Where it goes.
    pub channel: Channel,
    /// Its name, such as `filled`: 1 to 128 bytes without control characters.
    pub name: Box<str>,
    /// One JSON value as the publisher wrote it, byte for byte; `null` when there was none.
    pub data: Bytes,
    /// Unix milliseconds.
    pub timestamp_ms: u64,
    /// On what terms it is published.
    pub options: PublishOptions,
}

/// On what terms an event is published, beside what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// The publisher's own name for it: published again within the window, it is a duplicate.
    pub id: Option<EventId>,
    /// Sent even where `only_changed` would keep it back.
    pub even_if_unchanged: bool,
    /// Newcomers get it as a channel's last value for so many milliseconds; `None`: for ever.
    pub fresh_ms: Option<u32>,
}

/// A publisher's name for an event within its channel: the first half of a SHA-256, so that names take the same room
/// however long they are and nobody can make two of them meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId(pub(crate) [u8; 16]);

impl EventId {
    /// Of a name, in bytes that tell kinds of names apart.
    #[must_use]
    pub fn new(channel: &Channel, name: &[u8]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(channel.as_str().as_bytes());
        // A channel has no control characters, so the parts cannot run into each other.
        hash.update(b"\0");
        hash.update(name);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finish().as_ref()[..16]);
        Self(id)
    }

    /// The id of an event that a publisher names by a request's `id`.
    #[must_use]
    pub fn of_request(channel: &Channel, id: &RequestId) -> Self {
        Self::new(channel, id.event_name().as_bytes())
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// An event on its way to its subscribers. Shared between shards as `Arc<Event>` and never changed.
#[derive(Debug)]
pub struct Event {
    /// Where it goes.
    pub channel: Channel,
    /// Its name.
    pub name: Box<str>,
    /// One JSON value, byte for byte as published.
    pub data: Bytes,
    /// Unix milliseconds.
    pub timestamp_ms: u64,
    /// Position in the channel's history, on channels that keep one.
    pub offset: Option<u64>,
    /// Its number among the events of its stripe, on channels of which anything is kept; 0 on others. Grows within a
    /// channel; where there is an offset it is the same.
    pub version: u64,
    /// The channel's class.
    pub class: Arc<Class>,
    // Each holds a whole WebSocket frame, header included, so that a delivery copies nothing.
    frames: [OnceLock<Bytes>; WireFormat::COUNT],
    // The hub's note on the way through the inboxes; kept here because a second allocation per event costs more.
    transit: Transit,
}

/// What an event owes the hub while it lies in inboxes.
#[derive(Debug, Default)]
pub(crate) struct Transit {
    /// Whose credit it was.
    pub(crate) payer: u16,
    /// How much is given back by the last inbox.
    pub(crate) cost: u32,
    inboxes: AtomicU32,
}

impl Transit {
    /// For an event that goes into so many inboxes.
    pub(crate) fn new(payer: u16, cost: u32, inboxes: u32) -> Self {
        Self {
            payer,
            cost,
            inboxes: AtomicU32::new(inboxes),
        }
    }

    /// Counts one inbox it was popped from; whether that was the last one.
    pub(crate) fn popped(&self) -> bool {
        self.inboxes.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// What the hub adds to an event.
#[derive(Debug, Default)]
pub(crate) struct EventMeta {
    pub(crate) offset: Option<u64>,
    pub(crate) version: u64,
    pub(crate) class: Arc<Class>,
}

impl Event {
    /// An event from its parts, of a channel without state but for the offset; no form is encoded yet.
    #[must_use]
    pub fn new(new: NewEvent, offset: Option<u64>) -> Self {
        let numbered = EventMeta {
            offset,
            version: offset.unwrap_or_default(),
            class: Arc::default(),
        };
        Self::in_transit(new, numbered, Transit::default())
    }

    pub(crate) fn in_transit(new: NewEvent, numbered: EventMeta, transit: Transit) -> Self {
        Self {
            channel: new.channel,
            name: new.name,
            data: new.data,
            timestamp_ms: new.timestamp_ms,
            offset: numbered.offset,
            version: numbered.version,
            class: numbered.class,
            frames: Default::default(),
            transit,
        }
    }

    pub(crate) fn transit(&self) -> &Transit {
        &self.transit
    }

    /// What a dialect encodes of it.
    #[must_use]
    pub fn view(&self) -> EventView<'_> {
        EventView {
            channel: &self.channel,
            name: &self.name,
            data: &self.data,
            timestamp_ms: self.timestamp_ms,
            offset: self.offset,
        }
    }

    /// The finished frame of one form, when somebody has encoded it.
    #[must_use]
    pub fn frame(&self, form: WireFormat) -> Option<&Bytes> {
        self.frames[form.index()].get()
    }

    /// Offers a finished frame. Never waits for another thread: when two encode at once, the first one stays and
    /// the second is dropped (`get_or_init` across shards was measured to wait up to 6.5 ms).
    pub fn offer_frame(&self, form: WireFormat, frame: Bytes) -> &Bytes {
        let slot = &self.frames[form.index()];
        let _ = slot.set(frame);
        slot.get().expect("set just now, by this thread or another")
    }
}
