//! Published events and their finished frames.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use bytes::Bytes;
use tickgate_protocol::channel::{Channel, Class};
use tickgate_protocol::event::{EventView, WireFormat};
use tickgate_protocol::message::RequestId;

use crate::sync::{AtomicU32, Ordering};
use crate::time::monotonic_us;

/// An event from a publisher: checked, but without a version.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The channel it is published on.
    pub channel: Channel,
    /// Its name, such as `filled`: 1 to 128 bytes without control characters.
    pub name: Box<str>,
    /// One JSON value, byte for byte as the publisher wrote it; `null` if the publisher gave none.
    pub data: Bytes,
    /// When it happened, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// How it is published.
    pub options: PublishOptions,
}

/// How an event is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// Who publishes it: what the event adds to the state, and its rate, count for the quotas of this publisher. `None`: the
    /// gateway itself or an operator, who have no quotas.
    pub publisher: Option<Arc<str>>,
    /// The publisher's id for the event. An event with the same id within the deduplication window is a duplicate.
    pub id: Option<EventId>,
    /// Whether the event is sent even if its value is unchanged, on channels with `only_changed`.
    pub even_if_unchanged: bool,
    /// For how many milliseconds newcomers get the event as the channel's last value; `None`: without limit.
    pub fresh_ms: Option<u32>,
    /// The event tells that what is kept of its channel is deleted, and what is meant. See [`NewEvent::deletion`].
    pub deletes: Option<Deletion>,
}

/// What the deletion of a channel removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Everything that is kept: last value, records and history.
    Everything,
    /// The last value, if it has ended by now (`last_ttl`). The history stays.
    EndedLast,
}

/// The name of the event that tells of a deletion. Its `data` is `null`.
pub const DELETED_EVENT: &str = "deleted";

impl NewEvent {
    /// The event that deletes what is kept of a channel, and tells its subscribers. It is published like any other. If there
    /// is nothing to delete, its receipt says "unchanged".
    #[must_use]
    pub fn deletion(channel: Channel, deletion: Deletion, timestamp_ms: u64) -> Self {
        Self {
            channel,
            name: DELETED_EVENT.into(),
            data: Bytes::from_static(b"null"),
            timestamp_ms,
            options: PublishOptions {
                deletes: Some(deletion),
                ..PublishOptions::default()
            },
        }
    }
}

/// Why an event was not published, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The event was not published: the broker cannot be reached. It can be published again.
    Unavailable,
    /// The event may have been published: the broker did not confirm it in time. Publishing it again with the same id is
    /// safe.
    Unknown,
    /// The event was not published: the broker refuses it, because its storage is full or by its own limits.
    Rejected,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the broker cannot be reached; nothing was published, try again",
            Self::Unknown => {
                "the broker did not confirm the event, so it may have been published; repeat it with the same id"
            }
            Self::Rejected => "the broker refuses the event; its storage or its limits do not allow it",
        })
    }
}

impl std::error::Error for Refusal {}

/// The id of an event within its channel: the first 16 bytes of a SHA-256. So all ids have the same size, and a publisher
/// cannot construct two names with the same id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId(pub(crate) [u8; 16]);

