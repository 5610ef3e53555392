//! `[[channel]]`.

use std::time::Duration;

use super::feed::Feed;
use crate::config::check::{Because, Check, at_most, ensure, no_longer_than};
use crate::config::declare::section;
use crate::config::source::{Content, Node};
use crate::config::value::{Refusal, Value, choices, milliseconds, typed};
use crate::config::visit;
use tickgate_protocol::channel::{
    BookRules, Channel, Class, ClassError, Classes, DEPTH_MAX, History, Overflow, Pattern,
};
use tickgate_protocol::json::{RecordDelete, RecordKey};
use tickgate_protocol::rate::Rate;

section! {
    /// `[[channel]]`.
    struct ChannelClass {
        /// The pattern of the channels.
        value pattern as "match": Option<Pattern> = None, required "is missing: the pattern of the channels";
        /// `{ size, ttl }`: the newest `size` events (1 to 1,000,000) are kept, none longer than `ttl` (at most 365 d). Events carry an `offset`, by
        /// which clients recover.
        value history: Option<HistoryKeys> = None;
        /// `last`: a new subscriber gets the latest event.
        value cache: Option<Cache> = None;
        /// How long after its last publication the latest event is kept, 1 s to 365 d. Then it is removed, and subscribers get
        /// the event `deleted`. An unchanged value that is published again (`only_changed`, or by a feed) counts. Needs `cache`.
        value last_ttl: Option<Duration> = None, check last_ttl_fits;
        /// When nothing was published for so long, 1 s to 365 d, subscribers get the message `stale`, and `fresh` when it goes on. An
        /// unchanged value that is published again counts, and so does a keep-alive (`POST /api/keep_alive`) or a poll of a feed.
        value fresh_within: Option<Duration> = None, check fresh_within_fits;
        /// The `data` of an event is an array of changed records that differ in this field (a string or a number), or in these
        /// fields (an array of names, at most 8); the gateway keeps the merged records. Other `data` replaces the whole value.
        /// Needs `cache`.
        value record_key: Option<RecordKey> = None;
        /// `{ field, values }`: a record whose `field` has one of these `values` (strings, integers, booleans) is deleted: it is
        /// sent to those who have it, and newcomers do not get it. Numbers compare as exact decimals, also if the record has them as strings.
        /// Without `values`, any value but `false` and `null` deletes. Needs `record_key`.
        value record_delete: Option<RecordDelete> = None;
        /// `book`: the `data` of an event has the levels of an order book that changed, `bids` and `asks`, each an array of
        /// `[price, size]`; size 0 removes a level, and `"snapshot": true` replaces all. The gateway keeps the book. Needs `cache`,
        /// and excludes `history`, `record_key` and `only_changed`.
        value merge: Option<Merge> = None;
        /// With `merge = "book"`: clients get so many of the best levels of each side, 1 to 1000. If this is not set, they get all.
        value depth: Option<u32> = None,
            check |depth| at_most(depth.unwrap_or(1), DEPTH_MAX).because("each update looks at all levels that clients see");
        /// An event whose name and value equal the last one's is not sent. With `record_key`, only the records that changed are
        /// sent.
        value only_changed: bool = false;
        /// What happens to a client that is too slow. `conflate` needs `cache` and excludes `history`. `drop_oldest` and
        /// `disconnect` need `history` if there is `cache`. If this is not set: `disconnect` with `history`, `conflate` with
        /// only `cache`, otherwise `drop_oldest`.
        value overflow: Option<Overflow> = None;
        /// The most updates per second that a client gets of a channel; in between, a newer value replaces an older one. 0.1,
        /// 0.2, 0.5, 1, 2, 5, 10 or 20; other numbers are rounded down. Needs `conflate`. If it is not set: no limit.
        value max_rate: Option<Rate> = None;

        rule keys_fit_each_other;
    }
}

/// `cache`: what a new subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Cache {
    Last,
}

choices!(Cache { "last" => Self::Last });
/// `merge`: how events are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Merge {
    Book,
}

