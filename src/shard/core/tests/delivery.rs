use super::*;
use tickgate_protocol::dialect::typed;

#[test]
fn subscribed_comes_before_its_events_and_none_after_unsubscribed() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.event("grid.a.note", "0");
    rig.subscribe(id, "grid.*");
    rig.event("grid.a.note", "1");
    rig.say(id, r#"{"type":"unsubscribe","channels":["grid.*"]}"#);
    rig.event("grid.a.note", "2");
    let got = rig.read(id);
    assert_eq!(kinds(&got), ["subscribed", "event", "unsubscribed"]);
    assert_eq!(got[1].text()["data"], 1);
    assert_eq!(rig.metrics.deliveries.get(), 1);
    assert_eq!(rig.hub.metrics().credits_lent, 0);
}

#[test]
fn overlapping_patterns_deliver_once() {
    let mut rig = Rig::new();
    let (one, other) = (rig.connect(), rig.connect());
    for pattern in ["*", "grid.*", "grid.a.*", "grid.*.status", "grid.a.status"] {
        rig.subscribe(one, pattern);
    }
    rig.subscribe(other, "grid.a.status");
    rig.event("grid.a.status", "1");
    rig.event("grid.b.status", "2");
    let events = |got: Vec<Received>| got.iter().filter(|frame| frame.kind() == "event").count();
    assert_eq!(events(rig.read(one)), 2);
    assert_eq!(events(rig.read(other)), 1);
}

#[test]
fn an_event_published_before_the_subscription_is_not_delivered_to_it() {
    let mut rig = Rig::new();
    let (early, late) = (rig.connect(), rig.connect());
    rig.subscribe(early, "grid.*");
    rig.publish("grid.a.note", "1");
    // The event is in the inbox already, for `early`. The patterns are of one stripe and of all stripes.
    rig.subscribe(late, "grid.*");
    rig.subscribe(late, "grid.a.*");
    rig.subscribe(late, "*");
    rig.publish("grid.a.note", "2");
    rig.core.deliver(usize::MAX);
    rig.event("grid.a.note", "3");
    let data = |got: Vec<Received>| -> Vec<u64> {
        let events = got.iter().filter(|frame| frame.kind() == "event");
        events
            .map(|frame| frame.text()["data"].as_u64().expect("a number"))
            .collect()
    };
    assert_eq!(data(rig.read(early)), [1, 2, 3]);
    assert_eq!(data(rig.read(late)), [2, 3]);
}

