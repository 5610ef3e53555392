//! How long ids are remembered: at the limits of time and number, over all stripes, in virtual time.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::event::EventId;

const IDS_MAX: u32 = 8;

/// Publishes the event with this number, and returns whether it is a duplicate. The numbers spread over the stripes.
fn is_duplicate(hub: &Hub, number: u64, mono_ms: u64) -> bool {
    let mut event = event(&format!("a{number}.b"), number);
    event.options.id = Some(EventId::new(None, &event.channel, b"id"));
    let credit = hub
        .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0)
        .expect("free");
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
        assert!(
            is_duplicate(&hub, 1, first_ms + WINDOW_MS - 1),
            "accepted at {first_ms}"
        );
    }
}

#[test]
fn an_id_is_forgotten_two_windows_later_even_by_stripes_that_are_not_used() {
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
            assert!(is_duplicate(&hub, before, 0), "{number} after {before}");
        }
        for number in before + half..before + 2 * half + 1 {
            assert!(!is_duplicate(&hub, number, 0));
        }
        assert!(
            !is_duplicate(&hub, before, 0),
            "it must be forgotten, or there are more than {IDS_MAX} ids"
        );
    }
}

#[test]
fn ids_are_not_counted_in_the_bytes_of_channels() {
    let hub = hub_of_ids(IDS_MAX);
    assert!(!is_duplicate(&hub, 1, 0));
    let metrics = hub.metrics();
    assert_eq!((metrics.ids, metrics.channels, metrics.state_bytes), (1, 0, 0));
}

proptest! {
    #[test]
    fn ids_agree_with_a_model_of_acceptances(steps in prop::collection::vec((0u64..24, 0u64..WINDOW_MS / 4), 1..200)) {
        let hub = hub_of_ids(IDS_MAX);
        // For each number: when it was last accepted, and how many ids were accepted before.
        let mut accepted = HashMap::<u64, (u64, u32)>::new();
        let (mut mono_ms, mut count) = (0, 0);
        for (number, pause_ms) in steps {
            mono_ms += pause_ms;
            let found = is_duplicate(&hub, number, mono_ms);
            let last = accepted.get(&number).copied();
            let since = last.map(|(accepted_ms, index)| (mono_ms - accepted_ms, count - index - 1));
            let must = since.is_some_and(|(age_ms, others)| age_ms < WINDOW_MS && others < IDS_MAX / 2);
            prop_assert!(found || !must, "{number} was forgotten: {since:?}");
            prop_assert!(!found || last.is_some(), "{number} was never accepted");
            prop_assert!(hub.metrics().ids <= IDS_MAX as usize);
            if !found {
                accepted.insert(number, (mono_ms, count));
                count += 1;
            }
        }
    }
}
