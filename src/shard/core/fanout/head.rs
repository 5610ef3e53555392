//! Up to which version a shard has popped everything: what the cursors of its connections are made of.
//!
//! Invariants: no event with a version up to `reached` is in the inbox, or comes into it later. The hub's head says so of
//! what is in the inbox and what was popped ([`Inbox::head`]). So it is reached when the inbox has been popped up to where
//! it ended after the head was read.
//!
//! In the same way no event of a stripe with a version up to that in `newest` is in the inbox, or comes into it later: the
//! events of a stripe are in the inbox in the order of their versions. Such a version was popped itself, or it was read from
//! the hub, and the inbox has since been popped up to where it ended at that read.

use std::collections::VecDeque;

use crate::hub::{Inbox, Popped, STRIPES};
use crate::time::Now;
use tickgate_protocol::event::Epoch;
use tickgate_protocol::message::Offset;

#[derive(Debug, Default)]
pub(super) struct Head {
    /// The version up to which every event has been popped.
    pub(super) reached: u64,
    // A head of the hub, and the inbox index at which it is reached.
    next: Option<(u64, u64)>,
    read_ms: Option<u64>,
    /// The newest version of each stripe that was popped or read, as far as offsets were asked for.
    pub(super) newest: [u64; STRIPES],
    // In the order of `at`.
    pages: VecDeque<Page>,
}

/// Events that were read from the hub.
#[derive(Debug)]
struct Page {
    // Where the inbox ended then.
    at: u64,
    stripe: u8,
    version: u64,
}

impl Head {
    /// Reads the hub's head, unless the last one is not reached yet or was read in the same millisecond.
    pub(super) fn read(&mut self, inbox: &Inbox, now: Now) {
        if self.next.is_some() || self.read_ms == Some(now.mono_ms) {
            return;
        }
        self.read_ms = Some(now.mono_ms);
        // In this order: what the head covers is in the inbox by now.
        let head = inbox.head();
        self.next = Some((head, inbox.end()));
        self.pass(inbox.position());
    }

    /// What the shard has delivered with this event, which was just popped.
    pub(super) fn offset(&mut self, epoch: Epoch, popped: &Popped) -> Offset {
        self.raise(popped.stripe, popped.event.version);
        let newest = (0..).zip(self.newest).filter(|(_, version)| *version > self.reached);
        Offset::new(epoch, self.reached, newest.collect())
    }

    /// Events of a stripe up to a version were read from the hub, while the inbox ended at `at`.
    pub(super) fn note_page(&mut self, stripe: u8, version: u64, at: u64, inbox: &Inbox) {
        if version > self.reached {
            self.pages.push_back(Page { at, stripe, version });
            self.pass(inbox.position());
        }
    }

    /// The inbox is at `position`.
    pub(super) fn pass(&mut self, position: u64) {
        if let Some((head, _)) = self.next.take_if(|(_, end)| *end <= position) {
            self.reached = self.reached.max(head);
        }
        while self.pages.front().is_some_and(|page| page.at <= position)
            && let Some(page) = self.pages.pop_front()
        {
            self.raise(page.stripe, page.version);
        }
    }

    fn raise(&mut self, stripe: u8, version: u64) {
        let newest = &mut self.newest[usize::from(stripe) % STRIPES];
        *newest = version.max(*newest);
    }
}
