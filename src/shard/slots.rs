//! Storage indexed by slot number, which grows in chunks.
//!
//! Invariant: growing moves no element. A vector that doubles would copy 100 MB at once for a million connections, and
//! up to half of its memory would be unused.

use std::ops::{Index, IndexMut};

const CHUNK_BITS: u32 = 8;
const CHUNK: usize = 1 << CHUNK_BITS;

/// Elements numbered from 0, allocated in chunks of 256.
#[derive(Debug)]
pub(super) struct Slots<T> {
    chunks: Vec<Box<[T]>>,
}

impl<T: Default> Slots<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Makes `index` valid. New elements are `T::default()`.
    pub(super) fn reserve(&mut self, index: u32) {
        while index as usize >= self.len() {
            self.chunks.push((0..CHUNK).map(|_| T::default()).collect());
        }
    }

    /// The number of elements: the indices below it are valid.
    pub(super) fn len(&self) -> usize {
        self.chunks.len() * CHUNK
    }
}

impl<T> Slots<T> {
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.chunks
            .get((index >> CHUNK_BITS) as usize)
            .map(|chunk| &chunk[index as usize % CHUNK])
    }
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        &self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_moves_nothing() {
        let mut slots = Slots::<u64>::new();
        slots.reserve(0);
        slots[0] = 7;
        let address = std::ptr::from_ref(&slots[0]);
        slots.reserve(100_000);
        slots[100_000] = 9;
        assert_eq!((slots[0], slots[100_000]), (7, 9));
        assert_eq!(address, std::ptr::from_ref(&slots[0]));
        assert!(slots.get(200_000).is_none());
    }
}
