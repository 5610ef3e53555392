//! Sources in Redis: a stream, or channels of Pub/Sub.
//!
//! A stream is read by a consumer group, which keeps the position in Redis, beside the stream: both are stored, lost and
//! replicated together. All gateways have the same name in the group, since one of them reads at a time. So the next one gets
//! what was delivered and not confirmed, before anything else and in order.
//!
//! Invariant: an entry is confirmed after the outcome of its event is known.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{RedisError, Value};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use super::live::Live;
use super::run::{BATCH, Reads};
use super::{Batch, End, Message, RedisFrom, Start, StreamSettings};
use crate::backend::feeds::attributes::{self, Hash};
use crate::redis::{NoConnection, RedisServer};
use crate::time::unix_ms;
use tickgate_protocol::json::RecordKey;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// How long the server waits for an entry before it answers that there is none.
const BLOCK: Duration = Duration::from_secs(5);

/// How often the server is asked how many entries wait.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// How often a connection on which only messages come is tried.
const PING: Duration = Duration::from_secs(5);

fn end(error: &RedisError) -> End {
    End(error.to_string())
}

impl From<NoConnection> for End {
    fn from(error: NoConnection) -> Self {
        Self(error.to_string())
    }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, End> {
    match timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| end(&error)),
        Err(_) => Err(End("the server did not answer in time".to_owned())),
    }
}

/// Reads a stream.
pub(super) struct GroupReader {
    connection: MultiplexedConnection,
    key: Box<str>,
    group: Box<str>,
    record_key: Option<RecordKey>,
    // The entry behind which unconfirmed ones are read; `None`: they are all read.
    unconfirmed_after: Option<String>,
    read: Vec<String>,
    lag_asked: Option<Instant>,
}

/// The fields of an entry.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// An entry: its id, and its fields if it was not deleted.
type Entry = (String, Option<Fields>);

impl GroupReader {
    pub(super) async fn open(
        server: &RedisServer,
        key: &str,
        settings: &StreamSettings,
        record_key: Option<&RecordKey>,
        reads: &Reads<'_>,
    ) -> Result<Self, End> {
        let mut probe = redis::cmd("XINFO");
        probe.arg("GROUPS").arg(key);
        let mut connection = server.find(reads.attempt, Some(&probe)).await?.connection;
        // If a group is gone that was there, so is its stream: nothing of the new one was read.
        let start = match settings.start {
            Start::New if !reads.again => "$",
            Start::New | Start::All => "0",
        };
        let mut create = redis::cmd("XGROUP");
        create
            .arg("CREATE")
            .arg(key)
            .arg(&*settings.consumer)
            .arg(start)
            .arg("MKSTREAM");
        match timeout(ANSWER, create.query_async::<Value>(&mut connection)).await {
            Ok(Ok(_)) => tracing::info!(key, group = &*settings.consumer, start, "the consumer group is created"),
            Ok(Err(error)) if error.code() == Some("BUSYGROUP") => {}
            Ok(Err(error)) => return Err(end(&error)),
            Err(_) => return Err(End("the server did not answer in time".to_owned())),
        }
        Ok(Self {
            connection,
            key: key.into(),
            group: settings.consumer.clone(),
            record_key: record_key.cloned(),
            unconfirmed_after: Some("0".to_owned()),
            read: Vec::new(),
            lag_asked: None,
        })
    }

