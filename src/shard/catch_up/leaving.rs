//! A connection that no longer catches up with very many channels at once: it gave patterns back, or it is removed.
//!
//! Invariants: every channel that is not owed any more is forgotten before a pattern is subscribed that could cover it
//! again. Only while patterns are given back and none is added do the remaining patterns tell which channels are owed.
//! Every step costs the same.

use std::collections::VecDeque;
use std::{mem, vec};

use hashbrown::hash_map::IntoIter;

use super::{Batch, CatchUp, Names, Progress, Replay, State, Values, before};
use crate::hub::PATTERNS_PER_STEP;
use crate::shard::numbers::Numbers;
use tickgate_protocol::channel::{Channel, Pattern};

/// The remaining patterns after some were given back: only channels that they match are owed.
#[derive(Debug, Default)]
pub(super) struct LeftOver {
    held: Box<[Pattern]>,
    // While channels are swept out: the batches that were swept, and the kept channels of the next one.
    pub(super) swept: VecDeque<Batch>,
    kept: Vec<Channel>,
    kept_missed: Replay,
    // From the batch that is being swept.
    began_at: u64,
    // Patterns were given back since the sweep began.
    is_stale: bool,
}

impl LeftOver {
    fn is_under_way(&self) -> bool {
        !self.swept.is_empty() || !self.kept.is_empty() || !self.kept_missed.is_empty()
    }

    /// What was swept.
    pub(super) fn batches(&self) -> &VecDeque<Batch> {
        &self.swept
    }

    /// The version up to which the client has every event of the channels that are kept, apart from last values; `None`:
    /// nothing is missing.
    pub(super) fn has_up_to(&self) -> Option<u64> {
        let lasts = self.kept.first().map(|_| self.began_at);
        lasts.into_iter().chain(self.kept_missed.next().map(before)).min()
    }

    /// Whether the last value of a channel with history is owed.
    pub(super) fn owes_values(&self) -> bool {
        !self.kept.is_empty() || self.swept.iter().any(Batch::owes_values)
    }

    /// Whether a channel is still owed.
    pub(super) fn includes(&self, channel: &Channel) -> bool {
        self.held.iter().any(|pattern| pattern.matches(channel))
    }
}

impl CatchUp {
    /// Patterns were given back, and `held` remains: channels that it does not match are not owed any more. Such a channel
    /// stays for now. It is forgotten when its position has come, or [swept out](CatchUp::sweep) before it could be
    /// subscribed again.
    pub(in crate::shard) fn leave(&mut self, held: Box<[Pattern]>) {
        let is_swept = self.is_swept();
        let left_over = self.left_over.get_or_insert_default();
        left_over.held = held;
        left_over.is_stale = is_swept;
    }

    /// Whether channels are being swept out.
    pub(super) fn is_swept(&self) -> bool {
        let of_histories = self.left_over.as_ref().is_some_and(LeftOver::is_under_way);
        of_histories || self.values.is_swept()
    }

