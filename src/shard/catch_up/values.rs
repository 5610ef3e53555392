//! The channels whose values one connection has yet to read.
//!
//! A channel without history has only its newest value to give. So all that a connection has to know of it is whether it
//! owes that value to its client. Many connections may owe the same very many values: they arrive together and read
//! nothing, or all of them stall. Therefore a channel is not an entry here but the member of a set of
//! [`Numbers`], which takes a few bytes for each run of neighbouring numbers, and about a bit for a channel at the worst.
//!
//! Invariants: a channel is in `whole`, in `aside`, or in neither. If it is in one of them, it is in one batch, or waits for
//! the answer to its subscribe request; and the set is one user of its number. The positions of a batch are consecutive, and there are as many as members at least. So nothing was queued
//! between two members of a batch, and no frame of a channel lies behind the channel's position.

use std::collections::VecDeque;

use hashbrown::HashMap;
use roaring::RoaringBitmap;

use super::{Need, before};
use crate::shard::numbers::Numbers;
use tickgate_protocol::channel::Channel;

/// The values that one connection has yet to read; see the module's docs.
#[derive(Debug, Default)]
pub(super) struct Values {
    // Channels of which the client has nothing, and channels of which events were not queued.
    whole: RoaringBitmap,
    aside: RoaringBitmap,
    // Channels that wait for the answer to their subscribe request.
    unscheduled: RoaringBitmap,
    // In the order of their positions. No batch is empty, except while channels are swept out.
    batches: VecDeque<Batch>,
    // The versions that the client has of merged records that were set aside.
    records: HashMap<u32, u64>,
    // While channels are swept out: the batch and the number to go on with.
    sweep: Option<(usize, u32)>,
}

#[derive(Debug)]
struct Batch {
    numbers: RoaringBitmap,
    need: Need,
    // The position of the next channel among the queued frames, and the one behind the last channel.
    due: u32,
    end: u32,
}

