//! Publishing the events of clients, as far as the hub has credits.
//!
//! Invariant: events are published in the order in which their sessions ask for it, also when they have to wait.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::broker::Broker;
use crate::event::NewEvent;
use crate::hub::Receipt;
use crate::session::Input;
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;
use tickgate_protocol::message::Position;

/// The publishes of a shard's clients.
pub(super) struct Publishing {
    shard: u16,
    broker: Arc<dyn Broker>,
    parked: VecDeque<Parked>,
    parked_bytes: usize,
}

/// A publish that waits for a credit. It is published even if its connection is removed meanwhile.
struct Parked {
    from: ConnectionId,
    request: u32,
    event: NewEvent,
}

impl Publishing {
    pub(super) fn new(shard: u16, broker: Arc<dyn Broker>) -> Self {
        Self {
            shard,
            broker,
            parked: VecDeque::new(),
            parked_bytes: 0,
        }
    }

    /// The bytes of the events that wait.
    pub(super) const fn parked_bytes(&self) -> usize {
        self.parked_bytes
    }

    /// Whether no publish waits.
    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Publishes an event. Returns the answer for the session, unless the event has to wait for a credit. The session takes
    /// no input before the answer.
    pub(super) fn publish(
        &mut self,
        from: ConnectionId,
        request: u32,
        event: NewEvent,
        now: Now,
    ) -> Option<Input<'static>> {
        // An event queues up behind those that wait, or small events would starve large ones.
        let event = if self.parked.is_empty() {
            match self.broker.try_publish(self.shard, event, now) {
                Ok(receipt) => return Some(answer(request, receipt)),
                Err(event) => event,
            }
        } else {
            event
        };
        self.parked_bytes += event.data.len();
        self.parked.push_back(Parked { from, request, event });
        None
    }

    /// Publishes the next event that waits, if there is a credit for it. Returns its connection, and the answer for the
    /// session.
    pub(super) fn retry(&mut self, now: Now) -> Option<(ConnectionId, Input<'static>)> {
        let Parked { from, request, event } = self.parked.pop_front()?;
        let bytes = event.data.len();
        match self.broker.try_publish(self.shard, event, now) {
            Ok(receipt) => {
                self.parked_bytes -= bytes;
                Some((from, answer(request, receipt)))
            }
            Err(event) => {
                self.parked.push_front(Parked { from, request, event });
                None
            }
        }
    }
}

fn answer(request: u32, receipt: Receipt) -> Input<'static> {
    if receipt.limited {
        return Input::PublishLimited { request };
    }
    let position = receipt.epoch.zip(receipt.offset);
    let position = position.map(|(epoch, offset)| Position { epoch, offset });
    Input::Published { request, position }
}