#[test]
fn subscribing_and_unsubscribing_before_the_join_position_is_reached_keeps_both_right() {
    let mut rig = Rig::new();
    let (early, late) = (rig.connect(), rig.connect());
    rig.subscribe(early, "grid.*");
    rig.publish("grid.a.b", "1");
    rig.subscribe(late, "grid.*");
    rig.publish("grid.a.b", "2");
    rig.say(late, r#"{"type":"unsubscribe","channels":["grid.*"]}"#);
    rig.publish("grid.a.b", "3");
    rig.subscribe(late, "grid.*");
    rig.publish("grid.a.b", "4");
    rig.core.deliver(usize::MAX);
    rig.event("grid.a.b", "5");
    let got = rig.read(late);
    let events: Vec<_> = got.iter().filter(|frame| frame.kind() == "event").collect();
    assert_eq!(events.len(), 2, "{got:?}");
    assert_eq!(events[0].text()["data"], 4);
}

#[test]
fn a_full_outbox_drops_the_oldest_events_and_reports_where_they_are_missing() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.subscribe(id, "*");
    assert_eq!(kinds(&rig.read(id)), ["subscribed"]);
    rig.stall(id);
    rig.say(id, r#"{"type":"ping"}"#);
    for number in 0..1_100 {
        rig.event(if number < 50 { "grid.a" } else { "grid.b" }, &number.to_string());
    }
    rig.core.update_gauges();
    assert_eq!(rig.metrics.pending_frames.get(), 1_000);
    assert_eq!(rig.core.next_dirty(), None, "a blocked connection is not tried");
    assert!(rig.core.writable(id));
    let got = rig.read(id);
    assert_eq!(kinds(&got)[..3], ["pong", "dropped", "event"]);
    assert_eq!(
        got[1].text()["data"],
        serde_json::json!({"count": 100, "channels": ["grid.a", "grid.b"]})
    );
    let data: Vec<_> = got[2..]
        .iter()
        .filter_map(|frame| frame.text()["data"].as_u64())
        .collect();
    assert_eq!(data, (100..1_100).collect::<Vec<_>>());
    assert_eq!(rig.metrics.dropped.get(), 100);
    rig.say(id, r#"{"type":"get_status"}"#);
    assert_eq!(rig.read(id)[0].text()["dropped"], 100);
    rig.core.update_gauges();
    assert_eq!(
        (rig.metrics.pending_frames.get(), rig.metrics.pending_bytes.get()),
        (0, 0)
    );
}

#[test]
fn bytes_bound_pending_events_too_and_a_loss_names_at_most_32_channels() {
    let mut rig = Rig::new();
    let limits = Limits {
        outbox_bytes: 10_000,
        ..Limits::default()
    };
    let id = rig.connect_with(session_settings(Mode::Off, limits), Ok(None), true);
    rig.subscribe(id, "*");
    rig.read(id);
    rig.stall(id);
    let data = format!("\"{}\"", "x".repeat(900));
    for number in 0..100 {
        rig.event(&format!("channel.{number}"), &data);
        rig.core.update_gauges();
        assert!(rig.metrics.pending_bytes.get() <= 10_000);
    }
    rig.core.writable(id);
    let got = rig.read(id);
    let dropped = &got[0].text()["data"];
    assert_eq!(dropped["channels"].as_array().map(Vec::len), Some(32));
    assert_eq!(dropped["count"].as_u64(), Some(100 - (got.len() as u64 - 1)));
}

#[test]
fn a_client_that_reads_loses_nothing_of_a_burst_larger_than_its_outbox() {
    // Bounds in bytes, in frames, and one that hardly more than one event fits into.
    for (data_bytes, outbox_frames, outbox_bytes) in [(4096, 1000, 1 << 20), (1, 50, 1 << 20), (3000, 1000, 9000)] {
        let mut rig = Rig::new();
        let limits = Limits {
            outbox_frames,
            outbox_bytes,
            event_bytes: 9000,
            ..Limits::default()
        };
        let settings = session_settings(Mode::Off, limits);
        // Two clients, so that they get runs, and one with an outbox of the default size.
        let ids = [&settings, &settings, &session_settings(Mode::Off, Limits::default())]
            .map(|settings| rig.connect_with(Arc::clone(settings), Ok(None), true));
        for id in ids {
            rig.subscribe(id, "burst.*");
            rig.read(id);
        }
        for number in 0..600 {
            let data = format!("\"{}\"", "x".repeat(data_bytes * (1 + number % 2)));
            rig.publish("burst.a", &data);
        }
        let mut events = [0; 3];
        while rig.core.deliver(512) > 0 {
            for (id, events) in ids.into_iter().zip(&mut events) {
                let got = rig.read(id);
                assert!(got.iter().all(|frame| frame.kind() == "event"), "{data_bytes}");
                *events += got.len();
            }
        }
        assert_eq!(events, [600; 3]);
        assert_eq!(rig.metrics.dropped.get(), 0);
    }
}

#[test]
fn a_client_that_does_not_read_delays_no_burst() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.subscribe(id, "burst.*");
    rig.read(id);
    rig.stall(id);
    for _ in 0..2000 {
        rig.publish("burst.a", "1");
    }
    assert_eq!(rig.core.deliver(usize::MAX), 2000);
    assert_eq!(rig.metrics.dropped.get(), 1000);
}

#[test]
fn a_partly_sent_event_is_completed_whatever_is_dropped_behind_it() {
    let mut rig = Rig::new();
    let limits = Limits {
        outbox_frames: 2,
        ..Limits::default()
    };
    let id = rig.connect_with(session_settings(Mode::Off, limits), Ok(None), true);
    rig.subscribe(id, "*");
    rig.read(id);
    let mut bytes = Vec::new();
    rig.event("a.b", "1");
    assert_eq!(rig.core.next_dirty(), Some(id));
    assert_eq!(rig.write_some(id, 10, &mut bytes), Some(Sent::More));
    rig.core.blocked(id, rig.now);
    for number in 2..6 {
        rig.event("a.b", &number.to_string());
    }
    rig.core.writable(id);
    while rig.write_some(id, 7, &mut bytes).is_some_and(|sent| sent == Sent::More) {}
    let got = received(&bytes);
    assert_eq!(kinds(&got), ["event", "dropped", "event"]);
    assert_eq!((&got[0].text()["data"], &got[2].text()["data"]), (&1.into(), &5.into()));
    assert_eq!(got[1].text()["data"]["count"], 3);
}

#[test]
fn a_burst_leaves_nothing_in_the_pool() {
    let mut rig = Rig::new();
    let ids: Vec<_> = (0..50).map(|_| rig.connect()).collect();
    for &id in &ids {
        rig.subscribe(id, "*");
    }
    for _ in 0..500 {
        rig.event("a.b", "1");
    }
    assert_eq!(rig.core.queued_frames(), 50 * 501);
    for &id in &ids[..25] {
        assert_eq!(rig.read(id).len(), 501);
    }
    for &id in &ids[25..] {
        rig.core.on_socket_error(id, rig.now);
    }
    assert_eq!(rig.core.queued_frames(), 0);
    assert!(rig.core.fanout.outgoing().capacity() <= 256);
    rig.core.update_gauges();
    assert_eq!(
        (rig.metrics.pending_frames.get(), rig.metrics.pending_bytes.get()),
        (0, 0)
    );
    assert_eq!(rig.metrics.subscriptions.get(), 25);
}

#[test]
fn stamps_that_wrap_lose_no_event() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.subscribe(id, "*");
    rig.subscribe(id, "a.*");
    rig.read(id);
    rig.event("a.b", "1");
    let number = *rig.core.connections.last_stamp();
    *rig.core.connections.last_stamp() = u32::MAX;
    while *rig.core.connections.last_stamp() != number {
        rig.event("a.b", "2");
    }
    assert_eq!(rig.read(id).len(), 1 + number as usize);
}

