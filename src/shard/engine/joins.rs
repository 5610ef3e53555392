//! From a `subscribe` to what its client is owed: interest, position, last values, recovery.
//!
//! Invariant: a channel is newly covered when no pattern that the connection held before matches it; only such channels
//! bring positions, last values and missed events, each once, whatever patterns of the request overlap. What is for
//! admins only brings nothing to others.
//!
//! A wide join looks at many channels. So many are looked at in one turn and no more: a join behind that waits for the
//! next, in order, and its session with it.

use std::mem;

use hashbrown::HashMap;

use super::Engine;
use super::delivery::is_admin;
use crate::auth;
use crate::channel::{Channel, Pattern};
use crate::hub::ChannelView;
use crate::mailbox::ConnectionId;
use crate::message::{Position, Reached, Recover, Standing};
use crate::session::Input;
use crate::shard::catch_up::Need;
use crate::shard::connection::Flags;
use crate::shard::table::Inserted;
use crate::time::Now;

/// Channels looked at in one turn, about 10 ms of a core.
pub(super) const JOIN_CHANNELS: usize = 64 * 1024;

/// What a pattern costs beside the channels that are looked at for it, in the same measure.
const PATTERN_COST: usize = 16;

/// Channels named in `positions`, and as many in `recovered` beside those asked for.
const NAMED_MAX: usize = 1000;

/// A join that waits for its turn.
pub(super) struct Waiting {
    to: ConnectionId,
    request: u32,
    patterns: Vec<Pattern>,
    recover: Option<Recover>,
}

/// What was seen of a channel under its stripe's lock.
pub(super) struct Seen {
    channel: Channel,
    has_history: bool,
    has_last: bool,
    latest: u64,
    floor: u64,
    head: u64,
}

impl Seen {
    fn of(view: &ChannelView<'_>) -> Self {
        Self {
            channel: view.channel.clone(),
            has_history: view.class.history.is_some(),
            has_last: view.has_last,
            latest: view.latest,
            floor: view.floor,
            head: view.head,
        }
    }

    fn covers(&self, since: u64) -> bool {
        self.floor <= since && since <= self.head
    }
}

/// One join while it is carried out.
struct Join {
    slot: u32,
    is_admin: bool,
    recovers: bool,
    // It has a position of this store: so what it has no key for began while it was away, or it would have one.
    knows_store: bool,
    // Not yet found; what is left has no state.
    keys: HashMap<Channel, Reached>,
    standing: Standing,
}

impl Engine {
    /// Joins patterns for a session, or lets it wait.
    pub(super) fn join(&mut self, slot: u32, request: u32, patterns: Vec<Pattern>, recover: Option<Recover>, now: Now) {
        if self.joins_left == 0 || !self.joins.is_empty() {
            let to = self.id(slot);
            self.joins.push_back(Waiting {
                to,
                request,
                patterns,
                recover,
            });
            return;
        }
        self.join_now(slot, request, &patterns, recover, now);
    }

    /// A new turn: carries out the joins that waited, as far as it goes.
    pub(super) fn resume_joins(&mut self, now: Now) {
        self.joins_left = JOIN_CHANNELS;
        while self.joins_left > 0
            && let Some(waiting) = self.joins.pop_front()
        {
            let Some(slot) = self.open(waiting.to) else { continue };
            self.join_now(slot, waiting.request, &waiting.patterns, waiting.recover, now);
            self.carry_out(slot, now);
            self.resume(slot, now);
        }
    }

