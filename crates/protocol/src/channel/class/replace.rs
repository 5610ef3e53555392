//! Which class may take the place of another one while a channel has state and subscribers.
//!
//! Invariant: a channel with state stays in its lane: the state, the outboxes and the clients that are being caught up with
//! go on as they are. Only how much and how long something is kept may change, and what happens to a slow client of a
//! history.

use super::{Class, Classes, Overflow};

impl Classes {
    /// Adds the classes that `running` has for channels that no entry matches, behind those that `self` has. So a channel
    /// that was fed keeps its class when the feed is gone.
    #[must_use]
    pub fn with_defaults_of(mut self, running: &Self) -> Self {
        let tenants = self.tenants.iter_mut().zip(&running.tenants);
        for (new, running) in tenants {
            new.add_defaults(running);
        }
        self.add_defaults(running);
        self
    }

    fn add_defaults(&mut self, running: &Self) {
        for (template, class) in &running.defaults {
            if self.defaults.iter().all(|(known, _)| known != template) {
                self.defaults.push((template.clone(), class.clone()));
            }
        }
    }
}

impl Class {
    /// The first key of `[[channel]]` by which `new` leaves the lane of this class, which keeps state; `None`: it may take
    /// its place.
    #[must_use]
    pub fn lane_key(&self, new: &Self) -> Option<&'static str> {
        let conflates = |class: &Self| class.overflow == Overflow::Conflate;
        let changes = [
            (self.cache_last != new.cache_last, "cache"),
            (self.history.is_some() != new.history.is_some(), "history"),
            (conflates(self) != conflates(new), "overflow"),
            (self.record_key != new.record_key, "record_key"),
            (self.record_delete != new.record_delete, "record_delete"),
            (self.book.is_some() != new.book.is_some(), "merge"),
            (self.book != new.book, "depth"),
            (self.only_changed != new.only_changed, "only_changed"),
            (self.max_rate != new.max_rate, "max_rate"),
            (!new.keeps_state(), "fresh_within"),
        ];
        changes.into_iter().find(|(changes, _)| *changes).map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::History;
    use super::*;
    use crate::channel::Channel;

    fn last() -> Class {
        Class {
            cache_last: true,
            overflow: Overflow::Conflate,
            ..Class::default()
        }
    }

    fn history(size: u32) -> Class {
        Class {
            history: Some(History { size, ttl_ms: 60_000 }),
            overflow: Overflow::Disconnect,
            ..Class::default()
        }
    }

    #[test]
    fn bounds_change_and_lanes_do_not() {
        let bounds = Class {
            overflow: Overflow::DropOldest,
            fresh_within_ms: Some(5_000),
            ..history(3)
        };
        assert_eq!(history(10).lane_key(&bounds), None);
        let ends = Class {
            last_ttl_ms: Some(1_000),
            ..last()
        };
        assert_eq!(last().lane_key(&ends), None);
        let changed = Class {
            only_changed: true,
            ..history(10)
        };
        let watched = Class {
            fresh_within_ms: Some(1_000),
            ..Class::default()
        };
        for (before, after, key) in [
            (history(10), last(), "cache"),
            (history(10), Class::default(), "history"),
            (history(10), changed, "only_changed"),
            (watched, Class::default(), "fresh_within"),
            (last(), Class::records("code"), "record_key"),
        ] {
            assert_eq!(before.lane_key(&after), Some(key), "{before:?}");
        }
    }

    #[test]
    fn a_channel_that_was_fed_keeps_its_class() {
        let fed = |texts: &[&str]| {
            let defaults = texts.iter().map(|text| (text.parse().expect("a template"), last()));
            Classes::default().with_defaults(defaults.collect())
        };
        let new = fed(&["b", "c"]).with_defaults_of(&fed(&["a.{id}", "b"]));
        for (name, is_kept) in [("a.7", true), ("b", true), ("c", true), ("d", false)] {
            let channel = Channel::parse(name).expect("valid");
            assert_eq!(new.of(&channel).cache_last, is_kept, "{name}");
        }
    }
}
