//! What a client gets that was published earlier: subscribe requests, catching up, and history pages.
//!
//! Invariant: the work of one turn is bounded, whatever clients ask for. Subscribe requests take [`Steps`], and reading
//! from the hub takes pages ([`Reading`]).
//!
//! What is looked at and read is charged to the connection and to its user or address; whoever has overdrawn an account
//! waits in the slow lane ([`Budgets`]).
//!
//! Per file: `request` and `subscribe` (a subscribe request until its answer), `outcome` (what the answer says of each channel),
//! `catch_ups` (the catch-up state of connections), `pages` (reading it from the hub), `history` (one page of a channel on
//! request), `steps` (the bound on the work of one turn), `budgets` (who pays for it), `slow_lane` (requests that wait).

mod budgets;
mod catch_ups;
pub(super) mod history;
mod outcome;
mod pages;
mod request;
mod slow_lane;
mod steps;
mod subscribe;

use std::sync::Arc;

use super::connections::Connections;
use super::fanout::Fanout;
use crate::metrics::ShardMetrics;
use crate::session::Input;
use crate::shard::Settings;
use crate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::rate::Rate;

use budgets::Budgets;
use catch_ups::CatchUps;
use pages::Reading;
pub(super) use request::Request;
use slow_lane::SlowLane;
use steps::Steps;
use subscribe::Subscribes;

/// Subscribing, catching up and history of all connections; see the module's docs.
pub(super) struct Recovery {
    steps: Steps,
    budgets: Budgets,
    slow: SlowLane,
    subscribes: Subscribes,
    catch_ups: CatchUps,
    reading: Reading,
    metrics: Arc<ShardMetrics>,
}

/// A subscribe request was taken one step further.
pub(super) struct Step {
    /// The connection's slot.
    pub(super) slot: u32,
    /// The answer for its session; `None`: there is none yet.
    pub(super) answer: Option<Input<'static>>,
}

impl Recovery {
    /// Without requests and channels to read.
    pub(super) fn new(settings: &Settings, metrics: Arc<ShardMetrics>) -> Self {
        Self {
            steps: Steps::new(settings.subscribe_steps as usize),
            budgets: Budgets::new(settings.scan_budget),
            slow: SlowLane::default(),
            subscribes: Subscribes::default(),
            catch_ups: CatchUps::new(metrics.clone()),
            reading: Reading::new(metrics.clone()),
            metrics,
        }
    }

    /// Begins a turn: the connections that wait to read on from the hub are marked dirty.
    pub(super) fn begin_turn(&mut self, connections: &mut Connections, fanout: &mut Fanout) {
        self.reading.begin_turn(connections, fanout);
    }

    /// Whether there is work for the next turn, with the inbox at `position`.
    pub(super) fn has_turn_to_begin(&self, position: u64) -> bool {
        self.reading.is_waited_for() || self.has_requests(position)
    }

    /// Whether there is work for the next turn of connections that have overdrawn an account.
    pub(super) fn has_slow_work(&self) -> bool {
        self.slow.is_ready() || self.reading.is_slow_waited_for()
    }

    /// Whether there are steps to take in the next turn, with the inbox at `position`.
    pub(super) fn has_requests(&self, position: u64) -> bool {
        self.subscribes.has_work(position) || self.catch_ups.has_drops() || self.slow.is_ready()
    }

    /// After how many milliseconds a connection may ask for a history again; `None`: at once.
    pub(super) fn history_wait_ms(&mut self, slot: u32, connections: &Connections, now: Now) -> Option<u32> {
        let payers = self.budgets.payers(slot, connections);
        self.budgets.wait_ms(payers, now)
    }

    /// Charges a connection for reading events of this many bytes.
    pub(super) fn charge_events(
        &mut self,
        slot: u32,
        bytes: impl Iterator<Item = usize>,
        connections: &Connections,
        now: Now,
    ) {
        let steps = bytes.map(budgets::event_steps).sum();
        self.charge(slot, steps, connections, now);
    }

    fn charge(&mut self, slot: u32, steps: usize, connections: &Connections, now: Now) {
        if steps > 0 {
            let payers = self.budgets.payers(slot, connections);
            self.budgets.charge(payers, steps, now);
        }
    }

    /// Prepares the next `limit` frames of a connection that catches up: removes those that are read instead, and reads
    /// what is due. Returns the position from which on nothing may be written yet.
    pub(super) fn read_ahead(
        &mut self,
        slot: u32,
        limit: usize,
        now: Now,
        connections: &mut Connections,
        fanout: &mut Fanout,
    ) -> Option<u32> {
        let budgets = &mut self.budgets;
        let steps = self.reading.read_due(slot, limit, now, budgets, connections, fanout)?;
        self.charge(slot, steps, connections, now);
        self.catch_ups.shrink(slot, connections, fanout);
        self.reading.next_due(slot, now, &mut self.budgets, connections, fanout)
    }

    /// The inbox is at `position`: the channels that were read up to there get their live events again.
    pub(super) fn settle(&mut self, position: u64, now: Now, connections: &mut Connections, fanout: &mut Fanout) {
        while let Some(slot) = self.reading.settle_next(position, connections, fanout) {
            if (connections.catch_up(slot)).is_some_and(|catch_up| catch_up.reports(0, position))
                && let Some(connection) = connections.get(slot)
            {
                fanout.tell_cursor(connection, now);
                fanout.outgoing_mut().mark_dirty(slot, connections.hot_mut(slot));
            }
            self.catch_ups.shrink(slot, connections, fanout);
        }
    }

    /// Gives channels that were just subscribed their positions behind what is queued by now, which is the answer to the
    /// request.
    pub(super) fn schedule(&mut self, slot: u32, connections: &mut Connections, fanout: &mut Fanout) {
        catch_ups::schedule(slot, connections, fanout);
    }

    /// A connection does not catch up with anything any more.
    pub(super) fn forget(&mut self, slot: u32, connections: &mut Connections, fanout: &mut Fanout) {
        self.catch_ups.forget(slot, connections, fanout);
    }

    /// Writes the gauges that need not be exact within a turn.
    pub(super) fn update_gauges(&self) {
        let waiting = i64::try_from(self.subscribes.len() + self.slow.len()).unwrap_or(i64::MAX);
        self.metrics.waiting_subscribes.set(waiting);
    }

    /// Steps taken in this turn.
    #[cfg(test)]
    pub(super) const fn steps_taken(&self) -> usize {
        self.steps.taken()
    }

    /// Gives patterns of a connection another rate; `None`: no limit. What waits for the connection is queued before.
    pub(super) fn set_rate(
        &mut self,
        slot: u32,
        patterns: &[Pattern],
        max_rate: Option<Rate>,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) {
        let steps = fanout.release(slot, connections);
        fanout.set_paces(slot, patterns, connections.pace(slot, max_rate));
        self.charge(slot, steps, connections, now);
    }

    // Takes patterns from a connection, and from what it catches up with.
    fn give_back(&mut self, slot: u32, patterns: &[Pattern], connections: &mut Connections, fanout: &mut Fanout) {
        let is_left = |held: &Pattern| !patterns.contains(held) && patterns.iter().any(|left| left.intersects(held));
        if fanout.table().is_paced(slot) && fanout.table().held(slot).any(is_left) {
            fanout.release(slot, connections);
        }
        fanout.unsubscribe(slot, patterns);
        if fanout.table().is_paced(slot) {
            fanout.table_mut().compare_paces(slot);
        }
        self.catch_ups.leave(slot, connections, fanout);
    }
}
