//! Which part of a source's response is published. Pure.
//!
//! Invariant: a client that merges a full response and every later change holds, for each key, the record of the last good
//! response that contained it. An unchanged record is not published again. A refused response changes nothing.

use std::collections::HashMap;

use bytes::Bytes;

use super::PublishMode;
use super::failure::PollFailure;
use tickgate_protocol::json::{
    RecordError, RecordKey, Scratch, check_value, count_items, is_same_value, read_record, split_array,
};

/// Most records of one response.
pub(super) const RECORDS_MAX: usize = 100_000;

/// The last good response of one channel, as far as it is needed to find changes.
#[derive(Debug, Default)]
pub(super) enum LastResponse {
    /// There was none, or it is not needed.
    #[default]
    None,
    /// The whole response.
    Whole(Box<str>),
    /// The records by key.
    Records(HashMap<Box<str>, Box<str>>),
}

impl LastResponse {
    /// Takes the value that newcomers get from the hub for the last response, so that what they have is not published to
    /// them again.
    pub(super) fn from_kept(mode: &PublishMode, data: &str) -> Self {
        match mode {
            PublishMode::Everything => Self::None,
            PublishMode::Changed => Self::Whole(data.trim_ascii().into()),
            PublishMode::ChangedRecords(key) => {
                let mut last = Self::None;
                // What is kept may be a value of another form that a backend published.
                let _ = records(&mut last, key, data, false, usize::MAX);
                last
            }
        }
    }

    pub(super) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// The events to publish.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The `data` of each event, in order; usually one or none.
    pub(super) events: Vec<Bytes>,
    /// The number of records in them: the items of an array, or 1 for anything else.
    pub(super) records: usize,
}

/// Stores `response` as the last one, and returns what to publish: the changes or, with `full`, everything. Records that
/// do not fit into the `event_bytes` of one event are split over several.
///
/// # Errors
///
/// [`PollFailure::BadResponse`] when no event can be made from the response.
pub(super) fn changes(
    last: &mut LastResponse,
    mode: &PublishMode,
    response: &str,
    full: bool,
    event_bytes: usize,
) -> Result<Changes, PollFailure> {
    match mode {
        PublishMode::ChangedRecords(key) => records(last, key, response, full, event_bytes),
        PublishMode::Everything => whole(response, event_bytes),
        PublishMode::Changed => {
            let unchanged =
                matches!(last, LastResponse::Whole(last) if !full && is_same_value(last, response.trim_ascii()));
            let changes = whole(response, event_bytes)?;
            if unchanged {
                return Ok(Changes::default());
            }
            *last = LastResponse::Whole(response.trim_ascii().into());
            Ok(changes)
        }
    }
}

fn whole(response: &str, event_bytes: usize) -> Result<Changes, PollFailure> {
    let data = check_value(response).map_err(|error| bad(format!("it is not valid JSON: {error}")))?;
    if data.len() > event_bytes {
        return Err(bad(format!("it is longer than an event's {event_bytes} bytes")));
    }
    Ok(Changes {
        records: count_items(data.as_bytes()).unwrap_or(1),
        events: vec![Bytes::copy_from_slice(data.as_bytes())],
    })
}

fn records(
    last: &mut LastResponse,
    key: &RecordKey,
    response: &str,
    full: bool,
    event_bytes: usize,
) -> Result<Changes, PollFailure> {
    // Limits the depth to that of an event's `data`, in which the records are sent.
    check_value(response).map_err(|error| bad(format!("it is not a JSON array of records: {error}")))?;
    let items = split_array(response, RECORDS_MAX)
        .map_err(|error| bad(format!("it is not a JSON array of records: {error}")))?;
    let known = match &*last {
        LastResponse::Records(known) => Some(known),
        _ => None,
    };
    let (mut now, mut changed) = (HashMap::with_capacity(items.len()), Vec::new());
    let mut scratch = Scratch::default();
    for (index, record) in items.into_iter().enumerate() {
        let read = read_record(&mut scratch, record, key, None);
        let name = read.map_err(|(field, error)| bad_record(index, field, error))?.name;
        if record.len() + 2 > event_bytes {
            return Err(bad(format!("a record is longer than an event's {event_bytes} bytes")));
        }
        let before = known.and_then(|known| known.get(&name));
        if full || !before.is_some_and(|before| is_same_value(before, record)) {
            changed.push(record);
        }
        if now.insert(name, Box::from(record)).is_some() {
            return Err(bad(format!("two of its records have the same `{key}`")));
        }
    }
    let is_first = known.is_none();
    let changes = Changes {
        records: changed.len(),
        events: arrays(&changed, full || is_first, event_bytes),
    };
    *last = LastResponse::Records(now);
    Ok(changes)
}

fn bad_record(index: usize, key: &str, error: RecordError) -> PollFailure {
    bad(match error {
        RecordError::NotAnObject(error) => format!("item {index} is not a record: {error}"),
        RecordError::Missing => format!("item {index} has no `{key}`"),
        RecordError::NotUnicode => format!("the `{key}` of item {index} is not valid Unicode"),
        RecordError::WrongKind => format!("the `{key}` of item {index} is neither text nor number"),
    })
}

/// Records as arrays of at most `event_bytes` each. Without records the result is one empty array if `even_empty`.
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

