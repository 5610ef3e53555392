//! Notes of changed interest, for one reader that has to know who listens (feeds).
//!
//! Invariant: a change is noted after it took effect, outside every stripe lock. Whoever takes the notes and then asks
//! the hub therefore sees that change or a later one, in whatever order shards came and went; and there are never more
//! notes than patterns. Publishing does not come by here.

use std::collections::HashMap;

use crate::sync::{Mutex, Notify};
use tickgate_protocol::channel::Pattern;

/// Decides which patterns are noted at all; asked by shards at every join and leave, so it must be quick.
pub type Relevant = dyn Fn(&Pattern) -> bool + Send + Sync;

/// The patterns that shards joined or left since they were last taken.
pub struct InterestWatch {
    relevant: Box<Relevant>,
    // Whether it was joined meanwhile (it may have been left again).
    changed: Mutex<HashMap<Pattern, bool>>,
    bell: Notify,
}

impl InterestWatch {
    pub(super) fn new(relevant: Box<Relevant>) -> Self {
        Self {
            relevant,
            changed: Mutex::default(),
            bell: Notify::new(),
        }
    }

    pub(super) fn note(&self, pattern: &Pattern, joined: bool) {
        if !(self.relevant)(pattern) {
            return;
        }
        let is_first = {
            let mut changed = self.changed.lock();
            let is_first = changed.is_empty();
            *changed.entry(pattern.clone()).or_default() |= joined;
            is_first
        };
        if is_first {
            self.bell.notify_one();
        }
    }

    /// Waits until there is a note, and takes all of them: each pattern, and whether a connection joined it (also one
    /// that others of its shard held already). Dropped before it is done, it has taken nothing.
    pub async fn changed(&self) -> HashMap<Pattern, bool> {
        loop {
            self.bell.notified().await;
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

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("valid")
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
        assert!(!hub.holds(&pattern("a.c")) && hub.is_wanted("a.c") && !hub.is_wanted("b.c"));

        // A further connection of the same shard is a join, too.
        inboxes[0].join(&pattern("a.b"));
        assert_eq!(watch.changed().await, HashMap::from([(pattern("a.b"), true)]));
        inboxes[0].leave(&pattern("a.b"));
        assert_eq!(watch.changed().await, HashMap::from([(pattern("a.b"), false)]));
        assert!(!hub.holds(&pattern("a.b")) && hub.is_wanted("a.b"));

        // A shard that ends takes its interest along.
        drop(inboxes);
        assert_eq!(watch.changed().await, HashMap::from([(pattern("a.*"), false)]));
        assert!(!hub.is_wanted("a.b"));
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
