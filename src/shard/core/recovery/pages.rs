//! Reading from the hub what connections catch up with, a page at a time, as their sockets drain.
//!
//! Invariants: in one turn, a connection reads at most one page, and all connections together read at most [`PAGES`]; those
//! that have overdrawn their accounts read at most [`SLOW_PAGES`] more. Connections with more to read wait in a list, first
//! come, first served. So thousands of recovering connections delay no other by more than the other bounds of a turn do, and
//! each costs at most one page of memory beyond what is shared.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::auth;
use crate::event::Event;
use crate::hub::{Inbox, Page, PageLimit, Since};
use crate::metrics::ShardMetrics;
use crate::shard::catch_up::{Due, Need, Progress};
use crate::shard::connection::{Cold, Hot, Stage};
use crate::shard::core::connections::{Connection, Connections};
use crate::shard::core::fanout::{Fanout, Frames, note_loss};
use crate::shard::core::recovery::budgets::{Budgets, event_steps};
use crate::shard::frame::Frame;
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};

/// The most events of one page, of one channel or several.
const PAGE_EVENTS: usize = 64;

/// The most channels that one page looks at. Some of them may have no events, or may have been given back.
const PAGE_CHANNELS: usize = PAGE_EVENTS;

/// The most bytes of one page. A single event may be longer.
const PAGE_BYTES: usize = 64 * 1024;

/// The most pages of one turn.
const PAGES: u32 = 128;

/// The most pages of one turn for connections that have overdrawn their accounts: about a quarter of a millisecond.
const SLOW_PAGES: u32 = 2;

/// Reading from the hub; see the module's docs.
pub(super) struct Reading {
    // The number of the shard's turn.
    turn: u32,
    fast: Queue,
    // For connections that have overdrawn their accounts.
    slow: Queue,
    settling: VecDeque<Settling>,
    // Reused for each page.
    page: Vec<Rc<Frame>>,
    // The steps of the page that is being read.
    steps: usize,
    metrics: Arc<ShardMetrics>,
}

/// Connections that share a number of pages in each turn.
struct Queue {
    pages_max: u32,
    pages_left: u32,
    // Connections that read on in the next turn.
    waiting: VecDeque<ConnectionId>,
}

impl Queue {
    const fn new(pages_max: u32) -> Self {
        Self {
            pages_max,
            pages_left: pages_max,
            waiting: VecDeque::new(),
        }
    }
}

/// A channel that was read to its end while the inbox still held events up to the index `at`.
struct Settling {
    at: u64,
    id: ConnectionId,
    channel: Channel,
}

impl Reading {
    pub(super) const fn new(metrics: Arc<ShardMetrics>) -> Self {
        Self {
            turn: 1,
            fast: Queue::new(PAGES),
            slow: Queue::new(SLOW_PAGES),
            settling: VecDeque::new(),
            page: Vec::new(),
            steps: 0,
            metrics,
        }
    }