impl Values {
    /// How many values have to be read.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.whole.len() + self.aside.len()).unwrap_or(usize::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.aside.is_empty()
    }

    /// Whether the value of the channel with this number has to be read.
    pub(super) fn contains(&self, number: u32) -> bool {
        self.whole.contains(number) || self.aside.contains(number)
    }

    /// How many channels wait for the answer to their subscribe request.
    pub(super) fn unscheduled(&self) -> usize {
        usize::try_from(self.unscheduled.len()).unwrap_or(usize::MAX)
    }

    /// Takes in a channel that was just subscribed. Returns `false` if it waits for the answer already.
    pub(super) fn subscribe(&mut self, numbers: &mut Numbers, channel: &Channel) -> bool {
        let number = numbers.acquire(channel);
        if !self.unscheduled.insert(number) {
            numbers.release(number);
            return false;
        }
        if self.forget(number, numbers) {
            // It was given back and set aside later, for events that were still queued. That position is void.
            for batch in &mut self.batches {
                batch.numbers.remove(number);
            }
            self.batches.retain(|batch| !batch.numbers.is_empty());
        }
        self.whole.insert(number);
        true
    }

    /// Gives the channels that wait for an answer positions from `due` on. `since`: the hub's newest version when the
    /// request began.
    pub(super) fn schedule(&mut self, due: u32, since: u64) {
        let mut numbers = std::mem::take(&mut self.unscheduled);
        if numbers.is_empty() {
            return;
        }
        numbers.optimize();
        self.whole.optimize();
        let count = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        self.batches.push_back(Batch {
            numbers,
            need: Need::Whole { since },
            due,
            end: due.wrapping_add(count),
        });
    }

    /// An event of this version was not queued: the channel's newest event is read at the position `due`. Returns `false`
    /// if the channel is to be read anyway.
    pub(super) fn set_aside(
        &mut self,
        numbers: &mut Numbers,
        (channel, has_records): (&Channel, bool),
        version: u64,
        due: u32,
    ) -> bool {
        let number = numbers.acquire(channel);
        if self.contains(number) {
            numbers.release(number);
            self.note_missed(number, version);
            return false;
        }
        self.aside.insert(number);
        if has_records {
            self.records.insert(number, before(version));
        }
        let end = due.wrapping_add(1);
        match self.batches.back_mut() {
            // While channels are swept out, what comes has to be looked at, too.
            Some(batch) if batch.end == due && self.sweep.is_none() => {
                if let Need::Newest { above } = &mut batch.need {
                    *above = before(version).min(*above);
                    batch.end = end;
                    batch.numbers.insert(number);
                    return true;
                }
            }
            _ => {}
        }
        self.batches.push_back(Batch {
            numbers: RoaringBitmap::from_iter([number]),
            need: Need::Newest { above: before(version) },
            due,
            end,
        });
        true
    }

    /// Whether a queued event with this version is not sent, since the channel's newest event is read later.
    pub(super) fn passes_over(&mut self, number: u32, version: u64) -> bool {
        // Of a channel in `whole` nothing is queued, except for events of an earlier subscription. Its value is not read
        // instead of them, so it may come twice, as it would if they had been sent sooner.
        let is_aside = self.aside.contains(number);
        if is_aside {
            self.note_missed(number, version);
        }
        is_aside
    }

    // The client does not get an event with this version of a channel that is to be read.
    fn note_missed(&mut self, number: u32, version: u64) {
        if let Some(above) = self.records.get_mut(&number) {
            *above = before(version).min(*above);
        }
    }

    /// The position of the next channel among the queued frames.
    pub(super) fn next_due(&self) -> Option<u32> {
        self.batches.front().map(|batch| batch.due)
    }

    /// Takes the next channel, with its position.
    pub(super) fn take_next(&mut self, numbers: &mut Numbers) -> Option<(Channel, Need, u32)> {
        let batch = self.batches.front_mut()?;
        let (number, position) = (batch.numbers.min()?, batch.due);
        batch.numbers.remove_smallest(1);
        batch.due = position.wrapping_add(1);
        let mut need = batch.need;
        if batch.numbers.is_empty() {
            self.batches.pop_front();
        }
        if let Some(above) = self.records.get(&number) {
            need = Need::Newest { above: *above };
        }
        let channel = numbers.channel(number).cloned();
        self.forget(number, numbers);
        Some((channel?, need, position))
    }

    // Takes a channel out, but not of its batch; returns whether it was there.
    fn forget(&mut self, number: u32, numbers: &mut Numbers) -> bool {
        let was_there = self.whole.remove(number) || self.aside.remove(number);
        if was_there {
            self.records.remove(&number);
            numbers.release(number);
        }
        was_there
    }

    /// Begins to sweep out channels.
    pub(super) fn begin_sweep(&mut self) {
        self.sweep = Some((0, 0));
    }

    /// Whether channels are being swept out.
    pub(super) const fn is_swept(&self) -> bool {
        self.sweep.is_some()
    }

    /// Goes on forgetting the channels that are not `owed`; looks at `most` of those that have a position. Returns at how
    /// many it looked. Fewer than `most`: it is done.
    pub(super) fn sweep(&mut self, numbers: &mut Numbers, most: usize, owed: impl Fn(&Channel) -> bool) -> usize {
        let Some((mut index, mut next)) = self.sweep else {
            return 0;
        };
        let mut looked = 0;
        while looked < most {
            let Some(batch) = self.batches.get(index) else {
                self.batches.retain(|batch| !batch.numbers.is_empty());
                self.sweep = None;
                return looked;
            };
            let some: Vec<u32> = batch.numbers.range(next..).take(most - looked).collect();
            looked += some.len();
            match some.last() {
                Some(last) if looked == most => next = last.saturating_add(1),
                _ => next = 0,
            }
            self.forget_unless(some, Some(index), numbers, &owed);
            index += usize::from(next == 0);
        }
        self.sweep = Some((index, next));
        looked
    }

    /// Forgets the channels that wait for the answer to their subscribe request and are not `owed`.
    pub(super) fn sweep_unscheduled(&mut self, numbers: &mut Numbers, owed: impl Fn(&Channel) -> bool) {
        let all = self.unscheduled.iter().collect();
        self.forget_unless(all, None, numbers, owed);
    }

    // Forgets those of `some` that are not `owed`. They are in this batch, or in none.
    fn forget_unless(
        &mut self,
        some: Vec<u32>,
        batch: Option<usize>,
        numbers: &mut Numbers,
        owed: impl Fn(&Channel) -> bool,
    ) {
        for number in some {
            if numbers.channel(number).is_some_and(&owed) {
                continue;
            }
            match batch.map(|index| self.batches.get_mut(index)) {
                Some(batch) => batch.is_some_and(|batch| batch.numbers.remove(number)),
                None => self.unscheduled.remove(number),
            };
            self.forget(number, numbers);
        }
    }

    /// Releases at most `most` numbers, without any order; returns how many. Fewer than `most`: nothing is left.
    pub(super) fn free(&mut self, numbers: &mut Numbers, most: usize) -> usize {
        self.batches.clear();
        let mut freed = 0;
        for set in [&mut self.whole, &mut self.aside] {
            let some: Vec<u32> = set.iter().take(most - freed).collect();
            set.remove_smallest(some.len() as u64);
            for number in &some {
                numbers.release(*number);
            }
            freed += some.len();
        }
        freed
    }

    /// How many batches there are, which counting the bytes visits.
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// The bytes of memory that the sets take, estimated.
    pub(super) fn bytes(&self) -> usize {
        let sets = self.batches.iter().map(|batch| &batch.numbers);
        let sets = sets.chain([&self.whole, &self.aside, &self.unscheduled]);
        let sets: usize = sets.map(set_bytes).sum();
        sets + self.batches.capacity() * size_of::<Batch>() + self.records.allocation_size()
    }
}

