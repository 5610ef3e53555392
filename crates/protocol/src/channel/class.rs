//! Channel classes: which events of a channel are kept, and what happens when a client is too slow for them.
//!
//! Invariant: every channel has exactly one class, the first that matches it. The operator's entries come first, in their
//! order, then the built-in table, then the defaults of single channels, then [`Class::default`]. A class that passed [`Class::check`] is consistent.

mod built_in;
mod replace;

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::{Channel, ChannelTemplate, Pattern, Tenant};
use crate::json::{RecordDelete, RecordKey};
use crate::rate::{Rate, faster, slower};
use built_in::built_in;

/// The limit of [`History::size`], in events.
pub const HISTORY_SIZE_MAX: u32 = 1_000_000;

/// What happens to the events of a channel when an outbox is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// A newer event replaces the earlier ones, or is merged into them by record key.
    Conflate,
    /// The oldest event is dropped, and the client gets a `dropped` message.
    #[default]
    DropOldest,
    /// The client is disconnected with close code 4008. It can reconnect and recover.
    Disconnect,
}

impl Overflow {
    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflate => "conflate",
            Self::DropOldest => "drop_oldest",
            Self::Disconnect => "disconnect",
        }
    }
}

/// How many events of a channel are kept for recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// The number of newest events that are kept, 1 to [`HISTORY_SIZE_MAX`].
    pub size: u32,
    /// The age limit of kept events, in milliseconds.
    pub ttl_ms: u64,
}

impl History {
    /// The history of the built-in classes: 5000 events, one hour.
    pub const BUILT_IN: Self = Self {
        size: 5000,
        ttl_ms: 60 * 60 * 1000,
    };
}

/// How order books are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BookRules {
    /// Clients get so many of the best levels of each side, 1 to [`DEPTH_MAX`]; `None`: all.
    pub depth: Option<u32>,
}

/// The limit of [`BookRules::depth`].
pub const DEPTH_MAX: u32 = 1000;

/// What is kept of a channel's events, and what a full outbox does with them.
///
/// The default is the class of a channel without any entry: nothing is kept, and overflow drops the oldest event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Class {
    /// The latest event is kept and given to new subscribers (`cache = "last"`).
    pub cache_last: bool,
    /// If set, events have offsets and are kept for recovery.
    pub history: Option<History>,
    /// What happens when an outbox is full.
    pub overflow: Overflow,
    /// For how long after its last publication a last value is kept, in milliseconds; `None`: without limit.
    pub last_ttl_ms: Option<u64>,
    /// Subscribers are told when nothing was published for so long, in milliseconds.
    pub fresh_within_ms: Option<u64>,
    /// If set, an event's `data` is an array of records, and updates those with the same values of these fields.
    pub record_key: Option<RecordKey>,
    /// Which records of an event are deleted by it. Without it, none is.
    pub record_delete: Option<RecordDelete>,
    /// If set, an event's `data` is an update of an order book.
    pub book: Option<BookRules>,
    /// An event whose value equals the previous one is not sent.
    pub only_changed: bool,
    /// The most updates that a client gets of a channel; `None`: as many as there are. Only a class that conflates has a
    /// limit.
    pub max_rate: Option<Rate>,
}

/// A contradiction in a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// Conflating drops all events but the newest, so the newest one must be kept.
    #[error("`overflow = \"conflate\"` needs `cache = \"last\"`: a slow client gets the kept value")]
    ConflateWithoutCache,
    /// Conflating would drop events that history promises to keep.
    #[error("`overflow = \"conflate\"` and `history` contradict each other: one drops events, the other keeps them")]
    ConflateWithHistory,
    /// Without history, no event is kept between a join and the reading of the last value. So only the newest event may
    /// matter to a client.
    #[error(
        "`cache = \"last\"` without `history` needs `overflow = \"conflate\"` (the default then): events that arrive while \
         a new subscriber gets the last value are not kept"
    )]
    CacheWithoutHistory,
    /// A record key has no effect unless the merged records are kept.
    #[error("`record_key` needs `cache = \"last\"`, which keeps the merged records")]
    RecordKeyWithoutCache,
    /// Only records can be deleted.
    #[error("`record_delete` needs `record_key`, which says what a record is")]
    DeleteWithoutRecordKey,
    /// A book is a merged value that is kept; conflation is how it reaches slow clients.
    #[error(
        "`merge = \"book\"` needs `cache = \"last\"`, which keeps the book, and excludes `history`, `record_key` and `only_changed`"
    )]
    Book,
    /// The depth of a book is out of range.
    #[error("`depth` must be 1 to {DEPTH_MAX}: each update looks at all levels that clients see")]
    Depth,
    /// Only a last value can end.
    #[error("`last_ttl` needs `cache = \"last\"`: it says when the last value ends")]
    TtlWithoutCache,
    /// A last value that ends at once is never given to anybody.
    #[error("`last_ttl` must be at least 1 ms")]
    LastTtl,
    /// The size of a history is out of range. A class without history has none.
    #[error("`history.size` must be 1 to {HISTORY_SIZE_MAX}: every event is kept in memory")]
    HistorySize,
    /// Only the newest value of a channel may come late. A class that keeps other events for clients sends all of them.
    #[error("`max_rate` needs `overflow = \"conflate\"`: of other classes a client gets every event")]
    MaxRateWithoutConflate,
    /// With an age limit of zero no event would be kept.
    #[error("`history.ttl` must not be zero: no event would be kept")]
    HistoryTtl,
}

