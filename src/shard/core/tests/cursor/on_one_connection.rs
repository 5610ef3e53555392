//! A client that leaves a pattern and comes back to it with a cursor, while its connection goes on.
//!
//! What was queued for it before cannot be taken back: events of the pattern, and messages with cursors that cover them. So the
//! protocol has two rules for such a client: a cursor that comes while a `subscribe` or `unsubscribe` waits for its answer
//! says nothing, and the cursor that it sends is its own from then on. A client that keeps them misses nothing, whenever its
//! connection breaks.

use std::ops::Range;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const KEPT: &str = "grid.b.*";
const LEFT: &str = "grid.a.*";
const CHANNELS: [&str; 4] = ["grid.a.order", "grid.a.lifecycle", "grid.b.order", "grid.b.risk"];

const HISTORY: &str = r#"{"type":"history","channel":"grid.a.order","limit":1,"id":1}"#;

#[test]
fn what_was_queued_before_a_return_on_the_same_connection_comes_once_and_after_the_answer() {
    let mut rig = Rig::new();
    let (id, cursor) = rig.subscribed(&["grid.*"]);
    rig.stall(id);
    rig.event("grid.a.order", "1");
    rig.next_turn();
    rig.say(id, HISTORY);
    rig.say(id, r#"{"type":"unsubscribe","channels":["grid.*"]}"#);
    rig.event("grid.a.order", "2");
    resume(&mut rig, id, &["grid.*"], &cursor);
    rig.core.writable(id);
    let got = rig.read(id);
    assert_eq!(kinds(&got[..3]), ["history", "unsubscribed", "subscribed"]);
    assert_eq!(told(&got[3..]), [json!(1), json!(2), json!("cursor")]);
    // Event 1 was queued before the first of these. Now it comes later, so a client must not keep this cursor.
    let queued_before = last_cursor(&got[..1]).expect("a cursor");
    assert_eq!(version(&queued_before), 1);
    let answer = &got[2];
    assert_eq!(answer.text()["data"]["recovered"], true);
    assert_eq!(last_cursor(std::slice::from_ref(answer)), Some(cursor));
}

/// Whether a client keeps the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Rules,
    /// It takes every cursor that comes.
    EveryCursor,
}

/// A client that holds one pattern for ever, and another one now and then.
struct Client {
    keeps: Keeps,
    id: ConnectionId,
    bytes: Vec<u8>,
    cursor: Option<String>,
    /// The cursor for the pattern that was left; `None`: it is held, or asked for.
    cursor_of_left: Option<String>,
    unanswered: usize,
    newest: BTreeMap<String, u64>,
    got: BTreeMap<String, Vec<u64>>,
}

impl Client {
    fn connect(rig: &mut Rig) -> ConnectionId {
        let limits = Limits {
            messages_per_second: 100_000,
            ..Limits::default()
        };
        rig.connect_with(session_settings(Mode::Off, limits), Ok(None), true)
    }

    fn new(keeps: Keeps, rig: &mut Rig) -> Self {
        let id = Self::connect(rig);
        let mut client = Self {
            keeps,
            id,
            bytes: Vec::new(),
            cursor: None,
            cursor_of_left: None,
            unanswered: 0,
            newest: BTreeMap::new(),
            got: BTreeMap::new(),
        };
        client.subscribe(rig);
        client
    }

    fn say(&mut self, rig: &mut Rig, message: &Value) {
        self.unanswered += 1;
        rig.say(self.id, &message.to_string());
    }

    /// Subscribes to what it holds, as the first message of a connection.
    fn subscribe(&mut self, rig: &mut Rig) {
        let mut message = json!({"type": "subscribe", "channels": [KEPT]});
        if self.cursor_of_left.is_none() {
            message["channels"] = json!([KEPT, LEFT]);
        }
        if let Some(cursor) = &self.cursor {
            message["cursor"] = cursor.as_str().into();
        }
        self.say(rig, &message);
    }

    /// Leaves the pattern, or comes back to it.
    fn change(&mut self, rig: &mut Rig) {
        match self.cursor_of_left.take() {
            None if self.cursor.is_none() => {}
            None => {
                self.cursor_of_left.clone_from(&self.cursor);
                self.say(rig, &json!({"type": "unsubscribe", "channels": [LEFT]}));
            }
            Some(cursor) => {
                self.say(rig, &json!({"type": "subscribe", "channels": [LEFT], "cursor": cursor}));
                self.cursor = Some(cursor);
            }
        }
    }

