//! Reading a stream into the hub.
//!
//! Invariant: a message is applied once, in the order of its stream, and the position moves with it without a wait in
//! between. So a session can end at any time, and the next one goes on behind the last message that was applied.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use futures_util::Stream as _;

use super::attach::{Attached, failed, unix_ms};
use super::message::{Decoded, Problem};
use super::streams::terms_subject;
use super::terms::{Notice, Table};
use super::{End, Shared};
use crate::hub::{Stamp, Wakes};
use crate::time::Now;
use tickgate_protocol::channel::Tenant;

/// Messages of one pull.
const BATCH: usize = 500;

/// The broker says in this interval that it has nothing, and is lost after twice of it without a word.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A consumer whose gateway is gone is forgotten by the broker after this time.
const INACTIVE: Duration = Duration::from_secs(10);

/// Messages that are applied before the shards are woken.
const WAKE_EVERY: usize = 128;

/// On average, so many events of channels with merged records bring the records as a whole into the log. The log keeps
/// thousands of events of each channel, so that there is always one among them.
const WHOLE_EVERY: u32 = 64;

/// A message that was no event is logged at most once in this time.
const SKIPPED_LOGGED: Duration = Duration::from_secs(60);

/// How far the gateway has come.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// The terms of the log; `None`: the gateway has never attached, or begins anew.
    pub(super) table: Option<Table>,
    /// The number of the last message of the log that was applied.
    pub(super) applied: u64,
    /// The broker that the gateway is connected to; see [`Notice::incarnation`].
    pub(super) incarnation: String,
    /// The number of the newest notice that was seen.
    pub(super) notice: u64,
    /// When a notice was read last.
    pub(super) heard: Option<Instant>,
    /// The last message of the other stream that was applied: its number and when it was stored, in nanoseconds. The time
    /// is missing if no message was read.
    pub(super) plain: Option<(u64, Option<i128>)>,
    /// Up to here the log is read back into a hub that began empty.
    pub(super) replay_to: u64,
    /// Whether clients may have got events since the hub began anew.
    pub(super) was_up: bool,
    // The same instant on the broker's clock, in Unix milliseconds, and on the gateway's, in monotonic ones.
    time: Option<(u64, u64)>,
    skipped_logged: Option<Instant>,
}

impl Position {
    /// The broker has just stored something at `stored_ms`.
    pub(super) fn note_time(&mut self, stored_ms: u64, now: Now) {
        self.time = Some((stored_ms, now.mono_ms));
    }

    /// How long ago the broker stored something, by its own clock.
    fn age_ms(&self, stored_ms: u64, now: Now) -> u64 {
        self.time.map_or(0, |(broker_ms, mono_ms)| {
            let broker_now_ms = broker_ms + now.mono_ms.saturating_sub(mono_ms);
            broker_now_ms.saturating_sub(stored_ms)
        })
    }
}

/// What the broker says of a message.
pub(super) struct Arrived {
    pub(super) sequence: u64,
    nanos: i128,
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
    /// Follows the log until something fails. Calls `caught_up` when the hub holds what the log had when the gateway
    /// attached.
    pub(super) async fn follow_log(self: Arc<Self>, attached: Arc<Attached>, caught_up: impl Fn() + Send) -> End {
        self.try_follow_log(&attached, caught_up).await.unwrap_err_or_else()
    }

