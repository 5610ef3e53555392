//! A shard without sockets, clock or threads: bytes in, slices out.
//!
//! Invariants: an event reaches a connection iff the connection holds a matching pattern that it joined before the
//! event was published, and once, or its loss is told; a session ends with exactly one
//! [`Disconnect`](tickgate_protocol::disconnect::Disconnect); whoever is gone is forgotten by every list (a name carries a
//! generation, a stale one names nobody).
//!
//! # How to drive it
//!
//! Each turn begins with [`ShardCore::begin_turn`]. Then inputs, in any order, each with the time:
//!
//! * [`ShardCore::adopt`], then [`ShardCore::on_bytes`] for each read while [`ShardCore::wants_input`], and
//!   [`ShardCore::on_end_of_input`] or [`ShardCore::on_socket_error`];
//! * [`ShardCore::on_message`] for each message of the mailbox;
//! * [`ShardCore::deliver`] to take events out of the inbox into outboxes;
//! * [`ShardCore::retry_parked`] when the doorbell rang, [`ShardCore::run_timers`] when [`ShardCore::next_timer_ms`] has come.
//!
//! Then outputs:
//!
//! * for each [`ShardCore::next_dirty`]: [`ShardCore::pending`], write, [`ShardCore::sent`], until it is
//!   [`Sent::Drained`] or the socket takes no more ([`ShardCore::blocked`], later [`ShardCore::writable`]);
//! * [`ShardCore::serve_polls`] answers the polls of sessions without a socket;
//! * each [`ShardCore::next_action`] is carried out, before anything is written: one of them must come first on its socket;
//! * [`ShardCore::update_stats`] once a turn; [`ShardCore::is_finished`] says that a drain is done.
//!
//! Everything an input causes has happened when the call returns; nothing is left to a later call but what the
//! outputs say, and what is bounded per turn: [`ShardCore::has_turn_to_begin`] says that there is some of it.

mod catch_up;
mod closing;
mod delivery;
mod drain;
mod endpoint;
mod frames;
mod history;
mod input;
mod joins;
mod overflow;
mod polling;
mod query;
mod runs;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::Settings;
use super::catch_up::Progress;
use super::connection::{Cold, Flags, Hot, Stage};
use super::frame::Frame;
use super::outbox::Outbox;
use super::pool::Pool;
use super::slots::Slots;
use super::table::{NodeId, Table};
use super::timers::Timers;
use crate::auth::{Identity, TokenError};
use crate::broker::Broker;
use crate::event::NewEvent;
use crate::hub::{Inbox, Popped};
use crate::metrics::ShardMetrics;
use crate::session::{self, Context, Input, Outputs, Session};
use crate::shard::mailbox::{Adopt, ConnectionId, ConnectionPermit, Services, scramble};
use crate::time::Now;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::wire::{Decoder, Deflate, Inflater};

pub use delivery::Sent;
use endpoint::Endpoint;

/// A new connection, without its socket: [`Adopt`] for those who have none.
#[derive(Debug)]
pub struct Arrival {
    /// The endpoint's settings.
    pub settings: Arc<session::Settings>,
    /// How it was opened; see [`Adopt::engine_io`].
    pub engine_io: Option<session::Opening>,
    /// Who it is; see [`Adopt::identity`].
    pub identity: Result<Option<Arc<Identity>>, TokenError>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// Random bits.
    pub nonce: u64,
    /// What was agreed on compression.
    pub deflate: Option<Deflate>,
    /// Held while the connection lives.
    pub permit: Box<dyn ConnectionPermit>,
}

/// What the driver has to do to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read again: [`ShardCore::wants_input`] had been false.
    Resume(ConnectionId),
    /// All is flushed: shut down the writing side, go on reading.
    ShutDown(ConnectionId),
    /// The connection is gone: close the socket. Its name is stale already.
    Remove(ConnectionId),
    /// Close the socket; the connection lives on without one.
    Drop(ConnectionId),
    /// Write [`PROBE_ANSWER`] to the socket at once: nothing was written to it before, and nothing else may be before
    /// that.
    AnswerProbe(ConnectionId),
}

/// The frame that answers a probe.
pub const PROBE_ANSWER: &[u8] = b"\x81\x063probe";

/// A publish that waits for a credit. It is published even when its connection has gone meanwhile.
struct Parked {
    from: ConnectionId,
    request: u32,
    event: NewEvent,
}

