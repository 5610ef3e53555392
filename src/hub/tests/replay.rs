//! A hub that reads the log back holds what a hub holds that has followed it all the time: merged values, last values and
//! histories. The log has lost older events of each channel; merged values were handed over at some time.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::event::{Deletion, NewEvent, PublishOptions};
use tickgate_protocol::channel::{BookRules, Class, History, Overflow};
use tickgate_protocol::json::RecordDelete;

const SEED: u64 = 1;

/// Each has all events of one channel, on average.
const CHANNELS: [&str; 12] = [
    "rows.a", "rows.b", "gone.a", "same.a", "kept.a", "kept.b", "diff.a", "book.a", "book.b", "deep.a", "ends.a",
    "last.a",
];

const SIZE: u32 = 8;

fn classes() -> Classes {
    let rows = Class {
        cache_last: true,
        record_key: Some("id".into()),
        overflow: Overflow::Conflate,
        ..Class::default()
    };
    let gone = Class {
        record_delete: Some(RecordDelete {
            field: "gone".into(),
            values: [].into(),
        }),
        ..rows.clone()
    };
    let same = Class {
        only_changed: true,
        ..gone.clone()
    };
    let kept = Class {
        history: Some(History {
            size: SIZE,
            ttl_ms: 1 << 40,
        }),
        overflow: Overflow::Disconnect,
        ..gone.clone()
    };
    let diff = Class {
        only_changed: true,
        ..kept.clone()
    };
    let ends = Class {
        last_ttl_ms: Some(1 << 40),
        fresh_within_ms: Some(1 << 40),
        ..rows.clone()
    };
    let last = Class {
        cache_last: true,
        overflow: Overflow::Conflate,
        ..Class::default()
    };
    let book = |depth| Class {
        book: Some(BookRules { depth }),
        ..last.clone()
    };
    let entries = [
        ("rows.*", rows),
        ("gone.*", gone),
        ("same.*", same),
        ("kept.*", kept),
        ("diff.*", diff),
        ("ends.*", ends),
        ("book.*", book(None)),
        ("deep.*", book(Some(3))),
        ("last.*", last),
    ];
    for (text, class) in &entries {
        class.check().unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    Classes::new(entries.map(|(text, class)| (pattern(text), class)).into())
}

fn follower() -> Arc<Hub> {
    let settings = Settings {
        numbering: Numbering::Log,
        classes: Arc::new(classes()),
        ..Settings::default()
    };
    Hub::new(settings, 1, NO_FRAME).0
}

struct Log {
    random: StdRng,
    // The numbers of the books' updates.
    seq: HashMap<&'static str, u64>,
    entries: Vec<(NewEvent, u64)>,
}

impl Log {
    /// Appends a random event of a channel.
    fn append(&mut self, name: &'static str) {
        let random = &mut self.random;
        let number = self.entries.len() as u64 + 1;
        let (mut options, mut data) = (PublishOptions::default(), number.to_string());
        let (key, goes) = (random.random_range(0..6), random.random_bool(0.3));
        match name.split('.').next() {
            _ if random.random_bool(0.03) => {
                options.deletes = Some(match random.random_bool(0.5) {
                    true => Deletion::Everything,
                    false => Deletion::EndedLast,
                });
                data = "null".to_owned();
            }
            Some("book" | "deep") => {
                let prev = self.seq.get(name).copied().unwrap_or(0);
                let seq = prev + random.random_range(1..4);
                // Sometimes the publisher has left out an update.
                let prev = prev.saturating_sub(u64::from(random.random_bool(0.02)));
                self.seq.insert(name, seq);
                let snapshot = if random.random_bool(0.02) {
                    r#","snapshot":true"#
                } else {
                    ""
                };
                let size = if goes { 0 } else { number };
                let side = if random.random_bool(0.5) { "bids" } else { "asks" };
                data = format!(
                    r#"{{"seq":{seq},"prev_seq":{prev}{snapshot},"n":{number},"{side}":[["{key}.0",{size}]]}}"#
                );
            }
            Some("last") => {}
            // A value that replaces all records.
            Some(_) if random.random_bool(0.03) => data = format!(r#"{{"n":{number}}}"#),
            Some(_) => data = format!(r#"[{{"id":{key},"n":{},"gone":{goes}}}]"#, random.random_range(0..3)),
            None => unreachable!("a name has segments"),
        }
        let event = NewEvent {
            data: data.into(),
            options,
            ..event(name, 0)
        };
        self.entries.push((event, number * LOG_STEP));
    }
}

fn apply(hub: &Hub, (event, version): &(NewEvent, u64), is_replayed: bool) {
    let credit = hub.credit_now(Tenant::DEFAULT, 0).expect("free");
    let stamp = Stamp {
        version: *version,
        age_ms: 0,
        is_replayed,
    };
    hub.apply(event.clone(), stamp, Now::default(), credit, &mut Wakes::default());
}

fn value(hub: &Hub, name: &str) -> Option<(u64, String)> {
    let last = hub.last(&channel(name), Now::default())?;
    Some((last.version, String::from_utf8(last.data.to_vec()).expect("text")))
}

/// The events after a position; `None`: some are missing.
fn history(hub: &Hub, name: &str, position: u64) -> Option<Vec<(u64, Bytes)>> {
    let page = hub.read(
        &channel(name),
        Since::After(position),
        NO_LIMIT,
        Now::default(),
        &mut |_| {},
    );
    let event = |event: &Arc<Event>| (event.version, event.data.clone());
    (!page.overtaken).then(|| page.events.iter().map(event).collect())
}

/// Returns how many channels differ, and how many positions were answered.
fn run(seed: u64, hands_over: bool) -> (usize, usize) {
    let mut log = Log {
        random: StdRng::seed_from_u64(seed),
        seq: HashMap::new(),
        entries: Vec::new(),
    };
    let old = follower();
    let mut handed_over = HashMap::<&str, Merged>::new();
    for _ in 0..400 {
        let name = CHANNELS[log.random.random_range(0..CHANNELS.len())];
        log.append(name);
        apply(&old, &log.entries[log.entries.len() - 1], false);
        if hands_over
            && log.random.random_bool(0.1)
            && let Some(merged) = old.merged(&channel(name))
        {
            handed_over.insert(name, merged);
        }
    }
    // The log has as many events of a channel as the history has, and one more, and all since the value.
    let mut left: HashMap<&str, usize> = HashMap::new();
    let mut kept = Vec::new();
    let more = log.random.random_range(0..20);
    for entry in log.entries.iter().rev() {
        let name = entry.0.channel.as_str();
        let has_history = name.starts_with("kept") || name.starts_with("diff");
        let needs_nothing = handed_over.contains_key(name) && !has_history;
        let at_least = if needs_nothing { 0 } else { SIZE as usize + 1 };
        let left = left.entry(name).or_insert(at_least + more);
        let is_needed = handed_over.get(name).is_some_and(|merged| entry.1 > merged.version);
        if *left > 0 || is_needed {
            *left = left.saturating_sub(1);
            kept.push(entry.clone());
        }
    }
    kept.reverse();
    let new = follower();
    new.reset(Epoch(1), 0);
    for merged in handed_over.values() {
        assert!(new.restore_merged(merged.clone(), Now::default(), 0));
    }
    kept.iter().for_each(|entry| apply(&new, entry, true));
    let mut answered = 0;
    let mut different = 0;
    for round in 0..2 {
        for name in CHANNELS {
            let has_value = handed_over.contains_key(name) || name == "last.a";
            let (expected, got) = (value(&old, name), value(&new, name));
            if expected != got {
                different += 1;
                let told = !has_value || !hands_over;
                assert!(
                    told,
                    "seed {seed}, round {round}, {name}: {got:?} instead of {expected:?}"
                );
            }
            let positions: Vec<u64> = log.entries.iter().map(|(_, version)| *version).collect();
            let is_exact = name.starts_with("kept") || name.starts_with("diff") && hands_over && has_value;
            for position in positions.iter().step_by(13).filter(|_| is_exact) {
                if let Some(got) = history(&new, name, *position) {
                    answered += 1;
                    let expected = history(&old, name, *position);
                    assert_eq!(
                        Some(got),
                        expected,
                        "seed {seed}, round {round}, {name} after {position}"
                    );
                }
            }
        }
        // Both follow the log together from here on.
        for _ in 0..100 {
            let name = CHANNELS[log.random.random_range(0..CHANNELS.len())];
            log.append(name);
            let entry = &log.entries[log.entries.len() - 1];
            apply(&old, entry, false);
            apply(&new, entry, false);
        }
    }
    (different, answered)
}

#[test]
fn a_hub_that_reads_the_log_back_holds_the_same_with_the_merged_values_of_another_one() {
    let first = std::env::var("TICKGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let runs = std::env::var("TICKGATE_SEEDS").ok().and_then(|runs| runs.parse().ok());
    let seeds = match first {
        Some(seed) => seed..seed + 1,
        None => SEED..SEED + runs.unwrap_or(30),
    };
    let (mut answered, mut without) = (0, 0);
    for seed in seeds.clone() {
        answered += run(seed, true).1;
        // Planted fault: nothing is handed over.
        without += run(seed, false).0;
    }
    assert!(answered > 0 && without > 0, "{answered} {without}");
}
