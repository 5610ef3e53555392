//! Storage by slot number that grows in chunks.
//!
//! Invariant: growing moves nothing. A doubling vector of a million connections would copy 100 MB at once and hold
//! half of its memory idle.

use std::ops::{Index, IndexMut};

const CHUNK_BITS: u32 = 8;
const CHUNK: usize = 1 << CHUNK_BITS;

/// Elements numbered from 0; a chunk of 256 at a time.
#[derive(Debug)]
pub(super) struct Slots<T> {
    chunks: Vec<Box<[T]>>,
}

impl<T: Default> Slots<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Makes `index` valid; new elements are `T::default()`.
    pub(super) fn reserve(&mut self, index: u32) {
        while index as usize >= self.len() {
            self.chunks.push((0..CHUNK).map(|_| T::default()).collect());
        }
    }

    /// How many indices are valid.
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
        let mut slab = Slots::<u64>::new();
        slab.reserve(0);
        slab[0] = 7;
        let place = std::ptr::from_ref(&slab[0]);
        slab.reserve(100_000);
        slab[100_000] = 9;
        assert_eq!((slab[0], slab[100_000]), (7, 9));
        assert_eq!(place, std::ptr::from_ref(&slab[0]));
        assert!(slab.get(200_000).is_none());
    }
}
