//! What the answer to a subscribe request says of the channels that it newly covers: positions and recovery; and what the
//! client has to catch up with.
//!
//! Invariant: a channel is newly covered when no pattern that the connection held before matches it. Only newly covered
//! channels bring positions, last values and missed events, each once, even if patterns of the request overlap. A channel
//! that is for admins only brings nothing to other clients.

use hashbrown::{HashMap, HashSet};

use crate::auth;
use crate::hub::{ChannelView, Tombstone, stripe_of};
use crate::metrics::ShardMetrics;
use crate::shard::catch_up::Need;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::event::Epoch;
use tickgate_protocol::message::{Cursor, Position, Reached, Recover, Recovered, Resume, SubscribeOutcome};

/// The most channels in `positions`, and in `recovered` beside those that the client asked for.
const NAMED_MAX: usize = 1000;

/// What a channel looked like under its stripe's lock.
pub(super) struct Seen {
    channel: Channel,
    has_history: bool,
    is_kept: bool,
    has_last: bool,
    is_stale: bool,
    latest: u64,
    floor: u64,
    head: u64,
    // What the client has of it. `None`: nothing, as far as is known.
    reached: Option<u64>,
    // The version of the first event that the client has not; `None`: there is none.
    next: Option<u64>,
}

/// What a client has to read of a channel.
pub(super) struct Owed {
    pub(super) channel: Channel,
    pub(super) need: Need,
    /// No event of the history is missing before this version.
    pub(super) next: u64,
}

impl Seen {
    pub(super) const fn channel(&self) -> &Channel {
        &self.channel
    }

    const fn covers(&self, since: u64) -> bool {
        self.floor <= since && since <= self.head
    }
}

/// What a client has, as it says.
enum Knowledge {
    /// It comes for the first time.
    Nothing,
    /// Positions in channels that the request has not come to yet.
    Keys {
        keys: HashMap<Channel, Reached>,
        // One of them is of this store. So a channel without a position began while the client was away.
        knows_store: bool,
    },
    /// Everything up to a version.
    Cursor {
        // `None`: the cursor is not one of this store, or from its future.
        cursor: Option<Cursor>,
        // What the client has beyond it: of a stripe, and of channels.
        newest: Vec<(u8, u64)>,
        seen: HashMap<Channel, u64>,
    },
}

/// The answer to a subscribe request while it is collected.
pub(super) struct Outcome {
    epoch: Epoch,
    is_admin: bool,
    knowledge: Knowledge,
    // The hub's newest version when the request began.
    began_at: u64,
    answer: SubscribeOutcome,
    // The channels that the answer names; collected on first use.
    named: Option<HashSet<Channel>>,
}

impl Outcome {
    /// The answer to a request of which nothing has been carried out.
    pub(super) fn new(resume: Option<&Resume>, is_admin: bool, epoch: Epoch, began_at: u64) -> Self {
        let (knowledge, recovered) = match resume {
            None => (Knowledge::Nothing, None),
            Some(Resume::Keys(Recover(keys))) => {
                let keys: HashMap<_, _> = keys.iter().cloned().collect();
                let knows_store = keys.values().any(|reached| reached.epoch == Some(epoch));
                (Knowledge::Keys { keys, knows_store }, Some(Recovered::Each(Vec::new())))
            }
            Some(Resume::Cursor { cursor, newest, seen }) => {
                let is_ours = |cursor: &Cursor| cursor.epoch == epoch && cursor.version <= began_at;
                let cursor = cursor.filter(is_ours);
                let seen = seen.iter().cloned().collect();
                let newest = newest.clone();
                let knowledge = Knowledge::Cursor { cursor, newest, seen };
                (knowledge, Some(Recovered::Except(Vec::new())))
            }
        };
        let is_foreign = matches!(knowledge, Knowledge::Cursor { cursor: None, .. });
        Self {
            epoch,
            is_admin,
            knowledge,
            began_at,
            answer: SubscribeOutcome {
                recovered,
                // Channels that the client knew may have no name here.
                cut: is_foreign,
                began_at,
                ..SubscribeOutcome::default()
            },
            named: None,
        }
    }

