//! From a `subscribe` to its answer: interest, and a scan over the channels that are there, in shares.
//!
//! Invariants: joins take no more than [`Settings::subscribe_steps`](crate::shard::Settings::subscribe_steps) of a turn, whatever
//! they cover, and lock no stripe for longer than a page of a scan. A join that is not through is a connection's only
//! one; until its answer is queued nothing of what it newly covers is, and what is published meanwhile is owed
//! ([`CatchUp`](crate::shard::catch_up::CatchUp)). What it leaves behind is swept out and freed in the same steps.
//!
//! Most joins look at few channels and are carried out at once. Whoever begins gets a first share; what is not through
//! then queues up behind its like, one after the other, and those that have yet to begin pass it: nobody's exact name
//! waits behind somebody else's `*`.

use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};

use super::ShardCore;
use super::delivery::is_admin;
use super::standing::Seen;
use crate::hub::{JoinPosition, PATTERNS_PER_STEP, Scan, TombstoneScan};
use crate::session::Input;
use crate::shard::Settings;
use crate::shard::catch_up::{CatchUp, DeferredDrop};
use crate::shard::connection::{Cold, Flags};
use crate::shard::mailbox::ConnectionId;
use crate::shard::table::{Inserted, NodeId};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::message::{Reached, Recover, SubscribeOutcome};

/// What a pattern costs beside the channels that are looked at for it, in steps.
const PATTERN_STEPS: usize = 16;

/// A first share is so many times less than a turn's.
const FIRST_SHARES: usize = 8;

/// Names of channels that are freed at once with what a connection was to catch up with.
const FREED_AT_ONCE: usize = 256;

/// Room that is kept for what a page saw.
const SEEN_KEPT: usize = 1024;

/// The joins of a shard that are not carried out.
pub(super) struct Joins {
    // Not begun.
    waiting: VecDeque<Waiting>,
    // Begun, and not through with their first share.
    scanning: VecDeque<Box<Join>>,
    // Through, but not to be answered before the inbox is at this index.
    held_back: VecDeque<(u64, Box<Join>)>,
    // What connections that are gone had to catch up with: it is freed in the same steps as it was made.
    remains: VecDeque<DeferredDrop>,
    steps_per_turn: usize,
    // In this turn.
    steps_taken: usize,
    // Reused, empty between calls.
    seen: Vec<Seen>,
}

/// A join that has not begun.
pub(super) struct Waiting {
    to: ConnectionId,
    request: u32,
    patterns: Vec<Pattern>,
    recover: Option<Recover>,
}

/// One join while it is carried out.
pub(super) struct Join {
    asked: Waiting,
    pub(super) slot: u32,
    pub(super) is_admin: bool,
    /// It comes back, and is told what was recovered.
    pub(super) recovers: bool,
    /// It has a position of this store: so what it has no key for began while it was away, or it would have one.
    pub(super) knows_store: bool,
    /// Where it was, of what the join has not come to yet.
    pub(super) keys: HashMap<Channel, Reached>,
    pub(super) standing: SubscribeOutcome,
    // What was held before, as far as it has channels in common with what is joined.
    held: Box<[Pattern]>,
    // Channels that were asked for by their names.
    named: HashSet<Channel>,
    interned: Vec<Pattern>,
    // Those of the scan's patterns.
    nodes: Vec<NodeId>,
    pub(super) scan: Scan,
    // What the scan was too late for.
    tombstone_scan: TombstoneScan,
    /// The newest version when it began, and how many evictions there had been.
    pub(super) began_at: u64,
    evictions: u64,
    /// What its answer names, once it matters.
    pub(super) told: Option<HashSet<Channel>>,
    // Its connection knows that it is not through.
    is_announced: bool,
}

impl Joins {
    pub(super) fn new(settings: &Settings) -> Self {
        let steps_per_turn = settings.subscribe_steps as usize;
        Self {
            waiting: VecDeque::new(),
            scanning: VecDeque::new(),
            held_back: VecDeque::new(),
            remains: VecDeque::new(),
            steps_per_turn,
            steps_taken: 0,
            seen: Vec::new(),
        }
    }

