//! Sources in NATS: a subject, or a stream of JetStream.
//!
//! A stream is read by a durable consumer that confirms each message explicitly. Messages that were delivered and not
//! confirmed come again only after a while, and newer ones would come first. So a session begins with reading those directly
//! from the stream. When they come again later, they are only confirmed.
//!
//! Invariant: messages are read in the order of the stream. No delivery of the consumer is missing from a session: its
//! deliveries are numbered, and a session that misses one ends.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RetentionPolicy, Stream};
use async_nats::jetstream::{self};
use async_nats::{Client, Event, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::mpsc::UnboundedReceiver;

use super::live::Live;
use super::run::{BATCH, Reads};
use super::{Batch, End, Message, NatsServer, Start, StreamSettings};
use crate::broker::chain;
use crate::broker::nats::{Target, connect_to};
use crate::time::unix_ms;

/// How long the server may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The server says in this interval that it has nothing, and is lost after twice of it without a word.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Unconfirmed messages of a consumer: those of a batch, and those of sessions that ended.
const UNCONFIRMED_MAX: i64 = 4096;

fn failed<E: std::error::Error>(what: &'static str) -> impl Fn(E) -> End {
    move |error| End(format!("{what}: {}", chain(&error)))
}

async fn connect(server: &NatsServer, reads: &Reads<'_>) -> Result<(Client, UnboundedReceiver<Event>), End> {
    let target = Target {
        urls: &server.urls,
        login: &server.login,
        ca_file: server.ca_file.as_deref(),
        name: format!("tickgate {} source", reads.node),
        inbox_prefix: None,
    };
    connect_to(target, reads.attempt).await.map_err(End)
}

/// Waits until the connection is lost, or the server refuses something.
async fn lost(events: &mut UnboundedReceiver<Event>) -> End {
    loop {
        match events.recv().await {
            Some(Event::Disconnected) | None => return End("the connection is lost".to_owned()),
            Some(Event::Closed | Event::Draining) => return End("the connection is closed".to_owned()),
            Some(Event::LameDuckMode) => return End("the server is about to stop".to_owned()),
            // Such as a subject that the gateway has no permission for.
            Some(Event::ServerError(error)) => return End(format!("the server refuses something: {error}")),
            Some(_) => {}
        }
    }
}

fn text(payload: &[u8]) -> Result<Box<str>, String> {
    let text = std::str::from_utf8(payload);
    text.map(Into::into)
        .map_err(|_| "the message is not text (UTF-8)".to_owned())
}

/// Begins to take the messages of a subject.
pub(super) async fn subscribe(server: &NatsServer, subject: &str, reads: &Reads<'_>) -> Result<Live, End> {
    let (client, events) = connect(server, reads).await?;
    let subscribed = client.subscribe(subject.to_owned()).await;
    let messages = subscribed.map_err(failed("the subject cannot be subscribed to"))?;
    client.flush().await.map_err(failed("the connection is lost"))?;
    // The client lives as long as the stream.
    let state = (messages, events, client);
    Ok(Live::start(stream::unfold(Some(state), next_live)))
}

type LiveState = (Subscriber, UnboundedReceiver<Event>, Client);

async fn next_live(state: Option<LiveState>) -> Option<(Result<Message, End>, Option<LiveState>)> {
    let (mut messages, mut events, client) = state?;
    tokio::select! {
        message = messages.next() => match message {
            Some(message) => {
                let message = Message {
                    subject: message.subject.as_str().into(),
                    text: text(&message.payload),
                    timestamp_ms: unix_ms(),
                    id: None,
                };
                Some((Ok(message), Some((messages, events, client))))
            }
            None => Some((Err(End("the subscription ended".to_owned())), None)),
        },
        end = lost(&mut events) => Some((Err(end), None)),
    }
}

/// Reads a stream.
pub(super) struct StreamReader {
    events: UnboundedReceiver<Event>,
    stream: Stream,
    filter: String,
    messages: pull::Stream,
    // What was delivered before this session and not confirmed, by its place in the stream.
    unread: std::ops::RangeInclusive<u64>,
    // The message that was read last, by its place in the stream, and by the number of its delivery.
    last: u64,
    delivery: u64,
    unconfirmed: Vec<jetstream::Message>,
    lost: u64,
}

impl StreamReader {
    pub(super) async fn open(
        server: &NatsServer,
        name: &str,
        settings: &StreamSettings,
        reads: &Reads<'_>,
    ) -> Result<Self, End> {
        let (client, events) = connect(server, reads).await?;
        let mut context = jetstream::new(client);
        context.set_timeout(ANSWER);
        let stream = context.get_stream(name).await;
        let stream = stream.map_err(failed("the stream cannot be read"))?;
        let filter = settings.subject.as_deref().unwrap_or_default().to_owned();
        let config = pull::Config {
            durable_name: Some(settings.consumer.to_string()),
            description: Some("of a tickgate source".to_owned()),
            ack_policy: AckPolicy::Explicit,
            // If a consumer is gone that was there, so is its stream: nothing of the new one was read.
            deliver_policy: match settings.start {
                Start::New if !reads.again => DeliverPolicy::New,
                Start::New | Start::All => DeliverPolicy::All,
            },
            filter_subject: filter.clone(),
            max_ack_pending: UNCONFIRMED_MAX,
            ..pull::Config::default()
        };
        let consumer = stream.get_or_create_consumer(&settings.consumer, config).await;
        let mut consumer = consumer.map_err(failed("the consumer cannot be had"))?;
        let info = consumer
            .info()
            .await
            .map_err(failed("the consumer cannot be read"))?
            .clone();
        let is = (&info.config.filter_subject, info.config.ack_policy);
        if is != (&filter, AckPolicy::Explicit) {
            return Err(End(format!(
                "the consumer {} exists with subject {:?} and acknowledgements {:?}, this source needs {filter:?} and {:?}: \
                 choose another `consumer`",
                settings.consumer,
                is.0,
                is.1,
                AckPolicy::Explicit
            )));
        }
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .heartbeat(HEARTBEAT)
            .messages();
        let messages = messages.await.map_err(failed("the stream cannot be followed"))?;
        let floor = info.ack_floor.stream_sequence;
        let stored = stream.get_info().await.map_err(failed("the stream cannot be read"))?;
        // With a filter, nobody knows how many of the messages that are gone would have been read.
        let is_counted = filter.is_empty() && stored.config.retention == RetentionPolicy::Limits;
        let gone = stored.state.first_sequence.saturating_sub(floor + 1);
        Ok(Self {
            events,
            stream,
            filter: if filter.is_empty() { ">".to_owned() } else { filter },
            messages,
            unread: floor + 1..=info.delivered.stream_sequence,
            last: floor,
            delivery: info.delivered.consumer_sequence,
            unconfirmed: Vec::new(),
            lost: if is_counted { gone } else { 0 },
        })
    }

    pub(super) async fn next(&mut self) -> Result<Batch, End> {
        let mut batch = Batch {
            lost: std::mem::take(&mut self.lost),
            ..Batch::default()
        };
        while !self.unread.is_empty() && batch.messages.len() < BATCH {
            batch.messages.extend(self.read_unconfirmed().await?);
        }
        if !batch.messages.is_empty() {
            return Ok(batch);
        }
        let first = tokio::select! {
            message = self.messages.next() => message,
            end = lost(&mut self.events) => return Err(end),
        };
        self.take(first, &mut batch)?;
        while self.unconfirmed.len() < BATCH
            && let Some(message) = self.messages.next().now_or_never()
        {
            self.take(message, &mut batch)?;
        }
        Ok(batch)
    }

    /// Confirms the messages of the last batch.
    pub(super) async fn confirm(&mut self) -> Result<(), End> {
        for message in self.unconfirmed.drain(..) {
            let confirmed = message.ack().await;
            confirmed.map_err(|error| End(format!("a message cannot be confirmed: {error}")))?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        message: Option<Result<jetstream::Message, pull::MessagesError>>,
        batch: &mut Batch,
    ) -> Result<(), End> {
        let message = message.ok_or_else(|| End("the server ended the stream".to_owned()))?;
        let message = message.map_err(failed("the stream cannot be followed"))?;
        let info = message.info();
        let info = info.map_err(|error| End(format!("a message has no place in its stream: {error}")))?;
        if info.consumer_sequence != self.delivery + 1 {
            return Err(End(
                "the consumer has delivered messages elsewhere: does another reader use it?".to_owned(),
            ));
        }
        self.delivery = info.consumer_sequence;
        batch.behind = Some(info.pending);
        if info.stream_sequence > self.last {
            self.last = info.stream_sequence;
            let nanos = info.published.unix_timestamp_nanos();
            batch.messages.push(Message {
                subject: message.subject.as_str().into(),
                text: text(&message.payload),
                timestamp_ms: milliseconds(nanos),
                id: Some(id(info.stream, info.stream_sequence, nanos)),
            });
        }
        self.unconfirmed.push(message);
        Ok(())
    }

    /// The next message that was delivered before this session; `None`: there is none any more.
    async fn read_unconfirmed(&mut self) -> Result<Option<Message>, End> {
        let from = *self.unread.start();
        let request = self
            .stream
            .raw_message_builder()
            .sequence(from)
            .next_by_subject(&*self.filter);
        let found: Option<StreamMessage> = match request.send().await {
            Ok(message) => Some(message).filter(|message| self.unread.contains(&message.sequence)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
            Err(error) => return Err(failed("the stream cannot be read")(error)),
        };
        let Some(message) = found else {
            self.last = self.last.max(*self.unread.end());
            self.unread = self.last + 1..=self.last;
            return Ok(None);
        };
        self.last = message.sequence;
        self.unread = message.sequence + 1..=*self.unread.end();
        let nanos = message.time.unix_timestamp_nanos();
        Ok(Some(Message {
            subject: message.subject.as_str().into(),
            text: text(&message.payload),
            timestamp_ms: milliseconds(nanos),
            id: Some(id(&self.stream.cached_info().config.name, message.sequence, nanos)),
        }))
    }
}

fn milliseconds(nanos: i128) -> u64 {
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
}

/// What tells a message from all others. A server that has lost the end of a stream gives numbers again, at another time.
fn id(stream: &str, sequence: u64, nanos: i128) -> Box<str> {
    format!("nats {stream} {sequence} {nanos}").into()
}
