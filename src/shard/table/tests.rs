use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

// The rule of matching in its simplest form.
fn naive_match(pattern: &str, channel: &str) -> bool {
    fn go(pattern: &[&str], channel: &[&str]) -> bool {
        match (pattern, channel) {
            ([], []) => true,
            (["*"], [_, ..]) => true,
            ([p, pattern @ ..], [c, channel @ ..]) => (*p == "*" || p == c) && go(pattern, channel),
            _ => false,
        }
    }
    go(
        &pattern.split('.').collect::<Vec<_>>(),
        &channel.split('.').collect::<Vec<_>>(),
    )
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("a valid pattern")
}

fn receivers(table: &mut Table, channel: &str) -> Vec<u32> {
    let channel = Channel::parse(channel).expect("a valid channel");
    let mut nodes = Vec::new();
    table.resolve(&channel, &mut nodes);
    let mut slots = BTreeSet::new();
    for node in nodes {
        slots.extend(table.subscribers(node).iter().map(|subscriber| subscriber.slot));
    }
    slots.into_iter().collect()
}

#[test]
fn a_subscriber_entry_is_eight_bytes_and_so_is_a_held_one() {
    assert_eq!(size_of::<Subscriber>(), 8);
    assert_eq!(size_of::<HeldPattern>(), 8);
}

#[test]
fn the_examples_of_the_protocol() {
    let mut table = Table::new();
    for (slot, text) in ["grid.abc.status", "grid.*", "grid.abc.*", "grid.*.status", "*"]
        .iter()
        .enumerate()
    {
        let slot = u32::try_from(slot).expect("small");
        assert!(matches!(
            table.insert(slot, &pattern(text), Pace::Live),
            Inserted::First(_)
        ));
    }
    assert_eq!(receivers(&mut table, "grid.abc.status"), [0, 1, 2, 3, 4]);
    assert_eq!(receivers(&mut table, "grid.abc"), [1, 4]);
    assert_eq!(receivers(&mut table, "grid.abc.order"), [1, 2, 4]);
    assert_eq!(receivers(&mut table, "grid.abd.status"), [1, 3, 4]);
    assert_eq!(receivers(&mut table, "grid.a.b.status"), [1, 4]);
    assert_eq!(receivers(&mut table, "grid"), [4]);
    assert_eq!(receivers(&mut table, "gridx.a"), [4]);
}

#[test]
fn a_reused_node_number_delivers_no_event_of_its_former_pattern() {
    let mut table = Table::new();
    table.insert(1, &pattern("a.b"), Pace::Live);
    assert_eq!(receivers(&mut table, "a.b"), [1]);
    assert_eq!(table.remove(1, &pattern("a.b")), Some(true));
    table.insert(2, &pattern("c.d"), Pace::Live);
    assert_eq!(receivers(&mut table, "a.b"), [0_u32; 0]);
    assert_eq!(receivers(&mut table, "c.d"), [2]);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, usize),
    Remove(u32, usize),
    RemoveAll(u32),
    Publish(usize),
}

const SEGMENT: [&str; 4] = ["a", "b", "cc", "*"];

