//! The session itself: its state, the dispatch of inputs, and its endings.

use std::ops::Range;
use std::sync::Arc;

use super::engine_io::EngineIo;
use super::extra::{Extra, SubscriptionChange};
use super::{CONTROL_FRAMES_PER_SECOND, Context, DEFERRED_MAX, Input, Output, Outputs, Settings};
use crate::auth::{Identity, Mode, TokenError};
use crate::session::limits::TokenBucket;
use crate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::{ClientMessage, ErrorCode, Malformed, MessageType, Reply, RequestId, RequestRef};
use tickgate_protocol::wire::{self, encode};

/// One connection. See the module's docs for the contract.
///
/// Millions of these are held, so everything that an idle subscriber does not need is in a box; times are monotonic
/// milliseconds unless they say `unix`.
#[derive(Debug)]
pub struct Session {
    /// `None`: not authenticated yet (or an echo connection).
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) extra: Option<Box<Extra>>,
    /// `None`: it is no Engine.IO session.
    pub(super) engine_io: Option<Box<EngineIo>>,
    /// Distinct patterns held, in the order in which they were joined.
    pub(super) patterns: Vec<Pattern>,
    pub(super) nonce: u64,
    pub(super) connected_unix_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) last_seen_ms: u64,
    pub(super) next_ping_ms: u64,
    pub(super) messages: TokenBucket,
    pub(super) control_frames: TokenBucket,
    // The low half of Unix milliseconds; 0: none yet.
    last_pong_low: u32,
    requests: u16,
    pub(super) expiry_warned: bool,
    closed: bool,
}

impl Session {
    /// The session of a connection that was just adopted; hand in [`Input::Opened`] next.
    ///
    /// `nonce` is random: it gives the connection its public name and its heartbeat's phase. `identity` is what the
    /// handshake's token came to (`Ok(None)`: there was none).
    #[must_use]
    pub fn new(nonce: u64, identity: Result<Option<Arc<Identity>>, TokenError>, now: Now, settings: &Settings) -> Self {
        let mut session = Self::bare(nonce, now, settings);
        if settings.dialect == Dialect::Echo {
            return session;
        }
        match (settings.auth_mode, identity) {
            (Mode::Off, _) | (Mode::Optional, Ok(None)) => session.identity = Some(settings.anonymous.clone()),
            (_, Ok(Some(identity))) => session.identity = Some(identity),
            (Mode::Required, Ok(None)) => {
                session.extra().auth_deadline_ms = Some(now.mono_ms + settings.auth_timeout_ms);
            }
            (_, Err(refusal)) => session.extra().handshake_refusal = Some(refusal),
        }
        session
    }

    // Nobody's yet.
    pub(super) fn bare(nonce: u64, now: Now, settings: &Settings) -> Self {
        Self {
            identity: None,
            extra: None,
            engine_io: None,
            patterns: Vec::new(),
            nonce,
            connected_unix_ms: now.unix_ms,
            deadline_ms: now.mono_ms,
            last_seen_ms: now.mono_ms,
            next_ping_ms: now.mono_ms + 1 + nonce % settings.heartbeat_interval_ms.max(1),
            messages: TokenBucket::full(settings.limits.messages_per_second, now.mono_ms),
            control_frames: TokenBucket::full(CONTROL_FRAMES_PER_SECOND, now.mono_ms),
            last_pong_low: 0,
            requests: 0,
            expiry_warned: false,
            closed: false,
        }
    }

    /// Takes one input and appends what follows from it.
    pub fn handle(&mut self, input: Input<'_>, context: &Context<'_>, scratch: &mut Scratch, out: &mut Outputs) {
        if self.closed {
            return;
        }
        let held_input = !self.wants_input();
        let is_frame = matches!(input, Input::Frame(_));
        match input {
            Input::Opened => self.opened(context, out),
            Input::Frame(message) => self.frame(message, context, scratch, out),
            Input::Malformed(error) => self.end(error.disconnect(), out),
            Input::Lost => self.end(Disconnect::Lost, out),
            Input::Verified { request, outcome } => self.verified(request, outcome, context, out),
            Input::Joined {
                request,
                patterns,
                standing,
            } => self.joined(request, patterns, &standing, context, out),
            Input::Published { request, position } => self.published(request, position, context, out),
            Input::History { request_ref, page } => Self::history_page(&request_ref, &page, context, out),
            Input::Responded { request, outcome } => self.responded(request, outcome, context, out),
            Input::Timer => self.timer(context, out),
            Input::End(ending) => self.end(ending, out),
            // Who is not connected yet has nothing to be told of.
            Input::GoingAway { .. } if self.is_connecting() => {}
            Input::GoingAway {
                close_in_ms,
                reconnect_after_ms,
            } => {
                let reply = Reply::GoingAway {
                    close_in_ms,
                    reconnect_after_ms,
                };
                out.reply(&reply, context);
            }
        }
        if held_input && self.wants_input() {
            // While the gateway did not listen, the client could not be heard.
            self.last_seen_ms = context.now.mono_ms;
        }
        if !is_frame {
            // When the answer to a request is here, what it needed goes at once: a crowd that has just subscribed
            // would hold half as much memory again until its first heartbeats. (A frame's sender may need it again.)
            self.extra.take_if(|extra| extra.is_idle(context.now.mono_ms));
        }
        self.arm(context);
    }