    pub(super) async fn next(&mut self) -> Result<Batch, End> {
        loop {
            let after = self.unconfirmed_after.clone();
            let mut read = redis::cmd("XREADGROUP");
            // The consumer has the name of the group.
            read.arg("GROUP")
                .arg(&*self.group)
                .arg(&*self.group)
                .arg("COUNT")
                .arg(BATCH);
            if after.is_none() {
                read.arg("BLOCK")
                    .arg(u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX));
            }
            read.arg("STREAMS").arg(&*self.key).arg(after.as_deref().unwrap_or(">"));
            let reply = within(BLOCK + ANSWER, read.query_async::<Value>(&mut self.connection)).await?;
            let entries = entries(reply).ok_or_else(|| End("the server's answer cannot be read".to_owned()))?;
            if entries.is_empty() {
                if after.is_some() {
                    self.unconfirmed_after = None;
                    continue;
                }
                return Ok(Batch {
                    behind: Some(0),
                    ..Batch::default()
                });
            }
            if after.is_some() {
                self.unconfirmed_after = entries.last().map(|(id, _)| id.clone());
            }
            let is_full = entries.len() == BATCH;
            let mut batch = Batch {
                behind: (!is_full && after.is_none()).then_some(0),
                ..Batch::default()
            };
            for (id, fields) in entries {
                match fields {
                    Some(fields) => batch
                        .messages
                        .push(message(&self.key, self.record_key.as_ref(), &id, fields)),
                    // It was trimmed before it was confirmed.
                    None => batch.lost += 1,
                }
                self.read.push(id);
            }
            if is_full {
                batch.behind = self.lag().await?;
            }
            return Ok(batch);
        }
    }

    /// Confirms the entries of the last batch.
    pub(super) async fn confirm(&mut self) -> Result<(), End> {
        if self.read.is_empty() {
            return Ok(());
        }
        let mut confirm = redis::cmd("XACK");
        confirm.arg(&*self.key).arg(&*self.group).arg(&self.read);
        within(ANSWER, confirm.query_async::<Value>(&mut self.connection)).await?;
        self.read.clear();
        Ok(())
    }

    /// The entries that wait behind those that were read, if the server knows and was not asked just now.
    async fn lag(&mut self) -> Result<Option<u64>, End> {
        if self.lag_asked.is_some_and(|asked| asked.elapsed() < LAG_EVERY) {
            return Ok(None);
        }
        self.lag_asked = Some(Instant::now());
        let mut ask = redis::cmd("XINFO");
        ask.arg("GROUPS").arg(&*self.key);
        let groups = within(ANSWER, ask.query_async::<Value>(&mut self.connection)).await?;
        Ok(lag_of(&groups, &self.group))
    }
}

/// The message of an entry of the stream with this key.
fn message(key: &str, record_key: Option<&RecordKey>, id: &str, fields: Fields) -> Message {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    let hash: Result<Hash, _> = fields
        .into_iter()
        .map(|(field, value)| Ok((text(field)?, text(value)?)))
        .collect();
    let hash = hash.map_err(|_: std::string::FromUtf8Error| "the entry is not text (UTF-8)".to_owned());
    Message {
        subject: key.into(),
        text: hash.map(|hash| attributes::object(hash, record_key).into()),
        timestamp_ms: id
            .split('-')
            .next()
            .and_then(|ms| ms.parse().ok())
            .unwrap_or_else(unix_ms),
        id: Some(format!("redis {key} {id}").into()),
    }
}