    async fn try_follow_log(
        &self,
        attached: &Attached,
        caught_up: impl Fn() + Send,
    ) -> Result<std::convert::Infallible, End> {
        let after = self.position.lock().applied;
        let terms = terms_subject(&self.settings.prefix);
        let mut messages = pull(&attached.log, after).await?;
        let (mut last, mut is_current) = (after, false);
        let mut wakes = (Wakes::default(), 0);
        loop {
            if !is_current && last >= attached.log_target {
                is_current = true;
                caught_up();
            }
            let message = next(self, &mut messages, &mut wakes).await?;
            let arrived = Arrived::of(&message)?;
            let is_replayed = arrived.sequence <= attached.replay_to;
            if arrived.sequence != last + 1 && !is_replayed {
                return Err(End::Gap(format!(
                    "the log has lost its messages {} to {} before this gateway could read them",
                    last + 1,
                    arrived.sequence.saturating_sub(1)
                )));
            }
            last = arrived.sequence;
            if *message.subject == *terms {
                self.take_notice(&arrived, &message.payload)?;
            } else {
                self.apply_kept(&arrived, &message, is_replayed, &mut wakes.0).await;
            }
            self.metrics
                .pending_log
                .set(i64::try_from(arrived.behind).unwrap_or(i64::MAX));
        }
    }

    fn take_notice(&self, arrived: &Arrived, payload: &[u8]) -> Result<(), End> {
        let stored_ms = unix_ms(arrived.nanos);
        let mut position = self.position.lock();
        position.applied = arrived.sequence;
        position.notice = position.notice.max(arrived.sequence);
        position.heard = Some(Instant::now());
        if arrived.behind == 0 {
            position.note_time(stored_ms, self.clock.now());
        }
        let known = position.table.as_ref();
        let (current, epoch) = known.map_or((0, 0), |table| (table.current().first, table.epoch));
        let opens = |notice: &Notice| notice.opens.is_some() && arrived.sequence > current;
        let opened = Notice::parse(payload).filter(opens);
        if let Some(table) = opened.and_then(|notice| Table::of(&notice, arrived.sequence, stored_ms)) {
            if table.epoch != epoch {
                return Err(End::Gap(
                    "another gateway has found no notice in the log, and began a new epoch".to_owned(),
                ));
            }
            self.hub.set_lost(table.lost());
            self.metrics.term_ms.store(table.began_ms(), Ordering::Relaxed);
            position.table = Some(table);
        }
        Ok(())
    }

    async fn apply_kept(&self, arrived: &Arrived, message: &Message, is_replayed: bool, wakes: &mut Wakes) {
        let decoded = self.decoder.decode(&message.subject, &message.payload);
        let bytes = message.payload.len();
        let credit = match self.hub.credit_now(Tenant::DEFAULT, bytes) {
            Some(credit) => credit,
            None => {
                self.hub.wake(std::mem::take(wakes));
                self.hub.credit(Tenant::DEFAULT, bytes).await
            }
        };
        let (now, stored_ms) = (self.clock.now(), unix_ms(arrived.nanos));
        let mut position = self.position.lock();
        position.applied = arrived.sequence;
        let version = position
            .table
            .as_ref()
            .and_then(|table| table.version(arrived.sequence));
        let age_ms = position.age_ms(stored_ms, now);
        drop(position);
        match (decoded, version) {
            // The hub has merged the records itself.
            (Ok(Decoded { is_whole: true, .. }), _) if !is_replayed => {}
            (Ok(Decoded { event, source, .. }), Some(version)) => {
                let is_own = source.gateway == self.gateway;
                let merges = is_own && !is_replayed && self.hub.class_of(&event.channel).record_key.is_some();
                let merged = merges.then(|| event.channel.clone());
                let stamp = Stamp {
                    version,
                    age_ms,
                    is_replayed,
                };
                if !is_own && !is_replayed {
                    (self.foreign)(&event.channel);
                }
                let receipt = self.hub.apply(event, stamp, now, credit, wakes);
                self.metrics.applied_log.add(1);
                self.metrics.delay_ms.store(age_ms, Ordering::Relaxed);
                if is_own {
                    self.pending.finish(source.number, Ok(receipt), Instant::now());
                }
                if let Some(channel) = merged.filter(|_| rand::random_ratio(1, WHOLE_EVERY)) {
                    self.write_whole(&channel, arrived.sequence);
                }
            }
            (Err(problem), _) => self.skip(problem, &message.subject),
            // Older than all terms: no client can have a position there.
            (Ok(_), None) => {}
        }
    }

