//! Encodes an event as a message whose `type` is the event's name.

use std::borrow::Cow;

use bytes::Bytes;

use super::Timestamps;
use crate::event::EventView;
use crate::json::{count_items, push_string, push_u64};
use crate::wire::encode::{self, HEADER_BYTES_MAX, Kind};

/// Names of messages of the gateway, and names that client libraries reserve. Events with these names are renamed.
const CONTROL_NAMES: [&str; 24] = [
    "auth_expiring",
    "auth_result",
    "connect",
    "connect_error",
    "connected",
    "cursor",
    "disconnect",
    "disconnecting",
    "dropped",
    "error",
    "fresh",
    "going_away",
    "history",
    "newListener",
    "ping",
    "pong",
    "published",
    "reconnect",
    "removeListener",
    "response",
    "stale",
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
        &public_name(event, |_| false),
        count_items(event.data),
        timestamps,
        &mut out,
    );
    let range = encode::finish(&mut out, frame, Kind::Text);
    Bytes::from(out).slice(range)
}

/// Appends an event as JSON. `name` is its [`public_name`].
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

/// Appends a user's id: as a number if it is an integer that every JSON parser reads exactly, else as a string.
pub(in crate::dialect) fn push_user(user: &str, out: &mut Vec<u8>) {
    if is_safe_integer(user) {
        out.extend_from_slice(user.as_bytes());
    } else {
        push_string(out, user);
    }
}

/// The name of an event for clients: `<category>_<event>` if its own name is a control name or `is_reserved`, else its own name.
pub(in crate::dialect) fn public_name<'a>(event: &EventView<'a>, is_reserved: fn(&str) -> bool) -> Cow<'a, str> {
    let category = event.channel.as_str().split('.').next().unwrap_or_default();
    let mut name = Cow::Borrowed(event.name);
    // A loop, because the new name can be a control name too: `connect` and `error` give `connect_error`.
    while CONTROL_NAMES.contains(&&*name) || is_reserved(&name) {
        name = format!("{category}_{name}").into();
    }
    name
}

/// The user of a channel: `<id>` in `user.<id>.*`.
fn user(channel: &str) -> Option<&str> {
    channel.strip_prefix("user.")?.split_once('.').map(|(user, _)| user)
}

/// Whether `text` is a non-negative JSON integer of at most [`SAFE_INTEGER_MAX`].
fn is_safe_integer(text: &str) -> bool {
    let is_canonical = text == "0" || text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    is_canonical && text.parse().is_ok_and(|number: u64| number <= SAFE_INTEGER_MAX)
}
