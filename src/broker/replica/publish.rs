//! From a publisher to the session, and what becomes of duplicates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Replica;
use crate::broker::link::LATE_EVERY;
use crate::broker::message::Source;
use crate::broker::pending::{PATIENCE, Waiter};
use crate::broker::{Origin, Outcomes, Submitted};
use crate::event::{NewEvent, Refusal};
use crate::hub::Receipt;
use crate::time::Now;

/// How often a duplicate is looked for in the hub.
const DUPLICATE_EVERY: Duration = Duration::from_millis(20);

impl Replica {
    /// Whether an event of at most `bytes_max` bytes can be sent; otherwise its outcome.
    fn check(&self, event: &NewEvent, bytes_max: usize, now: Now) -> Result<(), Result<Receipt, Refusal>> {
        // The log takes no event that no hub applies.
        let malformed = self.hub.malformed(event);
        if malformed.is_some() {
            return Err(Ok(Receipt {
                malformed,
                ..Receipt::default()
            }));
        }
        let refusal = if !self.is_up() {
            Refusal::Unavailable
        } else if !self.decoder.knows(&event.channel) || event.data.len() > bytes_max {
            Refusal::Rejected
        } else if self
            .rates
            .allow(event.channel.tenant(), event.options.publisher.as_ref(), now)
        {
            return Ok(());
        } else {
            self.hub.count_limited();
            return Err(Ok(Receipt::of_limited()));
        };
        self.metrics.count_refusal(refusal);
        Err(Err(refusal))
    }

    /// See [`crate::broker::Broker::publish`]. `send` hands an event to the session.
    pub(in crate::broker) async fn publish_all(
        &self,
        events: Vec<NewEvent>,
        bytes_max: usize,
        send: impl Fn(NewEvent, Waiter),
    ) -> Outcomes {
        let mut waiting = Vec::with_capacity(events.len());
        for event in events {
            waiting.push(match self.check(&event, bytes_max, self.clock.now()) {
                Err(outcome) => Err(outcome),
                Ok(()) => {
                    let permit = self.pending.room().await;
                    let (sender, receiver) = oneshot::channel();
                    send(event, Waiter::Task(sender, permit));
                    Ok(receiver)
                }
            });
        }
        let mut outcomes = Vec::with_capacity(waiting.len());
        for outcome in waiting {
            outcomes.push(match outcome {
                Err(outcome) => outcome,
                // Each event has an outcome within a bounded time; see `pending`.
                Ok(receiver) => receiver.await.unwrap_or(Err(Refusal::Unknown)),
            });
        }
        outcomes
    }

    /// See [`crate::broker::Broker::try_publish`]. `send` hands an event to the session.
    pub(in crate::broker) fn try_publish(
        &self,
        from: Origin,
        event: NewEvent,
        bytes_max: usize,
        now: Now,
        send: impl FnOnce(NewEvent, Waiter),
    ) -> Submitted {
        if self.is_up() && !self.pending.has_room(from.connection.shard) {
            return Submitted::NoRoom(event);
        }
        match self.check(&event, bytes_max, now) {
            Err(Ok(receipt)) => Submitted::Done(receipt),
            Err(Err(refusal)) => Submitted::Refused(refusal),
            Ok(()) => {
                send(event, Waiter::Client(from));
                Submitted::Pending
            }
        }
    }

    /// Adds an event to those that are on their way. Returns its source, and whether its channel keeps state.
    pub(in crate::broker) fn add_pending(&self, event: &NewEvent, waiter: Waiter) -> (Source, bool) {
        let duplicate = event.options.id.map(|id| (event.channel.clone(), id));
        let number = self.pending.add(waiter, duplicate, Instant::now());
        let source = Source {
            gateway: self.gateway,
            number,
        };
        (source, self.hub.class_of(&event.channel).keeps_state())
    }

    /// The event was surely not sent.
    pub(in crate::broker) fn not_sent(&self, number: u64) {
        self.pending.finish(number, Err(Refusal::Unavailable), Instant::now());
    }

    /// Gives up the events that are too long on their way, whatever the session does.
    pub(in crate::broker) async fn give_up_late(self: Arc<Self>) {
        let mut ticks = interval(LATE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.pending.give_up_late(Instant::now());
        }
    }

    /// Waits until the event that was published first under the same id is applied. `first` is its number, if the broker
    /// says it.
    pub(in crate::broker) async fn find_duplicate(self: Arc<Self>, number: u64, first: Option<u64>) {
        let began = Instant::now();
        while began.elapsed() < PATIENCE
            && let Some((channel, id)) = self.pending.id(number)
        {
            let class = self.hub.class_of(&channel);
            let duplicate = Receipt {
                duplicate: true,
                ..Receipt::default()
            };
            let receipt = if class.keeps_state() {
                // The hub may have forgotten the id before the broker does.
                self.hub.accepted(&channel, &id).or_else(|| {
                    let position = self.position.lock();
                    let first = first.filter(|first| *first <= position.applied)?;
                    let version = position.table.as_ref()?.version(first)?;
                    let has_history = class.history.is_some();
                    Some(Receipt {
                        offset: has_history.then_some(version),
                        epoch: has_history.then(|| self.hub.epoch()),
                        ..duplicate
                    })
                })
            } else {
                // The first event is stored, and nothing more is known of it.
                Some(duplicate)
            };
            if let Some(receipt) = receipt {
                return self.pending.finish(number, Ok(receipt), Instant::now());
            }
            sleep(DUPLICATE_EVERY).await;
        }
    }
}
