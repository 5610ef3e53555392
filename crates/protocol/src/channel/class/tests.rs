use proptest::prelude::*;

use super::*;
use crate::channel::generate;

fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("valid")
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("valid")
}

#[test]
fn entries_of_the_operator_come_first_in_their_order() {
    let plain = Class::default();
    let changed = Class {
        only_changed: true,
        ..Class::default()
    };
    let classes = Classes::new(vec![
        (pattern("grid.vip.order"), changed.clone()),
        (pattern("grid.*.order"), plain.clone()),
        (pattern("*.vip.trade"), changed.clone()),
    ]);
    for (name, class) in [
        ("grid.vip.order", &changed),
        ("grid.abc.order", &plain),
        ("grid.vip.trade", &changed),
        ("other.vip.trade", &changed),
    ] {
        assert_eq!(**classes.of(&channel(name)), *class, "{name}");
    }
    assert!(classes.of(&channel("grid.abc.trade")).history.is_some(), "built in");
}

#[test]
fn contradictory_classes_are_refused() {
    let history = |size, ttl_ms| Some(History { size, ttl_ms });
    let with = |change: fn(&mut Class)| {
        let mut class = Class::default();
        change(&mut class);
        class.check()
    };
    assert_eq!(with(|_| {}), Ok(()));
    assert_eq!(
        with(|class| class.overflow = Overflow::Conflate),
        Err(ClassError::ConflateWithoutCache)
    );
    assert_eq!(
        with(|class| class.record_key = Some("k".into())),
        Err(ClassError::RecordKeyWithoutCache)
    );
    assert_eq!(
        with(|class| {
            class.record_delete = Some(RecordDelete {
                field: "gone".into(),
                values: [].into(),
            });
        }),
        Err(ClassError::DeleteWithoutRecordKey)
    );
    assert_eq!(
        with(|class| class.last_ttl_ms = Some(1)),
        Err(ClassError::TtlWithoutCache)
    );
    for change in [
        |class: &mut Class| class.cache_last = false,
        |class: &mut Class| class.record_key = Some("k".into()),
        |class: &mut Class| class.only_changed = true,
    ] {
        let mut class = Class {
            book: Some(BookRules::default()),
            ..Class::last()
        };
        assert_eq!(class.check(), Ok(()));
        change(&mut class);
        class.overflow = Class::default_overflow(class.cache_last, false);
        assert_eq!(class.check(), Err(ClassError::Book));
    }
    for (depth, error) in [(0, true), (1, false), (DEPTH_MAX, false), (DEPTH_MAX + 1, true)] {
        let class = Class {
            book: Some(BookRules { depth: Some(depth) }),
            ..Class::last()
        };
        assert_eq!(class.check().err(), error.then_some(ClassError::Depth));
    }
    let ends_at_once = Class {
        last_ttl_ms: Some(0),
        ..Class::last()
    };
    assert_eq!(ends_at_once.check(), Err(ClassError::LastTtl));
    for overflow in [Overflow::DropOldest, Overflow::Disconnect] {
        let mut class = Class {
            overflow,
            ..Class::last()
        };
        assert_eq!(class.check(), Err(ClassError::CacheWithoutHistory));
        class.history = history(1, 1);
        assert_eq!(class.check(), Ok(()));
    }
    for (size, ttl_ms, error) in [
        (0, 1, Some(ClassError::HistorySize)),
        (HISTORY_SIZE_MAX + 1, 1, Some(ClassError::HistorySize)),
        (1, 0, Some(ClassError::HistoryTtl)),
        (HISTORY_SIZE_MAX, 1, None),
    ] {
        let class = Class {
            history: history(size, ttl_ms),
            ..Class::default()
        };
        assert_eq!(class.check().err(), error);
    }
    let both = Class {
        history: history(1, 1),
        ..Class::last()
    };
    assert_eq!(both.check(), Err(ClassError::ConflateWithHistory));
    let limited = |class| Class {
        max_rate: Some(Rate::ALL[0]),
        ..class
    };
    assert_eq!(limited(Class::last()).check(), Ok(()));
    assert_eq!(
        limited(Class::default()).check(),
        Err(ClassError::MaxRateWithoutConflate)
    );
}

#[test]
fn the_rate_of_a_pattern_is_that_of_its_fastest_class() {
    let [slow, .., fast] = Rate::ALL.map(Some);
    let limited = |max_rate| Class {
        max_rate,
        ..Class::last()
    };
    let classes = Classes::new(vec![
        (pattern("market.*.price"), limited(fast)),
        (pattern("market.*.orderbook"), limited(slow)),
        (pattern("news.*"), Class::default()),
        (pattern("books.*.slow"), limited(slow)),
        (pattern("books.*.fast"), limited(fast)),
        (pattern("books.*"), Class::default()),
    ]);
    for (text, rate) in [
        ("market.BTC.price", Some(fast)),
        ("market.*.orderbook", Some(slow)),
        ("books.*", Some(fast)),
        // `*.*.status` conflates without a limit.
        ("market.*", Some(None)),
        ("market.BTC.trade", None),
        ("news.*", None),
        ("*", Some(None)),
        ("grid.*.order", None),
        ("other.x", None),
    ] {
        assert_eq!(classes.conflated_rate(&pattern(text)), rate, "{text}");
    }
    assert_eq!(classes.slowest_rate(), slow);
    let classes = Classes::default().with_tenants(vec![classes]);
    let in_tenant = |tenant| pattern("books.a.fast").in_tenant(Tenant::new(tenant).expect("a tenant"));
    assert_eq!(classes.conflated_rate(&in_tenant(1)), Some(fast));
    assert_eq!(classes.conflated_rate(&in_tenant(0)), None);
    assert_eq!(classes.slowest_rate(), slow);
    assert_eq!(Classes::default().slowest_rate(), None);
}

proptest! {
    // The naive model takes the first entry of a list that matches.
    #[test]
    fn the_first_matching_entry_decides(
        patterns in prop::collection::vec(generate::pattern(), 0..12),
        channel in generate::channel(),
    ) {
        let class = |index: usize| Class {
            history: Some(History { size: u32::try_from(index).expect("few") + 1, ttl_ms: 7 }),
            ..Class::default()
        };
        let entries: Vec<_> = patterns.into_iter().enumerate().map(|(index, pattern)| (pattern, class(index))).collect();
        let naive = entries.iter().find(|(pattern, _)| pattern.matches(&channel)).map(|(_, class)| class.clone());
        let built_in = Classes::default();
        let naive = naive.unwrap_or_else(|| (**built_in.of(&channel)).clone());
        let classes = Classes::new(entries);
        prop_assert_eq!(&**classes.of(&channel), &naive);
    }
}
