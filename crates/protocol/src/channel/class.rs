//! What is kept of a channel's events, and what happens to a client that is too slow for them.
//!
//! Invariant: every channel has exactly one class, the first that matches it: the operator's entries in their order,
//! then the built-in table, then [`Class::default`]. A [`Class`] that was checked contradicts itself in nothing.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::{Channel, Pattern};

/// Most events of one channel's history.
pub const HISTORY_SIZE_MAX: u32 = 1_000_000;

/// What a full outbox does with the events of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// A newer event takes the place of those before it, or is merged into them by record key.
    Conflate,
    /// The oldest event goes, and the client is told.
    #[default]
    DropOldest,
    /// The client is disconnected (4008); it comes back and recovers.
    Disconnect,
}

impl Overflow {
    /// As the configuration writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflate => "conflate",
            Self::DropOldest => "drop_oldest",
            Self::Disconnect => "disconnect",
        }
    }
}

/// How much of a channel is kept for those who come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// So many of the newest events, 1 to [`HISTORY_SIZE_MAX`].
    pub size: u32,
    /// And none older than this, in milliseconds.
    pub ttl_ms: u64,
}

impl History {
    /// Of the built-in classes: 5000 events, one hour.
    pub const BUILT_IN: Self = Self {
        size: 5000,
        ttl_ms: 60 * 60 * 1000,
    };
}

/// What is kept of a channel, and what overflow does. The default is what a channel without any entry has: nothing is
/// kept, `drop_oldest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Class {
    /// A new subscriber gets the latest event (`cache = "last"`).
    pub cache_last: bool,
    /// Events are numbered and kept for recovery.
    pub history: Option<History>,
    /// What a full outbox does.
    pub overflow: Overflow,
    /// An event's array is a partial update of records, keyed by this field.
    pub record_key: Option<Box<str>>,
    /// An event that says what the last one said is not sent.
    pub only_changed: bool,
}

/// In what a class contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// Conflating forgets all but the newest event, so that one must be kept.
    #[error("`overflow = \"conflate\"` needs `cache = \"last\"`: what a slow client missed is read from there")]
    ConflateWithoutCache,
    /// Conflating would lose events that history promises.
    #[error("`overflow = \"conflate\"` and `history` contradict each other: one forgets events, the other keeps them")]
    ConflateWithHistory,
    /// Between a join and the reading of the last value nothing is kept, so that only the newest event counts.
    #[error(
        "`cache = \"last\"` without `history` needs `overflow = \"conflate\"` (which leaving it out means): events that \
         come while a new subscriber is given the last value are kept nowhere"
    )]
    CacheWithoutHistory,
    /// Without a kept merge a record key means nothing.
    #[error("`record_key` needs `cache = \"last\"`: the merged records are what is kept")]
    RecordKeyWithoutCache,
    /// No history at all is said by leaving it out.
    #[error("`history.size` must be 1 to {HISTORY_SIZE_MAX}")]
    HistorySize,
    /// Nothing would ever be kept.
    #[error("`history.ttl` must not be zero")]
    HistoryTtl,
}

impl Class {
    /// Whether the hub keeps anything of such a channel.
    #[must_use]
    pub const fn keeps_state(&self) -> bool {
        self.cache_last || self.only_changed || self.history.is_some()
    }

    /// What overflow does to such a channel when nobody says: what loses least of what is kept.
    #[must_use]
    pub const fn usual_overflow(cache_last: bool, has_history: bool) -> Overflow {
        match (cache_last, has_history) {
            (_, true) => Overflow::Disconnect,
            (true, false) => Overflow::Conflate,
            (false, false) => Overflow::DropOldest,
        }
    }

    /// Whether it contradicts itself.
    ///
    /// # Errors
    ///
    /// In what.
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
        match self.history {
            Some(History { size, .. }) if !(1..=HISTORY_SIZE_MAX).contains(&size) => Err(ClassError::HistorySize),
            Some(History { ttl_ms: 0, .. }) => Err(ClassError::HistoryTtl),
            _ => Ok(()),
        }
    }

    fn last() -> Self {
        Self {
            cache_last: true,
            overflow: Overflow::Conflate,
            ..Self::default()
        }
    }

    fn records(key: &str) -> Self {
        Self {
            record_key: Some(key.into()),
            ..Self::last()
        }
    }

    fn history(cache_last: bool, overflow: Overflow) -> Self {
        Self {
            cache_last,
            history: Some(History::BUILT_IN),
            overflow,
            ..Self::default()
        }
    }
}

