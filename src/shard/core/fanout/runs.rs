//! Runs: consecutive events of the inbox that go to the same subscribers, delivered as one.
//!
//! Invariants: an outbox that is not [pressed](super::Outgoing::is_pressed) has room for any run, on every endpoint without a
//! limit of bytes. Whether
//! a subscriber gets the events of a run depends on nothing but whether it catches up.
//!
//! Each event costs an entry in each outbox, its removal, and a slice for the kernel to gather; a run of sixteen events
//! costs that once. The events of a run may be of different channels, as long as the same patterns match: a client with
//! `price.*` gets the prices of all symbols as runs.

use bytes::Bytes;

use super::{DELIVERIES, Fanout};
use crate::auth;
use crate::event::Event;
use crate::hub::Popped;
use crate::shard::core::connections::{ENVELOPE_BYTES_MAX, Endpoint, Endpoints};
use crate::shard::pace::Groups;

/// The most events of a run.
const EVENTS: usize = 64;

/// The most bytes of a run's `data`. A frame that is partly sent cannot be dropped any more, so a client that stalls there
/// keeps at most this much of what should have been dropped.
pub(super) const DATA_BYTES: usize = 16 * 1024;

/// The least subscribers for a run. With a single one, copying the bytes together does not pay.
pub(super) const SUBSCRIBERS_MIN: usize = 2;

/// The most events and bytes of a run, for the endpoints that are in use.
pub(super) struct RunBounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl RunBounds {
    /// Half of the smallest outbox. Connections with a limit of bytes take the events of a run one by one if it does not fit.
    pub(super) fn of(endpoints: &Endpoints) -> Self {
        let unlimited = || endpoints.in_use().filter(|endpoint| !endpoint.is_limited());
        let bounds = || unlimited().map(|endpoint| &endpoint.bounds);
        let events = bounds().map(|bounds| bounds.event_frames / 2).min();
        let bytes = bounds().map(|bounds| bounds.event_bytes / 2).min();
        Self {
            events: events.map_or(EVENTS, |events| EVENTS.min(events as usize)),
            bytes: bytes.map_or(DATA_BYTES, |bytes| bytes as usize),
        }
    }
}

impl Fanout {
    /// Takes the next run of at most `limit` events out of the inbox, and finds its nodes; returns the inbox index of its
    /// first event.
    pub(super) fn fill_run(&mut self, limit: usize, bounds: &RunBounds, endpoints: &Endpoints) -> Option<u64> {
        let first = self.inbox.pop()?;
        let index = first.index;
        self.table.settle(index);
        self.nodes.clear();
        let groups = if first.is_probe() {
            Groups::NONE
        } else {
            (self.table).resolve_event(&first.event.channel, &first.event.class, &mut self.nodes)
        };
        let most = self.events_max(&first, bounds).min(limit);
        let (mut data_bytes, mut frame_bytes) = (first.event.data.len(), longest_frame(&first.event, endpoints));
        self.run.push(first);
        self.note_paced(groups);
        while self.run.len() < most
            && let Some(next) = self.inbox.peek()
        {
            data_bytes += next.data.len();
            frame_bytes += longest_frame(next, endpoints);
            if data_bytes > DATA_BYTES || frame_bytes > bounds.bytes || auth::is_admin_only(next.channel.as_str()) {
                break;
            }
            self.next_nodes.clear();
            let groups = (self.table).resolve_event(&next.channel, &next.class, &mut self.next_nodes);
            if self.next_nodes != self.nodes {
                break;
            }
            self.run.extend(self.inbox.pop());
            self.note_paced(groups);
        }
        Some(index)
    }

    // How long a run that begins with this event may be. For an unsettled subscriber, and for a channel that is for admins
    // only, each event is decided by itself.
    fn events_max(&self, first: &Popped, bounds: &RunBounds) -> usize {
        let settled = self.nodes.iter().map(|&node| self.table.settled_subscribers(node));
        let subscribers: Option<usize> = settled.sum();
        match subscribers {
            Some(subscribers @ SUBSCRIBERS_MIN..) if !auth::is_admin_only(first.event.channel.as_str()) => {
                bounds.events.min(DELIVERIES as usize / subscribers)
            }
            _ => 1,
        }
    }
}

// The length of an event's longest frame, over the formats in use. As a rule all of them were made when the event was
// published; the others are estimated.
pub(super) fn longest_frame(event: &Event, endpoints: &Endpoints) -> usize {
    let formats = endpoints.in_use().filter_map(|endpoint: &Endpoint| endpoint.format);
    let longest = || event.data.len() + ENVELOPE_BYTES_MAX as usize;
    let lengths = formats.map(|format| event.frame(format).map_or_else(longest, Bytes::len));
    lengths.max().unwrap_or_default()
}
