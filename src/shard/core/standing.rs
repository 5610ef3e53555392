//! Where a join puts its client in the channels that it newly covers: last values, positions, recovery.
//!
//! Invariant: a channel is newly covered when no pattern that the connection held before matches it; only such channels
//! bring positions, last values and missed events, each once, whatever patterns of the request overlap. What is for
//! admins only brings nothing to others.

use std::mem;

use hashbrown::HashSet;

use super::ShardCore;
use super::joins::Join;
use crate::auth;
use crate::hub::ChannelView;
use crate::shard::catch_up::Need;
use crate::shard::connection::{Cold, Flags};
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::event::Epoch;
use tickgate_protocol::message::{Position, Reached, Recover};

/// Channels named in `positions`, and as many in `recovered` beside those asked for.
const NAMED_MAX: usize = 1000;

/// What was seen of a channel under its stripe's lock.
pub(super) struct Seen {
    channel: Channel,
    has_history: bool,
    is_kept: bool,
    has_last: bool,
    latest: u64,
    floor: u64,
    head: u64,
}

impl Seen {
    pub(super) fn of(view: &ChannelView<'_>) -> Self {
        Self {
            channel: view.channel.clone(),
            has_history: view.class.history.is_some(),
            is_kept: view.is_kept,
            has_last: view.has_last,
            latest: view.latest,
            floor: view.floor,
            head: view.head,
        }
    }

    pub(super) const fn channel(&self) -> &Channel {
        &self.channel
    }

    const fn covers(&self, since: u64) -> bool {
        self.floor <= since && since <= self.head
    }
}

impl ShardCore {
    pub(super) fn newly_covered(&mut self, join: &mut Join, seen: Seen) {
        if auth::is_admin_only(seen.channel.as_str()) && !join.is_admin {
            return;
        }
        let key = join.keys.remove(&seen.channel);
        if !seen.has_history {
            if key.is_some() {
                join.tell_recovered(&seen.channel, false, true);
            }
            if seen.has_last {
                self.catch_up_with(join, seen.channel, Need::Whole { latest: seen.latest });
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
            Some(offset) => {
                let has_more = seen.is_kept && offset < seen.latest;
                (offset, has_more.then_some(Need::After(offset)))
            }
            None if !seen.has_last => (seen.head, None),
            // The last value is an event of the history like any other. Should the client be gone before it comes, it
            // is to be recovered, too.
            None if seen.floor < seen.latest => (seen.latest - 1, Some(Need::After(seen.latest - 1))),
            None => (seen.latest, Some(Need::LastOrAfter(seen.latest))),
        };
        join.tell_position(&seen.channel, Position { epoch, offset });
        if let Some(need) = need {
            self.catch_up_with(join, seen.channel, need);
        }
    }

    /// A channel was evicted, and nothing says that the client had it to its end. When it comes back, that is a gap; if it
    /// is new, it gets a position from which this join is not to be missed.
    pub(super) fn was_evicted(&self, join: &mut Join, channel: Channel) {
        let is_hidden = auth::is_admin_only(channel.as_str()) && !join.is_admin;
        if is_hidden || join.covered_before(&channel) || join.has_told_of(&channel) {
            return;
        }
        if join.recovers {
            self.stats.not_recovered.bump(1);
            join.tell_recovered(&channel, false, false);
        }
        let position = Position {
            epoch: self.inbox.epoch(),
            offset: join.scan.version_at(&channel),
        };
        join.tell_position(&channel, position);
    }

    /// The join has come to everything: what is left of the client's positions is of channels that have no history.
    pub(super) fn tell_unknown(&mut self, join: &mut Join) {
        for (channel, _) in mem::take(&mut join.keys) {
            self.stats.not_recovered.bump(1);
            join.tell_recovered(&channel, false, true);
        }
    }

    fn catch_up_with(&mut self, join: &Join, channel: Channel, need: Need) {
        let slot = join.slot;
        if let Some(cold) = &mut self.cold[slot] {
            let catch_up = cold.catch_up();
            catch_up.join(channel, need);
            catch_up.joined_at = join.began_at;
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
            && catch_up.schedule(self.progress, |count| hot.outbox.take_sequences(count))
        {
            self.outgoing.mark_dirty(slot, hot);
        }
    }

    /// A connection gave patterns back: what no other of its patterns covers it does not catch up with any more.
    pub(super) fn leave_catch_up(&mut self, slot: u32) {
        if !self.hot[slot].flags.has(Flags::CATCH_UP) {
            return;
        }
        let held: Box<[Pattern]> = self.table.held(slot).cloned().collect();
        if held.is_empty() {
            return self.bury_catch_up(slot);
        }
        if let Some(catch_up) = self.cold[slot].as_mut().and_then(Cold::catch_up_if_any) {
            catch_up.leave(held);
        }
    }

    /// Forgets what a connection had left, as far as it goes in one share of a turn; whether it is through.
    pub(super) fn sweep_catch_up(&mut self, slot: u32) -> bool {
        let share = self.joins.first_share();
        let Some(catch_up) = self.cold[slot].as_mut().and_then(Cold::catch_up_if_any) else {
            return true;
        };
        let (steps, is_through) = catch_up.sweep(share);
        self.joins.spend(steps);
        self.shrink_catch_up(slot);
        is_through
    }

    /// A connection catches up with nothing any more.
    pub(super) fn bury_catch_up(&mut self, slot: u32) {
        self.outgoing.note_catching_up(&mut self.hot[slot], false);
        let extra = self.cold[slot].as_mut().and_then(|cold| cold.extra.as_mut());
        if let Some(catch_up) = extra.and_then(|extra| extra.catch_up.take()) {
            self.joins.bury(catch_up);
        }
        if let Some(cold) = &mut self.cold[slot] {
            cold.shrink();
        }
    }
}

impl Join {
    /// Its patterns, each with the number up to which the client knows what was evicted: that of the newest of its
    /// positions that the pattern covers or, if there is none, of all. (A pattern that it held without having any is not
    /// to be taken for one that is new.) A newcomer knows what was before it.
    pub(super) fn known(&self, patterns: Vec<Pattern>, epoch: Epoch, recover: Option<&Recover>) -> Vec<(Pattern, u64)> {
        let is_ours = |reached: &Reached| reached.epoch == Some(epoch) && reached.offset <= self.began_at;
        // All that were asked for: those of exact names among the patterns are answered already, but say as much.
        let keys = recover.into_iter().flat_map(|recover| &recover.0);
        let keys = keys.filter(|(_, reached)| is_ours(reached));
        let newest = keys.clone().map(|(_, reached)| reached.offset).max();
        let known = |pattern: &Pattern| {
            if !self.recovers {
                return self.began_at;
            }
            let covered = keys.clone().filter(|(channel, _)| pattern.matches(channel.as_str()));
            let covered = covered.map(|(_, reached)| reached.offset).max();
            covered.or(newest).unwrap_or(0)
        };
        let known: Vec<u64> = patterns.iter().map(known).collect();
        patterns.into_iter().zip(known).collect()
    }

    // Whether the answer names the channel. Asked of what was evicted only, so hardly ever.
    fn has_told_of(&mut self, channel: &Channel) -> bool {
        let standing = &self.standing;
        let told = self.told.get_or_insert_with(|| {
            let recovered = standing.recovered.iter().flatten().map(|(channel, _)| channel);
            let positions = standing.positions.iter().map(|(channel, _)| channel);
            recovered.chain(positions).cloned().collect::<HashSet<_>>()
        });
        told.contains(channel)
    }

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