choices!(Merge { "book" => Self::Book });
choices!(Overflow {
    "conflate" => Self::Conflate, "drop_oldest" => Self::DropOldest, "disconnect" => Self::Disconnect,
});

/// The longest time that an event is kept.
const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

fn fresh_within_fits(time: &Option<Duration>) -> Result<(), String> {
    let Some(time) = time else { return Ok(()) };
    ensure(*time >= Duration::from_secs(1), "must be at least 1s")
        .because("silence is looked for once a second")
        .and(no_longer_than(time, TTL_MAX).because("nobody waits longer for news of a silence"))
}

fn last_ttl_fits(ttl: &Option<Duration>) -> Result<(), String> {
    let Some(ttl) = ttl else { return Ok(()) };
    ensure(*ttl >= Duration::from_secs(1), "must be at least 1s")
        .because("ends are looked for once a second")
        .and(no_longer_than(ttl, TTL_MAX).because("the value is kept in memory for this time"))
}

fn keys_fit_each_other(channel: &ChannelClass, check: &mut Check<'_>) {
    if channel.history.is_some_and(|history| history.ttl > TTL_MAX) {
        check.refuse(
            "history",
            "`history.ttl` must be at most 365d: every event is kept in memory for this time",
        );
    }
    check.require(
        channel.depth.is_none() || channel.merge.is_some(),
        "depth",
        "needs merge = \"book\": only a book has a depth",
    );
    let Err(error) = channel.class().check() else { return };
    if error == ClassError::Depth && channel.depth > Some(DEPTH_MAX) {
        // The check of the key has said so.
        return;
    }
    let keys = match error {
        ClassError::ConflateWithoutCache => ["overflow", "cache"],
        ClassError::ConflateWithHistory => ["overflow", "history"],
        ClassError::CacheWithoutHistory => ["overflow", "history"],
        ClassError::RecordKeyWithoutCache => ["record_key", "cache"],
        ClassError::DeleteWithoutRecordKey => ["record_delete", "record_key"],
        ClassError::Book => ["merge", "cache"],
        ClassError::Depth => ["depth", "merge"],
        ClassError::TtlWithoutCache => ["last_ttl", "cache"],
        ClassError::LastTtl => ["last_ttl", "last_ttl"],
        ClassError::MaxRateWithoutConflate => ["max_rate", "overflow"],
        ClassError::HistorySize | ClassError::HistoryTtl => ["history", "history"],
    };
    check.contradiction(keys, error.to_string());
}

/// Refuses a class with the pattern of an earlier one. `check` stands at the file as a whole.
pub(super) fn check_distinct(channels: &[ChannelClass], check: &mut Check<'_>) {
    for (index, channel) in channels.iter().enumerate() {
        let same = |other: &ChannelClass| other.pattern.is_some() && other.pattern == channel.pattern;
        if channels[..index].iter().any(same) {
            let message = "an earlier [[channel]] has the same pattern: this one would never count";
            check.refuse(&format!("channel[{index}].match"), message);
        }
    }
}

/// Refuses a feed that publishes changed records on a channel that keeps the last event without merging records: a new
/// subscriber would get only a part of them. `check` stands at the file as a whole.
pub(super) fn check_feeds(feeds: &[Feed], classes: &Classes, check: &mut Check<'_>) {
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
        if class.book.is_some() {
            let message = "its channel has an order book (merge = \"book\"), which takes changes; a feed sends whole answers: give \
                           it a channel of another class";
            check.refuse(&format!("feed[{index}].channel"), message);
        }
        if class.cache_last && class.record_key != feed.record_key && feed.record_key.is_some() {
            let message = "its channel keeps the last event for newcomers, which would be only a part of the records: \
                           give it a [[channel]] with cache = \"last\" and the same record_key";
            check.refuse(&format!("feed[{index}].record_key"), message);
        }
    }
}

/// The classes of the file, followed by the built-in ones.
pub(in crate::config) fn classes(channels: &[ChannelClass]) -> Classes {
    let entry = |channel: &ChannelClass| Some((channel.pattern.clone()?, channel.class()));
    Classes::new(channels.iter().filter_map(entry).collect())
}

