//! What happens to an event that does not fit into an outbox.
//!
//! An event of class `conflate` makes no room. It steps aside: the channel's newest event is read from the hub when the
//! outbox has drained up to its position ([`CatchUp`]). For any other event, room is made at the head of the queue. The
//! class of the oldest event there decides, so no search is needed:
//!
//! | the oldest event | consequence |
//! |---|---|
//! | is of a channel that catches up | it is removed: it is read from the hub instead |
//! | `conflate` | its channel steps aside; nothing is lost |
//! | `drop_oldest` | it is dropped, and the client is told |
//! | `disconnect` | it is never dropped: any other new event is dropped itself, and the client is told |
//!
//! For a connection with a limit of bytes (`limits.bytes_per_second`), a new event of class `disconnect` with a history steps
//! aside as well: it and what follows is read from the history as fast as the limit allows.
//!
//! Otherwise, only a new event of class `disconnect` behind another one looks further. Every queued event that is or can be read from
//! the hub instead is removed; if there is none, the connection ends with 4008. So the promise of a class does not depend
//! on the other subscriptions of a client.

use std::rc::Rc;

use super::outgoing::Outgoing;
use crate::metrics::ShardMetrics;
#[cfg(doc)]
use crate::shard::catch_up::CatchUp;
use crate::shard::connection::{Cold, Flags, Gap, Hot};
use crate::shard::core::connections::{Endpoint, Recipient};
use crate::shard::frame::{Frame, FramedEvent};
use crate::shard::numbers::Numbers;
use crate::shard::outbox::precedes;
use crate::shard::slots::Slots;
use tickgate_protocol::channel::{Channel, Overflow};

/// The result of queueing an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// The event is queued, or will be read from the hub, or its loss is noted.
    Settled,
    /// The connection is to be ended as a slow consumer.
    TooSlow,
}

/// What an overflow does to the oldest event.
enum Fate {
    PassedOver,
    StepsAside,
    Dropped,
    Kept,
}

/// Queues one event, or does what its class says when it does not fit.
pub(super) fn queue_event(
    outgoing: &mut Outgoing,
    slot: u32,
    hot: &mut Hot,
    cold: &mut Slots<Option<Cold>>,
    frame: &Rc<Frame>,
    endpoint: &Endpoint,
    metrics: &ShardMetrics,
) -> Queued {
    if outgoing.queue_fitting(slot, hot, frame, endpoint) {
        return Queued::Settled;
    }
    let Some(cold) = &mut cold[slot] else {
        return Queued::Settled;
    };
    let mut full = FullOutbox {
        outgoing,
        hot,
        cold,
        metrics,
    };
    let queued = full.overflow(frame, endpoint);
    outgoing.mark_dirty(slot, hot);
    queued
}

/// Lets a connection read the channel of an event from the hub, as if the event had not fitted.
pub(super) fn set_aside(
    outgoing: &mut Outgoing,
    slot: u32,
    Recipient { hot, cold, .. }: Recipient<'_>,
    event: &FramedEvent,
    metrics: &ShardMetrics,
) {
    let Some(cold) = &mut cold[slot] else { return };
    let mut full = FullOutbox {
        outgoing,
        hot,
        cold,
        metrics,
    };
    full.step_aside(event);
    outgoing.mark_dirty(slot, hot);
}

/// An outbox that has no room for the next event.
struct FullOutbox<'o> {
    outgoing: &'o mut Outgoing,
    hot: &'o mut Hot,
    cold: &'o mut Cold,
    metrics: &'o ShardMetrics,
}

