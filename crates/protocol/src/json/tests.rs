use super::*;
use proptest::prelude::*;

fn duplicate(text: &str) -> Option<String> {
    let mut scratch = Scratch::default();
    let object = scratch.object(text).unwrap();
    let key = object.duplicate_key()?;
    assert!(object.is_duplicate(key));
    Some(key.to_owned())
}

fn scan(text: &str) -> Result<(), Error> {
    Scratch::default().object(text).map(|_| ())
}

#[test]
fn raw_spans_are_the_bytes_of_the_text() {
    let text =
        "{ \"a\" : [1, 2.50e3 ,\"\\u0041\"] ,\"b\":1e400, \"c\"\n:\"x\\ny\",\"d\":123456789012345678901234567890 }";
    let mut scratch = Scratch::default();
    let mut object = scratch.object(text).unwrap();
    assert_eq!(object.get("a").unwrap().raw, "[1, 2.50e3 ,\"\\u0041\"]");
    assert_eq!(
        object.get("b").unwrap(),
        Value {
            raw: "1e400",
            kind: Kind::Number
        }
    );
    assert_eq!(object.get("d").unwrap().kind, Kind::Integer);
    let c = object.get("c").unwrap();
    assert_eq!(object.text(c).unwrap(), "x\ny");
    assert!(object.get("e").is_none());
}

