//! Inputs for sessions, and what sessions ask for.

use super::connections::{Connection, Connections};
use super::control::query;
use super::joins::Admitted;
use super::journal::Journal;
use super::recovery::{Request, Step, history};
use super::{Action, ShardCore};
use crate::auth::{Identity, TokenError};
use crate::broker::Origin;
use crate::session::{HistoryPage, Input, Output};
use crate::shard::connection::{Cold, Flags, Stage};
use crate::shard::mailbox::{Adopt, ConnectionId, ShardMessage};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::{ErrorCode, HistoryRange};

impl ShardCore {
    /// Bytes from a connection's socket; they are unmasked in place. Input that the session does not take yet is kept, and
    /// then [`ShardCore::wants_input`] turns false.
    pub fn on_bytes(&mut self, id: ConnectionId, input: &mut [u8], now: Now) {
        self.metrics.bytes_in.bump(input.len() as u64);
        let Some(slot) = self.connections.slot(id) else { return };
        self.connections.count_in(slot, input.len());
        self.on_input(slot, input, now);
    }

    pub(super) fn on_input(&mut self, slot: u32, input: &mut [u8], now: Now) {
        let hot = self.connections.hot(slot);
        if hot.flags.has(Flags::POLLING) {
            self.feed_candidate(slot, input, now);
        } else if hot.stage != Stage::Open {
            self.connections.discard(slot, input.len());
        } else {
            self.feed(slot, input, now);
        }
    }

    /// The peer closed its side.
    pub fn on_end_of_input(&mut self, id: ConnectionId, now: Now) {
        let Some(slot) = self.connections.slot(id) else { return };
        let hot = self.connections.hot_mut(slot);
        if hot.flags.has(Flags::POLLING) {
            // The socket was a candidate. The session goes on polling.
            return self.abandon_candidate(slot);
        }
        hot.flags.set(Flags::PEER_CLOSED);
        match hot.stage {
            Stage::Open => self.tell(slot, Input::Lost, now),
            Stage::Lingering => self.remove(slot),
            Stage::Flushing | Stage::Vacant => {}
        }
    }

    /// The socket failed: nothing can be read or written any more.
    pub fn on_socket_error(&mut self, id: ConnectionId, now: Now) {
        self.on_end_of_input(id, now);
        if let Some(slot) = self.connections.slot(id)
            && !self.connections.hot(slot).flags.has(Flags::POLLING)
        {
            self.remove(slot);
        }
    }

