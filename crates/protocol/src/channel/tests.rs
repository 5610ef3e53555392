//! The grammar by example. Matching, cover and intersection are compared with a naive model.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::generate::{all_channels, channel, pattern};
use super::*;

/// A pattern of 1 to 4 segments. Some segments are so long that only one or two of them fit into 255 bytes.
fn long_pattern() -> impl Strategy<Value = Pattern> {
    let segment = prop::sample::select(vec!["*".to_owned(), "a".to_owned(), "b".repeat(120), "d".repeat(130)]);
    prop::collection::vec(segment, 1..=4).prop_filter_map("too long", |s| Pattern::parse(&s.join(".")).ok())
}

fn p(text: &str) -> Pattern {
    Pattern::parse(text).unwrap_or_else(|e| panic!("{text} {e}"))
}

/// The rules of docs/protocol.md, written as directly as possible.
fn model_matches(pattern: &[&str], channel: &[&str]) -> bool {
    match (pattern, channel) {
        ([], []) => true,
        (["*"], [_, ..]) => true,
        ([head, pattern @ ..], [segment, channel @ ..]) => {
            (*head == "*" || head == segment) && model_matches(pattern, channel)
        }
        _ => false,
    }
}

fn model(pattern: &Pattern, channel: &str) -> bool {
    let split = |text: &'_ str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (split(pattern.as_str()), split(channel));
    model_matches(
        &a.iter().map(String::as_str).collect::<Vec<_>>(),
        &b.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

#[test]
fn patterns_match_as_the_protocol_says() {
    for (pattern, yes, no) in [
        (
            "grid.abc.status",
            &["grid.abc.status"][..],
            &["grid.abc", "grid.abc.statusx", "grid.abc.status.x"][..],
        ),
        (
            "grid.*",
            &["grid.abc", "grid.abc.status", "grid.def.order"],
            &["grid", "gridx.a"],
        ),
        (
            "grid.abc.*",
            &["grid.abc.status", "grid.abc.order"],
            &["grid.abd.status", "grid.abc"],
        ),
        (
            "grid.*.status",
            &["grid.abc.status", "grid.def.status"],
            &["grid.abc.order", "grid.a.b.status"],
        ),
        ("*.abc", &["grid.abc"], &["grid.abcd", "abc", "a.b.abc", "grid.abc.x"]),
        ("*", &["a", "a.b", "a.b.c.d.e.f.g.h"], &[]),
        ("*.*", &["a.b", "a.b.c"], &["a"]),
        ("market.*.price", &["market.BTC/USDT.price"], &["market.price"]),
    ] {
        let pattern = p(pattern);
        for channel in yes {
            assert!(
                pattern.matches_name(channel) && model(&pattern, channel),
                "{pattern} {channel}"
            );
        }
        for channel in no {
            assert!(
                !pattern.matches_name(channel) && !model(&pattern, channel),
                "{pattern} {channel}"
            );
        }
    }
}

#[test]
fn channels_and_patterns_follow_the_grammar() {
    use ChannelError::*;
    let long = "x".repeat(256);
    for (text, channel, pattern) in [
        ("a", Ok(()), Ok(())),
        ("a.b.c.d.e.f.g.h", Ok(()), Ok(())),
        ("a.b.c.d.e.f.g.h.i", Err(TooManySegments), Err(TooManySegments)),
        ("", Err(Empty), Err(Empty)),
        (".", Err(EmptySegment), Err(EmptySegment)),
        ("a.", Err(EmptySegment), Err(EmptySegment)),
        (".a", Err(EmptySegment), Err(EmptySegment)),
        ("a..b", Err(EmptySegment), Err(EmptySegment)),
        ("*", Err(BadCharacter('*')), Ok(())),
        ("a.*.b", Err(BadCharacter('*')), Ok(())),
        ("*.*.*.*.*.*.*.*", Err(BadCharacter('*')), Ok(())),
        ("a.*b", Err(BadCharacter('*')), Err(BadCharacter('*'))),
        ("**", Err(BadCharacter('*')), Err(BadCharacter('*'))),
        ("a.>", Err(BadCharacter('>')), Err(BadCharacter('>'))),
        ("a b", Err(BadCharacter(' ')), Err(BadCharacter(' '))),
        ("a\u{a0}b", Err(BadCharacter('\u{a0}')), Err(BadCharacter('\u{a0}'))),
        (
            "a\u{2003}",
            Err(BadCharacter('\u{2003}')),
            Err(BadCharacter('\u{2003}')),
        ),
        (
            "a\u{3000}b",
            Err(BadCharacter('\u{3000}')),
            Err(BadCharacter('\u{3000}')),
        ),
        ("a\0", Err(BadCharacter('\0')), Err(BadCharacter('\0'))),
        ("a\u{7f}", Err(BadCharacter('\u{7f}')), Err(BadCharacter('\u{7f}'))),
        ("a\u{85}", Err(BadCharacter('\u{85}')), Err(BadCharacter('\u{85}'))),
        ("a\n", Err(BadCharacter('\n')), Err(BadCharacter('\n'))),
        ("行情.比特币.価格", Ok(()), Ok(())),
        ("market.BTC/USDT.price", Ok(()), Ok(())),
        ("$SYS.\"quoted\".{x}", Ok(()), Ok(())),
        (&long[..255], Ok(()), Ok(())),
        (&long, Err(TooLong), Err(TooLong)),
    ] {
        assert_eq!(Channel::parse(text).map(drop), channel, "{text:?}");
        assert_eq!(Pattern::parse(text).map(drop), pattern, "{text:?}");
    }
}

#[test]
fn the_fast_check_agrees_with_the_complete_one() {
    let mut texts = vec![String::new()];
    for length in 0..6 {
        let longest = texts.iter().filter(|text| text.len() == length);
        let longer: Vec<_> = longest
            .flat_map(|text| ["a", "*", ">", ".", " "].map(|next| format!("{text}{next}")))
            .collect();
        texts.extend(longer);
    }
    let segments = |count| vec!["a"; count].join(".");
    let bounds = [
        segments(8),
        segments(9),
        "a".repeat(255),
        "a".repeat(256),
        "*.".repeat(7) + "*",
    ];
    for text in texts.iter().chain(&bounds) {
        for wildcards in [false, true] {
            let complete = check_each(text, wildcards).is_ok();
            assert_eq!(is_plain(text, wildcards), complete, "{text:?}, wildcards {wildcards}");
        }
    }
    // The fast check leaves other characters to the complete one.
    assert!(!is_plain("é", false) && check("é", false).is_ok());
}

#[test]
fn a_segment_has_no_dot_wildcard_or_space() {
    for good in ["u42", "42", "alice@example", "名", "a-b_c"] {
        assert!(is_segment(good), "{good:?}");
    }
    for bad in [
        "",
        ".",
        "a.b",
        "alice@example.com",
        "*",
        "a*",
        ">",
        "a b",
        "\t",
        "a\u{2028}",
    ] {
        assert!(!is_segment(bad), "{bad:?}");
    }
}

#[test]
fn cover_and_intersection_by_example() {
    for (a, b, a_covers_b, intersect) in [
        ("*", "a.*.b", true, true),
        ("*", "*", true, true),
        ("*.*", "*", false, true),
        ("a.*", "a", false, false),
        ("a.*", "*.b", false, true),
        ("a.*", "a.*.c", true, true),
        ("a.*.c", "a.*", false, true),
        ("a.*.c", "a.b.c", true, true),
        ("a.*.c", "a.b.d", false, false),
        ("a.b.c.d.e.f.g.*", "a.b.c.d.e.f.*.h", false, true),
        ("a.b.c.d.e.f.g.*", "a.b.c.d.e.f.*", false, true),
        ("*.*.*.*.*.*.*.*", "a.b.c.d.e.f.g.*", true, true),
    ] {
        assert_eq!(p(a).covers(&p(b)), a_covers_b, "{a} covers {b}");
        assert_eq!(p(a).intersects(&p(b)), intersect, "{a} intersects {b}");
        assert_eq!(p(b).intersects(&p(a)), intersect, "{b} intersects {a}");
    }
}

#[test]
fn patterns_that_agree_only_on_too_long_names_do_not_intersect() {
    // 127 + 1 + 127 bytes are exactly 255.
    let (head, tail) = ("h".repeat(127), "t".repeat(127));
    assert!(p(&format!("{head}.*")).intersects(&p(&format!("*.{tail}"))));
    assert!(!p(&format!("{head}h.*")).intersects(&p(&format!("*.{tail}"))));
}

#[test]
fn a_channel_is_the_pattern_that_matches_only_itself() {
    let pattern = Pattern::from(Channel::parse("a.b").expect("valid"));
    assert!(pattern.is_exact() && pattern.matches_name("a.b") && !pattern.matches_name("a.b.c"));
    assert!(!p("a.*").is_exact());
}

/// Compares `covers` and `intersects` of one pair with the model. `channels` must include a counterexample for every pair
/// that does not cover, and a common channel for every pair that intersects.
fn check_pair(a: &Pattern, b: &Pattern, channels: &[String]) {
    let (mut refuted, mut met) = (false, false);
    for name in channels {
        let (in_a, in_b) = (model(a, name), model(b, name));
        refuted |= in_b && !in_a;
        met |= in_a && in_b;
    }
    assert_eq!(a.covers(b), !refuted, "{a} covers {b}");
    assert_eq!(a.intersects(b), met, "{a} intersects {b}");
}

#[test]
fn every_pair_of_short_patterns_agrees_with_the_model() {
    let patterns: Vec<Pattern> = ["*", "a", "b"]
        .iter()
        .flat_map(|x| {
            let mut all = vec![(*x).to_owned()];
            for y in ["*", "a", "b"] {
                all.push(format!("{x}.{y}"));
                all.extend(["*", "a", "b"].iter().map(|z| format!("{x}.{y}.{z}")));
            }
            all
        })
        .map(|text| p(&text))
        .collect();
    assert_eq!(patterns.len(), 39);
    let channels = all_channels(&["a", "b", "c"], 4);
    for a in &patterns {
        for b in &patterns {
            check_pair(a, b, &channels);
        }
    }
}

/// All 9840 channels over an alphabet of three segments, up to the full depth.
static CHANNELS: LazyLock<Vec<String>> = LazyLock::new(|| all_channels(&["a", "b", "c"], SEGMENTS_MAX));

proptest! {
    #[test]
    fn matches_agrees_with_the_model(pattern in pattern(), channel in channel()) {
        prop_assert_eq!(pattern.matches(&channel), model(&pattern, channel.as_str()));
    }

    #[test]
    fn a_parsed_name_matches_itself_and_is_covered_by_the_widest_pattern(text in "[a*>. \u{3000}é]{0,12}") {
        if let Ok(channel) = Channel::parse(&text) {
            prop_assert!(p(&text).is_exact() && p(&text).matches(&channel) && p("*").matches_name(&text));
        }
        if let Ok(pattern) = Pattern::parse(&text) {
            prop_assert!(pattern.covers(&pattern) && pattern.intersects(&pattern) && p("*").covers(&pattern));
            prop_assert_eq!(pattern.is_exact(), Channel::parse(&text).is_ok());
        }
    }

    #[test]
    fn long_patterns_agree_with_the_model(a in long_pattern(), b in long_pattern()) {
        let (long_b, long_d) = ("b".repeat(120), "d".repeat(130));
        check_pair(&a, &b, &all_channels(&["a", "z", &long_b, &long_d], 5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn cover_and_intersection_agree_with_the_model_at_full_depth(a in pattern(), b in pattern()) {
        check_pair(&a, &b, &CHANNELS);
    }
}

#[test]
fn a_shape_is_a_length_and_the_positions_of_stars() {
    for (pattern, segments, stars, is_open) in [
        ("a", 1, 0, false),
        ("*", 1, 0b1, true),
        ("a.*", 2, 0b10, true),
        ("*.b.*.d", 4, 0b101, false),
        ("1.2.3.4.5.6.7.*", 8, 0b1000_0000, true),
    ] {
        let shape = Pattern::parse(pattern).expect(pattern).shape();
        assert_eq!(shape, Shape { segments, stars }, "{pattern}");
        assert_eq!(shape.is_open(), is_open, "{pattern}");
        assert_eq!(
            super::segments(pattern).collect::<Vec<_>>(),
            pattern.split('.').collect::<Vec<_>>()
        );
    }
    let mut text = "previous content".to_owned();
    Shape {
        segments: 3,
        stars: 0b110,
    }
    .write_candidate("a.b.c.d", &mut text);
    assert_eq!(text, "a.*.*");
}

#[test]
fn tenants_with_the_same_names_have_nothing_in_common() {
    let other = Tenant::new(1).expect("a tenant");
    let channel = Channel::parse("a.b").expect("valid");
    let moved = channel.clone().in_tenant(other);
    assert_ne!(channel, moved);
    assert_ne!(p("a.b"), p("a.b").in_tenant(other));
    for pattern in ["*", "a.*", "*.b", "a.b"] {
        let (ours, theirs) = (p(pattern), p(pattern).in_tenant(other));
        assert!(ours.matches(&channel) && theirs.matches(&moved), "{pattern}");
        assert!(!ours.matches(&moved) && !theirs.matches(&channel), "{pattern}");
        assert!(!ours.covers(&theirs) && !theirs.covers(&ours), "{pattern}");
        assert!(!ours.intersects(&theirs) && !theirs.intersects(&ours), "{pattern}");
    }
    let pattern = p("a.b").in_tenant(other);
    assert_eq!(pattern.to_channel().as_ref(), Some(&moved));
    assert_eq!(Pattern::from(moved), pattern);
    let template: ChannelTemplate = "a.{x}".parse().expect("a template");
    let theirs = template.clone().in_tenant(other);
    assert!(theirs.concerns(&pattern) && !template.concerns(&pattern));
    assert!(theirs.can_match(&pattern) && !template.can_match(&pattern));
    assert_eq!(theirs.pattern(), p("a.*").in_tenant(other));
}

#[test]
fn a_borrowed_name_finds_the_entry_of_its_tenant() {
    let tenant = |index| Tenant::new(index).expect("few");
    let map: hashbrown::HashMap<Channel, usize> = [0, 1, 2]
        .map(|index| (Channel::parse("a.b").expect("valid").in_tenant(tenant(index)), index))
        .into();
    for index in 0..3 {
        let name = Name {
            tenant: tenant(index),
            text: "a.b",
        };
        assert_eq!(map.get(&name), Some(&index));
    }
    assert_eq!(
        (
            Tenant::new(Tenant::MAX).map(Tenant::index),
            Tenant::new(Tenant::MAX + 1)
        ),
        (Some(31), None)
    );
}

#[test]
fn each_tenant_has_its_own_entries_and_defaults() {
    let class = |size| Class {
        history: Some(History { size, ttl_ms: 1 }),
        ..Class::default()
    };
    let tenant = |index| Tenant::new(index).expect("few");
    let template = |text: &str, index| text.parse::<ChannelTemplate>().expect("valid").in_tenant(tenant(index));
    let entries = |size| Classes::new(vec![(p("grid.*.order"), class(size))]);
    let classes = entries(1).with_tenants(vec![entries(2), Classes::default()]);
    let classes = classes.with_defaults(vec![
        (template("x.{id}", 0), class(7)),
        (template("x.{id}", 1), class(8)),
    ]);
    let size = |name: &str, index| {
        let class = classes.of(&Channel::parse(name).expect("valid").in_tenant(tenant(index)));
        class.history.map(|history| history.size)
    };
    assert_eq!([0, 1].map(|tenant| size("grid.a.order", tenant)), [Some(1), Some(2)]);
    assert_eq!(size("grid.a.order", 2), Some(History::BUILT_IN.size), "built in");
    assert_eq!([0, 1, 2].map(|tenant| size("x.y", tenant)), [Some(7), Some(8), None]);
}
