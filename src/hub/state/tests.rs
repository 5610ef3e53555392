//! The state of one stripe, compared with simple models.

mod book;
mod ids;
mod passing;
mod records;

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::channel::FRAME_OVERHEAD;
use super::*;
use crate::event::{NewEvent, PublishOptions};
use tickgate_protocol::channel::{Classes, History, Overflow};

const WINDOW_MS: u64 = 300_000;
const IDS_MAX: u32 = 1000;
const LIMIT: PageLimit = PageLimit {
    events: usize::MAX,
    bytes: usize::MAX,
};

fn at(mono_ms: u64) -> Now {
    Now { mono_ms, unix_ms: 0 }
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("valid")
}

fn history(size: u32, ttl_ms: u64) -> Class {
    Class {
        history: Some(History { size, ttl_ms }),
        overflow: Overflow::Disconnect,
        ..Class::default()
    }
}

fn last() -> Class {
    Class {
        cache_last: true,
        overflow: Overflow::Conflate,
        ..Class::default()
    }
}

fn by_code() -> Class {
    Class {
        record_key: Some("code".into()),
        ..last()
    }
}

fn new(name: &str, data: &str) -> NewEvent {
    NewEvent {
        channel: channel(name),
        name: "n".into(),
        data: data.to_owned().into(),
        timestamp_ms: 0,
        options: PublishOptions::default(),
    }
}

/// Publishes as the hub does, including the comparison.
fn publish(channels: &mut Channels, event: NewEvent, class: &Class, now: Now) -> Stored {
    publish_in(channels, event, class, now, &Generations::new(WINDOW_MS, IDS_MAX))
}

fn publish_in(channels: &mut Channels, event: NewEvent, class: &Class, now: Now, generations: &Generations) -> Stored {
    let mut prepared = Prepared::new(event, Arc::new(class.clone())).expect("well formed");
    if prepared.wants_comparison() {
        let known = channels.known(&prepared);
        prepared.compare(&known);
    }
    generations.rotate(now.mono_ms);
    let times = (now, None, generations);
    let stored = channels.store(prepared, Transit::default(), times, 1, &mut Garbage::default());
    assert_eq!(
        channels.bytes(),
        channels.recount(),
        "bytes must be counted where they change"
    );
    stored
}

fn version(stored: &Stored) -> u64 {
    match stored {
        Stored::Event(event) => event.version,
        Stored::Duplicate(_) => panic!("a duplicate"),
        Stored::Unchanged => panic!("unchanged"),
    }
}

fn texts(page: &Page) -> Vec<&str> {
    page.events
        .iter()
        .map(|event| std::str::from_utf8(&event.data).expect("text"))
        .collect()
}

impl Channels {
    /// Counts all bytes again, and checks that the two indices and the order of use contain the same channels.
    fn recount(&self) -> usize {
        let mut in_use = Vec::new();
        let (mut next, mut before) = (self.oldest, None);
        while let Some(slot) = next {
            let kept = &self.slots[slot as usize];
            assert_eq!(kept.older, before);
            assert_eq!(self.by_name.get(&kept.channel), Some(&slot));
            assert_eq!(self.in_order.get(&place(&kept.channel)), Some(&slot));
            in_use.push(slot);
            (before, next) = (next, kept.newer);
        }
        assert_eq!(self.newest, before);
        let sizes = (self.by_name.len(), self.in_order.len(), self.slots.len());
        assert_eq!(sizes, (in_use.len(), in_use.len(), in_use.len()));
        self.slots.iter().map(|(_, kept)| kept.bytes()).sum()
    }

    fn ask(&mut self, name: &str, since: Since, now: Now) -> Page {
        self.read(&channel(name), since, LIMIT, now, 1)
    }
}

#[test]
fn a_newcomer_gets_the_newest_value_and_a_client_that_has_it_gets_nothing() {
    let mut channels = Channels::default();
    publish(&mut channels, new("a.b", "1"), &last(), at(0));
    let newest = version(&publish(&mut channels, new("a.b", "2"), &last(), at(0)));
    for (above, expected) in [(0, vec!["2"]), (newest - 1, vec!["2"]), (newest, vec![])] {
        let page = channels.ask("a.b", Since::Newest { above }, at(0));
        assert_eq!((texts(&page), page.last, page.overtaken), (expected, newest, false));
    }
    assert!(channels.ask("a.c", Since::Newest { above: 0 }, at(0)).events.is_empty());
}

