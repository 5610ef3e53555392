use super::*;

#[test]
fn a_client_that_closes_gets_a_close_frame_and_then_the_socket_is_shut_down() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.subscribe(id, "*");
    rig.event("a.b", "1");
    rig.core.on_bytes(id, &mut frame(0x88, &1000u16.to_be_bytes()), rig.now);
    rig.event("a.b", "2");
    assert_eq!(rig.actions(), []);
    let got = rig.read(id);
    assert_eq!(
        kinds(&got),
        ["subscribed", "event", "close"],
        "what was queued goes first, nothing comes after"
    );
    assert_eq!(rig.actions(), [Action::ShutDown(id)]);
    assert!(rig.core.wants_input(id), "unread input is thrown away");
    assert_eq!(rig.permits.load(Ordering::Relaxed), 1);
    rig.core.on_end_of_input(id, rig.now);
    assert_eq!(rig.actions(), [Action::Remove(id)]);
    assert_eq!((rig.permits.load(Ordering::Relaxed), rig.core.connections()), (0, 0));
    assert_eq!(rig.metrics.endings(Disconnect::Normal), 1);
    assert_eq!(rig.metrics.connections.get(), 0);
}

#[test]
fn a_client_that_closes_and_shuts_down_at_once_still_gets_a_close_frame() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.core.on_bytes(id, &mut frame(0x88, &1000u16.to_be_bytes()), rig.now);
    rig.core.on_end_of_input(id, rig.now);
    assert_eq!(rig.actions(), []);
    assert_eq!(rig.read(id), [Received::Close(1000)]);
    assert_eq!(rig.actions(), [Action::Remove(id)]);
}

#[test]
fn a_closing_connection_is_dropped_after_five_seconds() {
    for stalls in [false, true] {
        let mut rig = Rig::new();
        let id = rig.connect();
        rig.core.on_bytes(id, &mut [0x83, 0x80, 0, 0, 0, 0], rig.now);
        if !stalls {
            assert_eq!(rig.read(id), [Received::Close(1002)]);
            assert_eq!(rig.actions(), [Action::ShutDown(id)]);
        }
        rig.pass(4_999);
        assert_eq!(rig.actions(), []);
        rig.pass(251);
        assert_eq!(rig.actions(), [Action::Remove(id)], "stalls: {stalls}");
        assert_eq!(rig.permits.load(Ordering::Relaxed), 0);
        assert_eq!(rig.core.queued_frames(), 0);
    }
}

#[test]
fn input_of_a_closing_connection_is_discarded_up_to_a_bound() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.core.on_bytes(id, &mut frame(0x88, &1000u16.to_be_bytes()), rig.now);
    rig.read(id);
    let mut flood = vec![0; 16 * 1024];
    let mut taken = 0;
    while rig.core.wants_input(id) {
        rig.core.on_bytes(id, &mut flood, rig.now);
        taken += flood.len();
        assert!(taken < 2 * 1024 * 1024, "never stops reading");
    }
    assert!(taken > 1024 * 1024);
    assert_eq!(rig.core.connections.assembly_bytes(), 0);
    rig.pass(5_250);
    assert_eq!(rig.actions(), [Action::ShutDown(id), Action::Remove(id)]);
}

#[test]
fn a_lost_connection_is_removed_at_once_and_its_id_becomes_stale() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.subscribe(id, "a.*");
    rig.core.on_end_of_input(id, rig.now);
    assert_eq!(rig.metrics.endings(Disconnect::Lost), 1);
    rig.event("a.b", "1");
    // Until the driver has carried out the removal, it has a socket under this slot.
    let other = rig.connect();
    assert_ne!(other.slot, id.slot);
    assert_eq!(rig.actions(), [Action::Remove(id)]);
    let heir = rig.connect();
    assert_eq!((heir.slot, heir.generation), (id.slot, id.generation.wrapping_add(1)));
    rig.say(id, r#"{"type":"ping"}"#);
    rig.core.on_end_of_input(id, rig.now);
    rig.core.on_socket_error(id, rig.now);
    assert!(!rig.core.wants_input(id));
    rig.event("a.b", "2");
    assert_eq!(rig.read(heir), []);
    assert_eq!(rig.core.connections(), 2);
}

#[test]
fn silence_ends_with_4009_and_frames_do_not_touch_the_wheel() {
    let mut rig = Rig::new();
    let (silent, lively) = (rig.connect(), rig.connect());
    for _ in 0..60 {
        assert!(!rig.core.is_closing(silent));
        rig.pass(1_000);
        rig.core.on_bytes(lively, &mut frame(0x8a, b""), rig.now);
    }
    let got = rig.read(silent);
    assert_eq!(got.last(), Some(&Received::Close(4009)));
    assert_eq!(kinds(&got).iter().filter(|kind| **kind == "ping frame").count(), 2);
    assert!(!rig.core.is_closing(lively));
}

#[test]
fn input_after_a_close_frame_is_not_read() {
    let mut rig = Rig::new();
    let id = rig.connect();
    let mut input = frame(0x88, &1000u16.to_be_bytes());
    input.extend(frame(0x81, br#"{"type":"ping"}"#));
    rig.core.on_bytes(id, &mut input, rig.now);
    assert_eq!(rig.read(id), [Received::Close(1000)]);
}

#[test]
fn held_back_input_is_discarded_when_the_session_ends() {
    let mut rig = Rig::new();
    let id = rig.connect_with(session_settings(Mode::Required, Limits::default()), Ok(None), true);
    let mut input = frame(0x81, br#"{"type":"auth","token":"t"}"#);
    input.extend(frame(0x81, br#"{"type":"ping"}"#));
    rig.core.on_bytes(id, &mut input, rig.now);
    assert!(!rig.core.wants_input(id));
    let reply = Box::new(|existed: bool| assert!(existed));
    let ending = Disconnect::ByOperator;
    rig.message(ShardMessage::Disconnect {
        id,
        tenant: None,
        ending,
        reply,
    });
    assert!(rig.core.wants_input(id));
    assert_eq!(rig.actions(), [Action::Resume(id)]);
    assert_eq!(rig.read(id), [Received::Close(4003)]);
    assert_eq!(rig.core.connections.assembly_bytes(), 0);
}

#[test]
fn a_loss_is_reported_before_the_close_frame_even_when_the_replies_are_at_their_bound() {
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
    for number in 0..5 {
        rig.event("a.b", &number.to_string());
    }
    for _ in 0..4 {
        rig.say(id, r#"{"type":"ping"}"#);
    }
    rig.core.writable(id);
    let got = rig.read(id);
    let expected = ["dropped", "event", "event", "pong", "pong", "pong", "close"];
    assert_eq!((kinds(&got), &got[6]), (expected.into(), &Received::Close(4008)));
}