#[test]
fn the_report_of_a_loss_waits_for_room_among_the_replies() {
    let mut rig = Rig::new();
    let limits = Limits {
        outbox_frames: 2,
        reply_frames: 3,
        ..Limits::default()
    };
    let id = rig.connect_with(session_settings(Mode::Off, limits), Ok(None), true);
    rig.subscribe(id, "*");
    rig.read(id);
    rig.stall(id);
    for _ in 0..3 {
        rig.say(id, r#"{"type":"ping"}"#);
    }
    for number in 0..5 {
        rig.event("a.b", &number.to_string());
    }
    rig.core.writable(id);
    assert_eq!(rig.core.next_dirty(), Some(id));
    let mut bytes = Vec::new();
    // The first frame is written, and a part of the second.
    assert_eq!(rig.write_some(id, 60, &mut bytes), Some(Sent::More));
    while rig.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) {}
    assert_eq!(
        kinds(&received(&bytes)),
        ["pong", "pong", "pong", "dropped", "event", "event"]
    );
}

#[test]
fn refused_messages_are_counted() {
    let mut rig = Rig::new();
    let id = rig.connect();
    for _ in 0..110 {
        rig.say(id, r#"{"type":"pong"}"#);
    }
    assert_eq!(rig.metrics.rate_limited.get(), 10);
    assert_eq!(rig.metrics.messages_in.get(), 110);
}

#[test]
fn each_format_of_an_event_is_made_once_for_all_its_receivers() {
    let mut rig = Rig::new();
    let endpoint = |timestamps| {
        let settings = typed::Settings {
            timestamps,
            ..typed::Settings::default()
        };
        Arc::new(session::Settings {
            dialect: Dialect::Typed(Arc::new(settings)),
            auto_subscribe: [Pattern::parse("market.*").expect("valid")].into(),
            ..(*session_settings(Mode::Off, Limits::default())).clone()
        })
    };
    // Two endpoints with the same encoding share a format.
    let endpoints = [typed::Timestamps::Utc, typed::Timestamps::Utc, typed::Timestamps::Naive].map(endpoint);
    let ids: Vec<_> = [0, 0, 1, 2, 2]
        .into_iter()
        .map(|endpoint: usize| rig.connect_with(endpoints[endpoint].clone(), Ok(None), true))
        .collect();
    let native = rig.connect();
    rig.subscribe(native, "market.*");
    for &id in ids.iter().chain([&native]) {
        rig.read(id);
    }
    rig.event("market.a.price", "[1,2]");
    let forms: Vec<(usize, String)> = ids
        .iter()
        .map(|&id| {
            let mut slices = [IoSlice::new(&[]); 4];
            assert_eq!(rig.core.pending(id, rig.now, &mut slices), 1);
            let frame: &[u8] = &slices[0];
            (
                frame.as_ptr() as usize,
                String::from_utf8_lossy(&frame[2..]).into_owned(),
            )
        })
        .collect();
    assert_eq!(
        forms[0].1,
        r#"{"type":"update","channel":"market.a.price","data":[1,2],"count":2,"timestamp":"2023-12-29T08:00:00Z"}"#
    );
    assert_eq!(forms[3].1, forms[0].1.replace("00Z", "00"));
    let memory: Vec<usize> = forms.iter().map(|(memory, _)| *memory).collect();
    assert_eq!(memory, [memory[0], memory[0], memory[0], memory[3], memory[3]]);
    assert_ne!(memory[0], memory[3]);
    assert_eq!(rig.read(native)[0].text()["event"], "update");
}

#[test]
fn a_loss_is_reported_in_the_connections_own_dialect() {
    let mut rig = Rig::new();
    let limits = Limits {
        outbox_frames: 1,
        ..Limits::default()
    };
    let settings = session::Settings {
        dialect: Dialect::Typed(Arc::default()),
        ..(*session_settings(Mode::Off, limits)).clone()
    };
    let id = rig.connect_with(Arc::new(settings), Ok(None), true);
    rig.say(id, r#"{"type":"subscribe","symbol":"a"}"#);
    rig.read(id);
    rig.event("market.a.note", "1");
    rig.event("market.a.note", "2");
    let got = rig.read(id);
    assert_eq!(kinds(&got), ["dropped", "update"]);
    let dropped = got[0].text();
    assert_eq!(dropped["timestamp"], "2023-12-29T08:00:00Z");
    assert_eq!(dropped["data"]["channels"][0], "market.a.note");
}
