//! One published event, and the finished frames it is sent as.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::channel::{Channel, Class};
use crate::sync::{AtomicU32, Ordering};

/// The largest offset: the largest integer that every JSON parser reads exactly, 2^53 - 1.
pub const OFFSET_MAX: u64 = (1 << 53) - 1;

/// Names one store of events: offsets compare within it only. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// A new one, like no other.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Reads what [`fmt::Display`] wrote, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The forms an event can take on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// The native dialect's text frame.
    Native,
    /// The typed dialect's text frame, times with a `Z`.
    Typed,
    /// The typed dialect's text frame, times without one.
    TypedNaive,
    /// A Socket.IO event in a text frame, of both revisions; long polling takes the frame's payload. Times with a `Z`.
    SocketIo,
    /// The same, times without one.
    SocketIoNaive,
}

impl Encoding {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them, each at its own number.
    pub const ALL: [Self; 5] = [
        Self::Native,
        Self::Typed,
        Self::TypedNaive,
        Self::SocketIo,
        Self::SocketIoNaive,
    ];
    /// As it is, not compressed.
    #[must_use]
    pub const fn plain(self) -> Form {
        Form {
            encoding: self,
            deflated: false,
        }
    }
}

/// What one connection gets of every event: an encoding, compressed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// What it says.
    pub encoding: Encoding,
    /// Compressed (permessage-deflate), unless that does not make it shorter.
    pub deflated: bool,
}

impl Form {
    /// How many there are.
    pub const COUNT: usize = 2 * Encoding::COUNT;

    /// All of them, the plain ones first: each stands at its [`index`](Self::index).
    pub fn all() -> impl Iterator<Item = Self> {
        [false, true]
            .into_iter()
            .flat_map(|deflated| Encoding::ALL.map(|encoding| Self { encoding, deflated }))
    }

    /// Its place among all.
    #[must_use]
    pub const fn index(self) -> usize {
        self.encoding as usize + if self.deflated { Encoding::COUNT } else { 0 }
    }
}

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
    pub terms: Terms,
}

/// On what terms an event is published, beside what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
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
}

impl std::fmt::Debug for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
    frames: [OnceLock<Bytes>; Form::COUNT],
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
pub(crate) struct Numbered {
    pub(crate) offset: Option<u64>,
    pub(crate) version: u64,
    pub(crate) class: Arc<Class>,
}

impl Event {
    /// An event from its parts, of a channel without state but for the offset; no form is encoded yet.
    #[must_use]
    pub fn new(new: NewEvent, offset: Option<u64>) -> Self {
        let numbered = Numbered {
            offset,
            version: offset.unwrap_or_default(),
            class: Arc::default(),
        };
        Self::in_transit(new, numbered, Transit::default())
    }

    pub(crate) fn in_transit(new: NewEvent, numbered: Numbered, transit: Transit) -> Self {
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

    /// The finished frame of one form, when somebody has encoded it.
    #[must_use]
    pub fn frame(&self, form: Form) -> Option<&Bytes> {
        self.frames[form.index()].get()
    }

    /// Offers a finished frame. Never waits for another thread: when two encode at once, the first one stays and
    /// the second is dropped (`get_or_init` across shards was measured to wait up to 6.5 ms).
    pub fn offer_frame(&self, form: Form, frame: Bytes) -> &Bytes {
        let slot = &self.frames[form.index()];
        let _ = slot.set(frame);
        slot.get().expect("set just now, by this thread or another")
    }
}
