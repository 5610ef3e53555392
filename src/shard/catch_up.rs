//! What a connection still needs of channels whose state the hub keeps: `channel -> since`, read as its socket drains.
//!
//! One mechanism for three things: the last value or the missed history of a channel that was just joined, a replay of
//! any length, and the newest value of a channel whose events did not fit into a full outbox.
//!
//! Invariants:
//! * While a channel is in here its live events are not queued; they are in the hub, or the client is told.
//! * What was queued of it before and will be read is passed over when its turn in the outbox comes, but for a partly
//!   sent frame; what will not, of an earlier subscription, is sent. So nothing of it is queued when it is read, and no
//!   search through the queue is needed, ever.
//! * A channel has its place among the queued frames (`due`), as a frame would have had; every further page of it
//!   queues up anew behind what is queued by then. So neither a replay nor the live events starve the other.
//! * While a join is under way nothing of the channels that it newly covers is queued, and nothing of them has a place
//!   yet: they get their places when the join has its answer, which is queued before them. What is published of them
//!   meanwhile is owed, and becomes an entry like any other.
//! * The read that finds no more says from which inbox position on live events are new. Until the inbox is there the
//!   channel stays, to hold back those that were read already: none is missed, none comes twice.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::outbox::precedes;
use crate::channel::{Channel, Pattern};
use crate::event::Event;

/// What is needed of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The newest event; of merged records those that changed after this version.
    Newest {
        /// What the client has; 0: nothing, it is a newcomer.
        above: u64,
    },
    /// The whole value, for a newcomer.
    Whole {
        /// Its version at the join.
        latest: u64,
    },
    /// Every event after this offset.
    After(u64),
    /// Every event after this offset, which is the newest's and kept as the channel's value only; that one, if there
    /// are none.
    LastOrAfter(u64),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// To be read.
    Reading {
        need: Need,
        /// Events that the client would have got: told as dropped if they are gone before they are read.
        withheld: u32,
        /// It came by a join, and not because an event did not fit.
        is_joined: bool,
    },
    /// Read to the end; live events are new from this inbox index on.
    Settling { at: u64 },
}

/// How far the shard had come with its inbox. What has a lower version, and what was evicted before this many evictions,
/// is not in the inbox any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) version: u64,
    pub(super) evictions: u64,
}

#[derive(Debug)]
struct Turn {
    channel: Channel,
    due: u32,
    // When it got this place.
    progress: Progress,
}

/// The channels that one connection catches up with.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    channels: HashMap<Channel, State>,
    // In the order of `due`.
    turns: VecDeque<Turn>,
    // Joined, and waiting for the answer to be queued before them.
    unscheduled: Vec<Channel>,
    /// The newest version when the join that they are of began.
    pub(super) joined_at: u64,
    // While a join is under way: the patterns that were held before it, as far as they concern it.
    held_before: Option<Box<[Pattern]>>,
    /// It waits in the shard's list for the next turn.
    pub(super) is_listed: bool,
    /// In which turn of the shard it read last.
    pub(super) read_in_turn: u32,
}

/// A channel whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) channel: Channel,
    pub(super) need: Need,
    /// Events that were not queued because of it.
    pub(super) withheld: u32,
    /// Its place among the queued frames, and how far the shard was when it got it.
    pub(super) place: u32,
    pub(super) progress: Progress,
}

