//! The connections of a shard: records, slots, endpoints, timers, and the budget of half-received messages.
//!
//! Invariants: a slot has a cold record exactly while its stage is not [`Stage::Vacant`]. The generation of a slot changes
//! whenever its connection is removed, so a stale [`ConnectionId`] finds no connection. A slot is taken again only after
//! the driver has closed the socket that was stored under its number. No hot record carries the stamp that
//! [`Connections::next_stamp`] returns next.
//!
//! Per file: `endpoints` (what the connections of one endpoint share), `deadlines` (the timers), `assembly` (the budget), `traffic` (bytes).

mod assembly;
mod deadlines;
mod endpoints;
mod traffic;

use std::ops::Range;
use std::sync::Arc;

use super::Arrival;
use crate::hub::{Inbox, STRIPES};
use crate::metrics::ShardMetrics;
use crate::session::{Context, Session};
use crate::shard::Settings;
use crate::shard::catch_up::CatchUp;
use crate::shard::connection::{Cold, Flags, Hot, Stage};
use crate::shard::mailbox::{ConnectionId, scramble};
use crate::shard::pace::Pace;
use crate::shard::slots::Slots;
use crate::shard::timers::Timers;
use crate::time::Now;
use tickgate_protocol::event::Epoch;
use tickgate_protocol::message::{Beyond, Cursor};
use tickgate_protocol::rate::Rate;
use tickgate_protocol::wire::{Decoder, Deflate};

use assembly::Assembly;
pub(super) use deadlines::Deadline;
pub(super) use endpoints::{ENVELOPE_BYTES_MAX, Endpoint, Endpoints};
use traffic::Traffic;

/// All connections of a shard; see the module's docs.
pub(super) struct Connections {
    shard: u16,
    hot: Slots<Hot>,
    cold: Slots<Option<Cold>>,
    // Apart from the other records, because a flush touches nothing else of them.
    traffic: Slots<Traffic>,
    // Slots that can be taken again.
    vacant: Vec<u32>,
    // The slots `0..slots` have been taken at least once.
    slots: u32,
    // Connections that are not removed.
    count: usize,
    // The last stamp that was handed out.
    stamp: u32,
    endpoints: Endpoints,
    timers: Timers,
    // Reused by `expire`.
    due: Vec<u32>,
    assembly: Assembly,
    closing_ms: u32,
    closing_bytes: u32,
    // When the shard last went on after a pause; 0: never.
    resumed_ms: u64,
    // The store, the version up to which the shard has delivered everything, and by stripe the newest that it delivered.
    epoch: Epoch,
    head: u64,
    delivered: [u64; STRIPES],
    metrics: Arc<ShardMetrics>,
}

/// One connection that is not removed, borrowed.
pub(super) struct Connection<'c> {
    pub(super) id: ConnectionId,
    pub(super) hot: &'c mut Hot,
    pub(super) cold: &'c mut Cold,
    pub(super) endpoint: &'c Endpoint,
    resumed_ms: u64,
    epoch: Epoch,
    head: u64,
    delivered: &'c [u64; STRIPES],
}

/// A connection that gets an event. The cold record is looked up only when it is needed, since a delivery must not touch
/// its cache lines.
pub(super) struct Recipient<'c> {
    pub(super) hot: &'c mut Hot,
    pub(super) endpoint: &'c Endpoint,
    pub(super) cold: &'c mut Slots<Option<Cold>>,
}

impl Connections {
    /// A shard without connections.
    pub(super) fn new(settings: &Settings, epoch: Epoch, metrics: Arc<ShardMetrics>, now: Now) -> Self {
        Self {
            shard: settings.shard,
            hot: Slots::new(),
            cold: Slots::new(),
            traffic: Slots::new(),
            vacant: Vec::new(),
            slots: 0,
            count: 0,
            stamp: 0,
            endpoints: Endpoints::default(),
            timers: Timers::new(now.mono_ms),
            due: Vec::new(),
            assembly: Assembly::new(settings),
            closing_ms: settings.closing_ms,
            closing_bytes: settings.closing_bytes,
            resumed_ms: 0,
            epoch,
            head: 0,
            delivered: [0; STRIPES],
            metrics,
        }
    }

