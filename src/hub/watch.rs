//! Changes of interest, for one reader that must know which patterns are wanted: the feeds.
//!
//! Invariant: a change is noted after it took effect, outside every stripe lock. A reader that takes the notes and then
//! asks the hub sees that change or a later one, in whatever order shards join and leave. There is at most one note per
//! pattern. Publishing does not use this module.

use std::collections::HashMap;

use crate::sync::{Mutex, Notify};
use tickgate_protocol::channel::Pattern;

/// Decides which patterns are noted. Shards call it at every join and leave, so it must be fast. The answers may change;
/// [`Hub::note_held`](super::Hub::note_held) makes up for what was not noted before.
pub type PatternFilter = dyn Fn(&Pattern) -> bool + Send + Sync;

/// The patterns that shards have joined or left since the notes were last taken.
pub struct InterestWatch {
    relevant: Box<PatternFilter>,
    // Each pattern with whether it was joined in the meantime. It may have been left again since.
    changed: Mutex<HashMap<Pattern, bool>>,
    is_changed: Notify,
}

impl InterestWatch {
    pub(super) fn new(relevant: Box<PatternFilter>) -> Self {
        Self {
            relevant,
            changed: Mutex::default(),
            is_changed: Notify::new(),
        }
    }

    pub(super) fn note(&self, pattern: &Pattern, joined: bool) {
        if !self.is_relevant(pattern) {
            return;
        }
        let is_first = {
            let mut changed = self.changed.lock();
            let is_first = changed.is_empty();
            *changed.entry(pattern.clone()).or_default() |= joined;
            is_first
        };
        if is_first {
            self.is_changed.notify_one();
        }
    }

    /// Whether the pattern is noted.
    pub(super) fn is_relevant(&self, pattern: &Pattern) -> bool {
        (self.relevant)(pattern)
    }

    /// Waits until there is a note, and takes all notes. The value says whether the pattern was joined; this includes a
    /// join by a further connection of a shard that already held the pattern. If the future is dropped before it
    /// completes, no note is lost.
    pub async fn changed(&self) -> HashMap<Pattern, bool> {
        loop {
            self.is_changed.notified().await;
            let taken = std::mem::take(&mut *self.changed.lock());
            if !taken.is_empty() {
                return taken;
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::hub::{Hub, Settings};
    use tickgate_protocol::channel::Channel;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("valid")
    }

    fn channel(text: &str) -> Channel {
        Channel::parse(text).expect("valid")
    }

    #[tokio::test]
    async fn joins_and_leaves_are_noted_and_the_hub_knows_the_rest() {
        let (hub, mut inboxes) = Hub::new(Settings::default(), 2, |_, _| Bytes::new());
        let watch = hub
            .watch(Box::new(|pattern| pattern.as_str().starts_with('a')))
            .expect("the first");
        assert!(hub.watch(Box::new(|_| true)).is_none(), "one reader only");

        inboxes[0].join(&pattern("a.b"));
        inboxes[1].join(&pattern("a.*"));
        inboxes[1].join(&pattern("z"));
        let all = HashMap::from([(pattern("a.b"), true), (pattern("a.*"), true)]);
        assert_eq!(watch.changed().await, all);
        assert!(hub.holds(&pattern("a.b")) && hub.holds(&pattern("a.*")) && hub.holds(&pattern("z")));
        assert!(!hub.holds(&pattern("a.c")) && hub.is_wanted(&channel("a.c")) && !hub.is_wanted(&channel("b.c")));

        // A join by a further connection of the same shard is noted as well.
        inboxes[0].join(&pattern("a.b"));
        assert_eq!(watch.changed().await, HashMap::from([(pattern("a.b"), true)]));
        inboxes[0].leave(&pattern("a.b"));
        assert_eq!(watch.changed().await, HashMap::from([(pattern("a.b"), false)]));
        assert!(!hub.holds(&pattern("a.b")) && hub.is_wanted(&channel("a.b")));

        // A shard that ends loses its interest.
        drop(inboxes);
        assert_eq!(watch.changed().await, HashMap::from([(pattern("a.*"), false)]));
        assert!(!hub.is_wanted(&channel("a.b")));
    }

    #[tokio::test]
    async fn a_pattern_joined_and_left_at_once_is_one_note() {
        let (hub, mut inboxes) = Hub::new(Settings::default(), 1, |_, _| Bytes::new());
        let watch = hub.watch(Box::new(|_| true)).expect("the first");
        for _ in 0..100 {
            inboxes[0].join(&pattern("a"));
            inboxes[0].leave(&pattern("a"));
        }
        assert_eq!(watch.changed().await, HashMap::from([(pattern("a"), true)]));
        assert!(!hub.holds(&pattern("a")));
    }
}
