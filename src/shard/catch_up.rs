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
//! * Nothing here is done for all channels at once, of which there may be as many as the hub keeps: those of a join share
//!   one turn, what a pattern leaves behind that is given back is told by the patterns that are left, and [swept
//!   out](CatchUp::sweep) in shares before the next join could cover it again, and the whole is [given back](DeferredDrop) in
//!   shares, too.

mod leaving;

use std::collections::VecDeque;
use std::{mem, vec};

use hashbrown::HashMap;

use super::outbox::precedes;
use crate::event::Event;
use tickgate_protocol::channel::{Channel, Pattern};

pub(super) use leaving::DeferredDrop;
use leaving::LeftOver;

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
        /// The number of the turn that it waits for; an older one that names it still is not its own.
        turn: u32,
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

/// One channel, or those of a join, each with a place of its own: one behind the other.
#[derive(Debug)]
struct Turn {
    names: Names,
    number: u32,
    // The place of the first that is left.
    due: u32,
    // When it got this place.
    progress: Progress,
}

#[derive(Debug)]
enum Names {
    One(Option<Channel>),
    Many(vec::IntoIter<Channel>),
}

impl Names {
    fn is_empty(&self) -> bool {
        match self {
            Self::One(name) => name.is_none(),
            Self::Many(names) => names.as_slice().is_empty(),
        }
    }
}

impl Iterator for Names {
    type Item = Channel;

    fn next(&mut self) -> Option<Channel> {
        match self {
            Self::One(name) => name.take(),
            Self::Many(names) => names.next(),
        }
    }
}

/// The channels that one connection catches up with.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    channels: HashMap<Channel, State>,
    // In the order of `due`, none of them empty.
    turns: VecDeque<Turn>,
    // The highest number of one.
    last_turn: u32,
    // Joined, and waiting for the answer to be queued before them; the number of the turn that will be.
    unscheduled: Vec<Channel>,
    unscheduled_turn: u32,
    // Patterns were given back: of what is in here only what those match that are left is owed.
    left_over: Option<LeftOver>,
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
        self.join_owing(channel, need, 0);
    }

    // It may be there already, set aside after it had been left, for what was still queued of it: its turn then is not
    // the answer's, and passes it by.
    fn join_owing(&mut self, channel: Channel, need: Need, withheld: u32) {
        let turn = self.unscheduled_turn;
        let state = State::Reading { need, withheld, turn };
        self.channels.insert(channel.clone(), state);
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
        if let Some(State::Reading { withheld, turn, .. }) = self.channels.get_mut(&event.channel)
            && *turn == self.unscheduled_turn
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
        self.join_owing(event.channel.clone(), need, 1);
        true
    }

    /// Gives each channel that was joined a place of its own among the queued frames, of as many as `take_places` is
    /// asked for; whether there was any. Not while the join is under way.
    pub(super) fn schedule(&mut self, progress: Progress, take_places: impl FnOnce(u32) -> u32) -> bool {
        if self.is_in_join() || self.unscheduled.is_empty() {
            return false;
        }
        // Taken whole: a crowd that has just joined would keep the memory until it has caught up.
        let unscheduled = mem::take(&mut self.unscheduled);
        let due = take_places(u32::try_from(unscheduled.len()).unwrap_or(u32::MAX));
        // What was there when the join began is not owed by the inbox.
        let progress = Progress {
            version: progress.version.max(self.joined_at),
            ..progress
        };
        self.turns.push_back(Turn {
            names: Names::Many(unscheduled.into_iter()),
            number: self.unscheduled_turn,
            due,
            progress,
        });
        self.unscheduled_turn = self.next_turn();
        true
    }

    fn next_turn(&mut self) -> u32 {
        self.last_turn = self.last_turn.wrapping_add(1);
        self.last_turn
    }

    // A turn for one channel; its number.
    fn push_turn(&mut self, channel: &Channel, due: u32, progress: Progress) -> u32 {
        let number = self.next_turn();
        let names = Names::One(Some(channel.clone()));
        self.turns.push_back(Turn {
            names,
            number,
            due,
            progress,
        });
        number
    }

    /// An event of this version does not fit into the outbox: the channel's newest is read at `due`. `false`: it is to
    /// be read anyway.
    pub(super) fn set_aside(&mut self, channel: &Channel, version: u64, due: u32) -> bool {
        if self.is_joining(channel) {
            // It was left, and nothing of it is owed until it is joined.
            return false;
        }
        if let Some(State::Reading { withheld, .. }) = self.channels.get_mut(channel) {
            *withheld = withheld.saturating_add(1);
            return false;
        }
        // Of a channel without offsets: how far they go does not matter.
        let turn = self.push_turn(channel, due, Progress::default());
        let state = State::Reading {
            need: Need::Newest { above: before(version) },
            withheld: 1,
            turn,
        };
        self.channels.insert(channel.clone(), state);
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
            // It was left, so it will not be read.
            Some(_) if self.left_over.as_ref().is_some_and(|left| !left.includes(channel)) => false,
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
        let swept = self.left_over.as_ref().and_then(|left| left.swept.front());
        swept.or(self.turns.front()).map(|turn| turn.due)
    }

    /// Whether the next channel's place has come: the first queued frame is at `head`, or there is none.
    pub(super) fn is_due(&self, head: Option<u32>) -> bool {
        self.next_due()
            .is_some_and(|due| head.is_none_or(|head| !precedes(head, due)))
    }

    /// The next channel, if its place has come. None while what was left is swept out.
    pub(super) fn take_due(&mut self, head: Option<u32>) -> Option<Due> {
        if self.left_over.as_ref().is_some_and(LeftOver::is_under_way) {
            return None;
        }
        while self.is_due(head) {
            let next = self.turns.front_mut()?;
            let (channel, number, place, progress) = (next.names.next()?, next.number, next.due, next.progress);
            next.due = place.wrapping_add(1);
            if next.names.is_empty() {
                self.turns.pop_front();
            }
            if let Some(State::Reading { need, withheld, turn }) = self.channels.get(&channel)
                && *turn == number
            {
                return Some(Due {
                    need: *need,
                    withheld: *withheld,
                    channel,
                    place,
                    progress,
                });
            }
        }
        None
    }

    /// A page was read, and `need` is left; `now`: how far the shard is by now.
    pub(super) fn go_on(&mut self, read: Due, left: Need, due: u32, now: Progress) {
        let progress = Progress {
            version: now.version.max(read.progress.version),
            ..now
        };
        let number = self.push_turn(&read.channel, due, progress);
        if let Some(State::Reading { need, turn, .. }) = self.channels.get_mut(&read.channel) {
            (*need, *turn) = (left, number);
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
}

// What a client has that got everything before the event of this version: nothing, if that is the first of all.
fn before(version: u64) -> u64 {
    version.saturating_sub(1)
}

#[cfg(test)]
mod tests;
