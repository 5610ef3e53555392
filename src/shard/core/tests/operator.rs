use std::sync::mpsc;

use super::*;
use crate::event::{Event, PublishOptions};
use crate::session::CommandOutcome;
use crate::shard::mailbox::{ClientFilter, ClientsPage, SubscriptionsPage};
use tickgate_protocol::dialect::typed;

fn clients(rig: &mut Rig, from_slot: u32, limit: usize, user: Option<&str>) -> ClientsPage {
    let (send, receive) = mpsc::channel();
    rig.message(ShardMessage::Clients {
        from_slot,
        limit,
        filter: ClientFilter {
            user: user.map(Into::into),
            ..ClientFilter::default()
        },
        reply: Box::new(move |page| send.send(page).expect("still waited for")),
    });
    receive.recv().expect("answered")
}

#[test]
fn clients_are_listed_in_pages_and_by_user() {
    let mut rig = Rig::new();
    let settings = session_settings(Mode::Required, Limits::default());
    for number in 0..10 {
        let user = identity(Some(if number % 2 == 0 { "even" } else { "odd" }));
        let id = rig.connect_with(settings.clone(), Ok(Some(user)), true);
        rig.subscribe(id, "a.*");
    }
    let page = clients(&mut rig, 0, 4, None);
    assert_eq!((page.clients.len(), page.next_slot), (4, Some(4)));
    let page = clients(&mut rig, 8, 4, None);
    assert_eq!((page.clients.len(), page.next_slot), (2, None));
    let page = clients(&mut rig, 0, 5, Some("odd"));
    assert_eq!((page.clients.len(), page.next_slot), (5, None));
    let client = &page.clients[0];
    assert_eq!(ConnectionId::from_client_id(&client.client_id), Some(client.id));
    let user = client.identity.as_ref().and_then(|identity| identity.user.as_deref());
    assert_eq!(user, Some("odd"));
    assert_eq!(
        (&client.subscriptions[..], client.pending, client.is_alive),
        (&["a.*".into()][..], 1, true)
    );
    assert_eq!((client.connected_at_ms, client.last_ping_ms), (START.unix_ms, None));
    rig.pass(30_000);
    let client = clients(&mut rig, 0, 1, None).clients.remove(0);
    let last_ping_ms = client.last_ping_ms.expect("one was sent");
    assert!((START.unix_ms + 1..=START.unix_ms + 30_000).contains(&last_ping_ms));
}

#[test]
fn clients_are_found_by_a_part_of_a_name_and_a_page_looks_at_a_bounded_number_of_them() {
    let mut rig = Rig::new();
    let settings = session_settings(Mode::Required, Limits::default());
    for number in 0..5_000 {
        let user = format!("user-{number}");
        rig.connect_with(settings.clone(), Ok(Some(identity(Some(&user)))), true);
    }
    let (mut found, mut pages, mut next) = (Vec::new(), 0, Some(0));
    while let Some(from_slot) = next {
        let (send, receive) = mpsc::channel();
        rig.message(ShardMessage::Clients {
            from_slot,
            limit: 10,
            filter: ClientFilter {
                search: Some("-4999".into()),
                ..ClientFilter::default()
            },
            reply: Box::new(move |page: ClientsPage| send.send(page).expect("still waited for")),
        });
        let page = receive.recv().expect("answered");
        found.extend(page.clients);
        (pages, next) = (pages + 1, page.next_slot);
    }
    let user = found[0].identity.as_ref().and_then(|identity| identity.user.as_deref());
    assert_eq!((found.len(), pages, user), (1, 2, Some("user-4999")));
}

#[test]
fn subscriptions_are_listed_largest_first() {
    let mut rig = Rig::new();
    for (pattern, holders) in [("a.one", 1), ("a.three", 3), ("a.two", 2), ("b.two", 2)] {
        for _ in 0..holders {
            let id = rig.connect();
            rig.subscribe(id, pattern);
        }
    }
    let (send, receive) = mpsc::channel::<SubscriptionsPage>();
    rig.message(ShardMessage::Subscriptions {
        limit: 3,
        tenant: None,
        reply: Box::new(move |page| send.send(page).expect("still waited for")),
    });
    let page = receive.recv().expect("answered");
    assert_eq!(page.total, 8);
    let expected = [("a.three".into(), 3), ("a.two".into(), 2), ("b.two".into(), 2)];
    assert_eq!(page.names, expected);
}