#[test]
fn a_value_that_is_too_old_for_newcomers_is_still_read_by_clients_that_fell_behind() {
    let mut channels = Channels::default();
    let mut event = new("a.b", "1");
    event.options.fresh_ms = Some(30);
    publish(&mut channels, event, &last(), at(100));
    let mut seen = Vec::new();
    for now in [129, 130] {
        channels.view(
            &channel("a.b"),
            |_| unreachable!("the channel has state"),
            at(now),
            &mut |view| {
                seen.push((view.latest, view.has_last));
            },
        );
        let page = channels.ask("a.b", Since::Newest { above: 0 }, at(now));
        assert_eq!(page.events.len(), usize::from(now < 130));
    }
    assert_eq!(seen, [(1, true), (1, false)]);
    publish(&mut channels, new("a.b", "2"), &last(), at(200));
    let page = channels.ask("a.b", Since::Newest { above: 1 }, at(1_000_000));
    assert_eq!(texts(&page), ["2"]);
}

#[test]
fn an_evicted_channel_leaves_a_floor_and_its_offsets_continue() {
    let mut channels = Channels::default();
    let class = history(10, 1000);
    for data in ["1", "2"] {
        publish(&mut channels, new("a.b", data), &class, at(0));
    }
    assert!(channels.evict(false, &mut Garbage::default()));
    assert!(!channels.evict(false, &mut Garbage::default()));
    let gone = channels.ask("a.b", Since::After(1), at(0));
    assert!(gone.overtaken && gone.events.is_empty());
    assert!(
        !channels.ask("a.b", Since::After(2), at(0)).overtaken,
        "nothing was missed"
    );
    assert!(
        !channels.ask("a.b", Since::Newest { above: 0 }, at(0)).overtaken,
        "a newcomer"
    );
    // The eviction has a version as well.
    assert_eq!(version(&publish(&mut channels, new("a.b", "3"), &class, at(0))), 4);
    let cases = [
        (0, None),
        (1, None),
        (2, Some(vec!["3"])),
        (3, Some(vec!["3"])),
        (4, Some(vec![])),
        (5, None),
    ];
    for (since, expected) in cases {
        let page = channels.ask("a.b", Since::After(since), at(0));
        assert_eq!((!page.overtaken).then(|| texts(&page)), expected, "{since}");
    }
    assert_eq!(channels.counts.evicted, 1);
    // The next eviction tells what was gone before it.
    assert!(channels.evict(false, &mut Garbage::default()));
    let tombstones: Vec<_> = channels.tombstones.after(0).map(|(_, tombstone)| tombstone).collect();
    assert_eq!(
        tombstones
            .iter()
            .map(|last| (last.floor, last.latest))
            .collect::<Vec<_>>(),
        [(2, 4)]
    );
}

#[test]
fn the_least_recently_used_channel_is_evicted_first() {
    let mut channels = Channels::default();
    for name in ["a.1", "a.2", "a.3"] {
        publish(&mut channels, new(name, "1"), &last(), at(0));
    }
    channels.ask("a.1", Since::Newest { above: 0 }, at(1));
    let mut garbage = Garbage::default();
    while channels.evict(false, &mut garbage) {}
    let order: Vec<_> = garbage.channels.iter().map(|kept| kept.channel.as_str()).collect();
    assert_eq!(order, ["a.2", "a.3", "a.1"]);
    assert_eq!((channels.bytes(), channels.recount()), (0, 0));
}

#[test]
fn a_channel_with_a_history_but_no_event_has_a_position() {
    let mut channels = Channels::default();
    publish(&mut channels, new("a.other", "1"), &history(10, 1000), at(0));
    let mut seen = Vec::new();
    let mut view = |channels: &mut Channels, text: &str, class: Class| {
        let class = Arc::new(class);
        channels.view(&channel(text), |_| &class, at(0), &mut |view| {
            seen.push((
                view.channel.to_string(),
                view.latest,
                view.covers(1),
                view.covers(0),
                view.covers(2),
            ));
        });
    };
    view(&mut channels, "a.b", history(10, 1000));
    view(&mut channels, "a.c", last());
    view(&mut channels, "a.other", history(10, 1000));
    let expected = |name: &str| (name.to_owned(), 1, true, true, false);
    assert_eq!(seen, [expected("a.b"), expected("a.other")]);
}

