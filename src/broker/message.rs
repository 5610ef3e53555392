//! Events as messages of a broker: a line of JSON with everything but the data, and then the data as it was published.
//!
//! ```text
//! name      <tenant>.<channel>
//! payload   {"v":1,"name":"filled","ts":1703836800000,"from":"9f86d081884c7d65","n":41}
//!           {"price":1.5}
//! ```
//!
//! Invariant: what [`Decoder::decode`] accepts is a valid event of a configured tenant, whatever is in the message.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::lease::Fence;
use super::terms::FORMAT;
use crate::event::{Deletion, EventId, NewEvent, PublishOptions};
use tickgate_protocol::channel::{Channel, Tenant};
use tickgate_protocol::json;
use tickgate_protocol::message::is_event_name;

/// The name of the default tenant in subjects. No configured tenant can have it.
pub const DEFAULT_TENANT: &str = "~";

/// The bytes that a message may have beside the data, the channel's name and the publisher's name.
pub(super) const HEAD_BYTES_MAX: usize = 1024;

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    v: u8,
    #[serde(borrow)]
    name: Cow<'a, str>,
    ts: u64,
    /// The gateway that published the event, and its number there.
    from: u64,
    n: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u128>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    by: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fresh_ms: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    even_if_unchanged: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deletes: Option<Deletes>,
    /// The fence of the gateway that had the duties when it published the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence: Option<u64>,
}

/// What a deletion removes; see [`Deletion`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Deletes {
    Everything,
    EndedLast,
}

impl From<Deletion> for Deletes {
    fn from(deletion: Deletion) -> Self {
        match deletion {
            Deletion::Everything => Self::Everything,
            Deletion::EndedLast => Self::EndedLast,
        }
    }
}

impl From<Deletes> for Deletion {
    fn from(deletes: Deletes) -> Self {
        match deletes {
            Deletes::Everything => Self::Everything,
            Deletes::EndedLast => Self::EndedLast,
        }
    }
}

/// An event that was read.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) event: NewEvent,
    pub(super) source: Source,
    /// See [`Decoder::encode`].
    pub(super) fence: Option<u64>,
}

/// Which gateway published an event, and as its which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) gateway: u64,
    pub(super) number: u64,
}

/// Why a message is not an event. It is counted, logged and skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("it names no channel of a configured tenant")]
    Name,
    #[error("the first line is not the head of an event")]
    Head,
    #[error("the event is of a newer version of tickgate")]
    Format,
    #[error("the data is not one JSON value")]
    Data,
    #[error("it is not a notice of this version of tickgate")]
    Notice,
    #[error(
        "the channel keeps state here, but its events are not in the log: the gateways have different [[channel]] entries"
    )]
    Lane,
}

/// Reads and writes messages.
#[derive(Debug)]
pub(super) struct Decoder {
    // By number; the first is the default tenant.
    tenants: Vec<Box<str>>,
}

impl Decoder {
    /// `tenants` are the names of the configured tenants, from number 1 on.
    pub(super) fn new(tenants: &[Box<str>]) -> Self {
        let default: Box<str> = DEFAULT_TENANT.into();
        Self {
            tenants: std::iter::once(default).chain(tenants.iter().cloned()).collect(),
        }
    }

    /// Whether the channel's tenant is one of the configured ones.
    pub(super) fn knows(&self, channel: &Channel) -> bool {
        channel.tenant().index() < self.tenants.len()
    }

    /// The name of a channel, whose tenant must be known, behind `before`.
    pub(super) fn name(&self, before: &str, channel: &Channel) -> String {
        let tenant = self.tenants.get(channel.tenant().index()).map_or("", |name| name);
        format!("{before}{tenant}.{}", channel.as_str())
    }

    /// The payload of an event. `fence` is that of a gateway that does one of its duties by the event.
    pub(super) fn encode(event: &NewEvent, source: Source, fence: Option<Fence>) -> Bytes {
        let options = &event.options;
        let head = Head {
            v: FORMAT,
            name: Cow::Borrowed(&event.name),
            ts: event.timestamp_ms,
            from: source.gateway,
            n: source.number,
            id: options.id.map(|id| u128::from_be_bytes(id.0)),
            by: options.publisher.as_deref().map(Cow::Borrowed),
            fresh_ms: options.fresh_ms,
            even_if_unchanged: options.even_if_unchanged,
            deletes: options.deletes.map(Deletes::from),
            fence: fence.map(|fence| fence.0),
        };
        let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
        bytes.reserve_exact(1 + event.data.len());
        bytes.push(b'\n');
        bytes.extend_from_slice(&event.data);
        bytes.into()
    }