#[test]
fn subscriptions_are_counted_by_the_names_that_clients_use() {
    let mut rig = Rig::new();
    let typed = |types: &[(&str, &str)]| {
        let template = |(name, text): &(&str, &str)| ((*name).into(), text.parse().expect("a template"));
        let settings = typed::Settings {
            subscription_types: types.iter().map(template).collect(),
            ..typed::Settings::default()
        };
        Arc::new(session::Settings {
            dialect: Dialect::Typed(Arc::new(settings)),
            ..(*session_settings(Mode::Off, Limits::default())).clone()
        })
    };
    let stocks = typed(&[("stock", "stock.{target}.price")]);
    let coins = typed(&[("coin", "market.{target}.*")]);
    for (settings, patterns) in [
        (&stocks, &["market.BTC/USDT.*", "stock.600519.price", "market.*"][..]),
        (&stocks, &["market.BTC/USDT.*"]),
        (&coins, &["market.BTC/USDT.*", "stock.600519.price"]),
    ] {
        let id = rig.connect_with(Arc::clone(settings), Ok(None), true);
        patterns.iter().for_each(|pattern| rig.subscribe(id, pattern));
    }
    for _ in 0..3 {
        let native = rig.connect();
        rig.subscribe(native, "market.BTC/USDT.*");
    }
    let (send, receive) = mpsc::channel::<SubscriptionsPage>();
    rig.message(ShardMessage::Subscriptions {
        limit: 10,
        tenant: None,
        reply: Box::new(move |page| send.send(page).expect("still waited for")),
    });
    let page = receive.recv().expect("answered");
    let expected = [
        ("market.BTC/USDT.*", 3),
        ("BTC/USDT", 2),
        ("coin:BTC/USDT", 1),
        ("market.*", 1),
        ("stock.600519.price", 1),
        ("stock:600519", 1),
    ];
    assert_eq!(page.names, expected.map(|(name, count)| (name.into(), count)));
    assert_eq!(page.total, 9);
}

#[test]
fn an_operator_disconnects_one_or_all_of_a_user() {
    let mut rig = Rig::new();
    let settings = session_settings(Mode::Required, Limits::default());
    let ids: Vec<_> = ["u1", "u2", "u1"]
        .into_iter()
        .map(|user| rig.connect_with(settings.clone(), Ok(Some(identity(Some(user)))), true))
        .collect();
    let (send, receive) = mpsc::channel();
    let disconnect = |rig: &mut Rig, id| {
        let send = send.clone();
        rig.message(ShardMessage::Disconnect {
            id,
            tenant: None,
            ending: Disconnect::ByOperator,
            reply: Box::new(move |existed| send.send(existed).expect("still waited for")),
        });
        receive.recv().expect("answered")
    };
    assert!(disconnect(&mut rig, ids[0]));
    assert!(!disconnect(&mut rig, ids[0]), "it is closing already");
    assert_eq!(rig.read(ids[0]), [Received::Close(4003)]);
    let (send, receive) = mpsc::channel();
    rig.message(ShardMessage::DisconnectUser {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: "u1".into(),
        ending: Disconnect::ByOperator,
        reply: Box::new(move |count| send.send(count).expect("still waited for")),
    });
    assert_eq!(receive.recv(), Ok(1));
    assert!(rig.core.is_closing(ids[2]) && !rig.core.is_closing(ids[1]));
}

