//! A shard without sockets, clock or threads: bytes in, slices out.
//!
//! Invariants: an event reaches a connection exactly once if the connection holds a matching pattern that it joined before
//! the event was published, or the client is told of the loss; no other connection gets it. A session ends with exactly one
//! [`Disconnect`](tickgate_protocol::disconnect::Disconnect). A removed connection is found by nothing: an id carries a
//! generation, and a stale id finds no connection.
//!
//! # Owners
//!
//! [`ShardCore`] only puts the calls of its owners in order. Each owner has its own state and invariants:
//!
//! | owner | what it has |
//! |---|---|
//! | `connections` | the records of connections, their slots, endpoints, timers, and the budget of half-received messages |
//! | `sessions` | the memory that sessions share while they handle an input |
//! | `fanout` | the inbox, the subscription table, runs and frames of events, and what outboxes share |
//! | `recovery` | subscribe requests, what connections catch up with, and pages of history |
//! | `joins` | subscribe requests that wait until the hub is current |
//! | `publishing` | the events of clients that are on their way, or wait for room |
//! | `polling` | the bodies of answers for sessions without a socket |
//! | `control` | the actions for the driver, and the drain |
//! | `journal` | the log lines about connections |
//! | `shedding` | what is given up when all clients together hold too much memory |
//! | `bandwidth` | the limits of bytes in a second |
//! | `traces` | what operators follow for a limited time |
//! | `troubles` | who reads too slowly or sends too fast, and why clients left, for operators |
//!
//! # How to drive it
//!
//! Each turn begins with [`ShardCore::begin_turn`]. Then come the inputs, in any order, each with the time:
//!
//! * [`ShardCore::adopt`], then [`ShardCore::on_bytes`] for each read while [`ShardCore::wants_input`], and
//!   [`ShardCore::on_end_of_input`] or [`ShardCore::on_socket_error`];
//! * [`ShardCore::on_message`] for each message of the mailbox;
//! * [`ShardCore::deliver`] to take events out of the inbox into outboxes;
//! * [`ShardCore::retry_parked`] when the doorbell has rung, and [`ShardCore::run_timers`] when
//!   [`ShardCore::next_timer_ms`] has come.
//!
//! Then come the outputs:
//!
//! * each [`ShardCore::next_action`] is carried out before anything is written, since an action may have to come first on
//!   its socket;
//! * for each [`ShardCore::next_dirty`]: [`ShardCore::pending`], write, [`ShardCore::sent`], until it returns
//!   [`Sent::Drained`] or the socket takes no more ([`ShardCore::blocked`], later [`ShardCore::writable`]);
//! * [`ShardCore::serve_polls`] answers the polls of sessions without a socket;
//! * [`ShardCore::update_gauges`] once a turn. [`ShardCore::is_finished`] tells when a drain is done.
//!
//! When a call returns, everything that its input causes has happened, except for what the outputs say and for work that is
//! bounded per turn. If there is such work, [`ShardCore::has_turn_to_begin`] returns `true`.

mod bandwidth;
mod connections;
mod control;
mod fanout;
mod input;
mod joins;
mod journal;
mod output;
mod polling;
mod publishing;
mod recovery;
mod sessions;
mod shedding;
mod suspending;
#[cfg(test)]
mod tests;
mod traces;
mod troubles;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Settings;
use super::connection::{Flags, Stage};
use crate::auth::{Identity, TokenError};
use crate::broker::Broker;
use crate::hub::Inbox;
use crate::metrics::ShardMetrics;
use crate::session::{self, Input};
use crate::shard::mailbox::{Adopt, ConnectionId, ConnectionPermit, Services};
use crate::suspended::SuspendedSessions;
use crate::time::Now;
use tickgate_protocol::wire::Deflate;

use bandwidth::Bandwidth;
use connections::Connections;
use control::Control;
use fanout::Fanout;
use joins::Joins;
use journal::Journal;
pub use output::Sent;
use polling::Polling;
use publishing::Publishing;
use recovery::Recovery;
use sessions::Sessions;
use shedding::Shedding;
use traces::Traces;
use troubles::Troubles;

/// A new connection without its socket; see [`Adopt`].
#[derive(Debug)]
pub struct Arrival {
    /// The endpoint's settings.
    pub settings: Arc<session::Settings>,
    /// How an Engine.IO session was opened; see [`Adopt::engine_io`].
    pub engine_io: Option<session::Opening>,
    /// The client's identity; see [`Adopt::identity`].
    pub identity: Result<Option<Arc<Identity>>, TokenError>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// Random bits.
    pub nonce: u64,
    /// The compression that was negotiated.
    pub deflate: Option<Deflate>,
    /// Held until the connection is removed.
    pub permit: Box<dyn ConnectionPermit>,
}

