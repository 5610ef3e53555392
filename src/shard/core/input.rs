//! From bytes and answers to sessions, and what sessions ask for.

use std::mem;

use super::{Action, Parked, ShardCore};
use crate::auth::TokenError;
use crate::event::NewEvent;
use crate::hub::Receipt;
use crate::session::{Input, Output};
use crate::shard::connection::{Flags, Stage};
use crate::shard::frame::Frame;
use crate::shard::mailbox::{Adopt, ConnectionId, ShardMessage};
use crate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::{ErrorCode, Position};
use tickgate_protocol::wire::Message;
use tickgate_protocol::wire::deflate::Inflated;

/// What the compressed messages of one read may be inflated to, unless a single one may be longer. A read brings at most
/// 16 KiB: whoever gets 64 times that out of it over many messages wants to keep the shard busy.
const INFLATED_BYTES_PER_READ: u64 = 1024 * 1024;

/// Memory that is kept for the next replies.
const OUTPUT_BYTES_KEPT: usize = 64 * 1024;

impl ShardCore {
    /// Bytes from a connection's socket; they are unmasked in place. What the session does not take yet is kept:
    /// then [`ShardCore::wants_input`] turns false.
    pub fn on_bytes(&mut self, id: ConnectionId, input: &mut [u8], now: Now) {
        self.stats.bytes_in.bump(input.len() as u64);
        let Some(slot) = self.slot(id) else { return };
        self.on_input(slot, input, now);
    }

    pub(super) fn on_input(&mut self, slot: u32, input: &mut [u8], now: Now) {
        if self.hot[slot].flags.has(Flags::POLLING) {
            self.feed_candidate(slot, input, now);
        } else if self.hot[slot].stage != Stage::Open {
            self.discard(slot, input.len());
        } else {
            self.feed(slot, input, now);
        }
    }

    /// The peer closed its side.
    pub fn on_end_of_input(&mut self, id: ConnectionId, now: Now) {
        let Some(slot) = self.slot(id) else { return };
        if self.hot[slot].flags.has(Flags::POLLING) {
            // The socket was a session's second way out.
            return self.abandon_candidate(slot);
        }
        self.hot[slot].flags.set(Flags::PEER_CLOSED);
        match self.hot[slot].stage {
            Stage::Open => self.tell(slot, Input::Lost, now),
            Stage::Lingering => self.remove(slot),
            Stage::Flushing | Stage::Vacant => {}
        }
    }

    /// The socket failed: nothing can be read or written any more.
    pub fn on_socket_error(&mut self, id: ConnectionId, now: Now) {
        self.on_end_of_input(id, now);
        if let Some(slot) = self.slot(id)
            && !self.hot[slot].flags.has(Flags::POLLING)
        {
            self.remove(slot);
        }
    }

    /// A message from the mailbox. A new connection is handed back: its socket is the driver's, who calls
    /// [`ShardCore::adopt`].
    pub fn on_message(&mut self, message: ShardMessage, now: Now) -> Option<Box<Adopt>> {
        match message {
            ShardMessage::Adopt(adopt) => return Some(adopt),
            ShardMessage::Open(open) => self.open_session(*open, now),
            ShardMessage::Poll(poll) => self.on_poll(poll, now),
            // The driver's, who calls [`ShardCore::adopt_candidate`]; without one the socket closes.
            ShardMessage::Upgrade(_) => {}
            ShardMessage::Verified { to, request, outcome } => {
                if let Some(slot) = self.open(to) {
                    let outcome = outcome.and_then(|identity| {
                        self.admit(slot, identity.user.as_deref())?;
                        Ok(identity)
                    });
                    self.tell(slot, Input::Verified { request, outcome }, now);
                }
            }
            ShardMessage::Responded { to, request, outcome } => {
                if let Some(slot) = self.open(to) {
                    self.tell(slot, Input::Responded { request, outcome }, now);
                }
            }
            ShardMessage::Disconnect { id, ending, reply } => {
                let slot = self.open(id);
                if let Some(slot) = slot {
                    self.tell(slot, Input::End(ending), now);
                }
                reply(slot.is_some());
            }
            ShardMessage::DisconnectUser { user, ending, reply } => reply(self.disconnect_user(&user, ending, now)),
            ShardMessage::Broadcast { event, reply } => reply(self.broadcast(&event)),
            ShardMessage::Clients {
                from_slot,
                limit,
                user,
                reply,
            } => reply(self.clients(from_slot, limit, user.as_deref(), now)),
            ShardMessage::Subscriptions { limit, reply } => reply(self.subscriptions(limit)),
            ShardMessage::Subscribers { channel, reply } => reply(self.subscribers(&channel)),
            ShardMessage::Drain { over_ms } => self.begin_drain(over_ms, now),
        }
        None
    }

