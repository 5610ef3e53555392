//! The order of a replay, and how far it says it is.

use super::*;

#[test]
fn a_replay_comes_in_the_order_of_versions_and_goes_on_behind_what_is_queued() {
    let mut catch_up = Alone::default();
    catch_up.note_began_at(20);
    for (name, after) in [("a", 5), ("b", 2), ("c", 8)] {
        catch_up.subscribe(channel(name), Need::After(after));
    }
    assert_eq!(catch_up.has_up_to(), Some(2), "before the answer, too");
    schedule(&mut catch_up, 7);
    let due = catch_up.take_due(None).expect("due");
    assert_eq!((due.channel.as_str(), due.below, due.position), ("b", 6, 7));
    // Events up to version 4 were read, and the next one is later than those of the others.
    catch_up.read_on(due, (Need::After(4), 10), Progress::default(), || unreachable!());
    assert_eq!(catch_up.has_up_to(), Some(5));
    let due = catch_up.take_due(None).expect("due");
    assert_eq!((due.channel.as_str(), due.below), ("a", 9));
    assert!(!catch_up.finish(&due.channel, 3, 3, false));
    catch_up.postpone_replay(7, Progress::default(), || 30);
    assert_eq!(catch_up.take_due(Some(29)), None, "what was queued by then comes first");
    let rest = std::iter::from_fn(|| catch_up.take_due(Some(30)));
    let rest: Vec<_> = rest
        .map(|due| (due.channel.as_str().to_owned(), due.need, due.position))
        .collect();
    let expected = [("c", Need::After(8), 30), ("b", Need::After(4), 30)];
    assert_eq!(
        rest,
        expected.map(|(name, need, position)| (name.to_owned(), need, position))
    );
    assert_eq!(catch_up.has_up_to(), None);
}

#[test]
fn while_a_last_value_is_owed_nothing_newer_than_its_request_counts_as_sent() {
    let mut catch_up = Alone::default();
    catch_up.note_began_at(20);
    catch_up.subscribe(channel("a"), Need::LastOrAfter(9));
    assert_eq!((catch_up.has_up_to(), catch_up.owes_values()), (Some(20), true));
    schedule(&mut catch_up, 7);
    assert_eq!((catch_up.has_up_to(), catch_up.owes_values()), (Some(20), true));
    let due = catch_up.take_due(None).expect("due");
    // There were very many events behind it.
    catch_up.read_on(due, (Need::After(40), 41), Progress::default(), || 9);
    assert_eq!((catch_up.has_up_to(), catch_up.owes_values()), (Some(40), false));
    assert_eq!(catch_up.take_due(Some(8)), None);
    assert_eq!(catch_up.take_due(Some(9)).expect("due").need, Need::After(40));
}