impl Class {
    /// Whether the hub keeps state for a channel of this class.
    #[must_use]
    pub const fn keeps_state(&self) -> bool {
        self.cache_last || self.only_changed || self.history.is_some() || self.fresh_within_ms.is_some()
    }

    /// Whether events are changes that are merged, so that a client that is behind needs those since its version.
    #[must_use]
    pub const fn merges(&self) -> bool {
        self.record_key.is_some() || self.book.is_some()
    }

    /// The default overflow of a class: the one that loses the least of what is kept.
    #[must_use]
    pub const fn default_overflow(cache_last: bool, has_history: bool) -> Overflow {
        match (cache_last, has_history) {
            (_, true) => Overflow::Disconnect,
            (true, false) => Overflow::Conflate,
            (false, false) => Overflow::DropOldest,
        }
    }

    /// Checks that the class is consistent.
    ///
    /// # Errors
    ///
    /// The first contradiction that was found.
    pub fn check(&self) -> Result<(), ClassError> {
        if self.overflow == Overflow::Conflate {
            if self.history.is_some() {
                return Err(ClassError::ConflateWithHistory);
            }
            if !self.cache_last {
                return Err(ClassError::ConflateWithoutCache);
            }
        }
        if self.cache_last && self.history.is_none() && self.overflow != Overflow::Conflate {
            return Err(ClassError::CacheWithoutHistory);
        }
        if self.record_key.is_some() && !self.cache_last {
            return Err(ClassError::RecordKeyWithoutCache);
        }
        if self.max_rate.is_some() && self.overflow != Overflow::Conflate {
            return Err(ClassError::MaxRateWithoutConflate);
        }
        if self.record_delete.is_some() && self.record_key.is_none() {
            return Err(ClassError::DeleteWithoutRecordKey);
        }
        if let Some(BookRules { depth }) = self.book {
            if !self.cache_last || self.history.is_some() || self.record_key.is_some() || self.only_changed {
                return Err(ClassError::Book);
            }
            if depth.is_some_and(|depth| !(1..=DEPTH_MAX).contains(&depth)) {
                return Err(ClassError::Depth);
            }
        }
        match self.last_ttl_ms {
            Some(_) if !self.cache_last => return Err(ClassError::TtlWithoutCache),
            Some(0) => return Err(ClassError::LastTtl),
            _ => {}
        }
        match self.history {
            Some(History { size, .. }) if !(1..=HISTORY_SIZE_MAX).contains(&size) => Err(ClassError::HistorySize),
            Some(History { ttl_ms: 0, .. }) => Err(ClassError::HistoryTtl),
            _ => Ok(()),
        }
    }
}

/// The classes of all channels of a tenant, by pattern. Those of the default tenant hold those of all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    entries: Vec<(Pattern, Arc<Class>)>,
    /// For each first segment that an entry names: the indices of the entries that can match such a channel, in order.
    by_category: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// The indices of the entries that can match any other channel, in order.
    any_category: Vec<usize>,
    /// The classes of channels that no entry matches, by template.
    defaults: Vec<(ChannelTemplate, Arc<Class>)>,
    default: Arc<Class>,
    /// The classes of the other tenants, by number: the first are those of tenant 1.
    tenants: Vec<Classes>,
}

impl Default for Classes {
    /// The built-in table without entries of the operator.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Classes {
    /// Puts the operator's entries before the built-in ones.
    #[must_use]
    pub fn new(operators: Vec<(Pattern, Class)>) -> Self {
        let operators = operators.into_iter().map(|(pattern, class)| (pattern, Arc::new(class)));
        let entries: Vec<_> = operators.chain(built_in()).collect();
        let category = |pattern: &Pattern| pattern.as_str().split('.').next().unwrap_or_default().to_owned();
        let mut by_category = HashMap::<Box<str>, Vec<usize>, RandomState>::default();
        for (pattern, _) in &entries {
            let named = category(pattern);
            if named != "*" {
                by_category.entry(named.into()).or_default();
            }
        }
        let mut any_category = Vec::new();
        for (index, (pattern, _)) in entries.iter().enumerate() {
            let named = category(pattern);
            if named == "*" {
                any_category.push(index);
                by_category.values_mut().for_each(|indices| indices.push(index));
            } else if let Some(indices) = by_category.get_mut(&*named) {
                indices.push(index);
            }
        }
        Self {
            entries,
            by_category,
            any_category,
            defaults: Vec::new(),
            default: Arc::default(),
            tenants: Vec::new(),
        }
    }

