//! Compares two JSON texts by value.
//!
//! Invariant: no number is converted to a float, so numbers that differ only in their last digit are different. White
//! space, the order of members, escapes in strings and the notation of a number (`1`, `1.0`, `10e-1`) are ignored.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::Decimal;

/// Whether two valid JSON texts have the same value. The texts must have no white space around them.
///
/// If a key occurs more than once, its last value counts.
#[must_use]
pub fn is_same_value(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (a.as_bytes().first(), b.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => both::<BTreeMap<String, &RawValue>>(a, b).is_some_and(|(a, b)| {
            a.len() == b.len()
                && a.iter()
                    .zip(&b)
                    .all(|((k, v), (l, w))| k == l && is_same_value(v.get(), w.get()))
        }),
        (Some(b'['), Some(b'[')) => both::<Vec<&RawValue>>(a, b)
            .is_some_and(|(a, b)| a.len() == b.len() && a.iter().zip(&b).all(|(v, w)| is_same_value(v.get(), w.get()))),
        // Strings with an unpaired surrogate cannot be decoded. They are the same only if their texts are equal.
        (Some(b'"'), Some(b'"')) => both::<String>(a, b).is_some_and(|(a, b)| a == b),
        (Some(b'-' | b'0'..=b'9'), Some(b'-' | b'0'..=b'9')) => {
            matches!((Decimal::parse(a), Decimal::parse(b)), (Some(a), Some(b)) if a == b)
        }
        _ => false,
    }
}

fn both<'t, T: serde::Deserialize<'t>>(a: &'t str, b: &'t str) -> Option<(T, T)> {
    Some((serde_json::from_str(a).ok()?, serde_json::from_str(b).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn values_are_compared_and_not_their_notation() {
        for (a, b) in [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("100", "1E+2"),
            ("0", "-0.00e7"),
            ("0.5", "5e-1"),
            (r#""\u0041\n""#, r#""A\u000a""#),
            (r#"{"a":1,"b":[1, 2]}"#, r#"{ "b":[1.0,2],"\u0061":1 }"#),
            (r#""\ud800""#, r#""\ud800""#),
            ("1e99999999999999999999", "1e99999999999999999999"),
        ] {
            assert!(is_same_value(a, b) && is_same_value(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("1", "-1"),
            ("1", "10"),
            ("1", "\"1\""),
            ("12345678901234567890.1", "12345678901234567890.2"),
            ("0.1", "0.10000000000000000000001"),
            ("null", "false"),
            ("[1,2]", "[2,1]"),
            ("[1]", "[1,1]"),
            ("{}", "[]"),
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            (r#""a""#, r#""A""#),
        ] {
            assert!(!is_same_value(a, b) && !is_same_value(b, a), "{a} {b}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1_000_000i64..1_000_000).prop_map(|n| Value::from(n as f64 / 128.0)),
            "[a\"\\\\é\u{1}]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab\"é]{0,3}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The same value in a different notation: escapes, white space, other numbers, reversed members.
    fn rewritten(value: &Value) -> String {
        match value {
            Value::String(text) => {
                let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
                format!("\"{escaped}\"")
            }
            Value::Number(number) if number.is_f64() => format!("{number}00E+0"),
            Value::Number(number) => format!("{number}0e-1"),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(rewritten).collect();
                format!("[ {}\n]", items.join("\t,"))
            }
            Value::Object(members) => {
                let member = |(key, value): (&String, &Value)| {
                    format!("{}: {}", rewritten(&Value::from(key.as_str())), rewritten(value))
                };
                let members: Vec<String> = members.iter().rev().map(member).collect();
                format!("{{{}}}", members.join(" , "))
            }
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn a_value_is_the_same_in_any_notation(value in value()) {
            let (plain, other) = (value.to_string(), rewritten(&value));
            prop_assert!(is_same_value(&plain, &other), "{} {}", plain, other);
        }

        #[test]
        fn values_are_the_same_exactly_when_they_are_equal(a in value(), b in value()) {
            let equal = a == b;
            prop_assert_eq!(is_same_value(&a.to_string(), &rewritten(&b)), equal);
        }
    }
}