    /// Takes in a connection; returns its slot.
    pub(super) fn insert(&mut self, arrival: Arrival, inbox: &Inbox, now: Now) -> u32 {
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
        let endpoint = self.endpoints.enter(&settings, deflate, None, inbox, &self.metrics);
        let hot = &mut self.hot[slot];
        if hot.generation == 0 {
            // Random, so that an id from before a restart of the gateway hardly ever fits a connection.
            hot.generation = (scramble(nonce) as u32).max(1);
        }
        let id = hot.id(self.shard, slot);
        *hot = Hot {
            generation: hot.generation,
            stamp: hot.stamp,
            endpoint,
            stage: Stage::Open,
            ..Hot::default()
        };
        if engine_io.as_ref().is_some_and(|opening| opening.by_poll) {
            hot.flags.set(Flags::POLLING | Flags::BLOCKED);
            self.metrics.polling.add(1);
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
            assembly_index: 0,
            deadline_ms: 0,
        });
        self.traffic[slot] = Traffic::default();
        self.count += 1;
        let tenant = settings.tenant;
        self.metrics.connections.add(1);
        self.metrics.tenant_connections[tenant.index()].add(1);
        self.metrics.connections_total.bump(1);
        slot
    }

    fn take_slot(&mut self) -> u32 {
        self.vacant.pop().unwrap_or_else(|| {
            let slot = self.slots;
            self.slots += 1;
            self.hot.reserve(slot);
            self.cold.reserve(slot);
            self.traffic.reserve(slot);
            slot
        })
    }

    /// Removes a connection, whose outbox must be empty. Its slot stays taken until [`Connections::release`].
    pub(super) fn remove(&mut self, slot: u32, inbox: &Inbox) {
        let tenant = self.endpoint(slot).settings.tenant;
        let hot = &mut self.hot[slot];
        hot.stage = Stage::Vacant;
        self.metrics.polling.add(-i64::from(hot.flags.has(Flags::POLLING)));
        hot.flags = Flags::default();
        hot.generation = hot.generation.wrapping_add(1).max(1);
        self.endpoints.leave(hot.endpoint, inbox, &self.metrics);
        self.timers.cancel(slot);
        self.cold[slot] = None;
        self.count -= 1;
        self.metrics.connections.add(-1);
        self.metrics.tenant_connections[tenant.index()].add(-1);
    }

    /// Lets the slot of a removed connection be taken again.
    pub(super) fn release(&mut self, slot: u32) {
        self.vacant.push(slot);
    }

    /// The session has ended: the stage is [`Stage::Flushing`] from now on. Returns whether input was paused.
    pub(super) fn begin_closing(&mut self, slot: u32, now: Now) -> bool {
        let hot = &mut self.hot[slot];
        hot.stage = Stage::Flushing;
        let was_paused = hot.flags.has(Flags::PAUSED);
        hot.flags.clear(Flags::PAUSED | Flags::GAP);
        if let Some(cold) = &mut self.cold[slot] {
            cold.deadline_ms = now.mono_ms + u64::from(self.closing_ms);
        }
        was_paused
    }

    /// Counts discarded input of a connection whose session has ended. Beyond the bound nothing more is read.
    pub(super) fn discard(&mut self, slot: u32, bytes: usize) {
        if let Some(cold) = &mut self.cold[slot] {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            cold.input_bytes = cold.input_bytes.saturating_add(bytes);
            if cold.input_bytes > self.closing_bytes {
                self.hot[slot].flags.set(Flags::PAUSED);
            }
        }
    }

    /// Connections that are not removed.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// The slots that have been taken at least once.
    pub(super) const fn slots(&self) -> Range<u32> {
        0..self.slots
    }

    /// The slot of a connection that is not removed.
    pub(super) fn slot(&self, id: ConnectionId) -> Option<u32> {
        let hot = self.hot.get(id.slot)?;
        let is_current = id.shard == self.shard && hot.generation == id.generation && hot.stage != Stage::Vacant;
        is_current.then_some(id.slot)
    }

    /// The slot of a connection whose session is alive.
    pub(super) fn open_slot(&self, id: ConnectionId) -> Option<u32> {
        self.slot(id).filter(|&slot| self.is_open(slot))
    }

    /// The id of the connection in a slot.
    pub(super) fn id(&self, slot: u32) -> ConnectionId {
        self.hot[slot].id(self.shard, slot)
    }

    /// Whether the session of a slot's connection is alive.
    pub(super) fn is_open(&self, slot: u32) -> bool {
        self.hot[slot].stage == Stage::Open
    }

    /// The connection in a slot.
    pub(super) fn get(&mut self, slot: u32) -> Option<Connection<'_>> {
        let cold = self.cold[slot].as_mut()?;
        let hot = &mut self.hot[slot];
        Some(Connection {
            id: hot.id(self.shard, slot),
            endpoint: self.endpoints.get(hot.endpoint),
            hot,
            cold,
            resumed_ms: self.resumed_ms,
            epoch: self.epoch,
            head: self.head,
            delivered: &self.delivered,
        })
    }

    /// The connection with an id, if its session is alive.
    pub(super) fn find_open(&mut self, id: ConnectionId) -> Option<Connection<'_>> {
        let slot = self.open_slot(id)?;
        self.get(slot)
    }

    /// The hot record of a slot.
    pub(super) fn hot(&self, slot: u32) -> &Hot {
        &self.hot[slot]
    }

    /// The hot record of a slot, to be changed.
    pub(super) fn hot_mut(&mut self, slot: u32) -> &mut Hot {
        &mut self.hot[slot]
    }

    /// The cold record of the connection in a slot.
    pub(super) fn cold(&self, slot: u32) -> Option<&Cold> {
        self.cold[slot].as_ref()
    }

    /// The cold record of the connection in a slot, to be changed.
    pub(super) fn cold_mut(&mut self, slot: u32) -> Option<&mut Cold> {
        self.cold[slot].as_mut()
    }

    /// The channels that the connection in a slot catches up with.
    pub(super) fn catch_up(&mut self, slot: u32) -> Option<&mut CatchUp> {
        self.cold[slot].as_mut()?.catch_up()
    }

    /// Whether the connection in a slot has channels left to read from the hub.
    pub(super) fn has_more_to_read(&mut self, slot: u32) -> bool {
        let catch_up = self.catch_up(slot);
        catch_up.is_some_and(|catch_up| catch_up.next_due().is_some())
    }

    /// The bytes that the connection in a slot holds: queued frames, which it may share with others, what it catches up
    /// with, and half-received messages.
    pub(super) fn held_bytes(&mut self, slot: u32) -> u64 {
        let queued = self.hot[slot].outbox.bytes();
        let input = self.cold[slot].as_ref().map_or(0, |cold| cold.input_bytes);
        let catch_up = self.catch_up(slot).map_or(0, |catch_up| catch_up.counted_bytes());
        queued + u64::from(input) + catch_up as u64
    }

    /// The endpoint of the connection in a slot.
    pub(super) fn endpoint(&self, slot: u32) -> &Endpoint {
        self.endpoints.get(self.hot[slot].endpoint)
    }

    /// The pace of the subscriptions of the connection in a slot that have this rate.
    pub(super) fn pace(&self, slot: u32, max_rate: Option<Rate>) -> Pace {
        let classes = &self.endpoint(slot).settings.classes;
        Pace::new(max_rate, classes.slowest_rate(), slot)
    }

    /// The endpoints.
    pub(super) const fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Whether the connection in a slot, whose socket is blocked, has more replies pending than its bounds allow. The bounds
    /// do not hold where the gateway waits for readers, and not for a session that has ended.
    pub(super) fn has_too_many_replies(&self, slot: u32) -> bool {
        let hot = &self.hot[slot];
        let endpoint = self.endpoints.get(hot.endpoint);
        hot.stage == Stage::Open && !endpoint.waits_for_readers() && hot.outbox.has_too_many_replies(&endpoint.bounds)
    }

    /// Notes the version up to which the shard has delivered everything, and by stripe the newest that it delivered.
    pub(super) const fn note_head(&mut self, epoch: Epoch, head: u64, delivered: [u64; STRIPES]) {
        (self.epoch, self.head, self.delivered) = (epoch, head, delivered);
    }

    /// Notes that an automatic subscription was skipped on the connection's endpoint; returns whether it was the first.
    pub(super) fn note_skipped(&mut self, slot: u32) -> bool {
        self.endpoints.note_skipped(self.hot[slot].endpoint)
    }

    /// A stamp that no connection carries. Stamps wrap after 2^32 events; then the stamps of the previous round are
    /// cleared.
    pub(super) fn next_stamp(&mut self) -> u32 {
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            for slot in 0..self.slots {
                self.hot[slot].stamp = 0;
            }
            self.stamp = 1;
        }
        self.stamp
    }

    /// Puts the stamp of an event on the connection in a slot. `None`: the connection carries the stamp already.
    #[inline]
    pub(super) fn stamp(&mut self, slot: u32, stamp: u32) -> Option<Recipient<'_>> {
        let hot = &mut self.hot[slot];
        if hot.stamp == stamp {
            return None;
        }
        hot.stamp = stamp;
        Some(Recipient {
            endpoint: self.endpoints.get(hot.endpoint),
            hot,
            cold: &mut self.cold,
        })
    }

    /// The connection in a slot if its session is alive and has an identity.
    pub(super) fn authenticated(&mut self, slot: u32) -> Option<Recipient<'_>> {
        let hot = &mut self.hot[slot];
        let is_authenticated = |cold: &Cold| cold.session.identity().is_some();
        if hot.stage != Stage::Open || !self.cold[slot].as_ref().is_some_and(is_authenticated) {
            return None;
        }
        Some(Recipient {
            endpoint: self.endpoints.get(hot.endpoint),
            hot,
            cold: &mut self.cold,
        })
    }
}