    fn join_now(&mut self, slot: u32, request: u32, patterns: &[Pattern], recover: Option<Recover>, now: Now) {
        let epoch = self.inbox.epoch();
        let mut keys = recover.iter().flat_map(|recover| &recover.0);
        let mut join = Join {
            slot,
            is_admin: self.cold[slot].as_ref().is_some_and(is_admin),
            recovers: recover.is_some(),
            knows_store: keys.any(|(_, reached)| reached.epoch == Some(epoch)),
            standing: Standing {
                recovered: recover.as_ref().map(|_| Vec::new()),
                ..Standing::default()
            },
            keys: recover.map_or_else(HashMap::new, |recover| recover.0.into_iter().collect()),
        };
        let mut interned = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            self.join_pattern(&mut join, pattern, &mut interned, now);
        }
        self.recover_stateless(&mut join, now);
        let input = Input::Joined {
            request,
            patterns: interned,
            standing: join.standing,
        };
        self.handle(slot, input, now);
    }

    fn join_pattern(&mut self, join: &mut Join, pattern: &Pattern, interned: &mut Vec<Pattern>, now: Now) {
        let slot = join.slot;
        let held = self.table.held(slot).filter(|held| held.intersects(pattern));
        let held: Vec<Pattern> = held.cloned().collect();
        let (Inserted::Joined(node) | Inserted::First(node)) = self.table.insert(slot, pattern) else {
            return interned.push(pattern.clone());
        };
        interned.extend(self.table.pattern(node).cloned());
        let mut seen = mem::take(&mut self.seen);
        let (at, looked_at) = if held.iter().any(|held| held.covers(pattern)) {
            (self.inbox.join(pattern), 0)
        } else {
            self.inbox
                .join_and_view(pattern, now, &mut |view| seen.push(Seen::of(&view)))
        };
        if !at.settled(self.inbox.position()) {
            self.table.unsettle(slot, node, at);
        }
        self.joins_left = self.joins_left.saturating_sub(PATTERN_COST + looked_at);
        for seen in seen.drain(..) {
            if !held.iter().any(|held| held.matches(seen.channel.as_str())) {
                self.newly_covered(join, seen);
            }
        }
        // One wide join must not be paid for ever after.
        seen.shrink_to(NAMED_MAX);
        self.seen = seen;
    }

    fn newly_covered(&mut self, join: &mut Join, seen: Seen) {
        if auth::is_admin_only(seen.channel.as_str()) && !join.is_admin {
            return;
        }
        let key = join.keys.remove(&seen.channel);
        if !seen.has_history {
            if key.is_some() {
                join.tell_recovered(&seen.channel, false, true);
            }
            if seen.has_last {
                self.catch_up_with(join.slot, seen.channel, Need::Whole { latest: seen.latest });
            }
            return;
        }
        let epoch = self.inbox.epoch();
        // A client that comes back to the store has no key for what began since: that it gets from its beginning. Of
        // one that was never here nobody knows what the store before this one had for it.
        let reached = match key {
            Some(Reached { epoch: given, offset }) => (given == Some(epoch)).then_some(offset),
            None => join.knows_store.then_some(0),
        };
        let from = reached.filter(|offset| seen.covers(*offset));
        if join.recovers {
            self.stats.recovered.bump(from.is_some().into());
            self.stats.not_recovered.bump(from.is_none().into());
            join.tell_recovered(&seen.channel, from.is_some(), key.is_some());
        }
        let (offset, need) = match from {
            Some(offset) => (offset, (offset < seen.latest).then_some(Need::After(offset))),
            None if !seen.has_last => (seen.latest, None),
            // The last value is an event of the history like any other. Should the client be gone before it comes, it
            // is to be recovered, too.
            None if seen.floor < seen.latest => (seen.latest - 1, Some(Need::After(seen.latest - 1))),
            None => (seen.latest, Some(Need::LastOrAfter(seen.latest))),
        };
        join.tell_position(&seen.channel, Position { epoch, offset });
        if let Some(need) = need {
            self.catch_up_with(join.slot, seen.channel, need);
        }
    }

    // Channels that the client was in and of which nothing is kept: perhaps nothing was missed, either.
    fn recover_stateless(&mut self, join: &mut Join, now: Now) {
        for (channel, reached) in mem::take(&mut join.keys) {
            if auth::is_admin_only(channel.as_str()) && !join.is_admin {
                join.tell_recovered(&channel, false, true);
                continue;
            }
            let epoch = self.inbox.epoch();
            let (mut is_whole, mut floor) = (false, None);
            self.inbox.view(&channel, now, &mut |view| {
                floor = view.class.history.map(|_| view.floor);
                is_whole = floor.is_some() && reached.epoch == Some(epoch) && view.covers(reached.offset);
            });
            self.stats.recovered.bump(is_whole.into());
            self.stats.not_recovered.bump((!is_whole).into());
            join.tell_recovered(&channel, is_whole, true);
            // If it is not, then where what may come begins: a client must not put new offsets under the epoch it had.
            if let Some(floor) = floor {
                let offset = if is_whole { reached.offset } else { floor };
                join.tell_position(&channel, Position { epoch, offset });
            }
        }
    }

    fn catch_up_with(&mut self, slot: u32, channel: Channel, need: Need) {
        if let Some(cold) = &mut self.cold[slot] {
            cold.catch_up().join(channel, need);
            self.outgoing.note_catching_up(&mut self.hot[slot], true);
            self.stats.catch_ups.bump(1);
        }
    }

    /// What was joined is read behind what is queued by now: the answer to the `subscribe`.
    pub(super) fn schedule_catch_up(&mut self, slot: u32) {
        let hot = &mut self.hot[slot];
        if !hot.flags.has(Flags::CATCH_UP) {
            return;
        }
        if let Some(cold) = &mut self.cold[slot]
            && let Some(catch_up) = cold.catch_up_if_any()
            && catch_up.schedule(|| hot.outbox.take_sequence())
        {
            self.outgoing.mark_dirty(slot, hot);
        }
    }

    /// A connection gave patterns back: what no other of its patterns covers it does not catch up with any more.
    pub(super) fn leave_catch_up(&mut self, slot: u32, left: &[Pattern]) {
        if !self.hot[slot].flags.has(Flags::CATCH_UP) {
            return;
        }
        let held: Vec<&Pattern> = self.table.held(slot).collect();
        let matches =
            |patterns: &[&Pattern], channel: &Channel| patterns.iter().any(|pattern| pattern.matches(channel.as_str()));
        let left: Vec<&Pattern> = left.iter().collect();
        if let Some(catch_up) = self.cold[slot].as_mut().and_then(|cold| cold.catch_up_if_any()) {
            catch_up.retain(|channel| !matches(&left, channel) || matches(&held, channel));
        }
        self.shrink_catch_up(slot);
    }
}

impl Join {
    fn tell_position(&mut self, channel: &Channel, position: Position) {
        if self.standing.positions.len() < NAMED_MAX {
            self.standing.positions.push((channel.clone(), position));
        } else {
            self.standing.cut = true;
        }
    }

    // What was asked for is always answered, and it was bounded when it was asked.
    fn tell_recovered(&mut self, channel: &Channel, is_whole: bool, was_asked: bool) {
        let Some(recovered) = &mut self.standing.recovered else {
            return;
        };
        if was_asked || recovered.len() < NAMED_MAX {
            recovered.push((channel.clone(), is_whole));
        } else {
            self.standing.cut = true;
        }
    }
}