/// The classes of all channels.
#[derive(Debug)]
pub struct Classes {
    entries: Vec<(Pattern, Arc<Class>)>,
    // The places of the entries that can match, in order: for each first segment that some entry names, and for all
    // other channels.
    by_category: HashMap<Box<str>, Vec<usize>, RandomState>,
    anywhere: Vec<usize>,
    plain: Arc<Class>,
}

impl Default for Classes {
    /// The built-in table alone.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Classes {
    /// The operator's entries, which come before the built-in ones.
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
        let mut anywhere = Vec::new();
        for (place, (pattern, _)) in entries.iter().enumerate() {
            let named = category(pattern);
            if named == "*" {
                anywhere.push(place);
                by_category.values_mut().for_each(|places| places.push(place));
            } else if let Some(places) = by_category.get_mut(&*named) {
                places.push(place);
            }
        }
        Self {
            entries,
            by_category,
            anywhere,
            plain: Arc::default(),
        }
    }

    /// The class of a channel. Allocates nothing.
    #[must_use]
    pub fn of(&self, channel: &Channel) -> &Arc<Class> {
        let name = channel.as_str();
        let end = memchr::memchr(b'.', name.as_bytes()).unwrap_or(name.len());
        let places = self.by_category.get(&name[..end]).unwrap_or(&self.anywhere);
        let matching = places.iter().map(|place| &self.entries[*place]);
        let mut matching = matching.filter(|(pattern, _)| pattern.matches(name));
        matching.next().map_or(&self.plain, |(_, class)| class)
    }

    /// The entries in their order, the operator's first.
    #[must_use]
    pub fn entries(&self) -> &[(Pattern, Arc<Class>)] {
        &self.entries
    }
}

