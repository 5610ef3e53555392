//! One simulated client: what it sends, how fast it reads, and which close codes its behaviour explains.

use std::collections::VecDeque;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tickgate::shard::mailbox::ConnectionId;
use tickgate_protocol::channel::Pattern;

use crate::model::{Ask, Log, Model};
use crate::surroundings::Fault;
use crate::wire::{self, Reader, Received};

/// The channels that events are published to.
pub(crate) const CHANNELS: [&str; 9] = [
    "market.a.price",
    "market.b.price",
    "market.b.trade",
    "grid.g1.order",
    "grid.g2.order",
    "user.u0.pnl",
    "user.u1.pnl",
    "system.gateway.n1",
    "single",
];

const PATTERNS: [&str; 10] = [
    "*",
    "market.*",
    "grid.*",
    "market.*.price",
    "*.*.order",
    "grid.g1.*",
    "user.*",
    "user.u0.*",
    "system.*",
    "*.*",
];

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Stays within all limits. May stall and read partially.
    Calm,
    /// Sends much, on an endpoint with tight limits.
    Flooder,
    /// Sends one malformed or forbidden message.
    Nonsense,
    /// Sends nothing.
    Silent,
}

struct Unsent {
    end: u64,
    id: String,
    ask: Ask,
}

pub(crate) struct Client {
    pub(crate) id: ConnectionId,
    pub(crate) kind: Kind,
    pub(crate) model: Model,
    /// Bytes that the socket accepts now.
    pub(crate) writable_bytes: usize,
    /// The number of further steps in which it does not read.
    pub(crate) stalled_steps: u32,
    pub(crate) connected_ms: u64,
    pub(crate) last_input_ms: u64,
    pub(crate) has_authenticated: bool,
    /// Close codes that are explained by what happened.
    pub(crate) explained: Vec<u16>,
    /// The log position up to which the shard had taken all events while the session was open.
    pub(crate) alive_popped: usize,
    pub(crate) is_closing: bool,
    pub(crate) eof: bool,
    /// Does not close its side after the server's.
    pub(crate) is_stubborn: bool,
    pub(crate) sent_close: bool,
    out: VecDeque<u8>,
    unsent: VecDeque<Unsent>,
    // Ends of frames in the bytes written. A complete frame counts as input for the heartbeat.
    frame_ends: VecDeque<u64>,
    written: u64,
    fed: u64,
    requests: u32,
    reader: Reader,
    // For faults: an event that is held back to be swapped with the next.
    held_back: Option<Value>,
}

impl Client {
    pub(crate) fn new(id: ConnectionId, kind: Kind, now_ms: u64, rng: &mut StdRng) -> Self {
        Self {
            id,
            kind,
            model: Model::new(kind == Kind::Calm),
            writable_bytes: usize::MAX,
            stalled_steps: 0,
            connected_ms: now_ms,
            last_input_ms: now_ms,
            has_authenticated: false,
            explained: Vec::new(),
            alive_popped: 0,
            is_closing: false,
            eof: false,
            is_stubborn: rng.random_bool(0.1),
            sent_close: false,
            out: VecDeque::new(),
            unsent: VecDeque::new(),
            frame_ends: VecDeque::new(),
            written: 0,
            fed: 0,
            requests: 0,
            reader: Reader::default(),
            held_back: None,
        }
    }

    fn frame(&mut self, first: u8, payload: &[u8], rng: &mut StdRng) {
        let bytes = wire::frame(first, payload, rng.random());
        self.written += bytes.len() as u64;
        self.frame_ends.push_back(self.written);
        self.out.extend(bytes);
    }

    /// The number of unanswered requests. A calm client keeps it small.
    pub(crate) fn outstanding(&self) -> usize {
        self.unsent.len() + self.model.unanswered().len()
    }

    fn request(&mut self, ask: Ask, mut message: Value, rng: &mut StdRng) {
        self.requests += 1;
        let id = format!("r{}", self.requests);
        message["id"] = id.as_str().into();
        self.frame(wire::TEXT, message.to_string().as_bytes(), rng);
        let end = self.written;
        self.unsent.push_back(Unsent { end, id, ask });
    }

    pub(crate) fn send_auth(&mut self, token: &str, rng: &mut StdRng) {
        let admin = token.contains("admin");
        self.request(Ask::Auth { admin }, json!({"type": "auth", "token": token}), rng);
    }

    /// Sends a random request.
    pub(crate) fn send_something(&mut self, fault: Fault, rng: &mut StdRng) {
        match rng.random_range(0..10) {
            0..=3 => {
                let patterns = some_patterns(rng);
                let names: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
                let message = json!({"type": "subscribe", "channels": names});
                self.request(Ask::Subscribe(patterns), message, rng);
            }
            4..=5 => {
                let patterns = some_patterns(rng);
                let names: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
                let forged = if fault == Fault::KeepsSubscription {
                    "subscribe"
                } else {
                    "unsubscribe"
                };
                let message = json!({"type": forged, "channels": names});
                self.request(Ask::Unsubscribe(patterns), message, rng);
            }
            6 | 7 => {
                let channel = CHANNELS.choose(rng).copied().unwrap_or_default();
                let data = json!({"id": format!("{:?}-{}", self.id, self.requests), "pad": padding(rng)});
                let message = json!({"type": "publish", "channel": channel, "event": "e", "data": data});
                self.request(Ask::Other("published"), message, rng);
            }
            8 => {
                let message = match rng.random_range(0..4) {
                    0 => json!({"type": "command", "action": "grid.start", "params": {}, "key": "k"}),
                    1 => json!({"type": "command_status", "key": "k"}),
                    _ => json!({"type": "command", "action": "grid.start", "params": {}}),
                };
                self.request(Ask::Other("response"), message, rng);
            }
            _ if rng.random_bool(0.5) => self.request(Ask::Other("status"), json!({"type": "get_status"}), rng),
            _ => self.request(Ask::Other("pong"), json!({"type": "ping"}), rng),
        }
    }

