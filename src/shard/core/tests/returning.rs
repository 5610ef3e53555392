//! Socket.IO's connection state recovery: clients whose connections break at any byte.

mod moments;

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::*;
use crate::hub::stripe_of;
use crate::session::Opening;
use tickgate_protocol::channel::{Class, History, Overflow};
use tickgate_protocol::dialect::engine_io::Revision;
use tickgate_protocol::dialect::socket_io;
use tickgate_protocol::message::Offset;

const CHANNELS: [&str; 6] = [
    "grid.a.order",
    "grid.b.order",
    "grid.c.trade",
    "grid.c.risk",
    "market.x.trade",
    "grid.d.order",
];

fn settings(auth_mode: Mode) -> Arc<session::Settings> {
    let dialect = Dialect::SocketIo(socket_io::Settings {
        recovery_window_ms: Some(120_000),
        ..socket_io::Settings::default()
    });
    Arc::new(session::Settings {
        dialect,
        ..(*session_settings(auth_mode, Limits::default())).clone()
    })
}

/// A client as the official one is: it keeps its `pid` and the last argument of an event that is a text.
#[derive(Default)]
struct Client {
    bytes: Vec<u8>,
    pid: Option<String>,
    offset: Option<String>,
    /// Whether each CONNECT has recovered the session.
    recovered: Vec<bool>,
    numbers: BTreeMap<String, Vec<u64>>,
    names: Vec<String>,
    /// The versions of the events that it has.
    versions: BTreeMap<(String, u64), u64>,
    /// Events that its offset did not cover when it came back.
    uncovered: Vec<(String, u64)>,
    /// Events that came twice.
    doubles: usize,
    /// An offset claimed less than the one before it.
    went_back: bool,
}

impl Client {
    fn connect_packet(&self) -> String {
        format!("40{}", json!({"pid": self.pid, "offset": self.offset}))
    }

    /// Notes which events its offset does not cover. They may come again.
    fn note_uncovered(&mut self) {
        let offset = self.offset.as_deref().and_then(Offset::parse);
        let Some(offset) = offset else { return };
        let covers = |channel: &str, version: u64| {
            let stripe = stripe_of(&Channel::parse(channel).expect("valid"));
            up_to(&offset, stripe) >= version
        };
        let versions = self.versions.iter();
        let uncovered = versions.filter(|((channel, _), version)| !covers(channel, **version));
        self.uncovered = uncovered.map(|(one, _)| one.clone()).collect();
    }

    fn note_offset(&mut self, offset: &str) {
        let told = Offset::parse(offset).expect("an offset");
        let before = self.offset.as_deref().and_then(Offset::parse);
        let claims_less = |before: &Offset| (0..16).any(|stripe| up_to(&told, stripe) < up_to(before, stripe));
        self.went_back |= before.is_some_and(|before| claims_less(&before));
        self.offset = Some(offset.to_owned());
    }

    /// Handles the messages that have arrived as a whole.
    fn take(&mut self) {
        let mut at = 0;
        while let Some((text, end)) = next_text(&self.bytes[at..]) {
            if let Some(connected) = text.strip_prefix("40") {
                let connected: Value = serde_json::from_str(connected).expect("JSON");
                let pid = connected["pid"].as_str().map(str::to_owned);
                self.recovered.push(pid.is_some() && pid == self.pid);
                self.pid = pid;
            } else if let Some(event) = text.strip_prefix("42") {
                let event: Vec<Value> = serde_json::from_str(event).expect("JSON");
                if let Some(offset) = event.last().and_then(Value::as_str).filter(|_| event.len() > 2) {
                    self.note_offset(offset);
                }
                self.names.push(event[0].as_str().expect("a name").to_owned());
                if let Some(number) = event[1]["data"].as_u64() {
                    let channel = event[1]["channel"].as_str().expect("a channel").to_owned();
                    let one = (channel.clone(), number);
                    if let Some(at) = self.uncovered.iter().position(|uncovered| *uncovered == one) {
                        self.uncovered.remove(at);
                        self.doubles += 1;
                    } else {
                        self.numbers.entry(channel).or_default().push(number);
                    }
                    if let Some(version) = event[1]["offset"].as_u64() {
                        self.versions.insert(one, version);
                    }
                }
            }
            at += end;
        }
        self.bytes.drain(..at);
    }
}

