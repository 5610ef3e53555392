//! Connections: listing them, closing them, and the test broadcast. The shards answer all of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::access::{Operator, Viewer};
use super::act::Reason;
use super::gateways::Order;
use super::query::Query;
use super::routes::Call;
use super::{Admin, body};
use crate::event::{Event, NewEvent, PublishOptions};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::shard::mailbox::{ClientFilter, ClientInfo, ClientOrder, ConnectionId, ShardHandle, ShardMessage};
use tickgate_protocol::channel::{Channel, Tenant, TenantNames};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::json::{Scratch, push_string};

/// How long a shard may take to answer. It answers between two turns.
pub(super) const SHARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest body of a test broadcast.
const TEST_BYTES_MAX: u64 = 64 * 1024;

#[derive(Serialize)]
struct ClientsReply {
    clients: Vec<Client>,
    next_cursor: Option<String>,
}

/// One connection. Times are in Unix seconds.
#[derive(Serialize)]
pub(super) struct Client {
    client_id: Box<str>,
    /// Absent in a gateway without tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Box<str>>,
    user: Option<Box<str>>,
    role: Option<Box<str>>,
    address: Option<IpAddr>,
    dialect: &'static str,
    transport: &'static str,
    /// The window that events are compressed with, in bits; null without compression.
    compression_window_bits: Option<u8>,
    connected_at: f64,
    last_ping: Option<f64>,
    last_pong: Option<f64>,
    subscriptions: Vec<Box<str>>,
    /// The patterns whose rate is limited, in updates per second and channel.
    max_rates: BTreeMap<Box<str>, serde_json::Number>,
    /// The bytes that the client is sent in a second; null: no limit.
    bytes_per_second: Option<u32>,
    message_count: u64,
    pending: u64,
    pending_bytes: u64,
    waiting_seconds: Option<f64>,
    dropped: u64,
    rate_limited: u64,
    rate_limited_at: Option<f64>,
    is_alive: bool,
}

impl Client {
    pub(super) fn of(info: ClientInfo, tenants: &TenantNames) -> Self {
        Self {
            tenant: (!tenants.is_empty()).then(|| tenants.label(info.tenant).into()),
            client_id: info.client_id,
            user: name(info.identity.as_deref().and_then(|identity| identity.user.as_deref())),
            role: name(info.identity.as_deref().and_then(|identity| identity.role.as_deref())),
            address: info.address,
            dialect: info.dialect,
            transport: info.transport,
            compression_window_bits: info.deflate.map(|deflate| deflate.window_bits),
            connected_at: seconds(info.connected_at_ms),
            last_ping: info.last_ping_ms.map(seconds),
            last_pong: info.last_pong_ms.map(seconds),
            subscriptions: info.subscriptions,
            max_rates: (info.max_rates.into_iter())
                .filter_map(|(pattern, rate)| Some((pattern, serde_json::from_str(rate.as_str()).ok()?)))
                .collect(),
            bytes_per_second: Some(info.bytes_per_second).filter(|bytes| *bytes > 0),
            message_count: info.message_count,
            pending: info.pending,
            pending_bytes: info.pending_bytes,
            waiting_seconds: info.waiting_ms.map(seconds),
            dropped: info.dropped,
            rate_limited: info.rate_limited,
            rate_limited_at: info.rate_limited_at_ms.map(seconds),
            is_alive: info.is_alive,
        }
    }
}

fn name(text: Option<&str>) -> Option<Box<str>> {
    text.map(Box::from)
}

#[derive(Serialize)]
struct BroadcastReply {
    queued: usize,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 have 41 bits, a double holds 53"
)]
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// A shard did not answer in time. Holds the response that says so.
pub(super) struct ShardTimedOut(pub(super) HttpResponse);

