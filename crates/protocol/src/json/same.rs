//! Whether two JSON texts mean the same value.
//!
//! Invariant: no number passes through a float, so values that differ only in their last digit differ. White space, the
//! order of members, escapes in strings and the way a number is written (`1`, `1.0`, `10e-1`) make no difference.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Whether two valid JSON texts without white space around mean the same. Of members with the same key the last counts.
#[must_use]
pub fn same(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (a.as_bytes().first(), b.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => both::<BTreeMap<String, &RawValue>>(a, b).is_some_and(|(a, b)| {
            a.len() == b.len()
                && a.iter()
                    .zip(&b)
                    .all(|((k, v), (l, w))| k == l && same(v.get(), w.get()))
        }),
        (Some(b'['), Some(b'[')) => both::<Vec<&RawValue>>(a, b)
            .is_some_and(|(a, b)| a.len() == b.len() && a.iter().zip(&b).all(|(v, w)| same(v.get(), w.get()))),
        // A string that has no decoded form (an unpaired surrogate) is the same only as written.
        (Some(b'"'), Some(b'"')) => both::<String>(a, b).is_some_and(|(a, b)| a == b),
        (Some(b'-' | b'0'..=b'9'), Some(b'-' | b'0'..=b'9')) => {
            matches!((Decimal::of(a), Decimal::of(b)), (Some(a), Some(b)) if a == b)
        }
        _ => false,
    }
}

fn both<'t, T: serde::Deserialize<'t>>(a: &'t str, b: &'t str) -> Option<(T, T)> {
    Some((serde_json::from_str(a).ok()?, serde_json::from_str(b).ok()?))
}

/// A number as sign, digits without zeros at either end, and a power of ten.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// `None` when the exponent is out of all reason.
    fn of(number: &str) -> Option<Self> {
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number),
        };
        let (mantissa, exponent) = match number.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (number, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0').trim_end_matches('0');
        if significant.is_empty() {
            return Some(Self {
                negative: false,
                digits: String::new(),
                exponent: 0,
            });
        }
        let zeros = digits.len() - digits.trim_end_matches('0').len();
        let exponent = exponent
            .checked_sub(i64::try_from(fraction.len()).ok()?)?
            .checked_add(i64::try_from(zeros).ok()?)?;
        Some(Self {
            negative,
            digits: significant.to_owned(),
            exponent,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_the_same_and_what_is_not() {
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
            assert!(same(a, b) && same(b, a), "{a} {b}");
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
            assert!(!same(a, b) && !same(b, a), "{a} {b}");
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

    /// The same value, written as differently as can be.
    fn otherwise(value: &Value) -> String {
        match value {
            Value::String(text) => {
                let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
                format!("\"{escaped}\"")
            }
            Value::Number(number) if number.is_f64() => format!("{number}00E+0"),
            Value::Number(number) => format!("{number}0e-1"),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(otherwise).collect();
                format!("[ {}\n]", items.join("\t,"))
            }
            Value::Object(members) => {
                let member = |(key, value): (&String, &Value)| {
                    format!("{}: {}", otherwise(&Value::from(key.as_str())), otherwise(value))
                };
                let members: Vec<String> = members.iter().rev().map(member).collect();
                format!("{{{}}}", members.join(" , "))
            }
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn a_value_is_the_same_however_it_is_written(value in value()) {
            let (plain, other) = (value.to_string(), otherwise(&value));
            prop_assert!(same(&plain, &other), "{} {}", plain, other);
        }

        #[test]
        fn values_are_the_same_exactly_when_they_are_equal(a in value(), b in value()) {
            let equal = a == b;
            prop_assert_eq!(same(&a.to_string(), &otherwise(&b)), equal);
        }
    }
}