    pub(crate) fn send_pong(&mut self, rng: &mut StdRng) {
        self.frame(wire::TEXT, br#"{"type":"pong"}"#, rng);
    }

    pub(crate) fn send_close(&mut self, rng: &mut StdRng) {
        self.frame(wire::CLOSE, &1000u16.to_be_bytes(), rng);
        self.sent_close = true;
        self.explained.push(1000);
    }

    /// Sends bytes that must end the connection.
    pub(crate) fn send_nonsense(&mut self, rng: &mut StdRng) {
        let (code, bytes) = match rng.random_range(0..6) {
            0 => (1002, vec![0x81, 0x02, b'h', b'i']),           // not masked
            1 => (1002, wire::frame(0xc1, b"{}", rng.random())), // a reserved bit
            2 => (1007, wire::frame(wire::TEXT, &[0xff, 0xfe], rng.random())),
            3 => (1003, wire::frame(0x82, b"{}", rng.random())),
            4 => (1009, wire::frame(wire::TEXT, &[b' '; 3000], rng.random())),
            _ => (1002, wire::frame(0x80, b"{}", rng.random())), // a continuation without a beginning
        };
        self.explained.push(code);
        self.written += bytes.len() as u64;
        self.out.extend(bytes);
    }

    /// The next bytes for the gateway, split anywhere.
    pub(crate) fn take_bytes(&mut self, log: usize, popped: usize, now_ms: u64, rng: &mut StdRng) -> Vec<u8> {
        let length = if rng.random_bool(0.5) {
            self.out.len()
        } else {
            rng.random_range(0..=self.out.len())
        };
        self.fed += length as u64;
        while self.unsent.front().is_some_and(|unsent| unsent.end <= self.fed)
            && let Some(unsent) = self.unsent.pop_front()
        {
            self.model.fed(&unsent.id, unsent.ask, log, popped);
        }
        while self.frame_ends.front().is_some_and(|end| *end <= self.fed) {
            self.frame_ends.pop_front();
            self.last_input_ms = now_ms;
        }
        self.out.drain(..length).collect()
    }

    pub(crate) fn has_bytes(&self) -> bool {
        !self.out.is_empty()
    }

    /// Discards unsent bytes, because the connection accepts no more input.
    pub(crate) fn forget_bytes(&mut self) {
        self.out.clear();
        self.unsent.clear();
    }

    /// Takes bytes from the server. The model checks each complete frame, after a planted fault may have changed it.
    pub(crate) fn receive(&mut self, bytes: &[u8], log: &Log, fault: Fault, rng: &mut StdRng) -> Result<(), String> {
        self.reader.push(bytes);
        while let Some(frame) = self.reader.next()? {
            for frame in self.inject_fault(frame, log, fault, rng) {
                if let Received::Text(message) = &frame
                    && message["type"] == "auth_result"
                    && message["success"] == true
                {
                    self.has_authenticated = true;
                }
                self.model.frame(&frame, log)?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_mid_frame(&self) -> bool {
        self.reader.is_mid_frame()
    }

    fn inject_fault(&mut self, frame: Received, log: &Log, fault: Fault, rng: &mut StdRng) -> Vec<Received> {
        let Received::Text(mut message) = frame else {
            return vec![frame];
        };
        let is_event = message["type"] == "event";
        match fault {
            Fault::LosesEvent if is_event && rng.random_bool(0.02) => Vec::new(),
            Fault::DoublesEvent if is_event && rng.random_bool(0.02) => {
                vec![Received::Text(message.clone()), Received::Text(message)]
            }
            Fault::SwapsEvents if is_event && self.held_back.is_none() && rng.random_bool(0.05) => {
                self.held_back = Some(message);
                Vec::new()
            }
            Fault::SwapsEvents if self.held_back.is_some() => {
                let held_back = self.held_back.take().map(Received::Text);
                [Some(Received::Text(message)), held_back]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Fault::HidesDrops if message["type"] == "dropped" => Vec::new(),
            Fault::KeepsSubscription if message["type"] == "subscribed" && self.is_unsubscribe(&message) => {
                message["type"] = "unsubscribed".into();
                // The count of a table that had really removed the patterns.
                message["data"]["active_subscriptions"] = self.model.held_without(&message).into();
                vec![Received::Text(message)]
            }
            Fault::EventFromBefore if message["type"] == "subscribed" => {
                let old = self.model.event_before(&message, log);
                let old = old.map(Received::Text);
                [Some(Received::Text(message)), old].into_iter().flatten().collect()
            }
            _ => vec![Received::Text(message)],
        }
    }

    fn is_unsubscribe(&self, message: &Value) -> bool {
        message["id"].as_str().is_some_and(|id| self.model.is_unsubscribe(id))
    }
}

pub(crate) fn padding(rng: &mut StdRng) -> String {
    "x".repeat(if rng.random_bool(0.1) {
        rng.random_range(0..900)
    } else {
        rng.random_range(0..40)
    })
}

fn some_patterns(rng: &mut StdRng) -> Vec<Pattern> {
    let count = rng.random_range(1..=3);
    let all: Vec<&str> = PATTERNS.iter().chain(&CHANNELS).copied().collect();
    let chosen = (0..count).filter_map(|_| all.choose(rng));
    chosen.map(|text| Pattern::parse(text).expect("valid")).collect()
}