// The bytes that a set takes, estimated: 2 for each member where it is sparse, a bit where it is dense, and 4 for a run.
fn set_bytes(set: &RoaringBitmap) -> usize {
    const CONTAINER: u32 = 40;
    const BITMAP: u32 = 8 * 1024;
    let sizes = set.statistics();
    let sparse = 2 * sizes.n_values_array_containers;
    let bytes = sparse + BITMAP * sizes.n_bitset_containers + CONTAINER * sizes.n_containers;
    let runs = usize::try_from(sizes.n_bytes_run_containers).unwrap_or(usize::MAX);
    usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_a_crowd_take_few_bytes() {
        let channel = |n| Channel::parse(&format!("market.s{n}.price")).expect("valid");
        let channels: Vec<Channel> = (0..100_000).map(channel).collect();
        let mut numbers = Numbers::default();
        let mut crowd: [Values; 2] = Default::default();
        for values in &mut crowd {
            for channel in &channels {
                assert!(values.subscribe(&mut numbers, channel));
            }
            values.schedule(0, 1);
            assert_eq!(values.len(), channels.len());
            assert!(values.bytes() < 2_000, "{} bytes", values.bytes());
        }
        assert_eq!(numbers.len(), channels.len(), "names are shared");
        // Every other channel is set aside, which is the worst case: a bit for each.
        let mut stalled = Values::default();
        for (due, channel) in (0..).zip(channels.iter().step_by(2)) {
            assert!(stalled.set_aside(&mut numbers, (channel, false), 9, due));
            assert!(!stalled.set_aside(&mut numbers, (channel, false), 10, due));
        }
        assert_eq!(stalled.len(), channels.len() / 2);
        assert!(stalled.bytes() < 40_000, "{} bytes", stalled.bytes());
        for values in crowd.iter_mut().chain([&mut stalled]) {
            while values.free(&mut numbers, 1_000) == 1_000 {}
            assert!(values.is_empty());
        }
        assert_eq!(numbers.len(), 0, "nothing is left behind");
    }

    #[test]
    fn values_are_read_in_batches_that_nothing_was_queued_between() {
        let [a, b, c] = ["a", "b", "c"].map(|name| Channel::parse(name).expect("valid"));
        let (mut numbers, mut values) = (Numbers::default(), Values::default());
        // Number 0, which is read first among neighbours.
        let held = numbers.acquire(&c);
        for (channel, version, due) in [(&a, 9, 5), (&b, 7, 6), (&c, 8, 20)] {
            assert!(values.set_aside(&mut numbers, (channel, false), version, due));
        }
        numbers.release(held);
        let read: Vec<_> = std::iter::from_fn(|| values.take_next(&mut numbers)).collect();
        let newest = |above| Need::Newest { above };
        // A frame of the last channel may have been queued between the positions 6 and 20.
        assert_eq!(read, [(a, newest(6), 5), (b, newest(6), 6), (c, newest(7), 20)]);
        assert_eq!(numbers.len(), 0);
    }
}
