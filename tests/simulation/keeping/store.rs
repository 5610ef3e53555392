//! The hub with two shards, and the truth: what was published to each channel, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tickgate::broker::Embedded;
use tickgate::event::{Deletion, NewEvent, PublishOptions};
use tickgate::hub::{self, Hub, Inbox, PageLimit, Since, StateSettings, Wakes};
use tickgate::metrics::ShardMetrics;
use tickgate::shard::Settings;
use tickgate::shard::core::ShardCore;
use tickgate::time::{Clock, Now};
use tickgate_protocol::channel::{BookRules, Channel, Class, Classes, History, Overflow, Pattern};
use tickgate_protocol::dialect;
use tickgate_protocol::json::RecordDelete;

use crate::surroundings::FakeServices;

/// Number of shards with clients.
pub(crate) const SHARDS: u16 = 2;

/// The class of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Last value, conflate.
    Last,
    /// Last value of each record by `code`, conflate.
    Records,
    /// An order book, conflate. Its levels are as records: the price is the code, the size the number, 0 if deleted.
    Book,
    /// History, disconnect.
    Orders,
    /// Last value, history, disconnect.
    Life,
    /// History, drop oldest.
    Trades,
    /// Neither last value nor history, drop oldest.
    Log,
}

impl Kind {
    pub(crate) fn has_history(self) -> bool {
        matches!(self, Self::Orders | Self::Life | Self::Trades)
    }

    /// Whether the value is merged, of records or levels.
    pub(crate) fn merges(self) -> bool {
        matches!(self, Self::Records | Self::Book)
    }

    fn class(self, size: u32) -> Class {
        let history = self.has_history().then_some(History { size, ttl_ms: 20_000 });
        Class {
            cache_last: matches!(self, Self::Last | Self::Records | Self::Book | Self::Life),
            history,
            overflow: match self {
                Self::Last | Self::Records | Self::Book => Overflow::Conflate,
                Self::Orders | Self::Life => Overflow::Disconnect,
                Self::Trades | Self::Log => Overflow::DropOldest,
            },
            record_key: (self == Self::Records).then(|| "code".into()),
            record_delete: (self == Self::Records).then(|| RecordDelete {
                field: "gone".into(),
                values: [].into(),
            }),
            book: (self == Self::Book).then(BookRules::default),
            only_changed: self == Self::Last,
            ..Class::default()
        }
    }
}

/// The channels that are published and subscribed to.
pub(crate) const CHANNELS: [(&str, Kind); 15] = [
    ("price.a", Kind::Last),
    ("price.b", Kind::Last),
    ("price.c.x", Kind::Last),
    ("board.a", Kind::Records),
    ("board.b", Kind::Records),
    ("book.a", Kind::Book),
    ("book.b", Kind::Book),
    ("order.a", Kind::Orders),
    ("order.b", Kind::Orders),
    ("order.c.x", Kind::Orders),
    ("life.a", Kind::Life),
    ("life.b", Kind::Life),
    ("trade.a", Kind::Trades),
    ("trade.b", Kind::Trades),
    ("log.a", Kind::Log),
];

/// An accepted event.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    /// Its number, counted over all channels.
    pub(crate) number: u64,
    pub(crate) offset: Option<u64>,
    /// The codes of its records, if it has any, and whether they are deleted.
    pub(crate) codes: Vec<(String, bool)>,
    /// Whether it tells that the channel was deleted.
    pub(crate) deletes: bool,
}