#[test]
fn a_key_with_escapes_equals_the_decoded_key() {
    let mut scratch = Scratch::default();
    let object = scratch.object(r#"{"\u0074ype":"ping"}"#).unwrap();
    assert_eq!(object.get("type").unwrap().raw, "\"ping\"");
    assert_eq!(duplicate(r#"{"\u0074ype":1,"type":2}"#).as_deref(), Some("type"));
}

#[test]
fn keys_with_escapes_are_bounded() {
    let of = |count: usize| {
        let members: Vec<String> = (0..count).map(|n| format!(r#""\u0061{n}":0"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_eq!(scan(&of(ESCAPED_KEYS_MAX)), Ok(()));
    assert_eq!(scan(&of(ESCAPED_KEYS_MAX + 1)), Err(Error::TooManyEscapes));
    assert_eq!(scan(&of(6_000)), Err(Error::TooManyEscapes));
    // Keys of nested objects are not decoded.
    assert_eq!(scan(&format!(r#"{{"a":{}}}"#, of(1_000))), Ok(()));
    // The count starts at zero for the next message.
    let mut scratch = Scratch::default();
    assert!(scratch.object(&of(1_000)).is_err());
    assert!(scratch.object(&of(ESCAPED_KEYS_MAX)).is_ok());
}

#[test]
fn duplicate_keys_are_found_among_few_and_among_many() {
    assert_eq!(
        duplicate(r#"{"a":1,"b":{"a":1,"a":2}}"#),
        None,
        "only the top level counts"
    );
    assert_eq!(duplicate(r#"{"b":1,"a":1,"a":1}"#).as_deref(), Some("a"));
    let many = |last: &str| {
        let members: Vec<String> = (0..5000).map(|n| format!("\"k{n}\":{n}")).collect();
        duplicate(&format!("{{{},\"{last}\":0}}", members.join(",")))
    };
    assert_eq!(many("k5000"), None);
    assert_eq!(many("k17").as_deref(), Some("k17"));
}

#[test]
fn unpaired_surrogates_are_json_but_not_text() {
    let mut scratch = Scratch::default();
    let mut object = scratch
        .object(r#"{"a":"\ud800","b":"\udc00x","c":["ok","\ud800"],"\ud800":1}"#)
        .unwrap();
    for name in ["a", "b"] {
        let value = object.get(name).unwrap();
        assert_eq!(object.text(value), None);
    }
    let c = object.get("c").unwrap();
    assert!(object.texts(c, |_, _| Ok::<(), ()>(())).is_none());
}

#[test]
fn an_array_of_strings_is_read_in_order() {
    let mut scratch = Scratch::default();
    let mut object = scratch
        .object(r#"{"a":["x", "\"y\"","\u00e9"],"b":["x",1e400],"c":[],"d":["x",["y"]],"e":"x"}"#)
        .unwrap();
    let mut read = |name: &str| {
        let value = object.get(name).unwrap();
        let mut seen = Vec::new();
        object
            .texts(value, |_, text| {
                seen.push(text.to_owned());
                Ok::<(), ()>(())
            })
            .map(|_| seen)
    };
    assert_eq!(read("a").unwrap(), ["x", "\"y\"", "é"]);
    assert_eq!(read("b"), None);
    assert_eq!(read("c").unwrap(), Vec::<String>::new());
    assert_eq!(read("d"), None);
    assert_eq!(read("e"), None);
}

#[test]
fn nesting_is_limited_to_64_levels() {
    let nested = |inner: usize| format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner));
    assert!(scan(&nested(63)).is_ok());
    assert!(matches!(scan(&nested(64)), Err(Error::TooDeep { .. })));
    let objects = |inner: usize| format!("{}1{}", "{\"a\":".repeat(inner), "}".repeat(inner));
    assert!(scan(&objects(64)).is_ok());
    assert!(matches!(scan(&objects(65)), Err(Error::TooDeep { .. })));
}

#[test]
fn an_array_is_split_into_raw_items() {
    assert_eq!(
        split_array(" [1 , {\"a\":[ ]},\n\"x\"] ", 3).unwrap(),
        ["1", "{\"a\":[ ]}", "\"x\""]
    );
    assert_eq!(split_array("[]", 3).unwrap(), Vec::<&str>::new());
    assert!(matches!(split_array("[1,2,3,4]", 3), Err(Error::TooManyItems(3))));
    assert!(matches!(split_array("{}", 3), Err(Error::WrongKind(_))));
    for text in ["[1,]", "[,1]", "[1", "[1]]", "[1 2]", "", "[tru]"] {
        assert!(matches!(split_array(text, 3), Err(Error::Syntax { .. })), "{text}");
    }
    let deep = format!("[{}{},1]", "[".repeat(100), "]".repeat(100));
    assert_eq!(
        split_array(&deep, 3).unwrap().len(),
        2,
        "an item too deep for a message fails alone, later"
    );
    let too_deep = format!("[{}{}]", "[".repeat(1025), "]".repeat(1025));
    assert!(matches!(split_array(&too_deep, 3), Err(Error::TooDeep { .. })));
}

#[test]
fn invalid_json_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":+1}",
        "{\"a\":1e}",
        "{\"a\":-}",
        "{\"a\":NaN}",
        "{\"a\":tru}",
        "{\"a\":\"\t\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\\",
        "{\"a\":\"",
        "{} {}",
        "{}x",
        "\u{feff}{}",
        "{\"a\":1/*x*/}",
        "{\"a\":[1,]}",
        "{\"a\":[1}",
        "{\"a\":nul",
    ] {
        assert!(
            matches!(scan(text), Err(Error::Syntax { .. })),
            "{text:?}: {:?}",
            scan(text)
        );
    }
}

// Texts that are nearly JSON: JSON in which up to two characters are replaced or removed.
fn nearly_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-0".to_owned()),
        Just("1e5".to_owned()),
        Just("12.50".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
        "(\\\\[\"\\\\/bfnrtux]|\\\\u[0-9a-fA-F]{3,5}|[ -~]){0,6}".prop_map(|s| format!("\"{s}\"")),
    ];
    let value = leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(" ,"))),
            prop::collection::vec(("[a-e]{0,2}", inner), 0..5).prop_map(|items| format!(
                "{{{}}}",
                items
                    .iter()
                    .map(|(k, v)| format!("\"{k}\": {v}"))
                    .collect::<Vec<_>>()
                    .join(",")
            )),
        ]
    });
    (
        value,
        prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{}:,\"\\\\0-9eE.+ \\-tn]|"), 0..3),
    )
        .prop_map(|(text, edits)| {
            let mut chars: Vec<char> = text.chars().collect();
            for (index, with) in edits {
                if !chars.is_empty() {
                    let at = index.index(chars.len());
                    chars.splice(at..=at, with.chars());
                }
            }
            chars.into_iter().collect()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn accepts_what_serde_json_accepts(text in nearly_json()) {
        // `RawValue` skips numbers and escapes without evaluating them. So it accepts 1e400 and an unpaired surrogate too.
        let item = format!("[{text}]");
        let reference = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(&item);
        match (split_array(&item, usize::MAX), reference) {
            (Ok(ours), Ok(theirs)) => {
                let theirs: Vec<&str> = theirs.iter().map(|raw| raw.get()).collect();
                prop_assert_eq!(ours, theirs);
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => prop_assert!(false, "{ours:?} but serde_json: {theirs:?}"),
        }
    }

    #[test]
    fn the_object_scan_agrees_with_the_array_scan(text in nearly_json()) {
        let as_item = split_array(&format!("[{text}]"), 1).map(|items| items.first().map(|item| item.len()));
        let as_member = format!("{{\"k\":{text}}}");
        let mut scratch = Scratch::default();
        let member = scratch.object(&as_member).map(|object| object.get("k").map(|value| value.raw.len()));
        // `1,2` gives two items, and `1,"x":2` gives two members.
        if let (Ok(item), Ok(member)) = (as_item, member) {
            prop_assert_eq!(item, member);
        }
    }

    #[test]
    fn strings_survive_a_round_trip(text in any::<String>(), key in any::<String>()) {
        let mut out = b"{".to_vec();
        push_string(&mut out, &key);
        out.push(b':');
        push_string(&mut out, &text);
        out.push(b'}');
        let written = String::from_utf8(out).unwrap();
        let reference: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&written).unwrap();
        prop_assert_eq!(reference.get(&key).and_then(|value| value.as_str()), Some(text.as_str()));
        let mut scratch = Scratch::default();
        let mut object = scratch.object(&written).unwrap();
        let value = object.get(&key).unwrap();
        prop_assert_eq!(object.text(value).unwrap(), text.as_str());
    }

    #[test]
    fn any_text_is_accepted_exactly_when_serde_json_accepts_it(
        text in prop_oneof![any::<String>(), "[\\[\\]{}:,\"0-9eE.+ \\-]{0,10}"],
    ) {
        // `RawValue` checks the grammar alone, as the scanner does.
        let is_json = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        let first = text.trim_ascii_start().bytes().next();
        prop_assert_eq!(check_value(&text).is_ok(), is_json);
        prop_assert_eq!(scan(&text).is_ok(), is_json && first == Some(b'{'));
        prop_assert_eq!(split_array(&text, usize::MAX).is_ok(), is_json && first == Some(b'['));
    }
}

#[test]
fn a_single_value_is_checked_and_trimmed() {
    for (text, value) in [
        (" 1e400\n", "1e400"),
        ("\t\"x\"", "\"x\""),
        ("[1, {}] ", "[1, {}]"),
        ("null", "null"),
    ] {
        assert_eq!(check_value(text), Ok(value));
    }
    for text in ["", " ", "01", "[1,]", "nul", "1 2", "{\"a\":}", "\u{a0}1"] {
        assert!(check_value(text).is_err(), "{text:?}");
    }
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(check_value(&nested(63)).is_ok());
    assert!(matches!(check_value(&nested(64)), Err(Error::TooDeep { .. })));
}