/// The version up to which an offset covers everything of a stripe.
fn up_to(offset: &Offset, stripe: u8) -> u64 {
    let newest = offset.newest.iter().filter(|(of, _)| *of == stripe);
    newest.map(|(_, newest)| *newest).fold(offset.version, u64::max)
}

fn next_text(bytes: &[u8]) -> Option<(&str, usize)> {
    let (header, length) = match *bytes {
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
        [_, 126, ..] => return None,
        [_, length, ..] => (2, usize::from(length)),
        _ => return None,
    };
    let payload = bytes.get(header..header + length)?;
    Some((std::str::from_utf8(payload).unwrap_or_default(), header + length))
}

impl Rig {
    fn open_socket_io(&mut self, settings: &Arc<session::Settings>) -> ConnectionId {
        self.permits.fetch_add(1, Ordering::Relaxed);
        self.nonce += 1;
        let held = self.permits.clone();
        let mut secret = [0; 16];
        secret[..8].copy_from_slice(&self.nonce.to_be_bytes());
        let arrival = Arrival {
            settings: settings.clone(),
            engine_io: Some(Opening {
                revision: Revision::Four,
                by_poll: false,
                secret,
                token: None,
            }),
            identity: Ok(None),
            address: None,
            nonce: self.nonce,
            deflate: None,
            permit: Box::new(Permit { held, admits: true }),
        };
        self.core.adopt(arrival, self.now)
    }

    fn receive(&mut self, id: ConnectionId, client: &mut Client) {
        self.core.postpone(id);
        for _ in 0..40 {
            self.now = self.now.after_ms(2);
            self.core.begin_turn(self.now);
            self.core.deliver(usize::MAX);
            while self.core.next_dirty().is_some() {
                while self.write_some(id, usize::MAX, &mut client.bytes) == Some(Sent::More) {}
            }
        }
        client.take();
    }
}

/// What a link carries between two breaks.
#[derive(Clone, Copy)]
enum Link {
    /// Everything but what the break cuts off. The client has caught up before the next one.
    Fast,
    /// Less than is published, so the client is behind most of the time.
    Slow,
}

/// A client that is cut again and again. `fault` may change the offset that it gives back.
/// Returns how many events came twice, of how many.
fn run(seed: u64, link: Link, fault: impl Fn(&mut Client)) -> Result<(usize, u64), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut rig = Rig::new();
    let settings = settings(Mode::Off);
    let mut client = Client::default();
    let mut id = rig.open_socket_io(&settings);
    rig.say(id, "40");
    rig.say(id, r#"42["subscribe",{"channels":["grid.*","market.*"]}]"#);
    rig.receive(id, &mut client);
    let mut counts = [0u64; CHANNELS.len()];
    for _ in 0..60 {
        rig.now = rig.now.after_ms(5);
        rig.core.begin_turn(rig.now);
        for _ in 0..random.random_range(0..12) {
            let channel = random.random_range(0..CHANNELS.len());
            rig.publish(CHANNELS[channel], &counts[channel].to_string());
            counts[channel] += 1;
            // Several events may be popped in one turn.
            if random.random_bool(0.5) {
                rig.core.deliver(usize::MAX);
            }
            if random.random_bool(0.2) {
                rig.now = rig.now.after_ms(1);
                rig.core.begin_turn(rig.now);
            }
        }
        rig.core.deliver(usize::MAX);
        let is_cut = random.random_bool(0.3);
        match link {
            Link::Slow => {
                rig.write_some(id, random.random_range(0..2_000), &mut client.bytes);
            }
            Link::Fast => {
                while rig.write_some(id, usize::MAX, &mut client.bytes) == Some(Sent::More) {}
                if is_cut {
                    client.bytes.truncate(random.random_range(0..=client.bytes.len()));
                }
                client.take();
            }
        }
        if is_cut {
            client.take();
            client.bytes.clear();
            rig.core.on_socket_error(id, rig.now);
            client.note_uncovered();
            fault(&mut client);
            // It may come back in the moment of the last event.
            if random.random_bool(0.5) {
                rig.now = rig.now.after_ms(2);
                rig.core.begin_turn(rig.now);
                rig.core.deliver(usize::MAX);
            }
            id = rig.open_socket_io(&settings);
            let connect = client.connect_packet();
            rig.say(id, &connect);
            if matches!(link, Link::Fast) {
                rig.receive(id, &mut client);
            }
        }
    }
    rig.receive(id, &mut client);
    if client.went_back {
        return Err("an offset claims less than the one before it".to_owned());
    }
    if client.recovered[1..].contains(&false) {
        return Err(format!("not every session was recovered: {:?}", client.recovered));
    }
    for (channel, count) in CHANNELS.iter().zip(counts) {
        let got = client.numbers.remove(*channel).unwrap_or_default();
        if !got.iter().copied().eq(0..count) {
            return Err(format!("{channel} has {got:?}, not 0 to {count}"));
        }
    }
    Ok((client.doubles, counts.iter().sum()))
}

fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("TICKGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let count = std::env::var("TICKGATE_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok());
    given.map_or(0..count.unwrap_or(12), |seed| seed..seed + 1)
}

#[test]
fn a_client_that_is_cut_at_any_byte_gets_its_session_back_and_each_event_once() {
    // Only events that came while the client caught up come twice.
    for (link, percent) in [(Link::Fast, 0), (Link::Slow, 5)] {
        let (mut doubles, mut events) = (0, 0);
        for seed in seeds() {
            match run(seed, link, |_| ()) {
                Ok((double, all)) => (doubles, events) = (doubles + double as u64, events + all),
                Err(what) => panic!("TICKGATE_SEED={seed}: {what}"),
            }
        }
        let most = events.max(5_000) * percent / 100;
        assert!(doubles <= most, "{doubles} of {events} events came twice");
    }
}

#[test]
fn an_offset_that_claims_too_much_or_too_little_is_found() {
    let shifted = |client: &mut Client, by: i64| {
        let Some(offset) = &mut client.offset else { return };
        let (epoch, rest) = offset.split_once('-').expect("an epoch");
        let (version, newest) = rest.split_once('-').unwrap_or((rest, ""));
        let Ok(version) = u64::from_str_radix(version, 16) else {
            return;
        };
        let separator = if newest.is_empty() { "" } else { "-" };
        let shifted = version.saturating_add_signed(by);
        *offset = format!("{epoch}-{shifted:x}{separator}{newest}");
    };
    for by in [-3, 3] {
        let found = (0..16).filter(|seed| run(*seed, Link::Slow, |client| shifted(client, by)).is_err());
        assert!(found.count() > 0, "shifted by {by}");
    }
}

