//! The frames of events that are being delivered, each made once for this shard when the first subscriber needs it.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::Endpoint;
use crate::event::Event;
use crate::hub::{Inbox, Popped};
use crate::metrics::ShardMetrics;
use crate::shard::frame::{Content, Frame, FramedEvent};
use tickgate_protocol::event::WireFormat;
use tickgate_protocol::wire::{Deflate, encode};

/// The frames of one event.
pub(super) struct Frames<'e> {
    event: &'e Arc<Event>,
    wrapped: [Option<Rc<Frame>>; WireFormat::COUNT],
    // How often each was taken.
    taken: [u64; WireFormat::COUNT],
}

impl<'e> Frames<'e> {
    pub(super) const fn of(event: &'e Arc<Event>) -> Self {
        Self {
            event,
            wrapped: [const { None }; WireFormat::COUNT],
            taken: [0; WireFormat::COUNT],
        }
    }

    /// The frame for one connection of an endpoint; `form` is that endpoint's.
    #[inline]
    pub(super) fn get(&mut self, form: WireFormat, endpoint: &Endpoint, inbox: &Inbox) -> &Rc<Frame> {
        let is_too_long = |deflate: Deflate| {
            is_narrow(deflate) && !deflate.fits(encode::payload_bytes(inbox.frame(form.encoding.plain(), self.event)))
        };
        let form = match endpoint.deflate {
            Some(deflate) if is_too_long(deflate) => form.encoding.plain(),
            _ => form,
        };
        self.taken[form.index()] += 1;
        self.wrap(form, inbox)
    }

    fn wrap(&mut self, form: WireFormat, inbox: &Inbox) -> &Rc<Frame> {
        let event = self.event;
        self.wrapped[form.index()].get_or_insert_with(|| {
            Rc::new(Frame {
                bytes: inbox.frame(form, event).clone(),
                content: Content::Event(FramedEvent {
                    channel: event.channel.clone(),
                    class: event.class.clone(),
                    version: event.version,
                }),
            })
        })
    }

    /// Counts what compression spared.
    pub(super) fn count(&self, stats: &ShardMetrics) {
        for form in WireFormat::all().filter(|form| form.deflated && self.taken[form.index()] > 0) {
            let length = |form: WireFormat| self.event.frame(form).map_or(0, Bytes::len) as u64;
            let saved = length(form.encoding.plain()).saturating_sub(length(form));
            if saved > 0 {
                let taken = self.taken[form.index()];
                stats.deflated_messages.bump(taken);
                stats.deflate_saved_bytes.bump(taken * saved);
            }
        }
    }
}

/// The frames of a run of events, and those of each of them.
pub(super) struct RunFrames<'e> {
    each: Vec<Frames<'e>>,
    joined: [Option<Rc<Frame>>; WireFormat::COUNT],
    // How often each of those was taken.
    taken: [u64; WireFormat::COUNT],
}

impl<'e> RunFrames<'e> {
    pub(super) fn of(run: &'e [Popped]) -> Self {
        Self {
            each: run.iter().map(|popped| Frames::of(&popped.event)).collect(),
            joined: [const { None }; WireFormat::COUNT],
            taken: [0; WireFormat::COUNT],
        }
    }

    /// All of the run as one frame for a connection of an endpoint; `form` is that endpoint's. `None`: each event must be
    /// looked at.
    #[inline]
    pub(super) fn whole(&mut self, form: WireFormat, endpoint: &Endpoint, inbox: &Inbox) -> Option<&Rc<Frame>> {
        if endpoint.deflate.is_some_and(is_narrow) {
            return None;
        }
        let each = &mut self.each;
        let joined = self.joined[form.index()].get_or_insert_with(|| match &mut each[..] {
            [lone] => lone.wrap(form, inbox).clone(),
            events => Frame::run(events.iter_mut().map(|event| event.wrap(form, inbox).clone()).collect()),
        });
        Some(joined)
    }

    /// The whole was taken in this form.
    pub(super) const fn note_whole(&mut self, form: WireFormat) {
        self.taken[form.index()] += 1;
    }

    /// The frames of each event, in order.
    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut Frames<'e>> {
        self.each.iter_mut()
    }

    /// Counts what compression spared.
    pub(super) fn count(&mut self, stats: &ShardMetrics) {
        for event in &mut self.each {
            for (taken, whole) in event.taken.iter_mut().zip(self.taken) {
                *taken += whole;
            }
            event.count(stats);
        }
    }
}

// Only for the small windows that hardly anybody asks for must a message's length be known.
fn is_narrow(deflate: Deflate) -> bool {
    !deflate.fits(usize::MAX)
}
