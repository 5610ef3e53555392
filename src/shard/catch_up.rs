//! The channels that one connection reads from the hub, as its socket drains, instead of getting their events live.
//!
//! One mechanism serves three purposes: the last value or the missed history of a channel that was just subscribed, a
//! replay of any length, and the newest value of a channel whose events did not fit into a full outbox.
//!
//! Invariants:
//! * A channel without history is only a member of a set ([`Values`]); a channel with history is an entry. Below, both
//!   are meant.
//! * While a channel is in here, its live events are not queued. They are read from the hub, or the client is told of the
//!   loss.
//! * Events of the channel that were queued earlier are removed when they reach the head of the outbox if the read will
//!   give them again (except for a partly sent frame). Events of an earlier subscription, which the read will not give,
//!   are sent. So no event of the channel is queued when it is read, and no search through the queue is needed.
//! * A channel has a position among the queued frames (`due`), as a frame would have. The channels of a replay share one.
//!   Each further page gets a new position behind everything queued by then. So neither a replay nor the live events starve
//!   the other.
//! * A replay comes in the order of versions over all its channels. So the next version of its first channel says how far it
//!   is ([`CatchUp::has_up_to`]), and a connection that breaks off has made progress.
//! * While a subscribe request is under way, nothing of the channels that it newly covers is queued or has a position.
//!   They get their positions when the request has been answered, behind the answer. Events that are published meanwhile
//!   are owed: their channels become entries like any other.
//! * The read that finds no more events says from which inbox index on live events are new. Until the inbox has come to
//!   that index, the channel stays in here and holds back the events that were read already. So none is missed and none
//!   comes twice.
//! * No step touches all channels at once, since there may be as many as the hub keeps. The channels of one subscribe
//!   request share one batch. When patterns are given back, the remaining patterns tell which channels are still owed, and
//!   the others are [swept out](CatchUp::sweep) in steps before the next subscribe request could cover them again. The
//!   whole is [dropped](DeferredDrop) in steps, too.

mod batch;
mod counting;
mod later;
mod leaving;
mod replay;
mod told;
mod values;

use std::collections::VecDeque;
use std::mem;

use hashbrown::HashMap;

use super::frame::FramedEvent;
use super::numbers::Numbers;
use super::outbox::precedes;
use crate::event::Event;
use tickgate_protocol::channel::{Channel, Pattern};

use batch::{Batch, Names};
pub(super) use leaving::DeferredDrop;
use leaving::LeftOver;
use replay::Replay;
use values::Values;

/// What has to be read of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The newest event; of merged records, those that changed after this version.
    Newest {
        /// The version that the client has; 0: the client has nothing.
        above: u64,
    },
    /// The whole value, for a client that has nothing.
    Whole {
        /// The hub's newest version when the subscribe request began. A newer event is owed to the client.
        since: u64,
    },
    /// Every event after this offset.
    After(u64),
    /// Every event after this offset, or the event at this offset if there are none. That event is kept only as the
    /// channel's last value.
    LastOrAfter(u64),
    /// The event at this offset, which was the channel's last value when the client subscribed, and every event after it.
    LastAndAfter(u64),
}