/// What was published since the store began.
#[derive(Default)]
pub(crate) struct Truth(BTreeMap<&'static str, Vec<Fact>>);

impl Truth {
    pub(crate) fn of(&self, channel: &str) -> &[Fact] {
        self.0.get(channel).map_or(&[], |facts| facts)
    }

    /// The number of a channel's events at or before an offset.
    pub(crate) fn up_to(&self, channel: &str, offset: u64) -> usize {
        let facts = self.of(channel).iter();
        facts
            .take_while(|fact| fact.offset.is_some_and(|at| at <= offset))
            .count()
    }

    /// The newest number of each record, in events from index `from` on; `None`: it was deleted then.
    pub(crate) fn records(&self, channel: &str, from: usize) -> BTreeMap<&str, Option<u64>> {
        let mut records = BTreeMap::new();
        for fact in self.of(channel).iter().skip(from) {
            if fact.deletes {
                records.values_mut().for_each(|number| *number = None);
            }
            for (code, is_deleted) in &fact.codes {
                records.insert(&**code, (!is_deleted).then_some(fact.number));
            }
        }
        records
    }

    /// Whether the newest event of a channel deleted it.
    pub(crate) fn is_deleted(&self, channel: &str) -> bool {
        self.of(channel).last().is_some_and(|fact| fact.deletes)
    }
}

pub(crate) struct Store {
    pub(crate) hub: Arc<Hub>,
    pub(crate) cores: Vec<ShardCore>,
    pub(crate) stats: Vec<Arc<ShardMetrics>>,
    // An inbox to read the hub's state with.
    observer: Inbox,
    pub(crate) truth: Truth,
    /// Whether a subscribe request may take several passes.
    pub(crate) is_slow: bool,
    /// Whether connections have a limit of bytes. What a history lost before they read it counts as one dropped event.
    pub(crate) is_limited: bool,
}

impl Store {
    pub(crate) fn new(now: Now, rng: &mut StdRng) -> Self {
        let one_of = |choices: &[usize], rng: &mut StdRng| choices.choose(rng).copied().unwrap_or(1);
        let size = u32::try_from(one_of(&[5, 40, 400], rng)).expect("small");
        let classes = [
            ("price.*", Kind::Last),
            ("board.*", Kind::Records),
            ("book.*", Kind::Book),
            ("order.*", Kind::Orders),
            ("life.*", Kind::Life),
            ("trade.*", Kind::Trades),
            ("log.*", Kind::Log),
        ];
        let classes = classes.map(|(pattern, kind)| (Pattern::parse(pattern).expect("valid"), kind.class(size)));
        let channels = one_of(&[5, 9, 1_000], rng);
        let settings = hub::Settings {
            credits: u32::try_from(one_of(&[16, 64, 256], rng)).expect("small"),
            classes: Arc::new(Classes::new(classes.into())),
            state: StateSettings {
                channels,
                // One tombstone in each stripe, or as many as are needed.
                tombstones: one_of(&[1, 1_000], rng),
                ..StateSettings::default()
            },
            ..hub::Settings::default()
        };
        let usual = Settings::new(0).subscribe_steps;
        let subscribe_steps = [usual, usual, 2, 7, 24].choose(rng).copied().unwrap_or(usual);
        let (hub, mut inboxes) = Hub::new(settings, usize::from(SHARDS) + 1, dialect::encode_event);
        let observer = inboxes.pop().expect("one more than shards");
        let (mut cores, mut all_stats) = (Vec::new(), Vec::new());
        for (shard, inbox) in (0..).zip(inboxes) {
            let stats = Arc::<ShardMetrics>::default();
            let broker = Arc::new(Embedded::new(hub.clone(), Clock::start()));
            let settings = Settings {
                subscribe_steps,
                ..Settings::new(shard)
            };
            cores.push(ShardCore::new(
                settings,
                inbox,
                Arc::<FakeServices>::default(),
                broker,
                stats.clone(),
                now,
            ));
            all_stats.push(stats);
        }
        Self {
            hub,
            cores,
            stats: all_stats,
            observer,
            truth: Truth::default(),
            // An answer is also delayed while news of an evicted channel is in transit.
            is_slow: subscribe_steps < usual || channels < 1_000,
            is_limited: false,
        }
    }

    /// Publishes the next event to a channel, if a credit is available.
    pub(crate) fn publish(&mut self, channel: &'static str, kind: Kind, number: u64, now: Now, rng: &mut StdRng) {
        if rng.random_bool(0.03) {
            return self.delete(channel, number, now);
        }
        let mut codes = Vec::new();
        let data = match kind {
            Kind::Records | Kind::Book => {
                let all = if kind == Kind::Book {
                    ["1", "2", "3", "4", "5"]
                } else {
                    ["u", "v", "w", "x", "y"]
                };
                for code in all {
                    if rng.random_bool(0.3) {
                        codes.push((code.to_owned(), rng.random_bool(0.3)));
                    }
                }
                if codes.is_empty() {
                    codes.push((all[0].to_owned(), false));
                }
                let records = codes
                    .iter()
                    .map(|(code, is_deleted)| json!({"code": code, "n": number, "gone": is_deleted}));
                if kind == Kind::Book {
                    let levels = codes.iter().map(|(price, is_removed)| {
                        let size = if *is_removed { 0 } else { number };
                        json!([price, size])
                    });
                    json!({"n": number, "bids": levels.collect::<Vec<_>>(), "asks": []})
                } else {
                    Value::Array(records.collect())
                }
            }
            // Sometimes an unchanged value, which is not sent.
            Kind::Last if rng.random_bool(0.2) => {
                let last = self.truth.of(channel).last().filter(|fact| !fact.deletes);
                json!({"n": last.map_or(number, |fact| fact.number)})
            }
            _ => json!({"n": number, "pad": crate::client::padding(rng)}),
        };
        let data = data.to_string();
        let Some(credit) = self
            .hub
            .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, data.len())
        else {
            return;
        };
        let event = NewEvent {
            channel: Channel::parse(channel).expect("valid"),
            name: "e".into(),
            data: data.clone().into(),
            timestamp_ms: now.unix_ms,
            options: PublishOptions::default(),
        };
        let receipt = self.hub.publish(event, now, credit, &mut Wakes::default());
        let published: Value = serde_json::from_str(&data).expect("just written");
        let is_again = published["n"].as_u64().is_some_and(|published| published != number);
        if !receipt.unchanged && !is_again {
            let offset = receipt.offset;
            self.truth.0.entry(channel).or_default().push(Fact {
                number,
                offset,
                codes,
                deletes: false,
            });
        } else if !receipt.unchanged {
            // The hub had forgotten the value, so it counts as changed although the number is the same.
            let again = self.truth.of(channel).last().cloned().expect("it was published before");
            self.truth.0.entry(channel).or_default().push(again);
        }
    }

    // Deletes a channel. The event has its number as its timestamp, since it has no data.
    fn delete(&mut self, channel: &'static str, number: u64, now: Now) {
        let Some(credit) = self.hub.credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 4) else {
            return;
        };
        let name = Channel::parse(channel).expect("valid");
        let event = NewEvent::deletion(name, Deletion::Everything, number);
        let receipt = self.hub.publish(event, now, credit, &mut Wakes::default());
        if !receipt.unchanged {
            self.truth.0.entry(channel).or_default().push(Fact {
                number,
                offset: receipt.offset,
                codes: Vec::new(),
                deletes: true,
            });
        }
    }

    pub(crate) fn epoch(&self) -> String {
        self.hub.epoch().to_string()
    }

    /// Whether everything after an offset is kept. `None` if the hub does not know the channel.
    pub(crate) fn covers(&self, channel: &str, offset: u64, now: Now) -> Option<bool> {
        let mut covers = None;
        let channel = Channel::parse(channel).expect("valid");
        self.observer
            .view(&channel, now, &mut |view| covers = Some(view.covers(offset)));
        covers
    }

    /// Whether a new subscriber gets a last value.
    pub(crate) fn has_last(&self, channel: &str, now: Now) -> bool {
        let mut has_last = false;
        let channel = Channel::parse(channel).expect("valid");
        self.observer.view(&channel, now, &mut |view| has_last = view.has_last);
        has_last
    }

    /// A channel's value as a new subscriber would receive it: the numbers by record, or the one number.
    pub(crate) fn value(&mut self, channel: &str, now: Now) -> Option<BTreeMap<String, u64>> {
        let limit = PageLimit {
            events: 1,
            bytes: 1 << 20,
        };
        let channel = Channel::parse(channel).expect("valid");
        let page = self.observer.read(&channel, Since::Newest { above: 0 }, limit, now);
        let data: Value = serde_json::from_slice(&page.events.first()?.data).expect("JSON");
        Some(numbers(&data))
    }
}

