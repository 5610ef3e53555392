//! Subscribe requests that wait until the hub is as current as the gateway that their client comes from.
//!
//! Invariant: a request waits at most [`WAIT_MS`]. A request that has begun names only positions that the log still means.

use std::collections::VecDeque;
use std::sync::Arc;

use super::recovery::Request;
use crate::broker::{Broker, Readiness};
use crate::hub::Inbox;
use crate::time::Now;
use tickgate_protocol::message::{Cursor, Recover, Resume};

/// How long a request waits at most, in milliseconds.
pub(super) const WAIT_MS: u64 = 10_000;

/// How often the requests that wait are looked at, in milliseconds.
const RETRY_MS: u64 = 20;

/// The requests that wait; see the module's docs.
pub(super) struct Joins {
    broker: Arc<dyn Broker>,
    // In the order of their deadlines, which are in monotonic milliseconds.
    waiting: VecDeque<(u64, Request)>,
    retry_ms: u64,
}

/// What becomes of a request.
pub(super) enum Admitted {
    /// It can be carried out.
    Begin(Request),
    /// It has waited too long.
    Refuse(Request),
}

impl Joins {
    pub(super) const fn new(broker: Arc<dyn Broker>) -> Self {
        Self {
            broker,
            waiting: VecDeque::new(),
            retry_ms: 0,
        }
    }

    /// Hands a request back if it can be carried out. Otherwise it waits.
    pub(super) fn admit(&mut self, mut request: Request, inbox: &Inbox, now: Now) -> Option<Request> {
        if self.broker.prepare(reached(&request, inbox)) == Readiness::Ready {
            locate(&mut request, inbox);
            return Some(request);
        }
        self.waiting.push_back((now.mono_ms + WAIT_MS, request));
        None
    }

    /// When the requests are looked at again, in monotonic milliseconds; `None`: none waits.
    pub(super) fn next_ms(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(self.retry_ms)
    }

    /// Takes out the requests that need not wait any longer, in the order of their arrival. To be called once a turn.
    pub(super) fn take_admitted(&mut self, inbox: &Inbox, now: Now) -> Vec<Admitted> {
        if self.waiting.is_empty() || now.mono_ms < self.retry_ms {
            return Vec::new();
        }
        self.retry_ms = now.mono_ms + RETRY_MS;
        let broker = &self.broker;
        let mut admitted = Vec::new();
        let mut still_waiting = VecDeque::new();
        for (deadline_ms, mut request) in self.waiting.drain(..) {
            let readiness = broker.prepare(reached(&request, inbox));
            let is_late = deadline_ms <= now.mono_ms;
            // A client may name any position. If the hub is current and has not come to it, there is no such event.
            if readiness == Readiness::Ready || readiness == Readiness::Behind && is_late {
                locate(&mut request, inbox);
                admitted.push(Admitted::Begin(request));
            } else if is_late {
                admitted.push(Admitted::Refuse(request));
            } else {
                still_waiting.push_back((deadline_ms, request));
            }
        }
        self.waiting = still_waiting;
        admitted
    }
}

/// The newest version that the client has been given in this epoch.
fn reached(request: &Request, inbox: &Inbox) -> u64 {
    let epoch = inbox.epoch();
    match &request.resume {
        None => 0,
        Some(Resume::Keys(Recover(keys))) => {
            let ours = keys.iter().filter(|(_, reached)| reached.epoch == Some(epoch));
            ours.map(|(_, reached)| reached.offset).max().unwrap_or(0)
        }
        Some(Resume::Cursor { cursor, newest, seen }) => {
            let ours = cursor.filter(|cursor| cursor.epoch == epoch);
            let seen = seen.iter().map(|(_, offset)| *offset);
            let beyond = seen
                .chain(newest.iter().map(|(_, version)| *version))
                .max()
                .unwrap_or(0);
            ours.map_or(0, |cursor| cursor.version.max(beyond))
        }
    }
}

/// Turns the client's positions into positions of this hub. A position that may stand for lost events is one of no epoch.
fn locate(request: &mut Request, inbox: &Inbox) {
    let epoch = inbox.epoch();
    match &mut request.resume {
        None => {}
        Some(Resume::Keys(Recover(keys))) => {
            for (_, reached) in keys.iter_mut().filter(|(_, reached)| reached.epoch == Some(epoch)) {
                match inbox.locate(reached.offset) {
                    Some(offset) => reached.offset = offset,
                    None => reached.epoch = None,
                }
            }
        }
        Some(Resume::Cursor { cursor, newest, seen }) => {
            newest.retain_mut(|(_, version)| {
                let located = inbox.locate(*version);
                *version = located.unwrap_or(*version);
                located.is_some()
            });
            *cursor = cursor.filter(|cursor| cursor.epoch == epoch).and_then(|cursor| {
                let version = inbox.locate(cursor.version)?;
                Some(Cursor { version, ..cursor })
            });
            seen.retain_mut(|(_, offset)| {
                let located = inbox.locate(*offset);
                *offset = located.unwrap_or(*offset);
                located.is_some()
            });
        }
    }
}