    /// A message from the mailbox. A new connection is handed back, since its socket belongs to the driver, which then
    /// calls [`ShardCore::adopt`].
    pub fn on_message(&mut self, message: ShardMessage, now: Now) -> Option<Box<Adopt>> {
        match message {
            ShardMessage::Adopt(adopt) => return Some(adopt),
            ShardMessage::Open(open) => self.open_session(*open, now),
            ShardMessage::Poll(poll) => self.on_poll(poll, now),
            // For the driver, which calls `adopt_candidate`. Without a driver the socket closes here.
            ShardMessage::Upgrade(_) => {}
            ShardMessage::Verified { to, request, outcome } => {
                if let Some(slot) = self.connections.open_slot(to) {
                    let is_revoked = |identity: &Identity| self.services.is_revoked(identity);
                    let outcome = outcome.and_then(|identity| {
                        if is_revoked(&identity) {
                            return Err(TokenError::revoked());
                        }
                        admit(&mut self.connections, slot, &identity)?;
                        Ok(identity)
                    });
                    self.tell(slot, Input::Verified { request, outcome }, now);
                    if self.traces.is_active() {
                        self.mark_traced(slot, now);
                    }
                }
            }
            ShardMessage::Responded { to, request, outcome } => {
                if let Some(slot) = self.connections.open_slot(to) {
                    self.tell(slot, Input::Responded { request, outcome }, now);
                }
            }
            ShardMessage::Published { to, request, outcome } => {
                let answer = self.publishing.finish(request, outcome);
                if let Some(slot) = self.connections.open_slot(to) {
                    self.tell(slot, answer, now);
                }
            }
            ShardMessage::TakenBack { to, request, found } => {
                let connection = to;
                self.taken_back(Origin { connection, request }, found.map(|found| *found), now);
            }
            ShardMessage::Resync => self.resync(now),
            ShardMessage::Disconnect {
                id,
                tenant,
                ending,
                reply,
            } => {
                let slot = self.connections.open_slot(id);
                let slot = slot.filter(|slot| {
                    let own = self.connections.endpoint(*slot).settings.tenant;
                    tenant.is_none_or(|tenant| tenant == own)
                });
                if let Some(slot) = slot {
                    self.tell(slot, Input::End(ending), now);
                }
                reply(slot.is_some());
            }
            ShardMessage::Challenge { id } => {
                if let Some(slot) = self.connections.open_slot(id) {
                    self.tell(slot, Input::Challenge, now);
                }
            }
            ShardMessage::DisconnectUser {
                tenant,
                user,
                ending,
                reply,
            } => {
                let is_theirs = |cold: &Cold| cold.is_user(tenant, &user);
                reply(self.end_those(is_theirs, ending, now));
            }
            ShardMessage::Revoke { revocation, reply } => {
                let is_revoked = |cold: &Cold| cold.session.identity().is_some_and(|one| revocation.names(one));
                reply(self.end_those(is_revoked, Disconnect::TokenRevoked, now));
            }
            ShardMessage::Broadcast { event, reply } => {
                let count = self.fanout.broadcast(&mut self.connections, &event);
                self.end_too_slow();
                reply(count);
            }
            ShardMessage::Clients {
                from_slot,
                limit,
                filter,
                reply,
            } => reply(self.clients().page((from_slot, limit), &filter, now)),
            ShardMessage::WorstClients {
                by,
                limit,
                tenant,
                reply,
            } => reply(self.clients().worst(by, limit, tenant, now)),
            ShardMessage::BeginTrace(trace) => self.begin_trace(*trace, now),
            ShardMessage::EndTrace { id } => self.end_trace(id),
            ShardMessage::Endings { limit, reply } => reply(self.troubles.endings(limit)),
            ShardMessage::Subscriptions { limit, tenant, reply } => {
                let table = self.fanout.table();
                reply(query::subscriptions(&self.connections, table, limit, tenant));
            }
            ShardMessage::Subscribers { channel, reply } => {
                reply(self.fanout.count_subscribers(&mut self.connections, &channel));
            }
            ShardMessage::Freshness { stale, fresh } => {
                let connections = &mut self.connections;
                self.fanout.tell_freshness(connections, &fresh, false, now);
                self.fanout.tell_freshness(connections, &stale, true, now);
            }
            ShardMessage::Drain { over_ms } => {
                let (slots, connections) = (self.connections.slots().end, self.connections.len());
                self.control.begin_drain(over_ms, slots, connections, now);
            }
        }
        None
    }

    /// Publishes the events that wait for a credit, in order, as far as there are credits. To be called when the doorbell
    /// has rung.
    pub fn retry_parked(&mut self, now: Now) {
        while let Some((from, answer)) = self.publishing.retry(now) {
            if let Some(slot) = self.connections.open_slot(from) {
                self.tell(slot, answer, now);
            }
        }
    }

    /// Hands one input to an open session, carries out what it asks for, and goes on with input that was held back.
    pub(super) fn tell(&mut self, slot: u32, input: Input<'_>, now: Now) {
        self.handle(slot, input, now);
        self.carry_out(slot, now);
        self.resume(slot, now);
    }

    /// Hands an input to a session. Its outputs wait for [`ShardCore::carry_out`].
    pub(super) fn handle(&mut self, slot: u32, input: Input<'_>, now: Now) {
        if let Some(mut connection) = self.connections.get(slot) {
            self.sessions.handle(&mut connection, input, now);
        }
    }

    fn feed(&mut self, slot: u32, input: &mut [u8], now: Now) {
        let mut feed = self.sessions.begin_feed();
        loop {
            if !self.connections.is_open(slot) {
                self.connections.discard(slot, input.len() - feed.position);
                return self.sessions.end_feed(&feed);
            }
            let Some(mut connection) = self.connections.get(slot) else {
                return;
            };
            if !connection.takes_input() {
                connection.hold(&input[feed.position..]);
                break;
            }
            let is_traced = connection.hot.flags.has(Flags::TRACED);
            if !self.sessions.feed(&mut connection, input, &mut feed, is_traced, now) {
                break;
            }
            if is_traced {
                let (message, refusals) = self.sessions.take_traced();
                self.trace_received(slot, &message, &refusals, now);
            }
            self.carry_out(slot, now);
        }
        self.sessions.end_feed(&feed);
        self.connections.account_assembly(slot, feed.is_new_message, now);
        while let Some(largest) = self.connections.largest_assembly_over_budget() {
            self.tell(largest, Input::End(Disconnect::Overload), now);
        }
    }

    /// Goes on with input that was held back, if the session takes input again.
    #[inline]
    pub(super) fn resume(&mut self, slot: u32, now: Now) {
        let hot = self.connections.hot(slot);
        if hot.stage == Stage::Open && hot.flags.has(Flags::PAUSED) {
            self.take_held_back(slot, now);
        }
    }

