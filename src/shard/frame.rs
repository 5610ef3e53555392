//! The content of outboxes: finished WebSocket frames. A shard makes each frame once, and the outboxes share it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use tickgate_protocol::channel::{Channel, Class, Overflow};

/// One or more finished WebSocket frames that are sent as a unit. There is one instance for each shard, however many
/// outboxes hold it: a reference costs 2 ns with `Rc`, and 57 ns with a counter that threads share.
#[derive(Debug)]
pub(super) struct Frame {
    /// The bytes to write.
    pub(super) bytes: Bytes,
    /// What the bytes are.
    pub(super) content: Content,
}

/// What a frame carries.
#[derive(Debug)]
pub(super) enum Content {
    /// A reply or control message.
    Reply,
    /// One event.
    Event(FramedEvent),
    /// Several events, each with a frame of its own. They are treated as one until a decision about one of them is
    /// needed.
    Run(Box<[Rc<Frame>]>),
}

/// What a frame keeps of its event. It does not keep the event itself: the `data` and the other encodings would stay in
/// memory as long as the slowest client has not read the frame, and no bound would count them.
#[derive(Debug)]
pub(super) struct FramedEvent {
    pub(super) channel: Channel,
    pub(super) class: Arc<Class>,
    /// The event's version in the state of the hub; 0: the hub keeps no state of the channel.
    pub(super) version: u64,
}

impl FramedEvent {
    /// Whether the channel's newest event may replace this one: the class conflates, and the hub keeps the newest
    /// event.
    pub(super) fn steps_aside(&self) -> bool {
        self.class.overflow == Overflow::Conflate && self.class.cache_last && self.version > 0
    }

    /// Whether the event is not dropped, and the hub keeps it in a history: it may be read from there later.
    pub(super) fn may_be_read_later(&self) -> bool {
        self.class.overflow == Overflow::Disconnect && self.class.history.is_some() && self.version > 0
    }
}

thread_local! {
    // The bytes of all frames of this thread. A shard has a thread of its own.
    static HELD_BYTES: Cell<u64> = const { Cell::new(0) };
}

/// The bytes of all frames that this thread's outboxes hold, each counted once.
pub(super) fn held_bytes() -> u64 {
    HELD_BYTES.get()
}

impl Drop for Frame {
    fn drop(&mut self) {
        HELD_BYTES.set(HELD_BYTES.get().wrapping_sub(self.held()));
    }
}

impl Frame {
    /// A frame, counted until it is dropped.
    pub(super) fn new(bytes: Bytes, content: Content) -> Rc<Self> {
        let frame = Self { bytes, content };
        HELD_BYTES.set(HELD_BYTES.get().wrapping_add(frame.held()));
        Rc::new(frame)
    }

    fn held(&self) -> u64 {
        (size_of::<Self>() + self.bytes.len()) as u64
    }

    /// The frame of a reply or control message.
    pub(super) fn reply(bytes: Bytes) -> Rc<Self> {
        Self::new(bytes, Content::Reply)
    }

    /// Joins the frames of several events, in their order. Their bytes exist twice then, once for all connections. If
    /// the events shared the bytes of the run, a slow client that holds one event would keep all of them in memory.
    pub(super) fn run(events: Box<[Rc<Self>]>) -> Rc<Self> {
        let mut bytes = Vec::with_capacity(events.iter().map(|event| event.bytes.len()).sum());
        for event in &events {
            bytes.extend_from_slice(&event.bytes);
        }
        Self::new(bytes.into(), Content::Run(events))
    }

    /// The length in bytes. It always fits: the limits of events and messages are far below 4 GiB.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// The number of messages or events.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        match &self.content {
            Content::Reply | Content::Event(_) => 1,
            Content::Run(events) => u32::try_from(events.len()).unwrap_or(u32::MAX),
        }
    }

    /// The event, if the frame carries exactly one.
    pub(super) fn event(&self) -> Option<&FramedEvent> {
        match &self.content {
            Content::Event(origin) => Some(origin),
            Content::Reply | Content::Run(_) => None,
        }
    }
}
