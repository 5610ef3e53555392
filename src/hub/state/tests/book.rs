//! Order books, compared with a model.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tickgate_protocol::channel::BookRules;
use tickgate_protocol::json::{BookError, Decimal, Scratch, read_book};

use super::super::book;
use super::*;

fn books(depth: Option<u32>) -> Class {
    Class {
        book: Some(BookRules { depth }),
        ..last()
    }
}

/// Texts of levels by price: bids, then asks.
type Sides = [BTreeMap<Decimal, String>; 2];

/// A book as a client has it, and what it was told.
#[derive(Clone, Debug, Default, PartialEq)]
struct Held {
    sides: Sides,
    seq: Option<u64>,
    is_stale: bool,
    name: Option<String>,
}

impl Held {
    /// Applies the data of an event, as docs/protocol.md tells clients to.
    fn apply(&mut self, data: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(data).expect("text");
        let update = read_book(text, &mut Scratch::default()).map_err(|error| format!("{error}: {text}"))?;
        let value: Value = serde_json::from_str(text).expect("JSON");
        if update.is_snapshot {
            *self = Self::default();
        } else if let (Some(before), Some(seq)) = (update.prev_seq, self.seq)
            && before != seq
            && !update.is_stale
        {
            return Err(format!("{seq} is held, and the update is after {before}: {text}"));
        }
        for (side, levels) in update.sides.into_iter().enumerate() {
            for level in levels {
                if level.is_removed {
                    self.sides[side].remove(&level.price);
                } else {
                    self.sides[side].insert(level.price, level.raw.into());
                }
            }
        }
        self.seq = update.seq.or(self.seq);
        self.is_stale |= update.is_stale;
        if let Some(name) = value["name"].as_str() {
            self.name = Some(name.to_owned());
        }
        Ok(())
    }

    /// The best levels of each side.
    fn view(&self, depth: Option<u32>) -> Sides {
        let depth = depth.map_or(usize::MAX, |depth| depth as usize);
        let own = |(price, text): (&Decimal, &String)| (price.clone(), text.clone());
        [
            self.sides[0].iter().rev().take(depth).map(own).collect(),
            self.sides[1].iter().take(depth).map(own).collect(),
        ]
    }
}