    /// Whether the driver may hand in an [`Input::Frame`]. While it may not, it keeps what it has read and reads no
    /// more.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.extra.as_ref().is_none_or(|extra| {
            extra.verify.is_none() && extra.publish.is_none() && extra.deferred.len() < DEFERRED_MAX
        })
    }

    /// When [`Input::Timer`] is due, in monotonic milliseconds.
    #[must_use]
    pub const fn next_deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// Who it is; `None` before authentication and on echo endpoints.
    #[must_use]
    pub const fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Distinct patterns held and live.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// The connection's public name: 64 random bits.
    #[must_use]
    pub fn client_id(&self) -> String {
        format!("client_{:016x}", self.nonce)
    }

    /// When it was adopted, Unix milliseconds.
    #[must_use]
    pub const fn connected_at_ms(&self) -> u64 {
        self.connected_unix_ms
    }

    /// When a ping was last due to be sent, Unix milliseconds.
    #[must_use]
    pub fn last_ping_ms(&self, now: Now, settings: &Settings) -> Option<u64> {
        let last_ms = self.next_ping_ms.saturating_sub(settings.heartbeat_interval_ms.max(1));
        let last_unix_ms = now.unix_ms.saturating_sub(now.mono_ms.saturating_sub(last_ms));
        // The first one is due within an interval of the beginning.
        (last_ms <= now.mono_ms && last_unix_ms > self.connected_unix_ms).then_some(last_unix_ms)
    }

    /// When a pong (frame, packet or message) last came, Unix milliseconds. (One that is older than 49 days seems
    /// younger; by then the session is over.)
    #[must_use]
    pub fn last_pong_ms(&self, now: Now) -> Option<u64> {
        let ago_ms = low(now.unix_ms).wrapping_sub(self.last_pong_low);
        (self.last_pong_low != 0).then(|| now.unix_ms.saturating_sub(ago_ms.into()))
    }

    pub(super) fn note_pong(&mut self, now: Now) {
        self.last_pong_low = low(now.unix_ms).max(1);
    }

    /// Whether [`Output::Close`] was given.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// A number for a request that waits for an answer: none of those that wait has it.
    pub(super) fn next_request(&mut self) -> u32 {
        loop {
            self.requests = self.requests.wrapping_add(1);
            let number = self.requests.into();
            if self.extra.as_ref().is_none_or(|extra| !extra.awaits(number)) {
                return number;
            }
        }
    }

    /// Ends the session from this side, with a Close frame unless there is nobody to read it.
    pub(super) fn end(&mut self, ending: Disconnect, out: &mut Outputs) {
        if !self.say_end(ending, out) && ending != Disconnect::Lost {
            out.frame(|bytes| encode::close(bytes, ending));
        }
        self.close(ending, out);
    }

    pub(super) fn close(&mut self, ending: Disconnect, out: &mut Outputs) {
        self.closed = true;
        self.extra = None;
        out.list.push(Output::Close(ending));
    }

    fn frame(&mut self, message: wire::Message<'_>, context: &Context<'_>, scratch: &mut Scratch, out: &mut Outputs) {
        self.last_seen_ms = context.now.mono_ms;
        if self.has_expired(context) {
            // The timer is about to say so; until then nothing is served either.
            return self.end(Disconnect::TokenExpired, out);
        }
        if self.auth_deadline_ms().is_some_and(|at| at <= context.now.mono_ms) {
            // Or the next token, sent behind a bad one, would gain the time of its own verification.
            return self.end(Disconnect::AuthTimeout, out);
        }
        match message {
            wire::Message::Close(close) => {
                // RFC 6455, section 5.5.1: the answer typically echoes the status code.
                let code = close.map(|(code, _)| code);
                out.frame(|bytes| encode::close_echo(bytes, code));
                self.close(Disconnect::Normal, out);
            }
            wire::Message::Ping(payload) => {
                if self.control_frame(context, out) {
                    out.frame(|bytes| encode::pong(bytes, payload));
                }
            }
            wire::Message::Pong(_) => {
                self.note_pong(context.now);
                self.control_frame(context, out);
            }
            wire::Message::Text(text) if context.settings.dialect == Dialect::Echo => {
                out.frame(|bytes| encode::text(bytes, text));
            }
            wire::Message::Binary(payload) if context.settings.dialect == Dialect::Echo => {
                out.frame(|bytes| encode::binary(bytes, payload));
            }
            wire::Message::Binary(_) => self.attachment(context, out),
            wire::Message::Text(text) if self.engine_io.is_some() => self.packet(text, context, scratch, out),
            wire::Message::Text(text) => self.text(text, context, scratch, out),
        }
    }

    // Counts a ping or pong frame; `false`: it was one too many, and the session is over.
    pub(super) fn control_frame(&mut self, context: &Context<'_>, out: &mut Outputs) -> bool {
        if context.settings.dialect == Dialect::Echo {
            return true;
        }
        let taken = self.control_frames.take(CONTROL_FRAMES_PER_SECOND, context.now.mono_ms);
        if taken.is_err() {
            self.end(Disconnect::RateLimitAbuse, out);
        }
        taken.is_ok()
    }

    fn text(&mut self, text: &str, context: &Context<'_>, scratch: &mut Scratch, out: &mut Outputs) {
        let rate = context.settings.limits.messages_per_second;
        if let Err(wait_ms) = self.messages.take(rate, context.now.mono_ms) {
            return self.refuse_unread(text, wait_ms, context, scratch, out);
        }
        match context.settings.dialect.parse(text, scratch) {
            Ok(message) => self.message(message, context, out),
            Err(malformed) => self.malformed(&malformed, context, out),
        }
    }

    // The messages' bucket is empty: nothing is done, but a command gets its answer.
    pub(super) fn refuse_unread(
        &mut self,
        text: &str,
        wait_ms: u32,
        context: &Context<'_>,
        scratch: &mut Scratch,
        out: &mut Outputs,
    ) {
        match context.settings.dialect.command_id(text, scratch) {
            Some(id) => {
                let abuse = self.extra().refusals.count(context.now.mono_ms);
                out.refused_messages += 1;
                out.rate_limited_command(&id, wait_ms, context);
                if abuse {
                    self.end(Disconnect::RateLimitAbuse, out);
                }
            }
            None => self.refuse(context, out),
        }
    }

    /// Counts a message that came too fast and was not looked at.
    pub(super) fn refuse(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let refusals = &mut self.extra().refusals;
        let abuse = refusals.count(context.now.mono_ms);
        refusals.add_untold();
        out.refused_messages += 1;
        self.report_refusals(context, out);
        if abuse {
            self.end(Disconnect::RateLimitAbuse, out);
        }
    }

    /// Tells what was refused since it was last told, unless that was less than a second ago.
    pub(super) fn report_refusals(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let now_ms = context.now.mono_ms;
        let Some(extra) = &mut self.extra else { return };
        if let Some(refused) = extra.refusals.take_report(now_ms) {
            let mut bucket = self.messages;
            let rate = context.settings.limits.messages_per_second;
            let reply = Reply::RateLimited {
                retry_after_ms: bucket.take(rate, now_ms).err().unwrap_or(0),
                refused,
            };
            out.reply(&reply, context);
        }
    }

    pub(super) fn message(&mut self, message: ClientMessage<'_>, context: &Context<'_>, out: &mut Outputs) {
        if self.identity.is_none() && !open_to_all(Some(message.message_type())) {
            return match message {
                ClientMessage::Command { id, .. } => {
                    out.refuse_command(&id, ErrorCode::Unauthenticated, NOT_AUTHENTICATED, context);
                }
                ClientMessage::Subscribe { request_ref, .. }
                | ClientMessage::Unsubscribe { request_ref, .. }
                | ClientMessage::Publish { request_ref, .. }
                | ClientMessage::History { request_ref, .. }
                | ClientMessage::GetStatus { request_ref } => {
                    out.error(&request_ref, ErrorCode::Unauthenticated, NOT_AUTHENTICATED, context);
                }
                ClientMessage::Auth { .. } | ClientMessage::Ping { .. } | ClientMessage::Pong => {}
            };
        }
        match message {
            ClientMessage::Auth { request_ref, token } => self.auth(request_ref, &token, context, out),
            ClientMessage::Subscribe {
                request_ref,
                patterns,
                recover,
            } => self.change_subscriptions(
                SubscriptionChange {
                    subscribe: true,
                    request_ref,
                    patterns,
                    recover,
                },
                context,
                out,
            ),
            ClientMessage::Unsubscribe { request_ref, patterns } => self.change_subscriptions(
                SubscriptionChange {
                    subscribe: false,
                    request_ref,
                    patterns,
                    recover: None,
                },
                context,
                out,
            ),
            ClientMessage::Command { id, action, params } => self.command(id, action, params, context, out),
            ClientMessage::Publish {
                request_ref,
                channel,
                event,
                data,
            } => self.publish(request_ref, channel, &event, data, context, out),
            ClientMessage::Ping { request_ref } => out.reply(
                &Reply::Pong {
                    request_ref: &request_ref,
                },
                context,
            ),
            ClientMessage::Pong => self.note_pong(context.now),
            ClientMessage::GetStatus { request_ref } => self.status(&request_ref, context, out),
            ClientMessage::History {
                request_ref,
                channel,
                range,
            } => self.history(request_ref, channel, range, context, out),
        }
    }

    pub(super) fn malformed(&mut self, malformed: &Malformed, context: &Context<'_>, out: &mut Outputs) {
        let Malformed {
            code,
            message,
            request_ref,
            message_type,
        } = malformed;
        // What names no type at all is told so; a type that is not served yet is not, whatever else is wrong.
        let names_a_type = message_type.is_some() || *code == ErrorCode::UnknownType;
        let unauthenticated = self.identity.is_none() && names_a_type && !open_to_all(*message_type);
        let (code, message) = if unauthenticated {
            (ErrorCode::Unauthenticated, NOT_AUTHENTICATED)
        } else {
            (*code, &**message)
        };
        match (&request_ref.id, message_type) {
            (Some(id), Some(MessageType::Command)) => {
                if unauthenticated || self.take_command(id, context, out) {
                    out.refuse_command(id, code, message, context);
                }
            }
            // Every `auth` is answered by `auth_result`.
            (_, Some(MessageType::Auth)) => out.reply(
                &Reply::AuthRefused {
                    request_ref,
                    code,
                    message,
                },
                context,
            ),
            _ => out.error(request_ref, code, message, context),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "only differences of less than 49 days are looked at"
)]
const fn low(unix_ms: u64) -> u32 {
    unix_ms as u32
}