impl Need {
    /// Whether the read of a history gives the event with this version.
    const fn gives(self, version: u64) -> bool {
        match self {
            Self::After(read) | Self::LastOrAfter(read) => version > read,
            Self::LastAndAfter(last) => version >= last,
            Self::Newest { .. } | Self::Whole { .. } => false,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The channel has to be read.
    Reading {
        need: Need,
        /// Live events that were not queued. The client is told of them as dropped if they cannot be read any more.
        withheld: u32,
        /// The batch that the channel waits in. An older batch may still name the channel; that entry is void.
        batch: u32,
    },
    /// The channel has been read to its end. Live events are new from this inbox index on.
    Settling { at: u64 },
}

/// How far the shard has come with its inbox: no event with a version up to `version` is in the inbox any more, nor is any
/// event whose channel was among the first `evictions` channels that were evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) version: u64,
    pub(super) evictions: u64,
    /// Every event up to this version was queued before.
    pub(super) head: u64,
}

/// The channels that one connection catches up with; see the module's docs.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    // Channels without history.
    values: Values,
    // Channels with history, and those that were read a moment ago.
    channels: HashMap<Channel, State>,
    // In the order of their positions. No batch is empty.
    batches: VecDeque<Batch>,
    // The highest batch number so far.
    last_batch: u32,
    // Channels with history that wait for the answer of their subscribe request, and the number of the batches that they
    // will be.
    unscheduled: Vec<Channel>,
    unscheduled_missed: Replay,
    unscheduled_batch: u32,
    // Patterns were given back since the last sweep: only channels that match the remaining patterns are owed.
    left_over: Option<LeftOver>,
    // The hub's newest version when the last subscribe request began.
    began_at: u64,
    // While a subscribe request is under way: the patterns that were held before it, as far as they concern it.
    held_before: Option<Box<[Pattern]>>,
    // The bytes for which the state was counted last, and the changes since.
    counted_bytes: usize,
    changes: usize,
    // The connection waits in the shard's list for the next turn.
    is_listed: bool,
    // The turn of the shard in which the connection read last.
    read_in_turn: u32,
    // The client returned with a cursor: the bytes that were read since it was told how far it is.
    untold_bytes: Option<usize>,
    // Where the inbox ended when the last page was read.
    read_at: u64,
    // A Socket.IO client returned: what it has beyond its offset, of stripes.
    newest: Vec<(u8, u64)>,
}

/// A channel whose position has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) channel: Channel,
    pub(super) need: Need,
    /// Live events that were not queued because of the channel's state here. 0 for a channel without history: they are not
    /// counted.
    pub(super) withheld: u32,
    /// The channel's position among the queued frames.
    pub(super) position: u32,
    /// Of a replay: no event is missing before the version `next`, and only those below `below` are read now.
    pub(super) next: u64,
    pub(super) below: u64,
    // The channel's batch; `None`: it is no channel of a replay.
    pub(super) batch: Option<u32>,
    began_at: u64,
    /// The shard's progress when the channel got its position.
    pub(super) progress: Progress,
}

