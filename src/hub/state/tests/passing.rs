//! Deleted channels, and last values that end.

use super::*;
use crate::event::{DELETED_EVENT, Deletion};

fn ending() -> Class {
    Class {
        last_ttl_ms: Some(5_000),
        ..last()
    }
}

fn delete(channels: &mut Channels, class: &Class, deletion: Deletion, now: Now) -> Stored {
    publish(channels, NewEvent::deletion(channel("a.b"), deletion, 0), class, now)
}

fn ended(channels: &mut Channels, now: Now) -> Vec<Channel> {
    pass(channels, now).ended
}

fn pass(channels: &mut Channels, now: Now) -> Passed {
    let mut passed = Passed::default();
    while channels.pass(now, &mut passed, &mut Garbage::default()) {}
    assert_eq!(channels.bytes(), channels.recount());
    passed
}

fn names(page: &Page) -> Vec<&str> {
    page.events.iter().map(|event| &*event.name).collect()
}

#[test]
fn a_deletion_is_for_those_who_have_the_value_and_a_newcomer_gets_nothing() {
    for class in [last(), by_code()] {
        let mut channels = Channels::default();
        publish(&mut channels, new("a.b", r#"[{"code":"x"}]"#), &class, at(0));
        assert!(matches!(
            delete(&mut channels, &class, Deletion::Everything, at(0)),
            Stored::Event(_)
        ));
        let behind = channels.ask("a.b", Since::Newest { above: 1 }, at(0));
        assert_eq!((names(&behind), texts(&behind)), (vec![DELETED_EVENT], vec!["null"]));
        let newcomer = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
        assert!(newcomer.events.is_empty() && newcomer.deleted && !newcomer.overtaken);
        let again = delete(&mut channels, &class, Deletion::Everything, at(0));
        assert!(matches!(again, Stored::Unchanged), "nothing is left to delete");
        // What is published later is a new beginning, also for merged records.
        publish(&mut channels, new("a.b", r#"[{"code":"y"}]"#), &class, at(0));
        let newcomer = channels.ask("a.b", Since::Newest { above: 0 }, at(0));
        assert_eq!(texts(&newcomer), [r#"[{"code":"y"}]"#]);
        let behind = channels.ask("a.b", Since::Newest { above: 1 }, at(0));
        assert_eq!(names(&behind).contains(&DELETED_EVENT), class.record_key.is_some());
    }
}

#[test]
fn a_deleted_channel_is_forgotten_after_a_minute() {
    let mut channels = Channels::default();
    publish(&mut channels, new("a.b", "1"), &last(), at(0));
    delete(&mut channels, &last(), Deletion::Everything, at(1_000));
    assert!(ended(&mut channels, at(60_999)).is_empty());
    assert_eq!(channels.len(), 1);
    assert!(ended(&mut channels, at(61_000)).is_empty());
    assert_eq!(
        (channels.len(), channels.counts.evicted, channels.deadlines.len()),
        (0, 0, 0)
    );
}

#[test]
fn the_deletion_of_a_history_is_its_last_event() {
    let class = history(10, 100_000);
    let mut channels = Channels::default();
    for data in ["1", "2"] {
        publish(&mut channels, new("a.b", data), &class, at(0));
    }
    delete(&mut channels, &class, Deletion::Everything, at(0));
    assert!(
        channels.ask("a.b", Since::After(1), at(0)).overtaken,
        "the second event is gone"
    );
    let up_to_date = channels.ask("a.b", Since::After(2), at(0));
    assert_eq!((names(&up_to_date), up_to_date.overtaken), (vec![DELETED_EVENT], false));
    // The deletion is kept as long as any event of the history.
    ended(&mut channels, at(70_000));
    assert_eq!(channels.len(), 1);
    channels.expire_all(at(100_000));
    ended(&mut channels, at(200_000));
    assert_eq!(channels.len(), 0);
    assert!(channels.ask("a.b", Since::After(2), at(200_000)).overtaken);
}

#[test]
fn a_last_value_ends_unless_it_is_published_or_confirmed() {
    let class = Class {
        only_changed: true,
        ..ending()
    };
    let mut channels = Channels::default();
    let has_last = |channels: &mut Channels, now| {
        let page = channels.ask("a.b", Since::Newest { above: 0 }, now);
        !page.events.is_empty()
    };
    publish(&mut channels, new("a.b", "1"), &class, at(0));
    assert!(ended(&mut channels, at(4_999)).is_empty());
    // The same value again is not sent, but it lives on.
    publish(&mut channels, new("a.b", "1"), &class, at(4_999));
    assert!(ended(&mut channels, at(5_000)).is_empty());
    assert!(has_last(&mut channels, at(9_998)));
    channels.renew(&channel("a.b"), None, at(9_998));
    assert!(ended(&mut channels, at(14_997)).is_empty());
    assert!(!has_last(&mut channels, at(14_998)));
    assert_eq!(ended(&mut channels, at(14_998)), [channel("a.b")]);
    assert!(ended(&mut channels, at(14_999)).is_empty(), "reported once");
    assert_eq!(
        ended(&mut channels, at(19_998)).len(),
        1,
        "and again, since nobody deleted it"
    );
    assert!(matches!(
        delete(&mut channels, &class, Deletion::EndedLast, at(20_000)),
        Stored::Event(_)
    ));
    assert!(ended(&mut channels, at(30_000)).is_empty());
    let sent = publish(&mut channels, new("a.b", "1"), &class, at(30_000));
    assert!(matches!(sent, Stored::Event(_)), "newcomers had nothing");
}

#[test]
fn a_value_that_was_published_meanwhile_is_not_deleted_as_ended() {
    let mut channels = Channels::default();
    publish(&mut channels, new("a.b", "1"), &ending(), at(0));
    assert_eq!(ended(&mut channels, at(5_000)).len(), 1);
    publish(&mut channels, new("a.b", "2"), &ending(), at(5_001));
    let late = delete(&mut channels, &ending(), Deletion::EndedLast, at(5_002));
    assert!(matches!(late, Stored::Unchanged));
    let page = channels.ask("a.b", Since::Newest { above: 0 }, at(5_002));
    assert_eq!(texts(&page), ["2"]);
    assert_eq!(ended(&mut channels, at(10_001)), [channel("a.b")]);
}

#[test]
fn a_history_goes_on_when_its_last_value_ends() {
    let class = Class {
        cache_last: true,
        last_ttl_ms: Some(5_000),
        ..history(10, 100_000)
    };
    let mut channels = Channels::default();
    publish(&mut channels, new("a.b", "1"), &class, at(0));
    delete(&mut channels, &class, Deletion::EndedLast, at(5_000));
    let all = channels.ask("a.b", Since::After(0), at(5_000));
    assert_eq!(names(&all), ["n", DELETED_EVENT]);
    assert!(
        channels
            .ask("a.b", Since::Newest { above: 0 }, at(5_000))
            .events
            .is_empty()
    );
}

#[test]
fn restored_values_have_their_age() {
    let mut channels = Channels::default();
    publish(&mut channels, new("a.b", "1"), &ending(), at(0));
    publish(&mut channels, new("a.c", "1"), &ending(), at(0));
    let deletion = NewEvent::deletion(channel("a.c"), Deletion::Everything, 0);
    publish(&mut channels, deletion, &ending(), at(0));
    let export = channels.export(true, at(3_000));
    let mut restored = Channels::default();
    restored.restore_counters(export.counters);
    for channel in export.channels {
        restored.restore(channel, &Arc::new(ending()), Owners::default(), at(100_000));
    }
    let page = restored.ask("a.c", Since::Newest { above: 0 }, at(100_000));
    assert!(page.events.is_empty() && page.deleted);
    assert!(ended(&mut restored, at(101_999)).is_empty());
    assert_eq!(ended(&mut restored, at(102_000)), [channel("a.b")]);
    ended(&mut restored, at(160_000));
    assert_eq!(restored.len(), 1, "what was deleted is forgotten");
}

#[test]
fn a_silent_channel_is_stale_once_until_it_is_heard_of() {
    let class = Class {
        fresh_within_ms: Some(3_000),
        only_changed: true,
        ..last()
    };
    let mut channels = Channels::default();
    let told = |channels: &mut Channels, now| {
        let passed = pass(channels, now);
        assert!(passed.ended.is_empty());
        (passed.stale.len(), passed.fresh.len())
    };
    publish(&mut channels, new("a.b", "1"), &class, at(0));
    assert_eq!(told(&mut channels, at(2_999)), (0, 0));
    // The same value is not sent, but the channel is heard of.
    publish(&mut channels, new("a.b", "1"), &class, at(2_999));
    assert_eq!(told(&mut channels, at(5_998)), (0, 0));
    assert_eq!(told(&mut channels, at(5_999)), (1, 0));
    assert_eq!(told(&mut channels, at(60_000)), (0, 0), "told once");
    assert_eq!(channels.stale().collect::<Vec<_>>(), [&channel("a.b")]);
    channels.renew(&channel("a.b"), None, at(60_001));
    assert_eq!(channels.stale().count(), 0);
    assert_eq!(told(&mut channels, at(60_001)), (0, 1));
    assert_eq!(told(&mut channels, at(63_001)), (1, 0));
    publish(&mut channels, new("a.b", "1"), &class, at(63_002));
    publish(&mut channels, new("a.b", "2"), &class, at(63_003));
    assert_eq!(told(&mut channels, at(63_003)), (0, 1));
    // Nobody waits for news of a deleted channel.
    delete(&mut channels, &class, Deletion::Everything, at(63_004));
    assert_eq!(told(&mut channels, at(67_000)), (0, 0));
    assert_eq!(channels.stale().count(), 0);
    assert_eq!(told(&mut channels, at(100_000)), (0, 0));
}

#[test]
fn a_channel_of_which_nothing_is_kept_can_be_stale() {
    let class = Class {
        fresh_within_ms: Some(3_000),
        ..Class::default()
    };
    let mut channels = Channels::default();
    publish(&mut channels, new("a.b", "1"), &class, at(0));
    assert_eq!(pass(&mut channels, at(3_000)).stale, [channel("a.b")]);
    let page = channels.ask("a.b", Since::Newest { above: 0 }, at(3_000));
    assert!(page.events.is_empty());
}

#[test]
fn a_last_value_may_be_stale_before_it_ends() {
    let class = Class {
        fresh_within_ms: Some(2_000),
        ..ending()
    };
    let mut channels = Channels::default();
    publish(&mut channels, new("a.b", "1"), &class, at(0));
    let passed = pass(&mut channels, at(2_000));
    assert_eq!((passed.stale.len(), passed.ended.len()), (1, 0));
    let passed = pass(&mut channels, at(5_000));
    assert_eq!((passed.stale.len(), passed.ended.len()), (0, 1));
}