    /// Publishes what waits for a credit, in order, as far as there is credit. To be called when the doorbell rang.
    pub fn retry_parked(&mut self, now: Now) {
        while let Some(Parked { from, request, event }) = self.parked.pop_front() {
            match self.broker.try_publish(self.settings.shard, event, now) {
                Ok(receipt) => {
                    if let Some(slot) = self.open(from) {
                        let position = position(receipt);
                        self.tell(slot, Input::Published { request, position }, now);
                    }
                }
                Err(event) => {
                    self.parked.push_front(Parked { from, request, event });
                    return;
                }
            }
        }
    }

    /// The slot of a connection whose session lives.
    pub(super) fn open(&self, id: ConnectionId) -> Option<u32> {
        self.slot(id).filter(|&slot| self.hot[slot].stage == Stage::Open)
    }

    /// Hands one input to an open session, carries its wishes out, and goes on with input it held back.
    pub(super) fn tell(&mut self, slot: u32, input: Input<'_>, now: Now) {
        self.handle(slot, input, now);
        self.carry_out(slot, now);
        self.resume(slot, now);
    }

    // Asks the door's limits whether one more connection may be this user's. A refresh is none more.
    fn admit(&mut self, slot: u32, user: Option<&str>) -> Result<(), TokenError> {
        let (Some(cold), Some(user)) = (&mut self.cold[slot], user) else {
            return Ok(());
        };
        let had = cold.session.identity().is_some_and(|identity| identity.user.is_some());
        if had || cold.permit.authenticated(user) {
            return Ok(());
        }
        Err(TokenError {
            code: ErrorCode::RateLimited,
            message: "too many connections of this user".into(),
        })
    }

    fn feed(&mut self, slot: u32, input: &mut [u8], now: Now) {
        let mut position = 0;
        let mut is_new_message = false;
        let inflated_before = self.inflater.inflated();
        loop {
            if self.hot[slot].stage != Stage::Open {
                self.discard(slot, input.len() - position);
                return self.count_inflated(inflated_before);
            }
            if !self.takes_input(slot) {
                self.hold(slot, &input[position..]);
                break;
            }
            let hot = &self.hot[slot];
            let endpoint = &self.endpoints[usize::from(hot.endpoint)];
            let Some(cold) = &mut self.cold[slot] else { return };
            let inflated_bytes = self.inflater.inflated().bytes - inflated_before.bytes;
            let event = match cold.decoder.next(input, &mut position, &mut self.inflater) {
                Ok(Some(_)) if inflated_bytes > inflated_bytes_max(&endpoint.settings) => {
                    Input::End(Disconnect::RateLimitAbuse)
                }
                Ok(Some(message)) => {
                    let is_data = matches!(message, Message::Text(_) | Message::Binary(_));
                    self.stats.messages_in.bump(is_data.into());
                    is_new_message |= is_data;
                    Input::Frame(message)
                }
                Ok(None) => break,
                Err(error) => Input::Malformed(error),
            };
            // As `handle`, which would borrow all of the core while the message borrows the decoder.
            let context = crate::session::Context {
                now,
                settings: &endpoint.settings,
                delivered: hot.delivered,
                dropped: hot.dropped.into(),
            };
            cold.session
                .handle(event, &context, &mut self.scratch, &mut self.outputs);
            self.carry_out(slot, now);
        }
        self.count_inflated(inflated_before);
        self.account_assembly(slot, is_new_message, now);
    }

    fn count_inflated(&self, before: Inflated) {
        let now = self.inflater.inflated();
        let stats = &self.stats;
        stats.inflated_messages.bump(now.messages - before.messages);
        stats.inflated_bytes.bump(now.bytes - before.bytes);
    }

