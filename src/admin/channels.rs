//! `GET /api/channels/{channel}` and its `/history`: the kept state of a channel.
//!
//! Invariant: `complete` says whether the events are all that was asked for, and `offset` where to continue. `data` is the
//! publisher's own bytes.

use bytes::Bytes;
use hyper::StatusCode;
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize as _, Serialize};
use serde_json::value::RawValue;

use super::Admin;
use super::access::{Operator, Role, Viewer};
use super::clients::{ask, seconds};
use super::query::Query;
use super::routes::Call;
use crate::event::Event;
use crate::hub::{Epoch, Page, PageLimit, Since};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::shard::mailbox::ShardMessage;
use tickgate_protocol::channel::{Channel, Class, Tenant};

/// A page ends with the event that reaches this many bytes.
const PAGE_BYTES: usize = 4 << 20;

#[derive(Serialize)]
struct ChannelReply<'a> {
    channel: &'a str,
    epoch: String,
    /// Null for a channel without history.
    offset: Option<u64>,
    subscribers: u64,
    last: Option<EventReply<'a>>,
    class: ClassReply,
    /// Null when nothing is kept.
    kept: Option<Kept>,
}

/// What the channel's class says.
#[derive(Serialize)]
struct ClassReply {
    cache_last: bool,
    history: Option<HistoryBounds>,
    overflow: &'static str,
    /// The field, or the fields as a JSON array.
    record_key: Option<String>,
    only_changed: bool,
    /// Whether the channel is an order book.
    book: bool,
    /// The levels of an order book that clients get; null: all.
    depth: Option<u32>,
    /// The most updates per second; null: all.
    max_rate: Option<f64>,
    /// How long a last value is kept; null: without limit.
    last_ttl_seconds: Option<f64>,
    /// After how long without an event the channel is stale; null: never.
    fresh_within_seconds: Option<f64>,
}

#[derive(Serialize)]
struct HistoryBounds {
    length: u32,
    ttl_seconds: u64,
}

#[derive(Clone, Copy, Serialize)]
struct Kept {
    bytes: usize,
    events: usize,
}

impl From<&Class> for ClassReply {
    fn from(class: &Class) -> Self {
        Self {
            cache_last: class.cache_last,
            history: class.history.map(|history| HistoryBounds {
                length: history.size,
                ttl_seconds: history.ttl_ms / 1000,
            }),
            overflow: class.overflow.as_str(),
            record_key: class.record_key.as_ref().map(ToString::to_string),
            only_changed: class.only_changed,
            book: class.book.is_some(),
            depth: class.book.and_then(|book| book.depth),
            max_rate: class.max_rate.and_then(|rate| rate.as_str().parse().ok()),
            last_ttl_seconds: class.last_ttl_ms.map(seconds),
            fresh_within_seconds: class.fresh_within_ms.map(seconds),
        }
    }
}

#[derive(Serialize)]
struct HistoryReply<'a> {
    channel: &'a str,
    epoch: String,
    events: Vec<EventReply<'a>>,
    complete: bool,
    offset: u64,
    more: bool,
}

#[derive(Serialize)]
struct EventReply<'a> {
    event: &'a str,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// Left out for viewers.
    #[serde(serialize_with = "raw_json", skip_serializing_if = "Option::is_none")]
    data: Option<&'a Bytes>,
}

impl<'a> From<&'a Event> for EventReply<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            event: &event.name,
            timestamp: event.timestamp_ms,
            offset: event.offset,
            data: Some(&event.data),
        }
    }
}

/// Writes JSON that was checked when it was published, byte for byte.
fn raw_json<S: Serializer>(data: &Option<&Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(data) = data else {
        return serializer.serialize_none();
    };
    let mut json = serde_json::Deserializer::from_slice(data);
    <&RawValue>::deserialize(&mut json)
        .map_err(S::Error::custom)?
        .serialize(serializer)
}

/// The offsets of a channel's history.
#[derive(Clone, Copy, Default)]
struct Offsets {
    /// Of the newest event.
    latest: u64,
    /// Events up to this one are gone.
    floor: u64,
    kept: Option<Kept>,
}

impl Admin {
    /// `GET /api/channels/{channel}`
    pub(super) async fn channel(&self, viewer: Viewer, call: Call) -> HttpResponse {
        let channel = match parse(viewer.tenant(), &call.segment) {
            Ok(channel) => channel,
            Err(refused) => return *refused,
        };
        let mut subscribers = 0;
        for shard in &self.parts.shards {
            let channel = channel.clone();
            match ask(shard, |reply| ShardMessage::Subscribers { channel, reply }).await {
                Ok(count) => subscribers += count.unwrap_or(0),
                Err(timed_out) => return timed_out.0,
            }
        }
        let hub = &self.parts.hub;
        let has_history = hub.class_of(&channel).history.is_some();
        let (offsets, mut page) = self.read(&channel, Since::Newest { above: 0 }, 1);
        if page.events.is_empty() && has_history && offsets.latest > offsets.floor {
            // New subscribers get nothing, but the history has an event.
            page = self.read(&channel, Since::After(offsets.latest - 1), 1).1;
        }
        let reply = ChannelReply {
            channel: channel.as_str(),
            epoch: hub.epoch().to_string(),
            offset: has_history.then_some(offsets.latest),
            subscribers,
            last: page.events.first().map(|event| EventReply {
                data: Some(&event.data).filter(|_| viewer.role() == Role::Operator),
                ..EventReply::from(&**event)
            }),
            class: ClassReply::from(&**hub.class_of(&channel)),
            kept: offsets.kept,
        };
        response::json(StatusCode::OK, &reply)
    }

