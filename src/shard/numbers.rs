//! Numbers for the channels whose values some connection of the shard has yet to read.
//!
//! A connection may have as many of these channels as the hub keeps. So their names are here once for each shard, and a
//! connection has a [set of numbers](super::catch_up), which takes about a bit for each channel.
//!
//! Invariant: a channel has a number exactly while the number has a user. The numbers that are given out are small: a free
//! number is given out again before a new one. So sets of numbers are dense.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

use tickgate_protocol::channel::Channel;

/// Memory for this many channels is kept when there are fewer.
const KEPT: usize = 1024;

/// The numbered channels of a shard; see the module's docs.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    by_channel: HashTable<Entry>,
    numbered: Slab<Numbered>,
    hasher: RandomState,
}

/// A number and the hash of its channel. When the table of 100,000 channels grows, it does not look at their names, which
/// would take 30 ms.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    number: u32,
}

#[derive(Debug)]
struct Numbered {
    channel: Channel,
    users: u32,
}

impl Numbers {
    /// The bytes of memory that they take. The text of a name belongs to the hub, as long as it keeps the channel.
    pub(super) fn bytes(&self) -> usize {
        self.by_channel.allocation_size() + self.numbered.capacity() * size_of::<(Numbered, usize)>()
    }

    /// How many channels have a number.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbered.len()
    }

    /// The number of a channel, if it has one.
    pub(super) fn get(&self, channel: &Channel) -> Option<u32> {
        let hash = self.hasher.hash_one(channel);
        let is_it = |entry: &Entry| entry.hash == hash && self.channel(entry.number) == Some(channel);
        self.by_channel.find(hash, is_it).map(|entry| entry.number)
    }

    /// The channel with a number.
    pub(super) fn channel(&self, number: u32) -> Option<&Channel> {
        self.numbered.get(number as usize).map(|numbered| &numbered.channel)
    }

    /// The number of a channel, with one more user. The caller [releases](Numbers::release) it later.
    pub(super) fn acquire(&mut self, channel: &Channel) -> u32 {
        if let Some(number) = self.get(channel) {
            self.numbered[number as usize].users += 1;
            return number;
        }
        let hash = self.hasher.hash_one(channel);
        let numbered = Numbered {
            channel: channel.clone(),
            users: 1,
        };
        let number = u32::try_from(self.numbered.insert(numbered)).expect("fewer than 2^32 channels");
        self.by_channel
            .insert_unique(hash, Entry { hash, number }, |entry| entry.hash);
        number
    }

    /// The number has one user less.
    pub(super) fn release(&mut self, number: u32) {
        let Some(numbered) = self.numbered.get_mut(number as usize) else {
            debug_assert!(false, "a number without a channel is released: {number}");
            return;
        };
        numbered.users -= 1;
        if numbered.users > 0 {
            return;
        }
        let Numbered { channel, .. } = self.numbered.remove(number as usize);
        let hash = self.hasher.hash_one(&channel);
        if let Ok(entry) = self.by_channel.find_entry(hash, |entry| entry.number == number) {
            entry.remove();
        }
        // Many channels may have been numbered for a moment.
        if self.by_channel.capacity() / 8 > self.by_channel.len().max(KEPT / 8) {
            let kept = KEPT.max(2 * self.by_channel.len());
            self.by_channel.shrink_to(kept, |entry| entry.hash);
            self.numbered.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(n: u32) -> Channel {
        Channel::parse(&format!("market.s{n}.price")).expect("valid")
    }

    #[test]
    fn a_channel_keeps_its_number_until_its_last_user_releases_it() {
        let mut numbers = Numbers::default();
        let [a, b] = [1, 2].map(channel);
        let number = numbers.acquire(&a);
        assert_eq!((numbers.acquire(&a), numbers.get(&a)), (number, Some(number)));
        numbers.release(number);
        assert_eq!(numbers.channel(number), Some(&a));
        numbers.release(number);
        assert_eq!(
            (numbers.channel(number), numbers.get(&a), numbers.len()),
            (None, None, 0)
        );
        assert_eq!(numbers.acquire(&b), number, "a free number is given out again");
    }

    #[test]
    fn the_memory_of_many_channels_is_freed() {
        let mut numbers = Numbers::default();
        let all: Vec<u32> = (0..100_000).map(|n| numbers.acquire(&channel(n))).collect();
        assert!(all.iter().copied().eq(0..100_000), "in the order of the requests");
        for number in all.into_iter().skip(1) {
            numbers.release(number);
        }
        assert_eq!(numbers.len(), 1);
        assert!(
            numbers.by_channel.capacity() <= 4 * KEPT,
            "{}",
            numbers.by_channel.capacity()
        );
        assert!(
            numbers.numbered.capacity() <= 4 * KEPT,
            "{}",
            numbers.numbered.capacity()
        );
    }
}