#[test]
fn connections_with_a_revoked_token_end_and_none_with_one_begins() {
    let mut rig = Rig::new();
    let settings = session_settings(Mode::Required, Limits::default());
    let with_token = |user: &str, id: &str| {
        let mut identity = Arc::try_unwrap(identity(Some(user))).expect("new");
        identity.token_id = Some(id.into());
        Arc::new(identity)
    };
    let connect = |rig: &mut Rig, id: &str| rig.connect_with(settings.clone(), Ok(Some(with_token("u1", id))), true);
    let (lost, other) = (connect(&mut rig, "t-1"), connect(&mut rig, "t-2"));
    // Its token was verified before the revocation, and the answer comes behind it.
    let late = rig.connect_with(settings.clone(), Ok(None), true);
    rig.say(late, r#"{"type":"auth","token":"t-1"}"#);
    let revocation = Arc::new(crate::auth::Revocation {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        tokens: crate::auth::RevokedTokens::WithId("t-1".into()),
        until_unix_ms: u64::MAX,
    });
    rig.asked.revocations.add((*revocation).clone(), 0).expect("room");
    let (send, receive) = mpsc::channel();
    rig.message(ShardMessage::Revoke {
        revocation,
        reply: Box::new(move |count| send.send(count).expect("still waited for")),
    });
    assert_eq!(receive.recv(), Ok(1));
    assert_eq!(rig.read(lost), [Received::Close(4006)]);
    rig.message(ShardMessage::Verified {
        to: late,
        request: 1,
        outcome: Ok(with_token("u1", "t-1")),
    });
    assert_eq!(rig.read(late)[0].text()["error"]["code"], "TOKEN_INVALID");
    // So was that of a connection that comes only now.
    let newcomer = connect(&mut rig, "t-1");
    let told = rig.read(newcomer);
    assert!(told.contains(&Received::Close(4004)), "{told:?}");
    assert!(!rig.core.is_closing(other));
}

#[test]
fn a_broadcast_reaches_every_authenticated_connection_subscribed_or_not() {
    let mut rig = Rig::new();
    let (one, other) = (rig.connect(), rig.connect());
    let settings = session_settings(Mode::Required, Limits::default());
    let stranger = rig.connect_with(settings, Ok(None), true);
    rig.core
        .on_bytes(other, &mut frame(0x88, &1000u16.to_be_bytes()), rig.now);
    let event = NewEvent {
        channel: Channel::parse("system.test").expect("valid"),
        name: "test".into(),
        data: "{\"message\":\"hello\"}".into(),
        timestamp_ms: 1,
        options: PublishOptions::default(),
    };
    let (send, receive) = mpsc::channel();
    rig.message(ShardMessage::Broadcast {
        event: Arc::new(Event::new(event, None)),
        reply: Box::new(move |count| send.send(count).expect("still waited for")),
    });
    assert_eq!(receive.recv(), Ok(1));
    assert_eq!(rig.read(one)[0].text()["data"]["message"], "hello");
    assert_eq!(kinds(&rig.read(other)), ["close"]);
    assert_eq!(rig.read(stranger), []);
}

#[test]
fn a_drain_tells_all_clients_when_and_closes_them_one_by_one() {
    let mut rig = Rig::new();
    let ids: Vec<_> = (0..20).map(|_| rig.connect()).collect();
    rig.message(ShardMessage::Drain { over_ms: 20_000 });
    rig.pass(0);
    let mut told = Vec::new();
    for &id in &ids {
        let got = rig.read(id);
        assert_eq!(kinds(&got), ["going_away"]);
        let data = got[0].text()["data"].clone();
        assert!(data["reconnect_after_ms"].as_u64().is_some_and(|ms| ms < 10_000));
        told.push((id, data["close_in_ms"].as_u64().expect("a number")));
    }
    let random: std::collections::BTreeSet<_> = told.iter().map(|(_, ms)| *ms).collect();
    assert_eq!(random.len(), 20, "spread");
    for (id, close_in_ms) in told {
        assert!(!rig.core.is_closing(id));
        let elapsed = rig.now.mono_ms - START.mono_ms;
        rig.pass(close_in_ms - elapsed);
        assert_eq!(quiet(rig.read(id)), [Received::Close(1012)]);
        assert!(!rig.core.is_finished());
        rig.core.on_end_of_input(id, rig.now);
    }
    assert!(rig.core.is_finished());
    assert!(rig.now.mono_ms - START.mono_ms < 1_000, "few clients need no pace");
}

#[test]
fn a_connection_that_arrives_during_a_drain_is_notified_and_closed_too() {
    let mut rig = Rig::new();
    let early = rig.connect();
    for _ in 0..199 {
        rig.connect();
    }
    rig.message(ShardMessage::Drain { over_ms: 10_000 });
    rig.pass(1_500);
    let late = rig.connect();
    for (id, close_in_ms) in [(early, 259), (late, 750)] {
        let got = quiet(rig.read(id));
        assert_eq!(got[0].text()["data"]["close_in_ms"], close_in_ms);
        assert_eq!(got.len() == 2, id == early, "{got:?}");
    }
    rig.pass(750);
    assert_eq!(quiet(rig.read(late)), [Received::Close(1012)]);
    let later = rig.connect();
    rig.pass(0);
    let got = quiet(rig.read(later));
    assert_eq!(got[0].text()["data"]["close_in_ms"], 0);
    assert_eq!(got[1..], [Received::Close(1012)]);
}

#[test]
fn the_closes_of_many_connections_are_spread_over_the_drain() {
    let mut rig = Rig::new();
    let ids: Vec<_> = (0..400).map(|_| rig.connect()).collect();
    rig.message(ShardMessage::Drain { over_ms: 2_000 });
    rig.pass(0);
    let mut last_ms = 0;
    for (index, &id) in (0..).zip(&ids) {
        let close_in_ms = rig.read(id)[0].text()["data"]["close_in_ms"].as_u64();
        assert_eq!(close_in_ms, Some(250 + 1_350 * (index + 1) / 401));
        last_ms = close_in_ms.unwrap_or(0);
    }
    assert!(last_ms > 1_590, "four fifths of the drain");
}

#[test]
fn the_pace_of_a_drain_counts_connections_that_are_there() {
    let mut rig = Rig::new();
    let ids: Vec<_> = (0..200).map(|_| rig.connect()).collect();
    for &id in &ids[..199] {
        rig.core.on_end_of_input(id, rig.now);
    }
    rig.pass(0);
    rig.message(ShardMessage::Drain { over_ms: 20_000 });
    rig.pass(0);
    let got = rig.read(ids[199]);
    let told = got
        .iter()
        .find(|received| kinds(std::slice::from_ref(received)) == ["going_away"]);
    let close_in_ms = told.expect("told").text()["data"]["close_in_ms"].as_u64();
    assert!(close_in_ms < Some(270), "{close_in_ms:?}");
}

#[test]
fn connections_open_at_the_drains_deadline_are_notified_and_then_dropped() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.message(ShardMessage::Drain { over_ms: 0 });
    rig.pass(0);
    let got = rig.read(id);
    assert_eq!(kinds(&got), ["going_away", "close"]);
    assert_eq!(got[1], Received::Close(1001));
    assert!(!rig.core.is_finished());
    rig.pass(1_000);
    assert!(rig.core.is_finished(), "it never answered");
    assert_eq!(rig.permits.load(Ordering::Relaxed), 0);
}

