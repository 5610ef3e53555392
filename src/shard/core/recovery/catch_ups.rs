//! The catch-up state of connections: created, given positions, reduced, and dropped.
//!
//! Invariant: a connection has [`Flags::CATCH_UP`] exactly while it has a [`CatchUp`].

use std::collections::VecDeque;
use std::sync::Arc;

use super::budgets::SLICE;
use super::outcome::{Outcome, Owed};
use super::steps::Steps;
use crate::metrics::ShardMetrics;
#[cfg(doc)]
use crate::shard::catch_up::CatchUp;
use crate::shard::catch_up::DeferredDrop;
use crate::shard::connection::Flags;
use crate::shard::core::connections::{Connection, Connections};
use crate::shard::core::fanout::Fanout;
use tickgate_protocol::channel::Pattern;

/// Catch-up state with at most this many names is freed at once.
const FREED_AT_ONCE: usize = 256;

/// The catch-up state of all connections, as far as it is not in their records.
pub(super) struct CatchUps {
    // The state of connections that do not need it any more. It is freed in steps.
    drops: VecDeque<DeferredDrop>,
    metrics: Arc<ShardMetrics>,
}

impl CatchUps {
    pub(super) const fn new(metrics: Arc<ShardMetrics>) -> Self {
        Self {
            drops: VecDeque::new(),
            metrics,
        }
    }

    /// Whether there is state to be freed.
    pub(super) fn has_drops(&self) -> bool {
        !self.drops.is_empty()
    }

    /// Frees the state of connections that do not need it any more, while there are steps left, and no more than a slice of
    /// a turn.
    pub(super) fn free(&mut self, steps: &mut Steps, fanout: &mut Fanout) {
        let mut slice = SLICE;
        while let (most @ 1.., Some(drop)) = (steps.left().min(slice), self.drops.front_mut()) {
            let freed = drop.free(fanout.outgoing_mut().numbers_mut(), most);
            if freed < most {
                self.drops.pop_front();
            }
            steps.spend(freed);
            slice -= freed;
        }
    }

    /// A connection has subscribed a channel, of which something has to be read.
    pub(super) fn subscribe(
        &mut self,
        slot: u32,
        Owed { channel, need, next }: Owed,
        of: &Outcome,
        connections: &mut Connections,
        fanout: &mut Fanout,
    ) {
        if let Some(Connection { hot, cold, .. }) = connections.get(slot) {
            let catch_up = cold.catch_up_or_new();
            catch_up.note_began_at(of.began_at());
            if let Some(newest) = of.newest() {
                catch_up.report(newest);
            }
            catch_up.subscribe(fanout.outgoing_mut().numbers_mut(), channel, need, next);
            fanout.outgoing_mut().count_catch_up(catch_up.count_after(1));
            fanout.outgoing_mut().note_catching_up(hot, true);
            self.metrics.catch_ups.bump(1);
        }
    }

    /// A connection gave patterns back: a channel that none of its other patterns matches is not owed any more.
    pub(super) fn leave(&mut self, slot: u32, connections: &mut Connections, fanout: &mut Fanout) {
        if !connections.hot(slot).flags.has(Flags::CATCH_UP) {
            return;
        }
        let held: Box<[Pattern]> = fanout.table().held(slot).cloned().collect();
        if held.is_empty() {
            return self.forget(slot, connections, fanout);
        }
        if let Some(catch_up) = connections.catch_up(slot) {
            catch_up.leave(held);
        }
    }

    /// Forgets the channels that are not owed any more, in at most the first share of a turn; returns whether all of them
    /// are forgotten.
    pub(super) fn sweep(
        &mut self,
        slot: u32,
        steps: &mut Steps,
        connections: &mut Connections,
        fanout: &mut Fanout,
    ) -> bool {
        let Some(catch_up) = connections.catch_up(slot) else {
            return true;
        };
        let (taken, is_done) = catch_up.sweep(fanout.outgoing_mut().numbers_mut(), steps.first_share());
        steps.spend(taken);
        fanout.outgoing_mut().count_catch_up(catch_up.count_after(taken));
        self.shrink(slot, connections, fanout);
        is_done
    }

    /// Frees the state of a connection that has caught up with everything.
    pub(super) fn shrink(&mut self, slot: u32, connections: &mut Connections, fanout: &mut Fanout) {
        if connections.catch_up(slot).is_some_and(|catch_up| catch_up.is_empty()) {
            self.forget(slot, connections, fanout);
        }
    }

    /// A connection does not catch up with anything any more. If its state is large, it is freed in the turns to come.
    pub(super) fn forget(&mut self, slot: u32, connections: &mut Connections, fanout: &mut Fanout) {
        let Some(Connection { hot, cold, .. }) = connections.get(slot) else {
            return;
        };
        fanout.outgoing_mut().note_catching_up(hot, false);
        let extra = cold.extra.as_mut();
        if let Some(catch_up) = extra.and_then(|extra| extra.catch_up.take()) {
            fanout
                .outgoing_mut()
                .count_catch_up(-i64::try_from(catch_up.counted_bytes()).unwrap_or(i64::MAX));
            let mut drop = catch_up.into_deferred_drop();
            if drop.free(fanout.outgoing_mut().numbers_mut(), FREED_AT_ONCE) == FREED_AT_ONCE {
                self.drops.push_back(drop);
            }
        }
        cold.shrink();
    }
}

/// See [`Recovery::schedule`](super::Recovery::schedule).
pub(super) fn schedule(slot: u32, connections: &mut Connections, fanout: &mut Fanout) {
    if !connections.hot(slot).flags.has(Flags::CATCH_UP) {
        return;
    }
    let progress = fanout.progress();
    if let Some(Connection { hot, cold, .. }) = connections.get(slot)
        && let Some(catch_up) = cold.catch_up()
        && catch_up.schedule(progress, |count| hot.outbox.take_sequences(count))
    {
        let outgoing = fanout.outgoing_mut();
        outgoing.count_catch_up(catch_up.count());
        outgoing.mark_dirty(slot, hot);
    }
}
