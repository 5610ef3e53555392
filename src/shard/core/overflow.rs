//! What happens to an event that does not fit into an outbox.
//!
//! An event of class `conflate` makes no room: it steps aside, and its channel's newest is read from the hub when the
//! outbox has drained so far ([`CatchUp`]). For any other, room is made at the head of the queue, by the class of the
//! event that is the oldest, without a search:
//!
//! | the oldest is | then |
//! |---|---|
//! | of a channel that catches up | passed over: it is read instead |
//! | `conflate` | its channel steps aside; nothing is lost |
//! | `drop_oldest` | dropped, and told |
//! | `disconnect` | never dropped: any other newcomer is dropped itself, and told |
//!
//! Only a newcomer of class `disconnect` behind another one looks further: everything queued that is or can be read
//! instead goes, and if that was nothing the connection ends with 4008. So what a class promises does not depend on
//! what else a client has subscribed.

use std::rc::Rc;

use super::{Endpoint, Outgoing};
use crate::metrics::ShardMetrics;
use crate::shard::catch_up::CatchUp;
use crate::shard::connection::{Cold, Flags, Gap, Hot};
use crate::shard::frame::{Frame, FramedEvent};
use crate::shard::slots::Slots;
use tickgate_protocol::channel::{Channel, Overflow};

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// It is on its way, or will be read, or its loss is noted.
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

impl Outgoing {
    /// Queues an event, or a run of them, if it fits.
    #[inline]
    pub(super) fn queue_fitting(&mut self, slot: u32, hot: &mut Hot, frame: &Rc<Frame>, endpoint: &Endpoint) -> bool {
        let bounds = &endpoint.bounds;
        if !hot.outbox.push_event(&mut self.pool, frame, bounds) {
            return false;
        }
        self.count_queued(frame);
        let is_half_full =
            hot.outbox.event_frames() > bounds.event_frames / 2 || hot.outbox.event_bytes() > endpoint.pressed_bytes;
        self.is_pressed |= is_half_full && !hot.flags.has(Flags::BLOCKED);
        self.mark_dirty(slot, hot);
        true
    }

    /// Queues one event, or does what its class says when it does not fit.
    pub(super) fn queue_event(
        &mut self,
        slot: u32,
        hot: &mut Hot,
        cold: &mut Slots<Option<Cold>>,
        frame: &Rc<Frame>,
        endpoint: &Endpoint,
        stats: &ShardMetrics,
    ) -> Queued {
        if self.queue_fitting(slot, hot, frame, endpoint) {
            return Queued::Settled;
        }
        let Some(cold) = &mut cold[slot] else {
            return Queued::Settled;
        };
        let queued = self.overflow(hot, cold, frame, endpoint, stats);
        self.mark_dirty(slot, hot);
        queued
    }

    fn overflow(
        &mut self,
        hot: &mut Hot,
        cold: &mut Cold,
        frame: &Rc<Frame>,
        endpoint: &Endpoint,
        stats: &ShardMetrics,
    ) -> Queued {
        let Some(event) = frame.event() else {
            return Queued::Settled;
        };
        if event.steps_aside() {
            self.step_aside(hot, cold, event, stats);
            return Queued::Settled;
        }
        while !hot.outbox.push_event(&mut self.pool, frame, &endpoint.bounds) {
            let oldest = hot.outbox.oldest_event(&mut self.pool);
            // `Kept` also when all that is queued is a frame of which a part was sent.
            let fate = oldest.map_or(Fate::Kept, |oldest| fate(oldest, cold));
            if matches!(fate, Fate::Kept) {
                if event.class.overflow == Overflow::Disconnect {
                    if self.clear_aside(hot, cold, stats) {
                        continue;
                    }
                    return Queued::TooSlow;
                }
                let sequence = hot.outbox.take_sequence();
                note_loss(hot, cold, &event.channel, 1, sequence, stats);
                return Queued::Settled;
            }
            let Some((oldest, sequence)) = hot.outbox.drop_oldest(&mut self.pool) else {
                return Queued::Settled;
            };
            self.event_frames -= 1;
            self.event_bytes -= u64::from(oldest.len());
            if let Some(oldest) = oldest.event() {
                match fate {
                    Fate::StepsAside => self.step_aside(hot, cold, oldest, stats),
                    Fate::Dropped => note_loss(hot, cold, &oldest.channel, 1, sequence, stats),
                    Fate::PassedOver | Fate::Kept => {}
                }
            }
        }
        self.count_queued(frame);
        Queued::Settled
    }