    /// Joins that have no answer yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.scanning.len() + self.held_back.len()
    }

    /// Whether there is work for the next turn, with the inbox at `position`.
    pub(super) fn has_some(&self, position: u64) -> bool {
        let is_due = |(until, _): &(u64, Box<Join>)| *until <= position;
        !self.waiting.is_empty()
            || !self.scanning.is_empty()
            || !self.remains.is_empty()
            || self.held_back.front().is_some_and(is_due)
    }

    /// Steps that were taken since the turn began.
    #[cfg(test)]
    pub(super) const fn steps_taken(&self) -> usize {
        self.steps_taken
    }

    pub(super) fn spend(&mut self, steps: usize) {
        self.steps_taken += steps;
    }

    /// What whoever begins gets of a turn.
    pub(super) fn first_share(&self) -> usize {
        (self.steps_per_turn / FIRST_SHARES).max(1)
    }

    /// Frees what a connection was to catch up with; if that is much, in the turns to come.
    pub(super) fn bury(&mut self, catch_up: CatchUp) {
        let mut remains = catch_up.into_remains();
        if remains.free(FREED_AT_ONCE) == FREED_AT_ONCE {
            self.remains.push_back(remains);
        }
    }

    fn free_remains(&mut self) {
        while let (most @ 1.., Some(remains)) = (self.steps_left(), self.remains.front_mut()) {
            let freed = remains.free(most);
            if freed < most {
                self.remains.pop_front();
            }
            self.spend(freed);
        }
    }

    // The join that a connection has begun.
    fn take_out(&mut self, of: ConnectionId) -> Option<Box<Join>> {
        if let Some(place) = self.scanning.iter().position(|join| join.asked.to == of) {
            return self.scanning.remove(place);
        }
        let place = self.held_back.iter().position(|(_, join)| join.asked.to == of)?;
        self.held_back.remove(place).map(|(_, join)| join)
    }

    fn steps_left(&self) -> usize {
        self.steps_per_turn.saturating_sub(self.steps_taken)
    }
}

impl ShardCore {
    /// Joins patterns for a session: at once if that is a matter of little, or in the turns to come.
    pub(super) fn join(&mut self, slot: u32, request: u32, patterns: Vec<Pattern>, recover: Option<Recover>, now: Now) {
        let waiting = Waiting {
            to: self.id(slot),
            request,
            patterns,
            recover,
        };
        if self.joins.steps_left() == 0 || !self.joins.waiting.is_empty() {
            self.joins.waiting.push_back(waiting);
        } else {
            self.begin_join(slot, waiting, now);
        }
    }

    /// A new turn: carries out the joins that waited, as far as it goes.
    pub(super) fn resume_joins(&mut self, now: Now) {
        self.joins.steps_taken = 0;
        self.joins.free_remains();
        self.answer_held_back(now);
        let reserved = if self.joins.scanning.is_empty() {
            0
        } else {
            self.joins.steps_per_turn / 2
        };
        self.begin_joins(reserved, now);
        while self.joins.steps_left() > 0
            && let Some(join) = self.joins.scanning.pop_front()
        {
            let Some(slot) = self.open(join.asked.to) else { continue };
            match self.scan(join, self.joins.steps_left(), now) {
                Some(join) => self.joins.scanning.push_front(join),
                None => self.answer(slot, now),
            }
        }
        self.begin_joins(0, now);
    }

    // Answers the joins whose connections have got what was published before.
    fn answer_held_back(&mut self, now: Now) {
        let position = self.inbox.position();
        while self
            .joins
            .held_back
            .front()
            .is_some_and(|(until, _)| *until <= position)
            && let Some((_, join)) = self.joins.held_back.pop_front()
        {
            let Some(slot) = self.open(join.asked.to) else { continue };
            self.finish_join(join, now);
            self.answer(slot, now);
        }
    }

    // Up to where in the inbox a join's answer has to wait. What it says of one channel, says of all that its connection
    // has: it must not overtake what was published of the others and evicted since.
    fn must_wait(&self, join: &Join) -> Option<u64> {
        let is_older = |held: &Pattern| !join.asked.patterns.contains(held);
        self.overtakes_evicted(join.slot, is_older).then(|| self.inbox.end())
    }

    /// Whether what a connection is told by now may overtake what was published of its older patterns and evicted since.
    pub(super) fn overtakes_evicted(&self, slot: u32, is_older: impl Fn(&Pattern) -> bool) -> bool {
        !self.inbox.is_empty()
            && self.inbox.evictions() != self.progress.evictions
            && self.table.held(slot).any(is_older)
    }

    // Begins those that wait, until no more than `reserved` is left of the turn.
    fn begin_joins(&mut self, reserved: usize, now: Now) {
        while self.joins.steps_left() > reserved
            && let Some(waiting) = self.joins.waiting.pop_front()
        {
            let Some(slot) = self.open(waiting.to) else { continue };
            self.begin_join(slot, waiting, now);
            self.answer(slot, now);
        }
    }

