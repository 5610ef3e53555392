//! Subscribe requests of connections that are over their budget. They wait, and are served in short slices.

use std::collections::{BTreeMap, VecDeque};

use super::request::{Request, Subscribe};
use super::subscribe::{Lane, Scanned};
use super::{Recovery, Step};
use crate::shard::core::connections::Connections;
use crate::shard::core::fanout::Fanout;
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;

/// The requests of the slow lane.
#[derive(Default)]
pub(super) struct SlowLane {
    // Not begun, by the debt of their connections and their number. Those with the least debt come first.
    waiting: BTreeMap<(u64, u64), Request>,
    // Begun. One is scanned at a time.
    scanning: VecDeque<Box<Subscribe>>,
    // The last number.
    number: u64,
    // When there are steps for them; `None`: there are no requests.
    ready_ms: Option<u64>,
    // The time of the last turn.
    now_ms: u64,
}

impl SlowLane {
    /// Requests that have no answer yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.scanning.len()
    }

    /// Whether there is work for the next turn.
    pub(super) fn is_ready(&self) -> bool {
        self.ready_ms.is_some_and(|ready_ms| ready_ms <= self.now_ms)
    }

    /// Lets a request wait whose connection has this debt.
    pub(super) fn delay(&mut self, debt: u64, request: Request) {
        self.number += 1;
        self.waiting.insert((debt, self.number), request);
        self.ready_ms.get_or_insert(self.now_ms);
    }

    /// A request has begun, and goes on in a later slice.
    pub(super) fn go_on(&mut self, subscribe: Box<Subscribe>) {
        self.scanning.push_front(subscribe);
    }

    /// Takes out the request that a connection has under way.
    pub(super) fn take_out(&mut self, of: ConnectionId) -> Option<Box<Subscribe>> {
        let index = self.scanning.iter().position(|subscribe| subscribe.from() == of)?;
        self.scanning.remove(index)
    }
}

impl Recovery {
    /// When the slow lane goes on, in monotonic milliseconds; `None`: nothing waits in it.
    pub(in crate::shard::core) fn next_slow_ms(&self) -> Option<u64> {
        self.slow.ready_ms
    }

    /// Hands a request back if its connection is within its budget. Otherwise it waits.
    pub(super) fn delay_if_in_debt(
        &mut self,
        request: Request,
        connections: &Connections,
        now: Now,
    ) -> Option<Request> {
        let payers = self.budgets.payers(request.from.slot, connections);
        let Some(debt) = self.budgets.debt(payers, now) else {
            return Some(request);
        };
        self.metrics.delayed_subscribes.bump(1);
        self.slow.delay(debt, request);
        None
    }

    /// Takes a slice of the turn for the requests that wait, until one of them is done or the slice is used up.
    pub(in crate::shard::core) fn run_slow_lane(
        &mut self,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) -> Option<Step> {
        self.slow.now_ms = now.mono_ms;
        while self.slow.len() > 0 {
            let share = self.budgets.slow_left(now).min(self.steps.left());
            if share == 0 {
                break;
            }
            let before = self.steps.taken();
            let step = self.take_slow_step(share, connections, fanout, now);
            self.budgets.spend_slow(self.steps.taken() - before);
            if step.is_some() {
                return step;
            }
        }
        self.slow.ready_ms = (self.slow.len() > 0).then(|| self.budgets.slow_ready_ms());
        None
    }

    fn take_slow_step(
        &mut self,
        share: usize,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) -> Option<Step> {
        if let Some(subscribe) = self.slow.scanning.pop_front() {
            let slot = connections.open_slot(subscribe.from())?;
            return match self.scan(subscribe, share, connections, fanout, now) {
                Scanned::Unfinished(subscribe) => {
                    self.slow.go_on(subscribe);
                    None
                }
                Scanned::Done(answer) => Some(Step { slot, answer }),
            };
        }
        let (_, request) = self.slow.waiting.pop_first()?;
        let slot = connections.open_slot(request.from)?;
        let answer = self.begin_subscribe(request, Lane::Slow(share), connections, fanout, now);
        Some(Step { slot, answer })
    }
}
