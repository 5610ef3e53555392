//! Takes the inputs of a session, dispatches them, and ends the session.

use super::activity::SubscriptionChange;
use super::{CONTROL_FRAMES_PER_SECOND, Context, Input, Output, Outputs, Session};
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::{ClientMessage, ErrorCode, Malformed, MessageType, Reply, RequestRef};
use tickgate_protocol::wire::{self, encode};

impl Session {
    /// Takes one input and appends what the session asks for because of it. Does nothing once the session has ended.
    pub fn handle(&mut self, input: Input<'_>, context: &Context<'_>, scratch: &mut Scratch, out: &mut Outputs) {
        if self.closed {
            return;
        }
        let held_input = !self.wants_input();
        let is_frame = matches!(input, Input::Frame(_));
        match input {
            Input::Opened => self.on_opened(context, out),
            Input::Frame(message) => self.on_frame(message, context, scratch, out),
            Input::Malformed(error) => self.end_because(error.disconnect(), error.reason(), out),
            Input::Lost => self.end(Disconnect::Lost, out),
            Input::Verified { request, outcome } => self.on_verified(request, outcome, context, out),
            Input::Subscribed {
                request,
                patterns,
                outcome,
            } => self.on_subscribed(request, patterns, &outcome, context, out),
            Input::Overloaded {
                request,
                retry_after_ms,
            } => self.on_overloaded(request, retry_after_ms, context, out),
            Input::TakenBack { request, suspended } => self.on_taken_back(request, suspended, context, out),
            Input::Published { request, position } => self.on_published(request, position, context, out),
            Input::SubscribeRefused { request } => self.on_subscribe_refused(request, context, out),
            Input::PublishRefused { request, refusal } => self.on_publish_refused(request, refusal, context, out),
            Input::PublishLimited { request } => self.on_publish_limited(request, context, out),
            Input::PublishMalformed { request, error } => self.on_publish_malformed(request, error, context, out),
            Input::History { request_ref, page } => self.on_history_page(&request_ref, &page, context, out),
            Input::HistoryLimited {
                request_ref,
                retry_after_ms,
            } => Self::on_history_limited(&request_ref, retry_after_ms, context, out),
            Input::Responded { request, outcome } => self.on_response(request, outcome, context, out),
            Input::Timer => self.on_timer(context, out),
            Input::Challenge => self.on_challenge(context, out),
            Input::End(ending) => self.end(ending, out),
            // Before CONNECT the client expects no message.
            Input::GoingAway { .. } if self.is_connecting() => {}
            Input::GoingAway {
                close_in_ms,
                reconnect_after_ms,
            } => {
                let reply = Reply::GoingAway {
                    close_in_ms,
                    reconnect_after_ms,
                    cursor: self.cursor(context),
                    beyond: context.beyond,
                };
                out.reply(&reply, context);
            }
        }
        if held_input && self.wants_input() {
            // The client may have sent frames that were not read meanwhile, so its silence begins now.
            self.last_seen_ms = context.now.mono_ms;
        }
        if !is_frame {
            // The box is freed as soon as the answer to a request is here. Otherwise a crowd that has just subscribed
            // would hold half as much memory again until its first heartbeats. After a frame it is kept, because the
            // next frame may need it again.
            self.activity.take_if(|activity| activity.is_idle(context.now.mono_ms));
        }
        self.update_deadline(context);
    }

    /// Ends the session from the gateway's side, with a Close frame unless the connection is lost.
    pub(super) fn end(&mut self, ending: Disconnect, out: &mut Outputs) {
        self.end_because(ending, ending.reason(), out);
    }

    /// Ends the session because the client broke a rule, which the Close frame names.
    pub(super) fn end_because(&mut self, ending: Disconnect, rule: &'static str, out: &mut Outputs) {
        if let Some(engine_io) = &mut self.engine_io {
            engine_io.ending_reason = Some(rule);
        }
        if !self.send_ending(ending, rule, out) && ending != Disconnect::Lost {
            out.frame(|bytes| encode::close_because(bytes, ending, rule));
        }
        self.close(ending, out);
    }

