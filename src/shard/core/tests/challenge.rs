//! Challenges: a newer connection of the user wants the place.

use super::*;

fn challenge(rig: &mut Rig, id: ConnectionId) {
    rig.message(ShardMessage::Challenge { id });
}

/// The code of the Close frame among what a client got.
fn close_code(received: &[Received]) -> Option<u16> {
    received.iter().find_map(|received| match received {
        Received::Close(code) => Some(*code),
        _ => None,
    })
}

#[test]
fn a_silent_client_ends_before_one_that_answers_and_one_that_may_stay_goes_on() {
    let mut rig = Rig::new();
    let alive = rig.connect();
    let silent = rig.connect();
    let spared = rig.connect_with(session_settings(Mode::Off, Limits::default()), Ok(None), false);
    for id in [alive, silent, spared] {
        challenge(&mut rig, id);
        let told = rig.read(id);
        assert!(
            matches!(&told[..], [Received::Ping, Received::Text(ping)] if ping["type"] == "ping"),
            "{told:?}"
        );
    }
    rig.say(alive, r#"{"type":"pong"}"#);
    rig.pass(4_999);
    for id in [alive, silent, spared] {
        assert_eq!(close_code(&rig.read(id)), None);
    }
    rig.pass(1);
    assert_eq!(close_code(&rig.read(silent)), Some(4009));
    rig.pass(999);
    assert_eq!(close_code(&rig.read(alive)), None);
    rig.pass(1);
    assert_eq!(close_code(&rig.read(alive)), Some(4005));
    assert_eq!(rig.metrics.endings(Disconnect::HeartbeatTimeout), 1);
    assert_eq!(rig.metrics.endings(Disconnect::Displaced), 1);

    // The limits let the third one stay, although it is silent. It is asked again when there is a reason.
    rig.say(spared, r#"{"type":"ping"}"#);
    assert_eq!(close_code(&rig.read(spared)), None);
    challenge(&mut rig, spared);
    assert!(rig.read(spared).contains(&Received::Ping));
}

#[test]
fn a_connection_that_has_ended_is_not_challenged() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.core.on_socket_error(id, rig.now);
    challenge(&mut rig, id);
    assert_eq!(rig.core.connections(), 0);
    rig.pass(6_000);
    assert_eq!(rig.metrics.endings(Disconnect::Displaced), 0);
}

/// As for every other time that a client has, a pause in which nobody could be heard does not count.
#[test]
fn a_pause_of_the_process_blames_nobody() {
    let mut rig = Rig::new();
    let (alive, silent) = (rig.connect(), rig.connect());
    for id in [alive, silent] {
        challenge(&mut rig, id);
    }
    rig.now = rig.now.after_ms(3_600_000);
    rig.core.end_pause(3_600_000, rig.now);
    rig.pass(4_999);
    rig.say(alive, r#"{"type":"pong"}"#);
    for id in [alive, silent] {
        assert_eq!(close_code(&rig.read(id)), None);
    }
    rig.pass(1);
    assert_eq!(close_code(&rig.read(silent)), Some(4009));
    rig.pass(1_000);
    assert_eq!(close_code(&rig.read(alive)), Some(4005));
}
