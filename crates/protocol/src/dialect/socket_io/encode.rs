//! From replies and events to frames: the typed dialect's JSON in Socket.IO's envelope.

use std::ops::Range;

use bytes::Bytes;

use super::Settings;
use super::packet::MAIN;
use crate::channel::Pattern;
use crate::dialect::engine_io::Revision;
use crate::dialect::native::{Style, Writer};
use crate::dialect::typed::{Timestamps, public_name, push_message, push_user, write_reply};
use crate::disconnect::Disconnect;
use crate::event::EventView;
use crate::json::{push_string, push_u64};
use crate::message::{ErrorCode, Reply, RequestId, RequestRef};
use crate::wire::encode::{self, HEADER_BYTES_MAX, Kind};

impl Style for Settings {
    fn push_time(&self, unix_ms: u64, out: &mut Vec<u8>) {
        self.timestamps.push(unix_ms, out);
    }

    fn push_subscriptions(&self, patterns: &[Pattern], out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, pattern) in patterns.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_string(out, pattern.as_str());
        }
        out.push(b']');
    }
}

/// The frame of an event, once for all its receivers, of both revisions.
pub(in crate::dialect) fn encode_event(event: &EventView<'_>, timestamps: Timestamps) -> Bytes {
    // The envelope, the keys, the punctuation, the time and the offset come to less than this; a renamed event and its
    // user stand in the channel.
    const AROUND: usize = HEADER_BYTES_MAX + 140;
    let name = public_name(event);
    let channel = event.channel.as_str();
    let mut out = Vec::with_capacity(AROUND + 2 * channel.len() + 2 * name.len() + event.data.len());
    let frame = encode::begin(&mut out);
    out.extend_from_slice(b"42[");
    push_string(&mut out, &name);
    out.push(b',');
    push_message(event, &name, None, timestamps, &mut out);
    out.push(b']');
    let range = encode::finish(&mut out, frame, Kind::Text);
    Bytes::from(out).slice(range)
}

/// Appends the frame of a reply as an event; says where it lies. `None`: it has none, or its acknowledgement is all
/// that answers it.
pub(in crate::dialect) fn encode_reply(
    reply: &Reply<'_>,
    now_unix_ms: u64,
    settings: &Settings,
    out: &mut Vec<u8>,
) -> Option<Range<usize>> {
    let is_acknowledged = acknowledgement(reply).is_some();
    let is_told_anyhow = matches!(reply, Reply::Subscribed { .. } | Reply::Unsubscribed { .. });
    let name = name(reply)?;
    if is_acknowledged && !is_told_anyhow {
        return None;
    }
    let frame = encode::begin(out);
    push(out, "42[\"");
    push(out, name);
    push(out, "\",");
    write_argument(reply, now_unix_ms, settings, out);
    push(out, "]");
    Some(encode::finish(out, frame, Kind::Text))
}

/// Appends the frame of the acknowledgement that the request waits for, if it does.
pub(in crate::dialect) fn encode_acknowledgement(
    reply: &Reply<'_>,
    now_unix_ms: u64,
    settings: &Settings,
    out: &mut Vec<u8>,
) -> Option<Range<usize>> {
    let number = acknowledgement(reply)?;
    let frame = encode::begin(out);
    push(out, "43");
    push_u64(out, number);
    push(out, "[");
    write_outcome(reply, now_unix_ms, settings, out);
    push(out, "]");
    Some(encode::finish(out, frame, Kind::Text))
}