fn bad(why: String) -> PollFailure {
    PollFailure::BadResponse(why)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use tickgate_protocol::json::MAX_DEPTH;

    const EVENT_BYTES: usize = 1 << 20;

    fn by_code() -> PublishMode {
        PublishMode::ChangedRecords("code".into())
    }

    fn texts(changes: &Changes) -> Vec<&str> {
        changes
            .events
            .iter()
            .map(|data| std::str::from_utf8(data).expect("text"))
            .collect()
    }

    #[test]
    fn the_depth_of_records_is_that_of_kept_events() {
        let response = |depth: usize| {
            let (open, close) = ("[".repeat(depth - 2), "]".repeat(depth - 2));
            format!(r#"[{{"code":1,"a":{open}{close}}}]"#)
        };
        let published =
            |response: &str| changes(&mut LastResponse::default(), &by_code(), response, false, EVENT_BYTES);
        let deepest = usize::try_from(MAX_DEPTH).expect("small") - 1;
        for data in published(&response(deepest)).expect("good").events {
            // The check that the snapshot makes.
            check_value(std::str::from_utf8(&data).expect("text")).expect("as deep as a message's member");
        }
        assert!(published(&response(deepest + 1)).is_err());
    }

    #[test]
    fn a_response_is_published_when_its_value_changed() {
        let mut last = LastResponse::default();
        let mut published =
            |response, full| changes(&mut last, &PublishMode::Changed, response, full, EVENT_BYTES).expect("good");
        assert_eq!(texts(&published(" {\"a\": 1}\n", false)), ["{\"a\": 1}"]);
        assert_eq!(published("{\"a\":1.0}", false), Changes::default());
        assert_eq!(texts(&published("{\"a\":1.0}", true)), ["{\"a\":1.0}"], "in full");
        let changed = published("[1,2,{}]", false);
        assert_eq!((texts(&changed), changed.records), (vec!["[1,2,{}]"], 3));
    }

    #[test]
    fn everything_is_published_without_only_changed() {
        let mut last = LastResponse::default();
        for _ in 0..2 {
            let published = changes(&mut last, &PublishMode::Everything, "7", false, EVENT_BYTES).expect("good");
            assert_eq!((texts(&published), published.records), (vec!["7"], 1));
        }
    }

    #[test]
    fn a_bad_response_is_refused_and_changes_nothing() {
        let good = r#"[{"code":"a","n":1},{"code":"b","n":1}]"#;
        let long = format!(r#"[{{"code":"a","x":"{}"}}]"#, "x".repeat(200));
        for (bad, why) in [
            ("", "not a JSON array"),
            ("{}", "not an array"),
            ("[1]", "item 0 is not a record"),
            (r#"[{"n":1}]"#, "no `code`"),
            (r#"[{"code":null}]"#, "neither text nor number"),
            (r#"[{"code":{}}]"#, "neither text nor number"),
            (r#"[{"code":"\ud800"}]"#, "not valid Unicode"),
            (r#"[{"code":"c"},{"code":"\u0063"}]"#, "two of its records"),
            (&long, "longer than an event's 100 bytes"),
        ] {
            let mut last = LastResponse::default();
            changes(&mut last, &by_code(), good, false, 100).expect("good");
            let failure = changes(&mut last, &by_code(), bad, false, 100)
                .expect_err(bad)
                .to_string();
            assert!(failure.contains(why), "{bad}: {failure}");
            let again = changes(&mut last, &by_code(), good, false, 100).expect("good");
            assert_eq!(again, Changes::default(), "after {bad}");
        }
        for (bad, why) in [("{", "not valid JSON"), ("\"xxxxxxxxx\"", "longer")] {
            let failure = changes(&mut LastResponse::default(), &PublishMode::Changed, bad, false, 10).expect_err(bad);
            assert!(failure.to_string().contains(why), "{failure}");
        }
    }

    #[test]
    fn the_first_and_a_full_response_are_published_even_when_empty() {
        let mut last = LastResponse::default();
        let mut published = |full| {
            changes(&mut last, &by_code(), "[]", full, EVENT_BYTES)
                .expect("good")
                .events
        };
        assert_eq!(
            (published(false).len(), published(false).len(), published(true).len()),
            (1, 0, 1)
        );
    }

    fn response(source: &BTreeMap<u8, i64>) -> String {
        let records = source
            .iter()
            .map(|(code, n)| json!({ "code": format!("s{code}"), "n": n }));
        Value::Array(records.collect()).to_string()
    }

    proptest! {
        // The model is a client that merges the events, as a browser does.
        #[test]
        fn a_client_that_merges_the_events_holds_the_source(
            responses in prop::collection::vec((prop::collection::btree_map(0u8..8, 0i64..3, 0..8), any::<bool>()), 1..12),
            event_bytes in 40usize..200,
        ) {
            let (mut last, mut client) = (LastResponse::default(), BTreeMap::new());
            let mut before: Option<BTreeMap<u8, i64>> = None;
            for (source, full) in responses {
                let changes = changes(&mut last, &by_code(), &response(&source), full, event_bytes).expect("good");
                let mut expected = source.clone();
                if let (Some(before), false) = (&before, full) {
                    expected.retain(|code, n| before.get(code) != Some(n));
                }
                let mut published = BTreeMap::new();
                for data in &changes.events {
                    prop_assert!(data.len() <= event_bytes);
                    let records: Vec<Value> = serde_json::from_slice(data).expect("an array");
                    for record in records {
                        let code: u8 = record["code"].as_str().expect("text")[1..].parse().expect("a number");
                        let n = record["n"].as_i64().expect("a number");
                        prop_assert_eq!(published.insert(code, n), None, "published twice");
                        client.insert(code, n);
                    }
                }
                prop_assert_eq!(&published, &expected, "exactly the changes");
                prop_assert_eq!(changes.records, expected.len());
                for (code, n) in &source {
                    prop_assert_eq!(client.get(code), Some(n));
                }
                before = Some(source);
            }
        }
    }
}
