//! Channels with history that wait for their positions together.
//!
//! Invariant: a channel of a replay goes on with its batch until it is read to its end; a page of the replay is followed by a
//! position behind everything that is queued by then.

use std::vec;

use super::replay::Replay;
use super::{CatchUp, Due, Need, Progress, State, before};
use tickgate_protocol::channel::Channel;

/// Channels with history, of one subscribe request.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) names: Names,
    pub(super) number: u32,
    // The position of the next channel among the queued frames.
    pub(super) due: u32,
    // The shard's progress when the batch got its positions.
    pub(super) progress: Progress,
    // The hub's newest version when the subscribe request began. Of channels whose last value is owed, nothing newer was
    // sent.
    pub(super) began_at: u64,
}

impl Batch {
    /// See [`CatchUp::has_up_to`].
    pub(super) fn has_up_to(&self) -> Option<u64> {
        match &self.names {
            Names::Lasts(_) => Some(self.began_at),
            Names::Missed(replay) => replay.next().map(before),
        }
    }

    /// See [`CatchUp::owes_values`].
    pub(super) const fn owes_values(&self) -> bool {
        matches!(self.names, Names::Lasts(_))
    }
}

#[derive(Debug)]
pub(super) enum Names {
    /// Channels of which the client gets the last value first. They have consecutive positions.
    Lasts(vec::IntoIter<Channel>),
    /// Channels of which the client missed events. They share one position.
    Missed(Replay),
}

impl Names {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Lasts(names) => names.as_slice().is_empty(),
            Self::Missed(replay) => replay.is_empty(),
        }
    }
}

impl CatchUp {
    /// A page was read, and `left` is still needed. `next`: the version of the first event that is missing.
    ///
    /// A channel of a replay goes on with it: see [`CatchUp::postpone_replay`]. For any other, a position behind what is
    /// queued is taken, and `now` is the shard's progress now.
    pub(in crate::shard) fn read_on(
        &mut self,
        due: Due,
        (left, next): (Need, u64),
        now: Progress,
        take_sequence: impl FnOnce() -> u32,
    ) {
        let number = match due.batch {
            Some(number) => {
                match self.batches.front_mut() {
                    Some(Batch {
                        number: front,
                        names: Names::Missed(replay),
                        ..
                    }) if *front == number => replay.push(due.channel.clone(), next),
                    // It was the only channel that was left.
                    _ => self.batches.push_front(Batch {
                        names: Names::Missed(Replay::of(due.channel.clone(), next)),
                        number,
                        due: due.position,
                        progress: due.progress,
                        began_at: due.began_at,
                    }),
                }
                number
            }
            None => {
                let number = self.next_batch();
                self.batches.push_back(Batch {
                    names: match left {
                        Need::After(_) => Names::Missed(Replay::of(due.channel.clone(), next)),
                        _ => Names::Lasts(vec![due.channel.clone()].into_iter()),
                    },
                    number,
                    due: take_sequence(),
                    progress: later(due.progress, now),
                    began_at: due.began_at,
                });
                number
            }
        };
        if let Some(State::Reading { need, batch, .. }) = self.channels.get_mut(&due.channel) {
            (*need, *batch) = (left, number);
        }
    }

    /// A page was read whose last channel had the position `last`. If it belongs to a replay that is not at its end, the
    /// replay goes on behind what is queued by now. `now`: the shard's progress now.
    pub(in crate::shard) fn postpone_replay(&mut self, last: u32, now: Progress, take_sequence: impl FnOnce() -> u32) {
        let is_read = |batch: &Batch| batch.due == last && matches!(batch.names, Names::Missed(_));
        if !self.is_swept()
            && self.batches.front().is_some_and(is_read)
            && let Some(mut batch) = self.batches.pop_front()
        {
            batch.due = take_sequence();
            batch.progress = later(batch.progress, now);
            self.batches.push_back(batch);
        }
    }
}

// The shard's progress `now`. A version that was known to be past stays so.
fn later(before: Progress, now: Progress) -> Progress {
    Progress {
        version: now.version.max(before.version),
        ..now
    }
}
