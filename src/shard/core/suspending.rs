//! Socket.IO sessions that ended, and that their clients take back.
//!
//! Invariant: what one client has taken out is given to it, or parked again.

use super::ShardCore;
use crate::broker::Origin;
use crate::session::{Input, Suspended};
use crate::suspended::{Claim, Record};
use crate::time::Now;

impl ShardCore {
    /// A session has ended. What it had is kept by the broker, or in the memory of this process.
    pub(super) fn suspend(&mut self, slot: u32, pid: Box<str>, suspended: Suspended, now: Now) {
        let record = Record {
            pid,
            tenant: self.connections.endpoint(slot).settings.tenant,
            epoch: self.fanout.inbox().epoch(),
            until_unix_ms: now.unix_ms.saturating_add(suspended.window_ms),
            suspended,
        };
        self.park(record, now);
    }

    fn park(&self, record: Record, now: Now) {
        if let Err(record) = self.broker.keep_session(record) {
            self.suspended.suspend(record, now);
        }
    }

    /// A session asks for what its client had.
    pub(super) fn take_back(&mut self, slot: u32, request: u32, pid: Box<str>, user: Option<Box<str>>, now: Now) {
        let tenant = self.connections.endpoint(slot).settings.tenant;
        let claim = Claim { pid, tenant, user };
        let found = self.suspended.take(&claim, now);
        let connection = self.connections.id(slot);
        if found.is_none() && self.broker.take_session(Origin { connection, request }, claim) {
            return;
        }
        let suspended = found.map(|record| (record.suspended, record.epoch));
        self.handle(slot, Input::TakenBack { request, suspended }, now);
    }

    /// The broker has answered. If the client is gone meanwhile, it may come back once more.
    pub(super) fn taken_back(&mut self, from: Origin, found: Option<Record>, now: Now) {
        let Some(slot) = self.connections.open_slot(from.connection) else {
            if let Some(record) = found {
                self.park(record, now);
            }
            return;
        };
        let suspended = found.map(|record| (record.suspended, record.epoch));
        let request = from.request;
        self.tell(slot, Input::TakenBack { request, suspended }, now);
    }
}