/// Sends a question to a shard and waits for the reply; `None` when the shard has ended, with all its connections.
///
/// # Errors
///
/// The response 503 when the shard takes longer than [`SHARD_TIMEOUT`].
pub(super) async fn ask<T: Send + 'static>(
    shard: &ShardHandle,
    question: impl FnOnce(Box<dyn FnOnce(T) + Send>) -> ShardMessage,
) -> Result<Option<T>, ShardTimedOut> {
    let (reply, answered) = oneshot::channel();
    // The receiver is gone when the request was dropped meanwhile.
    let message = question(Box::new(move |value| drop(reply.send(value))));
    if shard.send(message).is_err() {
        return Ok(None);
    }
    match timeout(SHARD_TIMEOUT, answered).await {
        Ok(value) => Ok(value.ok()),
        Err(_) => Err(ShardTimedOut(response::error(
            HttpErrorCode::Overloaded,
            "a shard does not answer",
        ))),
    }
}

impl Admin {
    /// `GET /api/websocket/clients?limit&cursor&user&search&sort`
    pub(super) async fn clients(&self, viewer: Viewer, call: Call) -> HttpResponse {
        let PageQuery {
            limit,
            mut cursor,
            user,
            search,
            sort,
        } = match PageQuery::read(&call.query()) {
            Ok(query) => query,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, &message),
        };
        if let Some(by) = sort {
            return self.worst_clients(by, limit, viewer.scope()).await;
        }
        let shards = &self.parts.shards;
        let filter = ClientFilter {
            tenant: viewer.scope(),
            user,
            search,
        };
        let mut clients = Vec::new();
        while let (missing @ 1.., Some(shard)) = (limit - clients.len(), shards.get(usize::from(cursor.0))) {
            let (from_slot, filter) = (cursor.1, filter.clone());
            let page = match ask(shard, |reply| ShardMessage::Clients {
                from_slot,
                limit: missing,
                filter,
                reply,
            })
            .await
            {
                Ok(page) => page.unwrap_or_default(),
                Err(timed_out) => return timed_out.0,
            };
            let taken = page.clients.into_iter().take(missing);
            clients.extend(taken.map(|info| Client::of(info, &self.tenants)));
            cursor = page.next_slot.map_or((cursor.0 + 1, 0), |slot| (cursor.0, slot));
        }
        let more = usize::from(cursor.0) < shards.len();
        let next_cursor = more.then(|| format!("{}-{}", cursor.0, cursor.1));
        response::json(StatusCode::OK, &ClientsReply { clients, next_cursor })
    }

    /// The connections with the most of something, over all shards.
    async fn worst_clients(&self, by: ClientOrder, limit: usize, tenant: Option<Tenant>) -> HttpResponse {
        let mut found = Vec::new();
        for shard in &self.parts.shards {
            let question = |reply| ShardMessage::WorstClients {
                by,
                limit,
                tenant,
                reply,
            };
            match ask(shard, question).await {
                Ok(clients) => found.extend(clients.unwrap_or_default()),
                Err(timed_out) => return timed_out.0,
            }
        }
        found.sort_by_key(|client: &ClientInfo| {
            let waiting_ms = client.waiting_ms.unwrap_or(0);
            std::cmp::Reverse(by.amount(client.pending_bytes, waiting_ms, client.dropped, client.rate_limited))
        });
        found.truncate(limit);
        let clients = (found.into_iter())
            .map(|info| Client::of(info, &self.tenants))
            .collect();
        let next_cursor = None;
        response::json(StatusCode::OK, &ClientsReply { clients, next_cursor })
    }

    /// `DELETE /api/websocket/clients/{id}?reason`
    pub(super) async fn disconnect(&self, operator: Operator, call: Call) -> HttpResponse {
        let query = call.query();
        let reason = match Reason::of_query(&query, &call.segment) {
            Ok(reason) => reason,
            Err(refused) => return *refused,
        };
        self.operate("admin.disconnect", &operator, call.address, &reason, async {
            match self.end_client(&call.segment, operator.scope()).await {
                Ok(true) => return response::empty(StatusCode::NO_CONTENT),
                Ok(false) => {}
                Err(timed_out) => return timed_out.0,
            }
            let elsewhere = self.order_others(Order::Disconnect {
                client_id: (*call.segment).into(),
                tenant: operator.scope().map(|tenant| self.tenants.label(tenant).into()),
            });
            let elsewhere = elsewhere.await;
            match elsewhere.ended {
                0 => elsewhere
                    .unless_all(0)
                    .unwrap_or_else(|| response::error(HttpErrorCode::NotFound, "no such connection")),
                _ => response::empty(StatusCode::NO_CONTENT),
            }
        })
        .await
    }

    /// Ends a connection of this gateway, of this tenant if there is one. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// When the shard does not answer.
    pub(super) async fn end_client(&self, client_id: &str, tenant: Option<Tenant>) -> Result<bool, ShardTimedOut> {
        let found = ConnectionId::from_client_id(client_id)
            .and_then(|id| Some((id, self.parts.shards.get(usize::from(id.shard))?)));
        let Some((id, shard)) = found else { return Ok(false) };
        let ending = Disconnect::ByOperator;
        let ended = ask(shard, |reply| ShardMessage::Disconnect {
            id,
            tenant,
            ending,
            reply,
        });
        Ok(ended.await?.unwrap_or(false))
    }

    /// `DELETE /api/users/{sub}/connections?reason`
    pub(super) async fn disconnect_user(&self, operator: Operator, call: Call) -> HttpResponse {
        let query = call.query();
        let user = &*call.segment;
        let reason = match Reason::of_query(&query, user) {
            Ok(reason) => reason,
            Err(refused) => return *refused,
        };
        self.operate("admin.disconnect_user", &operator, call.address, &reason, async {
            let here = match self.end_user(user, operator.tenant()).await {
                Ok(ended) => ended,
                Err(timed_out) => return timed_out.0,
            };
            let elsewhere = self.order_others(Order::DisconnectUser {
                user: user.into(),
                tenant: self.tenants.label(operator.tenant()).into(),
            });
            let elsewhere = elsewhere.await;
            if let Some(unknown) = elsewhere.unless_all(here) {
                return unknown;
            }
            match here + elsewhere.ended {
                0 => response::error(HttpErrorCode::NotFound, "this user has no connections"),
                _ => response::empty(StatusCode::NO_CONTENT),
            }
        })
        .await
    }

    /// Ends all connections of a user at this gateway. Returns how many there were.
    ///
    /// # Errors
    ///
    /// When a shard does not answer.
    pub(super) async fn end_user(&self, user: &str, tenant: Tenant) -> Result<usize, ShardTimedOut> {
        let mut ended = 0;
        for shard in &self.parts.shards {
            let (user, ending) = (user.into(), Disconnect::ByOperator);
            let question = |reply| ShardMessage::DisconnectUser {
                tenant,
                user,
                ending,
                reply,
            };
            ended += ask(shard, question).await?.unwrap_or(0);
        }
        Ok(ended)
    }

    /// `POST /api/websocket/broadcast/test` with `{"message"?}`
    pub(super) async fn broadcast_test(&self, operator: Operator, call: Call) -> HttpResponse {
        let body = match self.body(call.request) {
            Ok(body) => body.whole(TEST_BYTES_MAX).await,
            Err(refused) => Err(refused),
        };
        let body = match body {
            Ok(body) => body,
            Err(refused) => return refused.response(),
        };
        let data = match test_data(&body.bytes) {
            Ok(data) => data,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, message),
        };
        let Ok(channel) = Channel::parse("system.test") else {
            return response::empty(StatusCode::INTERNAL_SERVER_ERROR);
        };
        let new = NewEvent {
            channel: channel.in_tenant(operator.tenant()),
            name: "test".into(),
            data: data.into(),
            timestamp_ms: self.parts.clock.now().unix_ms,
            options: PublishOptions::default(),
        };
        let event = Arc::new(Event::new(new, None));
        let mut queued = 0;
        for shard in &self.parts.shards {
            let event = Arc::clone(&event);
            match ask(shard, |reply| ShardMessage::Broadcast { event, reply }).await {
                Ok(count) => queued += count.unwrap_or(0),
                Err(timed_out) => return timed_out.0,
            }
        }
        response::json(StatusCode::OK, &BroadcastReply { queued })
    }
}

