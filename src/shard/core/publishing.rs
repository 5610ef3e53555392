//! Publishing the events of clients, as far as the broker has room for them.
//!
//! Invariant: the events of a tenant are handed to the broker in the order in which their sessions ask for it, also when
//! they have to wait. A session has one event under way at a time. Tenants do not wait for each other.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::broker::{Broker, Origin, Submitted};
use crate::event::{NewEvent, Refusal};
use crate::hub::Receipt;
use crate::session::Input;
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;
use tickgate_protocol::message::Position;

/// The publishes of a shard's clients.
pub(super) struct Publishing {
    broker: Arc<dyn Broker>,
    // By the number of the tenant, as far as one of them had to wait.
    parked: Vec<VecDeque<Parked>>,
    // The tenant whose turn is next.
    turn: usize,
    parked_bytes: usize,
    // Events whose outcome comes by the mailbox.
    pending: usize,
}

/// A publish that waits for room. It is published even if its connection is removed meanwhile.
struct Parked {
    from: Origin,
    event: NewEvent,
}

impl Publishing {
    pub(super) fn new(broker: Arc<dyn Broker>) -> Self {
        Self {
            broker,
            parked: Vec::new(),
            turn: 0,
            parked_bytes: 0,
            pending: 0,
        }
    }

    /// The bytes of the events that wait.
    pub(super) const fn parked_bytes(&self) -> usize {
        self.parked_bytes
    }

    /// Whether no publish waits for room or for its outcome.
    pub(super) fn is_empty(&self) -> bool {
        self.parked.iter().all(VecDeque::is_empty) && self.pending == 0
    }

    /// Publishes an event. Returns the answer for the session, unless the event has to wait. The session takes no input
    /// before the answer.
    pub(super) fn publish(
        &mut self,
        connection: ConnectionId,
        request: u32,
        event: NewEvent,
        now: Now,
    ) -> Option<Input<'static>> {
        let from = Origin { connection, request };
        // An event queues up behind those of its tenant that wait, or small events would starve large ones.
        let waiting = self.parked.get(event.channel.tenant().index());
        if waiting.is_some_and(|waiting| !waiting.is_empty()) {
            self.park(from, event);
            return None;
        }
        match self.broker.try_publish(from, event, now) {
            Submitted::NoRoom(event) => {
                self.park(from, event);
                None
            }
            Submitted::Pending => {
                self.pending += 1;
                None
            }
            Submitted::Done(receipt) => Some(answer(request, Ok(receipt))),
            Submitted::Refused(refusal) => Some(answer(request, Err(refusal))),
        }
    }

    fn park(&mut self, from: Origin, event: NewEvent) {
        self.parked_bytes += event.data.len();
        let tenant = event.channel.tenant().index();
        if self.parked.len() <= tenant {
            self.parked.resize_with(tenant + 1, VecDeque::new);
        }
        self.parked[tenant].push_back(Parked { from, event });
    }

    /// Publishes the events that wait, as far as there is room: tenants take turns. Returns the next connection with an
    /// answer for its session.
    pub(super) fn retry(&mut self, now: Now) -> Option<(ConnectionId, Input<'static>)> {
        for _ in 0..self.parked.len() {
            self.turn = (self.turn + 1) % self.parked.len();
            if let Some(answered) = self.retry_in(self.turn, now) {
                return Some(answered);
            }
        }
        None
    }

    fn retry_in(&mut self, tenant: usize, now: Now) -> Option<(ConnectionId, Input<'static>)> {
        while let Some(Parked { from, event }) = self.parked.get_mut(tenant).and_then(VecDeque::pop_front) {
            let bytes = event.data.len();
            let outcome = match self.broker.try_publish(from, event, now) {
                Submitted::NoRoom(event) => {
                    self.parked[tenant].push_front(Parked { from, event });
                    return None;
                }
                Submitted::Pending => None,
                Submitted::Done(receipt) => Some(Ok(receipt)),
                Submitted::Refused(refusal) => Some(Err(refusal)),
            };
            self.parked_bytes -= bytes;
            match outcome {
                Some(outcome) => return Some((from.connection, answer(from.request, outcome))),
                None => self.pending += 1,
            }
        }
        None
    }

    /// Takes in the outcome of an event that was on its way. Returns the answer for the session.
    pub(super) fn finish(&mut self, request: u32, outcome: Result<Receipt, Refusal>) -> Input<'static> {
        self.pending = self.pending.saturating_sub(1);
        answer(request, outcome)
    }
}

fn answer(request: u32, outcome: Result<Receipt, Refusal>) -> Input<'static> {
    let receipt = match outcome {
        Ok(receipt) if receipt.limited => return Input::PublishLimited { request },
        Ok(receipt) => receipt,
        Err(refusal) => return Input::PublishRefused { request, refusal },
    };
    if let Some(error) = receipt.malformed {
        return Input::PublishMalformed { request, error };
    }
    let position = receipt.epoch.zip(receipt.offset);
    let position = position.map(|(epoch, offset)| Position { epoch, offset });
    Input::Published { request, position }
}
