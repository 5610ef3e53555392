//! Encodes replies and events as frames.

mod status;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use crate::channel::{Channel, Pattern};
use crate::event::{Epoch, EventView};
use crate::json::{push_i128, push_string, push_u64};
use crate::message::{
    Cursor, ErrorCode, OVERLOADED, Position, Recovered, Reply, RequestId, RequestRef, SubscribeOutcome,
};
use crate::rate::Rate;
use crate::wire::encode::{self, HEADER_BYTES_MAX, Kind};

/// Appends the frame of a reply and returns its range; `None` if this dialect has no such message.
pub(in crate::dialect) fn encode_reply(reply: &Reply<'_>, now_unix_ms: u64, out: &mut Vec<u8>) -> Option<Range<usize>> {
    if let Reply::Connected { .. } = reply {
        return None;
    }
    let frame = encode::begin(out);
    Writer {
        out,
        now_unix_ms,
        style: &Native,
    }
    .reply(reply);
    Some(encode::finish(out, frame, Kind::Text))
}

/// Encodes an event as a frame.
pub(in crate::dialect) fn encode_event(event: &EventView<'_>) -> Bytes {
    // An upper bound for the header, the keys, the punctuation and two long integers.
    const OVERHEAD: usize = HEADER_BYTES_MAX + 136;
    let mut out = Vec::with_capacity(OVERHEAD + event.channel.as_str().len() + event.name.len() + event.data.len());
    let frame = encode::begin(&mut out);
    push(&mut out, "{\"type\":\"event\",\"channel\":");
    push_string(&mut out, event.channel.as_str());
    push(&mut out, ",\"event\":");
    push_string(&mut out, event.name);
    push(&mut out, ",\"timestamp\":");
    push_u64(&mut out, event.timestamp_ms);
    if let Some(offset) = event.offset {
        push(&mut out, ",\"offset\":");
        push_u64(&mut out, offset);
    }
    if event.is_snapshot {
        push(&mut out, ",\"snapshot\":true");
    }
    push(&mut out, ",\"data\":");
    out.extend_from_slice(event.data);
    out.push(b'}');
    let range = encode::finish(&mut out, frame, Kind::Text);
    Bytes::from(out).slice(range)
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn push_names<'n>(names: impl Iterator<Item = &'n str>, out: &mut Vec<u8>) {
    push(out, "[");
    for (index, name) in names.enumerate() {
        if index > 0 {
            push(out, ",");
        }
        push_string(out, name);
    }
    push(out, "]");
}

/// The parts in which the replies of the JSON dialects differ.
pub(in crate::dialect) trait Style {
    /// Appends the value of `timestamp`.
    fn push_time(&self, unix_ms: u64, out: &mut Vec<u8>);

    /// The `message` of `connected`.
    fn connected_message(&self) -> &str;

    /// Appends the subscriptions of a connection as a JSON array, as `status` shows them.
    fn push_subscriptions(&self, patterns: &[Pattern], out: &mut Vec<u8>);

    /// The text that names a subscription where it is a key.
    fn subscription_text<'p>(&self, pattern: &'p Pattern) -> Cow<'p, str> {
        pattern.as_str().into()
    }

    /// Whether messages have a member `cursor`.
    fn has_cursors(&self) -> bool {
        true
    }
}

struct Native;

impl Style for Native {
    fn push_time(&self, unix_ms: u64, out: &mut Vec<u8>) {
        push_u64(out, unix_ms);
    }

    // This dialect has no `connected`.
    fn connected_message(&self) -> &'static str {
        ""
    }

    fn push_subscriptions(&self, patterns: &[Pattern], out: &mut Vec<u8>) {
        push_names(patterns.iter().map(Pattern::as_str), out);
    }
}

/// Writes replies as JSON. Other dialects use it for the replies that they share.
pub(in crate::dialect) struct Writer<'o, S> {
    pub(in crate::dialect) out: &'o mut Vec<u8>,
    pub(in crate::dialect) now_unix_ms: u64,
    pub(in crate::dialect) style: &'o S,
}

