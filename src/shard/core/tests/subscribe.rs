//! Subscribe requests that take several turns. (The simulation covers them, too.)

use hashbrown::HashSet;
use serde_json::json;

use super::support::{epoch, recover, told};
use super::*;
use tickgate_protocol::channel::{Channel, Class, History};

/// A shard whose subscribe requests get this many steps of a turn.
fn rig(subscribe_steps: u32) -> Rig {
    let settings = Settings {
        subscribe_steps,
        ..shard_settings()
    };
    Rig::of(settings, hub::Settings::default())
}

impl Rig {
    /// Reads what this client gets without another turn.
    fn read_now(&mut self, id: ConnectionId) -> Vec<Received> {
        let mut bytes = Vec::new();
        self.core.postpone(id);
        while self.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) {}
        received(&bytes)
    }

    /// Begins turns until no request is left; returns how many.
    fn turns(&mut self) -> u32 {
        let mut turns = 0;
        while self.core.recovery.has_requests(u64::MAX) {
            self.core.begin_turn(self.now);
            turns += 1;
        }
        turns
    }

    /// Like [`Rig::turns`], and checks that no turn takes more than `steps` and a page. In the first turns, `other`
    /// subscribes one channel each and is answered in the next turn. Calls `after` after each turn.
    fn bounded_turns(&mut self, steps: u32, other: ConnectionId, joins: u32, mut after: impl FnMut(&mut Self)) -> u32 {
        let mut turns = 0;
        while self.core.recovery.has_requests(u64::MAX) {
            self.core.begin_turn(self.now);
            turns += 1;
            // A page is not cut short, so a turn may be longer by one page.
            let taken = self.core.recovery.steps_taken();
            assert!(taken <= (steps + 1100) as usize, "{taken} steps");
            if turns < joins {
                self.subscribe(other, &format!("market.s{turns}.price"));
                self.core.begin_turn(self.now);
                turns += 1;
                assert_eq!(told(&self.read_now(other)), [json!("subscribed"), json!(1)]);
            }
            after(self);
        }
        turns
    }
}

#[test]
fn wide_subscribes_take_their_share_of_a_turn_and_delay_no_other_client() {
    const CHANNELS: u32 = 20_000;
    const STEPS: u32 = 4096;
    let mut rig = rig(STEPS);
    for n in 0..CHANNELS {
        rig.publish(&format!("market.s{n}.price"), "1");
    }
    let (first, second, other) = (rig.connect(), rig.connect(), rig.connect());
    // Each request looks at all channels and matches none.
    let wide: Vec<String> = (0..50).map(|n| format!("*.none{n}.*")).collect();
    let message = json!({"type": "subscribe", "channels": wide}).to_string();
    for id in [first, second] {
        rig.say(id, &message);
        assert!(rig.core.recovery.has_requests(u64::MAX));
    }
    let waiting = |rig: &Rig| {
        rig.core.update_gauges();
        rig.metrics.read().waiting_subscribes
    };
    assert_eq!(waiting(&rig), 2);
    let mut answered = Vec::new();
    let turns = rig.bounded_turns(STEPS, other, 40, |rig| {
        for id in [first, second] {
            answered.extend(rig.read_now(id).iter().map(|frame| (id, frame.kind().to_owned())));
        }
    });
    let answer = |id| (id, "subscribed".to_owned());
    assert_eq!(answered, [answer(first), answer(second)], "one after the other");
    assert_eq!(waiting(&rig), 0);
    // A channel that is compared with 50 patterns takes 13 steps.
    let least = 2 * CHANNELS * 13 / (STEPS + 1100);
    assert!(turns >= least, "{turns} turns, {least} at least");
}