#[cfg(test)]
impl Connections {
    /// The last stamp that was handed out.
    pub(super) fn last_stamp(&mut self) -> &mut u32 {
        &mut self.stamp
    }

    /// The endpoints, to be changed.
    pub(super) fn endpoints_mut(&mut self) -> &mut Endpoints {
        &mut self.endpoints
    }
}

impl<'c> Connection<'c> {
    /// What the session may see while it handles an input.
    pub(super) fn context(&self, now: Now) -> Context<'c> {
        let endpoint = self.endpoint;
        let (cursor, beyond) = self.reached();
        Context {
            now,
            resumed_ms: self.resumed_ms,
            settings: &endpoint.settings,
            delivered: self.hot.delivered,
            dropped: self.hot.dropped.into(),
            cursor: (!self.hot.flags.has(Flags::GAP)).then_some(cursor),
            beyond,
        }
    }

    // Up to when everything was sent or is queued, or its loss was reported.
    fn reached(&self) -> (Cursor, Beyond<'c>) {
        let mut cursor = Cursor {
            epoch: self.epoch,
            holder: 0,
            version: self.head,
            owes_values: false,
        };
        let mut beyond = Beyond {
            delivered: self.delivered,
            up_to: u64::MAX,
            had: &[],
        };
        if self.hot.flags.has(Flags::CATCH_UP)
            && let Some(catch_up) = self.cold.extra.as_ref().and_then(|extra| extra.catch_up.as_ref())
        {
            beyond.up_to = catch_up.has_up_to().unwrap_or(u64::MAX);
            cursor.version = cursor.version.min(beyond.up_to);
            cursor.owes_values = catch_up.owes_values();
        }
        (cursor, beyond)
    }

    /// Whether the session takes input.
    ///
    /// No message is taken while the replies to earlier messages fill half of their bounds: until they were offered to the
    /// socket, it is unknown whether the client reads them. Once the socket is blocked, a client that goes on asking
    /// reaches the bound and is closed. Echo endpoints and connections with a limit of bytes wait until the client has read
    /// instead.
    pub(super) fn takes_input(&self) -> bool {
        let waits = (self.endpoint.waits_for_readers() || !self.hot.flags.has(Flags::BLOCKED))
            && self.hot.outbox.is_half_full_of_replies(&self.endpoint.bounds);
        !waits && self.cold.session.wants_input()
    }

    /// Keeps input that the session does not take yet, and lets the driver read no more.
    pub(super) fn hold(&mut self, rest: &[u8]) {
        self.hot.flags.set(Flags::PAUSED);
        if !rest.is_empty() {
            self.cold.extra_or_new().held.extend_from_slice(rest);
        }
    }
}

impl Hot {
    /// The id of the connection that has this record.
    #[inline]
    pub(super) const fn id(&self, shard: u16, slot: u32) -> ConnectionId {
        ConnectionId {
            shard,
            slot,
            generation: self.generation,
        }
    }
}

/// A decoder for a client's frames.
pub(super) const fn decoder(message_bytes_max: u32, deflate: Option<Deflate>) -> Decoder {
    let decoder = Decoder::new(message_bytes_max);
    if deflate.is_some() {
        decoder.with_deflate()
    } else {
        decoder
    }
}
