//! The ids of publishers, and the notes for exports.

use super::*;

#[test]
fn an_id_is_a_duplicate_only_when_its_event_was_accepted() {
    let (mut channels, generations) = (Channels::default(), Generations::new(WINDOW_MS, IDS_MAX));
    let mut event = new("a.b", "1");
    event.options.id = Some(EventId::new(None, &event.channel, b"x"));
    let mut publish = |now| publish_in(&mut channels, event.clone(), &history(9, 9), at(now), &generations);
    let first = version(&publish(0));
    for (now, is_duplicate) in [(WINDOW_MS - 1, true), (WINDOW_MS, true), (2 * WINDOW_MS, false)] {
        let stored = publish(now);
        assert_eq!(
            matches!(stored, Stored::Duplicate(version) if version == first),
            is_duplicate
        );
    }
    assert_eq!(channels.counts.duplicates, 2);
}

#[test]
fn notes_for_exports_are_bounded_and_a_complete_export_makes_up_for_lost_ones() {
    let (mut channels, generations) = (Channels::default(), Generations::new(WINDOW_MS, IDS_MAX));
    channels.track();
    let identified = |channels: &mut Channels, n: u64| {
        let mut event = new("a.b", "1");
        event.options.id = Some(EventId::new(None, &event.channel, &n.to_be_bytes()));
        publish_in(channels, event, &history(9, 9), at(n * WINDOW_MS), &generations);
        channels.unsaved_ids.len()
    };
    let most = (0..50).map(|n| identified(&mut channels, n)).max();
    assert!(most <= Some(2), "no more notes than ids: {most:?}");
    assert!(channels.export(false, at(0)).is_partial);
    assert!(!channels.export(false, at(0)).is_partial);
    for n in 0..5000 {
        publish(&mut channels, new(&format!("a.{n}"), "1"), &last(), at(0));
        channels.evict(false, &mut Garbage::default());
        assert!(channels.gone.len() <= 1024);
    }
    let all = channels.export(true, at(0));
    assert!(!all.is_partial && all.gone.is_empty());
    assert!(!channels.export(false, at(0)).is_partial);
}