/// The messages in the bytes of a reply to `XREADGROUP` of the stream with this key.
pub(super) fn read_reply(reply: &[u8], key: &str, record_key: Option<&RecordKey>) -> Vec<Message> {
    let entries = redis::parse_redis_value(reply)
        .ok()
        .and_then(entries)
        .unwrap_or_default();
    let read = |(id, fields): Entry| Some(message(key, record_key, &id, fields?));
    entries.into_iter().filter_map(read).collect()
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn string(value: &Value) -> Option<String> {
    String::from_utf8(bytes(value)?.to_vec()).ok()
}

/// The entries of the reply to `XREADGROUP` of one stream; `None`: it is something else.
fn entries(reply: Value) -> Option<Vec<Entry>> {
    let streams = match reply {
        Value::Nil => return Some(Vec::new()),
        Value::Array(streams) => streams,
        _ => return None,
    };
    let Some(Value::Array(stream)) = streams.into_iter().next() else {
        return None;
    };
    let Some(Value::Array(entries)) = stream.into_iter().nth(1) else {
        return None;
    };
    entries.into_iter().map(entry).collect()
}

fn entry(entry: Value) -> Option<Entry> {
    let Value::Array(parts) = entry else { return None };
    let [id, fields] = <[Value; 2]>::try_from(parts).ok()?;
    let fields = match fields {
        Value::Array(fields) => {
            let values: Option<Vec<Vec<u8>>> = fields.iter().map(|value| bytes(value).map(<[u8]>::to_vec)).collect();
            let mut values = values?.into_iter();
            let mut pairs = Vec::new();
            while let (Some(field), Some(value)) = (values.next(), values.next()) {
                pairs.push((field, value));
            }
            Some(pairs)
        }
        // An entry that was deleted.
        Value::Nil => None,
        _ => return None,
    };
    Some((string(&id)?, fields))
}

/// The lag of this group in the reply to `XINFO GROUPS`.
fn lag_of(groups: &Value, group: &str) -> Option<u64> {
    let Value::Array(groups) = groups else { return None };
    let of = |fields: &Value, name: &str| {
        let Value::Array(fields) = fields else { return None };
        let mut pairs = fields.chunks_exact(2);
        pairs.find_map(|pair| (bytes(&pair[0]) == Some(name.as_bytes())).then(|| pair[1].clone()))
    };
    let is_own = |fields: &&Value| of(fields, "name").as_ref().and_then(bytes) == Some(group.as_bytes());
    match of(groups.iter().find(is_own)?, "lag")? {
        Value::Int(lag) => u64::try_from(lag).ok(),
        _ => None,
    }
}

/// Begins to take the messages of channels.
pub(super) async fn subscribe(server: &RedisServer, from: &RedisFrom, reads: &Reads<'_>) -> Result<Live, End> {
    // Of a Redis Cluster, each node passes on what is published at any of them.
    let found = server.find(reads.attempt, None).await?;
    let mut connection = within(ANSWER, found.client().get_async_pubsub()).await?;
    let subscribed = async {
        match from {
            RedisFrom::Pattern(pattern) => connection.psubscribe(&**pattern).await,
            RedisFrom::Channel(name) | RedisFrom::Stream(name) => connection.subscribe(&**name).await,
        }
    };
    within(ANSWER, subscribed).await?;
    let (sink, messages) = connection.split();
    let mut pings = interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Live::start(stream::unfold(Some((messages, sink, pings)), next_live)))
}

type LiveState = (PubSubStream, PubSubSink, Interval);

async fn next_live(state: Option<LiveState>) -> Option<(Result<Message, End>, Option<LiveState>)> {
    let (mut messages, mut sink, mut pings) = state?;
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else {
                    return Some((Err(End("the connection is lost".to_owned())), None));
                };
                let text = std::str::from_utf8(message.get_payload_bytes()).map(Into::into);
                let message = Message {
                    subject: message.get_channel_name().into(),
                    text: text.map_err(|_| "the message is not text (UTF-8)".to_owned()),
                    timestamp_ms: unix_ms(),
                    id: None,
                };
                return Some((Ok(message), Some((messages, sink, pings))));
            }
            _ = pings.tick() => {
                if let Err(end) = within(ANSWER, sink.ping::<Value>()).await {
                    return Some((Err(end), None));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn replies_are_read_and_others_refused() {
        let fields = Value::Array(vec![text("a"), text("1"), text("b"), text("2")]);
        let reply = |entries: Vec<Value>| Value::Array(vec![Value::Array(vec![text("key"), Value::Array(entries)])]);
        let entry = |id: &str, fields: Value| Value::Array(vec![text(id), fields]);
        let read = entries(reply(vec![entry("1-0", fields), entry("2-0", Value::Nil)])).expect("entries");
        let pair = |field: &str, value: &str| (field.as_bytes().to_vec(), value.as_bytes().to_vec());
        assert_eq!(read[0], ("1-0".to_owned(), Some(vec![pair("a", "1"), pair("b", "2")])));
        assert_eq!(read[1], ("2-0".to_owned(), None));
        assert_eq!(entries(Value::Nil), Some(Vec::new()));
        for bad in [
            Value::Int(1),
            Value::Array(Vec::new()),
            Value::Array(vec![text("key")]),
            reply(vec![text("1-0")]),
            reply(vec![entry("1-0", Value::Int(1))]),
            reply(vec![Value::Array(vec![text("1-0")])]),
        ] {
            assert_eq!(entries(bad.clone()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_lag_is_that_of_the_own_group() {
        let group = |name: &str, lag: Value| {
            Value::Array(vec![
                text("name"),
                text(name),
                text("pending"),
                Value::Int(1),
                text("lag"),
                lag,
            ])
        };
        let groups = Value::Array(vec![group("a", Value::Int(7)), group("b", Value::Nil)]);
        assert_eq!(["a", "b", "c"].map(|name| lag_of(&groups, name)), [Some(7), None, None]);
    }
}
