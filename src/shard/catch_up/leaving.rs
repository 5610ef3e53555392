//! How a connection comes to need nothing of very many channels at once: it gives patterns back, or it goes.
//!
//! Invariants: whatever was left is forgotten before a pattern is joined that could cover it again, since only as long as
//! patterns are given back and none is taken up do those that are left tell what is owed; every step costs the same, and
//! as many are taken as there is time for.

use std::collections::VecDeque;
use std::{mem, vec};

use hashbrown::hash_map::IntoIter;

use super::{CatchUp, Names, State, Turn};
use crate::hub::PATTERNS_PER_STEP;
use tickgate_protocol::channel::{Channel, Pattern};

/// Of what is caught up with only what these patterns match is owed.
#[derive(Debug, Default)]
pub(super) struct LeftOver {
    held: Box<[Pattern]>,
    // While it is swept out: turns that were swept, and what is left of the next.
    pub(super) swept: VecDeque<Turn>,
    kept: Vec<Channel>,
    // Patterns were given back since the sweep began.
    is_stale: bool,
}

impl LeftOver {
    pub(super) fn is_under_way(&self) -> bool {
        !self.swept.is_empty() || !self.kept.is_empty()
    }

    pub(super) fn includes(&self, channel: &Channel) -> bool {
        self.held.iter().any(|pattern| pattern.matches(channel.as_str()))
    }
}

impl CatchUp {
    /// Patterns were given back, and these are left: what they do not match is not owed any more. It stays for now, and
    /// is forgotten when its place has come, or [swept out](CatchUp::sweep) before it could be joined again.
    pub(in crate::shard) fn leave(&mut self, held: Box<[Pattern]>) {
        let left_over = self.left_over.get_or_insert_default();
        left_over.held = held;
        left_over.is_stale = left_over.is_under_way();
    }

    /// Goes on with forgetting what was left, by at most so many steps, or a few more. Returns how many it took, and
    /// whether it is through: from then on patterns may be joined.
    pub(in crate::shard) fn sweep(&mut self, most: usize) -> (usize, bool) {
        let Some(left_over) = &mut self.left_over else {
            return (0, true);
        };
        let each = 1 + left_over.held.len() / PATTERNS_PER_STEP;
        let mut taken = 0;
        while let Some(next) = self.turns.front_mut() {
            if taken >= most {
                return (taken, false);
            }
            taken += each;
            let number = next.number;
            let is_own = |state: &State| matches!(state, State::Reading { turn, .. } if *turn == number);
            if let Some(channel) = next.names.next()
                && self.channels.get(&channel).is_some_and(is_own)
            {
                if left_over.includes(&channel) {
                    left_over.kept.push(channel);
                } else {
                    self.channels.remove(&channel);
                }
            }
            if next.names.is_empty()
                && let Some(turn) = self.turns.pop_front()
                && !left_over.kept.is_empty()
            {
                let names = match left_over.kept.len() {
                    1 => Names::One(left_over.kept.pop()),
                    _ => Names::Many(mem::take(&mut left_over.kept).into_iter()),
                };
                // Not more than before, so their places are still their own.
                left_over.swept.push_back(Turn { names, ..turn });
            }
        }
        self.turns = mem::take(&mut left_over.swept);
        // Of a join that was carried out at once and whose answer is not queued yet, so they are not many.
        taken += self.unscheduled.len() * each;
        self.unscheduled.retain(|channel| {
            let is_owed = left_over.includes(channel);
            if !is_owed {
                self.channels.remove(channel);
            }
            is_owed
        });
        if !mem::take(&mut left_over.is_stale) {
            self.left_over = None;
        }
        (taken, self.left_over.is_none())
    }

    /// Takes it apart, to be freed.
    pub(in crate::shard) fn into_remains(self) -> DeferredDrop {
        let Self {
            channels,
            mut turns,
            unscheduled,
            left_over,
            ..
        } = self;
        let LeftOver { mut swept, kept, .. } = left_over.unwrap_or_default();
        turns.append(&mut swept);
        DeferredDrop {
            channels: channels.into_iter(),
            turns,
            names: [unscheduled.into_iter(), kept.into_iter()],
        }
    }
}

/// What a connection needed that is gone, or has left all its patterns.
#[derive(Debug)]
pub(in crate::shard) struct DeferredDrop {
    channels: IntoIter<Channel, State>,
    turns: VecDeque<Turn>,
    names: [vec::IntoIter<Channel>; 2],
}

impl DeferredDrop {
    /// Frees at most so many names; how many it was. Fewer: nothing is left.
    pub(in crate::shard) fn free(&mut self, most: usize) -> usize {
        let channels = self.channels.by_ref().map(|(channel, _)| channel);
        let channels = channels.chain(self.names.iter_mut().flatten());
        let freed = channels.take(most).count();
        let mut freed_of_turns = 0;
        while freed + freed_of_turns < most
            && let Some(turn) = self.turns.front_mut()
        {
            freed_of_turns += turn.names.by_ref().take(most - freed - freed_of_turns).count();
            if turn.names.is_empty() {
                self.turns.pop_front();
            }
        }
        freed + freed_of_turns
    }
}