    /// Whether the client may see channels for admins, as of the request's beginning.
    pub(super) const fn is_admin(&self) -> bool {
        self.is_admin
    }

    /// Whether the client asked for recovery.
    pub(super) const fn recovers(&self) -> bool {
        self.answer.recovered.is_some()
    }

    /// Whether the client returns with a cursor.
    pub(super) const fn has_cursor(&self) -> bool {
        matches!(self.knowledge, Knowledge::Cursor { .. })
    }

    /// What a client has beyond its cursor, of stripes; `None`: it does not return with a cursor.
    pub(super) fn newest(&self) -> Option<&[(u8, u64)]> {
        match &self.knowledge {
            Knowledge::Cursor { newest, .. } => Some(newest),
            Knowledge::Nothing | Knowledge::Keys { .. } => None,
        }
    }

    /// The hub's newest version when the request began.
    pub(super) const fn began_at(&self) -> u64 {
        self.began_at
    }

    fn unused(&self) -> Option<&HashMap<Channel, Reached>> {
        match &self.knowledge {
            Knowledge::Keys { keys, .. } => Some(keys),
            Knowledge::Nothing | Knowledge::Cursor { .. } => None,
        }
    }

    /// How many of the client's positions have not been used.
    pub(super) fn unused_keys(&self) -> usize {
        self.unused().map_or(0, HashMap::len)
    }

    /// The channels of the client's positions that have not been used.
    pub(super) fn unused_channels(&self) -> Vec<Channel> {
        self.unused().into_iter().flat_map(HashMap::keys).cloned().collect()
    }

    /// Looks at a channel under its stripe's lock.
    pub(super) fn see(&self, view: &ChannelView<'_>) -> Seen {
        let reached = self.reached(view.channel);
        Seen {
            channel: view.channel.clone(),
            has_history: view.class.history.is_some(),
            is_kept: view.is_kept,
            has_last: view.has_last,
            is_stale: view.is_stale,
            latest: view.latest,
            floor: view.floor,
            head: view.head,
            reached,
            next: reached.and_then(|reached| view.first_after(reached)),
        }
    }

    // Up to when the client has everything of a channel.
    fn reached(&self, channel: &Channel) -> Option<u64> {
        match &self.knowledge {
            Knowledge::Nothing => None,
            // A client that returns to this store has no key for a channel that began since, and gets it from its beginning.
            // For a client that was never here, it is unknown what an earlier store had.
            Knowledge::Keys { keys, knows_store } => match keys.get(channel) {
                Some(Reached { epoch, offset }) => (*epoch == Some(self.epoch)).then_some(*offset),
                None => knows_store.then_some(0),
            },
            Knowledge::Cursor { cursor, newest, seen } => {
                let mut beyond = seen.get(channel).copied().unwrap_or(0);
                if !newest.is_empty() {
                    let stripe = stripe_of(channel);
                    let newest = newest.iter().filter(|(of, _)| *of == stripe);
                    beyond = newest.map(|(_, version)| *version).fold(beyond, u64::max);
                }
                cursor.map(|cursor| cursor.version.max(beyond))
            }
        }
    }

