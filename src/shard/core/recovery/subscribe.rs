//! From a subscribe request to its answer: joining its patterns in the hub, and scanning the channels that they match.
//!
//! Invariants: in one turn, requests take no more than [`Settings::subscribe_steps`](crate::shard::Settings::subscribe_steps),
//! whatever they cover, and lock no stripe for longer than a page of a scan. While a request is under way, its connection
//! has no other; until its answer is queued, nothing of what it newly covers is queued, and events published meanwhile are
//! owed ([`CatchUp`]). What a request leaves behind is swept out and freed in the same steps.
//!
//! Most requests look at few channels and are answered at once. A request gets a first share of the turn's steps when it
//! begins. If that is not enough, it waits behind the other long requests, which run one at a time; requests that have not
//! begun may overtake them. So a request for one exact name never waits behind another client's `*`.

use std::collections::VecDeque;

use super::outcome::Seen;
use super::request::{Request, Subscribe};
use super::{Recovery, Step};
use crate::hub::{ChannelView, JoinPosition, PATTERNS_PER_STEP, Scan, Tombstone, TombstoneScan};
use crate::session::Input;
#[cfg(doc)]
use crate::shard::catch_up::CatchUp;
use crate::shard::connection::{Cold, Flags};
use crate::shard::core::connections::Connections;
use crate::shard::core::fanout::Fanout;
use crate::shard::mailbox::ConnectionId;
use crate::shard::table::Inserted;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};

/// The steps that a pattern costs beside the channels that are looked at for it.
const PATTERN_STEPS: usize = 16;

/// Memory for this many channels of a page is kept for the next page.
const SEEN_KEPT: usize = 1024;

/// The subscribe requests that have no answer yet.
#[derive(Default)]
pub(super) struct Subscribes {
    // Not begun.
    waiting: VecDeque<Request>,
    // Begun, and not done after their first share.
    scanning: VecDeque<Box<Subscribe>>,
    // Done, but not to be answered before the inbox has come to this index.
    held_back: VecDeque<(u64, Box<Subscribe>)>,
    // Reused for each page.
    seen: Vec<Seen>,
}

/// Where a request is served.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane {
    /// Within the budget.
    Fast,
    /// Above the budget, with this many steps.
    Slow(usize),
}

/// The result of taking a request further.
pub(super) enum Scanned {
    /// The steps did not suffice.
    Unfinished(Box<Subscribe>),
    /// The request is done, and answered unless it has to wait for the inbox or begins anew.
    Done(Option<Input<'static>>),
}

impl Subscribes {
    /// Requests that have no answer yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.scanning.len() + self.held_back.len()
    }

    /// Whether there is work for the next turn, with the inbox at `position`.
    pub(super) fn has_work(&self, position: u64) -> bool {
        !self.waiting.is_empty() || !self.scanning.is_empty() || self.may_answer(position)
    }

    fn may_answer(&self, position: u64) -> bool {
        self.held_back.front().is_some_and(|(until, _)| *until <= position)
    }

    // Takes out the request that a connection has under way.
    fn take_out(&mut self, of: ConnectionId) -> Option<Box<Subscribe>> {
        if let Some(index) = self.scanning.iter().position(|subscribe| subscribe.request.from == of) {
            return self.scanning.remove(index);
        }
        let is_own = |(_, subscribe): &(u64, Box<Subscribe>)| subscribe.request.from == of;
        let index = self.held_back.iter().position(is_own)?;
        self.held_back.remove(index).map(|(_, subscribe)| subscribe)
    }
}

