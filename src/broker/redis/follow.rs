//! Reading the streams into the hub.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::Shared;
use super::entry::{Entry, Kind, entries, read_entries};
use crate::broker::link::{ANSWER, End, SILENCE_MAX};
use crate::broker::message::Problem;
use crate::broker::replica::Place;
use crate::hub::Wakes;

/// Entries of one read.
const BATCH: usize = 500;

/// How long the server lets a read wait for entries, in milliseconds.
const WAIT_MS: u64 = 1000;

/// Entries that are applied before the shards are woken.
const WAKE_EVERY: usize = 128;

impl Shared {
    /// Notes that the log has an entry with this number.
    pub(super) fn note_newest(&self, sequence: u64) {
        let newest = self.newest.fetch_max(sequence, Ordering::Relaxed).max(sequence);
        let behind = newest.saturating_sub(self.position.lock().applied);
        self.metrics.pending_log.set(i64::try_from(behind).unwrap_or(i64::MAX));
    }

    /// Follows the log, which ended at `end`, until something fails. Calls `caught_up` when the hub is current.
    pub(super) async fn follow(
        self: Arc<Self>,
        mut connection: MultiplexedConnection,
        end: u64,
        caught_up: impl Fn() + Send,
    ) -> End {
        match self.try_follow(&mut connection, end, caught_up).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_follow(
        self: &Arc<Self>,
        connection: &mut MultiplexedConnection,
        end: u64,
        caught_up: impl Fn() + Send,
    ) -> Result<std::convert::Infallible, End> {
        let mut wakes = Wakes::default();
        if self.is_reading_back() {
            self.read_kept(connection, end, &mut wakes).await?;
            // Its numbers do not say whether something is missing.
            self.note_gap();
        }
        let (mut target, mut is_current) = (end, false);
        loop {
            let last = self.position.lock().applied;
            while !is_current && last >= target {
                match self.end_read_back(self.read_state(connection).await?.extent)? {
                    Some(further) => target = further,
                    None => {
                        is_current = true;
                        caught_up();
                    }
                }
            }
            let mut command = redis::cmd("XREAD");
            command.arg("COUNT").arg(BATCH).arg("BLOCK").arg(WAIT_MS);
            command.arg("STREAMS").arg(&self.keys.events).arg(format!("0-{last}"));
            let reply: Value = match timeout(SILENCE_MAX, command.query_async(connection)).await {
                Ok(reply) => reply.map_err(|error| End::Failed(format!("the log cannot be followed: {error}")))?,
                Err(_) => return Err(End::Failed("the server does not answer".to_owned())),
            };
            let read = read_entries(reply).ok_or_else(unreadable)?;
            self.apply_all(read, last, &mut wakes).await?;
        }
    }

    async fn apply_all(self: &Arc<Self>, read: Vec<Entry>, mut last: u64, wakes: &mut Wakes) -> Result<(), End> {
        let (count, is_all) = (read.len(), read.len() < BATCH);
        for (index, entry) in read.into_iter().enumerate() {
            if entry.sequence != last + 1 {
                return Err(End::Gap(format!(
                    "the log has lost its entries {} to {} before this gateway could read them",
                    last + 1,
                    entry.sequence.saturating_sub(1)
                )));
            }
            last = entry.sequence;
            let is_newest = is_all && index + 1 == count;
            self.apply(entry, is_newest, wakes).await?;
            if index % WAKE_EVERY == WAKE_EVERY - 1 {
                self.hub.wake(std::mem::take(wakes));
            }
        }
        self.hub.wake(std::mem::take(wakes));
        self.note_newest(last);
        Ok(())
    }

    async fn apply(self: &Arc<Self>, entry: Entry, is_newest: bool, wakes: &mut Wakes) -> Result<(), End> {
        let named = (entry.name.as_str(), &entry.payload);
        let place = Place {
            sequence: entry.sequence,
            stored_ms: entry.stored_ms,
            is_replayed: false,
        };
        match entry.kind {
            Some(Kind::Kept) => {
                let hand_over = |channel: &_| self.store_value_of(channel);
                self.apply_kept(place, named, wakes, hand_over).await;
            }
            Some(Kind::Plain) => {
                let note = |position: &mut crate::broker::replica::Position| position.applied = place.sequence;
                self.apply_plain(place.stored_ms, named, wakes, note).await;
            }
            Some(Kind::Notice) => self.take_notice(place, is_newest, &entry.payload)?,
            Some(Kind::Message) => {
                let age_ms = {
                    let mut position = self.position.lock();
                    position.applied = place.sequence;
                    position.age_ms(place.stored_ms, self.clock.now())
                };
                self.take_message(&entry.name, &entry.payload, age_ms);
            }
            Some(Kind::Value) | None => {
                self.position.lock().applied = place.sequence;
                self.skip(Problem::Format, &entry.name);
            }
        }
        Ok(())
    }

    /// Reads what is kept into a hub that began empty, up to an entry of the log.
    async fn read_kept(&self, connection: &mut MultiplexedConnection, end: u64, wakes: &mut Wakes) -> Result<(), End> {
        loop {
            let applied = self.position.lock().applied;
            if applied >= end {
                return Ok(());
            }
            let mut command = redis::cmd("XRANGE");
            command.arg(&self.keys.kept);
            command.arg(format!("0-{}", applied + 1)).arg(format!("0-{end}"));
            command.arg("COUNT").arg(BATCH);
            let page: Value = match timeout(ANSWER, command.query_async(connection)).await {
                Ok(answer) => answer.map_err(|error| End::Failed(format!("the log cannot be read back: {error}")))?,
                Err(_) => return Err(End::Failed("the log cannot be read back in time".to_owned())),
            };
            let page = entries(page).ok_or_else(unreadable)?;
            let is_last = page.len() < BATCH;
            for entry in page {
                let place = Place {
                    sequence: entry.sequence,
                    stored_ms: entry.stored_ms,
                    is_replayed: true,
                };
                self.apply_kept(place, (&entry.name, &entry.payload), wakes, |_| {})
                    .await;
            }
            if is_last {
                self.position.lock().applied = end;
            }
        }
    }
}

fn unreadable() -> End {
    End::Failed("what the server answers are not entries of a stream".to_owned())
}