/// What the driver has to do with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read again: [`ShardCore::wants_input`] has been false.
    Resume(ConnectionId),
    /// Everything is flushed: shut down the writing side, and go on reading.
    ShutDown(ConnectionId),
    /// The connection is removed: close the socket. The id is stale already.
    Remove(ConnectionId),
    /// Close the socket. The connection lives on without it.
    Drop(ConnectionId),
    /// Write [`PROBE_ANSWER`] to the socket at once. Nothing was written to it before, and nothing else may be written to it
    /// before that.
    AnswerProbe(ConnectionId),
}

/// The frame that answers a probe.
pub const PROBE_ANSWER: &[u8] = b"\x81\x063probe";

/// One shard; see the module's docs.
pub struct ShardCore {
    services: Arc<dyn Services>,
    metrics: Arc<ShardMetrics>,
    // When the turn began.
    now: Now,
    connections: Connections,
    sessions: Sessions,
    fanout: Fanout,
    recovery: Recovery,
    joins: Joins,
    publishing: Publishing,
    polling: Polling,
    control: Control,
    journal: Journal,
    shedding: Shedding,
    troubles: Troubles,
    bandwidth: Bandwidth,
    traces: Traces,
    suspended: Arc<SuspendedSessions>,
    broker: Arc<dyn Broker>,
}

impl ShardCore {
    /// A shard without connections.
    #[must_use]
    pub fn new(
        settings: Settings,
        inbox: Inbox,
        services: Arc<dyn Services>,
        broker: Arc<dyn Broker>,
        metrics: Arc<ShardMetrics>,
        now: Now,
    ) -> Self {
        let shedding = Shedding::new(services.budget());
        Self {
            shedding,
            now,
            connections: Connections::new(&settings, inbox.epoch(), metrics.clone(), now),
            sessions: Sessions::new(metrics.clone()),
            fanout: Fanout::new(inbox, metrics.clone(), now),
            recovery: Recovery::new(&settings, metrics.clone()),
            joins: Joins::new(Arc::clone(&broker)),
            publishing: Publishing::new(Arc::clone(&broker)),
            broker,
            polling: Polling::default(),
            control: Control::default(),
            journal: Journal::new(now),
            troubles: Troubles::default(),
            bandwidth: Bandwidth::default(),
            traces: Traces::default(),
            suspended: services.suspended(),
            services,
            metrics,
        }
    }

    /// Takes in a connection. Bytes that came with it are its first [`ShardCore::on_bytes`].
    pub fn adopt(&mut self, mut arrival: Arrival, now: Now) -> ConnectionId {
        self.control.add_entropy(arrival.nonce);
        if let Ok(Some(identity)) = &arrival.identity
            && self.services.is_revoked(identity)
        {
            arrival.identity = Err(TokenError::revoked());
        }
        let slot = self.connections.insert(arrival, self.fanout.inbox(), now);
        let id = self.connections.id(slot);
        Journal::opened(&self.connections, slot);
        if let Some(cold) = self.connections.cold_mut(slot) {
            cold.permit.adopted(id);
        }
        self.handle(slot, Input::Opened, now);
        self.carry_out(slot, now);
        self.drain_latecomer(slot, now);
        if self.traces.is_active() {
            self.mark_traced(slot, now);
        }
        id
    }

    /// Begins a turn. Connections that wait to read on from the hub, and subscribe requests that wait, get their share.
    pub fn begin_turn(&mut self, now: Now) {
        self.now = now;
        self.fanout.begin_turn(now);
        self.journal.report(now);
        self.fanout.read_head(now);
        self.note_head();
        self.end_waits(now);
        self.recovery.begin_turn(&mut self.connections, &mut self.fanout);
        self.end_too_slow();
        self.keep_budget(now);
        self.resume_subscribes(now);
    }

    /// Whether [`ShardCore::begin_turn`] has something to do.
    #[must_use]
    pub fn has_turn_to_begin(&self) -> bool {
        self.fanout.outgoing().has_too_slow()
            || self.fanout.has_due_values()
            || self.recovery.has_turn_to_begin(self.fanout.inbox().position())
    }

    /// Whether there is work for the next turn that can wait: of connections that ask for more than their share.
    #[must_use]
    pub fn has_slow_work(&self) -> bool {
        self.recovery.has_slow_work()
    }

