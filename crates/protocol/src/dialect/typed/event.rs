//! An event as a message of its own name.

use std::borrow::Cow;

use bytes::Bytes;

use super::Timestamps;
use crate::event::EventView;
use crate::json::{count_items, push_string, push_u64};
use crate::wire::encode::{self, HEADER_BYTES_MAX, Kind};

/// What clients take for messages of the gateway or of their own library: events of these names are renamed.
const CONTROL_NAMES: [&str; 21] = [
    "auth_expiring",
    "auth_result",
    "connect",
    "connect_error",
    "connected",
    "disconnect",
    "disconnecting",
    "dropped",
    "error",
    "going_away",
    "history",
    "newListener",
    "ping",
    "pong",
    "published",
    "reconnect",
    "removeListener",
    "response",
    "status",
    "subscribed",
    "unsubscribed",
];

/// The largest integer that every JSON parser reads exactly, 2^53 - 1.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// The frame of an event, once for all its receivers.
pub(in crate::dialect) fn encode_event(event: &EventView<'_>, timestamps: Timestamps) -> Bytes {
    // The keys, the punctuation, the time, the count and the offset come to less than this; a renamed event and its
    // user stand in the channel.
    const AROUND: usize = HEADER_BYTES_MAX + 140;
    let channel = event.channel.as_str();
    let mut out = Vec::with_capacity(AROUND + 3 * channel.len() + event.name.len() + event.data.len());
    let frame = encode::begin(&mut out);
    push_message(
        event,
        &public_name(event),
        count_items(event.data),
        timestamps,
        &mut out,
    );
    let range = encode::finish(&mut out, frame, Kind::Text);
    Bytes::from(out).slice(range)
}

/// Appends the event as JSON; `name` is its [`public_name`].
pub(in crate::dialect) fn push_message(
    event: &EventView<'_>,
    name: &str,
    count: Option<usize>,
    timestamps: Timestamps,
    out: &mut Vec<u8>,
) {
    let channel = event.channel.as_str();
    out.extend_from_slice(b"{\"type\":");
    push_string(out, name);
    out.extend_from_slice(b",\"channel\":");
    push_string(out, channel);
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(event.data);
    if let Some(count) = count {
        out.extend_from_slice(b",\"count\":");
        push_u64(out, count as u64);
    }
    out.extend_from_slice(b",\"timestamp\":");
    timestamps.push(event.timestamp_ms, out);
    if let Some(offset) = event.offset {
        out.extend_from_slice(b",\"offset\":");
        push_u64(out, offset);
    }
    if let Some(user) = user(channel) {
        out.extend_from_slice(b",\"user_id\":");
        push_user(user, out);
    }
    out.push(b'}');
}

/// Appends a user's name: as a number when it is one that every JSON parser reads exactly.
pub(in crate::dialect) fn push_user(user: &str, out: &mut Vec<u8>) {
    if is_safe_integer(user) {
        out.extend_from_slice(user.as_bytes());
    } else {
        push_string(out, user);
    }
}

/// The event's name, unless that is a control message's: then `<category>_<event>`.
pub(in crate::dialect) fn public_name<'a>(event: &EventView<'a>) -> Cow<'a, str> {
    let category = event.channel.as_str().split('.').next().unwrap_or_default();
    let mut name = Cow::Borrowed(event.name);
    // `connect_error` is one, too.
    while CONTROL_NAMES.contains(&&*name) {
        name = format!("{category}_{name}").into();
    }
    name
}

/// Whose channel it is: `<id>` of `user.<id>.*`.
fn user(channel: &str) -> Option<&str> {
    channel.strip_prefix("user.")?.split_once('.').map(|(user, _)| user)
}

/// Whether it is a non-negative integer as JSON writes it, and not too large for a number.
fn is_safe_integer(text: &str) -> bool {
    let is_canonical = text == "0" || text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    is_canonical && text.parse().is_ok_and(|number: u64| number <= SAFE_INTEGER_MAX)
}