    /// Whether a connection waits for the next turn.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.fast.waiting.is_empty() || self.is_slow_waited_for()
    }

    /// Whether a connection waits for the next turn that has overdrawn an account.
    pub(super) fn is_slow_waited_for(&self) -> bool {
        !self.slow.waiting.is_empty()
    }

    const fn queue(&mut self, is_slow: bool) -> &mut Queue {
        if is_slow { &mut self.slow } else { &mut self.fast }
    }

    /// Begins a turn: marks the connections dirty that wait for it.
    pub(super) fn begin_turn(&mut self, connections: &mut Connections, fanout: &mut Fanout) {
        self.turn = self.turn.wrapping_add(1);
        for queue in [&mut self.fast, &mut self.slow] {
            queue.pages_left = queue.pages_max;
            for _ in 0..queue.pages_max {
                let Some(id) = queue.waiting.pop_front() else { break };
                let Some(Connection { hot, cold, .. }) = connections.find_open(id) else {
                    continue;
                };
                if let Some(catch_up) = cold.catch_up() {
                    catch_up.unlist();
                }
                fanout.outgoing_mut().mark_dirty(id.slot, hot);
            }
        }
    }

    /// Removes queued events that are read instead, and reads a page of the channels whose positions have come. `None`: the
    /// connection does not catch up with anything. Returns the steps that it took.
    pub(super) fn read_due(
        &mut self,
        slot: u32,
        limit: usize,
        now: Now,
        budgets: &mut Budgets,
        connections: &mut Connections,
        fanout: &mut Fanout,
    ) -> Option<usize> {
        let Connection { hot, cold, .. } = connections.get(slot)?;
        if hot.stage != Stage::Open {
            return None;
        }
        let catch_up = cold.catch_up()?;
        fanout.outgoing_mut().pass_over(hot, limit, |numbers, frame| {
            let event = frame.event();
            event.is_some_and(|event| catch_up.passes_over(numbers, &event.channel, event.version))
        });
        if !catch_up.has_read_in(self.turn) {
            let is_slow = budgets.is_overdrawn(slot, connections, now);
            if self.queue(is_slow).pages_left > 0 && self.read_page(slot, now, connections, fanout) {
                self.queue(is_slow).pages_left -= 1;
            }
        }
        Some(std::mem::take(&mut self.steps))
    }

    /// The position of the connection's next channel. If it has come, the connection waits for the next turn.
    pub(super) fn next_due(
        &mut self,
        slot: u32,
        now: Now,
        budgets: &mut Budgets,
        connections: &mut Connections,
        fanout: &Fanout,
    ) -> Option<u32> {
        let Connection { id, hot, cold, .. } = connections.get(slot)?;
        let catch_up = cold.catch_up()?;
        let next = catch_up.next_due();
        if catch_up.list_if_due(fanout.outgoing().first_sequence(hot)) {
            let is_slow = budgets.is_overdrawn(slot, connections, now);
            self.queue(is_slow).waiting.push_back(id);
        }
        next
    }

    // Reads the channels whose positions have come, up to a page; returns whether there were any.
    fn read_page(&mut self, slot: u32, now: Now, connections: &mut Connections, fanout: &mut Fanout) -> bool {
        let mut last = None;
        let mut bytes = 0;
        let mut channels = 0;
        // With a limit of bytes, what is read early becomes old while it waits.
        let endpoint = connections.endpoint(slot);
        let page_bytes = match endpoint.is_limited() {
            true => PAGE_BYTES.min(endpoint.bounds.event_bytes as usize),
            false => PAGE_BYTES,
        };
        for _ in 0..PAGE_CHANNELS {
            if self.page.len() >= PAGE_EVENTS || bytes >= page_bytes {
                break;
            }
            let head = fanout.outgoing().first_sequence(connections.hot(slot));
            let numbers = fanout.outgoing_mut().numbers_mut();
            let catch_up = connections.catch_up(slot);
            let Some(due) = catch_up.and_then(|catch_up| catch_up.take_due(numbers, head)) else {
                break;
            };
            last = Some(due.position);
            channels += 1;
            let limit = PageLimit {
                events: PAGE_EVENTS - self.page.len(),
                bytes: page_bytes - bytes,
            };
            if let Some(connection) = connections.get(slot) {
                bytes += self.read_channel(connection, due, limit, now, fanout);
            }
        }
        let Some(last) = last else { return false };
        if let Some(connection) = connections.get(slot) {
            fanout.outgoing_mut().push_page(connection.hot, &mut self.page, last);
            // In front of the next page, so that the client has it before the rest of the replay is read.
            let position = fanout.inbox().position();
            if (connection.cold.catch_up()).is_some_and(|catch_up| catch_up.reports(bytes, position)) {
                fanout.tell_cursor(connection, now);
            }
        }
        if let Some(Connection { hot, cold, .. }) = connections.get(slot)
            && let Some(catch_up) = cold.catch_up()
        {
            catch_up.note_read_in(self.turn);
            catch_up.postpone_replay(last, fanout.progress(), || hot.outbox.take_sequence());
            fanout.outgoing_mut().count_catch_up(catch_up.count_after(channels));
        }
        true
    }

    // Reads one channel into the page and decides how to go on with it; returns how many bytes of frames it added.
    fn read_channel(
        &mut self,
        connection: Connection<'_>,
        mut due: Due,
        limit: PageLimit,
        now: Now,
        fanout: &mut Fanout,
    ) -> usize {
        let Connection {
            id,
            hot,
            cold,
            endpoint,
            ..
        } = connection;
        // A channel that was given back may be in here still, or again, because of events that were queued. A subscribe
        // request under way that covers it does not change that.
        let matches = |pattern: &Pattern| pattern.matches(&due.channel);
        let is_held =
            !cold.catch_up_or_new().is_newly_covered(&due.channel) && fanout.table().held(id.slot).any(matches);
        let Some(format) = endpoint.format.filter(|_| is_held && may_see(cold, &due.channel)) else {
            cold.catch_up_or_new().forget(&due.channel);
            return 0;
        };
        let mut page = read(fanout.inbox_mut(), &due, due.need, limit, now);
        let is_value = matches!(due.need, Need::Newest { .. } | Need::Whole { .. });
        if page.overtaken && !is_value && endpoint.is_limited() {
            // The operator makes the client slow: ended, it would come back and be overtaken again. So it is told of the
            // loss, and goes on with what there is.
            while page.overtaken
                && let Some(floor) = floor_above(&due, fanout.inbox(), now)
            {
                // The last value is kept longer than the history, and owed all the same.
                due.need = match due.need {
                    Need::LastOrAfter(_) | Need::LastAndAfter(_) => Need::LastOrAfter(floor),
                    Need::After(_) | Need::Newest { .. } | Need::Whole { .. } => Need::After(floor),
                };
                page = read(fanout.inbox_mut(), &due, due.need, limit, now);
            }
            if !page.overtaken {
                note_loss(hot, cold, &due.channel, 1, due.position, &self.metrics);
            }
        }
        if page.overtaken && !is_value {
            // A part of the replay is gone. A client must never be left with such a gap, so the connection ends. Until
            // then the channel stays, and holds back its live events and the cursor.
            fanout.outgoing_mut().note_too_slow(id);
            let left = (due.need, due.next);
            let catch_up = cold.catch_up_or_new();
            catch_up.read_on(due, left, fanout.progress(), || hot.outbox.take_sequence());
            return PAGE_BYTES;
        }
        let is_lost = is_value && page.overtaken;
        if is_lost {
            // The hub has forgotten the events, so they are dropped after all. What the hub has now comes behind the loss.
            note_loss(hot, cold, &due.channel, 1, due.position, &self.metrics);
            page = read(fanout.inbox_mut(), &due, Need::Newest { above: 0 }, limit, now);
        }
        let is_held_back = !is_value && hold_back(&mut page, due.progress, fanout.inbox().evictions());
        let mut bytes = 0;
        for event in &page.events {
            let mut frames = if is_snapshot(due.need, event, is_lost) {
                Frames::of_snapshot(event)
            } else {
                let tells = endpoint.recovers && due.batch.is_some();
                let catch_up = cold.catch_up().filter(|_| tells);
                let epoch = fanout.inbox().epoch();
                Frames::missed(
                    event,
                    catch_up.and_then(|catch_up| catch_up.offset(epoch, &due, event.version)),
                )
            };
            let frame = frames.get_told(true, format, endpoint, fanout.inbox()).clone();
            frames.count(&self.metrics);
            bytes += frame.len() as usize;
            self.steps += event_steps(frame.len() as usize);
            self.page.push(frame);
        }
        if endpoint.recovers
            && let Some(last) = page.events.last()
        {
            fanout.note_page(&due.channel, last.version, page.at);
        }
        self.metrics.caught_up.bump(page.events.len() as u64);
        if page.more {
            go_on(hot, cold, due, &page, fanout.progress());
            // After a page that was held back, the connection reads no further before the shard has made progress.
            return if is_held_back { PAGE_BYTES } else { bytes };
        }
        if is_value && page.events.is_empty() {
            // The hub has nothing of the channel. What is in the inbox is live.
            cold.catch_up_or_new().forget(&due.channel);
        } else if (cold.catch_up_or_new()).finish(
            &due.channel,
            page.at,
            fanout.inbox().position(),
            is_value && fanout.awaits_value(id.slot, &due.channel),
        ) {
            self.settling.push_back(Settling {
                at: page.at,
                id,
                channel: due.channel,
            });
        }
        bytes
    }

    /// The inbox is at `position`: settles the next channel that was read up to there; returns its connection's slot.
    pub(super) fn settle_next(&mut self, position: u64, connections: &mut Connections, fanout: &Fanout) -> Option<u32> {
        while self.settling.front().is_some_and(|next| next.at <= position)
            && let Some(next) = self.settling.pop_front()
        {
            if let Some(Connection { id, cold, .. }) = connections.find_open(next.id) {
                if let Some(catch_up) = cold.catch_up()
                    && !fanout.awaits_value(id.slot, &next.channel)
                {
                    catch_up.settle(&next.channel, position);
                }
                return Some(id.slot);
            }
        }
        None
    }
}

