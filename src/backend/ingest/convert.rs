//! From messages to events. Pure.
//!
//! Invariant: an event is as valid as one that a backend publishes, whatever the message is.

use bytes::Bytes;

use super::template::Subject;
use super::{Message, Origin, SourceSettings};
use crate::event::{EventId, NewEvent, PublishOptions};
use tickgate_protocol::channel::TenantNames;
use tickgate_protocol::json::{Scratch, check_value, read_record, split_array};
use tickgate_protocol::message::is_event_name;

/// Most records of one message.
const RECORDS_MAX: usize = 100_000;

/// What separates the parts of names: of subjects in NATS, and by custom of names in Redis.
const NATS_SEPARATORS: &[char] = &['.'];
const REDIS_SEPARATORS: &[char] = &[':', '.'];

/// Makes events of the messages of one source.
pub(super) struct Converter {
    settings: SourceSettings,
    tenant_name: Option<Box<str>>,
    scratch: Scratch,
}

impl Converter {
    pub(super) fn new(settings: SourceSettings, tenants: &TenantNames) -> Self {
        Self {
            tenant_name: tenants.of(settings.tenant).map(Into::into),
            settings,
            scratch: Scratch::default(),
        }
    }

    /// The event of a message; the error says why it cannot be one.
    pub(super) fn convert(&mut self, message: &Message) -> Result<NewEvent, String> {
        let text = message.text.as_deref().map_err(Clone::clone)?;
        // A byte order mark is not JSON (RFC 8259, section 8.1).
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = check_value(text).map_err(|error| format!("the message is not JSON: {error}"))?;
        let settings = &self.settings;
        let separators = match settings.origin {
            Origin::Nats { .. } => NATS_SEPARATORS,
            Origin::Redis { .. } => REDIS_SEPARATORS,
        };
        let parts: Vec<&str> = message.subject.split(separators).collect();
        let subject = Subject { parts: &parts, text };
        let scratch = &mut self.scratch;
        let channel = settings.channel.fill(subject, scratch)?.in_tenant(settings.tenant);
        let name: Box<str> = settings.event.fill(subject, scratch)?.into();
        if !is_event_name(&name) {
            return Err("the name of its event must have 1 to 128 bytes and no control characters".to_owned());
        }
        let data = match &settings.data {
            None => text,
            Some(path) => {
                let found = path.find(scratch, text);
                found.ok_or_else(|| format!("the message has no field {path}"))?.0
            }
        };
        let data = self.records(data)?;
        let event_bytes = self.settings.event_bytes;
        if data.len() > event_bytes {
            return Err(format!("its data is longer than an event's {event_bytes} bytes"));
        }
        let id = message.id.as_ref().map(|id| {
            let name = format!("source\0{id}");
            EventId::new(self.tenant_name.as_deref(), &channel, name.as_bytes())
        });
        Ok(NewEvent {
            channel,
            name,
            data,
            timestamp_ms: message.timestamp_ms,
            options: PublishOptions {
                id,
                ..PublishOptions::default()
            },
        })
    }

