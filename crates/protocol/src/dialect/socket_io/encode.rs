//! Encodes replies and events: Socket.IO packets with the typed dialect's JSON, as frames.

use std::ops::Range;

use bytes::Bytes;

use super::Settings;
use super::names::is_client_event;
use super::packet::MAIN;
use crate::channel::Pattern;
use crate::dialect::engine_io::Revision;
use crate::dialect::native::{Style, Writer};
use crate::dialect::typed::{Timestamps, public_name, push_message, push_user, write_reply};
use crate::disconnect::Disconnect;
use crate::event::EventView;
use crate::json::{push_string, push_u64};
use crate::message::{Beyond, Cursor, ErrorCode, OVERLOADED, Offset, Reply, RequestId};
use crate::wire::encode::{self, HEADER_BYTES_MAX, Kind};

impl Style for Settings {
    fn push_time(&self, unix_ms: u64, out: &mut Vec<u8>) {
        self.timestamps.push(unix_ms, out);
    }

    fn connected_message(&self) -> &str {
        &self.connected_message
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

    // The cursor is an argument of its own.
    fn has_cursors(&self) -> bool {
        false
    }
}

/// Encodes an event as a frame, for both protocol revisions.
pub(in crate::dialect) fn encode_event(event: &EventView<'_>, timestamps: Timestamps) -> Bytes {
    // An upper bound for the header, the packet around the message, the keys, the punctuation, the time and the offset. The
    // prefix of a renamed event and the user are parts of the channel, which is counted twice.
    const OVERHEAD: usize = HEADER_BYTES_MAX + 140;
    let name = public_name(event, is_client_event);
    let channel = event.channel.as_str();
    let mut out = Vec::with_capacity(OVERHEAD + 2 * channel.len() + 2 * name.len() + event.data.len());
    let frame = encode::begin(&mut out);
    out.extend_from_slice(b"42[");
    push_string(&mut out, &name);
    out.push(b',');
    push_message(event, &name, None, timestamps, &mut out);
    out.push(b']');
    let range = encode::finish(&mut out, frame, Kind::Text);
    Bytes::from(out).slice(range)
}

/// Appends the frame of a reply as an event and returns its range. `None` if the reply is not an event, or if it goes out only
/// as an acknowledgement.
pub(in crate::dialect) fn encode_reply(
    reply: &Reply<'_>,
    now_unix_ms: u64,
    settings: &Settings,
    out: &mut Vec<u8>,
) -> Option<Range<usize>> {
    let is_acknowledged = acknowledgement(reply).is_some();
    let is_always_sent = matches!(reply, Reply::Subscribed { .. } | Reply::Unsubscribed { .. });
    let name = event_name(reply)?;
    if is_acknowledged && !is_always_sent {
        return None;
    }
    let frame = encode::begin(out);
    push(out, "42[\"");
    push(out, name);
    push(out, "\",");
    write_argument(reply, now_unix_ms, settings, out);
    if settings.recovery_window_ms.is_some()
        && let Some((cursor, beyond)) = reached(reply)
    {
        push(out, &format!(",\"{}\"", Offset::beyond(cursor, &beyond)));
    }
    push(out, "]");
    Some(encode::finish(out, frame, Kind::Text))
}

/// Appends the frame of the acknowledgement that the request asked for, and returns its range. `None` if it did not ask.
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

/// The event name of a reply. `None` for heartbeats, which Engine.IO has itself.
const fn event_name(reply: &Reply<'_>) -> Option<&'static str> {
    Some(match reply {
        Reply::Connected { .. } => "connected",
        Reply::AuthAccepted { .. } | Reply::AuthRefused { .. } => "auth_result",
        Reply::AuthExpiring { .. } => "auth_expiring",
        Reply::Subscribed { .. } => "subscribed",
        Reply::Unsubscribed { .. } => "unsubscribed",
        Reply::CommandSucceeded { .. } | Reply::CommandFailed { .. } | Reply::CommandRefused { .. } => "response",
        Reply::Published { .. } => "published",
        Reply::History { .. } => "history",
        Reply::Ping { .. } | Reply::Pong { .. } => return None,
        Reply::Progress { .. } => "cursor",
        Reply::Status(_) => "status",
        Reply::Error { .. } | Reply::RateLimited { .. } | Reply::Overloaded { .. } => "error",
        Reply::Dropped { .. } => "dropped",
        Reply::Freshness { is_stale: true, .. } => "stale",
        Reply::Freshness { .. } => "fresh",
        Reply::GoingAway { .. } => "going_away",
    })
}

/// Up to when the client had everything, as far as a reply says it.
fn reached<'a>(reply: &Reply<'a>) -> Option<(Cursor, Beyond<'a>)> {
    match *reply {
        Reply::Subscribed { cursor, beyond, .. } | Reply::GoingAway { cursor, beyond, .. } => {
            cursor.map(|cursor| (cursor, beyond))
        }
        Reply::Progress { cursor, beyond } => Some((cursor, beyond)),
        _ => None,
    }
}

/// The frame of an event with an offset as its last argument. `frame` is as `encode_event` makes it.
#[must_use]
pub fn with_offset(frame: &[u8], offset: &Offset) -> Bytes {
    let payload = &frame[frame.len() - encode::payload_bytes(frame)..];
    let mut out = Vec::with_capacity(frame.len() + HEADER_BYTES_MAX + 40);
    let begun = encode::begin(&mut out);
    out.extend_from_slice(payload.strip_suffix(b"]").unwrap_or(payload));
    push(&mut out, &format!(",\"{offset}\"]"));
    let range = encode::finish(&mut out, begun, Kind::Text);
    Bytes::from(out).slice(range)
}

/// The id of the acknowledgement that the request of this reply asked for.
fn acknowledgement(reply: &Reply<'_>) -> Option<u64> {
    let id = match reply {
        Reply::AuthAccepted { request_ref, .. }
        | Reply::AuthRefused { request_ref, .. }
        | Reply::Subscribed { request_ref, .. }
        | Reply::Unsubscribed { request_ref, .. }
        | Reply::Published { request_ref, .. }
        | Reply::History { request_ref, .. }
        | Reply::Pong { request_ref }
        | Reply::Error { request_ref, .. }
        | Reply::RateLimited { request_ref, .. }
        | Reply::Overloaded { request_ref, .. } => request_ref.id.as_ref(),
        Reply::Status(status) => status.request_ref.id.as_ref(),
        Reply::CommandSucceeded { id, .. } | Reply::CommandFailed { id, .. } | Reply::CommandRefused { id, .. } => {
            Some(*id)
        }
        Reply::Connected { .. }
        | Reply::AuthExpiring { .. }
        | Reply::Ping { .. }
        | Reply::Progress { .. }
        | Reply::Dropped { .. }
        | Reply::Freshness { .. }
        | Reply::GoingAway { .. } => None,
    };
    match id? {
        RequestId::Acknowledgement { number, .. } => Some(*number),
        RequestId::Text(_) | RequestId::Number(_) => None,
    }
}

/// Writes the argument of a reply's event.
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
            push(out, ",\"message\":");
            push_string(out, &settings.connected_message);
            timestamp(now_unix_ms, settings, out);
            push(out, "}");
        }
        Reply::Error { code, message, .. } => error(code, message, out),
        Reply::RateLimited {
            retry_after_ms,
            refused,
            ..
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
        Reply::Overloaded { retry_after_ms, .. } => {
            push(out, "{\"code\":\"OVERLOADED\",\"message\":\"");
            push(out, OVERLOADED);
            push(out, "\",\"data\":{\"retry_after_ms\":");
            push_u64(out, retry_after_ms.into());
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

/// Writes the argument of an acknowledgement: `success` with `data`, `error` or the subscriptions.
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
        Reply::RateLimited { .. } | Reply::Overloaded { .. } => {
            push(out, "{\"success\":false,\"error\":");
            write_argument(reply, now_unix_ms, settings, out);
            push(out, "}");
        }
        Reply::Subscribed { request_ref, .. } | Reply::Unsubscribed { request_ref, .. } => {
            push(out, "{\"success\":true");
            push(out, &request_ref.members);
            if let Reply::Subscribed {
                max_rate: Some(rate), ..
            } = reply
            {
                push(out, ",\"max_rate\":");
                push(out, rate.as_str());
            }
            timestamp(now_unix_ms, settings, out);
            push(out, "}");
        }
        _ => write_argument(reply, now_unix_ms, settings, out),
    }
}