/// The version up to which events of a history are gone, if it is above what the client has.
fn floor_above(due: &Due, inbox: &Inbox, now: Now) -> Option<u64> {
    let read = match due.need {
        Need::After(read) | Need::LastOrAfter(read) => read,
        Need::LastAndAfter(last) => last.saturating_sub(1),
        Need::Newest { .. } | Need::Whole { .. } => return None,
    };
    let mut floor = None;
    inbox.view(&due.channel, now, &mut |view| {
        floor = view.class.history.map(|_| view.floor);
    });
    floor.filter(|floor| *floor > read)
}

// The rest of the channel is read later, behind everything that is queued by now.
fn go_on(hot: &mut Hot, cold: &mut Cold, due: Due, page: &Page, progress: Progress) {
    let left = match page.events.last() {
        Some(_) => Need::After(page.last),
        None => due.need,
    };
    let catch_up = cold.catch_up_or_new();
    catch_up.read_on(due, (left, page.next), progress, || hot.outbox.take_sequence());
}

/// Keeps back events that are newer than what is in the inbox or queued behind this page, if a channel of those may have
/// been evicted. A client that knows an event is taken for one that got everything that was evicted before it.
fn hold_back(page: &mut Page, progress: Progress, evictions: u64) -> bool {
    if evictions == progress.evictions {
        return false;
    }
    let end = page.events.partition_point(|event| event.version <= progress.version);
    let is_held_back = end < page.events.len();
    if is_held_back {
        page.next = page.events[end].version;
        page.events.truncate(end);
        page.more = true;
        if let Some(last) = page.events.last() {
            page.last = last.version;
        }
    }
    is_held_back
}

