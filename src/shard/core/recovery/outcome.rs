//! What the answer to a subscribe request says of the channels that it newly covers: positions and recovery; and what the
//! client has to catch up with.
//!
//! Invariant: a channel is newly covered when no pattern that the connection held before matches it. Only newly covered
//! channels bring positions, last values and missed events, each once, even if patterns of the request overlap. A channel
//! that is for admins only brings nothing to other clients.

use hashbrown::{HashMap, HashSet};

use crate::auth;
use crate::hub::ChannelView;
use crate::metrics::ShardMetrics;
use crate::shard::catch_up::Need;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::event::Epoch;
use tickgate_protocol::message::{Position, Reached, Recover, SubscribeOutcome};

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
}

impl Seen {
    pub(super) fn of(view: &ChannelView<'_>) -> Self {
        Self {
            channel: view.channel.clone(),
            has_history: view.class.history.is_some(),
            is_kept: view.is_kept,
            has_last: view.has_last,
            is_stale: view.is_stale,
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

/// The answer to a subscribe request while it is collected.
pub(super) struct Outcome {
    epoch: Epoch,
    is_admin: bool,
    // The client asked for recovery.
    recovers: bool,
    // The client has a position of this store. So a channel for which it has none began while it was away.
    knows_store: bool,
    // The client's positions in channels that the request has not come to yet.
    keys: HashMap<Channel, Reached>,
    // The hub's newest version when the request began.
    began_at: u64,
    answer: SubscribeOutcome,
    // The channels that the answer names; collected on first use.
    named: Option<HashSet<Channel>>,
}

impl Outcome {
    /// The answer to a request of which nothing has been carried out.
    pub(super) fn new(recover: Option<&Recover>, is_admin: bool, epoch: Epoch, began_at: u64) -> Self {
        let keys: HashMap<_, _> = recover.iter().flat_map(|recover| &recover.0).cloned().collect();
        Self {
            epoch,
            is_admin,
            recovers: recover.is_some(),
            knows_store: keys.values().any(|reached| reached.epoch == Some(epoch)),
            keys,
            began_at,
            answer: SubscribeOutcome {
                recovered: recover.map(|_| Vec::new()),
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
        self.recovers
    }

    /// The hub's newest version when the request began.
    pub(super) const fn began_at(&self) -> u64 {
        self.began_at
    }

    /// How many of the client's positions have not been used.
    pub(super) fn unused_keys(&self) -> usize {
        self.keys.len()
    }

    /// The channels of the client's positions that have not been used.
    pub(super) fn unused_channels(&self) -> Vec<Channel> {
        self.keys.keys().cloned().collect()
    }

    /// Notes a newly covered channel; returns what the client has to catch up with.
    pub(super) fn cover(&mut self, seen: Seen, metrics: &ShardMetrics) -> Option<(Channel, Need)> {
        if auth::is_admin_only(seen.channel.as_str()) && !self.is_admin {
            return None;
        }
        if seen.is_stale {
            self.answer.stale.add(&seen.channel);
        }
        let key = self.keys.remove(&seen.channel);
        if !seen.has_history {
            if key.is_some() {
                self.tell_recovered(&seen.channel, false, true);
            }
            let since = self.began_at;
            return seen.has_last.then_some((seen.channel, Need::Whole { since }));
        }
        // A client that returns to this store has no key for a channel that began since, and gets it from its beginning.
        // For a client that was never here, it is unknown what an earlier store had.
        let reached = match key {
            Some(Reached { epoch, offset }) => (epoch == Some(self.epoch)).then_some(offset),
            None => self.knows_store.then_some(0),
        };
        let from = reached.filter(|offset| seen.covers(*offset));
        if self.recovers {
            metrics.recovered.bump(from.is_some().into());
            metrics.not_recovered.bump(from.is_none().into());
            self.tell_recovered(&seen.channel, from.is_some(), key.is_some());
        }
        let (offset, need) = match from {
            Some(offset) => {
                let has_more = seen.is_kept && offset < seen.latest;
                (offset, has_more.then_some(Need::After(offset)))
            }
            None if !seen.has_last => (seen.head, None),
            // The last value is an ordinary event of the history. The position is before it, so that it is recovered if
            // the client disconnects before it gets the value.
            None if seen.floor < seen.latest => (seen.latest - 1, Some(Need::LastAndAfter(seen.latest))),
            None => (seen.latest, Some(Need::LastOrAfter(seen.latest))),
        };
        let epoch = self.epoch;
        self.tell_position(&seen.channel, Position { epoch, offset });
        need.map(|need| (seen.channel, need))
    }

    /// Whether the answer says nothing yet of an evicted channel that the client may see.
    pub(super) fn lacks(&mut self, channel: &Channel) -> bool {
        let is_hidden = auth::is_admin_only(channel.as_str()) && !self.is_admin;
        !is_hidden && !self.names(channel)
    }

    /// Notes a newly covered channel that was evicted before the request came to it. If the client returns, that is a gap,
    /// since it may not have got the channel to its end. A new client gets the position `offset`, from which this
    /// subscription can be recovered.
    pub(super) fn note_evicted(&mut self, channel: &Channel, offset: u64, metrics: &ShardMetrics) {
        if self.recovers {
            metrics.not_recovered.bump(1);
            self.tell_recovered(channel, false, false);
        }
        let epoch = self.epoch;
        self.tell_position(channel, Position { epoch, offset });
    }

    /// Notes that the hub does not know all channels that were evicted.
    pub(super) const fn note_forgotten(&mut self) {
        self.answer.cut = true;
    }

    /// The answer, after the request has come to every channel: positions that were not used belong to channels without
    /// history.
    pub(super) fn finish(mut self, metrics: &ShardMetrics) -> SubscribeOutcome {
        for (channel, _) in std::mem::take(&mut self.keys) {
            metrics.not_recovered.bump(1);
            self.tell_recovered(&channel, false, true);
        }
        self.answer
    }

    /// Pairs each pattern with the version up to which the client knows what was evicted. A new client knows everything
    /// from before its request. A client that returns knows what was evicted up to the newest of its positions that the
    /// pattern matches. If there is none, the newest of all its positions counts, since the client may have held the
    /// pattern without getting a position.
    pub(super) fn known_versions(&self, patterns: Vec<Pattern>, recover: Option<&Recover>) -> Vec<(Pattern, u64)> {
        let is_ours = |reached: &Reached| reached.epoch == Some(self.epoch) && reached.offset <= self.began_at;
        // All positions count, including those of exact names, which have been used already.
        let keys = recover.into_iter().flat_map(|recover| &recover.0);
        let keys = keys.filter(|(_, reached)| is_ours(reached));
        let newest = keys.clone().map(|(_, reached)| reached.offset).max();
        let known = |pattern: &Pattern| {
            if !self.recovers {
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
            let recovered = answer.recovered.iter().flatten().map(|(channel, _)| channel);
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
        let Some(recovered) = &mut self.answer.recovered else {
            return;
        };
        if was_asked || recovered.len() < NAMED_MAX {
            recovered.push((channel.clone(), is_whole));
        } else {
            self.answer.cut = true;
        }
    }
}
