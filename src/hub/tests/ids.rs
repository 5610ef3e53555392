//! For how long ids are remembered: at the borders of time and of number, over all stripes, on virtual time.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::event::EventId;

const IDS_MAX: u32 = 8;

/// Publishes the event of this number, each to a stripe of its own as far as there are; whether it is a duplicate.
fn is_duplicate(hub: &Hub, number: u64, mono_ms: u64) -> bool {
    let mut event = event(&format!("a{number}.b"), number);
    event.options.id = Some(EventId::new(&event.channel, b"id"));
    let credit = hub.credit_now(0).expect("free");
    let now = Now { mono_ms, unix_ms: 0 };
    hub.publish(event, now, credit, &mut Wakes::default()).duplicate
}

#[test]
fn an_id_is_remembered_for_the_window_wherever_in_a_generation_it_came() {
    for first_ms in [0, 1, WINDOW_MS - 1, WINDOW_MS, 3 * WINDOW_MS + 7] {
        let hub = hub_of_ids(IDS_MAX);
        assert!(!is_duplicate(&hub, 0, 0));
        assert!(!is_duplicate(&hub, 1, first_ms));
        hub.expire(Now {
            mono_ms: first_ms + WINDOW_MS / 2,
            unix_ms: 0,
        });
        assert!(is_duplicate(&hub, 1, first_ms + WINDOW_MS - 1), "came at {first_ms}");
    }
}

#[test]
fn an_id_is_forgotten_two_windows_later_by_stripes_that_nobody_asks_too() {
    let hub = hub_of_ids(IDS_MAX);
    assert!(!is_duplicate(&hub, 1, 0));
    for mono_ms in [WINDOW_MS, 2 * WINDOW_MS] {
        assert_eq!(hub.metrics().ids, 1);
        hub.expire(Now { mono_ms, unix_ms: 0 });
    }
    assert_eq!(hub.metrics().ids, 0);
    assert!(!is_duplicate(&hub, 1, 2 * WINDOW_MS));
}

#[test]
fn an_id_is_remembered_until_half_of_all_came_after_it_wherever_they_went() {
    let half = u64::from(IDS_MAX / 2);
    for before in 0..2 * half {
        let hub = hub_of_ids(IDS_MAX);
        for number in 0..before + 1 {
            assert!(!is_duplicate(&hub, number, 0));
        }
        for number in before + 1..before + half {
            assert!(!is_duplicate(&hub, number, 0));
            assert!(is_duplicate(&hub, before, 0), "{number} behind {before}");
        }
        for number in before + half..before + 2 * half + 1 {
            assert!(!is_duplicate(&hub, number, 0));
        }
        assert!(
            !is_duplicate(&hub, before, 0),
            "forgotten, or they would be more than {IDS_MAX}"
        );
    }
}

#[test]
fn ids_do_not_count_in_the_bytes_of_channels() {
    let hub = hub_of_ids(IDS_MAX);
    assert!(!is_duplicate(&hub, 1, 0));
    let metrics = hub.metrics();
    assert_eq!((metrics.ids, metrics.channels, metrics.state_bytes), (1, 0, 0));
}

proptest! {
    #[test]
    fn agrees_with_when_each_id_came(steps in prop::collection::vec((0u64..24, 0u64..WINDOW_MS / 4), 1..200)) {
        let hub = hub_of_ids(IDS_MAX);
        // Of each number when it was accepted last, and how many were before it.
        let mut accepted = HashMap::<u64, (u64, u32)>::new();
        let (mut mono_ms, mut count) = (0, 0);
        for (number, pause_ms) in steps {
            mono_ms += pause_ms;
            let found = is_duplicate(&hub, number, mono_ms);
            let came = accepted.get(&number).copied();
            let later = came.map(|(came_ms, place)| (mono_ms - came_ms, count - place - 1));
            let must = later.is_some_and(|(age_ms, others)| age_ms < WINDOW_MS && others < IDS_MAX / 2);
            prop_assert!(found || !must, "{number} was forgotten: {later:?}");
            prop_assert!(!found || came.is_some(), "{number} never came");
            prop_assert!(hub.metrics().ids <= IDS_MAX as usize);
            if !found {
                accepted.insert(number, (mono_ms, count));
                count += 1;
            }
        }
    }
}