/// Appends the CONNECT packet that accepts a client, and returns its range. Revision 5 has the client's public id, revision 4
/// has no payload. `pid`: the name under which the client may get its session back.
pub fn encode_connect(revision: Revision, client_id: &str, pid: Option<&str>, out: &mut Vec<u8>) -> Range<usize> {
    let frame = encode::begin(out);
    push(out, "40");
    if revision == Revision::Four {
        push(out, "{\"sid\":");
        push_string(out, client_id);
        if let Some(pid) = pid {
            push(out, ",\"pid\":");
            push_string(out, pid);
        }
        push(out, "}");
    }
    encode::finish(out, frame, Kind::Text)
}

/// Appends the CONNECT_ERROR packet that refuses a client, and returns its range. In revision 5 the payload is an object with
/// the code in `data`; in revision 4 it is the message.
pub fn encode_connect_error(revision: Revision, code: ErrorCode, message: &str, out: &mut Vec<u8>) -> Range<usize> {
    let data = Some(code);
    connect_error(revision, MAIN, message, data, out)
}

/// Appends the CONNECT_ERROR packet that refuses a namespace, and returns its range.
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

/// Appends an event `error` about the end of the connection, and returns its range. It has the close code, which a polling
/// client gets in no other way, and `reason` as its message.
pub fn encode_ending(ending: Disconnect, reason: &str, out: &mut Vec<u8>) -> Range<usize> {
    let frame = encode::begin(out);
    push(out, "42[\"error\",{\"code\":\"");
    push(out, &ending.label().to_ascii_uppercase());
    push(out, "\",\"message\":");
    push_string(out, reason);
    push(out, ",\"close_code\":");
    push_u64(out, ending.code().into());
    push(out, "}]");
    encode::finish(out, frame, Kind::Text)
}

/// Appends a DISCONNECT packet and returns its range. Official clients do not reconnect automatically after it.
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