/// No turn may handle all channels at once, which this number of channels is large enough to show.
#[test]
fn unsubscribing_and_disconnecting_take_shares_of_turns_however_much_is_caught_up_with() {
    const CHANNELS: usize = 10_000;
    const STEPS: u32 = 2048;
    /// The steps of a turn for what nobody waits for.
    const SLICE: usize = 512;
    let mut rig = rig(STEPS);
    for n in 0..CHANNELS {
        rig.event(&format!("market.s{n}.price"), "1");
    }
    let (id, other) = (rig.connect(), rig.connect());
    rig.say(id, r#"{"type":"subscribe","channels":["market.*","*.s7.price"]}"#);
    rig.turns();
    let owed = |rig: &mut Rig| {
        let catch_up = rig.core.connections.catch_up(id.slot);
        catch_up.map_or(0, |catch_up| catch_up.len())
    };
    assert_eq!(owed(&mut rig), CHANNELS);
    rig.say(id, r#"{"type":"unsubscribe","channels":["market.*"]}"#);
    assert_eq!(owed(&mut rig), CHANNELS, "they are not looked at");
    assert!(!rig.core.recovery.has_requests(u64::MAX), "and none has to be");
    rig.subscribe(id, "market.*");
    let turns = rig.bounded_turns(STEPS, other, 6, |_| ());
    // The channels are forgotten, and then found again.
    assert!(
        turns as usize >= 2 * CHANNELS / (STEPS as usize + 1100),
        "{turns} turns"
    );
    let mut got = rig.read(id);
    assert_eq!(kinds(&got[..3]), ["subscribed", "event", "unsubscribed"]);
    assert_eq!(
        got[1].text()["channel"],
        "market.s7.price",
        "a pattern that was not given back has it"
    );
    assert_eq!(got[3].kind(), "subscribed");
    let channel = |frame: Received| frame.text()["channel"].to_string();
    let names: HashSet<String> = got.drain(4..).map(channel).collect();
    assert_eq!(names.len(), CHANNELS - 1);
    // The same again, and then the connection is removed.
    rig.say(id, r#"{"type":"unsubscribe","channels":["market.*"]}"#);
    rig.subscribe(id, "market.*");
    rig.turns();
    assert_eq!(owed(&mut rig), CHANNELS - 1);
    rig.core.on_socket_error(id, rig.now);
    assert_eq!(rig.turns() as usize, (CHANNELS - 1 - 256) / SLICE + 1);
    assert_eq!(rig.core.fanout.outgoing().numbers().len(), 0, "nothing is left behind");
}

#[test]
fn events_published_during_a_subscribe_come_once_and_after_its_answer() {
    let mut rig = rig(2);
    let names = ["grid.a.order", "grid.b.order", "market.a.price", "market.b.price"];
    for name in names {
        rig.event(name, "1");
    }
    let (id, other) = (rig.connect(), rig.connect());
    rig.subscribe(other, "*");
    rig.turns();
    rig.read(other);
    let known = json!({"epoch": epoch(&rig), "offset": 0});
    // One of the keys is of a channel that does not exist when the request comes to it.
    recover(
        &mut rig,
        id,
        "*",
        &json!({"grid.a.order": known, "grid.new.order": known}),
    );
    let mut number = 1;
    while rig.core.recovery.has_requests(u64::MAX) {
        number += 1;
        for name in names.into_iter().chain(["grid.new.order", "note.a"]) {
            rig.event(name, &number.to_string());
        }
        assert_eq!(rig.read_now(id), [], "nothing comes before the answer");
        rig.core.begin_turn(rig.now);
    }
    assert!(number > 5, "it took several turns");
    number += 1;
    for name in names.into_iter().chain(["grid.new.order", "note.a"]) {
        rig.event(name, &number.to_string());
    }
    let got = rig.read(id);
    assert_eq!(got[0].kind(), "subscribed");
    let data = &got[0].text()["data"];
    assert_eq!(data["recovered"]["grid.a.order"], true);
    assert_eq!(data["recovered"]["grid.new.order"], true);
    let of = |channel: &str| -> Vec<u64> {
        let texts = got[1..].iter().map(Received::text);
        let texts = texts.filter(|text| text["channel"] == channel);
        texts.filter_map(|text| text["data"].as_u64()).collect()
    };
    assert_eq!(of("grid.a.order"), (1..=number).collect::<Vec<_>>());
    assert_eq!(of("grid.b.order"), (1..=number).collect::<Vec<_>>(), "it began since");
    assert_eq!(of("grid.new.order"), (2..=number).collect::<Vec<_>>());
    for name in ["market.a.price", "market.b.price"] {
        assert_eq!(of(name).last(), Some(&number));
        assert!(of(name).is_sorted_by(|a, b| a < b));
    }
    // The hub keeps nothing of this channel, so its subscription begins with the answer.
    assert_eq!(of("note.a"), [number]);
    assert!(rig.has_no_extra(id), "nothing is kept of the join");
}

#[test]
fn what_a_request_brings_does_not_wait_for_the_next_request_of_its_client() {
    let mut rig = rig(8);
    for n in 0..40 {
        rig.event(&format!("grid.g{n}.order"), "1");
    }
    rig.event("board.a.prices", r#"[{"code":"x","n":1}]"#);
    let id = rig.connect();
    rig.subscribe(id, "board.*");
    rig.subscribe(id, "grid.*");
    let mut got = Vec::new();
    while rig.core.recovery.has_requests(u64::MAX) {
        got.extend(rig.read_now(id));
        rig.core.begin_turn(rig.now);
    }
    got.extend(rig.read(id));
    assert_eq!(kinds(&got)[..3], ["subscribed", "event", "subscribed"]);
    assert_eq!(got[1].text()["channel"], "board.a.prices");
}

#[test]
fn a_subscribe_under_way_begins_anew_when_a_pattern_is_lost() {
    let mut rig = rig(8);
    rig.event("grid.b.order", "1");
    rig.event("grid.b.trade", "1");
    let may = |patterns: &[&str]| {
        let valid = |text: &&str| Pattern::parse(text).expect("valid");
        let permissions = Permissions {
            channels: patterns.iter().map(valid).collect(),
            ..Permissions::default()
        };
        identity_with(Some("u"), permissions)
    };
    let settings = session_settings(Mode::Optional, Limits::default());
    let id = rig.connect_with(settings, Ok(Some(may(&["*"]))), true);
    rig.subscribe(id, "grid.*.order");
    rig.turns();
    rig.read(id);
    // It looks at one channel, which is covered by a pattern that is held.
    rig.subscribe(id, "grid.b.*");
    assert!(rig.core.recovery.has_requests(u64::MAX));
    rig.event("grid.b.order", "2");
    assert_eq!(told(&rig.read_now(id)), [json!(2)], "what is held goes on");
    rig.say(id, r#"{"type":"auth","token":"narrower"}"#);
    let (to, request, _) = rig.asked.verify.lock().expect("not poisoned").pop().expect("asked");
    rig.message(ShardMessage::Verified {
        to,
        request,
        outcome: Ok(may(&["grid.b.*"])),
    });
    rig.event("grid.b.order", "3");
    rig.event("grid.b.trade", "3");
    assert_eq!(told(&rig.read_now(id)), [json!("auth_result"), json!("unsubscribed")]);
    rig.turns();
    rig.event("grid.b.order", "4");
    let got = rig.read(id);
    assert_eq!(told(&got), [json!("subscribed"), json!(4)]);
    assert_eq!(got[0].text()["data"]["active_subscriptions"], 1);
    rig.core.on_socket_error(id, rig.now);
    let is_wanted = |name: &str| rig.hub.is_wanted(&Channel::parse(name).expect("valid"));
    assert!(!is_wanted("grid.b.order") && !is_wanted("grid.x.order"));
}

#[test]
fn a_connection_removed_during_its_subscribe_leaves_nothing_behind() {
    let mut rig = rig(8);
    for n in 0..40 {
        rig.event(&format!("grid.g{n}.order"), "1");
    }
    let (id, other) = (rig.connect(), rig.connect());
    rig.subscribe(id, "*");
    rig.subscribe(other, "grid.*");
    rig.core.begin_turn(rig.now);
    assert!(rig.core.recovery.has_requests(u64::MAX));
    rig.core.on_socket_error(id, rig.now);
    rig.turns();
    assert_eq!(rig.read(other)[0].kind(), "subscribed");
    rig.core.on_socket_error(other, rig.now);
    let channel = |n| Channel::parse(&format!("grid.g{n}.order")).expect("valid");
    assert!((0..40).all(|n| !rig.hub.is_wanted(&channel(n))));
    assert_eq!(rig.core.fanout.table().subscriptions(), 0);
    rig.core.update_gauges();
    assert_eq!(rig.metrics.read().catching_up, 0);
}

#[test]
fn an_exact_name_without_state_gets_a_position_whatever_else_is_requested() {
    let mut rig = Rig::new();
    rig.event("grid.a.order", "1");
    for channels in [r#"["grid.*","grid.none.order"]"#, r#"["grid.none.order","grid.*"]"#] {
        let id = rig.connect();
        rig.say(id, &format!(r#"{{"type":"subscribe","channels":{channels}}}"#));
        let positions = &rig.read(id)[0].text()["data"]["positions"].clone();
        assert!(positions["grid.none.order"]["offset"].is_u64(), "{positions}");
        assert_eq!(positions.as_object().map(|names| names.len()), Some(2));
    }
}

/// The longest possible `subscribed`: a thousand positions and a thousand recovered channels that were not requested, with
/// names of the greatest length, each byte of which is escaped; and as many requested channels as fit into a message.
#[test]
fn the_longest_answer_ends_no_client_that_has_yet_to_read_it() {
    let mut rig = Rig::with_classes(vec![(
        "w.*",
        Class {
            history: Some(History::BUILT_IN),
            ..Class::default()
        },
    )]);
    let name = |n: usize| format!("w.{n:04}{}", "\"".repeat(249));
    for n in 0..1_100 {
        rig.publish(&name(n), "1");
    }
    let key = json!({"epoch": epoch(&rig), "offset": 0});
    let keys: serde_json::Map<_, _> = (0..1_000).map(|n| (format!("k.{n:04}.x"), key.clone())).collect();
    let message = json!({"type": "subscribe", "channels": ["*"], "recover": keys}).to_string();
    for is_blocked in [false, true] {
        let id = rig.connect();
        rig.say(id, r#"{"type":"ping"}"#);
        if is_blocked {
            rig.core.blocked(id, rig.now);
        }
        let settings = session_settings(Mode::Off, Limits::default());
        assert!(message.len() <= settings.limits.message_bytes as usize);
        rig.core.on_bytes(id, &mut frame(0x81, message.as_bytes()), rig.now);
        rig.core.blocked(id, rig.now);
        assert!(!rig.core.is_closing(id), "blocked before: {is_blocked}");
        rig.core.writable(id);
        let got = rig.read(id);
        assert_eq!(kinds(&got)[..2], ["pong", "subscribed"]);
        let data = &got[1].text()["data"];
        assert_eq!(data["positions"].as_object().map(|names| names.len()), Some(1_000));
        assert_eq!(data["recovered"].as_object().map(|names| names.len()), Some(2_000));
        assert!(got[1].text().to_string().len() > 4 * settings.limits.reply_bytes as usize);
        rig.core.on_socket_error(id, rig.now);
    }
    // A client that requests it again and again without reading is closed.
    let id = rig.connect();
    rig.core.blocked(id, rig.now);
    for _ in 0..6 {
        rig.core.on_bytes(id, &mut frame(0x81, message.as_bytes()), rig.now);
        rig.say(id, r#"{"type":"unsubscribe","channels":["*"]}"#);
    }
    assert!(rig.core.is_closing(id));
}
