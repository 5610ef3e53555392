//! What gateways read from a NATS broker: messages of its streams, notices, and merged values.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tickgate::broker::nats;
use tickgate::hub::{Epoch, Hub, Settings};
use tickgate::time::Now;
use tickgate_protocol::channel::{BookRules, Channel, Class, Classes, Overflow, Pattern};

/// The input is a subject, a line end, and a payload. As a notice, all of it is the payload.
pub fn check(input: &[u8]) {
    let lost = nats::read_notice(input, 1 << 20, 1_800_000_000_000);
    for lost in lost.iter().flatten() {
        assert!(lost.start < lost.end && lost.end < 1 << 53);
    }
    check_merged(input);
    let end = memchr::memchr(b'\n', input).unwrap_or(input.len());
    let Ok(subject) = std::str::from_utf8(&input[..end]) else {
        return;
    };
    let payload = Bytes::copy_from_slice(input.get(end + 1..).unwrap_or_default());
    let Some(event) = nats::read_message("t", subject, &payload) else {
        return;
    };
    assert!((1..=128).contains(&event.name.len()) && !event.name.chars().any(char::is_control));
    let data = std::str::from_utf8(&event.data).expect("JSON is UTF-8");
    assert!(tickgate_protocol::json::check_value(data).is_ok());
    // What was read can be written and read again.
    let (subject, payload) = nats::write_message("t", &event);
    let again = nats::read_message("t", &subject, &payload).expect("an event");
    assert_eq!(
        (&again.channel, &again.name, &again.data),
        (&event.channel, &event.name, &event.data)
    );
    assert_eq!((again.timestamp_ms, again.options), (event.timestamp_ms, event.options));
}

/// A hub with records and books.
static HUB: LazyLock<Arc<Hub>> = LazyLock::new(|| {
    let rows = Class {
        cache_last: true,
        record_key: Some("id".into()),
        overflow: Overflow::Conflate,
        ..Class::default()
    };
    let book = |depth| Class {
        record_key: None,
        book: Some(BookRules { depth }),
        ..rows.clone()
    };
    let pattern = |text| Pattern::parse(text).expect("valid");
    let classes = vec![
        (pattern("rows.*"), rows.clone()),
        (pattern("book.*"), book(None)),
        (pattern("deep.*"), book(Some(2))),
    ];
    let settings = Settings {
        classes: Arc::new(Classes::new(classes)),
        ..Settings::default()
    };
    Hub::new(settings, 1, |_, _| Bytes::new()).0
});

/// What is restored of a merged value is JSON.
fn check_merged(payload: &[u8]) {
    for name in ["rows.a", "book.a", "deep.a"] {
        let channel = Channel::parse(name).expect("valid");
        let Some(merged) = nats::read_merged(channel.clone(), payload) else {
            return;
        };
        HUB.reset(Epoch(1), 0);
        HUB.restore_merged(merged, Now::default(), 0);
        if let Some(last) = HUB.last(&channel, Now::default()) {
            let data = std::str::from_utf8(&last.data).expect("JSON is UTF-8");
            assert!(tickgate_protocol::json::check_value(data).is_ok(), "{data}");
        }
    }
}