    /// Adds the classes of the other tenants: the first are those of tenant 1.
    #[must_use]
    pub fn with_tenants(self, tenants: Vec<Self>) -> Self {
        Self { tenants, ..self }
    }

    /// Adds classes for channels that no entry of their tenant matches, in their order.
    #[must_use]
    pub fn with_defaults(mut self, defaults: Vec<(ChannelTemplate, Class)>) -> Self {
        for (template, class) in defaults {
            let classes = match template.tenant().index().checked_sub(1) {
                None => &mut self,
                Some(index) => match self.tenants.get_mut(index) {
                    Some(classes) => classes,
                    None => continue,
                },
            };
            classes.defaults.push((template, Arc::new(class)));
        }
        self
    }

    /// The class of a channel. Does not allocate. A tenant without classes of its own has those of the default tenant.
    #[must_use]
    pub fn of(&self, channel: &Channel) -> &Arc<Class> {
        self.of_tenant(channel.tenant()).of_name(channel.as_str())
    }

    fn of_tenant(&self, tenant: Tenant) -> &Self {
        let index = tenant.index().checked_sub(1);
        index.and_then(|index| self.tenants.get(index)).unwrap_or(self)
    }

    fn of_name(&self, name: &str) -> &Arc<Class> {
        let end = memchr::memchr(b'.', name.as_bytes()).unwrap_or(name.len());
        let indices = self.by_category.get(&name[..end]).unwrap_or(&self.any_category);
        let candidates = indices.iter().map(|index| &self.entries[*index]);
        let mut matching = candidates.filter(|(pattern, _)| pattern.matches_name(name));
        match matching.next() {
            Some((_, class)) => class,
            None => self.default_of(name),
        }
    }

    fn default_of(&self, name: &str) -> &Arc<Class> {
        let mut matching = self.defaults.iter().filter(|(template, _)| template.matches(name));
        matching.next().map_or(&self.default, |(_, class)| class)
    }

    /// Whether a class of this tenant has a `max_rate`.
    #[must_use]
    pub fn has_max_rate(&self, tenant: Tenant) -> bool {
        let own = self.of_tenant(tenant);
        let has_one = |class: &Arc<Class>| class.max_rate.is_some();
        own.entries.iter().any(|(_, class)| has_one(class)) || own.defaults.iter().any(|(_, class)| has_one(class))
    }

    /// The most updates that a client can get of a channel that the pattern matches and whose class conflates. `None`: there
    /// is no such channel. `Some(None)`: as many as there are.
    #[must_use]
    pub fn conflated_rate(&self, pattern: &Pattern) -> Option<Option<Rate>> {
        let mut fastest: Option<Option<Rate>> = None;
        let mut add = |class: &Class| {
            if class.overflow == Overflow::Conflate {
                fastest = Some(fastest.map_or(class.max_rate, |known| faster(known, class.max_rate)));
            }
        };
        let own = self.of_tenant(pattern.tenant());
        // The patterns of entries stand for those of every tenant.
        let pattern = pattern.clone().in_tenant(Tenant::DEFAULT);
        for (entry, class) in &own.entries {
            if entry.intersects(&pattern) {
                add(class);
            }
            if entry.covers(&pattern) {
                return fastest;
            }
        }
        for (template, class) in &own.defaults {
            if template.can_match(&pattern.clone().in_tenant(template.tenant())) {
                add(class);
            }
        }
        fastest
    }

    /// The slowest limit of a class; `None`: no class has one.
    #[must_use]
    pub fn slowest_rate(&self) -> Option<Rate> {
        let entries = self.entries.iter().map(|(_, class)| class.max_rate);
        let defaults = self.defaults.iter().map(|(_, class)| class.max_rate);
        let tenants = self.tenants.iter().map(Self::slowest_rate);
        entries.chain(defaults).chain(tenants).fold(None, slower)
    }

    /// All entries in order: the operator's, then the built-in ones.
    #[must_use]
    pub fn entries(&self) -> &[(Pattern, Arc<Class>)] {
        &self.entries
    }
}

#[cfg(test)]
mod tests;
