//! What gateways read from a NATS broker: messages of its streams, and notices.

use bytes::Bytes;
use tickgate::broker::nats;

/// The input is a subject, a line end, and a payload. As a notice, all of it is the payload.
pub fn check(input: &[u8]) {
    let lost = nats::read_notice(input, 1 << 20, 1_800_000_000_000);
    for lost in lost.iter().flatten() {
        assert!(lost.start < lost.end && lost.end < 1 << 53);
    }
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
