//! What of a source's answer is to be told. Pure.
//!
//! Invariant: whoever got a full answer and every later one holds, for each key, the record of the source's last good
//! answer that had it; no record is told that did not change; an answer that is refused leaves the memory as it was.

use std::collections::HashMap;

use bytes::Bytes;

use super::Tell;
use super::failure::Failure;
use tickgate_protocol::json::{RecordError, Scratch, check_value, count_items, record_name, same, split_array};

/// Most records of one answer.
pub(super) const RECORDS_MAX: usize = 100_000;

/// The last good answer of one channel, as far as it is needed to see changes.
#[derive(Debug, Default)]
pub(super) enum Memory {
    /// None yet.
    #[default]
    Nothing,
    /// All of it.
    Whole(Box<str>),
    /// Its records by key.
    Records(HashMap<Box<str>, Box<str>>),
}

/// What is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// `data` of each event, in order; mostly one or none.
    pub(super) events: Vec<Bytes>,
    /// Records in them: items of arrays, 1 for anything else.
    pub(super) records: usize,
}

/// Notes `answer` and says what to tell: what changed or, when `full`, everything. No event's data is longer than
/// `event_bytes`: records that do not fit into one event go into several.
pub(super) fn note(
    memory: &mut Memory,
    tell: &Tell,
    answer: &str,
    full: bool,
    event_bytes: usize,
) -> Result<Changes, Failure> {
    match tell {
        Tell::ChangedRecords(key) => records(memory, key, answer, full, event_bytes),
        Tell::Everything => whole(answer, event_bytes),
        Tell::Changed => {
            let unchanged = matches!(memory, Memory::Whole(last) if !full && same(last, answer.trim_ascii()));
            let changes = whole(answer, event_bytes)?;
            if unchanged {
                return Ok(Changes::default());
            }
            *memory = Memory::Whole(answer.trim_ascii().into());
            Ok(changes)
        }
    }
}

fn whole(answer: &str, event_bytes: usize) -> Result<Changes, Failure> {
    let data = check_value(answer).map_err(|error| bad(format!("it is no JSON: {error}")))?;
    if data.len() > event_bytes {
        return Err(bad(format!("it is longer than an event's {event_bytes} bytes")));
    }
    Ok(Changes {
        records: count_items(data.as_bytes()).unwrap_or(1),
        events: vec![Bytes::copy_from_slice(data.as_bytes())],
    })
}

fn records(memory: &mut Memory, key: &str, answer: &str, full: bool, event_bytes: usize) -> Result<Changes, Failure> {
    // As nested as an event's `data` may be, in which the records are sent.
    check_value(answer).map_err(|error| bad(format!("it is no JSON array of records: {error}")))?;
    let items =
        split_array(answer, RECORDS_MAX).map_err(|error| bad(format!("it is no JSON array of records: {error}")))?;
    let known = match &*memory {
        Memory::Records(known) => Some(known),
        _ => None,
    };
    let (mut now, mut told) = (HashMap::with_capacity(items.len()), Vec::new());
    let mut scratch = Scratch::default();
    for (index, record) in items.into_iter().enumerate() {
        let name = record_name(&mut scratch, record, key).map_err(|error| no_record(index, key, error))?;
        if record.len() + 2 > event_bytes {
            return Err(bad(format!("a record is longer than an event's {event_bytes} bytes")));
        }
        let last = known.and_then(|known| known.get(&name));
        if full || !last.is_some_and(|last| same(last, record)) {
            told.push(record);
        }
        if now.insert(name, Box::from(record)).is_some() {
            return Err(bad(format!("two of its records have the same `{key}`")));
        }
    }
    let is_first = known.is_none();
    let changes = Changes {
        records: told.len(),
        events: arrays(&told, full || is_first, event_bytes),
    };
    *memory = Memory::Records(now);
    Ok(changes)
}

fn no_record(index: usize, key: &str, error: RecordError) -> Failure {
    bad(match error {
        RecordError::NoObject(error) => format!("item {index} is no record: {error}"),
        RecordError::Missing => format!("item {index} has no `{key}`"),
        RecordError::NoText => format!("the `{key}` of item {index} is no Unicode text"),
        RecordError::WrongKind => format!("the `{key}` of item {index} is neither text nor number"),
    })
}

/// Records as arrays of at most `event_bytes` each. Without any record an array only when `even_empty`.
fn arrays(records: &[&str], even_empty: bool, event_bytes: usize) -> Vec<Bytes> {
    let mut events = Vec::new();
    let mut data = String::from("[");
    for record in records {
        if data.len() > 1 {
            if data.len() + 1 + record.len() + 1 > event_bytes {
                data.push(']');
                events.push(Bytes::from(std::mem::replace(&mut data, String::from("["))));
            } else {
                data.push(',');
            }
        }
        data.push_str(record);
    }
    if data.len() > 1 || even_empty {
        data.push(']');
        events.push(data.into());
    }
    events
}

