//! The embedded broker: publishes directly into the hub of its own process, for a single gateway.
//!
//! Invariant: it never waits for credits while a shard that has to be woken, and could give credits back, sleeps.

use std::pin::Pin;
use std::sync::Arc;

use super::rates::PublishRates;
use super::{Broker, Origin, Outcomes, Submitted};
use crate::event::NewEvent;
use crate::hub::{Hub, Receipt, Wakes};
use crate::pause::give_way;
use crate::time::{Clock, Now};

/// The number of events after which a batch wakes the shards, so that they begin before a batch of 10,000 ends. The batch
/// then also gives way to other threads and tasks.
const WAKE_EVERY: usize = 128;

/// The broker that publishes into the hub of this process.
pub struct Embedded {
    hub: Arc<Hub>,
    clock: Clock,
    rates: PublishRates,
}

impl Embedded {
    /// Makes a broker for this hub. `clock` must be the clock of the shards.
    #[must_use]
    pub fn new(hub: Arc<Hub>, clock: Clock) -> Self {
        Self {
            hub,
            clock,
            rates: PublishRates::default(),
        }
    }

    /// Refuses the events of a publisher beyond so many events per second, by the number of its tenant; 0: none.
    #[must_use]
    pub fn limited(self, per_second: Vec<u32>) -> Self {
        let rates = PublishRates::new(per_second);
        Self { rates, ..self }
    }

    /// Whether the event's publisher publishes too fast. Counts the event.
    fn refuses(&self, event: &NewEvent, now: Now) -> bool {
        let refuses = !(self.rates).allow(event.channel.tenant(), event.options.publisher.as_ref(), now);
        if refuses {
            self.hub.count_limited();
        }
        refuses
    }

    async fn publish_all(&self, events: Vec<NewEvent>) -> Outcomes {
        let mut receipts = Vec::with_capacity(events.len());
        let mut wakes = Wakes::default();
        for (index, event) in events.into_iter().enumerate() {
            if index > 0 && index % WAKE_EVERY == 0 {
                self.hub.wake(std::mem::take(&mut wakes));
                give_way().await;
            }
            if self.refuses(&event, self.clock.now()) {
                receipts.push(Ok(Receipt::of_limited()));
                continue;
            }
            let (tenant, bytes) = (event.channel.tenant(), event.data.len());
            let credit = match self.hub.credit_now(tenant, bytes) {
                Some(credit) => credit,
                None => {
                    self.hub.wake(std::mem::take(&mut wakes));
                    self.hub.credit(tenant, bytes).await
                }
            };
            receipts.push(Ok(self.hub.publish(event, self.clock.now(), credit, &mut wakes)));
        }
        self.hub.wake(wakes);
        receipts
    }
}

impl Broker for Embedded {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.publish_all(events))
    }

    fn try_publish(&self, from: Origin, event: NewEvent, now: Now) -> Submitted {
        let Some(credit) = self
            .hub
            .try_credit(from.connection.shard, event.channel.tenant(), event.data.len())
        else {
            return Submitted::NoRoom(event);
        };
        if self.refuses(&event, now) {
            return Submitted::Done(Receipt::of_limited());
        }
        let mut wakes = Wakes::default();
        let receipt = self.hub.publish(event, now, credit, &mut wakes);
        self.hub.wake(wakes);
        Submitted::Done(receipt)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;

    use super::*;
    use crate::event::PublishOptions;
    use crate::hub::{Inbox, Settings};
    use crate::shard::mailbox::ConnectionId;
    use tickgate_protocol::channel::{Channel, Pattern};

    fn hub(credits: u32) -> (Embedded, Arc<Hub>, Vec<Inbox>) {
        let (hub, inboxes) = Hub::new(
            Settings {
                credits,
                ..Settings::default()
            },
            1,
            |_, _| Bytes::new(),
        );
        (Embedded::new(hub.clone(), Clock::start()), hub, inboxes)
    }

    const ORIGIN: Origin = Origin {
        connection: ConnectionId {
            shard: 0,
            slot: 0,
            generation: 0,
        },
        request: 0,
    };

    fn event(number: usize) -> NewEvent {
        NewEvent {
            channel: Channel::parse("a.b").expect("valid"),
            name: "n".into(),
            data: number.to_string().into(),
            timestamp_ms: 0,
            options: PublishOptions::default(),
        }
    }

    #[test]
    fn a_batch_larger_than_all_credits_wakes_the_shard_before_it_waits() {
        let (broker, hub, mut inboxes) = hub(16);
        let inbox = &mut inboxes[0];
        inbox.join(&Pattern::parse("a.*").expect("valid"));
        let mut publish = broker.publish((0..100).map(event).collect());
        let mut got = Vec::new();
        loop {
            inbox.doorbell().answer();
            let done = publish.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            while let Some(popped) = inbox.pop() {
                got.push(popped.event.data.clone());
            }
            match done {
                Poll::Ready(receipts) => break assert_eq!(receipts.len(), 100),
                Poll::Pending => assert!(!inbox.doorbell().fall_asleep(), "it waits while the shard sleeps"),
            }
        }
        assert_eq!(got, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(hub.metrics().credits_lent, 0);
    }

    #[test]
    fn events_beyond_the_rate_of_their_publisher_are_refused_and_counted() {
        let (broker, hub, _inboxes) = hub(16);
        let broker = broker.limited(vec![3]);
        let event = |publisher: Option<&str>| NewEvent {
            options: PublishOptions {
                publisher: publisher.map(Into::into),
                ..PublishOptions::default()
            },
            ..event(0)
        };
        let now = Now::default();
        let limited = |publisher| match broker.try_publish(ORIGIN, event(publisher), now) {
            Submitted::Done(receipt) => receipt.limited,
            other => panic!("there is a credit: {other:?}"),
        };
        let refused: Vec<_> = (0..5).map(|_| limited(Some("a"))).collect();
        assert_eq!(refused, [false, false, false, true, true]);
        assert!(!limited(Some("b")) && !limited(None));
        let mut publish = broker.publish((0..5).map(|_| event(Some("c"))).collect());
        let std::task::Poll::Ready(receipts) = publish.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("there are credits for all")
        };
        let refused: Vec<_> = receipts
            .iter()
            .map(|outcome| outcome.is_ok_and(|receipt| receipt.limited))
            .collect();
        assert_eq!(refused[3..], [true, true]);
        let metrics = hub.metrics();
        assert_eq!((metrics.events, metrics.limited, metrics.credits_lent), (8, 4, 0));
    }

    #[test]
    fn a_shard_without_a_credit_gets_its_event_back() {
        let (broker, _, mut inboxes) = hub(2);
        let inbox = &mut inboxes[0];
        inbox.join(&Pattern::parse("a.b").expect("valid"));
        let publish = |event| broker.try_publish(ORIGIN, event, Now::default());
        assert!(matches!(publish(event(1)), Submitted::Done(_)));
        inbox.doorbell().answer();
        let Submitted::NoRoom(refused) = publish(event(2)) else {
            panic!("the only credit is lent");
        };
        assert!(inbox.pop().is_some());
        assert!(!inbox.doorbell().fall_asleep(), "the credit is back");
        assert!(matches!(publish(refused), Submitted::Done(_)));
    }
}
