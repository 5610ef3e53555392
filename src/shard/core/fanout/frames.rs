//! The frames of the events that are being delivered. Each is made once per shard, when the first subscriber needs it.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::Event;
use crate::hub::{Inbox, Popped};
use crate::metrics::ShardMetrics;
use crate::shard::core::connections::Endpoint;
use crate::shard::frame::{Content, Frame, FramedEvent};
use crate::shard::numbers::Numbers;
use tickgate_protocol::dialect::socket_io;
use tickgate_protocol::event::{Encoding, WireFormat};
use tickgate_protocol::message::Offset;
use tickgate_protocol::wire::{Deflate, encode};

/// The frames of one event, one for each format.
pub(in crate::shard::core) struct Frames<'e> {
    event: &'e Arc<Event>,
    is_snapshot: bool,
    wrapped: [Option<Rc<Frame>>; WireFormat::COUNT],
    // How many connections took each.
    taken: [u64; WireFormat::COUNT],
    // The number of the event's channel, once it has one.
    number: Option<u32>,
    // For clients that may get their sessions back; `None`: no offset can be told.
    offset: Option<Offset>,
    told: Told,
}

/// Frames with an offset, of the two encodings of Socket.IO. They are not compressed.
type Told = [Option<Rc<Frame>>; 2];

impl<'e> Frames<'e> {
    /// No frame is made yet.
    pub(in crate::shard::core) const fn of(event: &'e Arc<Event>) -> Self {
        Self {
            event,
            is_snapshot: false,
            wrapped: [const { None }; WireFormat::COUNT],
            taken: [0; WireFormat::COUNT],
            number: None,
            offset: None,
            told: [const { None }; 2],
        }
    }

    /// The frames of an event that is delivered when the shard has come to `offset`. No frame is made yet.
    fn live(popped: &'e Popped, offset: Option<Offset>) -> Self {
        Self {
            offset,
            ..Self::of(&popped.event)
        }
    }

    /// The number of the event's channel. Looked up once if there is one, which stays the channel's number as long as the
    /// event is being delivered.
    pub(super) fn number(&mut self, numbers: &Numbers) -> Option<u32> {
        if self.number.is_none() {
            self.number = numbers.get(&self.event.channel);
        }
        self.number
    }

    /// The event is sent as the state that the gateway keeps. No frame is made yet.
    pub(in crate::shard::core) const fn of_snapshot(event: &'e Arc<Event>) -> Self {
        let mut frames = Self::of(event);
        frames.is_snapshot = true;
        frames
    }

    /// The frames of a missed event, for one client that has everything up to `offset` with it. No frame is made yet.
    pub(in crate::shard::core) fn missed(event: &'e Arc<Event>, offset: Option<Offset>) -> Self {
        Self {
            offset,
            ..Self::of(event)
        }
    }

    /// The frame for one connection of an endpoint. `format` is the endpoint's format.
    #[inline]
    pub(in crate::shard::core) fn get(&mut self, format: WireFormat, endpoint: &Endpoint, inbox: &Inbox) -> &Rc<Frame> {
        let is_too_long = |deflate: Deflate| {
            is_narrow(deflate)
                && !deflate.fits(encode::payload_bytes(encoded(
                    self.event,
                    self.is_snapshot,
                    format.encoding.plain(),
                    inbox,
                )))
        };
        let format = match endpoint.deflate {
            Some(deflate) if is_too_long(deflate) => format.encoding.plain(),
            _ => format,
        };
        self.taken[format.index()] += 1;
        self.wrap(format, inbox)
    }

    fn wrap(&mut self, format: WireFormat, inbox: &Inbox) -> &Rc<Frame> {
        let (event, is_snapshot) = (self.event, self.is_snapshot);
        self.wrapped[format.index()].get_or_insert_with(|| {
            let content = Content::Event(FramedEvent {
                channel: event.channel.clone(),
                class: event.class.clone(),
                version: event.version,
            });
            Frame::new(encoded(event, is_snapshot, format, inbox).clone(), content)
        })
    }

    /// As [`Frames::get`], with the offset of the event if there is one and the connection has everything up to it (`tells`).
    pub(in crate::shard::core) fn get_told(
        &mut self,
        tells: bool,
        format: WireFormat,
        endpoint: &Endpoint,
        inbox: &Inbox,
    ) -> &Rc<Frame> {
        match told_index(format) {
            Some(index) if tells && endpoint.recovers && self.offset.is_some() => self.tell(index, format, inbox),
            _ => self.get(format, endpoint, inbox),
        }
    }

    fn tell(&mut self, index: usize, format: WireFormat, inbox: &Inbox) -> &Rc<Frame> {
        let (event, offset) = (self.event, self.offset.as_ref());
        self.told[index].get_or_insert_with(|| {
            let plain = inbox.frame(format.encoding.plain(), event);
            let content = Content::Event(FramedEvent {
                channel: event.channel.clone(),
                class: event.class.clone(),
                version: event.version,
            });
            let bytes = offset.map_or_else(|| plain.clone(), |offset| socket_io::with_offset(plain, offset));
            Frame::new(bytes, content)
        })
    }