fn bad(why: String) -> Failure {
    Failure::BadAnswer(why)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use tickgate_protocol::json::MAX_DEPTH;

    const ROOM: usize = 1 << 20;

    fn by_code() -> Tell {
        Tell::ChangedRecords("code".into())
    }

    fn texts(changes: &Changes) -> Vec<&str> {
        changes
            .events
            .iter()
            .map(|data| std::str::from_utf8(data).expect("text"))
            .collect()
    }

    #[test]
    fn records_are_nested_no_deeper_than_what_is_kept_of_them() {
        let answer = |depth: usize| {
            let (open, close) = ("[".repeat(depth - 2), "]".repeat(depth - 2));
            format!(r#"[{{"code":1,"a":{open}{close}}}]"#)
        };
        let told = |answer: &str| note(&mut Memory::default(), &by_code(), answer, false, ROOM);
        let deepest = usize::try_from(MAX_DEPTH).expect("small") - 1;
        for data in told(&answer(deepest)).expect("good").events {
            // The snapshot's own check.
            check_value(std::str::from_utf8(&data).expect("text")).expect("as deep as a message's member");
        }
        assert!(told(&answer(deepest + 1)).is_err());
    }

    #[test]
    fn an_answer_is_told_when_its_value_changed() {
        let mut memory = Memory::default();
        let mut told = |answer, full| note(&mut memory, &Tell::Changed, answer, full, ROOM).expect("good");
        assert_eq!(texts(&told(" {\"a\": 1}\n", false)), ["{\"a\": 1}"]);
        assert_eq!(told("{\"a\":1.0}", false), Changes::default());
        assert_eq!(texts(&told("{\"a\":1.0}", true)), ["{\"a\":1.0}"], "to a newcomer");
        let changed = told("[1,2,{}]", false);
        assert_eq!((texts(&changed), changed.records), (vec!["[1,2,{}]"], 3));
    }

    #[test]
    fn without_only_changed_every_answer_is_told() {
        let mut memory = Memory::default();
        for _ in 0..2 {
            let changes = note(&mut memory, &Tell::Everything, "7", false, ROOM).expect("good");
            assert_eq!((texts(&changes), changes.records), (vec!["7"], 1));
        }
    }

    #[test]
    fn a_bad_answer_is_refused_and_changes_nothing() {
        let good = r#"[{"code":"a","n":1},{"code":"b","n":1}]"#;
        let long = format!(r#"[{{"code":"a","x":"{}"}}]"#, "x".repeat(200));
        for (bad, why) in [
            ("", "no JSON array"),
            ("{}", "not an array"),
            ("[1]", "item 0 is no record"),
            (r#"[{"n":1}]"#, "no `code`"),
            (r#"[{"code":null}]"#, "neither text nor number"),
            (r#"[{"code":{}}]"#, "neither text nor number"),
            (r#"[{"code":"\ud800"}]"#, "no Unicode text"),
            (r#"[{"code":"c"},{"code":"\u0063"}]"#, "two of its records"),
            (&long, "longer than an event's 100 bytes"),
        ] {
            let mut memory = Memory::default();
            note(&mut memory, &by_code(), good, false, 100).expect("good");
            let failure = note(&mut memory, &by_code(), bad, false, 100)
                .expect_err(bad)
                .to_string();
            assert!(failure.contains(why), "{bad}: {failure}");
            let again = note(&mut memory, &by_code(), good, false, 100).expect("good");
            assert_eq!(again, Changes::default(), "after {bad}");
        }
        for (bad, why) in [("{", "no JSON"), ("\"xxxxxxxxx\"", "longer")] {
            let failure = note(&mut Memory::default(), &Tell::Changed, bad, false, 10).expect_err(bad);
            assert!(failure.to_string().contains(why), "{failure}");
        }
    }

    #[test]
    fn the_first_and_a_full_answer_are_told_even_when_empty() {
        let mut memory = Memory::default();
        let mut told = |full| note(&mut memory, &by_code(), "[]", full, ROOM).expect("good").events;
        assert_eq!((told(false).len(), told(false).len(), told(true).len()), (1, 0, 1));
    }

    fn answer(source: &BTreeMap<u8, i64>) -> String {
        let records = source
            .iter()
            .map(|(code, n)| json!({ "code": format!("s{code}"), "n": n }));
        Value::Array(records.collect()).to_string()
    }

    proptest! {
        // Beside it runs a client that merges what it is told, as a browser does.
        #[test]
        fn a_client_that_merges_what_is_told_holds_the_source(
            answers in prop::collection::vec((prop::collection::btree_map(0u8..8, 0i64..3, 0..8), any::<bool>()), 1..12),
            room in 40usize..200,
        ) {
            let (mut memory, mut client) = (Memory::default(), BTreeMap::new());
            let mut last: Option<BTreeMap<u8, i64>> = None;
            for (source, full) in answers {
                let changes = note(&mut memory, &by_code(), &answer(&source), full, room).expect("good");
                let mut expected = source.clone();
                if let (Some(last), false) = (&last, full) {
                    expected.retain(|code, n| last.get(code) != Some(n));
                }
                let mut told = BTreeMap::new();
                for data in &changes.events {
                    prop_assert!(data.len() <= room);
                    let records: Vec<Value> = serde_json::from_slice(data).expect("an array");
                    for record in records {
                        let code: u8 = record["code"].as_str().expect("text")[1..].parse().expect("a number");
                        let n = record["n"].as_i64().expect("a number");
                        prop_assert_eq!(told.insert(code, n), None, "told twice");
                        client.insert(code, n);
                    }
                }
                prop_assert_eq!(&told, &expected, "all and only what changed");
                prop_assert_eq!(changes.records, expected.len());
                for (code, n) in &source {
                    prop_assert_eq!(client.get(code), Some(n));
                }
                last = Some(source);
            }
        }
    }
}
