//! How many items an array has, without reading them.

use super::scan::plain_prefix;

/// The number of items of an array; `None` for any other value. `json` must be one valid JSON value, with or without
/// white space around. (Of a text that is none some number comes out, and no panic.)
#[must_use]
pub fn count_items(json: &[u8]) -> Option<usize> {
    let inside = json.trim_ascii_start().strip_prefix(b"[")?.trim_ascii_start();
    if inside.first() == Some(&b']') {
        return Some(0);
    }
    // Every comma of the array's own level parts two items.
    let (mut items, mut depth, mut rest) = (1, 0_u32, inside);
    while let [byte, behind @ ..] = rest {
        rest = behind;
        match byte {
            b',' if depth == 0 => items += 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => rest = behind_string(rest),
            _ => {}
        }
    }
    Some(items)
}

/// What follows the closing quote of a string; `inside` begins behind the opening one.
fn behind_string(mut inside: &[u8]) -> &[u8] {
    loop {
        inside = &inside[plain_prefix(inside)..];
        match inside {
            // Whatever a backslash escapes, it is no closing quote.
            [b'\\', _, behind @ ..] => inside = behind,
            [b'"', behind @ ..] => return behind,
            [_, behind @ ..] => inside = behind,
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
        fn it_is_the_length_of_the_parsed_array(value in value(), pretty in any::<bool>(), space in "[ \t\r\n]{0,3}") {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = format!("{space}{}{space}", text.unwrap());
            prop_assert_eq!(count_items(text.as_bytes()), value.as_array().map(Vec::len), "{}", text);
        }

        #[test]
        fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let items = count_items(&bytes);
            prop_assert!(items.is_none_or(|items| items <= bytes.len()));
        }
    }

    #[test]
    fn what_stands_in_strings_and_below_is_not_counted() {
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