/// The numbers in an event's data, by record. Data without records has one number, with an empty key.
pub(crate) fn numbers(data: &Value) -> BTreeMap<String, u64> {
    let number = |value: &Value| value["n"].as_u64().unwrap_or(0);
    if let Some(levels) = data["bids"].as_array() {
        let level = |level: &Value| {
            (
                level[0].as_str().unwrap_or("?").to_owned(),
                level[1].as_u64().unwrap_or(0),
            )
        };
        return levels.iter().map(level).filter(|(_, size)| *size > 0).collect();
    }
    match data.as_array() {
        None => BTreeMap::from([(String::new(), number(data))]),
        Some(records) => records
            .iter()
            .map(|record| (record["code"].as_str().unwrap_or("?").to_owned(), number(record)))
            .collect(),
    }
}

/// The codes of the deleted records in an event's data.
pub(crate) fn deleted(data: &Value) -> Vec<String> {
    let records = data.as_array().into_iter().flatten();
    let gone = records.filter(|record| record["gone"] == true);
    let gone = gone.filter_map(|record| record["code"].as_str());
    let levels = data["bids"].as_array().into_iter().flatten();
    let removed = levels
        .filter(|level| level[1] == 0)
        .filter_map(|level| level[0].as_str());
    gone.chain(removed).map(str::to_owned).collect()
}