    /// Notes a newly covered channel; returns what the client has to catch up with.
    pub(super) fn cover(&mut self, seen: Seen, metrics: &ShardMetrics) -> Option<Owed> {
        if auth::is_admin_only(seen.channel.as_str()) && !self.is_admin {
            return None;
        }
        if seen.is_stale {
            self.answer.stale.add(&seen.channel);
        }
        let (was_asked, owes_values) = match &mut self.knowledge {
            Knowledge::Nothing => (false, false),
            Knowledge::Keys { keys, .. } => (keys.remove(&seen.channel).is_some(), false),
            Knowledge::Cursor { cursor, .. } => (false, cursor.is_some_and(|cursor| cursor.owes_values)),
        };
        if !seen.has_history {
            if was_asked {
                self.tell_recovered(&seen.channel, false, true);
            }
            let since = self.began_at;
            return seen.has_last.then_some(Owed {
                channel: seen.channel,
                need: Need::Whole { since },
                next: 0,
            });
        }
        let from = seen.reached.filter(|offset| seen.covers(*offset));
        if self.recovers() {
            metrics.recovered.bump(from.is_some().into());
            metrics.not_recovered.bump(from.is_none().into());
            self.tell_recovered(&seen.channel, from.is_some(), was_asked);
        }
        let (offset, need) = match from {
            Some(offset) if seen.is_kept && offset < seen.latest => (offset, Some(Need::After(offset))),
            Some(offset) => {
                let is_owed = owes_values && seen.has_last;
                (offset, is_owed.then_some(Need::LastOrAfter(seen.latest)))
            }
            None if !seen.has_last => (seen.head, None),
            // The last value is an ordinary event of the history. The position is before it, so that it is recovered if
            // the client disconnects before it gets the value.
            None if seen.floor < seen.latest => (seen.latest - 1, Some(Need::LastAndAfter(seen.latest))),
            None => (seen.latest, Some(Need::LastOrAfter(seen.latest))),
        };
        if !self.has_cursor() {
            let epoch = self.epoch;
            self.tell_position(&seen.channel, Position { epoch, offset });
        }
        let next = seen.next.unwrap_or(offset + 1);
        need.map(|need| Owed {
            channel: seen.channel,
            need,
            next,
        })
    }

    /// Whether the answer has yet to name an evicted channel. `came_before`: it was evicted before the request came to it.
    pub(super) fn lacks(&mut self, evicted: &Tombstone, came_before: bool) -> bool {
        if self.has_cursor() {
            // What the request saw of a channel, and what came later, is owed; its loss would be told otherwise. But a channel
            // that began again behind the request was not seen: what was evicted of it before is missed.
            let lost = if came_before { evicted.latest } else { evicted.floor };
            if self.reached(&evicted.channel).is_none_or(|reached| lost <= reached) {
                return false;
            }
        }
        let channel = &evicted.channel;
        let is_hidden = auth::is_admin_only(channel.as_str()) && !self.is_admin;
        !is_hidden && !self.names(channel)
    }

    /// Notes a newly covered channel that was evicted before the request came to it. If the client returns, that is a gap,
    /// since it may not have got the channel to its end. A new client gets the position `offset`, from which this
    /// subscription can be recovered.
    pub(super) fn note_evicted(&mut self, channel: &Channel, offset: u64, metrics: &ShardMetrics) {
        if self.recovers() {
            metrics.not_recovered.bump(1);
            self.tell_recovered(channel, false, false);
        }
        if !self.has_cursor() {
            let epoch = self.epoch;
            self.tell_position(channel, Position { epoch, offset });
        }
    }

    /// Notes that the hub does not know all channels that were evicted.
    pub(super) const fn note_forgotten(&mut self) {
        self.answer.cut = true;
    }

    /// The answer, after the request has come to every channel: positions that were not used belong to channels without
    /// history.
    pub(super) fn finish(mut self, metrics: &ShardMetrics) -> SubscribeOutcome {
        if let Knowledge::Keys { keys, .. } = &mut self.knowledge {
            for (channel, _) in std::mem::take(keys) {
                metrics.not_recovered.bump(1);
                self.tell_recovered(&channel, false, true);
            }
        }
        self.answer
    }