impl FullOutbox<'_> {
    fn overflow(&mut self, frame: &Rc<Frame>, endpoint: &Endpoint) -> Queued {
        let Some(event) = frame.event() else {
            return Queued::Settled;
        };
        if event.steps_aside() {
            self.step_aside(event);
            return Queued::Settled;
        }
        if endpoint.is_limited() && event.may_be_read_later() {
            self.read_later(event);
            return Queued::Settled;
        }
        while !self.outgoing.push_event(self.hot, frame, &endpoint.bounds) {
            let oldest = self.outgoing.oldest_event(self.hot);
            // `Kept` also when a frame that is partly sent is the only one.
            let fate = oldest.map_or(Fate::Kept, |(oldest, numbers)| fate(oldest, numbers, self.cold));
            if matches!(fate, Fate::Kept) {
                if event.class.overflow == Overflow::Disconnect {
                    if self.clear_aside() {
                        continue;
                    }
                    return Queued::TooSlow;
                }
                let sequence = self.hot.outbox.take_sequence();
                self.note_loss(&event.channel, sequence);
                return Queued::Settled;
            }
            let Some((oldest, sequence)) = self.outgoing.drop_oldest(self.hot) else {
                return Queued::Settled;
            };
            if let Some(oldest) = oldest.event() {
                match fate {
                    Fate::StepsAside => self.step_aside(oldest),
                    Fate::Dropped => self.note_loss(&oldest.channel, sequence),
                    Fate::PassedOver | Fate::Kept => {}
                }
            }
        }
        Queued::Settled
    }

    // Removes every queued event that is or can be read from the hub instead; returns whether there was one. It searches
    // the whole queue, but it either makes room or ends the connection.
    fn clear_aside(&mut self) -> bool {
        let mut aside: Vec<Rc<Frame>> = Vec::new();
        let catch_up = self.cold.catch_up_or_new();
        let passed = self.outgoing.pass_over(self.hot, usize::MAX, |numbers, frame| {
            let Some(event) = frame.event() else { return false };
            let is_aside = event.steps_aside() && !catch_up.passes_over(numbers, &event.channel, event.version);
            if is_aside {
                aside.push(frame.clone());
            }
            event.steps_aside()
        });
        for event in aside.iter().filter_map(|frame| frame.event()) {
            let numbers = self.outgoing.numbers();
            if !(self.cold.catch_up_or_new()).passes_over(numbers, &event.channel, event.version) {
                self.step_aside(event);
            }
        }
        passed > 0
    }

    fn step_aside(&mut self, event: &FramedEvent) {
        let due = self.hot.outbox.take_sequence();
        let catch_up = self.cold.catch_up_or_new();
        if catch_up.set_aside(self.outgoing.numbers_mut(), event, due) {
            self.metrics.catch_ups.bump(1);
            let grown = catch_up.count_after(1);
            self.outgoing.count_catch_up(grown);
        }
        self.metrics.conflated.bump(1);
        self.outgoing.note_catching_up(self.hot, true);
    }

    fn read_later(&mut self, event: &FramedEvent) {
        let outbox = &mut self.hot.outbox;
        let catch_up = self.cold.catch_up_or_new();
        if catch_up.read_later(event, outbox.next_sequence(), || outbox.take_sequence()) {
            self.metrics.catch_ups.bump(1);
            let grown = catch_up.count_after(1);
            self.outgoing.count_catch_up(grown);
        }
        self.outgoing.note_catching_up(self.hot, true);
    }

    fn note_loss(&mut self, channel: &Channel, sequence: u32) {
        note_loss(self.hot, self.cold, channel, 1, sequence, self.metrics);
    }
}

fn fate(oldest: &Frame, numbers: &Numbers, cold: &mut Cold) -> Fate {
    let Some(event) = oldest.event() else {
        return Fate::Kept;
    };
    let catch_up = cold.catch_up();
    if catch_up.is_some_and(|catch_up| catch_up.passes_over(numbers, &event.channel, event.version)) {
        return Fate::PassedOver;
    }
    match event.class.overflow {
        _ if event.steps_aside() => Fate::StepsAside,
        Overflow::Disconnect => Fate::Kept,
        Overflow::DropOldest | Overflow::Conflate => Fate::Dropped,
    }
}

/// Notes `count` dropped events. The client is told of them at the position `sequence` in the order of frames, or earlier.
pub(in crate::shard::core) fn note_loss(
    hot: &mut Hot,
    cold: &mut Cold,
    channel: &Channel,
    count: u32,
    sequence: u32,
    metrics: &ShardMetrics,
) {
    metrics.dropped.bump(count.into());
    hot.dropped = hot.dropped.saturating_add(count);
    hot.flags.set(Flags::GAP);
    let gap = cold.extra_or_new().gap.get_or_insert_with(|| Gap {
        sequence,
        count: 0,
        channels: Vec::new(),
    });
    if precedes(sequence, gap.sequence) {
        gap.sequence = sequence;
    }
    gap.add(count, channel);
}
