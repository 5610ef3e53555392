//! Commands, publishing, history requests, and `get_status`.

use bytes::Bytes;

use super::activity::PendingRequest;
use super::{COMMANDS_IN_FLIGHT_MAX, Command, CommandOutcome, Context, HistoryPage, Output, Outputs, Session};
use crate::event::{NewEvent, PublishOptions, Refusal};
use tickgate_protocol::channel::Channel;
use tickgate_protocol::json::BookError;
use tickgate_protocol::message::{CommandKey, ErrorCode, HistoryRange, Position, Reply, RequestId, RequestRef, Status};
use tickgate_protocol::trace_context::TraceParent;

/// Why an anonymous client gets no key: another one could read its outcome.
const KEY_WITHOUT_USER: &str = "a `key` needs a user: send `auth` with a token first, or leave the key out";

/// After how many milliseconds a publisher that was too fast may try again: its bucket is full then.
const PUBLISH_RETRY_AFTER_MS: u32 = 1000;

impl Session {
    pub(super) fn command(
        &mut self,
        id: RequestId,
        action: Channel,
        params: &str,
        (key, trace): (Option<CommandKey>, Option<TraceParent>),
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        if !self.take_command_token(&id, context, out) {
            return;
        }
        let Some(identity) = self.identity.clone() else { return };
        let is_duplicate = self.activity().in_flight().any(|(_, in_flight)| *in_flight == id);
        let is_forbidden = !is_duplicate && !identity.may_command(&action);
        let refusal = if is_forbidden {
            out.explain(|| Some(format!("{action}: {}", identity.explain_command(&action).err()?)));
            let message = format!("action \"{action}\" is not allowed for this user");
            Some((ErrorCode::Forbidden, message))
        } else if key.is_some() && identity.user.is_none() {
            Some((ErrorCode::Forbidden, KEY_WITHOUT_USER.to_owned()))
        } else {
            self.in_flight_refusal(is_duplicate)
        };
        let command = Command {
            id,
            action,
            params: Bytes::copy_from_slice(params.as_bytes()),
            key,
            trace,
            identity,
        };
        if let Some((code, message)) = refusal {
            out.refuse_command(&command.id, code, &message, context);
            if is_forbidden {
                out.list.push(Output::Forbidden { command });
            }
            return;
        }
        let request = self.next_request();
        self.activity().commands.push((request, command.id.clone()));
        out.list.push(Output::Command { request, command });
    }

    pub(super) fn command_status(&mut self, id: RequestId, key: CommandKey, context: &Context<'_>, out: &mut Outputs) {
        if !self.take_command_token(&id, context, out) {
            return;
        }
        let Some(identity) = self.identity.clone() else { return };
        let is_duplicate = self.activity().in_flight().any(|(_, in_flight)| *in_flight == id);
        let refusal = if identity.user.is_none() {
            Some((ErrorCode::Forbidden, KEY_WITHOUT_USER.to_owned()))
        } else {
            self.in_flight_refusal(is_duplicate)
        };
        if let Some((code, message)) = refusal {
            return out.refuse_command(&id, code, &message, context);
        }
        let request = self.next_request();
        self.activity().commands.push((request, id));
        out.list.push(Output::CommandStatus { request, identity, key });
    }

    /// Why no further command may be in flight.
    fn in_flight_refusal(&mut self, is_duplicate: bool) -> Option<(ErrorCode, String)> {
        if is_duplicate {
            let message = "a command with this id is still in flight on this connection".to_owned();
            return Some((ErrorCode::DuplicateId, message));
        }
        let is_full = self.activity().in_flight().count() >= COMMANDS_IN_FLIGHT_MAX;
        is_full.then(|| {
            let message = format!("{COMMANDS_IN_FLIGHT_MAX} commands are in flight on this connection");
            (ErrorCode::RateLimited, message)
        })
    }

    /// Takes a token from the commands' bucket. Without one, answers the command and returns `false`. Malformed
    /// commands count too.
    pub(super) fn take_command_token(&mut self, id: &RequestId, context: &Context<'_>, out: &mut Outputs) -> bool {
        let rate = context.settings.limits.commands_per_second;
        match self.activity().command_meter.take(rate, context.now.mono_ms) {
            Ok(()) => true,
            Err(wait_ms) => {
                out.explain(|| Some(format!("limits.commands_per_second is {rate}")));
                out.rate_limited_command(id, wait_ms, context);
                false
            }
        }
    }

    pub(super) fn on_response(
        &mut self,
        request: u32,
        outcome: CommandOutcome,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(activity) = &mut self.activity else { return };
        activity.orphaned_commands.retain(|(pending, _)| *pending != request);
        let Some(index) = activity.commands.iter().position(|(pending, _)| *pending == request) else {
            return;
        };
        let (_, id) = activity.commands.swap_remove(index);
        let reply = match &outcome {
            CommandOutcome::Success { data } => Reply::CommandSucceeded { id: &id, data },
            CommandOutcome::Failure { error } => Reply::CommandFailed { id: &id, error },
            CommandOutcome::Refused { code, message } => Reply::CommandRefused {
                id: &id,
                code: *code,
                message,
            },
        };
        out.reply(&reply, context);
    }