    /// When the next turn has to begin for subscribe requests that wait because of their cost, for the hub to be current, for
    /// values that wait because of a rate, or for connections that have used up their bytes, in monotonic milliseconds; `None`:
    /// there are none.
    #[must_use]
    pub fn next_turn_ms(&self) -> Option<u64> {
        let times = [
            self.recovery.next_slow_ms(),
            self.joins.next_ms(),
            self.fanout.next_period_end_ms(),
            self.bandwidth.next_ms(),
        ];
        times.into_iter().flatten().min()
    }

    /// Whether values are due that have waited because of a rate.
    #[must_use]
    pub fn has_due_values(&self, now: Now) -> bool {
        let end_ms = self.fanout.next_period_end_ms();
        self.fanout.has_due_values() || end_ms.is_some_and(|end_ms| end_ms <= now.mono_ms)
    }

    /// Takes at most `limit` events out of the inbox into the outboxes of their subscribers; returns how many. Before that,
    /// it queues the values that were due when the turn began.
    ///
    /// It takes fewer if they have very many subscribers, or if an outbox becomes half full that has yet to be offered to
    /// its socket ([`ShardCore::is_pressed`]). So a burst waits in the inbox, where it slows its publishers down, instead of
    /// overflowing the outbox of a client that reads.
    pub fn deliver(&mut self, limit: usize) -> usize {
        let mut delivery = self.fanout.begin(&self.connections, limit);
        self.fanout.end_periods(&mut delivery, &mut self.connections);
        while let Some(index) = self.fanout.take_run(&delivery, &self.connections) {
            self.recovery
                .settle(index, self.now, &mut self.connections, &mut self.fanout);
            if self.traces.has_channels() {
                self.trace_run();
            }
            self.fanout.deliver_run(&mut delivery, &mut self.connections);
            // Before the next run, a shorter event of which might fit into the outbox again.
            self.end_too_slow();
        }
        let count = self.fanout.finish(delivery);
        self.note_head();
        let position = self.fanout.inbox().position();
        self.recovery
            .settle(position, self.now, &mut self.connections, &mut self.fanout);
        count
    }

    // Replies and control messages carry it.
    fn note_head(&mut self) {
        let fanout = &self.fanout;
        self.connections
            .note_head(fanout.inbox().epoch(), fanout.head(), *fanout.delivered());
    }

    /// When the first measured event was published of those that were delivered since the last call, by
    /// [`monotonic_us`](crate::time::monotonic_us).
    pub fn take_measured_us(&mut self) -> Option<u32> {
        self.fanout.take_measured_us()
    }

    /// Whether the last [`ShardCore::deliver`] stopped because what it queued must be written first.
    #[must_use]
    pub const fn is_pressed(&self) -> bool {
        self.fanout.outgoing().is_pressed()
    }

    /// Whether the driver may read from this connection.
    #[must_use]
    pub fn wants_input(&self, id: ConnectionId) -> bool {
        let slot = self.connections.slot(id);
        slot.is_some_and(|slot| !self.connections.hot(slot).flags.has(Flags::PAUSED))
    }

    /// Whether this connection's session has ended.
    #[must_use]
    pub fn is_closing(&self, id: ConnectionId) -> bool {
        let slot = self.connections.slot(id);
        slot.is_some_and(|slot| self.connections.hot(slot).stage != Stage::Open)
    }

    /// Connections that are not removed.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.connections.len()
    }

    /// What the driver has to do next.
    pub fn next_action(&mut self) -> Option<Action> {
        let action = self.control.next_action()?;
        if let Action::Remove(id) = action {
            // Only from now on may the slot be taken again: until now the driver had a socket under its number.
            self.connections.release(id.slot);
        }
        Some(action)
    }

    /// Frames in all outboxes, events and replies.
    #[must_use]
    pub const fn queued_frames(&self) -> usize {
        self.fanout.outgoing().queued_frames()
    }

    /// Events that wait in the inbox.
    #[must_use]
    pub fn waiting_events(&self) -> usize {
        self.fanout.inbox().len()
    }

    /// Writes the gauges that need not be exact within a turn.
    pub fn update_gauges(&self) {
        self.fanout.update_gauges();
        self.recovery.update_gauges();
    }
}

impl Arrival {
    /// Splits a connection from its socket. The unread bytes are in neither part: take them out first.
    #[must_use]
    pub fn split(adopt: Adopt) -> (OwnedFd, Self) {
        let arrival = Self {
            settings: adopt.settings,
            engine_io: adopt.engine_io,
            identity: adopt.identity,
            address: adopt.address,
            nonce: adopt.nonce,
            deflate: adopt.deflate,
            permit: adopt.permit,
        };
        (adopt.socket.claim(), arrival)
    }
}
