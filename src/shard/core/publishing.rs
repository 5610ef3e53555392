//! Publishing the events of clients, as far as the broker has room for them.
//!
//! Invariant: events are handed to the broker in the order in which their sessions ask for it, also when they have to wait.
//! A session has one event under way at a time.

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
    parked: VecDeque<Parked>,
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
            parked: VecDeque::new(),
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
        self.parked.is_empty() && self.pending == 0
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
        // An event queues up behind those that wait, or small events would starve large ones.
        if !self.parked.is_empty() {
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
        self.parked.push_back(Parked { from, event });
    }

    /// Publishes the events that wait, as far as there is room. Returns the next connection with an answer for its
    /// session.
    pub(super) fn retry(&mut self, now: Now) -> Option<(ConnectionId, Input<'static>)> {
        while let Some(Parked { from, event }) = self.parked.pop_front() {
            let bytes = event.data.len();
            let outcome = match self.broker.try_publish(from, event, now) {
                Submitted::NoRoom(event) => {
                    self.parked.push_front(Parked { from, event });
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
    let position = receipt.epoch.zip(receipt.offset);
    let position = position.map(|(epoch, offset)| Position { epoch, offset });
    Input::Published { request, position }
}