impl EventId {
    /// Makes the id of an event from the name that its publisher gives it. The bytes of the name must differ between kinds
    /// of names, such as strings and numbers. `tenant` is the name of the channel's tenant; `None` for the default one. Its
    /// number would not do, because ids outlive a restart.
    #[must_use]
    pub fn new(tenant: Option<&str>, channel: &Channel, name: &[u8]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        // Names of tenants and channels contain no control characters, so the separators are unambiguous.
        if let Some(tenant) = tenant {
            hash.update(b"\x01");
            hash.update(tenant.as_bytes());
            hash.update(b"\x01");
        }
        hash.update(channel.as_str().as_bytes());
        hash.update(b"\0");
        hash.update(name);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finish().as_ref()[..16]);
        Self(id)
    }

    /// Makes the id of an event whose publisher named it by the `id` of a request.
    #[must_use]
    pub fn of_request(tenant: Option<&str>, channel: &Channel, id: &RequestId) -> Self {
        Self::new(tenant, channel, id.event_name().as_bytes())
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// An event on its way to its subscribers. It is immutable, and shards share it as `Arc<Event>`.
#[derive(Debug)]
pub struct Event {
    /// The channel it is published on.
    pub channel: Channel,
    /// Its name: 1 to 128 bytes without control characters.
    pub name: Box<str>,
    /// One JSON value, byte for byte as published.
    pub data: Bytes,
    /// When it happened, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// Its position in the channel's history, if the channel keeps one.
    pub offset: Option<u64>,
    /// Its number in the sequence of the whole hub, if the channel keeps state; 0 otherwise. Versions grow within a
    /// channel, but are not consecutive. If there is an offset, it is equal.
    pub version: u64,
    /// The channel's class.
    pub class: Arc<Class>,
    // Each is a complete WebSocket frame with its header, so that a delivery copies nothing.
    frames: [OnceLock<Bytes>; WireFormat::COUNT],
    // The native frames, plain and compressed, that mark the event as a snapshot. Few events are sent so.
    snapshots: OnceLock<Box<[OnceLock<Bytes>; 2]>>,
    // Used by the hub only. It is here because a second allocation per event would cost more.
    transit: Transit,
}

/// The credit of an event while it is in inboxes.
#[derive(Debug, Default)]
pub(crate) struct Transit {
    /// The pool that the credit belongs to.
    pub(crate) payer: u16,
    /// How many credits are given back after the last inbox.
    pub(crate) cost: u32,
    // How many inboxes the event is still in.
    inboxes: AtomicU32,
    // When it was published, by `monotonic_us`; 0: it is not measured.
    published_us: u32,
}

/// One event in so many is measured, on each thread that publishes.
const MEASURED: u32 = 32;

thread_local! {
    static PUBLISHED: Cell<u32> = const { Cell::new(0) };
}

/// The time, or 0 for an event that is not measured: reading the clock takes half as long as publishing.
fn measured_us() -> u32 {
    let count = PUBLISHED.get().wrapping_add(1);
    PUBLISHED.set(count);
    if count.is_multiple_of(MEASURED) {
        monotonic_us().max(1)
    } else {
        0
    }
}

impl Transit {
    /// For an event that enters `inboxes` inboxes.
    pub(crate) fn new(payer: u16, cost: u32, inboxes: u32) -> Self {
        Self {
            payer,
            cost,
            inboxes: AtomicU32::new(inboxes),
            published_us: measured_us(),
        }
    }

    /// Counts that the event was popped from one inbox. Returns whether that was the last one.
    pub(crate) fn popped(&self) -> bool {
        self.inboxes.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// What the hub adds to a new event.
#[derive(Debug, Default)]
pub(crate) struct EventMeta {
    pub(crate) offset: Option<u64>,
    pub(crate) version: u64,
    pub(crate) class: Arc<Class>,
}

impl Event {
    /// Makes an event of the default class, outside of any hub. Its version is its offset, and no frame is encoded.
    #[must_use]
    pub fn new(new: NewEvent, offset: Option<u64>) -> Self {
        let meta = EventMeta {
            offset,
            version: offset.unwrap_or_default(),
            class: Arc::default(),
        };
        Self::in_transit(new, meta, Transit::default())
    }

    pub(crate) fn in_transit(new: NewEvent, meta: EventMeta, transit: Transit) -> Self {
        Self {
            channel: new.channel,
            name: new.name,
            data: new.data,
            timestamp_ms: new.timestamp_ms,
            offset: meta.offset,
            version: meta.version,
            class: meta.class,
            frames: Default::default(),
            snapshots: OnceLock::new(),
            transit,
        }
    }

    pub(crate) fn transit(&self) -> &Transit {
        &self.transit
    }

    /// When the event was published, by [`monotonic_us`]; 0: it is not measured.
    #[must_use]
    pub const fn published_us(&self) -> u32 {
        self.transit.published_us
    }

    /// The parts that a dialect encodes.
    #[must_use]
    pub fn view(&self) -> EventView<'_> {
        EventView {
            channel: &self.channel,
            name: &self.name,
            data: &self.data,
            timestamp_ms: self.timestamp_ms,
            offset: self.offset,
            is_snapshot: false,
        }
    }

    /// The finished frame in one wire format, if it has been encoded.
    #[must_use]
    pub fn frame(&self, format: WireFormat) -> Option<&Bytes> {
        self.frames[format.index()].get()
    }

    /// Stores a finished frame, unless there is one, and returns the stored frame.
    ///
    /// This never waits for another thread. If two threads encode at the same time, the first frame is kept and the second
    /// one is dropped. (`get_or_init` was measured to wait up to 6.5 ms for another shard.)
    pub fn offer_frame(&self, format: WireFormat, frame: Bytes) -> &Bytes {
        let slot = &self.frames[format.index()];
        let _ = slot.set(frame);
        slot.get().expect("set just now, by this thread or another")
    }

    /// The finished native frame that marks the event as a snapshot, compressed or not, if it has been encoded.
    #[must_use]
    pub fn snapshot_frame(&self, deflated: bool) -> Option<&Bytes> {
        self.snapshots.get()?[usize::from(deflated)].get()
    }

    /// Stores such a frame, as [`offer_frame`](Self::offer_frame) does.
    pub fn offer_snapshot_frame(&self, deflated: bool, frame: Bytes) -> &Bytes {
        let _ = self.snapshots.set(Box::default());
        let slots = self.snapshots.get().expect("set just now, by this thread or another");
        let slot = &slots[usize::from(deflated)];
        let _ = slot.set(frame);
        slot.get().expect("set just now, by this thread or another")
    }
}