const NOT_AUTHENTICATED: &str = "send `auth` with a token first";

// What is served before authentication.
const fn open_to_all(message_type: Option<MessageType>) -> bool {
    matches!(
        message_type,
        Some(MessageType::Auth | MessageType::Ping | MessageType::Pong)
    )
}

impl Outputs {
    /// Queues a reply, where the dialect has it.
    pub(super) fn reply(&mut self, reply: &Reply<'_>, context: &Context<'_>) {
        let dialect = &context.settings.dialect;
        let now_unix_ms = context.now.unix_ms;
        let answer = dialect.encode_reply(reply, now_unix_ms, &mut self.bytes);
        let acknowledgement = dialect.encode_acknowledgement(reply, now_unix_ms, &mut self.bytes);
        self.list
            .extend(answer.into_iter().chain(acknowledgement).map(|range| Output::Reply {
                start: range.start,
                end: range.end,
            }));
    }

    /// Queues the frame that `append` appends and finds.
    pub(super) fn range(&mut self, append: impl FnOnce(&mut Vec<u8>) -> Range<usize>) {
        let Range { start, end } = append(&mut self.bytes);
        self.list.push(Output::Reply { start, end });
    }

    /// Queues an `error`.
    pub(super) fn error(&mut self, request_ref: &RequestRef, code: ErrorCode, message: &str, context: &Context<'_>) {
        self.reply(
            &Reply::Error {
                request_ref,
                code,
                message,
            },
            context,
        );
    }

    /// Queues a `response` in a backend's place.
    pub(super) fn refuse_command(&mut self, id: &RequestId, code: ErrorCode, message: &str, context: &Context<'_>) {
        self.reply(&Reply::CommandRefused { id, code, message }, context);
    }

    /// Queues the `response` to a command that came too fast.
    pub(super) fn rate_limited_command(&mut self, id: &RequestId, wait_ms: u32, context: &Context<'_>) {
        let message = format!("too fast; retry after {wait_ms} ms");
        self.refuse_command(id, ErrorCode::RateLimited, &message, context);
    }

    /// Queues the frame that `append` appends.
    pub(super) fn frame(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        append(&mut self.bytes);
        let end = self.bytes.len();
        self.list.push(Output::Reply { start, end });
    }
}