#[test]
fn the_size_of_a_value_grows_with_the_formats_it_is_read_in() {
    let kept = Class {
        cache_last: true,
        ..history(9, 1000)
    };
    for (class, data) in [(last(), "1"), (kept, "1"), (by_code(), r#"[{"code":"x"}]"#)] {
        let mut channels = Channels::default();
        publish(&mut channels, new("a.b", data), &class, at(0));
        let mut bytes = |formats| {
            channels.read(&channel("a.b"), Since::Newest { above: 0 }, LIMIT, at(0), formats);
            assert_eq!(channels.bytes(), channels.recount());
            channels.bytes()
        };
        let (few, many) = (bytes(1), bytes(5));
        assert!(many >= few + 4 * FRAME_OVERHEAD, "{few} {many} {class:?}");
        assert_eq!(bytes(1), many, "encoded frames are kept");
    }
}

#[test]
fn equal_json_values_are_not_sent_unless_they_are_forced() {
    let mut channels = Channels::default();
    let class = Class {
        only_changed: true,
        ..Class::default()
    };
    let mut is_sent = |data: &str, change: &dyn Fn(&mut NewEvent)| {
        let mut event = new("a.b", data);
        change(&mut event);
        matches!(publish(&mut channels, event, &class, at(0)), Stored::Event(_))
    };
    assert!(is_sent(r#"{"a":1}"#, &|_| ()));
    assert!(!is_sent(r#"{ "a": 1.0 }"#, &|_| ()));
    assert!(is_sent(r#"{"a":1}"#, &|event| event.name = "other".into()));
    assert!(is_sent(r#"{"a":1}"#, &|event| event.name = "n".into()));
    assert!(is_sent(r#"{"a":1}"#, &|event| event.options.even_if_unchanged = true));
    assert!(!is_sent(r#"{"a":1}"#, &|_| ()));
    assert_eq!(channels.counts.unchanged, 2);
}

#[test]
fn pages_are_bounded_in_events_and_bytes() {
    let mut channels = Channels::default();
    for data in ["1", "\"long\"", "3", "4"] {
        publish(&mut channels, new("a.b", data), &history(10, 1000), at(0));
    }
    let mut page = |since, events, bytes| {
        let limit = PageLimit { events, bytes };
        let page = channels.read(&channel("a.b"), Since::After(since), limit, at(0), 1);
        (page.events.len(), page.last, page.more)
    };
    assert_eq!(page(0, 2, 1000), (2, 2, true));
    assert_eq!(page(2, 2, 1000), (2, 4, false));
    assert_eq!(page(0, 0, 0), (1, 1, true), "a page has at least one event");
    assert_eq!(page(0, 9, 2), (2, 2, true));
    assert_eq!(page(4, 9, 9), (0, 4, false));
}

#[derive(Clone, Debug)]
enum Step {
    Publish { channel: u8, kind: u8 },
    Pass(u64),
    Evict,
    Read { channel: u8, since: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..3, 0u8..4).prop_map(|(channel, kind)| Step::Publish { channel, kind }),
        1 => (0u64..8).prop_map(Step::Pass),
        1 => Just(Step::Evict),
        4 => (0u8..3, 0u64..40).prop_map(|(channel, since)| Step::Read { channel, since }),
    ]
}

/// The history of one channel: every event that was ever published, and those that must still be available.
#[derive(Default)]
struct Model {
    all: Vec<(u64, String)>,
    ring: VecDeque<(u64, u64, String)>,
    // The version of its newest event when it was last evicted.
    evicted: u64,
}

proptest! {
    // A page is either complete or overtaken. It is overtaken only if an event that was asked for is gone, or may have been
    // evicted.
    #[test]
    fn a_history_gives_all_events_after_an_offset_or_reports_that_some_are_gone(
        steps in prop::collection::vec(step(), 1..120),
        size in 1u32..6,
        ttl_ms in 1u64..12,
    ) {
        let mut channels = Channels::default();
        let class = history(size, ttl_ms);
        let mut models: [Model; 3] = Default::default();
        let (mut now, mut head) = (0, 0);
        for step in steps {
            match step {
                Step::Publish { channel, kind } => {
                    let data = format!("{{\"n\":{head},\"k\":{kind}}}");
                    let name = format!("a.{channel}");
                    let stored = publish(&mut channels, new(&name, &data), &class, at(now));
                    head += 1;
                    prop_assert_eq!(version(&stored), head);
                    let model = &mut models[usize::from(channel)];
                    model.all.push((head, data.clone()));
                    model.ring.push_back((head, now, data));
                }
                Step::Pass(ms) => now += ms,
                Step::Evict => {
                    let mut garbage = Garbage::default();
                    channels.evict(false, &mut garbage);
                    for gone in garbage.channels {
                        head += 1;
                        let index: usize = gone.channel.as_str()[2..].parse().expect("a number");
                        models[index].ring.clear();
                        models[index].evicted = gone.latest;
                    }
                }
                Step::Read { channel, since } => {
                    let model = &mut models[usize::from(channel)];
                    while model.ring.len() > size as usize || model.ring.front().is_some_and(|(_, at, _)| at + ttl_ms <= now) {
                        model.ring.pop_front();
                    }
                    let page = channels.ask(&format!("a.{channel}"), Since::After(since), at(now));
                    let wanted: Vec<&str> = model.all.iter().filter(|(offset, _)| *offset > since).map(|(_, data)| &**data).collect();
                    let is_there = since <= head && wanted.len() <= model.ring.len();
                    if page.overtaken {
                        prop_assert!(!is_there || since < model.evicted, "overtaken although all events are available: since {} of {}", since, head);
                        prop_assert!(page.events.is_empty());
                    } else {
                        prop_assert!(is_there);
                        prop_assert_eq!(texts(&page), wanted);
                    }
                }
            }
            prop_assert_eq!(channels.bytes(), channels.recount());
        }
    }

    // The model is a client that falls behind and merges what it reads, as a browser does.
    #[test]
    fn a_client_that_merges_the_changed_records_has_all_current_records(
        steps in prop::collection::vec((prop::collection::btree_map(0u8..6, 0u8..3, 0..5), any::<bool>(), any::<bool>()), 1..30),
        only_changed in any::<bool>(),
    ) {
        let class = Class { only_changed, ..by_code() };
        let mut channels = Channels::default();
        let mut truth = BTreeMap::new();
        let mut client: (u64, BTreeMap<String, u64>) = Default::default();
        for (update, reads, forced) in steps {
            let records = update.iter().map(|(code, n)| serde_json::json!({"code": format!("s{code}"), "n": n}));
            let data = serde_json::Value::Array(records.collect()).to_string();
            let mut event = new("a.b", &data);
            event.options.even_if_unchanged = forced;
            let changed = update.iter().filter(|(code, n)| truth.get(&format!("s{code}")) != Some(&u64::from(**n))).count();
            let stored = publish(&mut channels, event, &class, at(0));
            truth.extend(update.iter().map(|(code, n)| (format!("s{code}"), u64::from(*n))));
            if let Stored::Event(event) = &stored {
                let sent: Vec<serde_json::Value> = serde_json::from_slice(&event.data).expect("an array");
                let expected = if only_changed && !forced { changed } else { update.len() };
                // The first event is always sent.
                prop_assert!(sent.len() == expected || event.version == 1, "{} of {}", sent.len(), expected);
            } else {
                prop_assert!(only_changed && !forced && changed == 0);
            }
            if reads {
                let page = channels.ask("a.b", Since::Newest { above: client.0 }, at(0));
                prop_assert!(!page.overtaken);
                for event in &page.events {
                    let records: Vec<serde_json::Value> = serde_json::from_slice(&event.data).expect("an array");
                    for record in records {
                        client.1.insert(record["code"].as_str().expect("text").to_owned(), record["n"].as_u64().expect("a number"));
                    }
                }
                client.0 = page.last;
                prop_assert_eq!(&client.1, &truth);
            }
        }
    }

    // The model matches every channel one by one.
    #[test]
    fn pages_of_any_size_view_exactly_the_channels_that_match(
        names in prop::collection::btree_set(crate::generate::channel(), 0..30),
        patterns in prop::collection::vec(crate::generate::pattern(), 1..5),
        channels_max in 1usize..8,
    ) {
        let mut channels = Channels::default();
        for name in &names {
            publish(&mut channels, new(name.as_str(), "1"), &last(), at(0));
        }
        let (mut seen, mut after, mut visited) = (Vec::new(), None, 0);
        let prefixes = Prefixes::of(patterns.iter());
        loop {
            let view = &mut |view: ChannelView<'_>| seen.push(view.channel.clone());
            let page = channels.scan((&prefixes, &patterns), after.as_ref(), channels_max, at(0), view);
            prop_assert!(page.channels <= channels_max);
            visited += page.channels;
            after = page.last;
            if after.is_none() {
                break;
            }
        }
        prop_assert!(visited <= names.len(), "no channel is visited twice");
        let matches = |name: &Channel| patterns.iter().any(|pattern| pattern.matches(name));
        let expected: Vec<_> = names.into_iter().filter(matches).collect();
        prop_assert_eq!(seen, expected);
    }
}

#[test]
fn the_built_in_classes_and_the_state_agree_on_offsets() {
    let classes = Classes::default();
    let mut channels = Channels::default();
    for (name, has_offset) in [
        ("grid.g.order", true),
        ("grid.g.status", false),
        ("system.kill_switch", true),
    ] {
        let class = Arc::clone(classes.of(&channel(name)));
        let stored = publish(&mut channels, new(name, "1"), &class, at(0));
        let Stored::Event(event) = stored else { panic!("kept") };
        assert_eq!(event.offset.is_some(), has_offset, "{name}");
        assert!(event.version > 0);
    }
}