    // No message is taken while the answers to those before it fill half of what may be pending: until they were
    // offered to the socket nobody knows whether the client reads them. An echo waits until it has read them; whoever
    // else asks on without reading meets the bound.
    pub(super) fn takes_input(&self, slot: u32) -> bool {
        let hot = &self.hot[slot];
        let endpoint = &self.endpoints[usize::from(hot.endpoint)];
        let waits = (endpoint.is_echo() || !hot.flags.has(Flags::BLOCKED))
            && hot.outbox.is_half_full_of_replies(&endpoint.bounds);
        !waits && self.cold[slot].as_ref().is_some_and(|cold| cold.session.wants_input())
    }

    fn hold(&mut self, slot: u32, rest: &[u8]) {
        self.hot[slot].flags.set(Flags::PAUSED);
        if let Some(cold) = &mut self.cold[slot]
            && !rest.is_empty()
        {
            cold.extra().held.extend_from_slice(rest);
        }
    }

    pub(super) fn resume(&mut self, slot: u32, now: Now) {
        let hot = &self.hot[slot];
        if hot.stage != Stage::Open || !hot.flags.has(Flags::PAUSED) || !self.takes_input(slot) {
            return;
        }
        self.hot[slot].flags.clear(Flags::PAUSED);
        if self.hot[slot].flags.has(Flags::POLLING) {
            self.feed_post(slot, now);
        } else {
            let extra = self.cold[slot].as_mut().and_then(|cold| cold.extra.as_mut());
            let mut held = extra.map_or_else(Vec::new, |extra| mem::take(&mut extra.held));
            self.feed(slot, &mut held, now);
        }
        if self.hot[slot].stage == Stage::Open && !self.hot[slot].flags.has(Flags::PAUSED) {
            let id = self.id(slot);
            self.actions.push_back(Action::Resume(id));
        }
    }

    /// Does what the session asked for, and what that makes it ask for, until there is nothing left.
    pub(super) fn carry_out(&mut self, slot: u32, now: Now) {
        while !self.outputs.list.is_empty() {
            let mut batch = mem::replace(&mut self.outputs.list, mem::take(&mut self.batch));
            // What a session says last is queued whatever else is: the Close frame must not be what is too much.
            let is_last = batch.iter().any(|output| matches!(output, Output::Close(_)));
            let mut is_full = false;
            for output in batch.drain(..) {
                match output {
                    Output::Reply { start, end } => {
                        is_full = is_full || !self.queue_reply(slot, start, end, is_last);
                    }
                    Output::Verify { request, token } => self.services.verify(self.id(slot), request, token.0),
                    Output::Subscribe {
                        request,
                        patterns,
                        recover,
                    } => self.join(slot, request, patterns, recover, now),
                    Output::History {
                        request_ref,
                        channel,
                        range,
                    } => self.history(slot, request_ref, &channel, range, now),
                    Output::Skipped { patterns } => self.note_skipped(slot, &patterns),
                    Output::Unsubscribe { patterns } => self.leave(slot, &patterns),
                    Output::Publish { request, event } => self.publish(slot, request, event, now),
                    Output::Command { request, command } => {
                        let id = self.id(slot);
                        let address = self.cold[slot].as_ref().and_then(|cold| cold.address);
                        self.services.command(id, &id.client_id(), address, request, command);
                    }
                    Output::Forbidden { command } => {
                        let address = self.cold[slot].as_ref().and_then(|cold| cold.address);
                        self.services.forbidden(&self.id(slot).client_id(), address, command);
                    }
                    Output::Close(ending) => self.begin_closing(slot, ending, now),
                }
            }
            self.batch = batch;
            if is_full && self.hot[slot].stage == Stage::Open {
                self.handle(slot, Input::End(Disconnect::SlowConsumer), now);
            }
        }
        self.schedule_catch_up(slot);
        self.outputs.bytes.clear();
        // One long message must not be paid for ever after.
        self.outputs.bytes.shrink_to(OUTPUT_BYTES_KEPT);
        self.stats
            .rate_limited
            .bump(mem::take(&mut self.outputs.refused_messages));
        self.arm(slot);
    }