#[test]
fn publishers_encode_a_format_only_while_a_connection_needs_it() {
    let mut rig = Rig::new();
    let (first, second) = (rig.connect(), rig.connect());
    rig.core.on_socket_error(first, rig.now);
    rig.subscribe(second, "a.*");
    rig.event("a.b", "1");
    assert_eq!(kinds(&rig.read(second)), ["subscribed", "event"]);
    rig.core.on_socket_error(second, rig.now);
    assert!(rig.core.connections.endpoints().in_use().next().is_none());
    rig.connect();
    assert_eq!(
        rig.core.connections.endpoints().len(),
        2,
        "endpoints without connections give their index back"
    );
}

#[test]
fn a_connection_whose_command_is_not_answered_stays_for_almost_all_of_the_drain() {
    for answered in [true, false] {
        let mut rig = Rig::new();
        let id = rig.connect();
        rig.say(id, r#"{"type":"command","id":"c1","action":"grid.start"}"#);
        let (to, _, request, _) = rig.asked.command.lock().expect("not poisoned").remove(0);
        rig.message(ShardMessage::Drain { over_ms: 20_000 });
        rig.pass(0);
        assert_eq!(kinds(&rig.read(id)), ["going_away"]);
        rig.pass(5_000);
        assert_eq!(quiet(rig.read(id)), []);
        if answered {
            let outcome = CommandOutcome::Success { data: "1".into() };
            rig.message(ShardMessage::Responded { to, request, outcome });
            rig.pass(20);
            assert_eq!(kinds(&quiet(rig.read(id))), ["response", "close"]);
        } else {
            rig.pass(14_480);
            assert_eq!(quiet(rig.read(id)), []);
            rig.pass(20);
            assert_eq!(quiet(rig.read(id)), [Received::Close(1012)]);
        }
    }
}