impl<S: Style> Writer<'_, S> {
    pub(in crate::dialect) fn reply(&mut self, reply: &Reply<'_>) {
        match *reply {
            Reply::Connected { client_id, .. } => {
                self.begin_with("connected", None);
                self.push(",\"client_id\":");
                push_string(self.out, client_id);
                self.push(",\"message\":");
                push_string(self.out, self.style.connected_message());
                self.timestamp();
            }
            Reply::AuthAccepted {
                request_ref,
                user,
                role,
                expires_at_ms,
            } => self.auth_accepted(request_ref, user, role, expires_at_ms),
            Reply::AuthRefused {
                request_ref,
                code,
                message,
            } => {
                self.begin("auth_result", request_ref);
                self.push(",\"success\":false");
                self.error(code, message);
            }
            Reply::AuthExpiring { expires_at_ms } => {
                self.begin_unrequested("auth_expiring");
                self.push(",\"data\":{\"expires_at\":");
                push_u64(self.out, expires_at_ms);
                self.push("}");
            }
            Reply::Subscribed {
                request_ref,
                patterns,
                active,
                outcome,
                ignored,
                cursor,
                max_rate,
                ..
            } => {
                self.begin("subscribed", request_ref);
                self.cursor(cursor);
                self.subscriptions(patterns, active);
                self.max_rate(max_rate);
                self.outcome(outcome, ignored);
                self.push("}");
            }
            Reply::Unsubscribed {
                request_ref,
                patterns,
                active,
                lost_permission,
            } => {
                self.begin("unsubscribed", request_ref);
                self.subscriptions(patterns, active);
                if lost_permission {
                    self.push(",\"reason\":\"permission\"");
                }
                self.push("}");
            }
            Reply::CommandSucceeded { id, data } => {
                self.response(id, true);
                self.push(",\"data\":");
                self.out.extend_from_slice(data);
            }
            Reply::CommandFailed { id, error } => {
                self.response(id, false);
                self.push(",\"error\":");
                self.out.extend_from_slice(error);
            }
            Reply::CommandRefused { id, code, message } => {
                self.response(id, false);
                self.error(code, message);
            }
            Reply::Published { request_ref, position } => self.published(request_ref, position),
            Reply::History {
                request_ref,
                epoch,
                events,
                complete,
                offset,
                more,
                cursor,
            } => {
                self.begin("history", request_ref);
                self.cursor(cursor);
                self.history(epoch, events);
                self.push(if complete {
                    ",\"complete\":true"
                } else {
                    ",\"complete\":false"
                });
                if let Some(offset) = offset {
                    self.push(",\"offset\":");
                    push_u64(self.out, offset);
                }
                self.push(if more { ",\"more\":true}" } else { ",\"more\":false}" });
            }
            Reply::Ping { cursor } => {
                self.begin_unrequested("ping");
                self.cursor(cursor);
            }
            Reply::Progress { cursor, .. } => {
                self.begin_unrequested("cursor");
                self.cursor(Some(cursor));
            }
            Reply::Pong { request_ref } => self.begin("pong", request_ref),
            Reply::Status(ref status) => self.status(status),
            Reply::Error {
                request_ref,
                code,
                message,
            } => {
                self.begin("error", request_ref);
                self.error(code, message);
            }
            Reply::RateLimited {
                request_ref,
                retry_after_ms,
                refused,
            } => self.rate_limited(request_ref, retry_after_ms, refused),
            Reply::Overloaded {
                request_ref,
                retry_after_ms,
            } => {
                self.begin("error", request_ref);
                self.error(ErrorCode::Overloaded, OVERLOADED);
                self.push(",\"data\":{\"retry_after_ms\":");
                push_u64(self.out, u64::from(retry_after_ms));
                self.push("}");
            }
            Reply::Dropped { count, channels } => {
                self.begin_unrequested("dropped");
                self.push(",\"data\":{\"count\":");
                push_u64(self.out, count);
                self.push(",\"channels\":");
                push_names(channels.iter().map(Channel::as_str), self.out);
                self.push("}");
            }
            Reply::Freshness {
                is_stale,
                count,
                channels,
            } => {
                self.begin_unrequested(if is_stale { "stale" } else { "fresh" });
                self.push(",\"data\":{\"count\":");
                push_u64(self.out, count);
                self.push(",\"channels\":");
                push_names(channels.iter().map(Channel::as_str), self.out);
                self.push("}");
            }
            Reply::GoingAway {
                close_in_ms,
                reconnect_after_ms,
                cursor,
                ..
            } => {
                self.begin_unrequested("going_away");
                self.cursor(cursor);
                self.push(",\"data\":{\"reason\":\"restart\",\"close_in_ms\":");
                push_u64(self.out, close_in_ms);
                self.push(",\"reconnect_after_ms\":");
                push_u64(self.out, reconnect_after_ms);
                self.push("}");
            }
        }
        self.push("}");
    }

    pub(in crate::dialect) fn push(&mut self, text: &str) {
        push(self.out, text);
    }

    /// Starts a message that does not answer a request.
    fn begin_unrequested(&mut self, message_type: &str) {
        self.begin_with(message_type, None);
        self.timestamp();
    }

    fn begin(&mut self, message_type: &str, request_ref: &RequestRef) {
        self.begin_with(message_type, request_ref.id.as_ref());
        self.timestamp();
    }

    pub(in crate::dialect) fn begin_with(&mut self, message_type: &str, id: Option<&RequestId>) {
        self.push("{\"type\":\"");
        self.push(message_type);
        self.push("\"");
        match id {
            Some(RequestId::Text(text) | RequestId::Acknowledgement { id: Some(text), .. }) => {
                self.push(",\"id\":");
                push_string(self.out, text);
            }
            Some(RequestId::Number(number)) => {
                self.push(",\"id\":");
                push_i128(self.out, *number);
            }
            // The acknowledgement id is in the packet, outside the message.
            Some(RequestId::Acknowledgement { id: None, .. }) | None => {}
        }
    }

    pub(in crate::dialect) fn timestamp(&mut self) {
        self.push(",\"timestamp\":");
        self.style.push_time(self.now_unix_ms, self.out);
    }

    fn error(&mut self, code: ErrorCode, message: &str) {
        self.push(",\"error\":{\"code\":\"");
        self.push(code.as_str());
        self.push("\",\"message\":");
        push_string(self.out, message);
        self.push("}");
    }

    fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => push_string(self.out, text),
            None => self.push("null"),
        }
    }

    fn subscriptions(&mut self, patterns: &[Pattern], active: usize) {
        self.push(",\"data\":{\"channels\":");
        push_names(patterns.iter().map(Pattern::as_str), self.out);
        self.push(",\"active_subscriptions\":");
        push_u64(self.out, active as u64);
    }

    fn auth_accepted(
        &mut self,
        request_ref: &RequestRef,
        user: Option<&str>,
        role: Option<&str>,
        expires_at_ms: Option<u64>,
    ) {
        self.begin("auth_result", request_ref);
        self.push(",\"success\":true,\"data\":{\"user\":");
        self.text_or_null(user);
        self.push(",\"role\":");
        self.text_or_null(role);
        self.push(",\"expires_at\":");
        match expires_at_ms {
            Some(at) => push_u64(self.out, at),
            None => self.push("null"),
        }
        self.push("}");
    }

    fn response(&mut self, id: &RequestId, success: bool) {
        self.begin_with("response", Some(id));
        self.timestamp();
        self.push(if success {
            ",\"success\":true"
        } else {
            ",\"success\":false"
        });
    }

    fn published(&mut self, request_ref: &RequestRef, position: Option<Position>) {
        self.begin_with("published", request_ref.id.as_ref());
        self.push(",\"data\":");
        match position {
            Some(position) => self.position(position),
            None => self.push("{}"),
        }
    }

    fn position(&mut self, position: Position) {
        self.push("{\"epoch\":\"");
        self.push(&position.epoch.to_string());
        self.push("\",\"offset\":");
        push_u64(self.out, position.offset);
        self.push("}");
    }

    /// Appends the granted rate, if there is a limit.
    pub(in crate::dialect) fn max_rate(&mut self, max_rate: Option<Rate>) {
        if let Some(rate) = max_rate {
            self.push(",\"max_rate\":");
            self.push(rate.as_str());
        }
    }

    /// Appends the members of `subscribed` about histories. Appends nothing if there are none.
    pub(in crate::dialect) fn outcome(&mut self, outcome: &SubscribeOutcome, ignored: &[Channel]) {
        if !outcome.positions.is_empty() {
            self.push(",\"positions\":{");
            for (index, (channel, position)) in outcome.positions.iter().enumerate() {
                self.key(index, channel);
                self.position(*position);
            }
            self.push("}");
        }
        if outcome.cut {
            self.push(",\"positions_complete\":false");
        }
        match &outcome.recovered {
            None => {}
            Some(Recovered::Except(names)) if names.is_empty() && !outcome.cut => self.push(",\"recovered\":true"),
            Some(Recovered::Except(names)) => self.recovered(names.iter().map(|name| (name, false))),
            Some(Recovered::Each(names)) => self.recovered(names.iter().map(|(name, is_whole)| (name, *is_whole))),
        }
        if !ignored.is_empty() {
            self.push(",\"ignored\":");
            push_names(ignored.iter().map(Channel::as_str), self.out);
        }
        if outcome.more {
            self.push(",\"more\":true");
        }
    }

    fn recovered<'c>(&mut self, channels: impl Iterator<Item = (&'c Channel, bool)>) {
        self.push(",\"recovered\":{");
        for (index, (channel, is_whole)) in channels.enumerate() {
            self.key(index, channel);
            self.push(if is_whole { "true" } else { "false" });
        }
        self.push("}");
    }

    /// Appends the member `cursor`, if there is one.
    pub(in crate::dialect) fn cursor(&mut self, cursor: Option<Cursor>) {
        if let Some(cursor) = cursor.filter(|_| self.style.has_cursors()) {
            self.push(&format!(",\"cursor\":\"{cursor}\""));
        }
    }

    fn key(&mut self, index: usize, channel: &Channel) {
        if index > 0 {
            self.push(",");
        }
        push_string(self.out, channel.as_str());
        self.push(":");
    }

    fn history(&mut self, epoch: Epoch, events: &[Bytes]) {
        self.push(",\"data\":{\"epoch\":\"");
        self.push(&epoch.to_string());
        self.push("\",\"events\":[");
        for (index, event) in events.iter().enumerate() {
            if index > 0 {
                self.push(",");
            }
            self.out.extend_from_slice(event);
        }
        self.push("]");
    }

    fn rate_limited(&mut self, request_ref: &RequestRef, retry_after_ms: u32, refused: u32) {
        self.begin("error", request_ref);
        self.error(ErrorCode::RateLimited, "too many messages");
        self.push(",\"data\":{\"retry_after_ms\":");
        push_u64(self.out, u64::from(retry_after_ms));
        self.push(",\"refused\":");
        push_u64(self.out, u64::from(refused));
        self.push("}");
    }
}
