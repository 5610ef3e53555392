//! Breaks right behind an event whose offset could claim too little.
//!
//! No time passes in these tests unless they say so, so the shard does not read the hub's head again.

use super::*;

impl Rig {
    /// A client whose connection has broken comes back.
    fn comes_back(&mut self, settings: &Arc<session::Settings>, client: &mut Client) -> ConnectionId {
        let id = self.open_socket_io(settings);
        let connect = client.connect_packet();
        self.say(id, &connect);
        self.flush(id, client);
        id
    }

    /// What a client gets in turns that take no time.
    fn flush(&mut self, id: ConnectionId, client: &mut Client) {
        for _ in 0..4 {
            self.core.begin_turn(self.now);
            while self.write_some(id, usize::MAX, &mut client.bytes) == Some(Sent::More) {}
        }
        client.take();
    }

    /// The connection breaks, and the client comes back. What it is sent now it has missed.
    fn breaks(&mut self, id: ConnectionId, settings: &Arc<session::Settings>, client: &mut Client) -> ConnectionId {
        self.core.on_socket_error(id, self.now);
        client.bytes.clear();
        self.comes_back(settings, client)
    }

    /// A client with these patterns that has caught up.
    fn subscriber(&mut self, settings: &Arc<session::Settings>, patterns: &[&str]) -> (ConnectionId, Client) {
        let mut client = Client::default();
        let id = self.open_socket_io(settings);
        self.say(id, "40");
        self.say(id, &format!(r#"42["subscribe",{}]"#, json!({ "channels": patterns })));
        self.receive(id, &mut client);
        (id, client)
    }
}

#[test]
fn an_event_that_is_published_while_its_client_comes_back_comes_once() {
    let mut rig = Rig::new();
    let settings = settings(Mode::Off);
    let (id, mut client) = rig.subscriber(&settings, &["grid.*"]);
    rig.core.on_socket_error(id, rig.now);
    // It was published after the shard has read the head, and is read from the hub.
    rig.publish("grid.a.order", "0");
    let id = rig.comes_back(&settings, &mut client);
    assert_eq!(client.names.last().map(String::as_str), Some("cursor"));
    let id = rig.breaks(id, &settings, &mut client);
    assert_eq!(client.numbers["grid.a.order"], [0]);
    // The offsets of live events cover it, too.
    rig.publish("grid.b.order", "0");
    let id = rig.breaks(id, &settings, &mut client);
    rig.event("grid.c.order", "0");
    rig.flush(id, &mut client);
    rig.breaks(id, &settings, &mut client);
    for channel in ["grid.a.order", "grid.b.order", "grid.c.order"] {
        assert_eq!(client.numbers[channel], [0], "{channel}");
    }
    assert!(!client.went_back);
    assert_eq!(client.recovered, [false, true, true, true, true]);
}

#[test]
fn an_event_that_was_read_before_the_inbox_came_to_it_is_covered_when_the_inbox_has() {
    let mut rig = Rig::new();
    let settings = settings(Mode::Off);
    // Another client wants the events, so they come into the inbox.
    let other = rig.connect();
    rig.subscribe(other, "grid.*");
    let (id, mut client) = rig.subscriber(&settings, &["grid.*"]);
    rig.core.on_socket_error(id, rig.now);
    rig.publish("grid.a.order", "0");
    rig.publish("grid.b.order", "0");
    let id = rig.comes_back(&settings, &mut client);
    assert_eq!(client.numbers.len(), 2);
    assert_ne!(
        client.names.last().map(String::as_str),
        Some("cursor"),
        "it is not told yet"
    );
    rig.core.deliver(usize::MAX);
    rig.flush(id, &mut client);
    assert_eq!(client.names.iter().filter(|name| *name == "cursor").count(), 1);
    rig.breaks(id, &settings, &mut client);
    for channel in ["grid.a.order", "grid.b.order"] {
        assert_eq!(client.numbers[channel], [0], "{channel}");
    }
}

#[test]
fn a_live_event_has_an_offset_while_values_are_still_owed() {
    let mut rig = Rig::new();
    let settings = settings(Mode::Off);
    rig.event("market.x.price", "0");
    let (id, mut client) = rig.subscriber(&settings, &["grid.*", "market.*"]);
    rig.core.on_socket_error(id, rig.now);
    let id = rig.open_socket_io(&settings);
    let connect = client.connect_packet();
    rig.say(id, &connect);
    // It is queued before the value is read.
    rig.event("grid.a.order", "0");
    while rig.write_some(id, usize::MAX, &mut client.bytes) == Some(Sent::More) {}
    // The connection breaks in the middle of the message behind it.
    let text = String::from_utf8_lossy(&client.bytes);
    let end = text.find("42[\"cursor\"").expect("it has caught up");
    client.bytes.truncate(end);
    client.take();
    assert_eq!(client.numbers["grid.a.order"], [0]);
    rig.breaks(id, &settings, &mut client);
    assert_eq!(client.numbers["grid.a.order"], [0]);
}

#[test]
fn the_answer_to_a_subscribe_does_not_claim_less_than_the_event_before_it() {
    let mut rig = Rig::new();
    let settings = settings(Mode::Off);
    let (id, mut client) = rig.subscriber(&settings, &["grid.*"]);
    rig.event("grid.a.order", "0");
    rig.say(id, r#"42["subscribe",{"channels":["market.*"]}]"#);
    rig.core.deliver(usize::MAX);
    rig.flush(id, &mut client);
    assert_eq!(client.names.last().map(String::as_str), Some("subscribed"));
    rig.breaks(id, &settings, &mut client);
    assert_eq!(client.numbers["grid.a.order"], [0]);
    assert!(!client.went_back);
}

#[test]
fn events_that_are_read_later_do_not_send_their_client_back_to_the_beginning() {
    let mut rig = Rig::new();
    let limits = Limits {
        bytes_per_second: 10_000,
        ..Limits::default()
    };
    let settings = Arc::new(session::Settings {
        limits,
        ..(*settings(Mode::Off)).clone()
    });
    let (id, mut client) = rig.subscriber(&settings, &["grid.*"]);
    for number in 0..60u64 {
        rig.event("grid.a.order", &number.to_string());
        // Long, so that the limit is used up.
        rig.event("grid.a.order", &format!("\"{}\"", "x".repeat(2_000)));
    }
    let count = |client: &Client| client.numbers.get("grid.a.order").map_or(0, Vec::len);
    while count(&client) < 20 {
        rig.receive(id, &mut client);
    }
    assert!(count(&client) < 60, "the rest is read later");
    assert!(!client.went_back);
    rig.core.on_socket_error(id, rig.now);
    client.bytes.clear();
    client.note_uncovered();
    let id = rig.comes_back(&settings, &mut client);
    for _ in 0..400 {
        rig.receive(id, &mut client);
    }
    assert_eq!(client.recovered, [false, true]);
    assert!(client.numbers["grid.a.order"].iter().copied().eq(0..60));
    assert!(client.doubles <= 2, "{} events", client.doubles);
}
