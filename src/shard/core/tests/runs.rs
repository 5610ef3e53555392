//! Events that go to the same subscribers, delivered as one.

use super::*;

/// Each slice that is pending for a connection: its address and its length.
fn slices(rig: &mut Rig, id: ConnectionId) -> Vec<(usize, usize)> {
    let mut slices = [IoSlice::new(&[]); 16];
    let filled = rig.core.pending(id, rig.now, &mut slices);
    let address = |slice: &IoSlice<'_>| (slice.as_ptr() as usize, slice.len());
    slices[..filled].iter().map(address).collect()
}

/// The `data` of the events, which are numbers, and the kinds of all other messages.
fn numbers(got: &[Received]) -> Vec<String> {
    let number = |frame: &Received| match frame.kind() {
        "event" => frame.text()["data"].to_string(),
        other => other.to_owned(),
    };
    got.iter().map(number).collect()
}

fn subscribed(rig: &mut Rig, settings: &Arc<session::Settings>, pattern: &str) -> ConnectionId {
    let id = rig.connect_with(settings.clone(), Ok(None), true);
    rig.subscribe(id, pattern);
    rig.read(id);
    id
}

#[test]
fn events_for_the_same_subscribers_leave_as_one_piece_of_memory() {
    let mut rig = Rig::new();
    let settings = session_settings(Mode::Off, Limits::default());
    let ids = [(); 3].map(|()| subscribed(&mut rig, &settings, "price.*"));
    for (channel, number) in [("price.a", "1"), ("price.b", "2"), ("price.a", "3")] {
        rig.publish(channel, number);
    }
    rig.core.deliver(usize::MAX);
    assert_eq!(rig.metrics.deliveries.get(), 9);
    rig.core.update_gauges();
    assert_eq!(rig.metrics.pending_frames.get(), 9);
    let waiting = ids.map(|id| slices(&mut rig, id));
    assert_eq!(waiting[0].len(), 1);
    assert_eq!([&waiting[1], &waiting[2]], [&waiting[0], &waiting[0]]);
    for id in ids {
        assert_eq!(numbers(&rig.read(id)), ["1", "2", "3"]);
    }
    assert_eq!(
        rig.metrics.messages_out.get(),
        3 * 4,
        "with what answered the subscription"
    );
}

#[test]
fn a_run_ends_where_the_next_event_has_other_subscribers() {
    let mut rig = Rig::new();
    let settings = session_settings(Mode::Off, Limits::default());
    let wide = [(); 2].map(|()| subscribed(&mut rig, &settings, "price.*"));
    let narrow = subscribed(&mut rig, &settings, "price.b");
    for (channel, number) in [
        ("price.a", "1"),
        ("price.c", "2"),
        ("price.b", "3"),
        ("price.b", "4"),
        ("price.d", "5"),
    ] {
        rig.publish(channel, number);
    }
    rig.core.deliver(usize::MAX);
    assert_eq!(slices(&mut rig, wide[0]).len(), 3);
    assert_eq!(slices(&mut rig, narrow).len(), 1);
    assert_eq!(numbers(&rig.read(wide[1])), ["1", "2", "3", "4", "5"]);
    assert_eq!(numbers(&rig.read(narrow)), ["3", "4"]);
}

#[test]
fn each_endpoint_has_its_own_format_of_a_run() {
    let mut rig = Rig::new();
    let native = session_settings(Mode::Off, Limits::default());
    let typed = Arc::new(session::Settings {
        dialect: Dialect::Typed(Arc::default()),
        ..(*native).clone()
    });
    let ids = [&native, &native, &typed].map(|settings| rig.connect_with(settings.clone(), Ok(None), true));
    for id in ids {
        let subscribe = if id == ids[2] {
            r#"{"type":"subscribe","symbol":"a"}"#
        } else {
            r#"{"type":"subscribe","channels":["market.a.*"]}"#
        };
        rig.say(id, subscribe);
        rig.read(id);
    }
    rig.publish("market.a.note", "1");
    rig.publish("market.a.note", "2");
    rig.core.deliver(usize::MAX);
    assert_eq!(ids.map(|id| slices(&mut rig, id).len()), [1; 3]);
    let kinds_of = |got: &[Received]| kinds(got).join(" ");
    assert_eq!(
        ids.map(|id| kinds_of(&rig.read(id))),
        ["event event", "event event", "update update"]
    );
}

