//! Masks members in JSON text, also within other text, such as a packet of Socket.IO or a message that was cut.

const MASK: &str = "\"…\"";

/// The text with `"…"` in place of the value of each member with one of these names. `token` is always masked.
pub(super) fn mask(text: &str, names: &[Box<str>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('"') {
        let (before, quoted) = rest.split_at(start);
        out.push_str(before);
        let end = string_end(quoted);
        let (name, behind) = quoted.split_at(end);
        out.push_str(name);
        rest = behind;
        let is_masked = |wanted: &str| name.len() > 2 && name.trim_matches('"').eq_ignore_ascii_case(wanted);
        if !is_masked("token") && !names.iter().any(|wanted| is_masked(wanted)) {
            continue;
        }
        let value = rest.trim_start();
        let Some(value) = value.strip_prefix(':') else { continue };
        let value = value.trim_start();
        out.push(':');
        out.push_str(MASK);
        rest = &value[value_end(value)..];
    }
    out.push_str(rest);
    out
}

/// The index behind the string that `text` begins with; the end of the text if the string is cut.
fn string_end(text: &str) -> usize {
    let mut is_escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// The index behind the value that `text` begins with.
fn value_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'"') => string_end(text),
        Some(b'{' | b'[') => {
            let (mut depth, mut index) = (0usize, 0);
            while index < bytes.len() {
                match bytes[index] {
                    b'"' => {
                        index += string_end(&text[index..]);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                index += 1;
                if depth == 0 {
                    return index;
                }
            }
            text.len()
        }
        _ => text.find([',', '}', ']']).unwrap_or(text.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(text: &str) -> String {
        mask(text, &["pin".into()])
    }

    #[test]
    fn the_values_of_configured_members_are_masked() {
        for (text, shown) in [
            (r#"{"type":"auth","token":"a.b.c"}"#, r#"{"type":"auth","token":"…"}"#),
            (r#"{"pin" : 1234, "x":"pin"}"#, r#"{"pin":"…", "x":"pin"}"#),
            (r#"{"a":{"PIN":[1,{"b":"]"}],"c":2}}"#, r#"{"a":{"PIN":"…","c":2}}"#),
            (r#"42["auth",{"token":"a\"b"}]"#, r#"42["auth",{"token":"…"}]"#),
            (r#"{"token":"cut of"#, r#"{"token":"…""#),
            (r#"{"pinned":1}"#, r#"{"pinned":1}"#),
            (r#"{"token""#, r#"{"token""#),
            ("plain", "plain"),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_no_token_is_shown(before in ".{0,20}", secret in "[a-z]{20}", after in ".{0,20}") {
            let _ = masked(&before);
            let whole = serde_json::json!({"x": before, "deep": [{"token": secret.clone()}], "y": after}).to_string();
            prop_assert!(!masked(&whole).contains(&secret), "{}", whole);
        }
    }
}
