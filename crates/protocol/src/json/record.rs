//! Records: objects in an array, each identified by the values of its key fields.

use std::fmt;

use super::{Decimal, Error, Kind, Object, Scratch, Value};

/// Most fields of a [`RecordKey`].
const KEY_FIELDS_MAX: usize = 8;

/// The fields that identify a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordKey(Box<[Box<str>]>);

/// Why fields are not a [`RecordKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordKeyError {
    /// There is no field, or there are too many.
    #[error("must name 1 to {KEY_FIELDS_MAX} fields")]
    Count,
    /// A name is empty or blank.
    #[error("must not be empty")]
    Blank,
    /// A field occurs twice.
    #[error("must not name a field twice")]
    Twice,
}

impl RecordKey {
    /// Makes the key of these fields.
    ///
    /// # Errors
    ///
    /// If there is no field, a name is blank, or a field is named twice.
    pub fn new(fields: Vec<String>) -> Result<Self, RecordKeyError> {
        if !(1..=KEY_FIELDS_MAX).contains(&fields.len()) {
            return Err(RecordKeyError::Count);
        }
        if fields.iter().any(|field| field.trim().is_empty()) {
            return Err(RecordKeyError::Blank);
        }
        if (1..fields.len()).any(|index| fields[..index].contains(&fields[index])) {
            return Err(RecordKeyError::Twice);
        }
        Ok(Self(fields.into_iter().map(Into::into).collect()))
    }

    /// The names of the fields, in order.
    #[must_use]
    pub fn fields(&self) -> &[Box<str>] {
        &self.0
    }
}

impl From<&str> for RecordKey {
    /// The key of one field.
    fn from(field: &str) -> Self {
        Self([field.into()].into())
    }
}

impl fmt::Display for RecordKey {
    /// The field, or the fields as a JSON array. Two keys have different texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            [field] if !field.starts_with(['[', '{']) => f.write_str(field),
            fields => {
                let quoted: Vec<String> = fields.iter().map(|field| format!("{field:?}")).collect();
                write!(f, "[{}]", quoted.join(","))
            }
        }
    }
}

/// What deletes a record: a member that has one of some values, or that is there at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordDelete {
    /// The name of the member.
    pub field: Box<str>,
    /// Its values that delete the record. Empty: any value but `false` and `null`.
    pub values: Box<[Deleted]>,
}

/// A value that deletes a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Deleted {
    /// A string.
    Text(Box<str>),
    /// A number, compared as an exact decimal. It may be written as a number or as a string.
    Number(Decimal),
    /// `true` or `false`.
    Bool(bool),
}

impl RecordDelete {
    fn deletes<'t>(&self, record: &mut Object<'_, 't>) -> bool {
        let Some(value) = record.get(&self.field) else {
            return false;
        };
        if self.values.is_empty() {
            return !matches!(value.raw, "null" | "false");
        }
        self.values.iter().any(|deleted| deleted.is(record, value))
    }
}

impl Deleted {
    fn is<'t>(&self, record: &mut Object<'_, 't>, value: Value<'t>) -> bool {
        match (self, value.kind) {
            (Self::Text(text), Kind::String { .. }) => record.text(value).is_some_and(|found| *found == **text),
            (Self::Number(number), Kind::Integer | Kind::Number) => Decimal::parse(value.raw).as_ref() == Some(number),
            (Self::Number(number), Kind::String { .. }) => {
                let text = record.text(value);
                text.and_then(|text| Decimal::parse(&text)).as_ref() == Some(number)
            }
            (Self::Bool(truth), Kind::Bool) => (value.raw == "true") == *truth,
            _ => false,
        }
    }
}

/// What is read of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Identifies the record within its array.
    pub name: Box<str>,
    /// Whether the record is deleted.
    pub is_deleted: bool,
}

/// The reason why a value is not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The value is not a JSON object.
    #[error("is not a record: {0}")]
    NotAnObject(Error),
    /// A key field is missing.
    #[error("has no such field")]
    Missing,
    /// A key field is a string with an unpaired surrogate, which is not Unicode text.
    #[error("has a key that is not Unicode text")]
    NotUnicode,
    /// A key field is neither a string nor a number nor a boolean.
    #[error("has a key that is neither text nor a number")]
    WrongKind,
}

/// Reads the name that identifies a record, and whether the record is deleted. The name is the text of its key field, or
/// the number as written. With several key fields, their texts are joined so that different fields give different names.
///
/// A string and a number with the same text give the same name, since a source may change from one to the other.
///
/// # Errors
///
/// `record` is not an object, or one of its key fields is missing or has another kind. The error comes with the field.
pub fn read_record<'k>(
    scratch: &mut Scratch,
    record: &str,
    key: &'k RecordKey,
    delete: Option<&RecordDelete>,
) -> Result<Record, (&'k str, RecordError)> {
    let [first, others @ ..] = key.fields() else {
        return Err(("", RecordError::Missing));
    };
    let mut object = scratch
        .object(record)
        .map_err(|error| (&**first, RecordError::NotAnObject(error)))?;
    let name = part(&mut object, first).map_err(|error| (&**first, error))?;
    let name = if others.is_empty() {
        name
    } else {
        let mut joined = format!("{}:{name}", name.len());
        for field in others {
            let name = part(&mut object, field).map_err(|error| (&**field, error))?;
            joined += &format!(",{}:{name}", name.len());
        }
        joined.into()
    };
    Ok(Record {
        name,
        is_deleted: delete.is_some_and(|delete| delete.deletes(&mut object)),
    })
}