    /// The data of the event. With a record key, they must be records; a single one becomes an array.
    fn records(&mut self, data: &str) -> Result<Bytes, String> {
        let Some(key) = &self.settings.record_key else {
            return Ok(Bytes::copy_from_slice(data.as_bytes()));
        };
        let is_one = data.starts_with('{');
        let records = if is_one {
            vec![data]
        } else {
            split_array(data, RECORDS_MAX).map_err(|error| format!("its data is not records: {error}"))?
        };
        for record in &records {
            read_record(&mut self.scratch, record, key, None)
                .map_err(|(field, error)| format!("`{field}` of a record in its data: it {error}"))?;
        }
        Ok(if is_one {
            format!("[{data}]").into()
        } else {
            Bytes::copy_from_slice(data.as_bytes())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ingest::{RedisFrom, Start, StreamSettings};
    use crate::redis::RedisServer;
    use tickgate_protocol::channel::Tenant;

    fn settings(channel: &str, event: &str) -> SourceSettings {
        SourceSettings {
            tenant: Tenant::new(1).expect("few"),
            channel: channel.parse().expect("a template"),
            event: event.parse().expect("a template"),
            origin: Origin::Redis {
                server: RedisServer::default(),
                from: RedisFrom::Stream("orders:eu".into()),
                stream: StreamSettings {
                    consumer: "tickgate".into(),
                    subject: None,
                    start: Start::New,
                },
            },
            data: None,
            record_key: None,
            event_bytes: 100,
        }
    }

    fn message(text: &str, id: Option<&str>) -> Message {
        Message {
            subject: "orders:eu".into(),
            text: Ok(text.into()),
            timestamp_ms: 7,
            id: id.map(Into::into),
        }
    }

    fn tenants() -> TenantNames {
        TenantNames::new(vec!["acme".into()])
    }

    fn converted(settings: SourceSettings, text: &str) -> Result<NewEvent, String> {
        Converter::new(settings, &tenants()).convert(&message(text, None))
    }

    #[test]
    fn a_message_becomes_an_event_of_its_tenant() {
        let whole = settings("user.{user}.{2}", "{type}");
        let event = converted(whole.clone(), r#" {"user":"u1","type":"filled","n":1} "#).expect("valid");
        assert_eq!(
            (
                event.channel.as_str(),
                event.channel.tenant(),
                &*event.name,
                event.timestamp_ms
            ),
            ("user.u1.eu", whole.tenant, "filled", 7)
        );
        assert_eq!(event.data, r#"{"user":"u1","type":"filled","n":1}"#);
        let part = SourceSettings {
            data: Some("body.fill".parse().expect("a path")),
            ..whole
        };
        let event = converted(part, r#"{"user":1,"type":"t","body":{"fill": [1.50] }}"#).expect("valid");
        assert_eq!((event.channel.as_str(), &event.data[..]), ("user.1.eu", &b"[1.50]"[..]));
    }

    #[test]
    fn ids_tell_messages_and_channels_apart() {
        let mut converter = Converter::new(settings("a.{x}", "e"), &tenants());
        let mut id = |text: &str, id: Option<&str>| converter.convert(&message(text, id)).expect("valid").options.id;
        let (one, two) = (r#"{"x":1}"#, r#"{"x":2}"#);
        assert_eq!(id(one, None), None);
        assert_eq!(id(one, Some("1-1")), id(one, Some("1-1")));
        assert!(id(one, Some("1-1")) != id(one, Some("1-2")) && id(one, Some("1-1")) != id(two, Some("1-1")));
    }

    #[test]
    fn records_are_checked_and_one_record_becomes_an_array() {
        let records = SourceSettings {
            record_key: Some("code".into()),
            ..settings("prices.all", "e")
        };
        let data = |text: &str| converted(records.clone(), text).map(|event| event.data);
        assert_eq!(data(r#"{"code":"a"}"#).expect("valid"), r#"[{"code":"a"}]"#);
        assert_eq!(
            data(r#"[{"code":"a"},{"code":1}]"#).expect("valid"),
            r#"[{"code":"a"},{"code":1}]"#
        );
        for (bad, why) in [
            ("1", "not records"),
            (r#"[{"code":"a"},{}]"#, "`code`"),
            ("[1]", "`code`"),
        ] {
            let error = data(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_no_event_is_refused_with_the_reason() {
        let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(100));
        for (text, why) in [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("[1]", "no field x"),
            (r#"{"y":1}"#, "no field x"),
            (r#"{"x":"a b"}"#, "not one segment"),
            (&long, "longer than an event's 100 bytes"),
        ] {
            let error = converted(settings("a.{x}", "e"), text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        let error = converted(settings("a.b", "{x}"), r#"{"x":""}"#).expect_err("no name");
        assert!(error.contains("name of its event"), "{error}");
        let bytes = Message {
            text: Err("it is not text".to_owned()),
            ..message("", None)
        };
        let error = Converter::new(settings("a.b", "e"), &tenants()).convert(&bytes);
        assert_eq!(error.expect_err("bytes"), "it is not text");
    }
}