    /// Follows the stream of channels without state until something fails.
    pub(super) async fn follow_plain(self: Arc<Self>, attached: Arc<Attached>) -> End {
        self.try_follow_plain(&attached).await.unwrap_err_or_else()
    }

    async fn try_follow_plain(&self, attached: &Attached) -> Result<std::convert::Infallible, End> {
        let mut last = self.position.lock().plain.map_or(0, |(sequence, _)| sequence);
        let mut messages = pull(&attached.plain, last).await?;
        let mut wakes = (Wakes::default(), 0);
        loop {
            let message = next(self, &mut messages, &mut wakes).await?;
            let arrived = Arrived::of(&message)?;
            if arrived.sequence != last + 1 {
                self.position.lock().plain = Some((arrived.sequence - 1, None));
                self.end_connections(
                    "events of channels without state left the stream before this gateway could read them",
                );
            }
            last = arrived.sequence;
            self.apply_plain(&arrived, &message, &mut wakes.0).await;
            self.metrics
                .pending_plain
                .set(i64::try_from(arrived.behind).unwrap_or(i64::MAX));
        }
    }

    async fn apply_plain(&self, arrived: &Arrived, message: &Message, wakes: &mut Wakes) {
        let decoded = self.decoder.decode(&message.subject, &message.payload);
        let bytes = message.payload.len();
        let credit = match self.hub.credit_now(Tenant::DEFAULT, bytes) {
            Some(credit) => credit,
            None => {
                self.hub.wake(std::mem::take(wakes));
                self.hub.credit(Tenant::DEFAULT, bytes).await
            }
        };
        let (now, stored_ms) = (self.clock.now(), unix_ms(arrived.nanos));
        let age_ms = {
            let mut position = self.position.lock();
            position.plain = Some((arrived.sequence, Some(arrived.nanos)));
            position.age_ms(stored_ms, now)
        };
        let is_kept = |channel| self.hub.class_of(channel).keeps_state();
        match decoded {
            Ok(Decoded { event, .. }) if is_kept(&event.channel) => self.skip(Problem::Lane, &message.subject),
            Ok(Decoded { event, source, .. }) => {
                if source.gateway != self.gateway {
                    (self.foreign)(&event.channel);
                }
                let receipt = self.hub.apply(event, Stamp::default(), now, credit, wakes);
                self.metrics.applied_plain.add(1);
                self.metrics.plain_delay_ms.store(age_ms, Ordering::Relaxed);
                if source.gateway == self.gateway {
                    self.pending.finish(source.number, Ok(receipt), Instant::now());
                }
            }
            Err(problem) => self.skip(problem, &message.subject),
        }
    }

    fn skip(&self, problem: Problem, subject: &str) {
        self.metrics.skipped.add(1);
        let mut position = self.position.lock();
        let now = Instant::now();
        let is_due = |logged: Instant| now.saturating_duration_since(logged) >= SKIPPED_LOGGED;
        if position.skipped_logged.is_none_or(is_due) {
            position.skipped_logged = Some(now);
            tracing::warn!(subject, %problem, "a message in a stream of the broker is skipped (said once a minute)");
        }
    }

    /// Ends all connections of this gateway, since events may be missing from what they got.
    pub(super) fn end_connections(&self, reason: &str) {
        self.metrics.resyncs.add(1);
        tracing::warn!(
            reason,
            "all connections end, so that their clients come back and recover"
        );
        self.pending.resync();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_those_of_the_broker_s_clock() {
        let now = |mono_ms| Now { mono_ms, unix_ms: 0 };
        let mut position = Position::default();
        assert_eq!(position.age_ms(5, now(100)), 0);
        position.note_time(1_000_000, now(100));
        assert_eq!(position.age_ms(999_000, now(100)), 1000);
        assert_eq!(position.age_ms(999_000, now(350)), 1250);
        assert_eq!(position.age_ms(1_000_600, now(350)), 0, "in the future");
    }
}
