//! The items of one request, from text to events, and the reply about them.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::ENVELOPE_BYTES_MAX;
use super::lines::Line;
use crate::admin::Admin;
use crate::admin::access::Caller;
use crate::admin::body;
use crate::event::{EventId, NewEvent, PublishOptions, Refusal};
use crate::hub::Receipt;
use crate::ingress::http::HttpErrorCode;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::PublishItem;

/// Most refused items and most duplicates that are listed. A stream of lines has no end, so the rest is only counted.
const LISTED_MAX: usize = 10_000;

/// The reply to a publish request.
#[derive(Debug, Default, Serialize)]
pub(super) struct PublishReply {
    // Why a stream failed, or why nothing of it was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ReplyError>,
    published: usize,
    // How many of them no connection of this gateway subscribed to.
    #[serde(skip_serializing_if = "is_zero")]
    without_subscriber: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) duplicate: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) duplicates: Vec<usize>,
    #[serde(skip_serializing_if = "is_zero")]
    duplicates_omitted: usize,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) unchanged: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) unchanged_items: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<ItemError>,
    #[serde(skip_serializing_if = "is_zero")]
    errors_omitted: usize,
}

/// The error of a stream as a whole.
#[derive(Debug, Serialize)]
pub(super) struct ReplyError {
    pub(super) code: HttpErrorCode,
    pub(super) message: Box<str>,
}

/// A refused item.
#[derive(Debug, Serialize)]
pub(super) struct ItemError {
    index: usize,
    pub(super) code: HttpErrorCode,
    pub(super) message: Box<str>,
}

impl PublishReply {
    /// The error of a stream that ended and of which no line was published, now or before.
    pub(super) fn nothing_taken(&self) -> Option<ReplyError> {
        let taken = self.published + self.duplicates.len() + self.duplicates_omitted + self.unchanged_items;
        if taken > 0 {
            return None;
        }
        Some(match self.errors.first() {
            Some(error) => ReplyError {
                code: error.code,
                message: format!("no line was published; line {}: {}", error.index, error.message).into(),
            },
            None => ReplyError {
                code: HttpErrorCode::InvalidMessage,
                message: "the stream has no lines".into(),
            },
        })
    }

    fn list_duplicate(&mut self, index: usize) {
        if self.duplicates.len() < LISTED_MAX {
            self.duplicates.push(index);
        } else {
            self.duplicates_omitted += 1;
        }
    }
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Collects the items of one request.
pub(super) struct Batch<'a> {
    admin: &'a Admin,
    caller: &'a Caller,
    // The channel of all items, if it is named beside them.
    channel: Option<Channel>,
    // Whose quotas the events count for.
    publisher: Option<Arc<str>>,
    scratch: Scratch,
    // The index of the next item.
    index: usize,
    events: Vec<NewEvent>,
    // The index of each event's item.
    indices: Vec<usize>,
    pub(super) reply: PublishReply,
}

impl<'a> Batch<'a> {
    pub(super) fn new(admin: &'a Admin, caller: &'a Caller) -> Self {
        Self {
            admin,
            caller,
            channel: None,
            publisher: match caller {
                Caller::Operator(_) | Caller::Viewer(_) => None,
                Caller::User(identity) => identity.publisher(),
            },
            scratch: Scratch::default(),
            index: 0,
            events: Vec::new(),
            indices: Vec::new(),
            reply: PublishReply::default(),
        }
    }

    /// All items are for this channel, which they need not name.
    pub(super) fn to(self, channel: Channel) -> Self {
        let channel = Some(channel);
        Self { channel, ..self }
    }

    /// The longest `data` of an event, in bytes.
    pub(super) fn event_bytes(&self) -> usize {
        self.admin.event_bytes(self.caller.tenant())
    }

    /// The number of events that wait to be published.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Removes the events and the indices of their items; `None` without events.
    pub(super) fn take_events(&mut self) -> Option<(Vec<usize>, Vec<NewEvent>)> {
        (!self.events.is_empty()).then(|| (std::mem::take(&mut self.indices), std::mem::take(&mut self.events)))
    }

