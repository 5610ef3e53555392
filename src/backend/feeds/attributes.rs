//! JSON from what Redis keeps: hashes whose fields and values are texts.
//!
//! Invariant: a text becomes a number, `true`, `false`, `null`, an array or an object exactly when it is one in JSON,
//! byte for byte, and a string otherwise (`000001` is no JSON number). The field that names a record is always a string:
//! a code made of digits must not turn into a number.

use super::failure::Failure;
use tickgate_protocol::json::{Scratch, check_value, push_string};

/// One hash: fields and values.
pub(super) type Hash = Vec<(String, String)>;

/// A hash as one object, its fields in order.
pub(super) fn object(mut hash: Hash, name: Option<&str>) -> String {
    hash.sort_unstable();
    let mut out = Vec::from(b"{");
    for (place, (field, value)) in hash.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        push_string(&mut out, field);
        out.push(b':');
        match check_value(value) {
            Ok(json) if name != Some(field) && !json.starts_with('"') => out.extend(json.as_bytes()),
            _ => push_string(&mut out, value),
        }
    }
    out.push(b'}');
    text(out)
}

/// A hash whose values are records in JSON as an array, in the order of the fields. A record without a member `name`
/// gets the field's name for it.
pub(super) fn records(mut hash: Hash, name: &str) -> Result<String, Failure> {
    hash.sort_unstable();
    let mut out = Vec::from(b"[");
    let mut scratch = Scratch::default();
    for (place, (field, record)) in hash.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        let object = scratch
            .object(record)
            .map_err(|error| Failure::BadAnswer(format!("the value of field {field:?} is no record: {error}")))?;
        if object.get(name).is_some() {
            out.extend(record.trim_ascii().as_bytes());
            continue;
        }
        out.push(b'{');
        push_string(&mut out, name);
        out.push(b':');
        push_string(&mut out, field);
        // What follows the opening brace.
        let members = record.trim_ascii()[1..].trim_ascii_start();
        if !members.starts_with('}') {
            out.push(b',');
        }
        out.extend(members.as_bytes());
    }
    out.push(b']');
    Ok(text(out))
}

/// Hashes as an array of objects; empty ones (keys that do not exist) are passed over.
pub(super) fn array(hashes: Vec<Hash>, name: Option<&str>) -> String {
    let hashes = hashes.into_iter().filter(|hash| !hash.is_empty());
    let objects: Vec<String> = hashes.map(|hash| object(hash, name)).collect();
    format!("[{}]", objects.join(","))
}

fn text(json: Vec<u8>) -> String {
    String::from_utf8(json).expect("made of strings")
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
    fn a_hash_is_an_object_of_json_values_and_strings() {
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
            object(fields, Some("code")),
            r#"{"code":"600519","empty":"","name":"贵州\"茅台","nan":"nan","old_code":"000001","on":true,"price":1850.50,"quoted":"\"x\"","tags":[1]}"#
        );
        assert_eq!(object(hash(&[("code", "600519")]), None), r#"{"code":600519}"#);
        assert_eq!(object(Hash::new(), None), "{}");
        let hashes = vec![hash(&[("code", "1")]), Hash::new(), hash(&[("code", "2")])];
        assert_eq!(array(hashes, Some("code")), r#"[{"code":"1"},{"code":"2"}]"#);
    }

    #[test]
    fn a_hash_of_records_is_an_array_and_fields_name_the_nameless() {
        let fields = hash(&[("b", r#" {"code":"B","p":1} "#), ("a", r#"{"p":2.50}"#), ("c", "{ }")]);
        assert_eq!(
            records(fields, "code").expect("records"),
            r#"[{"code":"a","p":2.50},{"code":"B","p":1},{"code":"c"}]"#
        );
        assert_eq!(records(Hash::new(), "code").expect("none"), "[]");
        for bad in ["1", "", "[]", "{\"p\":}"] {
            let failure = records(hash(&[("a", bad)]), "code").expect_err(bad).to_string();
            assert!(failure.contains("no record"), "{bad}: {failure}");
        }
    }
}