// The event that a reply is. `None`: Engine.IO has its own heartbeat.
const fn name(reply: &Reply<'_>) -> Option<&'static str> {
    Some(match reply {
        Reply::Connected { .. } => "connected",
        Reply::AuthAccepted { .. } | Reply::AuthRefused { .. } => "auth_result",
        Reply::AuthExpiring { .. } => "auth_expiring",
        Reply::Subscribed { .. } => "subscribed",
        Reply::Unsubscribed { .. } => "unsubscribed",
        Reply::CommandSucceeded { .. } | Reply::CommandFailed { .. } | Reply::CommandRefused { .. } => "response",
        Reply::Published { .. } => "published",
        Reply::History { .. } => "history",
        Reply::Ping | Reply::Pong { .. } => return None,
        Reply::Status(_) => "status",
        Reply::Error { .. } | Reply::RateLimited { .. } => "error",
        Reply::Dropped { .. } => "dropped",
        Reply::GoingAway { .. } => "going_away",
    })
}

// The number of the acknowledgement that the request behind a reply waits for.
fn acknowledgement(reply: &Reply<'_>) -> Option<u64> {
    let id = match reply {
        Reply::AuthAccepted { request_ref, .. }
        | Reply::AuthRefused { request_ref, .. }
        | Reply::Subscribed { request_ref, .. }
        | Reply::Unsubscribed { request_ref, .. }
        | Reply::Published { request_ref, .. }
        | Reply::History { request_ref, .. }
        | Reply::Pong { request_ref }
        | Reply::Error { request_ref, .. } => request_ref.id.as_ref(),
        Reply::Status(status) => status.request_ref.id.as_ref(),
        Reply::CommandSucceeded { id, .. } | Reply::CommandFailed { id, .. } | Reply::CommandRefused { id, .. } => {
            Some(*id)
        }
        Reply::Connected { .. }
        | Reply::AuthExpiring { .. }
        | Reply::Ping
        | Reply::RateLimited { .. }
        | Reply::Dropped { .. }
        | Reply::GoingAway { .. } => None,
    };
    match id? {
        RequestId::Acknowledgement { number, .. } => Some(*number),
        RequestId::Text(_) | RequestId::Number(_) => None,
    }
}

// The argument of a reply's event.
fn write_argument(reply: &Reply<'_>, now_unix_ms: u64, settings: &Settings, out: &mut Vec<u8>) {
    match *reply {
        Reply::Connected { client_id, user } => {
            push(out, "{\"client_id\":");
            push_string(out, client_id);
            push(out, ",\"user_id\":");
            match user {
                Some(user) => push_user(user, out),
                None => push(out, "null"),
            }
            push(out, ",\"message\":\"Socket.IO connected\"");
            timestamp(now_unix_ms, settings, out);
            push(out, "}");
        }
        Reply::Error { code, message, .. } => error(code, message, out),
        Reply::RateLimited {
            retry_after_ms,
            refused,
        } => {
            push(
                out,
                "{\"code\":\"RATE_LIMITED\",\"message\":\"too many messages\",\"data\":{\"retry_after_ms\":",
            );
            push_u64(out, retry_after_ms.into());
            push(out, ",\"refused\":");
            push_u64(out, refused.into());
            push(out, "}}");
        }
        _ => write_reply(
            &mut Writer {
                out,
                now_unix_ms,
                style: settings,
            },
            reply,
        ),
    }
}

// The argument of an acknowledgement: `success`, and `data`, `error` or what was subscribed.
fn write_outcome(reply: &Reply<'_>, now_unix_ms: u64, settings: &Settings, out: &mut Vec<u8>) {
    match *reply {
        Reply::CommandSucceeded { data, .. } => {
            push(out, "{\"success\":true,\"data\":");
            out.extend_from_slice(data);
            push(out, "}");
        }
        Reply::CommandFailed { error, .. } => {
            push(out, "{\"success\":false,\"error\":");
            out.extend_from_slice(error);
            push(out, "}");
        }
        Reply::CommandRefused { code, message, .. }
        | Reply::AuthRefused { code, message, .. }
        | Reply::Error { code, message, .. } => {
            push(out, "{\"success\":false,\"error\":");
            error(code, message, out);
            push(out, "}");
        }
        Reply::Subscribed { request_ref, .. } | Reply::Unsubscribed { request_ref, .. } => {
            push(out, "{\"success\":true");
            push(out, &request_ref.members);
            timestamp(now_unix_ms, settings, out);
            push(out, "}");
        }
        _ => write_argument(reply, now_unix_ms, settings, out),
    }
}

/// Appends the packet that connects a client to the main namespace: with its public name in revision 5, bare in 4.
pub fn encode_connect(revision: Revision, client_id: &str, out: &mut Vec<u8>) -> Range<usize> {
    let frame = encode::begin(out);
    push(out, "40");
    if revision == Revision::Four {
        push(out, "{\"sid\":");
        push_string(out, client_id);
        push(out, "}");
    }
    encode::finish(out, frame, Kind::Text)
}

/// Appends the packet that refuses to connect a client: an object with the code in `data` in revision 5, the bare
/// message in 4.
pub fn encode_connect_error(revision: Revision, code: ErrorCode, message: &str, out: &mut Vec<u8>) -> Range<usize> {
    let data = Some(code);
    connect_error(revision, MAIN, message, data, out)
}

/// Appends the packet that refuses a namespace.
pub fn encode_invalid_namespace(revision: Revision, namespace: &str, out: &mut Vec<u8>) -> Range<usize> {
    connect_error(revision, namespace, "Invalid namespace", None, out)
}

fn connect_error(
    revision: Revision,
    namespace: &str,
    message: &str,
    code: Option<ErrorCode>,
    out: &mut Vec<u8>,
) -> Range<usize> {
    let frame = encode::begin(out);
    push(out, "44");
    if namespace != MAIN {
        push(out, namespace);
        push(out, ",");
    }
    match revision {
        Revision::Three => push_string(out, message),
        Revision::Four => {
            push(out, "{\"message\":");
            push_string(out, message);
            if let Some(code) = code {
                push(out, ",\"data\":{\"code\":\"");
                push(out, code.as_str());
                push(out, "\"}");
            }
            push(out, "}");
        }
    }
    encode::finish(out, frame, Kind::Text)
}

/// Appends the event that tells of an ending: `error` with the ending's name, its reason, and the close code that a
/// WebSocket gets and a poll does not.
pub fn encode_ending(ending: Disconnect, out: &mut Vec<u8>) -> Range<usize> {
    let frame = encode::begin(out);
    push(out, "42[\"error\",{\"code\":\"");
    push(out, &ending.label().to_ascii_uppercase());
    push(out, "\",\"message\":");
    push_string(out, ending.reason());
    push(out, ",\"close_code\":");
    push_u64(out, ending.code().into());
    push(out, "}]");
    encode::finish(out, frame, Kind::Text)
}

/// Appends the packet after which an official client does not come back by itself.
pub fn encode_disconnect(out: &mut Vec<u8>) -> Range<usize> {
    let frame = encode::begin(out);
    push(out, "41");
    encode::finish(out, frame, Kind::Text)
}

fn error(code: ErrorCode, message: &str, out: &mut Vec<u8>) {
    push(out, "{\"code\":\"");
    push(out, code.as_str());
    push(out, "\",\"message\":");
    push_string(out, message);
    push(out, "}");
}

fn timestamp(unix_ms: u64, settings: &Settings, out: &mut Vec<u8>) {
    push(out, ",\"timestamp\":");
    settings.timestamps.push(unix_ms, out);
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// The echo of a request that is known by its acknowledgement alone.
pub(super) fn request_ref_of(number: Option<u64>) -> RequestRef {
    RequestRef::of_id(number.map(|number| RequestId::Acknowledgement { number, id: None }))
}
