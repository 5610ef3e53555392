//! Reading a stream into the hub.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use futures_util::Stream as _;

use super::Shared;
use super::attach::{Attached, extent, unix_ms};
use crate::broker::link::{End, failed};
use crate::broker::replica::{Place, Reader};
use crate::hub::Wakes;

/// Messages of one pull.
const BATCH: usize = 500;

/// The broker says in this interval that it has nothing, and is lost after twice of it without a word.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A consumer whose gateway is gone is forgotten by the broker after this time.
const INACTIVE: Duration = Duration::from_secs(10);

/// Messages that are applied before the shards are woken.
const WAKE_EVERY: usize = 128;

/// What the broker says of a message.
pub(super) struct Arrived {
    pub(super) sequence: u64,
    pub(super) nanos: i128,
    /// Messages that wait behind it.
    pub(super) behind: u64,
}

impl Arrived {
    pub(super) fn of(message: &Message) -> Result<Self, End> {
        let info = message.info();
        let info = info.map_err(|error| End::Failed(format!("a message has no place in its stream: {error}")))?;
        Ok(Self {
            sequence: info.stream_sequence,
            nanos: info.published.unix_timestamp_nanos(),
            behind: info.pending,
        })
    }
}

/// Begins to read a stream behind a message.
pub(super) async fn pull(stream: &Stream, after: u64) -> Result<pull::Stream, End> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: after + 1,
        },
        ack_policy: AckPolicy::None,
        inactive_threshold: INACTIVE,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    let consumer = stream
        .create_consumer(config)
        .await
        .map_err(failed("the stream cannot be followed"))?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .heartbeat(HEARTBEAT)
        .messages()
        .await;
    messages.map_err(failed("the stream cannot be followed"))
}

/// The next message. Before it waits for one, it wakes the shards.
async fn next(shared: &Shared, messages: &mut pull::Stream, wakes: &mut (Wakes, usize)) -> Result<Message, End> {
    let message = poll_fn(|context| {
        let polled = Pin::new(&mut *messages).poll_next(context);
        if polled.is_pending() || wakes.1 >= WAKE_EVERY {
            shared.hub.wake(std::mem::take(&mut wakes.0));
            wakes.1 = 0;
        }
        match polled {
            Poll::Ready(message) => Poll::Ready(message),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    wakes.1 += 1;
    let message = message.ok_or_else(|| End::Failed("the broker ended the stream".to_owned()))?;
    message.map_err(failed("the stream cannot be followed"))
}

impl Shared {
    /// Follows the log until something fails. Calls `caught_up` when the hub is current.
    pub(super) async fn follow_log(self: Arc<Self>, attached: Arc<Attached>, caught_up: impl Fn() + Send) -> End {
        self.try_follow_log(&attached, caught_up).await.unwrap_err_or_else()
    }

    async fn try_follow_log(
        &self,
        attached: &Attached,
        caught_up: impl Fn() + Send,
    ) -> Result<std::convert::Infallible, End> {
        let mut reader = Reader::new(self, attached.log_end);
        let mut messages = pull(&attached.log, reader.last()).await?;
        let mut wakes = (Wakes::default(), 0);
        loop {
            while reader.is_at_end() {
                if reader.at_end(self, extent(&attached.log).await?)? {
                    caught_up();
                }
            }
            let message = next(self, &mut messages, &mut wakes).await?;
            let arrived = Arrived::of(&message)?;
            let place = Place {
                sequence: arrived.sequence,
                stored_ms: unix_ms(arrived.nanos),
                is_replayed: reader.take(self, arrived.sequence)?,
            };
            if *message.subject == *self.subjects.terms {
                self.take_notice(place, arrived.behind == 0, &message.payload)?;
            } else {
                let named = (self.subjects.name(&message.subject), &message.payload);
                let hand_over = |channel: &_| self.store_value_of(channel);
                self.apply_kept(place, named, &mut wakes.0, hand_over).await;
            }
            self.metrics
                .pending_log
                .set(i64::try_from(arrived.behind).unwrap_or(i64::MAX));
        }
    }

    /// Follows the stream of channels without state until something fails.
    pub(super) async fn follow_plain(self: Arc<Self>, attached: Arc<Attached>) -> End {
        self.try_follow_plain(&attached).await.unwrap_err_or_else()
    }

    async fn try_follow_plain(&self, attached: &Attached) -> Result<std::convert::Infallible, End> {
        let mut last = self.plain.lock().map_or(0, |(sequence, _)| sequence);
        let mut messages = pull(&attached.plain, last).await?;
        let mut wakes = (Wakes::default(), 0);
        loop {
            let message = next(self, &mut messages, &mut wakes).await?;
            let arrived = Arrived::of(&message)?;
            if arrived.sequence != last + 1 {
                *self.plain.lock() = Some((arrived.sequence - 1, None));
                self.end_connections(
                    "events of channels without state left the stream before this gateway could read them",
                );
            }
            last = arrived.sequence;
            let named = (self.subjects.name(&message.subject), &message.payload);
            let note = |_: &mut _| *self.plain.lock() = Some((arrived.sequence, Some(arrived.nanos)));
            self.apply_plain(unix_ms(arrived.nanos), named, &mut wakes.0, note)
                .await;
            self.metrics
                .pending_plain
                .set(i64::try_from(arrived.behind).unwrap_or(i64::MAX));
        }
    }
}

/// The error of a result that has no other value.
trait UnwrapErr<E> {
    fn unwrap_err_or_else(self) -> E;
}

impl<E> UnwrapErr<E> for Result<std::convert::Infallible, E> {
    fn unwrap_err_or_else(self) -> E {
        match self {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}