    fn queue_reply(&mut self, slot: u32, start: usize, end: usize, is_last: bool) -> bool {
        let hot = &mut self.hot[slot];
        let pool = &mut self.outgoing.pool;
        let endpoint = &self.endpoints[usize::from(hot.endpoint)];
        let frame = Frame::reply(endpoint.reply(&self.outputs.bytes[start..end], &self.inbox, &self.stats));
        if is_last {
            hot.outbox.push_last(pool, frame);
        } else if let Err(frame) = hot.outbox.push_reply(pool, frame, &endpoint.bounds) {
            if hot.flags.has(Flags::BLOCKED) && !endpoint.is_echo() {
                return false;
            }
            // Answers of backends can come many at once: [`ShardCore::blocked`] says whether they are too many.
            hot.outbox.push_last(pool, frame);
        }
        self.outgoing.mark_dirty(slot, hot);
        true
    }

    // Every connection of a misconfigured endpoint would say the same: the first one says it loudly.
    fn note_skipped(&mut self, slot: u32, patterns: &[Pattern]) {
        const MESSAGE: &str = "automatic subscriptions are not allowed for a client; it goes without them";
        let client_id = self.id(slot).client_id();
        let endpoint = &mut self.endpoints[usize::from(self.hot[slot].endpoint)];
        if std::mem::replace(&mut endpoint.has_skipped, true) {
            tracing::debug!(client_id, ?patterns, "{MESSAGE}");
        } else {
            tracing::warn!(client_id, ?patterns, "{MESSAGE} (said once per endpoint and shard)");
        }
    }

    fn publish(&mut self, slot: u32, request: u32, event: NewEvent, now: Now) {
        let event = if self.parked.is_empty() {
            match self.broker.try_publish(self.settings.shard, event, now) {
                Ok(receipt) => {
                    let position = position(receipt);
                    return self.handle(slot, Input::Published { request, position }, now);
                }
                Err(event) => event,
            }
        } else {
            // Behind those who wait already, or the small would starve the large.
            event
        };
        // Its session wants no input before the answer.
        let from = self.id(slot);
        self.parked.push_back(Parked { from, request, event });
    }

    // Updates the budget of half-received messages, and the deadline of this connection's.
    fn account_assembly(&mut self, slot: u32, is_new_message: bool, now: Now) {
        let Some(cold) = &mut self.cold[slot] else { return };
        let bytes = cold.decoder.buffered_bytes() + cold.held_bytes();
        let before = mem::replace(&mut cold.input_bytes, u32::try_from(bytes).unwrap_or(u32::MAX));
        if !cold.decoder.is_mid_message() {
            cold.deadline_ms = 0;
        } else if is_new_message || cold.deadline_ms == 0 {
            cold.deadline_ms = now.mono_ms + u64::from(self.settings.assembly_ms);
        }
        if before == 0 && bytes == 0 {
            return;
        }
        self.assembly_bytes = self.assembly_bytes - before as usize + cold.input_bytes as usize;
        let place = cold.assembly_place;
        if before == 0 {
            cold.assembly_place = u32::try_from(self.assembling.len()).unwrap_or(u32::MAX);
            self.assembling.push(slot);
        } else if bytes == 0 {
            self.leave_assembling(place);
        }
        self.arm(slot);
        while self.assembly_bytes > self.settings.assembly_bytes && self.shed_largest_assembly(now) {}
    }

    /// Takes a place out of the list of connections with a half-received message.
    pub(super) fn leave_assembling(&mut self, place: u32) {
        self.assembling.swap_remove(place as usize);
        if let Some(&moved) = self.assembling.get(place as usize)
            && let Some(cold) = &mut self.cold[moved]
        {
            cold.assembly_place = place;
        }
    }

    // Not whoever happened to be over the budget: that could be anybody.
    fn shed_largest_assembly(&mut self, now: Now) -> bool {
        let bytes = |&slot: &u32| self.cold[slot].as_ref().map_or(0, |cold| cold.input_bytes);
        let largest = self.assembling.iter().copied().max_by_key(bytes);
        if let Some(slot) = largest {
            self.tell(slot, Input::End(Disconnect::Overload), now);
        }
        largest.is_some()
    }
}

fn position(receipt: Receipt) -> Option<Position> {
    let (epoch, offset) = receipt.epoch.zip(receipt.offset)?;
    Some(Position { epoch, offset })
}

fn inflated_bytes_max(settings: &crate::session::Settings) -> u64 {
    INFLATED_BYTES_PER_READ.max(2 * u64::from(settings.limits.message_bytes))
}
