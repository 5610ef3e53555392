//! Encodes replies as frames. They differ from the native ones in timestamps and in the names of subscriptions.

use std::borrow::Cow;
use std::ops::Range;

use super::template::symbol;
use super::{Settings, Timestamps};
use crate::channel::{Channel, Pattern};
use crate::dialect::native::{Style, Writer};
use crate::json::push_string;
use crate::message::{Cursor, Recovered, Reply, RequestRef, SubscribeOutcome};
use crate::rate::Rate;
use crate::wire::encode::{self, Kind};

/// Appends the frame of a reply and returns its range.
pub(in crate::dialect) fn encode_reply(
    reply: &Reply<'_>,
    now_unix_ms: u64,
    settings: &Settings,
    out: &mut Vec<u8>,
) -> Range<usize> {
    let frame = encode::begin(out);
    let mut writer = Writer {
        out,
        now_unix_ms,
        style: settings,
    };
    write_reply(&mut writer, reply);
    encode::finish(out, frame, Kind::Text)
}

/// Writes a reply as JSON, for the dialects whose replies repeat fields of the request.
pub(in crate::dialect) fn write_reply<S: Style>(writer: &mut Writer<'_, S>, reply: &Reply<'_>) {
    match *reply {
        Reply::Subscribed {
            request_ref,
            outcome,
            ignored,
            max_rate,
            cursor,
            ..
        } => {
            let outcome = Some((outcome, ignored));
            changed(writer, "subscribed", request_ref, max_rate, (outcome, cursor), None);
        }
        Reply::Unsubscribed {
            request_ref,
            patterns,
            lost_permission,
            ..
        } => changed(
            writer,
            "unsubscribed",
            request_ref,
            None,
            (None, None),
            lost_permission.then_some(patterns),
        ),
        _ => writer.reply(reply),
    }
}

impl Style for Settings {
    fn push_time(&self, unix_ms: u64, out: &mut Vec<u8>) {
        Timestamps::push(self.timestamps, unix_ms, out);
    }

    fn connected_message(&self) -> &str {
        &self.connected_message
    }

    // Each pattern is written in the words that subscribe to it: an object of type and target, else a symbol, else a channel.
    fn push_subscriptions(&self, patterns: &[Pattern], out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, pattern) in patterns.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.push_subscription(pattern, out);
        }
        out.push(b']');
    }

    fn subscription_text<'p>(&self, pattern: &'p Pattern) -> Cow<'p, str> {
        let name = self.subscription_name(pattern);
        name.map_or_else(|| pattern.as_str().into(), Into::into)
    }
}

impl Settings {
    /// The text by which clients of this endpoint name a pattern, `<subscription_type>:<target>` or the symbol; `None` if
    /// they name it as a channel.
    #[must_use]
    pub fn subscription_name(&self, pattern: &Pattern) -> Option<String> {
        match self.typed_target(pattern) {
            Some((name, target)) => Some(format!("{name}:{target}")),
            None => symbol(pattern).map(str::to_owned),
        }
    }

    fn typed_target<'p>(&self, pattern: &'p Pattern) -> Option<(&str, &'p str)> {
        let mut types = self.subscription_types.iter();
        types.find_map(|(name, template)| Some((&**name, template.target(pattern)?)))
    }

    fn push_subscription(&self, pattern: &Pattern, out: &mut Vec<u8>) {
        if let Some((name, target)) = self.typed_target(pattern) {
            out.extend_from_slice(b"{\"subscription_type\":");
            push_string(out, name);
            out.extend_from_slice(b",\"target\":");
            push_string(out, target);
            out.push(b'}');
        } else if let Some(symbol) = symbol(pattern) {
            push_string(out, symbol);
        } else {
            push_string(out, pattern.as_str());
        }
    }
}

/// Writes `subscribed` or `unsubscribed` with the fields of the request. Positions are keyed by channel, so only clients that
/// use `channels` get them; others are told whether everything was recovered. `lost` has the patterns that a new token does not
/// permit.
fn changed<S: Style>(
    writer: &mut Writer<'_, S>,
    message_type: &str,
    request_ref: &RequestRef,
    max_rate: Option<Rate>,
    (outcome, cursor): (Option<(&SubscribeOutcome, &[Channel])>, Option<Cursor>),
    lost: Option<&[Pattern]>,
) {
    writer.begin_with(message_type, request_ref.id.as_ref());
    writer.push(&request_ref.members);
    writer.max_rate(max_rate);
    if let Some((outcome, ignored)) = outcome {
        if request_ref.members.contains(",\"channels\":") {
            writer.outcome(outcome, ignored);
        } else if let Some(Recovered::Except(channels)) = &outcome.recovered {
            let is_whole = channels.is_empty() && !outcome.cut;
            writer.push(if is_whole {
                ",\"recovered\":true"
            } else {
                ",\"recovered\":false"
            });
        }
    }
    writer.cursor(cursor);
    if let Some(lost) = lost {
        writer.push(",\"subscriptions\":");
        writer.style.push_subscriptions(lost, writer.out);
        writer.push(",\"reason\":\"permission\"");
    }
    writer.timestamp();
    writer.push("}");
}