/// Outboxes' common ground, apart from the connections themselves so that both can be borrowed.
#[derive(Default)]
struct Outgoing {
    pool: Pool,
    dirty: VecDeque<u32>,
    // The same, of connections that are polled.
    polls: VecDeque<u32>,
    event_frames: u64,
    event_bytes: u64,
    // Connections with `Flags::CATCH_UP`.
    catching_up: u64,
    // An outbox that is not blocked is half full.
    is_pressed: bool,
}

/// One shard; see the module's docs.
pub struct ShardCore {
    settings: Settings,
    inbox: Inbox,
    services: Arc<dyn Services>,
    broker: Arc<dyn Broker>,
    stats: Arc<ShardMetrics>,

    hot: Slots<Hot>,
    cold: Slots<Option<Cold>>,
    vacant: Vec<u32>,
    // Slots ever taken: `0..slots`.
    slots: u32,
    connections: usize,
    endpoints: Vec<Endpoint>,
    table: Table,
    timers: Timers,
    outgoing: Outgoing,
    // Connections with a half-received message.
    assembling: Vec<u32>,
    assembly_bytes: usize,
    parked: VecDeque<Parked>,
    actions: VecDeque<Action>,
    drain: Option<drain::Drain>,
    entropy: u64,
    event_number: u32,

    // The turn: when it began, its number, and what is left of its bounds.
    now: Now,
    turn: u32,
    pages_left: u32,
    // Connections that read on in the next turn.
    catching: VecDeque<ConnectionId>,
    // Channels that were read up to where the inbox is not yet.
    settling: VecDeque<catch_up::Settling>,
    // Connections to be ended as slow consumers.
    too_slow: Vec<ConnectionId>,
    // How far it has come with its inbox.
    progress: Progress,
    // Joins that wait for the next turn.
    joins: joins::Joins,

    // Reused, empty between calls.
    scratch: Scratch,
    inflater: Inflater,
    outputs: Outputs,
    batch: Vec<session::Output>,
    nodes: Vec<NodeId>,
    next_nodes: Vec<NodeId>,
    run: Vec<Popped>,
    due: Vec<u32>,
    page: Vec<Rc<Frame>>,
    poll_scratch: Vec<u8>,
}

impl ShardCore {
    /// A shard without connections.
    #[must_use]
    pub fn new(
        settings: Settings,
        inbox: Inbox,
        services: Arc<dyn Services>,
        broker: Arc<dyn Broker>,
        stats: Arc<ShardMetrics>,
        now: Now,
    ) -> Self {
        Self {
            settings,
            inbox,
            services,
            broker,
            stats,
            hot: Slots::new(),
            cold: Slots::new(),
            vacant: Vec::new(),
            slots: 0,
            connections: 0,
            endpoints: Vec::new(),
            table: Table::new(),
            timers: Timers::new(now.mono_ms),
            outgoing: Outgoing::default(),
            assembling: Vec::new(),
            assembly_bytes: 0,
            parked: VecDeque::new(),
            actions: VecDeque::new(),
            drain: None,
            entropy: 0,
            event_number: 0,
            now,
            turn: 1,
            pages_left: catch_up::PAGES,
            catching: VecDeque::new(),
            settling: VecDeque::new(),
            too_slow: Vec::new(),
            progress: Progress::default(),
            joins: joins::Joins::new(&settings),
            scratch: Scratch::default(),
            inflater: Inflater::default(),
            outputs: Outputs::default(),
            batch: Vec::new(),
            nodes: Vec::new(),
            next_nodes: Vec::new(),
            run: Vec::new(),
            due: Vec::new(),
            page: Vec::new(),
            poll_scratch: Vec::new(),
        }
    }

