//! `GET /api/channels`: the channels of which something is kept, or those that get the most events.

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use super::access::Viewer;
use super::query::Query;
use super::routes::Call;
use crate::hub::ListPlace;
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use tickgate_protocol::channel::{Channel, Pattern, Tenant};

/// The channels that get the most events.
#[derive(Serialize)]
struct BusyReply<'a> {
    channels: Vec<Busy<'a>>,
}

/// How much is published to a channel, estimated from one event in 32.
#[derive(Serialize)]
struct Busy<'a> {
    channel: &'a str,
    events_per_s: f64,
    bytes_per_s: f64,
}

#[derive(Serialize)]
struct ListReply {
    channels: Vec<Listed>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    channel: String,
    bytes: usize,
    events: usize,
    offset: Option<u64>,
    stale: bool,
}

impl Admin {
    /// `GET /api/channels?pattern&stale&sort&limit&cursor`
    #[expect(clippy::unused_async, reason = "the form of a handler")]
    pub(super) async fn channels(&self, viewer: Viewer, call: Call) -> HttpResponse {
        let ListQuery {
            pattern,
            only_stale,
            by_rate,
            place,
            limit,
        } = match ListQuery::read(&call.query(), viewer.tenant()) {
            Ok(query) => query,
            Err((code, message)) => return response::error(code, &message),
        };
        let now = self.parts.clock.now();
        if by_rate {
            let busiest = self.parts.hub.busiest(viewer.tenant(), limit, now);
            let channels = busiest.iter().map(|busy| Busy {
                channel: busy.channel.as_str(),
                events_per_s: rounded(busy.events_per_s),
                bytes_per_s: rounded(busy.bytes_per_s),
            });
            let channels = channels.collect();
            return response::json(StatusCode::OK, &BusyReply { channels });
        }
        let (channels, next) = self.parts.hub.list((&pattern, only_stale), place, limit, now);
        let listed = channels.into_iter().map(|listed| Listed {
            channel: listed.channel.to_string(),
            bytes: listed.bytes,
            events: listed.events,
            offset: listed.offset,
            stale: listed.is_stale,
        });
        let next_cursor = next.map(|place| match place.after {
            Some(channel) => format!("{}-{channel}", place.stripe),
            None => place.stripe.to_string(),
        });
        let reply = ListReply {
            channels: listed.collect(),
            next_cursor,
        };
        response::json(StatusCode::OK, &reply)
    }
}

/// The query of a list of channels.
#[derive(Debug)]
struct ListQuery {
    pattern: Pattern,
    only_stale: bool,
    /// Whether the busiest channels are wanted, instead of those of which something is kept.
    by_rate: bool,
    place: ListPlace,
    limit: usize,
}

impl ListQuery {
    /// Reads the parameters. The error is the answer to the client.
    fn read(query: &Query<'_>, tenant: Tenant) -> Result<Self, (HttpErrorCode, String)> {
        let wrong = |message: &str| (HttpErrorCode::InvalidMessage, message.to_owned());
        let get = |name| {
            query
                .get(name)
                .map_err(|message| (HttpErrorCode::InvalidMessage, message))
        };
        let given = get("pattern")?;
        let pattern = given.as_deref().unwrap_or("*");
        let pattern = Pattern::parse(pattern).map_err(|error| {
            let message = format!("pattern {pattern:?} {error}");
            (HttpErrorCode::InvalidChannel, message)
        })?;
        let only_stale = match get("stale")?.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(wrong("`stale` must be true or false")),
        };
        let limit = query.limit().map_err(|message| wrong(&message))?;
        let cursor = get("cursor")?;
        let by_rate = match get("sort")?.as_deref() {
            None => false,
            Some("rate") if given.is_none() && cursor.is_none() && !only_stale => true,
            Some("rate") => return Err(wrong("`sort` goes with `limit` only")),
            Some(_) => return Err(wrong("`sort` must be rate")),
        };
        let place = cursor.as_deref().map_or(Some(ListPlace::default()), |cursor| {
            let (stripe, after) = cursor.split_once('-').unzip();
            Some(ListPlace {
                stripe: stripe.unwrap_or(cursor).parse().ok()?,
                after: (after.map(Channel::parse).transpose().ok()?).map(|channel| channel.in_tenant(tenant)),
            })
        });
        Ok(Self {
            pattern: pattern.in_tenant(tenant),
            only_stale,
            by_rate,
            place: place.ok_or_else(|| wrong("`cursor` must be the `next_cursor` of another page"))?,
            limit,
        })
    }
}

/// Rounds to hundredths: an estimate has no more digits.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_queries_are_checked() {
        let tenant = Tenant::new(0).expect("few");
        let read = |query| ListQuery::read(&Query::of(query), tenant);
        let query = read("sort=rate&limit=7").expect("valid");
        assert_eq!((query.by_rate, query.limit), (true, 7));
        assert!(!read("sort=&pattern=grid.*&stale=true").expect("valid").by_rate);
        for bad in [
            "sort=bytes",
            "sort=rate&pattern=grid.*",
            "sort=rate&stale=true",
            "sort=rate&cursor=1",
            "stale=1",
            "limit=0",
            "pattern=a..b",
            "cursor=x",
        ] {
            read(bad).expect_err(bad);
        }
    }
}
