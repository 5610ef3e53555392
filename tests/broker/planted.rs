//! Faults that are planted into a broker of three gateways, each of which the suite must find.

use std::collections::HashMap;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tickgate::broker::{Broker, Origin, Outcomes, Submitted};
use tickgate::event::{EventId, NewEvent};
use tickgate::hub::{Epoch, Hub, LOG_STEP, Numbering, Receipt, Stamp, Wakes};
use tickgate::time::{Clock, Now};
use tickgate_protocol::channel::Tenant;

use crate::node::Node;
use crate::suite;
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The other gateways do not get every tenth event.
    Loses,
    /// The other gateways get the last event of a batch twice.
    Doubles,
    /// The last event of a batch comes first, as if the others had been sent again.
    Reorders,
    /// The other gateways get a batch in another order.
    HasOwnOrder,
    /// The receipts are those of another gateway. The one that publishes gets the batch with the next one.
    AnswersEarly,
    /// An event that is published again is another event.
    ForgetsIds,
}

/// An event with its version.
type Numbered = (NewEvent, u64);

/// A log in the memory of the test, which hands each batch to the hubs of all gateways at once.
struct Log {
    fault: Fault,
    hubs: Vec<Arc<Hub>>,
    newest: u64,
    ids: HashMap<EventId, Receipt>,
    late: Vec<Numbered>,
}

impl Log {
    /// Publishes a batch through one of the gateways.
    fn publish(&mut self, own: usize, mut events: Vec<NewEvent>, now: Now) -> Outcomes {
        if self.fault == Fault::Reorders {
            events.rotate_right(1);
        }
        let (mut batch, mut outcomes) = (Vec::new(), Vec::new());
        for event in events {
            let id = event.options.id.filter(|_| self.fault != Fault::ForgetsIds);
            let first = id.and_then(|id| self.ids.get(&id)).copied();
            outcomes.push(first.map(|first| Receipt {
                duplicate: true,
                ..first
            }));
            if first.is_none() {
                self.newest += LOG_STEP;
                batch.push((event, self.newest));
            }
        }
        let answering = match self.fault {
            Fault::AnswersEarly => (own + 1) % self.hubs.len(),
            _ => own,
        };
        let mut receipts = Vec::new();
        for (index, hub) in self.hubs.clone().iter().enumerate() {
            let of_hub = self.changed(&batch, index == own);
            let applied = of_hub.into_iter().map(|event| apply(hub, event, now));
            let applied: Vec<Receipt> = applied.collect();
            if index == answering {
                receipts = applied;
            }
        }
        for ((event, _), receipt) in batch.iter().zip(&receipts) {
            self.ids.extend(event.options.id.map(|id| (id, *receipt)));
        }
        let mut receipts = receipts.into_iter();
        let outcomes = { outcomes.into_iter() }.map(|outcome| outcome.or_else(|| receipts.next()));
        outcomes
            .map(|outcome| Ok(outcome.expect("one for each event")))
            .collect()
    }

    /// What a hub gets of a batch.
    fn changed(&mut self, batch: &[Numbered], is_own: bool) -> Vec<Numbered> {
        let mut batch = batch.to_vec();
        match self.fault {
            Fault::Loses if !is_own => batch.retain(|(_, version)| !(version / LOG_STEP).is_multiple_of(10)),
            Fault::Doubles if !is_own => {
                let last = batch.last().cloned();
                batch.extend(last.map(|(event, version)| (event, version + 1)));
            }
            Fault::HasOwnOrder if !is_own => {
                let versions: Vec<u64> = batch.iter().map(|(_, version)| *version).collect();
                batch.sort_by_key(|(event, _)| event.channel.as_str().to_owned());
                for ((_, version), in_order) in batch.iter_mut().zip(versions) {
                    *version = in_order;
                }
            }
            Fault::AnswersEarly if is_own => std::mem::swap(&mut batch, &mut self.late),
            _ => {}
        }
        batch
    }
}

fn apply(hub: &Hub, (event, version): Numbered, now: Now) -> Receipt {
    let credit = hub.credit_now(Tenant::DEFAULT, event.data.len());
    let (credit, mut wakes) = (credit.expect("readers give credits back"), Wakes::default());
    let stamp = Stamp {
        version,
        ..Stamp::default()
    };
    let receipt = hub.apply(event, stamp, now, credit, &mut wakes);
    hub.wake(wakes);
    receipt
}

/// One gateway.
struct Planted {
    log: Arc<Mutex<Log>>,
    own: usize,
    clock: Clock,
}

impl Broker for Planted {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        let mut log = self.log.lock().expect("not poisoned");
        Box::pin(std::future::ready(log.publish(self.own, events, self.clock.now())))
    }

    fn try_publish(&self, _: Origin, event: NewEvent, now: Now) -> Submitted {
        let mut log = self.log.lock().expect("not poisoned");
        match log.publish(self.own, vec![event], now).remove(0) {
            Ok(receipt) => Submitted::Done(receipt),
            Err(refusal) => Submitted::Refused(refusal),
        }
    }
}

fn world(fault: Fault) -> World {
    let log = Arc::new(Mutex::new(Log {
        fault,
        hubs: Vec::new(),
        newest: 0,
        ids: HashMap::new(),
        late: Vec::new(),
    }));
    let node = |own: usize| {
        let started = Node::with(Numbering::Log, |(hub, _), clock, _| {
            hub.reset(Epoch(18), 0);
            log.lock().expect("not poisoned").hubs.push(hub);
            let log = Arc::clone(&log);
            Ok(Planted { log, own, clock })
        });
        started.expect("nothing is connected").0
    };
    World {
        nodes: (0..3).map(node).collect(),
        server: None,
        redis: None,
        cluster: None,
    }
}

#[test]
fn the_suite_holds_over_a_broker_without_faults() {
    for check in suite::CHECKS {
        world(Fault::None).run("no fault", *check);
    }
}

#[test]
fn the_suite_finds_planted_faults() {
    let faults: [(Fault, fn(), &str); 6] = [
        (
            Fault::Loses,
            suite::a_client_recovers_on_another_gateway_exactly_what_it_missed,
            "left == right",
        ),
        (
            Fault::Doubles,
            suite::every_reader_on_every_gateway_gets_every_event_once_and_in_order,
            "nothing comes twice",
        ),
        (
            Fault::Reorders,
            suite::every_reader_on_every_gateway_gets_every_event_once_and_in_order,
            "instead of",
        ),
        (
            Fault::HasOwnOrder,
            suite::every_reader_on_every_gateway_gets_every_event_once_and_in_order,
            "left == right",
        ),
        (
            Fault::AnswersEarly,
            suite::an_event_with_a_receipt_is_in_the_hub_that_gives_it,
            "left == right",
        ),
        (
            Fault::ForgetsIds,
            suite::an_id_that_is_repeated_through_another_gateway_is_one_event_with_one_offset,
            "left == right",
        ),
    ];
    for (fault, check, expected) in faults {
        let found = catch_unwind(|| world(fault).run("a planted fault", check));
        let message = found.expect_err("a planted fault is not found").downcast::<String>();
        let message = message.unwrap_or_else(|_| panic!("{fault:?} is found without a message"));
        assert!(
            message.contains(expected),
            "{fault:?} is taken for something else: {message}"
        );
    }
}