    /// The newest offset of a channel; `None`: it keeps no history.
    pub(super) fn newest_offset(&self, channel: &Channel) -> Option<u64> {
        self.parts.hub.class_of(channel).history?;
        Some(self.read(channel, Since::Newest { above: 0 }, 1).0.latest)
    }

    /// `GET /api/channels/{channel}/history?since&epoch&limit`
    pub(super) async fn history(&self, operator: Operator, call: Call) -> HttpResponse {
        let channel = match parse(operator.tenant(), &call.segment) {
            Ok(channel) => channel,
            Err(refused) => return *refused,
        };
        let query = match HistoryQuery::read(&call.query()) {
            Ok(query) => query,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, &message),
        };
        let hub = &self.parts.hub;
        if hub.class_of(&channel).history.is_none() {
            let message = format!("channel `{channel}` keeps no history");
            return response::error(HttpErrorCode::NotFound, &message);
        }
        let other_epoch = query.epoch.is_some_and(|epoch| epoch != hub.epoch());
        let (offsets, mut page) = self.read(&channel, Since::After(query.since), query.limit);
        let complete = !other_epoch && !page.overtaken;
        if !complete {
            // Reads from the oldest event instead. A publisher may trim the history meanwhile, which takes another attempt.
            let mut floor = offsets.floor;
            loop {
                let (now, again) = self.read(&channel, Since::After(floor), query.limit);
                page = again;
                if !page.overtaken || now.floor <= floor {
                    break;
                }
                floor = now.floor;
            }
        }
        let reply = HistoryReply {
            channel: channel.as_str(),
            epoch: hub.epoch().to_string(),
            events: page.events.iter().map(|event| EventReply::from(&**event)).collect(),
            complete,
            offset: page.last,
            more: page.more,
        };
        response::json(StatusCode::OK, &reply)
    }

    fn read(&self, channel: &Channel, since: Since, events: usize) -> (Offsets, Page) {
        let limit = PageLimit {
            events,
            bytes: PAGE_BYTES,
        };
        let mut offsets = Offsets::default();
        let now = self.parts.clock.now();
        let page = self.parts.hub.read(channel, since, limit, now, &mut |view| {
            offsets = Offsets {
                latest: view.latest,
                floor: view.floor,
                kept: view.is_kept.then_some(Kept {
                    bytes: view.bytes(),
                    events: view.events(),
                }),
            };
        });
        (offsets, page)
    }
}

/// The query of a history request.
struct HistoryQuery {
    since: u64,
    epoch: Option<Epoch>,
    limit: usize,
}

impl HistoryQuery {
    /// Reads the parameters. The error is the message for the client.
    fn read(query: &Query<'_>) -> Result<Self, String> {
        let since = match query.get("since")? {
            None => 0,
            Some(since) => offset(&since).ok_or("`since` must be an offset: an integer from 0 to 2^53 - 1")?,
        };
        let epoch = match query.get("epoch")? {
            None => None,
            Some(epoch) => Some(Epoch::parse(&epoch).ok_or("`epoch` must be 16 hexadecimal digits")?),
        };
        let limit = query.limit()?;
        Ok(Self { since, epoch, limit })
    }
}

fn offset(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|offset| is_plain && *offset < 1 << 53)
}

fn parse(tenant: Tenant, name: &str) -> Result<Channel, Box<HttpResponse>> {
    match Channel::parse(name) {
        Ok(channel) => Ok(channel.in_tenant(tenant)),
        Err(error) => {
            let message = format!("channel {name:?} {error}");
            Err(response::error(HttpErrorCode::InvalidChannel, &message).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_queries_are_checked() {
        let parse = |query| HistoryQuery::read(&Query::of(query)).map(|query| (query.since, query.epoch, query.limit));
        for empty in ["", "since=&epoch=&limit="] {
            assert_eq!(parse(empty), Ok((0, None, 100)), "{empty}");
        }
        assert_eq!(
            parse("since=41&epoch=00000000000000ff&limit=7"),
            Ok((41, Some(Epoch(255)), 7))
        );
        for bad in [
            "since=-1",
            "since=+1",
            "since=9007199254740992",
            "epoch=ff",
            "epoch=00000000000000FF",
            "limit=0",
            "limit=1001",
            "limit=x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn data_is_written_byte_for_byte() {
        let data = Bytes::from_static(br#"{"n" : 1.0e400,"s":"\u0041\/"}"#);
        let reply = EventReply {
            event: "e",
            timestamp: 7,
            offset: None,
            data: Some(&data),
        };
        assert_eq!(
            serde_json::to_string(&reply).expect("JSON"),
            r#"{"event":"e","timestamp":7,"data":{"n" : 1.0e400,"s":"\u0041\/"}}"#
        );
    }
}