    /// Ends the session. The Close frame, if one is due, was queued before.
    pub(super) fn close(&mut self, ending: Disconnect, out: &mut Outputs) {
        self.closed = true;
        self.activity = None;
        if self.engine_io.is_some() {
            out.list.extend(self.suspend(ending));
        }
        out.list.push(Output::Close(ending));
    }

    fn on_frame(
        &mut self,
        message: wire::Message<'_>,
        context: &Context<'_>,
        scratch: &mut Scratch,
        out: &mut Outputs,
    ) {
        self.last_seen_ms = context.now.mono_ms;
        if self.has_expired(context) {
            // The timer has not fired yet, but an expired token gives no rights.
            return self.end(Disconnect::TokenExpired, out);
        }
        if self.is_late_to_authenticate(context) {
            // Otherwise a token that follows a bad one would gain the time of its own verification.
            return self.end(Disconnect::AuthTimeout, out);
        }
        match message {
            wire::Message::Close(close) => {
                // RFC 6455, section 5.5.1: the answer typically echoes the status code received.
                let code = close.map(|(code, _)| code);
                out.frame(|bytes| encode::close_echo(bytes, code));
                self.close(Disconnect::Normal, out);
            }
            wire::Message::Ping(payload) => {
                if self.count_control_frame(context, out) {
                    out.frame(|bytes| encode::pong(bytes, payload));
                }
            }
            wire::Message::Pong(_) => {
                self.note_pong(context.now);
                self.count_control_frame(context, out);
            }
            wire::Message::Text(text) if context.settings.dialect == Dialect::Echo => {
                out.frame(|bytes| encode::text(bytes, text));
            }
            wire::Message::Binary(payload) if context.settings.dialect == Dialect::Echo => {
                out.frame(|bytes| encode::binary(bytes, payload));
            }
            wire::Message::Binary(_) => self.on_attachment(context, out),
            wire::Message::Text(text) if self.engine_io.is_some() => self.on_packet(text, context, scratch, out),
            wire::Message::Text(text) => self.on_text(text, context, scratch, out),
        }
    }

    /// Counts a ping or pong frame. Ends the session and returns `false` if there were too many.
    pub(super) fn count_control_frame(&mut self, context: &Context<'_>, out: &mut Outputs) -> bool {
        if context.settings.dialect == Dialect::Echo {
            return true;
        }
        let taken = self.control_frames.take(CONTROL_FRAMES_PER_SECOND, context.now.mono_ms);
        if taken.is_err() {
            self.end(Disconnect::RateLimitAbuse, out);
        }
        taken.is_ok()
    }

    fn on_text(&mut self, text: &str, context: &Context<'_>, scratch: &mut Scratch, out: &mut Outputs) {
        let rate = context.settings.limits.messages_per_second;
        if let Err(wait_ms) = self.messages.take(rate, context.now.mono_ms) {
            return self.refuse_text(text, wait_ms, context, scratch, out);
        }
        match context.settings.dialect.parse(text, scratch) {
            Ok(message) => self.on_message(message, context, out),
            Err(malformed) => self.on_malformed(&malformed, context, out),
        }
    }

    /// Refuses a text message because the messages' bucket is empty. A request with an id, or with an acknowledgement, is
    /// answered; anything else is counted and reported.
    pub(super) fn refuse_text(
        &mut self,
        text: &str,
        wait_ms: u32,
        context: &Context<'_>,
        scratch: &mut Scratch,
        out: &mut Outputs,
    ) {
        // It may have been one of them.
        self.take_parts();
        let rate = context.settings.limits.messages_per_second;
        out.explain(|| Some(format!("limits.messages_per_second is {rate}")));
        match context.settings.dialect.request_head(text, scratch) {
            Some(head) => {
                let abuse = self.activity().refusals.count(context.now.mono_ms);
                out.refused_messages += 1;
                out.rate_limited(head, wait_ms, context);
                if abuse {
                    self.end(Disconnect::RateLimitAbuse, out);
                }
            }
            None => self.refuse_message(context, out),
        }
    }