fn part(object: &mut Object<'_, '_>, field: &str) -> Result<Box<str>, RecordError> {
    let value = object.get(field).ok_or(RecordError::Missing)?;
    match value.kind {
        Kind::String { .. } => Ok(object.text(value).ok_or(RecordError::NotUnicode)?.into()),
        Kind::Integer | Kind::Number | Kind::Bool => Ok(value.raw.into()),
        Kind::Null | Kind::Array | Kind::Object => Err(RecordError::WrongKind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fields: &[&str]) -> RecordKey {
        RecordKey::new(fields.iter().map(|field| (*field).to_owned()).collect()).expect("a key")
    }

    fn name(record: &str, key: &RecordKey) -> Result<Box<str>, RecordError> {
        let read = read_record(&mut Scratch::default(), record, key, None);
        read.map(|record| record.name).map_err(|(_, error)| error)
    }

    #[test]
    fn records_with_several_key_fields_have_names_that_differ() {
        let both = key(&["symbol", "side"]);
        let named = |symbol: &str, side: &str| {
            name(&format!(r#"{{"side":{side},"symbol":{symbol}}}"#), &both).expect("a record")
        };
        assert_eq!(named("\"a\"", "\"b\""), named("\"\\u0061\"", "\"b\""));
        assert_eq!(named("1", "\"b\""), named("\"1\"", "\"b\""));
        let names = [
            named("\"a\"", "\"bc\""),
            named("\"ab\"", "\"c\""),
            named("\"bc\"", "\"a\""),
            named("\"a,2:b\"", "\"c\""),
            named("\"a\"", "\"2:b,1:c\""),
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
        assert_eq!(name(r#"{"symbol":"a"}"#, &both), Err(RecordError::Missing));
        assert_eq!(
            name(r#"{"symbol":"a","side":null}"#, &both),
            Err(RecordError::WrongKind)
        );
    }

    #[test]
    fn keys_have_fields_that_differ() {
        for (fields, error) in [
            (vec![], RecordKeyError::Count),
            (vec!["a"; 9], RecordKeyError::Count),
            (vec!["a", " "], RecordKeyError::Blank),
            (vec!["a", "b", "a"], RecordKeyError::Twice),
        ] {
            let fields = fields.into_iter().map(str::to_owned).collect();
            assert_eq!(RecordKey::new(fields), Err(error));
        }
        let texts =
            [key(&["a"]), key(&["[\"a\",\"b\"]"]), key(&["a", "b"]), key(&["b", "a"])].map(|key| key.to_string());
        assert_eq!(texts[0], "a");
        for (index, text) in texts.iter().enumerate() {
            assert!(!texts[..index].contains(text), "{text}");
        }
    }

    #[test]
    fn a_record_is_deleted_by_a_value_or_by_a_member() {
        let deleted = |delete: &RecordDelete, member: &str| {
            let record = format!(r#"{{"code":"x"{member}}}"#);
            let code = key(&["code"]);
            let read = read_record(&mut Scratch::default(), &record, &code, Some(delete));
            read.expect("a record").is_deleted
        };
        let by = |field: &str, values: Vec<Deleted>| RecordDelete {
            field: field.into(),
            values: values.into(),
        };
        let status = by(
            "status",
            vec![Deleted::Text("Filled".into()), Deleted::Text("Cancelled".into())],
        );
        let size = by("size", vec![Deleted::Number(Decimal::from(0))]);
        let open = by("open", vec![Deleted::Bool(false)]);
        let member = by("gone", vec![]);
        for (delete, members, expected) in [
            (
                &status,
                &[r#","status":"Filled""#, r#","status":"\u0043ancelled""#][..],
                true,
            ),
            (
                &status,
                &["", r#","status":"filled""#, r#","status":1"#, r#","status":null"#],
                false,
            ),
            (
                &size,
                &[
                    r#","size":0"#,
                    r#","size":0.000"#,
                    r#","size":-0e5"#,
                    r#","size":"0.00""#,
                ],
                true,
            ),
            (
                &size,
                &[
                    "",
                    r#","size":0.0000000000000000000000001"#,
                    r#","size":"""#,
                    r#","size":false"#,
                ],
                false,
            ),
            (&open, &[r#","open":false"#], true),
            (&open, &["", r#","open":true"#, r#","open":0"#], false),
            (&member, &[r#","gone":true"#, r#","gone":1"#, r#","gone":"yes""#], true),
            (&member, &["", r#","gone":false"#, r#","gone":null"#], false),
        ] {
            for text in members {
                assert_eq!(deleted(delete, text), expected, "{delete:?} {text}");
            }
        }
    }
}
