//! Reading from the hub what connections catch up with, a page at a time, as their sockets drain.
//!
//! Invariants: in one turn a connection reads at most one page and all of them together at most [`PAGES`]; whoever has
//! more to read waits its turn in a list, first come first served. So thousands that recover at once delay nobody by
//! more than the other bounds of a turn do, and each costs at most one page of memory beyond what is shared.

use std::rc::Rc;

use super::delivery::is_admin;
use super::frames::Frames;
use super::overflow::note_loss;
use super::{Outgoing, ShardCore};
use crate::auth;
use crate::hub::{Inbox, Page, PageLimit, Since};
use crate::session::Input;
use crate::shard::catch_up::{CatchUp, Due, Need, Progress};
use crate::shard::connection::{Cold, Hot, Stage};
use crate::shard::frame::Frame;
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::disconnect::Disconnect;

/// Events of one page, of one channel or several.
const PAGE_EVENTS: usize = 64;

/// Channels that one page looks at: some may have nothing, or were left.
const PAGE_CHANNELS: usize = PAGE_EVENTS;

/// Bytes of one page; a lone event may be longer.
const PAGE_BYTES: usize = 64 * 1024;

/// Pages of one turn.
pub(super) const PAGES: u32 = 128;

/// A channel that was read to the end while its inbox held more.
pub(super) struct Settling {
    at: u64,
    id: ConnectionId,
    channel: Channel,
}

impl ShardCore {
    /// Begins a turn: those who wait to read on from the hub, and the joins that waited, get their share of it.
    pub fn begin_turn(&mut self, now: Now) {
        self.now = now;
        self.turn = self.turn.wrapping_add(1);
        self.pages_left = PAGES;
        for _ in 0..PAGES {
            let Some(id) = self.catching.pop_front() else { break };
            let Some(slot) = self.open(id) else { continue };
            if let Some(catch_up) = self.cold[slot].as_mut().and_then(Cold::catch_up_if_any) {
                catch_up.is_listed = false;
            }
            self.outgoing.mark_dirty(slot, &mut self.hot[slot]);
        }
        self.end_too_slow();
        self.resume_joins(now);
    }

    /// Whether [`ShardCore::begin_turn`] has something to do.
    #[must_use]
    pub fn has_turn_to_begin(&self) -> bool {
        !self.catching.is_empty() || !self.too_slow.is_empty() || self.joins.has_some(self.inbox.position())
    }

    /// Prepares the next frames of a connection that catches up: passes over those that are read instead, and reads
    /// what has its place now. Says from which place on nothing may be written yet.
    pub(super) fn read_ahead(&mut self, slot: u32, limit: usize) -> Option<u32> {
        let hot = &mut self.hot[slot];
        let cold = self.cold[slot].as_mut()?;
        if hot.stage != Stage::Open {
            return None;
        }
        self.outgoing.pass_over(hot, cold, limit);
        let catch_up = cold.catch_up_if_any()?;
        if self.pages_left > 0 && catch_up.read_in_turn != self.turn && self.read_page(slot) {
            self.pages_left -= 1;
        }
        self.shrink_catch_up(slot);
        let first = self.hot[slot].outbox.first_sequence(&self.outgoing.pool);
        let id = self.id(slot);
        let catch_up = self.cold[slot].as_mut()?.catch_up_if_any()?;
        let until = catch_up.next_due();
        if catch_up.is_due(first) && !catch_up.is_listed {
            catch_up.is_listed = true;
            self.catching.push_back(id);
        }
        until
    }

    // Reads the channels whose place has come, up to a page; whether there were any.
    fn read_page(&mut self, slot: u32) -> bool {
        let mut page = std::mem::take(&mut self.page);
        let mut last = None;
        let mut bytes = 0;
        for _ in 0..PAGE_CHANNELS {
            if page.len() >= PAGE_EVENTS || bytes >= PAGE_BYTES {
                break;
            }
            let head = self.hot[slot].outbox.first_sequence(&self.outgoing.pool);
            let catch_up = self.cold[slot].as_mut().and_then(Cold::catch_up_if_any);
            let Some(due) = catch_up.and_then(|catch_up| catch_up.take_due(head)) else {
                break;
            };
            last = Some(due.place);
            let room = PageLimit {
                events: PAGE_EVENTS - page.len(),
                bytes: PAGE_BYTES - bytes,
            };
            bytes += self.read_channel(slot, due, room, &mut page);
        }
        if let Some(last) = last {
            let hot = &mut self.hot[slot];
            hot.outbox.push_page(&mut self.outgoing.pool, &mut page, last);
            if let Some(catch_up) = self.cold[slot].as_mut().and_then(Cold::catch_up_if_any) {
                catch_up.read_in_turn = self.turn;
            }
        }
        self.page = page;
        last.is_some()
    }