impl CatchUp {
    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.held_before.is_none()
    }

    #[cfg(test)]
    /// How many channels are caught up with.
    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }

    /// Takes in a channel that was just joined. It is read once [`CatchUp::schedule`] gave it a place.
    pub(super) fn join(&mut self, channel: Channel, need: Need) {
        let state = State::Reading {
            need,
            withheld: 0,
            is_joined: true,
        };
        if self.channels.insert(channel.clone(), state).is_some() {
            // Set aside after it had been left, for what was still queued of it. Its turn then is not the answer's.
            self.turns.retain(|turn| turn.channel != channel);
        }
        self.unscheduled.push(channel);
    }

    /// A join is not carried out at once: nothing of the channels that it newly covers is queued before
    /// [`CatchUp::end_join`], and nothing has a place. `held`: the patterns held before it.
    pub(super) fn begin_join(&mut self, held: Box<[Pattern]>) {
        self.held_before = Some(held);
    }

    /// The join is carried out, or given up.
    pub(super) fn end_join(&mut self) {
        self.held_before = None;
    }

    /// Whether a join is under way.
    pub(super) fn is_in_join(&self) -> bool {
        self.held_before.is_some()
    }

    /// Whether a channel, covered by some pattern held or being joined, is one that the join under way newly covers.
    pub(super) fn is_joining(&self, channel: &Channel) -> bool {
        let held = self.held_before.as_ref();
        held.is_some_and(|held| !held.iter().any(|pattern| pattern.matches(channel.as_str())))
    }

    /// An event of a channel that [is being joined](CatchUp::is_joining) was published behind what the join saw of it:
    /// it is read when the join has its answer. Of a channel of which nothing is kept the subscription begins with that
    /// answer, and nothing is owed before. Whether the channel is caught up with because of it.
    pub(super) fn owe(&mut self, event: &Event) -> bool {
        if let Some(State::Reading {
            withheld,
            is_joined: true,
            ..
        }) = self.channels.get_mut(&event.channel)
        {
            *withheld = withheld.saturating_add(1);
            return false;
        }
        let above = before(event.version);
        let need = match &event.class {
            class if class.history.is_some() => Need::After(above),
            class if class.cache_last => Need::Newest { above },
            _ => return false,
        };
        self.join(event.channel.clone(), need);
        if let Some(State::Reading { withheld, .. }) = self.channels.get_mut(&event.channel) {
            *withheld = 1;
        }
        true
    }

    /// Gives each channel that was joined a place of its own among the queued frames; whether there was any. Not while
    /// the join is under way.
    pub(super) fn schedule(&mut self, progress: Progress, mut next_place: impl FnMut() -> u32) -> bool {
        if self.is_in_join() {
            return false;
        }
        // Taken whole: a crowd that has just joined would keep the memory until it has caught up.
        let unscheduled = std::mem::take(&mut self.unscheduled);
        // What was there when the join began is not owed by the inbox.
        let progress = Progress {
            version: progress.version.max(self.joined_at),
            ..progress
        };
        let turns = unscheduled.into_iter().map(|channel| Turn {
            channel,
            due: next_place(),
            progress,
        });
        let before = self.turns.len();
        self.turns.extend(turns);
        self.turns.len() > before
    }

    /// An event of this version does not fit into the outbox: the channel's newest is read at `due`. `false`: it is to
    /// be read anyway.
    pub(super) fn set_aside(&mut self, channel: &Channel, version: u64, due: u32) -> bool {
        if self.is_joining(channel) {
            // It was left, and nothing of it is owed until it is joined.
            return false;
        }
        let need = Need::Newest { above: before(version) };
        let state = State::Reading {
            need,
            withheld: 1,
            is_joined: false,
        };
        match self.channels.entry(channel.clone()) {
            Entry::Occupied(mut known) => match known.get_mut() {
                State::Reading { withheld, .. } => {
                    *withheld = withheld.saturating_add(1);
                    return false;
                }
                settling @ State::Settling { .. } => *settling = state,
            },
            Entry::Vacant(vacant) => drop(vacant.insert(state)),
        }
        self.turns.push_back(Turn {
            channel: channel.clone(),
            due,
            // Of a channel without offsets: how far they go does not matter.
            progress: Progress::default(),
        });
        true
    }

    /// Whether a live event of the channel, popped at `index`, must not be queued.
    pub(super) fn withholds(&mut self, channel: &Channel, index: u64) -> bool {
        match self.channels.get_mut(channel) {
            None => false,
            Some(State::Reading { withheld, .. }) => {
                *withheld = withheld.saturating_add(1);
                true
            }
            Some(State::Settling { at }) if index < *at => true,
            Some(State::Settling { .. }) => {
                self.channels.remove(channel);
                false
            }
        }
    }

    /// A queued frame of the channel, of this version, is at its turn: whether it is passed over, to be read instead.
    pub(super) fn passes_over(&mut self, channel: &Channel, version: u64) -> bool {
        match self.channels.get_mut(channel) {
            Some(State::Reading { need, withheld, .. }) => {
                match need {
                    // What the client has is what came before the first that it did not get.
                    Need::Newest { above } => *above = before(version).min(*above),
                    // Queued before the channel was left and joined again: a read after this one does not give it. The
                    // last value may come twice, as it would if it had been sent sooner.
                    Need::Whole { latest: read } | Need::After(read) | Need::LastOrAfter(read) if version <= *read => {
                        return false;
                    }
                    Need::Whole { .. } | Need::After(_) | Need::LastOrAfter(_) => {}
                }
                *withheld = withheld.saturating_add(1);
                true
            }
            _ => false,
        }
    }

    /// Where among the queued frames the next channel has its place.
    pub(super) fn next_due(&self) -> Option<u32> {
        self.turns.front().map(|turn| turn.due)
    }

    /// Whether the next channel's place has come: the first queued frame is at `head`, or there is none.
    pub(super) fn is_due(&self, head: Option<u32>) -> bool {
        self.next_due()
            .is_some_and(|due| head.is_none_or(|head| !precedes(head, due)))
    }

    /// The next channel, if its place has come.
    pub(super) fn take_due(&mut self, head: Option<u32>) -> Option<Due> {
        while self.is_due(head) {
            let Turn { channel, due, progress } = self.turns.pop_front()?;
            if let Some(State::Reading { need, withheld, .. }) = self.channels.get(&channel) {
                let (need, withheld) = (*need, *withheld);
                return Some(Due {
                    channel,
                    need,
                    withheld,
                    place: due,
                    progress,
                });
            }
        }
        None
    }

    /// A page was read, and `need` is left; `now`: how far the shard is by now.
    pub(super) fn go_on(&mut self, read: Due, left: Need, due: u32, now: Progress) {
        if let Some(State::Reading { need, .. }) = self.channels.get_mut(&read.channel) {
            *need = left;
            let progress = Progress {
                version: now.version.max(read.progress.version),
                ..now
            };
            let channel = read.channel;
            self.turns.push_back(Turn { channel, due, progress });
        }
    }

    /// The last page was read while the inbox ended at `at`; its next event is `position`. Whether the channel has to
    /// be settled later ([`CatchUp::settle`]).
    pub(super) fn finish(&mut self, channel: &Channel, at: u64, position: u64) -> bool {
        if at <= position {
            self.channels.remove(channel);
            return false;
        }
        if let Some(state) = self.channels.get_mut(channel) {
            *state = State::Settling { at };
        }
        true
    }

    /// The inbox is at `position`: forgets the channel if that is where its live events are new.
    pub(super) fn settle(&mut self, channel: &Channel, position: u64) {
        if let Some(State::Settling { at }) = self.channels.get(channel)
            && *at <= position
        {
            self.channels.remove(channel);
        }
    }

    /// Forgets a channel: nothing of it is owed any more.
    pub(super) fn forget(&mut self, channel: &Channel) {
        self.channels.remove(channel);
    }

    /// Forgets the channels that are not to be kept.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Channel) -> bool) {
        let before = self.channels.len();
        self.channels.retain(|channel, _| keep(channel));
        if self.channels.len() < before {
            // So that one that comes back is not read at its old turn.
            let channels = &self.channels;
            self.turns.retain(|turn| channels.contains_key(&turn.channel));
            self.unscheduled.retain(|channel| channels.contains_key(channel));
        }
    }
}

// What a client has that got everything before the event of this version: nothing, if that is the first of all.
fn before(version: u64) -> u64 {
    version.saturating_sub(1)
}

#[cfg(test)]
mod tests;
