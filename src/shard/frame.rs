//! What outboxes hold: finished WebSocket frames, made once for a shard and shared by all that get them.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use tickgate_protocol::channel::{Channel, Class, Overflow};

/// One or more finished WebSocket frames that are sent as a whole; one instance per shard, however many outboxes
/// hold it: a reference costs 2 ns with `Rc`, 57 ns with a counter shared between threads.
#[derive(Debug)]
pub(super) struct Frame {
    /// What goes on the wire.
    pub(super) bytes: Bytes,
    /// What that is.
    pub(super) content: Content,
}

/// What a frame carries.
#[derive(Debug)]
pub(super) enum Content {
    /// A reply or control message.
    Reply,
    /// One event.
    Event(FramedEvent),
    /// Several events, each with its own frame: they go the same way for as long as nothing is decided about one of
    /// them.
    Run(Box<[Rc<Frame>]>),
}

/// What is kept of a queued event beside its frame. Not the event itself: its `data` and its other forms would be held
/// as long as the slowest client is behind, uncounted.
#[derive(Debug)]
pub(super) struct FramedEvent {
    pub(super) channel: Channel,
    pub(super) class: Arc<Class>,
    /// Its number in the hub's state; 0: there is no state of it.
    pub(super) version: u64,
}

impl FramedEvent {
    /// Whether its channel's newest event can stand for it: that is kept, and its class says so.
    pub(super) fn steps_aside(&self) -> bool {
        self.class.overflow == Overflow::Conflate && self.class.cache_last && self.version > 0
    }
}

impl Frame {
    /// The frame of a reply or control message.
    pub(super) fn reply(bytes: Bytes) -> Rc<Self> {
        let content = Content::Reply;
        Rc::new(Self { bytes, content })
    }

    /// The frames of several events as one, in their order. Their bytes exist twice then, but once for all connections:
    /// parts that shared the run's bytes would keep all of them while a slow client holds one part.
    pub(super) fn run(events: Box<[Rc<Self>]>) -> Rc<Self> {
        let mut bytes = Vec::with_capacity(events.iter().map(|event| event.bytes.len()).sum());
        for event in &events {
            bytes.extend_from_slice(&event.bytes);
        }
        Rc::new(Self {
            bytes: bytes.into(),
            content: Content::Run(events),
        })
    }

    /// Its length in bytes. A frame of 4 GiB cannot occur: events and messages are limited far below.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// How many messages or events it is.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        match &self.content {
            Content::Reply | Content::Event(_) => 1,
            Content::Run(events) => u32::try_from(events.len()).unwrap_or(u32::MAX),
        }
    }

    /// The one event it is.
    pub(super) fn event(&self) -> Option<&FramedEvent> {
        match &self.content {
            Content::Event(origin) => Some(origin),
            Content::Reply | Content::Run(_) => None,
        }
    }
}