    // Reads one channel and decides what comes next of it; returns how many bytes of frames it added.
    fn read_channel(&mut self, slot: u32, due: Due, room: PageLimit, frames: &mut Vec<Rc<Frame>>) -> usize {
        let id = self.id(slot);
        let hot = &mut self.hot[slot];
        let Some(cold) = &mut self.cold[slot] else { return 0 };
        let endpoint = &self.endpoints[usize::from(hot.endpoint)];
        // What was left may have been set aside since, for what was still queued of it. A join under way that covers it
        // does not change that.
        let is_held = !cold.catch_up().is_joining(&due.channel)
            && self
                .table
                .held(slot)
                .any(|pattern| pattern.matches(due.channel.as_str()));
        let Some(form) = endpoint.form.filter(|_| is_held && may_have(cold, &due.channel)) else {
            cold.catch_up().forget(&due.channel);
            return 0;
        };
        let mut page = read(&mut self.inbox, &due.channel, due.need, room, self.now);
        let is_value = matches!(due.need, Need::Newest { .. } | Need::Whole { .. });
        if page.overtaken && !is_value {
            // What it was to be replayed is gone: a hole, which a client is never left with. The channel stays, and
            // holds its live events back until the end.
            self.too_slow.push(id);
            return 0;
        }
        if is_value && (page.overtaken || page.events.is_empty() && due.withheld > 0) {
            // Forgotten by the hub before it was read: dropped after all. What there is comes behind that.
            let count = due.withheld.max(1);
            note_loss(hot, cold, &due.channel, count, due.place, &self.stats);
            page = read(&mut self.inbox, &due.channel, Need::Newest { above: 0 }, room, self.now);
        }
        let is_held_back = !is_value && hold_back(&mut page, due.progress, self.inbox.evictions());
        let mut bytes = 0;
        for event in &page.events {
            let mut forms = Frames::of(event);
            let frame = forms.get(form, endpoint, &self.inbox).clone();
            forms.count(&self.stats);
            bytes += frame.len() as usize;
            frames.push(frame);
        }
        self.stats.caught_up.bump(page.events.len() as u64);
        if page.more {
            let place = hot.outbox.take_sequence();
            let left = match page.events.last() {
                Some(_) => Need::After(page.last),
                None => due.need,
            };
            cold.catch_up().go_on(due, left, place, self.progress);
            // What is held back is not asked for again before the shard has come further.
            return if is_held_back { PAGE_BYTES } else { bytes };
        }
        if is_value && page.events.is_empty() {
            // The hub holds nothing of it, not even what lies in the inbox: that is live.
            cold.catch_up().forget(&due.channel);
        } else if cold.catch_up().finish(&due.channel, page.at, self.inbox.position()) {
            self.settling.push_back(Settling {
                at: page.at,
                id,
                channel: due.channel,
            });
        }
        bytes
    }

    /// The inbox is at `position`: channels that were read up to there get their live events again.
    pub(super) fn settle_catch_ups(&mut self, position: u64) {
        while let Some(next) = self.settling.front()
            && next.at <= position
        {
            let Some(Settling { id, channel, .. }) = self.settling.pop_front() else {
                return;
            };
            let Some(slot) = self.open(id) else { continue };
            if let Some(catch_up) = self.cold[slot].as_mut().and_then(Cold::catch_up_if_any) {
                catch_up.settle(&channel, position);
            }
            self.shrink_catch_up(slot);
        }
    }

    /// Gives back what a connection that has caught up does not need.
    pub(super) fn shrink_catch_up(&mut self, slot: u32) {
        let extra = self.cold[slot].as_ref().and_then(|cold| cold.extra.as_ref());
        let Some(extra) = extra else { return };
        if extra.catch_up.as_ref().is_some_and(CatchUp::is_empty) {
            self.bury_catch_up(slot);
        }
    }

    /// Ends those for whom something was to be queued that may not be dropped.
    pub(super) fn end_too_slow(&mut self) {
        while let Some(id) = self.too_slow.pop() {
            if let Some(slot) = self.open(id) {
                let now = self.now;
                self.tell(slot, Input::End(Disconnect::SlowConsumer), now);
            }
        }
    }
}

impl Outgoing {
    // Takes out what is at its turn and is read instead.
    fn pass_over(&mut self, hot: &mut Hot, cold: &mut Cold, limit: usize) {
        let Some(catch_up) = cold.catch_up_if_any() else { return };
        let passed = hot.outbox.pass_over(&mut self.pool, limit, |frame| {
            let origin = frame.event();
            origin.is_some_and(|origin| catch_up.passes_over(&origin.channel, origin.version))
        });
        self.event_frames -= u64::from(passed.event_frames);
        self.event_bytes -= u64::from(passed.event_bytes);
    }
}

/// Keeps back what is newer than what lies in the inbox or is queued behind this page, if a channel of that may have been
/// evicted: a client that knows of an event is taken for one that heard of all that was evicted before it.
fn hold_back(page: &mut Page, progress: Progress, evictions: u64) -> bool {
    if evictions == progress.evictions {
        return false;
    }
    let end = page.events.partition_point(|event| event.version <= progress.version);
    let is_held_back = end < page.events.len();
    if is_held_back {
        page.events.truncate(end);
        page.more = true;
        if let Some(last) = page.events.last() {
            page.last = last.version;
        }
    }
    is_held_back
}

fn may_have(cold: &Cold, channel: &Channel) -> bool {
    !auth::is_admin_only(channel.as_str()) || is_admin(cold)
}

fn read(inbox: &mut Inbox, channel: &Channel, need: Need, room: PageLimit, now: Now) -> Page {
    let mut read = |since| inbox.read(channel, since, room, now);
    let newest = match need {
        Need::Newest { above } => return read(Since::Newest { above }),
        Need::Whole { latest } => {
            // Of records, what came after the join may be forgotten already, and the value begun anew.
            let news = read(Since::Newest { above: latest });
            return if news.overtaken {
                news
            } else {
                read(Since::Newest { above: 0 })
            };
        }
        Need::After(offset) => return read(Since::After(offset)),
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
    // One came between the two: it and those after it are in the history.
    read(Since::After(newest))
}