/// The query of `GET /api/websocket/clients`.
#[derive(Debug, PartialEq, Eq)]
struct PageQuery {
    limit: usize,
    /// Shard and slot of the first connection of the page.
    cursor: (u16, u32),
    user: Option<Box<str>>,
    /// A text in the name of the user or of the client, or in the address.
    search: Option<Box<str>>,
    /// The connections with the most of this instead of a page of all.
    sort: Option<ClientOrder>,
}

impl PageQuery {
    /// Reads the parameters. The error is the message for the client.
    fn read(query: &Query<'_>) -> Result<Self, String> {
        let limit = query.limit()?;
        let cursor = match query.get("cursor")? {
            None => (0, 0),
            Some(cursor) => cursor
                .split_once('-')
                .and_then(|(shard, slot)| Some((shard.parse().ok()?, slot.parse().ok()?)))
                .ok_or("`cursor` must be the `next_cursor` of another page")?,
        };
        let text = |name| Ok::<_, String>(query.get(name)?.map(|text| Box::from(&*text)));
        let (user, search) = (text("user")?, text("search")?);
        let sort = match query.get("sort")?.as_deref() {
            None => None,
            Some("pending") => Some(ClientOrder::PendingBytes),
            Some("waiting") => Some(ClientOrder::Waiting),
            Some("dropped") => Some(ClientOrder::Dropped),
            Some("rate_limited") => Some(ClientOrder::RateLimited),
            Some("trouble") => Some(ClientOrder::Trouble),
            Some(_) => return Err("`sort` must be trouble, pending, waiting, dropped or rate_limited".to_owned()),
        };
        if sort.is_some() && (cursor != (0, 0) || user.is_some() || search.is_some()) {
            return Err("`sort` goes with `limit` only".to_owned());
        }
        Ok(Self {
            limit,
            cursor,
            user,
            search,
            sort,
        })
    }
}