/// A random update after number `seq`, and its number.
fn update(rng: &mut StdRng, seq: u64, numbered: bool) -> (String, u64) {
    let is_snapshot = rng.random_bool(0.05);
    let side = |rng: &mut StdRng, base: i64| {
        let count = rng.random_range(0..if is_snapshot { 8 } else { 3 });
        let levels = (0..count).map(|_| {
            let price = base + rng.random_range(0..8);
            let price = match rng.random_range(0..3) {
                0 => format!("{price}0e-1"),
                1 => format!("\"{price}.00\""),
                _ => price.to_string(),
            };
            let size = if rng.random_bool(0.4) {
                "0.00".to_owned()
            } else {
                format!("\"{}.5\"", rng.random_range(0..9))
            };
            format!("[{price},{size}]")
        });
        levels.collect::<Vec<_>>().join(",")
    };
    let (bids, asks) = (side(rng, 92), side(rng, 100));
    let mut data = format!(r#"{{"bids":[{bids}],"asks":[{asks}],"snapshot":{is_snapshot}"#);
    let mut next = seq;
    if numbered {
        next = seq + if rng.random_bool(0.04) { 2 } else { 1 };
        data += &format!(r#","seq":{next}"#);
        if rng.random_bool(0.5) {
            data += &format!(r#","prev_seq":{}"#, next - 1);
        }
    }
    if rng.random_bool(0.2) {
        data += &format!(r#","name":"n{}""#, rng.random_range(0..100));
    }
    (data + "}", next)
}

/// Runs publishers and readers; `fault` changes what a reader gets.
fn run(seed: u64, fault: impl Fn(&mut Vec<u8>)) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let depth = [None, Some(1), Some(3)][rng.random_range(0..3)];
    let numbered = rng.random_bool(0.7);
    let class = books(depth);
    let mut channels = Channels::default();
    // All that was published, applied without a gateway; what gets every event; and readers that are behind.
    let (mut model, mut live) = (Held::default(), Held::default());
    let mut readers = vec![(Held::default(), 0); 3];
    let (mut seq, mut is_stale) = (0, false);
    for step in 0..60 {
        let (data, next) = update(&mut rng, seq, numbered);
        let is_snapshot = data.contains("\"snapshot\":true");
        is_stale = (is_stale || next > seq + 1) && !is_snapshot;
        seq = next;
        let before = model.view(depth);
        model.seq = None;
        model.apply(data.as_bytes())?;
        let wrong = |what: &str| format!("step {step}: {what} after {data}");
        match publish(&mut channels, new("a.b", &data), &class, at(0)) {
            Stored::Event(event) => live.apply(&event.data).map_err(|error| wrong(&error))?,
            _ if model.view(depth) == before && !is_snapshot => {}
            _ => return Err(wrong("the change is not sent")),
        }
        let check = |held: &Held, who: &str| {
            if held.sides != model.view(depth) {
                return Err(wrong(&format!(
                    "{who} has {:?}, not {:?}",
                    held.sides,
                    model.view(depth)
                )));
            }
            if held.is_stale != is_stale {
                return Err(wrong(&format!("{who} takes the book for stale: {}", held.is_stale)));
            }
            Ok(())
        };
        if model.sides.iter().any(|side| !side.is_empty()) || live.seq.is_some() {
            check(&live, "the live client")?;
        }
        for (held, above) in &mut readers {
            if rng.random_bool(0.8) {
                continue;
            }
            let page = channels.ask("a.b", Since::Newest { above: *above }, at(0));
            if page.overtaken {
                return Err(wrong("overtaken"));
            }
            for event in &page.events {
                let mut data = event.data.to_vec();
                fault(&mut data);
                held.apply(&data).map_err(|error| wrong(&error))?;
            }
            if !page.events.is_empty() || *above > 0 {
                check(held, "a reader")?;
                if held.seq != live.seq {
                    return Err(wrong(&format!("a reader is at {:?}, not {:?}", held.seq, live.seq)));
                }
            }
            if !page.events.is_empty() {
                *above = page.last;
            }
        }
    }
    Ok(())
}

#[test]
fn every_client_has_the_book_of_the_model() {
    for seed in 0..400 {
        if let Err(error) = run(seed, |_| {}) {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn a_merged_book_that_differs_from_the_model_is_found() {
    let without_last_level = |data: &mut Vec<u8>| {
        let text = String::from_utf8(data.clone()).expect("text");
        if let Some(at) = text.rfind(",[") {
            let end = at + text[at..].find(']').expect("the end of a level") + 1;
            data.splice(at..end, []);
        }
    };
    let found = (0..20).filter(|seed| run(*seed, without_last_level).is_err()).count();
    assert!(found > 10, "{found} of 20");
}

#[test]
fn a_newcomer_gets_the_whole_book_and_who_is_behind_the_changes() {
    let mut channels = Channels::default();
    let mut sent = |data: &str, depth| match publish(&mut channels, new("a.b", data), &books(depth), at(0)) {
        Stored::Event(event) => Some(String::from_utf8(event.data.to_vec()).expect("text")),
        _ => None,
    };
    let first =
        r#"{"symbol":"x","snapshot":true,"bids":[["10.0","1"],["9","2"]],"asks":[["11","3"]],"seq":5,"checksum":77}"#;
    let second = r#"{"bids":[["10","0"],["8.50","4"]], "seq":6,"checksum":78}"#;
    let third = r#"{"asks":[["11.00","5"]],"seq":9,"checksum":79}"#;
    assert_eq!(sent(first, None).as_deref(), Some(first), "byte for byte");
    assert_eq!(sent(second, None).as_deref(), Some(second));
    assert_eq!(
        sent(third, None).as_deref(),
        Some(r#"{"seq":9,"stale":true,"checksum":79,"bids":[],"asks":[["11.00","5"]]}"#),
        "7 and 8 are missing"
    );
    for (above, expected) in [
        (
            0,
            r#"{"snapshot":true,"symbol":"x","seq":9,"stale":true,"checksum":79,"bids":[["9","2"],["8.50","4"]],"asks":[["11.00","5"]]}"#,
        ),
        (
            1,
            r#"{"symbol":"x","prev_seq":5,"seq":9,"stale":true,"checksum":79,"bids":[["10","0"],["8.50","4"]],"asks":[["11.00","5"]]}"#,
        ),
        (
            2,
            r#"{"symbol":"x","prev_seq":6,"seq":9,"stale":true,"checksum":79,"bids":[],"asks":[["11.00","5"]]}"#,
        ),
    ] {
        let page = channels.ask("a.b", Since::Newest { above }, at(0));
        assert_eq!(texts(&page), [expected], "{above}");
    }
    assert_eq!(channels.counts.book_gaps, 1);
    let whole = r#"{"snapshot":true,"bids":[],"asks":[],"seq":20}"#;
    publish(&mut channels, new("a.b", whole), &books(None), at(0));
    let page = channels.ask("a.b", Since::Newest { above: 2 }, at(0));
    assert_eq!(
        texts(&page),
        [r#"{"snapshot":true,"seq":20,"bids":[],"asks":[]}"#],
        "stale no more"
    );
}

#[test]
fn with_a_depth_clients_get_the_changes_of_their_view() {
    let mut channels = Channels::default();
    let class = books(Some(2));
    let mut sent = |data: &str| match publish(&mut channels, new("a.b", data), &class, at(0)) {
        Stored::Event(event) => Some(String::from_utf8(event.data.to_vec()).expect("text")),
        _ => None,
    };
    for (data, expected) in [
        (
            r#"{"snapshot":true,"s":"x","bids":[[3,1],[2,1],[1,1]],"asks":[],"seq":1,"checksum":7}"#,
            Some(r#"{"snapshot":true,"s":"x","seq":1,"bids":[[3,1],[2,1]],"asks":[]}"#),
        ),
        (r#"{"bids":[[0.5,1],[1,7]],"seq":2}"#, None),
        // The level that moves up is sent, as it is by now.
        (
            r#"{"bids":[[3,0.0]],"seq":3}"#,
            Some(r#"{"prev_seq":1,"seq":3,"bids":[[3,0.0],[1,7]],"asks":[]}"#),
        ),
        // The level that is pushed out is removed from the view.
        (
            r#"{"bids":[["4","9"]],"seq":4}"#,
            Some(r#"{"prev_seq":3,"seq":4,"bids":[[1,0],["4","9"]],"asks":[]}"#),
        ),
        (
            r#"{"bids":[[0.4,1]],"seq":6}"#,
            Some(r#"{"prev_seq":4,"seq":6,"stale":true,"bids":[],"asks":[]}"#),
        ),
    ] {
        assert_eq!(sent(data).as_deref(), expected, "{data}");
    }
    let page = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
    let whole = r#"{"snapshot":true,"s":"x","seq":6,"stale":true,"bids":[["4","9"],[2,1]],"asks":[]}"#;
    assert_eq!(texts(&page), [whole]);
}

#[test]
fn a_first_update_that_follows_another_one_is_stale() {
    for (data, is_stale) in [
        (r#"{"bids":[[1,1]]}"#, false),
        (r#"{"bids":[[1,1]],"seq":1}"#, false),
        (r#"{"bids":[[1,1]],"seq":2}"#, true),
        (r#"{"bids":[[1,1]],"seq":1,"prev_seq":0}"#, false),
        (r#"{"bids":[[1,1]],"seq":9,"prev_seq":4}"#, true),
        (r#"{"snapshot":true,"bids":[[1,1]],"seq":7,"prev_seq":6}"#, false),
    ] {
        let mut channels = Channels::default();
        publish(&mut channels, new("a.b", data), &books(None), at(0));
        let page = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
        assert_eq!(texts(&page).concat().contains("\"stale\":true"), is_stale, "{data}");
    }
}

#[test]
fn what_is_no_update_of_a_book_is_refused() {
    let prepared = |data: &str| Prepared::new(new("a.b", data), Arc::new(books(None))).err();
    assert_eq!(prepared("[]"), Some(BookError::NotAnObject));
    assert_eq!(prepared(r#"{"bids":[[1,"x"]]}"#), Some(BookError::Level));
    assert_eq!(prepared(r#"{"bids":[[1,"2"]]}"#), None);
    let deletion = NewEvent::deletion(channel("a.b"), crate::event::Deletion::Everything, 0);
    assert!(Prepared::new(deletion, Arc::new(books(None))).is_ok());
}

#[test]
fn levels_are_bounded_and_who_missed_forgotten_ones_gets_the_whole_book() {
    let mut channels = Channels::default();
    let class = books(None);
    let many = |levels: &mut dyn Iterator<Item = u32>, size: u32| {
        let levels: Vec<String> = levels.map(|price| format!("[{price},{size}]")).collect();
        format!(r#"{{"bids":[{}]}}"#, levels.join(","))
    };
    let half = u32::try_from(book::LEVELS_MAX / 2).expect("small");
    for from in [1, half + 1] {
        publish(
            &mut channels,
            new("a.b", &many(&mut (from..from + half), 1)),
            &class,
            at(0),
        );
    }
    publish(
        &mut channels,
        new("a.b", &many(&mut (2 * half + 1..2 * half + 4), 1)),
        &class,
        at(0),
    );
    assert_eq!(channels.counts.book_levels_dropped, 3, "the three worst");
    let held = |page: &Page| {
        let mut held = Held::default();
        for event in &page.events {
            held.apply(&event.data).expect("a book");
        }
        (held.sides[0].len(), texts(page).concat().contains("snapshot"))
    };
    let whole = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
    assert_eq!(held(&whole), (book::LEVELS_MAX, true));
    // More removed levels than others are not kept.
    let keep = 100;
    publish(&mut channels, new("a.b", &many(&mut (keep..half), 0)), &class, at(0));
    publish(
        &mut channels,
        new("a.b", &many(&mut (half..2 * half + 4), 0)),
        &class,
        at(0),
    );
    let behind = channels.ask("a.b", Since::Newest { above: 3 }, at(0));
    assert_eq!(held(&behind), (96, true));
    let up_to_date = channels.ask("a.b", Since::Newest { above: 5 }, at(0));
    assert!(up_to_date.events.is_empty());
}

#[test]
fn a_book_is_restored_from_its_export() {
    for depth in [None, Some(1)] {
        let class = books(depth);
        let mut channels = Channels::default();
        let update = r#"{"snapshot":true,"s":"é","bids":[["1.50",2],[1,2]],"asks":[[2,3]],"seq":4,"checksum":"c"}"#;
        publish(&mut channels, new("a.b", update), &class, at(0));
        let mut parts: BTreeMap<Arc<str>, crate::hub::RecordExport> = BTreeMap::new();
        let mut save = |channels: &mut Channels, all| {
            let export = channels.export(all, at(0));
            let mut saved = export.channels.into_iter().next().expect("it changed");
            if saved.restarted {
                parts.clear();
            }
            parts.extend(saved.records.drain(..).map(|part| (Arc::clone(&part.name), part)));
            saved.records = parts.values().cloned().collect();
            (export.counters, saved)
        };
        save(&mut channels, true);
        publish(
            &mut channels,
            new("a.b", r#"{"bids":[[1.5,0]],"asks":[[3,1]],"seq":9}"#),
            &class,
            at(0),
        );
        let (counters, saved) = save(&mut channels, false);
        let mut restored = Channels::default();
        restored.restore_counters(counters);
        restored.restore(saved, &Arc::new(class.clone()), Owners::default(), at(0));
        assert_eq!(restored.bytes(), restored.recount());
        let whole = |channels: &mut Channels| {
            let page = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
            texts(&page).concat()
        };
        assert_eq!(whole(&mut restored), whole(&mut channels), "{depth:?}");
        // The numbers go on.
        let next = r#"{"bids":[[5,1]],"seq":10}"#;
        publish(&mut restored, new("a.b", next), &class, at(0));
        assert_eq!(restored.counts.book_gaps, 0);
    }
}
