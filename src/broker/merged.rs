//! Merged values as messages: the records or the order book of a channel as of one event of the log, for gateways that read
//! the log back.
//!
//! ```text
//! {"v":1,"epoch":9,"version":4096,"rule":"id","newest":{"version":4096,"name":"update","ts":1703836800000,"data":"null"},"parts":[["7","{\"id\":7}",4080]]}
//! ```
//!
//! Invariant: what [`decode`] accepts can be merged into a valid value, whatever is in the message.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::message::Problem;
use super::terms::FORMAT;
use crate::hub::{Epoch, Merged, Newest};
use tickgate_protocol::channel::Channel;
use tickgate_protocol::json::check_value;
use tickgate_protocol::message::is_event_name;

#[derive(Serialize, Deserialize)]
struct Message<T> {
    v: u8,
    epoch: u64,
    version: u64,
    rule: Box<str>,
    /// Missing if the channel was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest: Option<Head>,
    /// Missing if they are too large for one message.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    parts: Option<Vec<T>>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: u64,
    name: Box<str>,
    ts: u64,
    data: Box<str>,
}

// A type that is no `Default` has none.
const fn none<T>() -> Option<Vec<T>> {
    None
}

/// A merged value that was read.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) epoch: Epoch,
    pub(super) merged: Merged,
    /// The value was too large for a message, so its parts are missing.
    pub(super) is_too_large: bool,
}

/// The payload of a merged value. Its parts are left out if it would be longer than `bytes_max`; then the second value is
/// true.
pub(super) fn encode(merged: &Merged, epoch: Epoch, bytes_max: usize) -> (Bytes, bool) {
    let parts = merged
        .parts
        .iter()
        .map(|(name, raw, version)| (&**name, &**raw, *version));
    let message = |parts| Message {
        v: FORMAT,
        epoch: epoch.0,
        version: merged.version,
        rule: merged.rule.clone(),
        newest: merged.newest.as_ref().map(|newest| Head {
            version: newest.version,
            name: newest.name.clone(),
            ts: newest.timestamp_ms,
            data: String::from_utf8_lossy(&newest.data).into(),
        }),
        parts,
    };
    let all = serde_json::to_vec(&message(Some(parts.collect()))).unwrap_or_default();
    if all.len() <= bytes_max {
        return (all.into(), false);
    }
    let mut head = message(None);
    if let Some(newest) = &mut head.newest {
        newest.data = "null".into();
    }
    (serde_json::to_vec(&head).unwrap_or_default().into(), true)
}

/// Reads the merged value of a channel.
pub(super) fn decode(channel: Channel, payload: &[u8]) -> Result<Decoded, Problem> {
    let message: Message<(Box<str>, Box<str>, u64)> = serde_json::from_slice(payload).map_err(|_| Problem::Head)?;
    if message.v != FORMAT {
        return Err(Problem::Format);
    }
    let is_too_large = message.parts.is_none();
    let newest = message.newest.map(|head| {
        let is_valid = is_event_name(&head.name) && check_value(&head.data).is_ok() && head.version <= message.version;
        is_valid.then(|| Newest {
            version: head.version,
            name: head.name,
            timestamp_ms: head.ts,
            data: head.data.into_string().into(),
        })
    });
    let newest = newest.map(|newest| newest.ok_or(Problem::Data)).transpose()?;
    let mut parts = Vec::new();
    for (name, raw, version) in message.parts.unwrap_or_default() {
        // Of a book, the other members are named by their keys, as JSON.
        let key = name.strip_prefix("other ").unwrap_or("\"\"");
        let is_valid = check_value(&raw).is_ok() && key.starts_with('"') && check_value(key).is_ok();
        if !is_valid || version > message.version {
            return Err(Problem::Data);
        }
        parts.push((name.into(), raw.into(), version));
    }
    Ok(Decoded {
        epoch: Epoch(message.epoch),
        merged: Merged {
            channel,
            version: message.version,
            rule: message.rule,
            newest,
            parts,
        },
        is_too_large,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged() -> Merged {
        Merged {
            channel: Channel::parse("rows.a").expect("valid"),
            version: 4096,
            rule: "id".into(),
            newest: Some(Newest {
                version: 4096,
                name: "update".into(),
                timestamp_ms: 7,
                data: "null".into(),
            }),
            parts: vec![
                ("7".into(), r#"{"id":7,"n":"\""}"#.into(), 4080),
                ("8".into(), "1".into(), 4096),
            ],
        }
    }

    #[test]
    fn a_merged_value_survives_the_way_unless_it_is_too_large() {
        let (payload, is_cut) = encode(&merged(), Epoch(9), 1000);
        let back = decode(merged().channel, &payload).expect("valid");
        assert_eq!(
            (back.epoch, back.merged, is_cut, back.is_too_large),
            (Epoch(9), merged(), false, false)
        );
        let (payload, is_cut) = encode(&merged(), Epoch(9), payload.len() - 1);
        let back = decode(merged().channel, &payload).expect("valid");
        assert!(is_cut && back.is_too_large && back.merged.parts.is_empty() && back.merged.version == 4096);
    }

    #[test]
    fn what_is_no_merged_value_is_refused_with_its_problem() {
        let of = |parts: &str, v: u8| format!(r#"{{"v":{v},"epoch":1,"version":16,"rule":"id","parts":[{parts}]}}"#);
        let problem = |payload: &str| decode(merged().channel, payload.as_bytes()).err();
        assert_eq!(problem(&of(r#"["a","1",16],["other \"k\"","2",0]"#, 1)), None);
        assert_eq!(problem(&of("", 2)), Some(Problem::Format));
        for parts in [
            r#"["a","",1]"#,
            r#"["a","1 2",1]"#,
            r#"["a","1",17]"#,
            r#"["other k","1",1]"#,
            r#"["other 1","1",1]"#,
        ] {
            assert_eq!(problem(&of(parts, 1)), Some(Problem::Data), "{parts}");
        }
        let newest = |name: &str, data: &str| {
            of("", 1).replace(
                "\"parts\"",
                &format!(r#""newest":{{"version":16,"name":"{name}","ts":1,"data":"{data}"}},"parts""#),
            )
        };
        assert_eq!(problem(&newest("n", "1")), None);
        for (name, data) in [("", "1"), ("n", "1 2"), ("\\u0007", "1")] {
            assert_eq!(problem(&newest(name, data)), Some(Problem::Data), "{name} {data}");
        }
        for head in ["", "{}", "[]", &of("1", 1)] {
            assert_eq!(problem(head), Some(Problem::Head), "{head}");
        }
    }
}