    /// Adds one item.
    pub(super) fn take(&mut self, text: &str) {
        let index = self.index;
        self.index += 1;
        match self.parse(text) {
            Ok(event) => {
                self.events.push(event);
                self.indices.push(index);
            }
            Err((code, message)) => self.fail(index, code, message),
        }
    }

    /// Adds one line of a stream. An empty line is not an item.
    pub(super) fn take_line(&mut self, line: Line) {
        match line {
            Line::TooLong => {
                let line_bytes_max = self.event_bytes() + ENVELOPE_BYTES_MAX;
                let message = format!("the line is longer than {line_bytes_max} bytes");
                self.fail(self.index, HttpErrorCode::MessageTooLarge, message.into());
                self.index += 1;
            }
            Line::Whole(bytes) => match body::text(&bytes) {
                Ok(text) if text.trim_ascii().is_empty() => {}
                Ok(text) => self.take(text),
                Err(what) => {
                    let message = format!("the line {what}");
                    self.fail(self.index, HttpErrorCode::InvalidJson, message.into());
                    self.index += 1;
                }
            },
        }
    }

    /// Counts an event by its outcome.
    pub(super) fn count(&mut self, index: usize, outcome: &Result<Receipt, Refusal>) {
        let receipt = match outcome {
            Ok(receipt) => receipt,
            Err(refusal) => return self.fail(index, (*refusal).into(), refusal.to_string().into()),
        };
        let metrics = &self.admin.metrics;
        if receipt.limited {
            let message = "this publisher publishes too many events; try again in a second";
            self.fail(index, HttpErrorCode::RateLimited, message.into());
        } else if let Some(error) = receipt.malformed {
            self.fail(index, HttpErrorCode::InvalidMessage, error.describe().into());
        } else if receipt.duplicate {
            self.reply.list_duplicate(index);
            metrics.duplicates.add(1);
        } else if receipt.unchanged {
            self.reply.unchanged_items += 1;
            metrics.unchanged.add(1);
        } else {
            self.reply.published += 1;
            self.reply.without_subscriber += usize::from(receipt.unwanted);
            metrics.published.add(1);
        }
    }

    /// The event of an item.
    fn parse(&mut self, text: &str) -> Result<NewEvent, (HttpErrorCode, Box<str>)> {
        let item = match &self.channel {
            None => PublishItem::parse(text, &mut self.scratch),
            Some(channel) => PublishItem::parse_in(channel, text, &mut self.scratch),
        };
        let item = item.map_err(|(code, message)| (code.into(), message))?;
        let event_bytes = self.event_bytes();
        if item.data.len() > event_bytes {
            let message = format!("`data` is longer than {event_bytes} bytes");
            return Err((HttpErrorCode::MessageTooLarge, message.into()));
        }
        let tenant = self.caller.tenant();
        let channel = item.channel.in_tenant(tenant);
        if let Caller::User(identity) = self.caller
            && !identity.may_publish(&channel)
        {
            return Err((
                HttpErrorCode::Forbidden,
                format!("this token may not publish to `{channel}`").into(),
            ));
        }
        let options = PublishOptions {
            publisher: self.publisher.clone(),
            id: (item.id).map(|id| EventId::of_request(self.admin.tenants.of(tenant), &channel, &id)),
            ..PublishOptions::default()
        };
        let clock = self.admin.parts.clock;
        Ok(NewEvent {
            channel,
            name: item.event.into(),
            // Copied, since a slice would keep the whole body in memory as long as one of its events waits or is kept.
            data: Bytes::copy_from_slice(item.data.as_bytes()),
            timestamp_ms: item.timestamp_ms.unwrap_or_else(|| clock.now().unix_ms),
            options,
        })
    }

    fn fail(&mut self, index: usize, code: HttpErrorCode, message: Box<str>) {
        self.admin.metrics.refused_items.add(1);
        if self.reply.errors.len() < LISTED_MAX {
            self.reply.errors.push(ItemError { index, code, message });
        } else {
            self.reply.errors_omitted += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_duplicates_is_bounded() {
        let mut reply = PublishReply::default();
        (0..LISTED_MAX + 3).for_each(|index| reply.list_duplicate(index));
        assert_eq!((reply.duplicates.len(), reply.duplicates_omitted), (LISTED_MAX, 3));
    }
}
