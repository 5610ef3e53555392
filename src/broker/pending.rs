//! Events that are on their way through the broker, until their outcome is known.
//!
//! Invariant: each event has exactly one outcome. It is a receipt when this gateway has applied the event, a refusal when
//! the broker says so or nothing was sent, and otherwise [`Refusal::Unknown`] after [`PATIENCE`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Origin;
use super::metrics::BrokerMetrics;
use crate::event::{EventId, Refusal};
use crate::hub::Receipt;
use crate::shard::mailbox::{ShardHandle, ShardMessage};
use tickgate_protocol::channel::Channel;

/// How long an outcome is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Events of asynchronous publishers that may be on their way.
const IN_FLIGHT_MAX: usize = 4096;

/// Events of the clients of one shard that may be on their way.
const PER_SHARD_MAX: u64 = 1024;

/// Where an outcome goes to.
pub(super) enum Waiter {
    /// An asynchronous publisher, with its place among [`IN_FLIGHT_MAX`].
    Task(oneshot::Sender<Result<Receipt, Refusal>>, OwnedSemaphorePermit),
    /// A client.
    Client(Origin),
}

struct Entry {
    waiter: Waiter,
    sent: Instant,
    id: Option<(Channel, EventId)>,
}

/// The events that are on their way.
pub(super) struct Pending {
    entries: Mutex<HashMap<u64, Entry, RandomState>>,
    next: AtomicU64,
    room: Arc<Semaphore>,
    per_shard: Vec<AtomicU64>,
    shards: Vec<ShardHandle>,
    metrics: Arc<BrokerMetrics>,
}

impl Pending {
    pub(super) fn new(shards: Vec<ShardHandle>, metrics: Arc<BrokerMetrics>) -> Self {
        Self {
            entries: Mutex::default(),
            next: AtomicU64::new(1),
            room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            per_shard: shards.iter().map(|_| AtomicU64::new(0)).collect(),
            shards,
            metrics,
        }
    }

    /// A place for an event of an asynchronous publisher, in order of arrival.
    pub(super) async fn room(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.room).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    /// Whether there is a place for an event of a client of this shard. If not, the end of an earlier one rings the
    /// shard's doorbell.
    pub(super) fn has_room(&self, shard: u16) -> bool {
        let count = self.per_shard.get(usize::from(shard));
        count.is_some_and(|count| count.load(Relaxed) < PER_SHARD_MAX)
    }

    /// Adds an event, and returns its number.
    pub(super) fn add(&self, waiter: Waiter, id: Option<(Channel, EventId)>, now: Instant) -> u64 {
        if let Waiter::Client(origin) = &waiter {
            self.count(origin, 1);
        }
        let number = self.next.fetch_add(1, Relaxed);
        let entry = Entry { waiter, sent: now, id };
        self.entries.lock().insert(number, entry);
        number
    }

    fn count(&self, origin: &Origin, by: u64) {
        if let Some(count) = self.per_shard.get(usize::from(origin.connection.shard)) {
            count.fetch_add(by, Relaxed);
        }
    }

    /// The channel and the id of an event that is on its way.
    pub(super) fn id(&self, number: u64) -> Option<(Channel, EventId)> {
        self.entries.lock().get(&number)?.id.clone()
    }

    /// Tells the outcome of an event, if it has none yet.
    pub(super) fn finish(&self, number: u64, outcome: Result<Receipt, Refusal>, now: Instant) {
        let entry = self.entries.lock().remove(&number);
        if let Some(entry) = entry {
            self.tell(entry, outcome, now);
        }
    }

    fn tell(&self, entry: Entry, outcome: Result<Receipt, Refusal>, now: Instant) {
        self.metrics
            .count_outcome(&outcome, now.saturating_duration_since(entry.sent));
        match entry.waiter {
            // A publisher that has gone does not want to know.
            Waiter::Task(sender, _permit) => drop(sender.send(outcome)),
            Waiter::Client(origin) => {
                self.count(&origin, u64::MAX);
                let message = ShardMessage::Published {
                    to: origin.connection,
                    request: origin.request,
                    outcome,
                };
                self.send(origin.connection.shard, message);
            }
        }
    }

    /// Sends a message to a shard. One that has ended has no client to tell.
    pub(super) fn send(&self, shard: u16, message: ShardMessage) {
        if let Some(shard) = self.shards.get(usize::from(shard)) {
            let _ = shard.send(message);
        }
    }

    /// Gives up the events that are too long on their way.
    pub(super) fn give_up_late(&self, now: Instant) {
        let is_late = |_: &u64, entry: &mut Entry| now.saturating_duration_since(entry.sent) >= PATIENCE;
        let late: Vec<_> = self.entries.lock().extract_if(is_late).collect();
        for (_, entry) in late {
            self.tell(entry, Err(Refusal::Unknown), now);
        }
    }

    /// Ends all connections of this gateway: events may be missing from what they got.
    pub(super) fn resync(&self) {
        for shard in &self.shards {
            let _ = shard.send(ShardMessage::Resync);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::mailbox::{ConnectionId, Mailbox, mailbox};

    fn pending() -> (Pending, Mailbox) {
        let (shard, mailbox) = mailbox(Arc::default(), Arc::default());
        (Pending::new(vec![shard], Arc::default()), mailbox)
    }

    fn origin(request: u32) -> Origin {
        let connection = ConnectionId {
            shard: 0,
            slot: 3,
            generation: 1,
        };
        Origin { connection, request }
    }

    fn told(mailbox: &mut Mailbox) -> Vec<(u32, Result<Receipt, Refusal>)> {
        let messages = std::iter::from_fn(|| mailbox.pop());
        let told = messages.map(|message| match message {
            ShardMessage::Published { request, outcome, .. } => (request, outcome),
            _ => panic!("only outcomes"),
        });
        told.collect()
    }

    #[test]
    fn each_event_has_one_outcome() {
        let (pending, mut mailbox) = pending();
        let start = Instant::now();
        let numbers: Vec<u64> = (0..3)
            .map(|request| pending.add(Waiter::Client(origin(request)), None, start))
            .collect();
        pending.finish(numbers[1], Ok(Receipt::default()), start);
        pending.finish(numbers[1], Err(Refusal::Unknown), start);
        pending.finish(77, Err(Refusal::Unknown), start);
        pending.give_up_late(start + PATIENCE / 2);
        assert_eq!(told(&mut mailbox), [(1, Ok(Receipt::default()))]);
        pending.give_up_late(start + PATIENCE);
        let mut late = told(&mut mailbox);
        late.sort_by_key(|(request, _)| *request);
        assert_eq!(late, [(0, Err(Refusal::Unknown)), (2, Err(Refusal::Unknown))]);
    }

    #[test]
    fn a_shard_has_a_bounded_number_of_events_on_their_way() {
        let (pending, mut mailbox) = pending();
        let start = Instant::now();
        assert!(!pending.has_room(1), "there is no such shard");
        let mut number = 0;
        while pending.has_room(0) {
            number = pending.add(Waiter::Client(origin(0)), None, start);
        }
        assert_eq!(number, PER_SHARD_MAX);
        pending.finish(number, Ok(Receipt::default()), start);
        assert!(pending.has_room(0));
        assert_eq!(told(&mut mailbox).len(), 1);
    }
}