impl Recovery {
    /// Carries out a subscribe request. Returns the answer for its session, unless it takes further turns.
    pub(in crate::shard::core) fn subscribe(
        &mut self,
        request: Request,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) -> Option<Input<'static>> {
        let request = self.delay_if_in_debt(request, connections, now)?;
        if self.steps.left() == 0 || !self.subscribes.waiting.is_empty() {
            self.subscribes.waiting.push_back(request);
            return None;
        }
        self.begin_subscribe(request, Lane::Fast, connections, fanout, now)
    }

    /// Begins the steps of a turn.
    pub(in crate::shard::core) fn begin_steps(&mut self, fanout: &mut Fanout) {
        self.steps.begin_turn();
        self.budgets.begin_turn();
        self.catch_ups.free(&mut self.steps, fanout);
    }

    /// Answers the next request that had to wait until the inbox had come to `position`.
    pub(in crate::shard::core) fn answer_held_back(
        &mut self,
        position: u64,
        connections: &mut Connections,
        fanout: &mut Fanout,
    ) -> Option<Step> {
        while self.subscribes.may_answer(position)
            && let Some((_, subscribe)) = self.subscribes.held_back.pop_front()
        {
            if let Some(slot) = connections.open_slot(subscribe.request.from) {
                let answer = self.finish(subscribe, connections, fanout);
                return Some(Step { slot, answer });
            }
        }
        None
    }

    /// The steps of this turn that are reserved for requests that have begun already.
    pub(in crate::shard::core) fn reserved_steps(&self) -> usize {
        if self.subscribes.scanning.is_empty() {
            0
        } else {
            self.steps.reserve()
        }
    }

    /// Begins the next request that waits, unless no more than `reserved` steps of the turn are left.
    pub(in crate::shard::core) fn begin_waiting(
        &mut self,
        reserved: usize,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) -> Option<Step> {
        while self.steps.left() > reserved
            && let Some(request) = self.subscribes.waiting.pop_front()
        {
            if let Some(slot) = connections.open_slot(request.from)
                && let Some(request) = self.delay_if_in_debt(request, connections, now)
            {
                let answer = self.begin_subscribe(request, Lane::Fast, connections, fanout, now);
                return Some(Step { slot, answer });
            }
        }
        None
    }

    /// Goes on with the requests that have begun, until one of them is done or no steps are left.
    pub(in crate::shard::core) fn resume_scan(
        &mut self,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) -> Option<Step> {
        while self.steps.left() > 0
            && let Some(subscribe) = self.subscribes.scanning.pop_front()
        {
            let Some(slot) = connections.open_slot(subscribe.request.from) else {
                continue;
            };
            match self.scan(subscribe, self.steps.left(), connections, fanout, now) {
                Scanned::Unfinished(subscribe) => self.subscribes.scanning.push_front(subscribe),
                Scanned::Done(answer) => return Some(Step { slot, answer }),
            }
        }
        None
    }

    /// Takes patterns from a connection. A request under way has taken them for held and begins anew.
    pub(in crate::shard::core) fn unsubscribe(
        &mut self,
        slot: u32,
        patterns: &[Pattern],
        connections: &mut Connections,
        fanout: &mut Fanout,
    ) {
        let is_under_way = connections.hot(slot).flags.has(Flags::CATCH_UP)
            && (connections.catch_up(slot)).is_some_and(|catch_up| catch_up.is_subscribing());
        let id = connections.id(slot);
        if is_under_way && let Some(subscribe) = self.subscribes.take_out(id).or_else(|| self.slow.take_out(id)) {
            self.end_subscribe(slot, connections, fanout);
            self.begin_anew(slot, subscribe.request, connections, fanout);
        }
        self.give_back(slot, patterns, connections, fanout);
    }

    pub(super) fn begin_subscribe(
        &mut self,
        request: Request,
        lane: Lane,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) -> Option<Input<'static>> {
        let slot = request.from.slot;
        // The connection's last request may have been answered a moment ago. What it has brought belongs behind that
        // answer, and is owed since that request began.
        self.schedule(slot, connections, fanout);
        let before = self.steps.taken();
        let is_swept = self.catch_ups.sweep(slot, &mut self.steps, connections, fanout);
        if !is_swept {
            self.charge(slot, self.steps.taken() - before, connections, now);
            // Other requests may overtake it.
            match lane {
                Lane::Fast => self.subscribes.waiting.push_back(request),
                Lane::Slow(_) => self.slow.delay(0, request),
            }
            return None;
        }
        let mut subscribe = Box::new(Subscribe::new(request, connections, fanout));
        self.steps.spend(PATTERN_STEPS * subscribe.request.patterns.len());
        let wide = self.join(&mut subscribe, connections, fanout, now);
        let keys = subscribe.outcome.unused_keys();
        self.steps.spend(wide.len() * keys / PATTERNS_PER_STEP);
        let known = (subscribe.outcome).known_versions(wide.clone(), subscribe.request.resume.as_ref());
        subscribe.tombstones = TombstoneScan::new(known);
        subscribe.scan = Scan::new(wide, subscribe.outcome.unused_channels());
        self.charge(slot, self.steps.taken() - before, connections, now);
        let share = match lane {
            Lane::Fast => self.steps.first_share(),
            Lane::Slow(share) => share,
        };
        match self.scan(subscribe, share, connections, fanout, now) {
            Scanned::Unfinished(subscribe) => {
                match lane {
                    Lane::Fast => self.subscribes.scanning.push_back(subscribe),
                    Lane::Slow(_) => self.slow.go_on(subscribe),
                }
                None
            }
            Scanned::Done(answer) => answer,
        }
    }

    // Takes all patterns into the table, and joins those that need no scan. Returns the others.
    fn join(
        &mut self,
        subscribe: &mut Subscribe,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) -> Vec<Pattern> {
        let slot = subscribe.slot;
        let patterns = std::mem::take(&mut subscribe.request.patterns);
        let pace = connections.pace(slot, subscribe.request.max_rate);
        if !subscribe.held.is_empty() {
            self.steps.spend(fanout.release(slot, connections));
        }
        let mut wide = Vec::new();
        for pattern in &patterns {
            let (Inserted::Joined(node) | Inserted::First(node)) = fanout.table_mut().insert(slot, pattern, pace)
            else {
                subscribe.interned.push(pattern.clone());
                continue;
            };
            subscribe.interned.extend(fanout.table().pattern(node).cloned());
            let is_covered = subscribe.held.iter().any(|held| held.covers(pattern));
            let at = match pattern.to_channel() {
                Some(channel) if !is_covered => self.join_name(subscribe, channel, connections, fanout, now),
                None if !is_covered => {
                    subscribe.nodes.push(node);
                    wide.push(pattern.clone());
                    continue;
                }
                _ => fanout.inbox_mut().join(pattern),
            };
            fanout.start(slot, node, at);
        }
        if fanout.table().is_paced(slot) {
            fanout.table_mut().compare_paces(slot);
        }
        subscribe.request.patterns = patterns;
        wide
    }

    fn join_name(
        &mut self,
        subscribe: &mut Subscribe,
        channel: Channel,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) -> JoinPosition {
        let mut seen = None;
        let at = (fanout.inbox_mut()).join_and_view(&channel, now, &mut |view| {
            seen = Some(subscribe.outcome.see(&view));
        });
        subscribe.named.insert(channel);
        if let Some(seen) = seen {
            self.cover(subscribe, seen, connections, fanout);
        }
        at
    }

    // Takes in a channel that the request newly covers.
    fn cover(&mut self, subscribe: &mut Subscribe, seen: Seen, connections: &mut Connections, fanout: &mut Fanout) {
        if let Some(owed) = subscribe.outcome.cover(seen, &self.metrics) {
            (self.catch_ups).subscribe(subscribe.slot, owed, &subscribe.outcome, connections, fanout);
        }
    }

    /// Goes on with a request by about `share` steps.
    pub(super) fn scan(
        &mut self,
        mut subscribe: Box<Subscribe>,
        share: usize,
        connections: &mut Connections,
        fanout: &mut Fanout,
        now: Now,
    ) -> Scanned {
        let before = self.steps.taken();
        let mut left = share;
        let mut seen = std::mem::take(&mut self.subscribes.seen);
        while left > 0 && !subscribe.scan.is_complete() {
            let Subscribe { scan, outcome, .. } = &mut *subscribe;
            let each = &mut |view: ChannelView<'_>| seen.push(outcome.see(&view));
            let mut steps = fanout.inbox_mut().scan(scan, left, now, each);
            steps += seen.len() * subscribe.held.len() / PATTERNS_PER_STEP;
            for seen in seen.drain(..) {
                if !subscribe.covered_before(seen.channel()) {
                    self.cover(&mut subscribe, seen, connections, fanout);
                }
            }
            left = left.saturating_sub(steps);
            self.steps.spend(steps);
        }
        seen.shrink_to(SEEN_KEPT);
        self.subscribes.seen = seen;
        let is_done = subscribe.scan.is_complete() && self.find_evicted(&mut subscribe, left, fanout);
        self.charge(subscribe.slot, self.steps.taken() - before, connections, now);
        let waits_until = is_done.then(|| subscribe.waits_until(fanout));
        if waits_until == Some(None) {
            return Scanned::Done(self.finish(subscribe, connections, fanout));
        }
        let at = subscribe.scan.position();
        for node in &subscribe.nodes {
            fanout.table_mut().unsettle(subscribe.slot, *node, at.clone());
        }
        if !std::mem::replace(&mut subscribe.is_announced, true) {
            subscribe.announce(connections, fanout);
        }
        if let Some(until) = waits_until.flatten() {
            self.subscribes.held_back.push_back((until, subscribe));
            return Scanned::Done(None);
        }
        Scanned::Unfinished(subscribe)
    }

    // Finds the channels that were evicted before the scan came to them; returns whether that is done. It runs after the
    // scan, so it finds everything that was evicted before the newest position that the answer names.
    fn find_evicted(&mut self, subscribe: &mut Subscribe, mut left: usize, fanout: &mut Fanout) -> bool {
        if !subscribe.outcome.recovers() && subscribe.evictions == fanout.inbox().evictions() {
            return true;
        }
        let mut found = Vec::new();
        while left > 0 {
            let each = &mut |version: u64, tombstone: &Tombstone| found.push((version, tombstone.clone()));
            let Some(steps) = fanout
                .inbox_mut()
                .scan_tombstones(&mut subscribe.tombstones, left, each)
            else {
                if subscribe.tombstones.has_forgotten() {
                    subscribe.outcome.note_forgotten();
                }
                return true;
            };
            for (version, tombstone) in found.drain(..) {
                let channel = &tombstone.channel;
                let offset = subscribe.scan.version_at(channel);
                if !subscribe.covered_before(channel) && subscribe.outcome.lacks(&tombstone, version <= offset) {
                    subscribe.outcome.note_evicted(channel, offset, &self.metrics);
                }
            }
            left = left.saturating_sub(steps);
            self.steps.spend(steps);
        }
        false
    }

    // The request has come to every channel. Returns its answer, unless it begins anew.
    fn finish(
        &mut self,
        subscribe: Box<Subscribe>,
        connections: &mut Connections,
        fanout: &mut Fanout,
    ) -> Option<Input<'static>> {
        let slot = subscribe.slot;
        let at = subscribe.scan.position();
        if subscribe.is_announced {
            self.end_subscribe(slot, connections, fanout);
            if connections.cold(slot).is_some_and(Cold::is_admin) != subscribe.outcome.is_admin() {
                // The client has authenticated meanwhile, and may see other channels now.
                self.begin_anew(slot, subscribe.request, connections, fanout);
                return None;
            }
        }
        let position = fanout.inbox().position();
        if subscribe.is_announced || !at.is_settled(position) || fanout.table().has_pace() {
            for node in &subscribe.nodes {
                if subscribe.is_announced {
                    fanout.table_mut().unsettle(slot, *node, at.clone());
                }
                fanout.start(slot, *node, at.clone());
            }
            fanout.table_mut().settle(position);
        }
        Some(Input::Subscribed {
            request: subscribe.request.number,
            patterns: subscribe.interned,
            outcome: subscribe.outcome.finish(&self.metrics),
        })
    }

    fn end_subscribe(&mut self, slot: u32, connections: &mut Connections, fanout: &mut Fanout) {
        if let Some(catch_up) = connections.catch_up(slot) {
            catch_up.end_subscribe();
        }
        self.catch_ups.shrink(slot, connections, fanout);
    }

    // Gives up what was done of a request, and lets it begin anew.
    fn begin_anew(&mut self, slot: u32, request: Request, connections: &mut Connections, fanout: &mut Fanout) {
        // With positions, the channels are found when they are swept out.
        self.schedule(slot, connections, fanout);
        self.give_back(slot, &request.patterns, connections, fanout);
        self.subscribes.waiting.push_front(request);
    }
}
