//! Runs: events that lie one behind the other in the inbox and go to the same subscribers, delivered as one.
//!
//! Invariants: a run is never so long that an outbox which is not [pressed](ShardCore::is_pressed) has no room for it, of
//! any endpoint; nothing in it depends on who the subscriber is, or since when it is one, but whether it catches up.
//!
//! What each event of a tick costs is entering each outbox, leaving it again, and a slice of its own for the kernel to
//! gather; a run of sixteen costs that once. Whoever holds `price.*` gets the prices of all symbols as runs, too: what
//! must be the same is the set of patterns that match, not the channel.

use bytes::Bytes;

use super::ShardCore;
use super::delivery::DELIVERIES;
use super::endpoint::{ENVELOPE_BYTES_MAX, Endpoint};
use crate::auth;
use crate::event::Event;
use crate::hub::Popped;

/// Events of a run.
const EVENTS: usize = 64;

/// Bytes of a run's `data`. A frame of which a part was sent cannot be dropped any more, so this is what a client that
/// stalls in it keeps of what should have been dropped.
const DATA_BYTES: usize = 16 * 1024;

/// A lone subscriber has no use for bytes put together for many.
const HOLDERS: usize = 2;

/// How long a run may be; the endpoints decide, and do not change meanwhile.
pub(super) struct RunBounds {
    events: usize,
    bytes: usize,
}

impl ShardCore {
    /// Half of the smallest outbox.
    pub(super) fn run_bounds(&self) -> RunBounds {
        let bounds = || in_use(&self.endpoints).map(|endpoint| &endpoint.bounds);
        let events = bounds().map(|bounds| bounds.event_frames / 2).min();
        let bytes = bounds().map(|bounds| bounds.event_bytes / 2).min();
        RunBounds {
            events: events.map_or(EVENTS, |events| EVENTS.min(events as usize)),
            bytes: bytes.unwrap_or_default() as usize,
        }
    }

    /// Takes the next run out of the inbox, of at most `limit` events, and finds its nodes. `false`: there is no event.
    pub(super) fn take_run(&mut self, limit: usize, bounds: &RunBounds, run: &mut Vec<Popped>) -> bool {
        let Some(first) = self.inbox.pop() else { return false };
        self.table.settle(first.index);
        self.settle_catch_ups(first.index);
        self.nodes.clear();
        self.table.resolve(&first.event.channel, &mut self.nodes);
        // Who has not settled must be asked for each event, and so must who is no admin.
        let holders: Option<usize> = self
            .nodes
            .iter()
            .map(|&node| self.table.settled_subscribers(node))
            .sum();
        let holders =
            holders.filter(|holders| *holders >= HOLDERS && !auth::is_admin_only(first.event.channel.as_str()));
        let (mut data_bytes, mut frame_bytes) = (first.event.data.len(), longest_frame(&first.event, &self.endpoints));
        run.push(first);
        let Some(holders) = holders else { return true };
        let most = limit.min(bounds.events).min(DELIVERIES as usize / holders);
        while run.len() < most
            && let Some(next) = self.inbox.peek()
        {
            data_bytes += next.data.len();
            frame_bytes += longest_frame(next, &self.endpoints);
            if data_bytes > DATA_BYTES || frame_bytes > bounds.bytes || auth::is_admin_only(next.channel.as_str()) {
                break;
            }
            self.next_nodes.clear();
            self.table.resolve(&next.channel, &mut self.next_nodes);
            if self.next_nodes != self.nodes {
                break;
            }
            run.extend(self.inbox.pop());
        }
        true
    }
}

fn in_use(endpoints: &[Endpoint]) -> impl Iterator<Item = &Endpoint> {
    endpoints.iter().filter(|endpoint| endpoint.connections > 0)
}

// What an event's frame has at most, in any form. All that are needed were made when it was published, as a rule.
fn longest_frame(event: &Event, endpoints: &[Endpoint]) -> usize {
    let forms = in_use(endpoints).filter_map(|endpoint| endpoint.form);
    let longest = || event.data.len() + ENVELOPE_BYTES_MAX as usize;
    let lengths = forms.map(|form| event.frame(form).map_or_else(longest, Bytes::len));
    lengths.max().unwrap_or_default()
}