    /// Reads an event.
    pub(super) fn decode(&self, name: &str, payload: &Bytes) -> Result<Decoded, Problem> {
        let channel = self.channel(name).ok_or(Problem::Name)?;
        let end = memchr::memchr(b'\n', payload).ok_or(Problem::Head)?;
        let head: Head<'_> = serde_json::from_slice(&payload[..end]).map_err(|_| Problem::Head)?;
        if head.v != FORMAT {
            return Err(Problem::Format);
        }
        if !is_event_name(&head.name) {
            return Err(Problem::Head);
        }
        let data = payload.slice(end + 1..);
        let text = std::str::from_utf8(&data).map_err(|_| Problem::Data)?;
        json::check_value(text).map_err(|_| Problem::Data)?;
        let event = NewEvent {
            channel,
            name: head.name.into(),
            // Copied, since a slice would keep the head in memory as long as the event.
            data: Bytes::copy_from_slice(&data),
            timestamp_ms: head.ts,
            options: PublishOptions {
                publisher: head.by.map(Arc::from),
                id: head.id.map(|id| EventId(id.to_be_bytes())),
                even_if_unchanged: head.even_if_unchanged,
                fresh_ms: head.fresh_ms,
                deletes: head.deletes.map(Deletion::from),
            },
        };
        let source = Source {
            gateway: head.from,
            number: head.n,
        };
        Ok(Decoded {
            event,
            source,
            fence: head.fence,
        })
    }

    /// The channel with this name.
    pub(super) fn channel(&self, name: &str) -> Option<Channel> {
        let (tenant, name) = name.split_once('.')?;
        let tenant = self.tenants.iter().position(|known| **known == *tenant)?;
        Some(Channel::parse(name).ok()?.in_tenant(Tenant::new(tenant)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder() -> Decoder {
        Decoder::new(&["acme".into(), "beta".into()])
    }

    fn event(tenant: usize) -> NewEvent {
        let channel = Channel::parse("market.BTC/USDT.é").expect("valid");
        NewEvent {
            channel: channel.in_tenant(Tenant::new(tenant).expect("in range")),
            name: "a \"quoted\" name".into(),
            data: r#"{"p": 1.50, "n":"\n"}"#.into(),
            timestamp_ms: 1_703_836_800_000,
            options: PublishOptions {
                publisher: Some("u\n1".into()),
                id: Some(EventId([0xfe; 16])),
                even_if_unchanged: true,
                fresh_ms: Some(5000),
                deletes: Some(Deletion::Everything),
            },
        }
    }

    const SOURCE: Source = Source {
        gateway: u64::MAX,
        number: 41,
    };

    #[test]
    fn events_survive_the_way_with_everything_that_belongs_to_them() {
        let decoder = decoder();
        for tenant in 0..3 {
            let event = event(tenant);
            let name = decoder.name("", &event.channel);
            let of = ["~", "acme", "beta"][tenant];
            assert!(name.starts_with(&format!("{of}.market.BTC/USDT.")), "{name}");
            for fence in [None, Some(Fence(7))] {
                let decoded = decoder.decode(&name, &Decoder::encode(&event, SOURCE, fence));
                let decoded = decoded.expect("valid");
                assert_eq!((decoded.source, decoded.fence.map(Fence)), (SOURCE, fence));
                let back = decoded.event;
                assert_eq!(
                    (&back.channel, &back.name, &back.data),
                    (&event.channel, &event.name, &event.data)
                );
                assert_eq!(
                    (back.timestamp_ms, back.options),
                    (event.timestamp_ms, event.options.clone())
                );
            }
        }
    }

    #[test]
    fn an_event_without_options_has_a_short_head() {
        let event = NewEvent {
            options: PublishOptions::default(),
            name: "filled".into(),
            data: "1".into(),
            ..event(0)
        };
        let source = Source { gateway: 7, number: 8 };
        let text = r#"{"v":1,"name":"filled","ts":1703836800000,"from":7,"n":8}"#;
        assert_eq!(Decoder::encode(&event, source, None), format!("{text}\n1"));
    }

    #[test]
    fn what_is_no_event_is_refused_with_its_problem() {
        let decoder = decoder();
        let good = r#"{"v":1,"name":"n","ts":1,"from":7,"n":8}"#;
        let name = "~.a.b";
        let problem = |name: &str, payload: String| decoder.decode(name, &payload.into()).err();
        assert_eq!(problem(name, format!("{good}\n{{}}")), None);
        for other in ["a.b", "~", "gamma.a", "~.a..b", "x"] {
            assert_eq!(problem(other, format!("{good}\n1")), Some(Problem::Name), "{other}");
        }
        for data in ["", "1 2", "{", "nul", "\u{1}"] {
            assert_eq!(problem(name, format!("{good}\n{data}")), Some(Problem::Data), "{data}");
        }
        assert_eq!(
            problem(name, good.replace("\"v\":1", "\"v\":2") + "\n1"),
            Some(Problem::Format)
        );
        for head in [
            "",
            "1",
            "{}",
            r#"{"v":1,"name":"","ts":1,"from":7,"n":8}"#,
            r#"{"v":1,"name":"\u0007","ts":1,"from":7,"n":8}"#,
        ] {
            assert_eq!(problem(name, format!("{head}\n1")), Some(Problem::Head), "{head}");
        }
        assert_eq!(problem(name, good.to_owned()), Some(Problem::Head));
        let mut bytes = format!("{good}\n\"").into_bytes();
        bytes.extend([0xff, b'"']);
        assert_eq!(decoder.decode(name, &bytes.into()).err(), Some(Problem::Data));
    }
}