/// The `data` of a test broadcast, from the request's body. The error is the message for the client.
fn test_data(body: &[u8]) -> Result<Vec<u8>, &'static str> {
    let text = body::text(body).map_err(|_| "the body is not UTF-8")?;
    let mut data = br#"{"message":"#.to_vec();
    if text.trim_ascii().is_empty() {
        push_string(&mut data, "test broadcast");
    } else {
        let mut scratch = Scratch::default();
        let mut object = scratch.object(text).map_err(|_| "the body must be a JSON object")?;
        let message = match object.get("message") {
            None => Some("test broadcast".into()),
            Some(value) => object.text(value),
        };
        push_string(&mut data, &message.ok_or("`message` must be a string")?);
    }
    data.push(b'}');
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_queries_are_checked() {
        let page = |limit, cursor, user: Option<&str>| {
            Ok(PageQuery {
                limit,
                cursor,
                user: user.map(Into::into),
                search: None,
                sort: None,
            })
        };
        let read = |query| PageQuery::read(&Query::of(query));
        for empty in ["", "limit=&cursor=&user="] {
            assert_eq!(read(empty), page(100, (0, 0), None), "{empty}");
        }
        assert_eq!(read("limit=7&cursor=3-41&user=u%201"), page(7, (3, 41), Some("u 1")));
        for query in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "cursor=1",
            "cursor=1-x",
            "cursor=99999-1",
            "sort=-dropped",
            "sort=dropped&user=u",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_test_broadcast_carries_its_message() {
        let data = |body: &str| test_data(body.as_bytes()).map(|data| String::from_utf8(data).expect("text"));
        assert_eq!(data(""), Ok(r#"{"message":"test broadcast"}"#.into()));
        assert_eq!(data("{}"), Ok(r#"{"message":"test broadcast"}"#.into()));
        assert_eq!(data(r#"{"message":"a\"b"}"#), Ok(r#"{"message":"a\"b"}"#.into()));
        for body in ["[]", "x", r#"{"message":1}"#] {
            assert!(test_data(body.as_bytes()).is_err(), "{body}");
        }
        assert!(test_data(b"\xff").is_err());
    }
}