#[test]
fn a_session_is_given_back_once_and_only_if_everything_is_there() {
    let mut rig = Rig::with_classes(vec![(
        "life.*",
        Class {
            history: Some(History {
                size: 4,
                ttl_ms: 1_000_000,
            }),
            overflow: Overflow::Disconnect,
            ..Class::default()
        },
    )]);
    let settings = settings(Mode::Off);
    let mut first = Client::default();
    let id = rig.open_socket_io(&settings);
    rig.say(id, "40");
    rig.say(id, r#"42["subscribe",{"channels":["life.*","system.kill_switch"]}]"#);
    rig.receive(id, &mut first);
    assert_eq!(
        (first.recovered.as_slice(), first.offset.is_some()),
        (&[false][..], true)
    );
    rig.event("life.a", "0");
    rig.event("board.a.prices", "0");
    rig.receive(id, &mut first);
    rig.core.on_socket_error(id, rig.now);
    rig.event("life.a", "1");
    let again = |rig: &mut Rig, client: &mut Client| {
        let id = rig.open_socket_io(&settings);
        let connect = client.connect_packet();
        rig.say(id, &connect);
        rig.receive(id, client);
        id
    };
    let mut second = Client {
        pid: first.pid.clone(),
        offset: first.offset.clone(),
        ..Client::default()
    };
    let id = again(&mut rig, &mut second);
    assert_eq!(
        (second.recovered.as_slice(), &second.numbers["life.a"]),
        (&[true][..], &vec![1])
    );
    assert_eq!(second.names, ["connected", "update", "cursor"]);
    // Another client with the same name finds nothing.
    again(&mut rig, &mut first);
    assert_eq!(first.recovered, [false, false]);
    assert_ne!(first.pid, second.pid);
    // What it had is trimmed.
    rig.core.on_socket_error(id, rig.now);
    for n in 2..10u64 {
        rig.event("life.a", &n.to_string());
    }
    let id = again(&mut rig, &mut second);
    assert_eq!(second.recovered, [true, false]);
    assert_eq!(
        second.names.last().expect("events"),
        "connected",
        "it has no subscriptions"
    );
    // An offset that is none of this store.
    rig.say(id, r#"42["subscribe",{"channels":["life.*"]}]"#);
    rig.receive(id, &mut second);
    rig.core.on_socket_error(id, rig.now);
    second.offset = Some("0badf00d-1".to_owned());
    again(&mut rig, &mut second);
    assert_eq!(second.recovered, [true, false, false]);
    assert_eq!(rig.metrics.sessions_recovered.get(), 1);
    assert_eq!(rig.metrics.sessions_unrecovered.get(), 3);
}

#[test]
fn a_last_value_that_was_asked_for_just_before_a_break_comes_after_it() {
    let mut rig = Rig::new();
    let settings = settings(Mode::Off);
    rig.event("system.kill_switch", "0");
    let mut client = Client::default();
    let mut id = rig.open_socket_io(&settings);
    rig.say(id, "40");
    rig.say(id, r#"42["subscribe",{"channels":["grid.*"]}]"#);
    rig.receive(id, &mut client);
    // The offset of this event covers the value.
    rig.event("grid.a.order", "0");
    rig.receive(id, &mut client);
    // The gateway carries this out, and the answer is lost.
    rig.say(id, r#"42["subscribe",{"channels":["system.kill_switch"]}]"#);
    for number in 1..3u64 {
        rig.core.on_socket_error(id, rig.now);
        id = rig.open_socket_io(&settings);
        let connect = client.connect_packet();
        rig.say(id, &connect);
        rig.receive(id, &mut client);
        assert_eq!(client.numbers["system.kill_switch"], [0], "return {number}");
        // The client has an offset that is newer than its subscription, so the value does not come again.
        rig.event("grid.a.order", &number.to_string());
        rig.receive(id, &mut client);
    }
    assert_eq!(client.recovered, [false, true, true]);
    assert_eq!(client.numbers["grid.a.order"], [0, 1, 2]);
}

#[test]
fn a_session_that_the_broker_keeps_is_kept_again_if_its_client_is_gone_when_it_comes() {
    let mut rig = Rig::new();
    *rig.broker.kept.lock().expect("not poisoned") = Some(Vec::new());
    let settings = settings(Mode::Off);
    let mut client = Client::default();
    let mut id = rig.open_socket_io(&settings);
    rig.say(id, "40");
    rig.say(id, r#"42["subscribe",{"channels":["grid.*"]}]"#);
    rig.event("grid.a.order", "0");
    rig.receive(id, &mut client);
    // The second return is cut off before the broker has answered.
    for (number, answers) in [(1, false), (2, true)] {
        rig.core.on_socket_error(id, rig.now);
        rig.event("grid.a.order", &number.to_string());
        id = rig.open_socket_io(&settings);
        let connect = client.connect_packet();
        rig.say(id, &connect);
        rig.receive(id, &mut client);
        assert_eq!(client.recovered, [false], "CONNECT waits for the broker");
        let (from, claim) = rig.broker.claims.lock().expect("not poisoned").pop().expect("asked");
        let kept = rig
            .broker
            .kept
            .lock()
            .expect("not poisoned")
            .as_mut()
            .and_then(Vec::pop);
        let found = kept.filter(|record| record.is_for(&claim, rig.now.unix_ms));
        if !answers {
            rig.core.on_socket_error(id, rig.now);
        }
        rig.message(ShardMessage::TakenBack {
            to: from.connection,
            request: from.request,
            found: found.map(Box::new),
        });
    }
    rig.receive(id, &mut client);
    assert_eq!(client.recovered, [false, true]);
    assert_eq!(client.numbers["grid.a.order"], [0, 1, 2]);
    // A broker that does not have it, and one that keeps nothing now: then it lies here.
    for has_link in [true, false] {
        *rig.broker.kept.lock().expect("not poisoned") = has_link.then(Vec::new);
        rig.core.on_socket_error(id, rig.now);
        id = rig.open_socket_io(&settings);
        let connect = client.connect_packet();
        rig.say(id, &connect);
        if has_link {
            let (from, _) = rig.broker.claims.lock().expect("not poisoned").pop().expect("asked");
            let (to, request) = (from.connection, from.request);
            rig.message(ShardMessage::TakenBack {
                to,
                request,
                found: None,
            });
            rig.say(id, r#"42["subscribe",{"channels":["grid.*"]}]"#);
        }
        rig.receive(id, &mut client);
    }
    assert_eq!(client.recovered, [false, true, false, true]);
}
