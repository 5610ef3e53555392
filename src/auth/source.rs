//! Keys that come and go while the gateway runs, such as those of a key set.
//!
//! Invariant: a token that names an unknown key is refused for good only while every source is fresh. Otherwise the stale
//! sources are asked for their keys, and the client is told to try again.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;

use super::Key;
use crate::time::Stopwatch;

/// A source of keys. It begins without keys.
#[derive(Default)]
pub struct KeySource {
    state: RwLock<State>,
    on_wanted: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct State {
    keys: Arc<[Key]>,
    // Since it was read, and for how long it is fresh.
    read: Option<(Stopwatch, Duration)>,
}

impl KeySource {
    /// The present keys.
    #[must_use]
    pub fn keys(&self) -> Arc<[Key]> {
        Arc::clone(&self.state.read().keys)
    }

    /// Replaces the keys.
    pub fn set(&self, keys: Vec<Key>) {
        self.state.write().keys = keys.into();
    }

    /// Notes that the keys were read just now: for so long, a key that they lack is one that does not exist.
    pub fn note_read(&self, fresh_for: Duration) {
        self.state.write().read = Some((Stopwatch::start(), fresh_for));
    }

    /// Takes over the keys of the source that this one replaces.
    pub fn adopt(&self, before: &Self) {
        let before = before.state.read();
        *self.state.write() = State {
            keys: Arc::clone(&before.keys),
            read: before.read,
        };
    }

    /// Tells what to call when the keys should be read again, because a token named an unknown one. The first call counts.
    pub fn on_wanted(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_wanted.set(Box::new(call));
    }

    /// Asks for the keys, unless the source is fresh. Returns whether they may come.
    pub(super) fn ask(&self) -> bool {
        let read = self.state.read().read;
        let is_fresh = read.is_some_and(|(watch, fresh_for)| watch.elapsed() < fresh_for);
        if let Some(call) = self.on_wanted.get().filter(|_| !is_fresh) {
            call();
        }
        !is_fresh
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySource")
            .field("keys", &self.keys())
            .finish_non_exhaustive()
    }
}