    // Takes everything out of the queue that is read instead, or can be; whether there was anything. A walk through the
    // queue, but it ends the connection or makes room.
    fn clear_aside(&mut self, hot: &mut Hot, cold: &mut Cold, stats: &ShardMetrics) -> bool {
        let mut aside: Vec<Rc<Frame>> = Vec::new();
        let catch_up = cold.catch_up();
        let passed = hot.outbox.pass_over(&mut self.pool, usize::MAX, |frame| {
            let Some(event) = frame.event() else { return false };
            let is_aside = event.steps_aside() && !catch_up.passes_over(&event.channel, event.version);
            if is_aside {
                aside.push(frame.clone());
            }
            event.steps_aside()
        });
        self.event_frames -= u64::from(passed.event_frames);
        self.event_bytes -= u64::from(passed.event_bytes);
        for event in aside.iter().filter_map(|frame| frame.event()) {
            if !cold.catch_up().passes_over(&event.channel, event.version) {
                self.step_aside(hot, cold, event, stats);
            }
        }
        passed.event_frames > 0
    }

    fn step_aside(&mut self, hot: &mut Hot, cold: &mut Cold, event: &FramedEvent, stats: &ShardMetrics) {
        let due = hot.outbox.take_sequence();
        let catch_up: &mut CatchUp = cold.catch_up();
        if catch_up.set_aside(&event.channel, event.version, due) {
            stats.catch_ups.bump(1);
        }
        stats.conflated.bump(1);
        self.note_catching_up(hot, true);
    }

    /// Sets or clears the flag that the connection catches up with something, and counts.
    pub(super) fn note_catching_up(&mut self, hot: &mut Hot, is_catching_up: bool) {
        match (hot.flags.has(Flags::CATCH_UP), is_catching_up) {
            (false, true) => {
                hot.flags.set(Flags::CATCH_UP);
                self.catching_up += 1;
            }
            (true, false) => {
                hot.flags.clear(Flags::CATCH_UP);
                self.catching_up -= 1;
            }
            _ => {}
        }
    }

    fn count_queued(&mut self, frame: &Frame) {
        self.event_frames += u64::from(frame.count());
        self.event_bytes += u64::from(frame.len());
    }
}

fn fate(oldest: &Frame, cold: &mut Cold) -> Fate {
    let Some(event) = oldest.event() else {
        return Fate::Kept;
    };
    let catch_up = cold.catch_up_if_any();
    if catch_up.is_some_and(|catch_up| catch_up.passes_over(&event.channel, event.version)) {
        return Fate::PassedOver;
    }
    match event.class.overflow {
        _ if event.steps_aside() => Fate::StepsAside,
        Overflow::Disconnect => Fate::Kept,
        Overflow::DropOldest | Overflow::Conflate => Fate::Dropped,
    }
}

/// Notes events that a client does not get, to be told at their place in the order of frames.
pub(super) fn note_loss(
    hot: &mut Hot,
    cold: &mut Cold,
    channel: &Channel,
    count: u32,
    sequence: u32,
    stats: &ShardMetrics,
) {
    stats.dropped.bump(count.into());
    hot.dropped = hot.dropped.saturating_add(count);
    hot.flags.set(Flags::GAP);
    let gap = cold.extra().gap.get_or_insert_with(|| Gap {
        sequence,
        count: 0,
        channels: Vec::new(),
    });
    gap.add(count, channel);
}
