//! Merged records.

use super::super::records::{DELETED_MIN, RECORDS_MAX};
use super::*;
use tickgate_protocol::json::{Deleted, RecordDelete, RecordKey};

#[test]
fn data_that_is_not_an_array_of_records_replaces_the_whole_value() {
    let mut channels = Channels::default();
    let class = by_code();
    for (data, expected) in [
        (r#"[{"code":"x","n":1}]"#, r#"[{"code":"x","n":1}]"#),
        (r#"[{"code":"y","n":1}]"#, r#"[{"code":"x","n":1},{"code":"y","n":1}]"#),
        (r#"[{"code":"x","n":2},{"n":3}]"#, r#"[{"code":"x","n":2},{"n":3}]"#),
        (r#"[{"code":7}]"#, r#"[{"code":7}]"#),
        (r#"[{"code":"7","n":1}]"#, r#"[{"code":"7","n":1}]"#),
        ("[]", r#"[{"code":"7","n":1}]"#),
        (r#"{"code":"x"}"#, r#"{"code":"x"}"#),
        ("[]", "[]"),
        (r#"[{"code":"x","n":1},{"code":"x","n":2}]"#, r#"[{"code":"x","n":2}]"#),
    ] {
        publish(&mut channels, new("a.b", data), &class, at(0));
        let page = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
        assert_eq!(texts(&page), [expected], "after {data}");
    }
}

#[test]
fn the_last_of_several_records_with_the_same_name_in_one_event_counts() {
    let mut channels = Channels::default();
    let class = Class {
        only_changed: true,
        ..by_code()
    };
    let (one, two) = (r#"{"code":"x","n":1}"#, r#"{"code":"x","n":2}"#);
    publish(&mut channels, new("a.b", &format!("[{two}]")), &class, at(0));
    let mut sent = |data: String| match publish(&mut channels, new("a.b", &data), &class, at(0)) {
        Stored::Event(event) => Some(String::from_utf8(event.data.to_vec()).expect("text")),
        _ => None,
    };
    assert_eq!(sent(format!("[{one},{two}]")), None, "the last record is unchanged");
    let ends_with_one = format!("[{two},{one}]");
    assert_eq!(sent(ends_with_one.clone()), Some(ends_with_one));
    let page = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
    assert_eq!(texts(&page), [format!("[{one}]")]);
}

#[test]
fn a_client_with_records_from_before_a_whole_value_gets_that_value_first() {
    let mut channels = Channels::default();
    let (a, whole, b) = (r#"[{"code":"a"}]"#, r#""nothing""#, r#"[{"code":"b"}]"#);
    for data in [a, whole, b] {
        publish(&mut channels, new("a.b", data), &by_code(), at(0));
    }
    for (above, expected) in [(0, vec![b]), (1, vec![whole, b]), (2, vec![b]), (3, vec![])] {
        let page = channels.ask("a.b", Since::Newest { above }, at(0));
        assert_eq!(
            (texts(&page), page.last, page.overtaken),
            (expected, 3, false),
            "{above}"
        );
    }
    // A later whole value replaces it.
    publish(&mut channels, new("a.b", "7"), &by_code(), at(0));
    let page = channels.ask("a.b", Since::Newest { above: 1 }, at(0));
    assert_eq!(texts(&page), ["7"]);
    publish(&mut channels, new("a.b", a), &by_code(), at(0));
    let page = channels.ask("a.b", Since::Newest { above: 1 }, at(0));
    assert_eq!(texts(&page), ["7", a]);
}

#[test]
fn a_read_of_merged_records_from_before_the_floor_is_overtaken() {
    let mut channels = Channels::default();
    for data in [r#"[{"code":"x"}]"#, r#"[{"code":"y"}]"#] {
        publish(&mut channels, new("a.b", data), &by_code(), at(0));
    }
    channels.evict(false, &mut Garbage::default());
    publish(&mut channels, new("a.b", r#"[{"code":"z"}]"#), &by_code(), at(0));
    assert!(channels.ask("a.b", Since::Newest { above: 1 }, at(0)).overtaken);
    assert!(!channels.ask("a.b", Since::Newest { above: 2 }, at(0)).overtaken);
    let newcomer = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
    assert_eq!(texts(&newcomer), [r#"[{"code":"z"}]"#]);
}

#[test]
fn a_read_from_before_forgotten_records_is_overtaken() {
    let mut channels = Channels::default();
    let many = |from: usize, to: usize| {
        let records: Vec<String> = (from..to).map(|code| format!(r#"{{"code":{code}}}"#)).collect();
        format!("[{}]", records.join(","))
    };
    // Versions 1 to 3. The third exceeds the bound by one record, so that all records of the first and some of the second
    // are forgotten.
    let eighth = RECORDS_MAX / 8;
    for (from, to) in [(0, 10), (10, 2 * eighth), (2 * eighth, RECORDS_MAX + 1)] {
        publish(&mut channels, new("a.b", &many(from, to)), &by_code(), at(0));
    }
    for (above, overtaken) in [(1, true), (2, false), (3, false)] {
        let page = channels.ask("a.b", Since::Newest { above }, at(0));
        assert_eq!(page.overtaken, overtaken, "{above}");
    }
    let newcomer = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
    assert!(!newcomer.overtaken && newcomer.events.len() == 1);
}

fn by_symbol_and_side() -> Class {
    Class {
        record_key: RecordKey::new(vec!["s".to_owned(), "side".to_owned()]).ok(),
        record_delete: Some(RecordDelete {
            field: "size".into(),
            values: [Deleted::Number(0.into())].into(),
        }),
        ..last()
    }
}

fn level(symbol: &str, side: &str, size: &str) -> String {
    format!(r#"[{{"s":"{symbol}","side":"{side}","size":{size}}}]"#)
}

#[test]
fn a_deleted_record_reaches_those_who_are_behind_and_no_newcomer() {
    let mut channels = Channels::default();
    let class = by_symbol_and_side();
    let publish = |channels: &mut Channels, data: &str| publish(channels, new("a.b", data), &class, at(0));
    publish(&mut channels, &level("x", "buy", "1"));
    publish(&mut channels, &level("x", "sell", "2"));
    publish(&mut channels, &level("x", "buy", "0.00"));
    let records = |channels: &mut Channels, above| {
        let page = channels.ask("a.b", Since::Newest { above }, at(0));
        assert!(!page.overtaken);
        texts(&page).concat()
    };
    let (sell, gone) = (level("x", "sell", "2"), level("x", "buy", "0.00"));
    assert_eq!(records(&mut channels, 0), sell, "a newcomer");
    assert_eq!(records(&mut channels, 2), gone);
    // The order is that in which the records were first seen.
    assert_eq!(
        records(&mut channels, 1),
        format!("{},{}", gone.trim_end_matches(']'), &sell[1..])
    );
    publish(&mut channels, &level("x", "buy", "3"));
    assert_eq!(records(&mut channels, 2), level("x", "buy", "3"), "it came back");
    for data in [level("x", "buy", "0"), level("x", "sell", "0")] {
        publish(&mut channels, &data);
    }
    assert_eq!(records(&mut channels, 0), "[]");
}

#[test]
fn what_does_not_exist_cannot_be_deleted() {
    let mut channels = Channels::default();
    let class = Class {
        only_changed: true,
        ..by_symbol_and_side()
    };
    let mut is_sent = |data: &str| {
        let stored = publish(&mut channels, new("a.b", data), &class, at(0));
        matches!(stored, Stored::Event(_))
    };
    assert!(is_sent(&level("x", "buy", "1")));
    assert!(!is_sent(&level("x", "sell", "0")), "it was never there");
    assert!(is_sent(&level("x", "buy", "0")));
    assert!(!is_sent(&level("x", "buy", "0.0")), "it is gone already");
    assert!(is_sent(&level("x", "buy", "1")));
}

#[test]
fn deleted_records_are_bounded_and_who_missed_forgotten_ones_is_told() {
    let mut channels = Channels::default();
    let class = by_symbol_and_side();
    publish(&mut channels, new("a.b", &level("kept", "buy", "1")), &class, at(0));
    let mut deletions = Vec::new();
    for number in 0..=DELETED_MIN {
        for size in ["1", "0"] {
            let data = level(&number.to_string(), "buy", size);
            let Stored::Event(event) = publish(&mut channels, new("a.b", &data), &class, at(0)) else {
                panic!("stored")
            };
            deletions.push(event.version);
        }
    }
    // The bound was exceeded by the last one: the oldest of them, and a quarter more, are forgotten.
    let forgotten = 1 + DELETED_MIN / 4;
    let last_forgotten = deletions[2 * forgotten - 1];
    let mut ask = |above| channels.ask("a.b", Since::Newest { above }, at(0));
    assert!(ask(last_forgotten - 1).overtaken);
    let page = ask(last_forgotten);
    assert!(!page.overtaken);
    let kept = DELETED_MIN + 1 - forgotten;
    assert_eq!(texts(&page).concat().matches("\"size\":0").count(), kept);
    assert_eq!(texts(&ask(0)), [level("kept", "buy", "1")]);
}