    /// Counts a message that came too fast, was not parsed and has no id. Ends the session if there were too many of them.
    pub(super) fn refuse_message(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let refusals = &mut self.activity().refusals;
        let abuse = refusals.count(context.now.mono_ms);
        refusals.add_unreported();
        out.refused_messages += 1;
        self.report_refusals(context, out);
        if abuse {
            self.end(Disconnect::RateLimitAbuse, out);
        }
    }

    /// Tells the client how many messages without an id were refused since the last report, at most once a second.
    pub(super) fn report_refusals(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let now_ms = context.now.mono_ms;
        let Some(activity) = &mut self.activity else { return };
        if let Some(refused) = activity.refusals.take_report(now_ms) {
            let mut bucket = self.messages;
            let rate = context.settings.limits.messages_per_second;
            let reply = Reply::RateLimited {
                request_ref: &RequestRef::default(),
                retry_after_ms: bucket.take(rate, now_ms).err().unwrap_or(0),
                refused,
            };
            out.reply(&reply, context);
        }
    }

    pub(super) fn on_message(&mut self, message: ClientMessage<'_>, context: &Context<'_>, out: &mut Outputs) {
        let message = message.in_tenant(context.settings.tenant);
        if self.identity.is_none() && !needs_no_identity(Some(message.message_type())) {
            return match message {
                ClientMessage::Command { id, .. } | ClientMessage::CommandStatus { id, .. } => {
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
                resume,
                max_rate,
                more,
            } => self.change_subscriptions(
                SubscriptionChange {
                    subscribe: true,
                    request_ref,
                    patterns,
                    resume,
                    max_rate,
                    more,
                },
                context,
                out,
            ),
            ClientMessage::Unsubscribe { request_ref, patterns } => self.change_subscriptions(
                SubscriptionChange {
                    subscribe: false,
                    request_ref,
                    patterns,
                    resume: None,
                    max_rate: None,
                    more: false,
                },
                context,
                out,
            ),
            ClientMessage::Command {
                id,
                action,
                params,
                key,
                trace,
            } => self.command(id, action, params, (key, trace), context, out),
            ClientMessage::CommandStatus { id, key } => self.command_status(id, key, context, out),
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

    pub(super) fn on_malformed(&mut self, malformed: &Malformed, context: &Context<'_>, out: &mut Outputs) {
        let Malformed {
            code,
            message,
            request_ref,
            message_type,
        } = malformed;
        if matches!(message_type, Some(MessageType::Subscribe) | None) {
            self.take_parts();
        }
        // A message without a type gets the error about the missing type. A message whose type needs authentication
        // gets the error about authentication, whatever else is wrong with it.
        let names_a_type = message_type.is_some() || *code == ErrorCode::UnknownType;
        let unauthenticated = self.identity.is_none() && names_a_type && !needs_no_identity(*message_type);
        let (code, message) = if unauthenticated {
            (ErrorCode::Unauthenticated, NOT_AUTHENTICATED)
        } else {
            (*code, &**message)
        };
        match (&request_ref.id, message_type) {
            (Some(id), Some(message_type)) if message_type.has_response() => {
                if unauthenticated || self.take_command_token(id, context, out) {
                    out.refuse_command(id, code, message, context);
                }
            }
            // Every `auth` is answered with `auth_result`, a malformed one too.
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

const NOT_AUTHENTICATED: &str = "send `auth` with a token first";

// Whether messages of this type are served before authentication.
const fn needs_no_identity(message_type: Option<MessageType>) -> bool {
    matches!(
        message_type,
        Some(MessageType::Auth | MessageType::Ping | MessageType::Pong)
    )
}