/// The table that every gateway has.
fn built_in() -> Vec<(Pattern, Arc<Class>)> {
    let last = Arc::new(Class::last());
    let records = Arc::new(Class::records("code"));
    let told_and_kept = Arc::new(Class::history(true, Overflow::Disconnect));
    let kept = Arc::new(Class::history(false, Overflow::Disconnect));
    let tape = Arc::new(Class::history(false, Overflow::DropOldest));
    let rows: [(&[&str], &Arc<Class>); 5] = [
        (
            &[
                "market.*.price",
                "market.*.orderbook",
                "*.*.status",
                "*.*.pnl",
                "backtest.*.progress",
                "system.health",
                "system.status",
                "user.*",
            ],
            &last,
        ),
        (&["stock.*.price", "strategy.*.prices", "board.*.prices"], &records),
        (&["*.*.lifecycle", "system.kill_switch"], &told_and_kept),
        (
            &[
                "grid.*.order",
                "grid.*.trade",
                "grid.*.risk",
                "strategy.*.signal",
                "system.exchange",
            ],
            &kept,
        ),
        (&["market.*.trade"], &tape),
    ];
    let rows = rows.into_iter();
    rows.flat_map(|(patterns, class)| {
        let pattern = |text: &&str| Pattern::parse(text).expect("a valid pattern, as a test sees");
        patterns.iter().map(move |text| (pattern(text), Arc::clone(class)))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channel::generate;

    fn channel(name: &str) -> Channel {
        Channel::parse(name).expect("valid")
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("valid")
    }

    // The table of docs/protocol.md, row by row.
    #[test]
    fn the_built_in_table() {
        let classes = Classes::default();
        for (names, cache_last, history, overflow, key) in [
            (
                "market.BTC/USDT.price market.x.orderbook grid.g.status strategy.s.status grid.g.pnl backtest.b.progress \
                 system.health system.status user.7.balance user.7 user.7.pnl user.7.lifecycle user.7.a.b",
                true,
                false,
                Overflow::Conflate,
                None,
            ),
            (
                "stock.600519.price strategy.volume_wave.prices board.b.prices",
                true,
                false,
                Overflow::Conflate,
                Some("code"),
            ),
            (
                "grid.g.lifecycle backtest.b.lifecycle strategy.s.lifecycle system.kill_switch",
                true,
                true,
                Overflow::Disconnect,
                None,
            ),
            (
                "grid.g.order grid.g.trade grid.g.risk strategy.s.signal system.exchange",
                false,
                true,
                Overflow::Disconnect,
                None,
            ),
            ("market.BTC/USDT.trade", false, true, Overflow::DropOldest, None),
            (
                "system.log system.gateway.n1 grid.g grid.g.order.x status a.status market.x.y.price anything",
                false,
                false,
                Overflow::DropOldest,
                None,
            ),
        ] {
            for name in names.split_whitespace() {
                let class = classes.of(&channel(name));
                let expected = Class {
                    cache_last,
                    history: history.then_some(History::BUILT_IN),
                    overflow,
                    record_key: key.map(Into::into),
                    only_changed: false,
                };
                assert_eq!(**class, expected, "{name}");
                assert_eq!(class.keeps_state(), cache_last || history, "{name}");
            }
        }
        for (pattern, class) in classes.entries() {
            assert_eq!(class.check(), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn operators_entries_come_first_in_their_order() {
        let plain = Class::default();
        let changed = Class {
            only_changed: true,
            ..Class::default()
        };
        let classes = Classes::new(vec![
            (pattern("grid.vip.order"), changed.clone()),
            (pattern("grid.*.order"), plain.clone()),
            (pattern("*.vip.trade"), changed.clone()),
        ]);
        for (name, class) in [
            ("grid.vip.order", &changed),
            ("grid.abc.order", &plain),
            ("grid.vip.trade", &changed),
            ("other.vip.trade", &changed),
        ] {
            assert_eq!(**classes.of(&channel(name)), *class, "{name}");
        }
        assert!(classes.of(&channel("grid.abc.trade")).history.is_some(), "built in");
    }

    #[test]
    fn contradictions() {
        let history = |size, ttl_ms| Some(History { size, ttl_ms });
        let with = |change: fn(&mut Class)| {
            let mut class = Class::default();
            change(&mut class);
            class.check()
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(
            with(|class| class.overflow = Overflow::Conflate),
            Err(ClassError::ConflateWithoutCache)
        );
        assert_eq!(
            with(|class| class.record_key = Some("k".into())),
            Err(ClassError::RecordKeyWithoutCache)
        );
        for overflow in [Overflow::DropOldest, Overflow::Disconnect] {
            let mut class = Class {
                overflow,
                ..Class::last()
            };
            assert_eq!(class.check(), Err(ClassError::CacheWithoutHistory));
            class.history = history(1, 1);
            assert_eq!(class.check(), Ok(()));
        }
        for (size, ttl_ms, error) in [
            (0, 1, Some(ClassError::HistorySize)),
            (HISTORY_SIZE_MAX + 1, 1, Some(ClassError::HistorySize)),
            (1, 0, Some(ClassError::HistoryTtl)),
            (HISTORY_SIZE_MAX, 1, None),
        ] {
            let class = Class {
                history: history(size, ttl_ms),
                ..Class::default()
            };
            assert_eq!(class.check().err(), error);
        }
        let both = Class {
            history: history(1, 1),
            ..Class::last()
        };
        assert_eq!(both.check(), Err(ClassError::ConflateWithHistory));
    }

    proptest! {
        // Beside it runs the naive model: the first of a list that matches.
        #[test]
        fn the_first_entry_that_matches_counts(
            patterns in prop::collection::vec(generate::pattern(), 0..12),
            channel in generate::channel(),
        ) {
            let class = |place: usize| Class {
                history: Some(History { size: u32::try_from(place).expect("few") + 1, ttl_ms: 7 }),
                ..Class::default()
            };
            let entries: Vec<_> = patterns.into_iter().enumerate().map(|(place, pattern)| (pattern, class(place))).collect();
            let naive = entries.iter().find(|(pattern, _)| pattern.matches(channel.as_str())).map(|(_, class)| class.clone());
            let built_in = Classes::default();
            let naive = naive.unwrap_or_else(|| (**built_in.of(&channel)).clone());
            let classes = Classes::new(entries);
            prop_assert_eq!(&**classes.of(&channel), &naive);
        }
    }
}