    fn answer(&mut self, slot: u32, now: Now) {
        self.carry_out(slot, now);
        self.resume(slot, now);
    }

    fn begin_join(&mut self, slot: u32, asked: Waiting, now: Now) {
        if !self.sweep_catch_up(slot) {
            // Others pass it.
            return self.joins.waiting.push_back(asked);
        }
        let mut join = self.prepare_join(slot, asked);
        let patterns = std::mem::take(&mut join.asked.patterns);
        self.joins.spend(PATTERN_STEPS * patterns.len());
        let mut wide = Vec::new();
        for pattern in &patterns {
            let (Inserted::Joined(node) | Inserted::First(node)) = self.table.insert(slot, pattern) else {
                join.interned.push(pattern.clone());
                continue;
            };
            join.interned.extend(self.table.pattern(node).cloned());
            let is_covered = join.held.iter().any(|held| held.covers(pattern));
            let at = match pattern.to_channel() {
                Some(channel) if !is_covered => self.join_name(&mut join, channel, now),
                None if !is_covered => {
                    join.nodes.push(node);
                    wide.push(pattern.clone());
                    continue;
                }
                _ => self.inbox.join(pattern),
            };
            if !at.is_settled(self.inbox.position()) {
                self.table.unsettle(slot, node, at);
            }
        }
        join.asked.patterns = patterns;
        self.joins.spend(wide.len() * join.keys.len() / PATTERNS_PER_STEP);
        join.tombstone_scan =
            TombstoneScan::new(join.known(wide.clone(), self.inbox.epoch(), join.asked.recover.as_ref()));
        join.scan = Scan::new(wide, join.keys.keys().cloned().collect());
        if let Some(join) = self.scan(join, self.joins.first_share(), now) {
            self.joins.scanning.push_back(join);
        }
    }

    fn prepare_join(&self, slot: u32, asked: Waiting) -> Box<Join> {
        let epoch = self.inbox.epoch();
        // Counted first: none with a higher number is taken for one of before.
        let evictions = self.inbox.evictions();
        let keys = asked.recover.iter().flat_map(|recover| &recover.0).cloned();
        let keys: HashMap<Channel, Reached> = keys.collect();
        let concerns = |held: &&Pattern| asked.patterns.iter().any(|pattern| held.intersects(pattern));
        Box::new(Join {
            slot,
            is_admin: self.cold[slot].as_ref().is_some_and(is_admin),
            recovers: asked.recover.is_some(),
            knows_store: keys.values().any(|reached| reached.epoch == Some(epoch)),
            keys,
            standing: SubscribeOutcome {
                recovered: asked.recover.as_ref().map(|_| Vec::new()),
                ..SubscribeOutcome::default()
            },
            held: self.table.held(slot).filter(concerns).cloned().collect(),
            named: HashSet::new(),
            interned: Vec::with_capacity(asked.patterns.len()),
            nodes: Vec::new(),
            scan: Scan::default(),
            tombstone_scan: TombstoneScan::new(Vec::new()),
            began_at: self.inbox.newest_version(),
            evictions,
            told: None,
            is_announced: false,
            asked,
        })
    }

    fn join_name(&mut self, join: &mut Join, channel: Channel, now: Now) -> JoinPosition {
        let mut seen = None;
        let at = (self.inbox).join_and_view(&channel, now, &mut |view| seen = Some(Seen::of(&view)));
        join.named.insert(channel);
        if let Some(seen) = seen {
            self.newly_covered(join, seen);
        }
        at
    }

    // Goes on with a join by so many steps. `None`: it is through, and its session has been told, or will be.
    fn scan(&mut self, mut join: Box<Join>, share: usize, now: Now) -> Option<Box<Join>> {
        let mut left = share;
        let mut seen = std::mem::take(&mut self.joins.seen);
        while left > 0 && !join.scan.is_complete() {
            let mut steps = (self.inbox).scan(&mut join.scan, left, now, &mut |view| seen.push(Seen::of(&view)));
            steps += seen.len() * join.held.len() / PATTERNS_PER_STEP;
            for seen in seen.drain(..) {
                if !join.covered_before(seen.channel()) {
                    self.newly_covered(&mut join, seen);
                }
            }
            left = left.saturating_sub(steps);
            self.joins.spend(steps);
        }
        seen.shrink_to(SEEN_KEPT);
        self.joins.seen = seen;
        let is_through = join.scan.is_complete() && self.scan_tombstones(&mut join, left);
        let waits_until = is_through.then(|| self.must_wait(&join));
        if waits_until == Some(None) {
            self.finish_join(join, now);
            return None;
        }
        let at = join.scan.position();
        for node in &join.nodes {
            self.table.unsettle(join.slot, *node, at.clone());
        }
        if !std::mem::replace(&mut join.is_announced, true) {
            self.announce(&join);
        }
        if let Some(until) = waits_until.flatten() {
            self.joins.held_back.push_back((until, join));
            return None;
        }
        Some(join)
    }