/// Whether an event is sent as the state that the gateway keeps: the whole value of a channel, or the last event from
/// before the subscription. Changed records and events that were missed are news.
const fn is_snapshot(need: Need, event: &Event, is_read_again: bool) -> bool {
    match need {
        Need::Whole { .. } => true,
        Need::LastOrAfter(last) | Need::LastAndAfter(last) => event.version <= last,
        Need::Newest { .. } => is_read_again,
        Need::After(_) => false,
    }
}

fn may_see(cold: &Cold, channel: &Channel) -> bool {
    !auth::is_admin_only(channel.as_str()) || cold.is_admin()
}

// Reads what is needed of a channel. `overtaken`: something that is owed is gone.
fn read(inbox: &mut Inbox, due: &Due, need: Need, limit: PageLimit, now: Now) -> Page {
    let mut read = |since| inbox.read(&due.channel, since, limit, now);
    let newest = match need {
        Need::Newest { above } => {
            let mut page = read(Since::Newest { above });
            page.overtaken |= page.events.is_empty();
            return page;
        }
        Need::Whole { since } => {
            let mut page = read(Since::Newest { above: 0 });
            page.overtaken = match page.events.last() {
                // Of records: the changes since the request may be forgotten already, and the value begun anew.
                Some(value) if value.class.merges() => read(Since::Newest { above: since }).overtaken,
                Some(_) => false,
                // The value was deleted, so there is none to have.
                None if page.deleted => false,
                // The channel had a value and is gone, or an event came since and is not given to newcomers any more.
                None => page.last == 0 || page.last > since,
            };
            return page;
        }
        Need::After(after) => {
            let below = due.below;
            return read(Since::Between { after, below });
        }
        Need::LastAndAfter(newest) => {
            // The frame of the snapshot counts to the last value.
            read(Since::Newest { above: 0 });
            return read(Since::After(newest - 1));
        }
        Need::LastOrAfter(newest) => newest,
    };
    let after = read(Since::After(newest));
    if after.overtaken || after.more || !after.events.is_empty() {
        return after;
    }
    let last = read(Since::Newest { above: 0 });
    if last.events.is_empty() {
        return after;
    }
    if last.last <= newest {
        return last;
    }
    // An event was published between the two reads. It and those after it are in the history.
    read(Since::After(newest))
}
