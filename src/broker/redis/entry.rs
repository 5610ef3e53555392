//! Entries of the streams, as the server's replies contain them.
//!
//! Invariant: whatever a reply contains, it is read or refused.

use bytes::Bytes;
use redis::Value;

use crate::broker::message::Decoder;
use crate::event::NewEvent;

/// What an entry is, by the first letter of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An event of a channel that keeps state.
    Kept,
    /// An event of another channel.
    Plain,
    /// A notice.
    Notice,
    /// What one gateway tells the others.
    Message,
    /// A merged value, which does not stand in a stream.
    Value,
}

impl Kind {
    const ALL: [(char, Self); 5] = [
        ('k', Self::Kept),
        ('p', Self::Plain),
        ('t', Self::Notice),
        ('m', Self::Message),
        ('v', Self::Value),
    ];

    /// What stands before the name.
    pub(super) fn letter(self) -> char {
        let entry = Self::ALL.iter().find(|(_, kind)| *kind == self);
        entry.map_or('?', |(letter, _)| *letter)
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    /// When it was stored, in Unix milliseconds.
    pub(super) stored_ms: u64,
    /// `None`: no gateway of this version writes such an entry.
    pub(super) kind: Option<Kind>,
    /// Without its kind.
    pub(super) name: String,
    pub(super) payload: Bytes,
}

/// The number in the identity of an entry.
pub(super) fn sequence(id: &Value) -> Option<u64> {
    std::str::from_utf8(bytes(id)?).ok()?.strip_prefix("0-")?.parse().ok()
}

/// The bytes of a text.
pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// A number, which may stand in a text.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => std::str::from_utf8(bytes(other)?).ok()?.parse().ok(),
    }
}

/// The values of an array.
pub(super) fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// Reads the entries of a range. `None`: they are not entries.
pub(super) fn entries(range: Value) -> Option<Vec<Entry>> {
    array(range)?.into_iter().map(entry).collect()
}

/// Reads the entries of the only stream of a reply to `XREAD`. `None`: they are not entries.
pub(super) fn read_entries(reply: Value) -> Option<Vec<Entry>> {
    if reply == Value::Nil {
        return Some(Vec::new());
    }
    let stream = array(reply)?.into_iter().next()?;
    entries(array(stream)?.into_iter().nth(1)?)
}

fn entry(value: Value) -> Option<Entry> {
    let mut parts = array(value)?.into_iter();
    let sequence = sequence(&parts.next()?)?;
    let mut entry = Entry {
        sequence,
        stored_ms: 0,
        kind: None,
        name: String::new(),
        payload: Bytes::new(),
    };
    let mut fields = array(parts.next()?)?.into_iter();
    while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
        match bytes(&field)? {
            b"n" => {
                let name = std::str::from_utf8(bytes(&value)?).unwrap_or_default();
                let mut letters = name.chars();
                let letter = letters.next();
                entry.kind = Kind::ALL
                    .iter()
                    .find(|(known, _)| Some(*known) == letter)
                    .map(|(_, kind)| *kind);
                letters.as_str().clone_into(&mut entry.name);
            }
            b"p" => {
                if let Value::BulkString(bytes) = value {
                    entry.payload = bytes.into();
                }
            }
            b"t" => entry.stored_ms = number(&value)?,
            _ => {}
        }
    }
    Some(entry)
}

/// Reads the bytes of a reply to `XREAD` as a gateway without configured tenants does, and returns its events. For checks.
#[must_use]
pub fn read_reply(reply: &[u8]) -> Vec<NewEvent> {
    let Ok(value) = redis::parse_redis_value(reply) else {
        return Vec::new();
    };
    let decoder = Decoder::new(&[]);
    let entries = read_entries(value).unwrap_or_default();
    let event = |entry: &Entry| Some(decoder.decode(&entry.name, &entry.payload).ok()?.event);
    entries.iter().filter_map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn of(id: &str, fields: &[&str]) -> Value {
        let fields = fields.iter().map(|field| text(field)).collect();
        Value::Array(vec![text(id), Value::Array(fields)])
    }

    #[test]
    fn entries_are_read_whatever_else_they_contain() {
        let reply = Value::Array(vec![Value::Array(vec![
            text("t:events"),
            Value::Array(vec![
                of("0-7", &["n", "k~.a.b", "p", "data", "t", "12", "b", "99", "later", "x"]),
                of("0-8", &["n", "z", "t", "13"]),
            ]),
        ])]);
        let entries = read_entries(reply).expect("entries");
        assert_eq!(
            entries[0],
            Entry {
                sequence: 7,
                stored_ms: 12,
                kind: Some(Kind::Kept),
                name: "~.a.b".to_owned(),
                payload: "data".into(),
            }
        );
        assert_eq!((entries[1].sequence, entries[1].kind), (8, None));
        assert_eq!(read_entries(Value::Nil), Some(Vec::new()));
        for wrong in [
            Value::Int(1),
            Value::Array(vec![]),
            Value::Array(vec![Value::Array(vec![text("t")])]),
        ] {
            assert_eq!(read_entries(wrong), None);
        }
        assert_eq!(entries_of("7-1"), None);
        assert_eq!(entries_of("0-x"), None);
    }

    fn entries_of(id: &str) -> Option<Vec<Entry>> {
        entries(Value::Array(vec![of(id, &[])]))
    }

    #[test]
    fn every_kind_has_a_letter_of_its_own() {
        for (letter, kind) in Kind::ALL {
            assert_eq!(kind.letter(), letter);
        }
    }
}