    // Looks for what was evicted before the scan came there; whether it is through. Behind the scan, so that whatever
    // was evicted before the newest position that the answer names is found.
    fn scan_tombstones(&mut self, join: &mut Join, mut left: usize) -> bool {
        if !join.recovers && join.evictions == self.inbox.evictions() {
            return true;
        }
        let mut found = Vec::new();
        while left > 0 {
            let each = &mut |channel: &Channel| found.push(channel.clone());
            let Some(steps) = self.inbox.scan_tombstones(&mut join.tombstone_scan, left, each) else {
                join.standing.cut |= join.tombstone_scan.has_forgotten();
                return true;
            };
            for channel in found.drain(..) {
                self.was_evicted(join, channel);
            }
            left = left.saturating_sub(steps);
            self.joins.spend(steps);
        }
        false
    }

    // Its connection has to know what it held before: whatever else it gets comes by the join.
    fn announce(&mut self, join: &Join) {
        let is_new = |held: &&Pattern| join.asked.patterns.contains(held);
        let held = self.table.held(join.slot).filter(|held| !is_new(held)).cloned();
        if let Some(cold) = &mut self.cold[join.slot] {
            cold.catch_up().begin_join(held.collect());
            self.outgoing.note_catching_up(&mut self.hot[join.slot], true);
        }
    }

    fn finish_join(&mut self, mut join: Box<Join>, now: Now) {
        let slot = join.slot;
        let at = join.scan.position();
        if join.is_announced {
            self.end_join(slot);
            if self.cold[slot].as_ref().is_some_and(is_admin) != join.is_admin {
                // Who it is has changed on the way, and with it what it may see.
                return self.join_again(slot, join.asked);
            }
        }
        if join.is_announced || !at.is_settled(self.inbox.position()) {
            for node in &join.nodes {
                self.table.unsettle(slot, *node, at.clone());
            }
            self.table.settle(self.inbox.position());
        }
        self.tell_unknown(&mut join);
        let input = Input::Subscribed {
            request: join.asked.request,
            patterns: join.interned,
            outcome: join.standing,
        };
        self.handle(slot, input, now);
    }

    fn end_join(&mut self, slot: u32) {
        if let Some(catch_up) = self.cold[slot].as_mut().and_then(Cold::catch_up_if_any) {
            catch_up.end_join();
        }
        self.shrink_catch_up(slot);
    }

    // Gives up what was done of a join, and lets it begin anew.
    fn join_again(&mut self, slot: u32, asked: Waiting) {
        // A place, where it is found when it is swept out.
        self.schedule_catch_up(slot);
        self.give_back(slot, &asked.patterns);
        self.joins.waiting.push_front(asked);
    }

    /// Gives patterns back. A join under way took them for held, and what they cover for known: it begins anew.
    pub(super) fn leave(&mut self, slot: u32, patterns: &[Pattern]) {
        let is_in_join = self.hot[slot].flags.has(Flags::CATCH_UP)
            && (self.cold[slot].as_mut())
                .and_then(Cold::catch_up_if_any)
                .is_some_and(|catch_up| catch_up.is_in_join());
        let id = self.id(slot);
        if is_in_join && let Some(join) = self.joins.take_out(id) {
            self.end_join(slot);
            self.join_again(slot, join.asked);
        }
        self.give_back(slot, patterns);
    }

    fn give_back(&mut self, slot: u32, patterns: &[Pattern]) {
        for pattern in patterns {
            if self.table.remove(slot, pattern) == Some(true) {
                self.inbox.leave(pattern);
            }
        }
        self.leave_catch_up(slot);
    }
}

impl Join {
    /// Whether a channel that a page saw was covered already, or was looked at by its name.
    pub(super) fn covered_before(&self, channel: &Channel) -> bool {
        let mut held = self.held.iter();
        held.any(|pattern| pattern.matches(channel.as_str())) || self.named.contains(channel)
    }
}
