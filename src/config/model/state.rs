//! `[state]` and `[[channel]]`.

use std::path::PathBuf;
use std::time::Duration;

use super::check::Check;
use super::feed::Feed;
use crate::config::value::{HistoryKeys, choices};
use crate::config::visit::{Section, Visitor};
use crate::hub::STRIPES;
use tickgate_protocol::channel::{Channel, Class, ClassError, Classes, History, Overflow, Pattern};

/// `[state]`: how much is kept of all channels together.
#[derive(Clone, Debug)]
pub(in crate::config) struct State {
    pub(in crate::config) channels: u64,
    pub(in crate::config) bytes: u64,
    pub(in crate::config) evicted_names: u64,
    pub(in crate::config) snapshot: Option<PathBuf>,
    pub(in crate::config) snapshot_interval: Duration,
    pub(in crate::config) dedup_window: Duration,
}

impl Default for State {
    fn default() -> Self {
        Self {
            channels: 100_000,
            bytes: 256 << 20,
            evicted_names: 64 * 1024,
            snapshot: None,
            snapshot_interval: Duration::from_secs(30),
            dedup_window: Duration::from_secs(5 * 60),
        }
    }
}

impl Section for State {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("channels", &mut self.channels);
        visitor.value("bytes", &mut self.bytes);
        visitor.value("evicted_names", &mut self.evicted_names);
        visitor.value("snapshot", &mut self.snapshot);
        visitor.value("snapshot_interval", &mut self.snapshot_interval);
        visitor.value("dedup_window", &mut self.dedup_window);
    }
}

/// Fewer would not hold a few events of the longest kind.
const BYTES_MIN: u64 = 1 << 20;

/// One in each stripe: see `state.evicted_names`.
const _: () = assert!(STRIPES == 16, "the message names it");

impl State {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        check.require(
            (1..=u64::from(u32::MAX)).contains(&self.channels),
            "state.channels",
            "must be 1 to 4294967295",
        );
        check.require(
            self.bytes >= BYTES_MIN,
            "state.bytes",
            "must be at least 1048576 (1 MiB)",
        );
        check.require(
            (STRIPES as u64..=u64::from(u32::MAX)).contains(&self.evicted_names),
            "state.evicted_names",
            "must be 16 to 4294967295",
        );
        let is_absolute = self.snapshot.as_ref().is_none_or(|path| path.is_absolute());
        check.require(is_absolute, "state.snapshot", "must be an absolute path");
        check.require(
            self.snapshot_interval >= Duration::from_secs(1),
            "state.snapshot_interval",
            "must be at least 1s",
        );
        check.require(
            self.dedup_window >= Duration::from_secs(1),
            "state.dedup_window",
            "must be at least 1s",
        );
    }
}

/// `[[channel]]`: the class of the channels that a pattern matches.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct ChannelClass {
    pub(in crate::config) pattern: Option<Pattern>,
    history: Option<HistoryKeys>,
    cache: Option<Cache>,
    record_key: Option<String>,
    only_changed: bool,
    overflow: Option<Overflow>,
}

/// `cache`: what a new subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    Last,
}

choices!(Cache { "last" => Self::Last });
choices!(Overflow {
    "conflate" => Self::Conflate, "drop_oldest" => Self::DropOldest, "disconnect" => Self::Disconnect,
});

impl Section for ChannelClass {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("match", &mut self.pattern);
        visitor.value("history", &mut self.history);
        visitor.value("cache", &mut self.cache);
        visitor.value("record_key", &mut self.record_key);
        visitor.value("only_changed", &mut self.only_changed);
        visitor.value("overflow", &mut self.overflow);
    }
}

impl ChannelClass {
    pub(in crate::config) fn class(&self) -> Class {
        let (cache_last, has_history) = (self.cache.is_some(), self.history.is_some());
        Class {
            cache_last,
            history: self.history.map(|history| History {
                size: history.size,
                ttl_ms: u64::try_from(history.ttl.as_millis()).unwrap_or(u64::MAX),
            }),
            overflow: self
                .overflow
                .unwrap_or_else(|| Class::usual_overflow(cache_last, has_history)),
            record_key: self.record_key.as_deref().map(Into::into),
            only_changed: self.only_changed,
        }
    }
}

/// The operator's classes before the built-in ones.
pub(in crate::config) fn classes(channels: &[ChannelClass]) -> Classes {
    let entry = |channel: &ChannelClass| Some((channel.pattern.clone()?, channel.class()));
    Classes::new(channels.iter().filter_map(entry).collect())
}

pub(super) fn check_channels(channels: &[ChannelClass], check: &mut Check<'_>) {
    for (index, channel) in channels.iter().enumerate() {
        let key = |name: &str| format!("channel[{index}].{name}");
        check.require(
            channel.pattern.is_some(),
            &key("match"),
            "is missing: the pattern of the channels",
        );
        let is_given = |other: &ChannelClass| other.pattern.is_some() && other.pattern == channel.pattern;
        check.require(
            !channels[..index].iter().any(is_given),
            &key("match"),
            "an earlier [[channel]] has the same pattern: this one would never count",
        );
        check.require(
            channel.record_key.as_deref() != Some(""),
            &key("record_key"),
            "must not be empty",
        );
        let Err(error) = channel.class().check() else { continue };
        let keys = match error {
            ClassError::ConflateWithoutCache => ["overflow", "cache"],
            ClassError::ConflateWithHistory => ["overflow", "history"],
            ClassError::CacheWithoutHistory => ["overflow", "history"],
            ClassError::RecordKeyWithoutCache => ["record_key", "cache"],
            ClassError::HistorySize | ClassError::HistoryTtl => ["history", "history"],
        };
        check.contradiction([&key(keys[0]), &key(keys[1])], error.to_string());
    }
}

/// A feed that tells changed records needs a class that merges them, where the class gives newcomers anything.
pub(super) fn check_feed_classes(feeds: &[Feed], classes: &Classes, check: &mut Check<'_>) {
    for (index, feed) in feeds.iter().enumerate() {
        let Some(channel) = feed.channel.as_ref().and_then(|template| {
            let name = template.to_string();
            let name = template
                .placeholder()
                .map_or(name.clone(), |placeholder| name.replace(&placeholder, "x"));
            Channel::parse(&name).ok()
        }) else {
            continue;
        };
        let class = classes.of(&channel);
        if class.cache_last && class.record_key.as_deref() != feed.record_key.as_deref() && feed.record_key.is_some() {
            let message = "its channel keeps the last event for newcomers, which would be only a part of the records: \
                           give it a [[channel]] with cache = \"last\" and the same record_key";
            check.refuse(&format!("feed[{index}].record_key"), message);
        }
    }
}