    /// Pairs each pattern with the version up to which the client knows what was evicted. A new client knows everything
    /// from before its request. A client that returns knows what was evicted up to the newest of its positions that the
    /// pattern matches. If there is none, the newest of all its positions counts, since the client may have held the
    /// pattern without getting a position.
    pub(super) fn known_versions(&self, patterns: Vec<Pattern>, resume: Option<&Resume>) -> Vec<(Pattern, u64)> {
        if let Knowledge::Cursor { cursor, .. } = &self.knowledge {
            // To a client with the cursor of another store everything was reported anyway.
            let known = cursor.map_or(self.began_at, |cursor| cursor.version);
            return patterns.into_iter().map(|pattern| (pattern, known)).collect();
        }
        let recover = match resume {
            Some(Resume::Keys(recover)) => Some(recover),
            Some(Resume::Cursor { .. }) | None => None,
        };
        let is_ours = |reached: &Reached| reached.epoch == Some(self.epoch) && reached.offset <= self.began_at;
        // All positions count, including those of exact names, which have been used already.
        let keys = recover.into_iter().flat_map(|recover| &recover.0);
        let keys = keys.filter(|(_, reached)| is_ours(reached));
        let newest = keys.clone().map(|(_, reached)| reached.offset).max();
        let known = |pattern: &Pattern| {
            if !self.recovers() {
                return self.began_at;
            }
            let covered = keys.clone().filter(|(channel, _)| pattern.matches(channel));
            let covered = covered.map(|(_, reached)| reached.offset).max();
            covered.or(newest).unwrap_or(0)
        };
        let known: Vec<u64> = patterns.iter().map(known).collect();
        patterns.into_iter().zip(known).collect()
    }

    // Whether the answer names the channel. The set is built on first use, which is rare: only evicted channels need it.
    fn names(&mut self, channel: &Channel) -> bool {
        let answer = &self.answer;
        let named = self.named.get_or_insert_with(|| {
            let each = match &answer.recovered {
                Some(Recovered::Each(channels)) => &channels[..],
                Some(Recovered::Except(_)) | None => &[],
            };
            let except = match &answer.recovered {
                Some(Recovered::Except(channels)) => &channels[..],
                Some(Recovered::Each(_)) | None => &[],
            };
            let recovered = each.iter().map(|(channel, _)| channel).chain(except);
            let positions = answer.positions.iter().map(|(channel, _)| channel);
            recovered.chain(positions).cloned().collect::<HashSet<_>>()
        });
        named.contains(channel)
    }

    fn tell_position(&mut self, channel: &Channel, position: Position) {
        if self.answer.positions.len() < NAMED_MAX {
            self.answer.positions.push((channel.clone(), position));
        } else {
            self.answer.cut = true;
        }
    }

    // A channel that the client asked for is always answered; their number was bounded when the request was read.
    fn tell_recovered(&mut self, channel: &Channel, is_whole: bool, was_asked: bool) {
        let answer = &mut self.answer;
        match &mut answer.recovered {
            Some(Recovered::Each(channels)) if was_asked || channels.len() < NAMED_MAX => {
                channels.push((channel.clone(), is_whole));
            }
            Some(Recovered::Except(_)) if is_whole => {}
            Some(Recovered::Except(channels)) if channels.len() < NAMED_MAX => channels.push(channel.clone()),
            Some(Recovered::Each(_) | Recovered::Except(_)) => answer.cut = true,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_began_again_behind_the_request_is_named_if_something_was_evicted_before() {
        let epoch = Epoch(1);
        let lacks = |version, latest, floor, came_before| {
            let cursor = Cursor {
                epoch,
                holder: 0,
                version,
                owes_values: false,
            };
            let resume = Resume::Cursor {
                cursor: Some(cursor),
                newest: Vec::new(),
                seen: Vec::new(),
            };
            let channel = Channel::parse("grid.a.order").expect("valid");
            let evicted = Tombstone { channel, latest, floor };
            Outcome::new(Some(&resume), false, epoch, 100).lacks(&evicted, came_before)
        };
        // Evicted before the request came by: what counts is its newest event.
        assert!(lacks(5, 6, 0, true));
        assert!(!lacks(6, 6, 0, true));
        // Evicted later: the request saw it, or it began again behind the request.
        assert!(!lacks(5, 120, 5, false));
        assert!(lacks(5, 120, 6, false));
    }
}
