//! `history`: a bounded page of the events that a channel keeps.
//!
//! Invariant: a connection with patterns is not told of an event here before it has got everything that was published
//! earlier on its patterns and whose channel has been evicted since. Otherwise a client that takes the event's offset for
//! its position would never learn of the evicted channel.

use crate::hub::{Page, PageLimit, Since};
use crate::session::HistoryPage;
use crate::shard::core::connections::Endpoint;
use crate::shard::core::fanout::Fanout;
use crate::time::Now;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::message::HistoryRange;
use tickgate_protocol::wire::encode;

/// The page of a channel's history that the connection in `slot` asks for.
pub(in crate::shard::core) fn page(
    slot: u32,
    endpoint: &Endpoint,
    fanout: &mut Fanout,
    channel: &Channel,
    range: HistoryRange,
    now: Now,
) -> HistoryPage {
    let epoch = fanout.inbox().epoch();
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
    fanout.inbox().view(channel, now, &mut |view| {
        floor = view.class.history.map(|_| view.floor);
        covered = view.covers(since);
    });
    let (Some(floor), Some(format)) = (floor, endpoint.format) else {
        return page;
    };
    // With an offset of another store, or of events that are gone, the client gets what there is, marked as incomplete.
    let is_whole = covered && is_ours;
    let limit = PageLimit {
        events: range.limit as usize,
        // Half of the reply bound, so that an answer alone never exceeds it.
        bytes: endpoint.bounds.reply_bytes as usize / 2,
    };
    let mut from = if covered { since } else { floor };
    let mut read = fanout.inbox_mut().read(channel, Since::After(from), limit, now);
    page.complete = is_whole && !read.overtaken;
    // The history was trimmed between the view and the read: read from the new floor on.
    while read.overtaken {
        let before = from;
        let inbox = fanout.inbox_mut();
        inbox.view(channel, now, &mut |view| from = view.floor.max(from));
        if from == before {
            break;
        }
        read = inbox.read(channel, Since::After(from), limit, now);
    }
    if fanout.overtakes_evicted(slot, |_| true) {
        hold_back(&mut read, since, fanout.progress().version);
    }
    page.more = read.more;
    page.offset = Some(read.last);
    let (mut bytes, mut last) = (0, from);
    for event in &read.events {
        let frame = fanout.inbox().frame(format.encoding.plain(), event);
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

// Leaves out the events that are newer than `newest`. The client gets them with its next request, which begins behind
// `since` or the last event that is left.
fn hold_back(page: &mut Page, since: u64, newest: u64) {
    if page.last > newest {
        let end = page.events.partition_point(|event| event.version <= newest);
        page.events.truncate(end);
        page.last = page.events.last().map_or(since, |event| event.version);
        page.more = true;
    }
}