    /// The connection breaks, and the client returns.
    fn break_off(&mut self, rig: &mut Rig) {
        self.take();
        self.bytes.clear();
        rig.core.on_socket_error(self.id, rig.now);
        self.unanswered = 0;
        self.id = Self::connect(rig);
        self.subscribe(rig);
    }

    fn take(&mut self) {
        let end = whole(&self.bytes).len();
        let bytes: Vec<u8> = self.bytes.drain(..end).collect();
        for frame in received(&bytes) {
            let Received::Text(message) = frame else { continue };
            if matches!(message["type"].as_str(), Some("subscribed" | "unsubscribed")) {
                self.unanswered -= 1;
                let recovered = &message["data"]["recovered"];
                assert!(recovered.is_null() || *recovered == true, "{message}");
            }
            if let Some(cursor) = message["cursor"].as_str()
                && (self.unanswered == 0 || self.keeps == Keeps::EveryCursor)
            {
                self.cursor = Some(cursor.to_owned());
            }
            if message["type"] == "event" {
                let channel = message["channel"].as_str().expect("a name");
                let offset = message["offset"].as_u64().expect("an offset");
                let newest = self.newest.entry(channel.to_owned()).or_default();
                if offset > *newest {
                    *newest = offset;
                    let number = message["data"].as_u64().expect("a number");
                    self.got.entry(channel.to_owned()).or_default().push(number);
                }
            }
        }
    }

    /// Reads everything.
    fn read_all(&mut self, rig: &mut Rig) {
        rig.core.writable(self.id);
        for _ in 0..200 {
            rig.next_turn();
            rig.core.postpone(self.id);
            while rig.core.next_dirty().is_some() {
                while rig.write_some(self.id, usize::MAX, &mut self.bytes) == Some(Sent::More) {}
            }
        }
        self.take();
    }
}

/// Runs one seed. `Err`: an event is missing, or came out of order.
fn run(seed: u64, keeps: Keeps) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    // Requests may take several turns.
    let mut rig = Rig::with(Settings {
        subscribe_steps: if random.random() {
            2
        } else {
            shard_settings().subscribe_steps
        },
        ..shard_settings()
    });
    rig.next_turn();
    let mut client = Client::new(keeps, &mut rig);
    client.read_all(&mut rig);
    let mut counts = [0u64; CHANNELS.len()];
    for _ in 0..120 {
        match random.random_range(0..12) {
            0..=4 => {
                let channel = random.random_range(0..CHANNELS.len());
                rig.publish(CHANNELS[channel], &counts[channel].to_string());
                counts[channel] += 1;
            }
            5..=6 => rig.next_turn(),
            // An answer with a cursor.
            7 => rig.say(client.id, HISTORY),
            8..=9 => {
                rig.write_some(client.id, random.random_range(0..600), &mut client.bytes);
                client.take();
            }
            10 => client.change(&mut rig),
            _ if random.random_bool(0.3) => client.break_off(&mut rig),
            _ => client.read_all(&mut rig),
        }
    }
    if client.cursor_of_left.is_some() {
        client.change(&mut rig);
    }
    client.read_all(&mut rig);
    for (channel, count) in CHANNELS.iter().zip(counts) {
        let got = client.got.remove(*channel).unwrap_or_default();
        if !got.iter().copied().eq(0..count) {
            return Err(format!("TICKGATE_SEED={seed}: {channel} has {got:?}, not 0 to {count}"));
        }
    }
    Ok(())
}

fn seeds(count: u64) -> Range<u64> {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match variable("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TICKGATE_SEEDS").unwrap_or(count),
    }
}

#[test]
fn who_leaves_a_pattern_and_comes_back_to_it_has_every_event_whenever_the_connection_breaks() {
    for seed in seeds(60) {
        run(seed, Keeps::Rules).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[test]
fn a_client_that_takes_cursors_before_its_answer_loses_events() {
    assert!(
        (0..60).any(|seed| run(seed, Keeps::EveryCursor).is_err()),
        "no seed finds it"
    );
}
