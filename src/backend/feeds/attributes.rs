//! JSON from Redis hashes, whose fields and values are texts.
//!
//! Invariant: a text that is a JSON number, `true`, `false`, `null`, an array or an object is copied byte for byte. Any
//! other text becomes a string; `000001`, for example, is not a JSON number. The field that names a record always becomes a
//! string, so that a code made of digits does not turn into a number.

use super::failure::PollFailure;
use tickgate_protocol::json::{RecordKey, Scratch, check_value, push_string};

/// The fields and values of one hash.
pub(in crate::backend) type Hash = Vec<(String, String)>;

/// A hash as one object, with its fields in order. `key` are the fields that name a record.
pub(in crate::backend) fn object(mut hash: Hash, key: Option<&RecordKey>) -> String {
    hash.sort_unstable();
    let names_record = |field: &str| key.is_some_and(|key| key.fields().iter().any(|name| **name == *field));
    let mut out = Vec::from(b"{");
    for (index, (field, value)) in hash.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_string(&mut out, field);
        out.push(b':');
        match check_value(value) {
            Ok(json) if !names_record(field) && !json.starts_with('"') => out.extend(json.as_bytes()),
            _ => push_string(&mut out, value),
        }
    }
    out.push(b'}');
    text(out)
}

/// A hash whose values are JSON records, as an array in the order of the fields. If one field names a record, a record
/// without it gets it, with the name of the hash's field as its value.
///
/// # Errors
///
/// [`PollFailure::BadResponse`] when a value is not a JSON object.
pub(super) fn records(mut hash: Hash, key: &RecordKey) -> Result<String, PollFailure> {
    hash.sort_unstable();
    let mut out = Vec::from(b"[");
    let mut scratch = Scratch::default();
    for (index, (field, record)) in hash.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let object = scratch.object(record).map_err(|error| {
            PollFailure::BadResponse(format!("the value of field {field:?} is not a record: {error}"))
        })?;
        let name = match key.fields() {
            [name] if object.get(name).is_none() => name,
            _ => {
                out.extend(record.trim_ascii().as_bytes());
                continue;
            }
        };
        out.push(b'{');
        push_string(&mut out, name);
        out.push(b':');
        push_string(&mut out, field);
        let members = record.trim_ascii()[1..].trim_ascii_start();
        if !members.starts_with('}') {
            out.push(b',');
        }
        out.extend(members.as_bytes());
    }
    out.push(b']');
    Ok(text(out))
}

/// Hashes as an array of objects. Empty hashes, which stand for missing keys, are skipped.
pub(super) fn array(hashes: Vec<Hash>, key: Option<&RecordKey>) -> String {
    let hashes = hashes.into_iter().filter(|hash| !hash.is_empty());
    let objects: Vec<String> = hashes.map(|hash| object(hash, key)).collect();
    format!("[{}]", objects.join(","))
}

fn text(json: Vec<u8>) -> String {
    String::from_utf8(json).expect("built from strings")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(fields: &[(&str, &str)]) -> Hash {
        fields
            .iter()
            .map(|(field, value)| ((*field).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn a_hash_becomes_an_object_of_json_values_and_strings() {
        let fields = hash(&[
            ("price", "1850.50"),
            ("code", "600519"),
            ("old_code", "000001"),
            ("name", "贵州\"茅台"),
            ("on", "true"),
            ("tags", "[1]"),
            ("quoted", "\"x\""),
            ("nan", "nan"),
            ("empty", ""),
        ]);
        assert_eq!(
            object(fields, Some(&"code".into())),
            r#"{"code":"600519","empty":"","name":"贵州\"茅台","nan":"nan","old_code":"000001","on":true,"price":1850.50,"quoted":"\"x\"","tags":[1]}"#
        );
        assert_eq!(object(hash(&[("code", "600519")]), None), r#"{"code":600519}"#);
        assert_eq!(object(Hash::new(), None), "{}");
        let hashes = vec![hash(&[("code", "1")]), Hash::new(), hash(&[("code", "2")])];
        assert_eq!(array(hashes, Some(&"code".into())), r#"[{"code":"1"},{"code":"2"}]"#);
    }

    #[test]
    fn a_hash_of_records_becomes_an_array_and_fields_name_unnamed_records() {
        let fields = hash(&[("b", r#" {"code":"B","p":1} "#), ("a", r#"{"p":2.50}"#), ("c", "{ }")]);
        assert_eq!(
            records(fields, &"code".into()).expect("records"),
            r#"[{"code":"a","p":2.50},{"code":"B","p":1},{"code":"c"}]"#
        );
        let both = RecordKey::new(vec!["code".to_owned(), "side".to_owned()]).expect("a key");
        let fields = hash(&[("a", r#"{"p":2.50}"#)]);
        assert_eq!(records(fields, &both).expect("records"), r#"[{"p":2.50}]"#);
        assert_eq!(
            object(hash(&[("code", "1"), ("side", "2"), ("p", "3")]), Some(&both)),
            r#"{"code":"1","p":3,"side":"2"}"#
        );
        assert_eq!(records(Hash::new(), &"code".into()).expect("none"), "[]");
        for bad in ["1", "", "[]", "{\"p\":}"] {
            let failure = records(hash(&[("a", bad)]), &"code".into()).expect_err(bad).to_string();
            assert!(failure.contains("not a record"), "{bad}: {failure}");
        }
    }
}