    /// Takes a connection in. Bytes that came with it are its first [`ShardCore::on_bytes`].
    pub fn adopt(&mut self, arrival: Arrival, now: Now) -> ConnectionId {
        let Arrival {
            settings,
            engine_io,
            identity,
            address,
            nonce,
            deflate,
            permit,
        } = arrival;
        let slot = self.take_slot();
        self.entropy = scramble(self.entropy ^ nonce);
        let endpoint = self.endpoint(&settings, deflate);
        let hot = &mut self.hot[slot];
        if hot.generation == 0 {
            // Begins at random, so that a name from before a restart is hardly anybody's.
            hot.generation = (scramble(nonce) as u32).max(1);
        }
        let id = ConnectionId {
            shard: self.settings.shard,
            slot,
            generation: hot.generation,
        };
        *hot = Hot {
            outbox: Outbox::default(),
            generation: hot.generation,
            stamp: hot.stamp,
            endpoint,
            stage: Stage::Open,
            ..Hot::default()
        };
        if engine_io.as_ref().is_some_and(|opening| opening.by_poll) {
            hot.flags.set(Flags::POLLING | Flags::BLOCKED);
            self.stats.polling.add(1);
        }
        self.cold[slot] = Some(Cold {
            decoder: decoder(settings.limits.message_bytes, deflate),
            session: match engine_io {
                Some(opening) => Session::engine_io(id.public_bits(), opening, now, &settings),
                None => Session::new(id.public_bits(), identity, now, &settings),
            },
            permit,
            extra: None,
            address,
            input_bytes: 0,
            assembly_place: 0,
            deadline_ms: 0,
        });
        self.connections += 1;
        self.stats.connections.add(1);
        self.stats.connections_total.bump(1);
        self.handle(slot, Input::Opened, now);
        self.carry_out(slot, now);
        if self.drain.is_some() {
            self.drain_latecomer(slot, now);
        }
        id
    }

    /// Whether the driver may read from this connection.
    #[must_use]
    pub fn wants_input(&self, id: ConnectionId) -> bool {
        self.slot(id)
            .is_some_and(|slot| !self.hot[slot].flags.has(Flags::PAUSED))
    }

    /// Whether this connection's session is over.
    #[must_use]
    pub fn is_closing(&self, id: ConnectionId) -> bool {
        self.slot(id).is_some_and(|slot| self.hot[slot].stage != Stage::Open)
    }

    /// Connections that are not gone.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.connections
    }

    /// What the driver has to do next.
    pub fn next_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let Action::Remove(id) = action {
            // Only now may the slot be taken again: the driver still had a socket under its number.
            self.vacant.push(id.slot);
        }
        Some(action)
    }

    /// Frames in all outboxes, events and replies.
    #[must_use]
    pub const fn queued_frames(&self) -> usize {
        self.outgoing.pool.used()
    }

    /// Events waiting in the inbox.
    #[must_use]
    pub fn waiting_events(&self) -> usize {
        self.inbox.len()
    }

    /// Writes the gauges that need not be exact between turns.
    pub fn update_stats(&self) {
        let stats = &self.stats;
        stats.subscriptions.set(signed(self.table.subscriptions()));
        stats.pending_frames.set(signed(self.outgoing.event_frames));
        stats.pending_bytes.set(signed(self.outgoing.event_bytes));
        stats.catching_up.set(signed(self.outgoing.catching_up));
        stats.waiting_subscribes.set(signed(self.joins.len() as u64));
        stats.inbox.set(signed(self.inbox.len() as u64));
    }

    /// The slot of a connection that is not gone.
    fn slot(&self, id: ConnectionId) -> Option<u32> {
        let hot = self.hot.get(id.slot)?;
        let named = id.shard == self.settings.shard && hot.generation == id.generation && hot.stage != Stage::Vacant;
        named.then_some(id.slot)
    }

    fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId {
            shard: self.settings.shard,
            slot,
            generation: self.hot[slot].generation,
        }
    }

    fn take_slot(&mut self) -> u32 {
        self.vacant.pop().unwrap_or_else(|| {
            let slot = self.slots;
            self.slots += 1;
            self.hot.reserve(slot);
            self.cold.reserve(slot);
            slot
        })
    }

    /// Hands an input to a session; its outputs wait for [`ShardCore::carry_out`].
    fn handle(&mut self, slot: u32, input: Input<'_>, now: Now) {
        let hot = &self.hot[slot];
        if let Some(cold) = &mut self.cold[slot] {
            let context = Context {
                now,
                settings: &self.endpoints[usize::from(hot.endpoint)].settings,
                delivered: hot.delivered,
                dropped: hot.dropped.into(),
            };
            cold.session
                .handle(input, &context, &mut self.scratch, &mut self.outputs);
        }
    }

    /// Random bits that only the arrivals' nonces decide.
    fn random(&mut self) -> u64 {
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.entropy)
    }
}

impl Arrival {
    /// Parts a socket from the connection it carries. The unread bytes are not in either: take them out before.
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
        (adopt.socket, arrival)
    }
}

/// What reads a client's frames.
const fn decoder(message_bytes_max: u32, deflate: Option<Deflate>) -> Decoder {
    let decoder = Decoder::new(message_bytes_max);
    if deflate.is_some() {
        decoder.with_deflate()
    } else {
        decoder
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
