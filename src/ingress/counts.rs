//! How many permits hold each key.
//!
//! Invariant: a key is known exactly while a permit holds it.

use std::hash::Hash;

use hashbrown::HashMap;
use parking_lot::Mutex;

/// The number of permits that hold each key. A key without permits is removed.
#[derive(Debug)]
pub(super) struct Counts<K>(Mutex<HashMap<K, u32, foldhash::fast::RandomState>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Counts<K> {
    /// Counts one more permit of a key. Returns `false` if there are `max` of them, which is at least 1.
    pub(super) fn take(&self, key: K, max: u32) -> bool {
        let mut counts = self.0.lock();
        let count = counts.entry(key).or_insert(0);
        let is_below = *count < max;
        if is_below {
            *count += 1;
        }
        // `max` is at least 1, so a new key never stays at 0.
        is_below
    }

    /// Counts one permit less of a key.
    pub(super) fn give_back(&self, key: &K) {
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }
}

#[cfg(test)]
impl<K> Counts<K> {
    /// Whether no permit holds a key.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}
