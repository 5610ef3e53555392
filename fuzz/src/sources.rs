//! What a source makes of messages: its templates, and what anybody writes into a stream, a subject or a channel.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use tickgate::backend::ingest::{
    FieldPath, Origin, RedisFrom, SourceChannel, SourceEvent, SourceSettings, Start, StreamSettings, read_message,
};
use tickgate::redis::RedisServer;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::json::{Scratch, check_value, read_record, split_array};

/// The longest `data` of an event.
const EVENT_BYTES: usize = 2000;

/// The input is five lines, and a message: the channel, the event, the field with the data or nothing, the record key or
/// nothing, and the subject.
pub fn check(input: &[u8]) {
    let mut parts = input.splitn(6, |byte| *byte == b'\n');
    let mut line = || std::str::from_utf8(parts.next()?).ok();
    let (Some(channel), Some(event), Some(data), Some(record_key), Some(subject)) =
        (line(), line(), line(), line(), line())
    else {
        return;
    };
    let message = parts.next().unwrap_or_default();
    let (Some(channel), Some(event)) = (parsed::<SourceChannel>(channel), parsed::<SourceEvent>(event)) else {
        return;
    };
    let settings = SourceSettings {
        tenant: Tenant::DEFAULT,
        channel,
        event,
        origin: Origin::Redis {
            server: RedisServer::default(),
            from: RedisFrom::Stream(subject.into()),
            stream: StreamSettings {
                consumer: "tickgate".into(),
                subject: None,
                start: Start::All,
            },
        },
        data: parsed::<FieldPath>(data),
        record_key: (!record_key.is_empty()).then(|| record_key.into()),
        event_bytes: EVENT_BYTES,
    };
    let pattern = settings.channel.pattern();
    for event in read_message(&settings, subject, message) {
        assert!(pattern.matches(&event.channel), "{} is not of {pattern}", event.channel);
        assert!((1..=128).contains(&event.name.len()) && !event.name.chars().any(char::is_control));
        let text = std::str::from_utf8(&event.data).expect("JSON is UTF-8");
        assert!(text.len() <= EVENT_BYTES && check_value(text) == Ok(text));
        if let Some(key) = &settings.record_key {
            for record in split_array(text, EVENT_BYTES).expect("records") {
                assert!(
                    read_record(&mut Scratch::default(), record, key, None).is_ok(),
                    "{record}"
                );
            }
        }
    }
}

/// What is written of a template is the same template.
fn parsed<T: FromStr + Display + Debug + PartialEq>(text: &str) -> Option<T> {
    let parsed = text.parse::<T>().ok()?;
    assert_eq!(parsed.to_string().parse::<T>().ok().as_ref(), Some(&parsed), "{text}");
    Some(parsed)
}