impl CatchUp {
    /// Whether there is neither a channel nor a subscribe request under way.
    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.values.is_empty() && self.held_before.is_none()
    }

    /// How many channels are caught up with.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.channels.len() + self.values.len()
    }

    /// Takes in a channel that was just subscribed. It is read after [`CatchUp::schedule`] has given it a position.
    ///
    /// `next`: no event of its history is missing before this version, if events were missed.
    pub(super) fn subscribe(&mut self, numbers: &mut Numbers, channel: Channel, need: Need, next: u64) {
        if matches!(need, Need::Whole { .. } | Need::Newest { .. }) {
            self.channels.remove(&channel);
            self.values.subscribe(numbers, &channel);
        } else {
            self.add_unscheduled(channel, need, next, 0);
        }
    }

    /// Notes the hub's newest version at the beginning of the subscribe request.
    pub(super) const fn note_began_at(&mut self, version: u64) {
        self.began_at = version;
    }

    // The channel may be in here already. Its earlier entry belongs to another batch, and is void now.
    fn add_unscheduled(&mut self, channel: Channel, need: Need, next: u64, withheld: u32) {
        let batch = self.unscheduled_batch;
        let state = State::Reading { need, withheld, batch };
        self.channels.insert(channel.clone(), state);
        match need {
            Need::After(_) => self.unscheduled_missed.push(channel, next),
            _ => self.unscheduled.push(channel),
        }
    }

    /// A subscribe request takes more than one step. Nothing of the channels that it newly covers is queued before
    /// [`CatchUp::end_subscribe`], and none of them has a position. `held`: the patterns held before it.
    pub(super) fn begin_subscribe(&mut self, held: Box<[Pattern]>) {
        self.held_before = Some(held);
    }

    /// The subscribe request is carried out, or given up.
    pub(super) fn end_subscribe(&mut self) {
        self.held_before = None;
    }

    /// Whether a subscribe request is under way.
    pub(super) fn is_subscribing(&self) -> bool {
        self.held_before.is_some()
    }

    /// Whether the subscribe request under way newly covers a channel. The channel must match some pattern that is held or
    /// requested.
    pub(super) fn is_newly_covered(&self, channel: &Channel) -> bool {
        let held = self.held_before.as_ref();
        held.is_some_and(|held| !held.iter().any(|pattern| pattern.matches(channel)))
    }

    /// An event of a [newly covered](CatchUp::is_newly_covered) channel was published after the subscribe request looked at
    /// the channel. The event is read after the answer. (If the hub keeps nothing of the channel, the subscription begins
    /// with the answer, and nothing before it is owed.) Returns whether the channel is caught up with because of it.
    pub(super) fn owe(&mut self, numbers: &mut Numbers, event: &Event) -> bool {
        if event.class.history.is_none() {
            self.channels.remove(&event.channel);
            return event.class.cache_last && self.values.subscribe(numbers, &event.channel);
        }
        if let Some(State::Reading { withheld, batch, .. }) = self.channels.get_mut(&event.channel)
            && *batch == self.unscheduled_batch
        {
            *withheld = withheld.saturating_add(1);
            return false;
        }
        let need = Need::After(before(event.version));
        self.add_unscheduled(event.channel.clone(), need, event.version, 1);
        true
    }

    /// Gives each channel that was just subscribed a position among the queued frames, unless a subscribe request is still
    /// under way. `take_sequences` is called with the number of positions that are needed and returns the first of them.
    /// Returns whether there was any channel.
    pub(super) fn schedule(&mut self, progress: Progress, take_sequences: impl FnOnce(u32) -> u32) -> bool {
        let missed = usize::from(!self.unscheduled_missed.is_empty());
        let count = self.unscheduled.len() + missed + self.values.unscheduled();
        if self.is_subscribing() || count == 0 {
            return false;
        }
        // Taken with their memory, which would otherwise be kept until the last of many channels has caught up.
        let lasts = mem::take(&mut self.unscheduled);
        let replay = mem::take(&mut self.unscheduled_missed);
        let due = take_sequences(u32::try_from(count).unwrap_or(u32::MAX));
        let of_replay = due.wrapping_add(u32::try_from(lasts.len()).unwrap_or(u32::MAX));
        self.values
            .schedule(of_replay.wrapping_add(u32::from(missed > 0)), self.began_at);
        // What was published before the subscribe request began is not owed by the inbox.
        let progress = Progress {
            version: progress.version.max(self.began_at),
            ..progress
        };
        let number = self.unscheduled_batch;
        let batches = [
            (Names::Lasts(lasts.into_iter()), due),
            (Names::Missed(replay), of_replay),
        ];
        let batches = batches.into_iter().filter(|(names, _)| !names.is_empty());
        self.batches.extend(batches.map(|(names, due)| Batch {
            names,
            number,
            due,
            progress,
            began_at: self.began_at,
        }));
        self.unscheduled_batch = self.next_batch();
        true
    }

    fn next_batch(&mut self) -> u32 {
        self.last_batch = self.last_batch.wrapping_add(1);
        self.last_batch
    }

    /// An event of this version does not fit into the outbox: the channel's newest event is read at the position `due`. Its
    /// class keeps the newest event and no history. Returns `false` if the channel is to be read anyway.
    pub(super) fn set_aside(&mut self, numbers: &mut Numbers, event: &FramedEvent, due: u32) -> bool {
        if self.is_newly_covered(&event.channel) {
            // The channel was given back, and nothing of it is owed until it is subscribed again.
            return false;
        }
        self.channels.remove(&event.channel);
        let has_records = event.class.merges();
        (self.values).set_aside(numbers, (&event.channel, has_records), event.version, due)
    }

    /// Whether a live event of the channel with this inbox index must not be queued. `number`: the channel's number, if it
    /// has one.
    pub(super) fn withholds(&mut self, number: Option<u32>, channel: &Channel, index: u64) -> bool {
        if number.is_some_and(|number| self.values.contains(number)) {
            return true;
        }
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

    /// Whether a queued frame of the channel with this version is to be removed, since the read will give it.
    pub(super) fn passes_over(&mut self, numbers: &Numbers, channel: &Channel, version: u64) -> bool {
        // What was given back will not be read.
        let is_left = |left: &Option<LeftOver>| left.as_ref().is_some_and(|left| !left.includes(channel));
        if let Some(number) = numbers.get(channel)
            && self.values.contains(number)
        {
            return !is_left(&self.left_over) && self.values.passes_over(number, version);
        }
        match self.channels.get_mut(channel) {
            Some(_) if is_left(&self.left_over) => false,
            Some(State::Reading { need, withheld, .. }) if need.gives(version) => {
                *withheld = withheld.saturating_add(1);
                true
            }
            // The frame was queued before the channel was given back and subscribed again, and the read does not give it.
            _ => false,
        }
    }

    /// The position of the next channel among the queued frames.
    pub(super) fn next_due(&self) -> Option<u32> {
        match (self.next_history(), self.values.next_due()) {
            (Some(history), Some(value)) if precedes(value, history) => Some(value),
            (history, value) => history.or(value),
        }
    }

    fn next_history(&self) -> Option<u32> {
        let swept = self.left_over.as_ref().and_then(|left| left.swept.front());
        swept.or(self.batches.front()).map(|batch| batch.due)
    }

    /// Whether the position of the next channel has come. `head`: the position of the first queued frame.
    pub(super) fn is_due(&self, head: Option<u32>) -> bool {
        self.next_due()
            .is_some_and(|due| head.is_none_or(|head| !precedes(head, due)))
    }

    /// Whether the connection has to be listed for the next turn, because its next channel is due; it is listed from now on.
    pub(super) fn list_if_due(&mut self, head: Option<u32>) -> bool {
        self.is_due(head) && !mem::replace(&mut self.is_listed, true)
    }

    /// The connection is not listed any more.
    pub(super) const fn unlist(&mut self) {
        self.is_listed = false;
    }

    /// Whether the connection has read in this turn of the shard.
    pub(super) const fn has_read_in(&self, turn: u32) -> bool {
        self.read_in_turn == turn
    }

    /// The connection has read in this turn of the shard.
    pub(super) const fn note_read_in(&mut self, turn: u32) {
        self.read_in_turn = turn;
    }

    /// Takes the next channel if its position has come. Returns `None` while channels are being swept out.
    pub(super) fn take_due(&mut self, numbers: &mut Numbers, head: Option<u32>) -> Option<Due> {
        if self.is_swept() {
            return None;
        }
        while self.is_due(head) {
            if self.next_due() != self.next_history() {
                let (channel, need, position) = self.values.take_next(numbers)?;
                return Some(Due {
                    channel,
                    need,
                    withheld: 0,
                    position,
                    next: 0,
                    below: u64::MAX,
                    batch: None,
                    began_at: 0,
                    // It matters only to channels with offsets.
                    progress: Progress::default(),
                });
            }
            let front = self.batches.front_mut()?;
            let Batch {
                number,
                due: position,
                progress,
                began_at,
                ..
            } = *front;
            let (channel, next, below, of_replay) = match &mut front.names {
                Names::Lasts(names) => {
                    front.due = position.wrapping_add(1);
                    (names.next()?, 0, u64::MAX, None)
                }
                Names::Missed(replay) => {
                    let (next, channel) = (replay.next()?, replay.pop()?);
                    (channel, next, replay.next().unwrap_or(u64::MAX), Some(number))
                }
            };
            if front.names.is_empty() {
                self.batches.pop_front();
            }
            if let Some(State::Reading { need, withheld, batch }) = self.channels.get(&channel)
                && *batch == number
            {
                return Some(Due {
                    need: *need,
                    withheld: *withheld,
                    channel,
                    position,
                    next,
                    below,
                    batch: of_replay,
                    began_at,
                    progress,
                });
            }
        }
        None
    }

    /// The last page was read while the inbox ended at `at`; the inbox is at `position`. `is_awaited`: the channel's value
    /// waits for the end of a period, so the channel stays until then. Returns whether the channel has to be
    /// [settled](CatchUp::settle) later.
    pub(super) fn finish(&mut self, channel: &Channel, at: u64, position: u64, is_awaited: bool) -> bool {
        self.read_at = self.read_at.max(at);
        if at <= position && !is_awaited {
            self.channels.remove(channel);
            return false;
        }
        self.channels.insert(channel.clone(), State::Settling { at });
        at > position
    }

    /// The inbox is at `position`: forgets the channel if its live events are new from here on.
    pub(super) fn settle(&mut self, channel: &Channel, position: u64) {
        if let Some(State::Settling { at }) = self.channels.get(channel)
            && *at <= position
        {
            self.channels.remove(channel);
        }
    }

    /// Forgets a channel of which nothing is owed any more.
    pub(super) fn forget(&mut self, channel: &Channel) {
        self.channels.remove(channel);
    }
}

// The version that a client has which got every event before this one. 0: it has nothing.
fn before(version: u64) -> u64 {
    version.saturating_sub(1)
}

#[cfg(test)]
mod tests;