fn texts(wild: bool) -> Vec<String> {
    let last = if wild { 4 } else { 3 };
    let mut all: Vec<String> = SEGMENT[..last].iter().map(ToString::to_string).collect();
    for depth in 1..4 {
        let longer: Vec<String> = all
            .iter()
            .filter(|text| text.split('.').count() == depth)
            .flat_map(|text| SEGMENT[..last].iter().map(move |segment| format!("{text}.{segment}")))
            .collect();
        all.extend(longer);
    }
    all
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u32..600, any::<usize>()).prop_map(|(slot, text)| Step::Insert(slot, text)),
        2 => (0u32..600, any::<usize>()).prop_map(|(slot, text)| Step::Remove(slot, text)),
        1 => (0u32..600).prop_map(Step::RemoveAll),
        3 => any::<usize>().prop_map(Step::Publish),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    #[test]
    fn agrees_with_a_naive_matcher(steps in steps(), few in any::<bool>()) {
        let (mut patterns, channels) = (texts(true), texts(false));
        if few {
            patterns.truncate(24);
        }
        let slots = |slot: u32| if few { slot % 8 } else { slot };
        let mut table = Table::new();
        let mut model = BTreeMap::<u32, BTreeSet<String>>::new();
        let held_by = |model: &BTreeMap<u32, BTreeSet<String>>, text: &str| {
            model.values().filter(|held| held.contains(text)).count()
        };
        for step in steps {
            match step {
                Step::Insert(slot, text) => {
                    let (slot, text) = (slots(slot), &patterns[text % patterns.len()]);
                    let others = held_by(&model, text);
                    let new = model.entry(slot).or_default().insert(text.clone());
                    match table.insert(slot, &pattern(text), Pace::Live) {
                        Inserted::Held => prop_assert!(!new),
                        Inserted::Joined(node) => {
                            prop_assert!(new && others > 0);
                            prop_assert_eq!(table.pattern(node).map(Pattern::as_str), Some(text.as_str()));
                        }
                        Inserted::First(_) => prop_assert!(new && others == 0),
                    }
                }
                Step::Remove(slot, text) => {
                    let (slot, text) = (slots(slot), &patterns[text % patterns.len()]);
                    let had = model.entry(slot).or_default().remove(text);
                    let expected = had.then(|| held_by(&model, text) == 0);
                    prop_assert_eq!(table.remove(slot, &pattern(text)), expected);
                }
                Step::RemoveAll(slot) => {
                    let slot = slots(slot);
                    let held = model.remove(&slot).unwrap_or_default();
                    let expected: BTreeSet<String> =
                        held.into_iter().filter(|text| held_by(&model, text) == 0).collect();
                    let mut gone = BTreeSet::new();
                    table.remove_all(slot, |pattern| { gone.insert(pattern.as_str().to_owned()); });
                    prop_assert_eq!(gone, expected);
                }
                Step::Publish(text) => {
                    let channel = &channels[text % channels.len()];
                    let expected: Vec<u32> = model
                        .iter()
                        .filter(|(_, held)| held.iter().any(|pattern| naive_match(pattern, channel)))
                        .map(|(slot, _)| *slot)
                        .collect();
                    prop_assert_eq!(receivers(&mut table, channel), expected);
                }
            }
        }
        let total: usize = model.values().map(BTreeSet::len).sum();
        prop_assert_eq!(table.subscriptions(), total as u64);
        for (slot, held) in &model {
            let listed: BTreeSet<String> = table.held(*slot).map(ToString::to_string).collect();
            prop_assert_eq!(&listed, held);
        }
    }
}

#[test]
fn subscriptions_are_counted_for_each_tenant() {
    let mut table = Table::new();
    let one = Tenant::new(1).expect("few");
    for slot in 0..3 {
        table.insert(slot, &pattern("a.*"), Pace::Live);
        table.insert(slot, &pattern("b.c"), Pace::Live);
        table.insert(slot + 3, &pattern("a.*").in_tenant(one), Pace::Live);
    }
    let counts = |table: &Table| [Tenant::DEFAULT, one].map(|tenant| table.subscriptions_of(tenant));
    assert_eq!((table.subscriptions(), counts(&table)), (9, [6, 3]));
    table.remove(4, &pattern("a.*").in_tenant(one));
    table.remove(4, &pattern("a.*"));
    table.remove_all(0, |_| ());
    assert_eq!((table.subscriptions(), counts(&table)), (6, [4, 2]));
}

#[test]
fn the_matches_of_a_flood_of_channels_are_forgotten_and_those_in_use_stay() {
    const FLOOD: usize = 3 * CACHED_CHANNELS_MIN;
    let mut table = Table::new();
    table.insert(1, &pattern("a.*"), Pace::Live);
    table.forget_unused(CACHED_MS);
    for n in 0..FLOOD {
        assert_eq!(receivers(&mut table, &format!("a.{n}")), [1]);
    }
    table.forget_unused(2 * CACHED_MS - 1);
    assert_eq!(table.cached(), FLOOD);
    for minute in 2..5 {
        table.forget_unused(minute * CACHED_MS);
        // A new node makes every cached match wrong, also one that was not used.
        table.insert(narrow(minute as usize), &pattern("a.0"), Pace::Live);
        assert_eq!(receivers(&mut table, "a.0").len() as u64, minute);
    }
    assert!(table.cached() <= 1, "{}", table.cached());
    table.forget_unused(6 * CACHED_MS);
    assert_eq!(table.cached(), 1, "a few may stay");
}
