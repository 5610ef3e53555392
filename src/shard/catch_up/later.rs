//! Events with a history that are read later, since their connection has used up its bytes of a second.

use super::batch::{Batch, Names};
use super::replay::Replay;
use super::{CatchUp, Need, Progress, State, before};
use crate::shard::frame::FramedEvent;

impl CatchUp {
    /// An event of a channel with history does not fit into the outbox: it and what follows is read behind what is queued.
    /// `next_sequence`: the next position among the queued frames. Returns `false` if nothing of the channel is owed.
    pub(in crate::shard) fn read_later(
        &mut self,
        event: &FramedEvent,
        next_sequence: u32,
        take_sequence: impl FnOnce() -> u32,
    ) -> bool {
        if self.is_newly_covered(&event.channel) {
            // As in `set_aside`.
            return false;
        }
        let channel = event.channel.clone();
        let batch = match self.batches.back_mut() {
            // Nothing was queued since, so they share a replay.
            Some(Batch {
                names: Names::Missed(replay),
                number,
                due,
                ..
            }) if due.wrapping_add(1) == next_sequence => {
                replay.push(channel.clone(), event.version);
                *number
            }
            _ => {
                let number = self.next_batch();
                self.batches.push_back(Batch {
                    names: Names::Missed(Replay::of(channel.clone(), event.version)),
                    number,
                    due: take_sequence(),
                    // The shard's progress is not known here. With this one, the first page gives nothing if a channel was
                    // evicted.
                    progress: Progress::default(),
                    began_at: event.version,
                });
                number
            }
        };
        let need = Need::After(before(event.version));
        let state = State::Reading {
            need,
            withheld: 1,
            batch,
        };
        self.channels.insert(channel, state);
        true
    }
}