#[test]
fn a_run_that_does_not_fit_is_dropped_event_by_event() {
    let mut rig = Rig::new();
    let settings = session_settings(Mode::Off, Limits::default());
    let ids = [(); 2].map(|()| subscribed(&mut rig, &settings, "a.*"));
    rig.stall(ids[0]);
    let mut got = Vec::new();
    // 990 events are queued in runs. Of the next thirty, ten have room, and room is made for the other twenty.
    for number in 0..1_020 {
        rig.publish("a.b", &number.to_string());
        if number == 989 || number == 1_019 {
            while rig.core.deliver(usize::MAX) > 0 {
                got.extend(numbers(&rig.read(ids[1])));
            }
        }
    }
    assert_eq!(
        got,
        (0..1_020).map(|number: u32| number.to_string()).collect::<Vec<_>>()
    );
    rig.core.update_gauges();
    assert_eq!(
        (rig.metrics.pending_frames.get(), rig.metrics.dropped.get()),
        (1_000, 20)
    );
    rig.core.writable(ids[0]);
    let got = rig.read(ids[0]);
    assert_eq!(got[0].text()["data"]["count"], 20);
    let left: Vec<_> = (20..1_020).map(|number: u32| number.to_string()).collect();
    assert_eq!(numbers(&got[1..]), left);
    rig.core.update_gauges();
    assert_eq!(
        (rig.metrics.pending_frames.get(), rig.metrics.pending_bytes.get()),
        (0, 0)
    );
}

#[test]
fn a_partly_sent_run_is_completed_whatever_is_dropped_behind_it() {
    let mut rig = Rig::new();
    let limits = Limits {
        outbox_frames: 6,
        ..Limits::default()
    };
    let settings = session_settings(Mode::Off, limits);
    let ids = [(); 2].map(|()| subscribed(&mut rig, &settings, "a.*"));
    for number in 0..3 {
        rig.publish("a.b", &number.to_string());
    }
    rig.core.deliver(usize::MAX);
    let mut bytes = Vec::new();
    assert_eq!(rig.core.next_dirty(), Some(ids[0]));
    // The write ends within the second of the three events.
    assert_eq!(rig.write_some(ids[0], 150, &mut bytes), Some(Sent::More));
    rig.core.blocked(ids[0], rig.now);
    rig.read(ids[1]);
    for number in 3..9 {
        rig.publish("a.b", &number.to_string());
    }
    while rig.core.deliver(usize::MAX) > 0 {
        rig.read(ids[1]);
    }
    rig.core.writable(ids[0]);
    while rig
        .write_some(ids[0], 7, &mut bytes)
        .is_some_and(|sent| sent == Sent::More)
    {}
    let got = received(&bytes);
    assert_eq!(numbers(&got), ["0", "1", "2", "dropped", "6", "7", "8"]);
    assert_eq!(got[3].text()["data"]["count"], 3);
}

#[test]
fn a_client_that_subscribes_between_two_events_of_a_run_gets_the_second() {
    let mut rig = Rig::new();
    let settings = session_settings(Mode::Off, Limits::default());
    let early = [(); 2].map(|()| subscribed(&mut rig, &settings, "a.*"));
    rig.publish("a.b", "1");
    let late = subscribed(&mut rig, &settings, "a.*");
    rig.publish("a.b", "2");
    rig.publish("a.b", "3");
    rig.core.deliver(usize::MAX);
    assert_eq!(numbers(&rig.read(early[1])), ["1", "2", "3"]);
    assert_eq!(numbers(&rig.read(late)), ["2", "3"]);
}

#[test]
fn events_for_admins_are_in_no_run() {
    let mut rig = Rig::new();
    let trader = Permissions {
        admin: false,
        ..(*identity(None).permissions).clone()
    };
    let settings = session_settings(Mode::Optional, Limits::default());
    let ids = [identity(Some("root")), identity_with(Some("u1"), trader)]
        .map(|who| rig.connect_with(settings.clone(), Ok(Some(who)), true));
    for id in ids {
        rig.subscribe(id, "system.*");
        rig.read(id);
    }
    for (channel, number) in [
        ("system.note", "1"),
        ("system.gateway.n1", "2"),
        ("system.gateway.n1", "3"),
        ("system.note", "4"),
    ] {
        rig.publish(channel, number);
    }
    rig.core.deliver(usize::MAX);
    assert_eq!(numbers(&rig.read(ids[0])), ["1", "2", "3", "4"]);
    assert_eq!(numbers(&rig.read(ids[1])), ["1", "4"]);
}