    /// Goes on forgetting the channels that are not owed any more, for about `most` steps. Returns how many steps it took,
    /// and whether it is done: only then may patterns be subscribed.
    pub(in crate::shard) fn sweep(&mut self, numbers: &mut Numbers, most: usize) -> (usize, bool) {
        let Some(left_over) = &mut self.left_over else {
            return (0, true);
        };
        let each = 1 + left_over.held.len() / PATTERNS_PER_STEP;
        let mut taken = 0;
        // The channels without history come last: only they can be set aside meanwhile.
        if !self.values.is_swept() {
            while let Some(next) = self.batches.front_mut() {
                if taken >= most {
                    return (taken, false);
                }
                taken += each;
                let number = next.number;
                left_over.began_at = next.began_at;
                let is_own = |state: &State| matches!(state, State::Reading { batch, .. } if *batch == number);
                let (channel, missed) = match &mut next.names {
                    Names::Lasts(names) => (names.next(), None),
                    Names::Missed(replay) => {
                        let missed = replay.next();
                        (replay.pop(), missed)
                    }
                };
                if let Some(channel) = channel
                    && self.channels.get(&channel).is_some_and(is_own)
                {
                    match missed {
                        _ if !left_over.includes(&channel) => drop(self.channels.remove(&channel)),
                        None => left_over.kept.push(channel),
                        Some(missed) => left_over.kept_missed.push(channel, missed),
                    }
                }
                if next.names.is_empty()
                    && let Some(batch) = self.batches.pop_front()
                {
                    // There are not more channels than before, so the positions suffice.
                    let names = match batch.names {
                        Names::Lasts(_) => Names::Lasts(mem::take(&mut left_over.kept).into_iter()),
                        Names::Missed(_) => Names::Missed(mem::take(&mut left_over.kept_missed)),
                    };
                    if !names.is_empty() {
                        left_over.swept.push_back(Batch { names, ..batch });
                    }
                }
            }
            self.batches = mem::take(&mut left_over.swept);
            self.values.begin_sweep();
        }
        if taken >= most && !self.values.is_empty() {
            return (taken, false);
        }
        let numbers_max = most.saturating_sub(taken).div_ceil(each).max(1);
        taken += each * (self.values).sweep(numbers, numbers_max, |channel| left_over.includes(channel));
        if self.values.is_swept() {
            return (taken, false);
        }
        // These are few: they belong to a request that was carried out at once and whose answer is not queued yet.
        taken += (self.unscheduled.len() + self.unscheduled_missed.len() + self.values.unscheduled()) * each;
        self.unscheduled.retain(|channel| {
            let is_owed = left_over.includes(channel);
            if !is_owed {
                self.channels.remove(channel);
            }
            is_owed
        });
        self.unscheduled_missed.retain(|channel| {
            let is_owed = left_over.includes(channel);
            if !is_owed {
                self.channels.remove(channel);
            }
            is_owed
        });
        (self.values).sweep_unscheduled(numbers, |channel| left_over.includes(channel));
        if !mem::take(&mut left_over.is_stale) {
            self.left_over = None;
        }
        (taken, self.left_over.is_none())
    }

    /// Takes the state apart, to be freed in steps.
    pub(in crate::shard) fn into_deferred_drop(self) -> DeferredDrop {
        let Self {
            values,
            channels,
            mut batches,
            unscheduled,
            unscheduled_missed,
            left_over,
            ..
        } = self;
        let LeftOver {
            mut swept,
            kept,
            kept_missed,
            ..
        } = left_over.unwrap_or_default();
        batches.append(&mut swept);
        batches.extend([unscheduled_missed, kept_missed].map(|replay| Batch {
            names: Names::Missed(replay),
            number: 0,
            due: 0,
            began_at: 0,
            progress: Progress::default(),
        }));
        DeferredDrop {
            values,
            channels: channels.into_iter(),
            batches,
            names: [unscheduled.into_iter(), kept.into_iter()],
        }
    }
}

/// The catch-up state of a connection that does not need it any more. Dropping very many names at once would take too long
/// for one turn.
#[derive(Debug)]
pub(in crate::shard) struct DeferredDrop {
    values: Values,
    channels: IntoIter<Channel, State>,
    batches: VecDeque<Batch>,
    names: [vec::IntoIter<Channel>; 2],
}

impl DeferredDrop {
    /// Frees at most `most` names; returns how many. Fewer than `most`: nothing is left.
    pub(in crate::shard) fn free(&mut self, numbers: &mut Numbers, most: usize) -> usize {
        let mut freed = self.values.free(numbers, most);
        let channels = self.channels.by_ref().map(|(channel, _)| channel);
        let channels = channels.chain(self.names.iter_mut().flatten());
        freed += channels.take(most - freed).count();
        while freed < most
            && let Some(batch) = self.batches.front_mut()
        {
            freed += match &mut batch.names {
                Names::Lasts(names) => names.by_ref().take(most - freed).count(),
                Names::Missed(replay) => std::iter::from_fn(|| replay.pop()).take(most - freed).count(),
            };
            if batch.names.is_empty() {
                self.batches.pop_front();
            }
        }
        freed
    }
}
