//! `history`: what a channel keeps, in one bounded answer.
//!
//! Invariant: who holds patterns is not told of an event here before it was sent what was published before that and is evicted
//! since. Otherwise a client that takes the event's offset for how much it had would never hear of the channel that went.

use super::ShardCore;
use crate::hub::{Page, PageLimit, Since};
use crate::session::{HistoryPage, Input};
use crate::time::Now;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::message::{HistoryRange, RequestRef};
use tickgate_protocol::wire::encode;

impl ShardCore {
    pub(super) fn history(
        &mut self,
        slot: u32,
        request_ref: RequestRef,
        channel: &Channel,
        range: HistoryRange,
        now: Now,
    ) {
        let page = self.history_page(slot, channel, range, now);
        self.handle(slot, Input::History { request_ref, page }, now);
    }

    pub(super) fn history_page(&mut self, slot: u32, channel: &Channel, range: HistoryRange, now: Now) -> HistoryPage {
        let endpoint = &self.endpoints[usize::from(self.hot[slot].endpoint)];
        let epoch = self.inbox.epoch();
        let mut page = HistoryPage {
            epoch,
            events: Vec::new(),
            complete: true,
            offset: None,
            more: false,
        };
        let (mut floor, mut covered) = (None, false);
        let is_ours = range.epoch.is_none_or(|given| given == Some(epoch));
        let since = range.since.filter(|_| is_ours).unwrap_or(0);
        self.inbox.view(channel, now, &mut |view| {
            floor = view.class.history.map(|_| view.floor);
            covered = view.covers(since);
        });
        let (Some(floor), Some(form)) = (floor, endpoint.form) else {
            return page;
        };
        // Another store's offsets, or events that are gone: what there is is told, and that it is not all.
        let is_whole = covered && is_ours;
        let limit = PageLimit {
            events: range.limit as usize,
            // Half of what may be pending, so that an answer never is what is too much.
            bytes: endpoint.bounds.reply_bytes as usize / 2,
        };
        let mut from = if covered { since } else { floor };
        let mut read = self.inbox.read(channel, Since::After(from), limit, now);
        page.complete = is_whole && !read.overtaken;
        // Trimmed between the look and the read, or again since: all there is, then.
        while read.overtaken {
            let before = from;
            self.inbox.view(channel, now, &mut |view| from = view.floor.max(from));
            if from == before {
                break;
            }
            read = self.inbox.read(channel, Since::After(from), limit, now);
        }
        if self.overtakes_evicted(slot, |_| true) {
            hold_back(&mut read, since, self.progress.version);
        }
        page.more = read.more;
        page.offset = Some(read.last);
        let (mut bytes, mut last) = (0, from);
        for event in &read.events {
            let frame = self.inbox.frame(form.encoding.plain(), event);
            let message = frame.slice(frame.len() - encode::payload_bytes(frame)..);
            bytes += message.len();
            if bytes > limit.bytes && !page.events.is_empty() {
                page.more = true;
                page.offset = Some(last);
                break;
            }
            last = event.version;
            page.events.push(message);
        }
        page
    }
}

// What is newer than `newest` comes when it is asked for again, behind `since` or the last that is not.
fn hold_back(page: &mut Page, since: u64, newest: u64) {
    if page.last > newest {
        let end = page.events.partition_point(|event| event.version <= newest);
        page.events.truncate(end);
        page.last = page.events.last().map_or(since, |event| event.version);
        page.more = true;
    }
}