    pub(super) fn publish(
        &mut self,
        request_ref: RequestRef,
        channel: Channel,
        event: &str,
        data: &str,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(identity) = &self.identity else { return };
        if !identity.may_publish(&channel) {
            out.explain(|| Some(format!("{channel}: {}", identity.explain_publish(&channel).err()?)));
            let message = format!("publishing to \"{channel}\" is not allowed for this user");
            return out.error(&request_ref, ErrorCode::Forbidden, &message, context);
        }
        let limit = context.settings.limits.event_bytes;
        if data.len() > limit as usize {
            let message = format!("`data` is longer than {limit} bytes");
            return out.error(&request_ref, ErrorCode::MessageTooLarge, &message, context);
        }
        let publisher = identity.publisher();
        let request = self.next_request();
        self.activity().publish = Some(PendingRequest { request, request_ref });
        out.list.push(Output::Publish {
            request,
            event: NewEvent {
                channel,
                name: event.into(),
                data: Bytes::copy_from_slice(data.as_bytes()),
                timestamp_ms: context.now.unix_ms,
                options: PublishOptions {
                    publisher,
                    ..PublishOptions::default()
                },
            },
        });
    }

    pub(super) fn on_published(
        &mut self,
        request: u32,
        position: Option<Position>,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(activity) = &mut self.activity else { return };
        let Some(PendingRequest { request_ref, .. }) = activity.publish.take_if(|pending| pending.request == request)
        else {
            return;
        };
        if request_ref.id.is_some() {
            let request_ref = &request_ref;
            out.reply(&Reply::Published { request_ref, position }, context);
        }
    }

    pub(super) fn on_publish_limited(&mut self, request: u32, context: &Context<'_>, out: &mut Outputs) {
        let Some(activity) = &mut self.activity else { return };
        if let Some(pending) = activity.publish.take_if(|pending| pending.request == request) {
            let reply = Reply::RateLimited {
                request_ref: &pending.request_ref,
                retry_after_ms: PUBLISH_RETRY_AFTER_MS,
                refused: 1,
            };
            out.reply(&reply, context);
        }
    }

    /// The event is not published, or may not be.
    pub(super) fn on_publish_refused(
        &mut self,
        request: u32,
        refusal: Refusal,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(activity) = &mut self.activity else { return };
        if let Some(pending) = activity.publish.take_if(|pending| pending.request == request) {
            let code = match refusal {
                Refusal::Unavailable | Refusal::Rejected => ErrorCode::BrokerUnavailable,
                Refusal::Unknown => ErrorCode::OutcomeUnknown,
            };
            out.error(&pending.request_ref, code, &refusal.to_string(), context);
        }
    }

    pub(super) fn on_publish_malformed(
        &mut self,
        request: u32,
        error: BookError,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(activity) = &mut self.activity else { return };
        if let Some(pending) = activity.publish.take_if(|pending| pending.request == request) {
            let message = error.describe();
            out.error(&pending.request_ref, ErrorCode::InvalidMessage, &message, context);
        }
    }

    pub(super) fn history(
        &self,
        request_ref: RequestRef,
        channel: Channel,
        range: HistoryRange,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let Some(identity) = &self.identity else { return };
        // Reading a channel's history needs the same permission as subscribing.
        let pattern = channel.clone().into();
        if !identity.may_subscribe(&pattern) {
            out.explain(|| Some(format!("{channel}: {}", identity.explain_subscribe(&pattern).err()?)));
            let message = format!("channel \"{channel}\" is not allowed for this user");
            return out.error(&request_ref, ErrorCode::Forbidden, &message, context);
        }
        out.list.push(Output::History {
            request_ref,
            channel,
            range,
        });
    }

    pub(super) fn on_history_page(
        &self,
        request_ref: &RequestRef,
        page: &HistoryPage,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let reply = Reply::History {
            request_ref,
            epoch: page.epoch,
            events: &page.events,
            complete: page.complete,
            offset: page.offset,
            more: page.more,
            cursor: self.cursor(context),
        };
        out.reply(&reply, context);
    }

    pub(super) fn on_history_limited(
        request_ref: &RequestRef,
        retry_after_ms: u32,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let reply = Reply::RateLimited {
            request_ref,
            retry_after_ms,
            refused: 1,
        };
        out.reply(&reply, context);
    }

    pub(super) fn status(&self, request_ref: &RequestRef, context: &Context<'_>, out: &mut Outputs) {
        let max_rates = self.max_rates(context.settings);
        let status = Status {
            request_ref,
            connected_at_ms: self.connected_unix_ms,
            subscriptions: &self.patterns,
            max_rates: &max_rates,
            bytes_per_second: Some(self.bytes_per_second(context.settings)).filter(|bytes| *bytes > 0),
            message_count: context.delivered,
            client_id: &self.client_id(),
            user: self.identity.as_ref().and_then(|identity| identity.user.as_deref()),
            dropped: context.dropped,
        };
        out.reply(&Reply::Status(status), context);
    }
}
