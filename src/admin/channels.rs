//! `GET /api/channels/{channel}` and its `/history`: what is kept of a channel.
//!
//! Invariant: an answer says whether it is all that was asked for (`complete`), and where to go on (`next`); `data` is
//! the publisher's own bytes.

use std::sync::Arc;

use hyper::StatusCode;

use super::Admin;
use super::clients::ask;
use crate::event::Event;
use crate::hub::{Epoch, Page, PageLimit, Since};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::request::query_value;
use crate::ingress::http::response::{self, HttpResponse};
use crate::shard::mailbox::ShardMessage;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::json::{push_string, push_u64};

const EVENTS_DEFAULT: usize = 100;
const EVENTS_MAX: usize = 1000;
/// A page ends behind the event that reaches this.
const PAGE_BYTES: usize = 4 << 20;

/// What a channel's view says.
#[derive(Clone, Copy, Default)]
struct Seen {
    latest: u64,
    floor: u64,
}

impl Admin {
    /// `GET /api/channels/{channel}`
    pub(super) async fn channel(&self, name: &str) -> HttpResponse {
        let channel = match parse(name) {
            Ok(channel) => channel,
            Err(refused) => return *refused,
        };
        let mut subscribers = 0;
        for shard in &self.shards {
            let channel = channel.clone();
            match ask(shard, |reply| ShardMessage::Subscribers { channel, reply }).await {
                Ok(count) => subscribers += count.unwrap_or(0),
                Err(silent) => return silent.0,
            }
        }
        let has_history = self.hub.class_of(&channel).history.is_some();
        let (seen, mut page) = self.read(&channel, Since::Newest { above: 0 }, 1);
        if page.events.is_empty() && has_history && seen.latest > seen.floor {
            // Nothing for newcomers, but its history has it.
            page = self.read(&channel, Since::After(seen.latest - 1), 1).1;
        }
        let mut body = Vec::new();
        push(&mut body, "{\"channel\":");
        push_string(&mut body, channel.as_str());
        push(&mut body, &format!(",\"epoch\":\"{}\",\"offset\":", self.hub.epoch()));
        if has_history {
            push_u64(&mut body, seen.latest);
        } else {
            push(&mut body, "null");
        }
        push(&mut body, ",\"subscribers\":");
        push_u64(&mut body, subscribers);
        push(&mut body, ",\"last\":");
        match page.events.first() {
            Some(event) => push_event(&mut body, event),
            None => push(&mut body, "null"),
        }
        push(&mut body, "}");
        response::with_body(StatusCode::OK, "application/json", body)
    }

    /// `GET /api/channels/{channel}/history?since&epoch&limit`
    pub(super) fn history(&self, name: &str, query: &str) -> HttpResponse {
        let channel = match parse(name) {
            Ok(channel) => channel,
            Err(refused) => return *refused,
        };
        let asked = match Asked::of(query) {
            Ok(asked) => asked,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, message),
        };
        if self.hub.class_of(&channel).history.is_none() {
            let message = format!("channel `{channel}` keeps no history");
            return response::error(HttpErrorCode::NotFound, &message);
        }
        let is_other = asked.epoch.is_some_and(|epoch| epoch != self.hub.epoch());
        let (seen, mut page) = self.read(&channel, Since::After(asked.since), asked.limit);
        let complete = !is_other && !page.overtaken;
        if !complete {
            // All there is, then; somebody may trim meanwhile, so this may take more than one attempt.
            let mut floor = seen.floor;
            loop {
                let (now, again) = self.read(&channel, Since::After(floor), asked.limit);
                page = again;
                if !page.overtaken || now.floor <= floor {
                    break;
                }
                floor = now.floor;
            }
        }
        response::with_body(
            StatusCode::OK,
            "application/json",
            self.history_body(&channel, &page, complete),
        )
    }

    fn history_body(&self, channel: &Channel, page: &Page, complete: bool) -> Vec<u8> {
        let mut body = Vec::new();
        push(&mut body, "{\"channel\":");
        push_string(&mut body, channel.as_str());
        push(&mut body, &format!(",\"epoch\":\"{}\",\"events\":[", self.hub.epoch()));
        for (place, event) in page.events.iter().enumerate() {
            if place > 0 {
                push(&mut body, ",");
            }
            push_event(&mut body, event);
        }
        push(&mut body, "],\"complete\":");
        push(&mut body, if complete { "true" } else { "false" });
        push(&mut body, ",\"offset\":");
        push_u64(&mut body, page.last);
        push(&mut body, ",\"more\":");
        push(&mut body, if page.more { "true" } else { "false" });
        push(&mut body, "}");
        body
    }

    fn read(&self, channel: &Channel, since: Since, events: usize) -> (Seen, Page) {
        let limit = PageLimit {
            events,
            bytes: PAGE_BYTES,
        };
        let mut seen = Seen::default();
        let page = self.hub.read(channel, since, limit, self.clock.now(), &mut |view| {
            seen = Seen {
                latest: view.latest,
                floor: view.floor,
            };
        });
        (seen, page)
    }
}

/// What a query asks for.
struct Asked {
    since: u64,
    epoch: Option<Epoch>,
    limit: usize,
}

impl Asked {
    fn of(query: &str) -> Result<Self, &'static str> {
        let value = |name| query_value(query, name).map_err(|_| "a parameter is given twice or is not percent-encoded");
        let since = match value("since")? {
            None => 0,
            Some(since) => offset(&since).ok_or("`since` must be an offset: an integer from 0 to 2^53 - 1")?,
        };
        let epoch = match value("epoch")? {
            None => None,
            Some(epoch) => Some(Epoch::parse(&epoch).ok_or("`epoch` must be 16 hexadecimal digits")?),
        };
        let limit = match value("limit")? {
            None => EVENTS_DEFAULT,
            Some(limit) => limit
                .parse()
                .ok()
                .filter(|limit| (1..=EVENTS_MAX).contains(limit))
                .ok_or("`limit` must be 1 to 1000")?,
        };
        Ok(Self { since, epoch, limit })
    }
}

fn offset(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|offset| is_plain && *offset < 1 << 53)
}

fn parse(name: &str) -> Result<Channel, Box<HttpResponse>> {
    Channel::parse(name).map_err(|error| {
        let message = format!("channel {name:?} {error}");
        response::error(HttpErrorCode::InvalidChannel, &message).into()
    })
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn push_event(out: &mut Vec<u8>, event: &Arc<Event>) {
    push(out, "{\"event\":");
    push_string(out, &event.name);
    push(out, ",\"timestamp\":");
    push_u64(out, event.timestamp_ms);
    if let Some(offset) = event.offset {
        push(out, ",\"offset\":");
        push_u64(out, offset);
    }
    push(out, ",\"data\":");
    out.extend_from_slice(&event.data);
    push(out, "}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let asked = |query| Asked::of(query).map(|asked| (asked.since, asked.epoch, asked.limit));
        assert_eq!(asked(""), Ok((0, None, 100)));
        assert_eq!(
            asked("since=41&epoch=00000000000000ff&limit=7"),
            Ok((41, Some(Epoch(255)), 7))
        );
        for bad in [
            "since=",
            "since=-1",
            "since=+1",
            "since=9007199254740992",
            "since=1&since=2",
            "epoch=ff",
            "epoch=00000000000000FF",
            "limit=0",
            "limit=1001",
            "limit=x",
        ] {
            assert!(asked(bad).is_err(), "{bad}");
        }
    }
}