    fn take_held_back(&mut self, slot: u32, now: Now) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if !connection.takes_input() {
            return;
        }
        let Connection { id, hot, cold, .. } = connection;
        hot.flags.clear(Flags::PAUSED);
        if hot.flags.has(Flags::POLLING) {
            self.feed_post(slot, now);
        } else {
            let mut held = cold.take_held();
            self.feed(slot, &mut held, now);
        }
        if self.connections.is_open(slot) && !self.connections.hot(slot).flags.has(Flags::PAUSED) {
            self.control.act(Action::Resume(id));
        }
    }

    /// Carries out what the session asked for, and what it asks for in consequence, until nothing is left.
    pub(super) fn carry_out(&mut self, slot: u32, now: Now) {
        while let Some(mut batch) = self.sessions.take_outputs() {
            // A session's last replies are queued whatever the bounds are, so that the Close frame always fits.
            let is_last = batch.iter().any(|output| matches!(output, Output::Close(_)));
            let mut is_full = false;
            for output in batch.drain(..) {
                match output {
                    Output::Reply { start, end } => {
                        is_full = is_full || !self.queue_reply(slot, start, end, is_last);
                    }
                    other => self.carry_out_one(slot, other, now),
                }
            }
            self.sessions.reuse_outputs(batch);
            if is_full && self.connections.is_open(slot) {
                self.handle(slot, Input::End(Disconnect::SlowConsumer), now);
            }
        }
        self.recovery.schedule(slot, &mut self.connections, &mut self.fanout);
        let refused = self.sessions.clear_outputs();
        if refused > 0 && self.connections.is_open(slot) {
            self.troubles.refused(slot, refused, now);
        }
        self.connections.arm(slot);
    }

    fn queue_reply(&mut self, slot: u32, start: usize, end: usize, is_last: bool) -> bool {
        let Some(mut connection) = self.connections.get(slot) else {
            return true;
        };
        let bytes = self.sessions.reply(start..end);
        self.fanout.queue_reply(&mut connection, bytes, is_last)
    }

    fn carry_out_one(&mut self, slot: u32, output: Output, now: Now) {
        if self.traces.has_channels() {
            self.trace_asked(slot, &output, now);
        }
        let id = self.connections.id(slot);
        let address = || self.connections.cold(slot).and_then(|cold| cold.address);
        Journal::asked(&self.connections, slot, &output);
        match output {
            Output::Reply { .. } => {}
            Output::Verify { request, token } => {
                let tenant = self.connections.endpoint(slot).settings.tenant;
                self.services.verify(id, request, tenant, token.0);
            }
            Output::Subscribe {
                request,
                patterns,
                resume,
                max_rate,
                is_automatic,
            } => {
                if let Some(retry_after_ms) = self.shedding.refuses_joins().filter(|_| !is_automatic) {
                    self.metrics.overloaded_subscribes.bump(1);
                    let answer = Input::Overloaded {
                        request,
                        retry_after_ms,
                    };
                    return self.handle(slot, answer, now);
                }
                let request = Request {
                    from: id,
                    number: request,
                    patterns,
                    resume,
                    max_rate,
                };
                if let Some(request) = self.joins.admit(request, self.fanout.inbox(), now) {
                    let answer = self
                        .recovery
                        .subscribe(request, &mut self.connections, &mut self.fanout, now);
                    self.handle_if_some(slot, answer, now);
                }
            }
            Output::History {
                request_ref,
                channel,
                range,
            } => {
                let answer = match self.recovery.history_wait_ms(slot, &self.connections, now) {
                    None => Input::History {
                        request_ref,
                        page: self.history_page(slot, &channel, range, now),
                    },
                    Some(retry_after_ms) => {
                        self.metrics.refused_histories.bump(1);
                        Input::HistoryLimited {
                            request_ref,
                            retry_after_ms,
                        }
                    }
                };
                self.handle(slot, answer, now);
            }
            Output::SetRate { patterns, max_rate } => {
                (self.recovery).set_rate(slot, &patterns, max_rate, &mut self.connections, &mut self.fanout, now);
            }
            Output::LimitBytes { per_second } => self.limit_bytes(slot, per_second, now),
            Output::TakeBack { request, pid, user } => self.take_back(slot, request, pid, user, now),
            Output::Suspend { pid, suspended } => self.suspend(slot, pid, suspended, now),
            Output::Skipped { patterns } => self.log_skipped(slot, &patterns),
            Output::Unsubscribe { patterns } => {
                (self.recovery).unsubscribe(slot, &patterns, &mut self.connections, &mut self.fanout);
            }
            Output::Publish { request, event } => {
                let answer = self.publishing.publish(id, request, event, now);
                self.handle_if_some(slot, answer, now);
            }
            Output::Command { request, command } => {
                self.services.command(id, &id.client_id(), address(), request, command);
            }
            Output::CommandStatus { request, identity, key } => {
                self.services.command_status(id, request, &identity, &key);
            }
            Output::Forbidden { command } => self.services.forbidden(&id.client_id(), address(), command),
            Output::Challenged { has_answered } => {
                let cold = self.connections.cold_mut(slot);
                if cold.is_some_and(|cold| cold.permit.challenged(has_answered)) {
                    let ending = if has_answered {
                        Disconnect::Displaced
                    } else {
                        Disconnect::HeartbeatTimeout
                    };
                    self.handle(slot, Input::End(ending), now);
                }
            }
            Output::Close(ending) => self.begin_closing(slot, ending, now),
        }
    }

    pub(super) fn history_page(&mut self, slot: u32, channel: &Channel, range: HistoryRange, now: Now) -> HistoryPage {
        let endpoint = self.connections.endpoint(slot);
        let page = history::page(slot, endpoint, &mut self.fanout, channel, range, now);
        let bytes = page.events.iter().map(bytes::Bytes::len);
        self.recovery.charge_events(slot, bytes, &self.connections, now);
        page
    }

    fn handle_if_some(&mut self, slot: u32, answer: Option<Input<'_>>, now: Now) {
        if let Some(answer) = answer {
            self.handle(slot, answer, now);
        }
    }

    // All connections of a misconfigured endpoint have the same problem. Only the first is logged as a warning.
    fn log_skipped(&mut self, slot: u32, patterns: &[Pattern]) {
        const MESSAGE: &str = "automatic subscriptions are not allowed for a client; it goes without them";
        let client_id = self.connections.id(slot).client_id();
        if self.connections.note_skipped(slot) {
            tracing::warn!(client_id, ?patterns, "{MESSAGE} (said once per endpoint and shard)");
        } else {
            tracing::debug!(client_id, ?patterns, "{MESSAGE}");
        }
    }

    /// Goes on with the subscribe requests that waited for this turn.
    pub(super) fn resume_subscribes(&mut self, now: Now) {
        self.recovery.begin_steps(&mut self.fanout);
        for admitted in self.joins.take_admitted(self.fanout.inbox(), now) {
            self.resume_join(admitted, now);
        }
        let position = self.fanout.inbox().position();
        while let Some(step) = self
            .recovery
            .answer_held_back(position, &mut self.connections, &mut self.fanout)
        {
            self.finish_step(step, now);
        }
        let reserved = self.recovery.reserved_steps();
        self.begin_subscribes(reserved, now);
        while let Some(step) = self.recovery.resume_scan(&mut self.connections, &mut self.fanout, now) {
            self.finish_step(step, now);
        }
        self.begin_subscribes(0, now);
        while let Some(step) = (self.recovery).run_slow_lane(&mut self.connections, &mut self.fanout, now) {
            self.finish_step(step, now);
        }
    }

    fn resume_join(&mut self, admitted: Admitted, now: Now) {
        let (Admitted::Begin(Request { from, .. }) | Admitted::Refuse(Request { from, .. })) = &admitted;
        let Some(slot) = self.connections.open_slot(*from) else {
            return;
        };
        let answer = match admitted {
            Admitted::Begin(request) => {
                (self.recovery).subscribe(request, &mut self.connections, &mut self.fanout, now)
            }
            Admitted::Refuse(request) => Some(Input::SubscribeRefused {
                request: request.number,
            }),
        };
        self.finish_step(Step { slot, answer }, now);
    }

    fn begin_subscribes(&mut self, reserved: usize, now: Now) {
        while let Some(step) = self
            .recovery
            .begin_waiting(reserved, &mut self.connections, &mut self.fanout, now)
        {
            self.finish_step(step, now);
        }
    }

    fn finish_step(&mut self, Step { slot, answer }: Step, now: Now) {
        self.handle_if_some(slot, answer, now);
        self.carry_out(slot, now);
        self.resume(slot, now);
    }
}

// Asks the connection limits whether one more connection may be this user's. A new token for the same connection does not
// count as one more.
fn admit(connections: &mut Connections, slot: u32, identity: &Identity) -> Result<(), TokenError> {
    let (Some(cold), Some(user)) = (connections.cold_mut(slot), identity.user.as_deref()) else {
        return Ok(());
    };
    let had_user = cold.session.identity().is_some_and(|identity| identity.user.is_some());
    if had_user || cold.permit.authenticated(user) {
        return Ok(());
    }
    Err(TokenError {
        code: ErrorCode::RateLimited,
        message: "too many connections of this user".into(),
    })
}