/// The built-in classes as `[[channel]]` tables, each line a comment.
pub(in crate::config) fn built_in_classes() -> String {
    let mut text =
        String::from("# The built-in classes. A [[channel]] above stands before them: the first match decides.\n");
    for (pattern, class) in Classes::default().entries() {
        let table = visit::print(ChannelClass::of(pattern, class));
        text += "#\n# [[channel]]\n";
        for line in table.lines() {
            text += &format!("# {line}\n");
        }
    }
    text
}

/// The keys of a class that say what is kept, on one line.
pub(in crate::config) fn kept_keys(pattern: &Pattern, class: &Class) -> String {
    let keys = visit::print(ChannelClass {
        pattern: None,
        overflow: None,
        max_rate: None,
        fresh_within: None,
        ..ChannelClass::of(pattern, class)
    });
    keys.trim().replace('\n', ", ")
}

impl ChannelClass {
    fn of(pattern: &Pattern, class: &Class) -> Self {
        Self {
            pattern: Some(pattern.clone()),
            history: class.history.map(|history| HistoryKeys {
                size: history.size,
                ttl: Duration::from_millis(history.ttl_ms),
            }),
            cache: class.cache_last.then_some(Cache::Last),
            last_ttl: class.last_ttl_ms.map(Duration::from_millis),
            fresh_within: class.fresh_within_ms.map(Duration::from_millis),
            record_key: class.record_key.clone(),
            record_delete: class.record_delete.clone(),
            merge: class.book.map(|_| Merge::Book),
            depth: class.book.and_then(|book| book.depth),
            only_changed: class.only_changed,
            overflow: Some(class.overflow),
            max_rate: class.max_rate,
        }
    }

    pub(super) fn class(&self) -> Class {
        let (cache_last, has_history) = (self.cache.is_some(), self.history.is_some());
        Class {
            cache_last,
            history: self.history.map(|history| History {
                size: history.size,
                ttl_ms: milliseconds(history.ttl),
            }),
            overflow: self
                .overflow
                .unwrap_or_else(|| Class::default_overflow(cache_last, has_history)),
            last_ttl_ms: self.last_ttl.map(milliseconds),
            fresh_within_ms: self.fresh_within.map(milliseconds),
            record_key: self.record_key.clone(),
            record_delete: self.record_delete.clone(),
            book: self.merge.map(|Merge::Book| BookRules { depth: self.depth }),
            only_changed: self.only_changed,
            max_rate: self.max_rate,
        }
    }
}

/// `history`: `{ size = 5000, ttl = "1h" }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct HistoryKeys {
    pub(in crate::config) size: u32,
    pub(in crate::config) ttl: Duration,
}

impl Value for HistoryKeys {
    fn kind() -> String {
        "table".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let Content::Table(table) = &typed(node).content else {
            return Err(Refusal::wanted("a table ({ size = 5000, ttl = \"1h\" })", node));
        };
        let mut keys = Self {
            size: 0,
            ttl: Duration::from_millis(History::BUILT_IN.ttl_ms),
        };
        let mut has_size = false;
        for (name, node) in table {
            let at = |refusal: Refusal| Refusal {
                origin: Some(node.origin.clone()),
                message: format!("{name}: {}", refusal.message),
            };
            match name.as_str() {
                "size" => {
                    keys.size = u32::read(node).map_err(at)?;
                    has_size = true;
                }
                "ttl" => keys.ttl = Duration::read(node).map_err(at)?,
                _ => return Err(at(Refusal::new("unknown key (known here: size, ttl)"))),
            }
        }
        if has_size {
            Ok(keys)
        } else {
            Err(Refusal::new(
                "size is missing: how many events are kept of each channel",
            ))
        }
    }
    fn write(&self) -> Option<toml::Value> {
        let mut table = toml::Table::new();
        table.insert("size".to_owned(), self.size.write()?);
        table.insert("ttl".to_owned(), self.ttl.write()?);
        Some(toml::Value::Table(table))
    }
}