    /// Counts the bytes that compression saved.
    pub(in crate::shard::core) fn count(&self, metrics: &ShardMetrics) {
        for format in WireFormat::all().filter(|format| format.deflated && self.taken[format.index()] > 0) {
            let frame = |format: WireFormat| match self.event.snapshot_frame(format.deflated) {
                Some(frame) if self.is_snapshot && format.encoding == Encoding::Native => Some(frame),
                _ => self.event.frame(format),
            };
            let length = |format: WireFormat| frame(format).map_or(0, Bytes::len) as u64;
            let saved = length(format.encoding.plain()).saturating_sub(length(format));
            if saved > 0 {
                let taken = self.taken[format.index()];
                metrics.deflated_messages.bump(taken);
                metrics.deflate_saved_bytes.bump(taken * saved);
            }
        }
    }
}

/// The frames of a run: those of the whole run, and those of each event.
pub(super) struct RunFrames<'e> {
    each: Vec<Frames<'e>>,
    joined: [Option<Rc<Frame>>; WireFormat::COUNT],
    // How many connections took each frame of the whole run.
    taken: [u64; WireFormat::COUNT],
    told: Told,
}

impl<'e> RunFrames<'e> {
    pub(super) fn of(run: &'e [Popped]) -> Self {
        Self::live(run, |_| None)
    }

    /// `offset_of` is called for each event in order, for what its frames tell.
    pub(super) fn live(run: &'e [Popped], mut offset_of: impl FnMut(&Popped) -> Option<Offset>) -> Self {
        Self {
            each: run
                .iter()
                .map(|popped| Frames::live(popped, offset_of(popped)))
                .collect(),
            joined: [const { None }; WireFormat::COUNT],
            taken: [0; WireFormat::COUNT],
            told: [const { None }; 2],
        }
    }

    /// As [`RunFrames::whole`], with the offsets of the events, for a connection that has everything up to them.
    #[inline(never)]
    pub(super) fn whole_told(&mut self, format: WireFormat, endpoint: &Endpoint, inbox: &Inbox) -> Option<&Rc<Frame>> {
        let (Some(index), true) = (told_index(format), self.each.iter().all(|event| event.offset.is_some())) else {
            return self.whole(format, endpoint, inbox);
        };
        let each = &mut self.each;
        let told = self.told[index].get_or_insert_with(|| match &mut each[..] {
            [lone] => lone.tell(index, format, inbox).clone(),
            events => Frame::run(
                events
                    .iter_mut()
                    .map(|event| event.tell(index, format, inbox).clone())
                    .collect(),
            ),
        });
        Some(told)
    }

    /// The whole run as one frame, for a connection of an endpoint. `format` is the endpoint's format. `None`: each event
    /// must be queued by itself.
    #[inline]
    pub(super) fn whole(&mut self, format: WireFormat, endpoint: &Endpoint, inbox: &Inbox) -> Option<&Rc<Frame>> {
        if endpoint.deflate.is_some_and(is_narrow) {
            return None;
        }
        if self.joined[format.index()].is_none() {
            self.join(format, inbox);
        }
        self.joined[format.index()].as_ref()
    }

    // Called once for a run and format, while `whole` is called for each connection.
    #[cold]
    fn join(&mut self, format: WireFormat, inbox: &Inbox) {
        let joined = match &mut self.each[..] {
            [lone] => lone.wrap(format, inbox).clone(),
            events => Frame::run(
                events
                    .iter_mut()
                    .map(|event| event.wrap(format, inbox).clone())
                    .collect(),
            ),
        };
        self.joined[format.index()] = Some(joined);
    }

    /// Counts a connection that took the whole run.
    pub(super) const fn note_whole(&mut self, format: WireFormat) {
        self.taken[format.index()] += 1;
    }

    /// The frames of each event, in order.
    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut Frames<'e>> {
        self.each.iter_mut()
    }

    /// Counts the bytes that compression saved.
    pub(super) fn count(&mut self, metrics: &ShardMetrics) {
        for event in &mut self.each {
            for (taken, whole) in event.taken.iter_mut().zip(self.taken) {
                *taken += whole;
            }
            event.count(metrics);
        }
    }
}

const fn told_index(format: WireFormat) -> Option<usize> {
    match format.encoding {
        Encoding::SocketIo => Some(0),
        Encoding::SocketIoNaive => Some(1),
        Encoding::Native | Encoding::Typed | Encoding::TypedNaive => None,
    }
}

fn encoded<'e>(event: &'e Event, is_snapshot: bool, format: WireFormat, inbox: &Inbox) -> &'e Bytes {
    if is_snapshot {
        inbox.snapshot_frame(format, event)
    } else {
        inbox.frame(format, event)
    }
}

// Whether the length of a message must be known before it can be compressed. That is so only for the small windows, which
// few clients ask for.
fn is_narrow(deflate: Deflate) -> bool {
    !deflate.fits(usize::MAX)
}
