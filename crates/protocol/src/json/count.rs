//! Counts the items of an array without decoding them.

use super::scan::plain_prefix;

/// The number of items of an array; `None` for any other value.
///
/// `json` must be one valid JSON value; white space around it is allowed. Invalid input gives an unspecified count, never a
/// panic.
#[must_use]
pub fn count_items(json: &[u8]) -> Option<usize> {
    let inside = json.trim_ascii_start().strip_prefix(b"[")?.trim_ascii_start();
    if inside.first() == Some(&b']') {
        return Some(0);
    }
    // Each comma on the array's own level separates two items.
    let (mut items, mut depth, mut rest) = (1, 0_u32, inside);
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b',' if depth == 0 => items += 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => rest = after_string(rest),
            _ => {}
        }
    }
    Some(items)
}

/// The bytes after the closing quote of a string. `inside` begins after the opening quote.
fn after_string(mut inside: &[u8]) -> &[u8] {
    loop {
        inside = &inside[plain_prefix(inside)..];
        match inside {
            // An escaped byte is never the closing quote.
            [b'\\', _, after @ ..] => inside = after,
            [b'"', after @ ..] => return after,
            [_, after @ ..] => inside = after,
            [] => return inside,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[\\[\\]{},:\\\\\"a \u{0}é]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                2 => prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                1 => prop::collection::vec(("[\\[\\],\"\\\\a]{0,4}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_count_is_the_length_of_the_parsed_array(value in value(), pretty in any::<bool>(), space in "[ \t\r\n]{0,3}") {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = format!("{space}{}{space}", text.unwrap());
            prop_assert_eq!(count_items(text.as_bytes()), value.as_array().map(Vec::len), "{}", text);
        }

        #[test]
        fn the_count_of_any_bytes_is_at_most_their_number(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let items = count_items(&bytes);
            prop_assert!(items.is_none_or(|items| items <= bytes.len()));
        }
    }

    #[test]
    fn commas_in_strings_and_nested_values_are_not_counted() {
        for (text, items) in [
            ("[]", Some(0)),
            ("[ \n ]", Some(0)),
            ("[[]]", Some(1)),
            ("[\"]\"]", Some(1)),
            (r#"["\"],[", "\\", "\u005d,"]"#, Some(3)),
            ("[{\"a\":[1,2],\"b\":3},4]", Some(2)),
            ("{\"a\":[1,2]}", None),
            ("null", None),
            ("\"[1,2]\"", None),
        ] {
            assert_eq!(count_items(text.as_bytes()), items, "{text}");
        }
    }
}
