//! The core, driven by hand, on virtual time.

mod bandwidth;
mod broker;
mod catch_up;
mod challenge;
mod closing;
mod compression;
mod cursor;
mod delivery;
mod evicted;
mod freshness;
mod history;
mod input;
mod journal;
mod marks;
mod operator;
mod overflow;
mod pauses;
mod polling;
mod rates;
mod returning;
mod runs;
mod shares;
mod shedding;
mod subscribe;
mod support;
mod troubles;

use std::io::IoSlice;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::auth::{Identity, Mode, Permissions};
use crate::broker::{Origin, Outcomes, Readiness, Submitted};
use crate::event::{NewEvent, PublishOptions};
use crate::hub::{self, Hub, Receipt, Wakes};
use crate::memory::Budget;
use crate::session::Command;
use crate::session::limits::Limits;
use crate::shard::mailbox::ShardMessage;
use crate::suspended::{Claim, Record};
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::dialect::{self, Dialect};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::CommandKey;

const START: Now = Now {
    mono_ms: 1_000_000,
    unix_ms: 1_703_836_800_000,
};

/// A broker that can be told to refuse publishes, as if there were no credit; what becomes of the next one; how current its
/// hub is; and to keep sessions, whose claims the test answers.
struct Direct {
    hub: Arc<Hub>,
    refuses: AtomicBool,
    outcome: Mutex<Option<Submitted>>,
    is_current_to: Mutex<Option<u64>>,
    kept: Mutex<Option<Vec<Record>>>,
    claims: Mutex<Vec<(Origin, Claim)>>,
}

impl Broker for Direct {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(async move { events.into_iter().map(|_| Ok(Receipt::default())).collect() })
    }
    fn try_publish(&self, from: Origin, event: NewEvent, now: Now) -> Submitted {
        if let Some(outcome) = self.outcome.lock().expect("not poisoned").take() {
            return outcome;
        }
        let credit = self.hub.try_credit(
            from.connection.shard,
            tickgate_protocol::channel::Tenant::DEFAULT,
            event.data.len(),
        );
        match credit.filter(|_| !self.refuses.load(Ordering::Relaxed)) {
            Some(credit) => Submitted::Done(self.hub.publish(event, now, credit, &mut Wakes::default())),
            None => Submitted::NoRoom(event),
        }
    }
    fn prepare(&self, version: u64) -> Readiness {
        match *self.is_current_to.lock().expect("not poisoned") {
            None => Readiness::Unavailable,
            Some(current) if current < version => Readiness::Behind,
            Some(_) => Readiness::Ready,
        }
    }
    fn keep_session(&self, session: Record) -> Result<(), Record> {
        match &mut *self.kept.lock().expect("not poisoned") {
            Some(kept) => kept.push(session),
            None => return Err(session),
        }
        Ok(())
    }
    fn take_session(&self, from: Origin, claim: Claim) -> bool {
        self.claims.lock().expect("not poisoned").push((from, claim));
        self.kept.lock().expect("not poisoned").is_some()
    }
}

#[derive(Default)]
struct Asked {
    verify: Mutex<Vec<(ConnectionId, u32, Box<str>)>>,
    command: Mutex<Vec<(ConnectionId, String, u32, Command)>>,
    status: Mutex<Vec<(ConnectionId, u32, CommandKey)>>,
    forbidden: Mutex<Vec<(String, Command)>>,
    budget: Option<Arc<Budget>>,
    revocations: crate::auth::Revocations,
}

impl Services for Asked {
    fn verify(&self, from: ConnectionId, request: u32, _: tickgate_protocol::channel::Tenant, token: Box<str>) {
        self.verify.lock().expect("not poisoned").push((from, request, token));
    }
    fn command(&self, from: ConnectionId, client_id: &str, _: Option<IpAddr>, request: u32, command: Command) {
        let asked = (from, client_id.to_owned(), request, command);
        self.command.lock().expect("not poisoned").push(asked);
    }
    fn command_status(&self, from: ConnectionId, request: u32, _: &Identity, key: &CommandKey) {
        self.status
            .lock()
            .expect("not poisoned")
            .push((from, request, key.clone()));
    }
    fn forbidden(&self, client_id: &str, _: Option<IpAddr>, command: Command) {
        let told = (client_id.to_owned(), command);
        self.forbidden.lock().expect("not poisoned").push(told);
    }
    fn is_revoked(&self, identity: &Identity) -> bool {
        self.revocations.has(identity)
    }
    fn budget(&self) -> Arc<Budget> {
        self.budget.clone().unwrap_or_else(|| Arc::new(Budget::unlimited()))
    }
}

#[derive(Debug)]
struct Permit {
    held: Arc<AtomicUsize>,
    admits: bool,
}

impl ConnectionPermit for Permit {
    fn authenticated(&mut self, _: &str) -> bool {
        self.admits
    }

    fn challenged(&mut self, _: bool) -> bool {
        self.admits
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One frame that a client received.
#[derive(Clone, Debug, PartialEq)]
enum Received {
    Text(serde_json::Value),
    Close(u16),
    Ping,
    Pong,
}

impl Received {
    fn kind(&self) -> &str {
        match self {
            Self::Text(value) => value["type"].as_str().unwrap_or("?"),
            Self::Close(_) => "close",
            Self::Ping => "ping frame",
            Self::Pong => "pong frame",
        }
    }
    fn text(&self) -> &serde_json::Value {
        match self {
            Self::Text(value) => value,
            other => panic!("not a text message: {other:?}"),
        }
    }
}

struct Rig {
    core: ShardCore,
    hub: Arc<Hub>,
    broker: Arc<Direct>,
    asked: Arc<Asked>,
    metrics: Arc<ShardMetrics>,
    permits: Arc<AtomicUsize>,
    now: Now,
    nonce: u64,
}

fn identity(user: Option<&str>) -> Arc<Identity> {
    let everything = vec![Pattern::parse("*").expect("valid")];
    let permissions = Permissions {
        admin: true,
        gateway: false,
        channels: everything.clone(),
        commands: everything.clone(),
        publish: everything,
        max_rate: None,
        bytes_per_second: None,
    };
    identity_with(user, permissions)
}

fn identity_with(user: Option<&str>, permissions: Permissions) -> Arc<Identity> {
    Arc::new(Identity {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: user.map(Into::into),
        role: None,
        permissions: Arc::new(permissions),
        expires_at_ms: None,
        exp_ms: None,
        token_id: None,
        issued_at_ms: None,
    })
}

fn session_settings(auth_mode: Mode, limits: Limits) -> Arc<session::Settings> {
    Arc::new(session::Settings {
        dialect: Dialect::Native,
        limits,
        auth_mode,
        anonymous: identity(None),
        auto_subscribe: Box::default(),
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        tenant_name: None,
        auth_timeout_ms: 5_000,
        expiry_warning_ms: 30_000,
        heartbeat_interval_ms: 30_000,
        refused_values: std::sync::Arc::default(),
        classes: std::sync::Arc::default(),
        heartbeat_timeout_ms: 60_000,
    })
}

impl Rig {
    fn new() -> Self {
        Self::with(shard_settings())
    }

    fn with(settings: Settings) -> Self {
        let hub_settings = hub::Settings {
            credits: 16_384,
            ..hub::Settings::default()
        };
        Self::of(settings, hub_settings)
    }

    fn of(settings: Settings, hub_settings: hub::Settings) -> Self {
        Self::asking(Asked::default(), settings, hub_settings)
    }

    /// A shard with these services.
    fn asking(asked: Asked, settings: Settings, hub_settings: hub::Settings) -> Self {
        let (hub, mut inboxes) = Hub::new(hub_settings, 1, dialect::encode_event);
        let broker = Arc::new(Direct {
            hub: hub.clone(),
            refuses: AtomicBool::new(false),
            outcome: Mutex::default(),
            is_current_to: Mutex::new(Some(u64::MAX)),
            kept: Mutex::default(),
            claims: Mutex::default(),
        });
        let (asked, metrics) = (Arc::new(asked), Arc::new(ShardMetrics::default()));
        let inbox = inboxes.remove(0);
        let core = ShardCore::new(settings, inbox, asked.clone(), broker.clone(), metrics.clone(), START);
        Self {
            core,
            hub,
            broker,
            asked,
            metrics,
            permits: Arc::default(),
            now: START,
            nonce: 0,
        }
    }

    /// Connects an anonymous client that may do everything.
    fn connect(&mut self) -> ConnectionId {
        self.connect_with(session_settings(Mode::Off, Limits::default()), Ok(None), true)
    }

    fn connect_with(
        &mut self,
        settings: Arc<session::Settings>,
        identity: Result<Option<Arc<Identity>>, TokenError>,
        admits: bool,
    ) -> ConnectionId {
        self.arrive(settings, identity, admits, None)
    }

    fn arrive(
        &mut self,
        settings: Arc<session::Settings>,
        identity: Result<Option<Arc<Identity>>, TokenError>,
        admits: bool,
        deflate: Option<Deflate>,
    ) -> ConnectionId {
        self.permits.fetch_add(1, Ordering::Relaxed);
        self.nonce += 1;
        let held = self.permits.clone();
        let arrival = Arrival {
            settings,
            engine_io: None,
            identity,
            address: None,
            nonce: self.nonce,
            deflate,
            permit: Box::new(Permit { held, admits }),
        };
        self.core.adopt(arrival, self.now)
    }

    fn say(&mut self, id: ConnectionId, message: &str) {
        self.core.on_bytes(id, &mut frame(0x81, message.as_bytes()), self.now);
    }

    fn publish(&self, channel: &str, data: &str) {
        let event = NewEvent {
            channel: Channel::parse(channel).expect("valid"),
            name: "update".into(),
            data: data.to_owned().into(),
            timestamp_ms: START.unix_ms,
            options: PublishOptions::default(),
        };
        let credit = self
            .hub
            .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, event.data.len())
            .expect("room");
        self.hub.publish(event, self.now, credit, &mut Wakes::default());
    }

    /// Publishes an event and delivers it.
    fn event(&mut self, channel: &str, data: &str) {
        self.publish(channel, data);
        self.core.deliver(usize::MAX);
    }

    /// Writes to every dirty connection; returns what this client received.
    fn read(&mut self, id: ConnectionId) -> Vec<Received> {
        let mut bytes = Vec::new();
        let mut others = Vec::new();
        loop {
            while let Some(dirty) = self.core.next_dirty() {
                if dirty != id {
                    others.push(dirty);
                    continue;
                }
                while self.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) {}
            }
            if !self.core.has_turn_to_begin() {
                break;
            }
            self.core.begin_turn(self.now);
        }
        for other in others {
            self.core.postpone(other);
        }
        received(&bytes)
    }

    /// Writes at most `most` bytes to a client's socket.
    fn write_some(&mut self, id: ConnectionId, most: usize, bytes: &mut Vec<u8>) -> Option<Sent> {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = self.core.pending(id, self.now, &mut slices);
        let before = bytes.len();
        for slice in &slices[..filled] {
            let room = most - (bytes.len() - before);
            bytes.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let written = bytes.len() - before;
        (filled > 0).then(|| self.core.sent(id, written, self.now))
    }

    /// Blocks this client's socket.
    fn stall(&mut self, id: ConnectionId) {
        assert_eq!(self.read(id), []);
        self.core.blocked(id, self.now);
    }

    /// Lets time pass, and runs the timers that expire meanwhile.
    fn pass(&mut self, ms: u64) {
        let end = self.now.after_ms(ms);
        while let Some(next) = self.core.next_timer_ms().filter(|&next| next <= end.mono_ms) {
            self.now = self.now.after_ms(next.saturating_sub(self.now.mono_ms));
            while self.core.run_timers(512, self.now) {}
        }
        self.now = end;
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.core.next_action()).collect()
    }

    fn message(&mut self, message: ShardMessage) {
        let adoption = self.core.on_message(message, self.now);
        assert!(adoption.is_none());
    }

    fn subscribe(&mut self, id: ConnectionId, pattern: &str) {
        self.say(id, &format!(r#"{{"type":"subscribe","channels":["{pattern}"]}}"#));
    }
}

/// The default settings, with which every subscribe request is done within one turn.
const fn shard_settings() -> Settings {
    Settings {
        subscribe_steps: 64 * 1024,
        ..Settings::new(0)
    }
}

/// A client's masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..126 => bytes.push(0x80 | u8::try_from(length).expect("short")),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).expect("below 64 KiB").to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The frames in the bytes that a client received. All of them must be whole.
fn received(mut bytes: &[u8]) -> Vec<Received> {
    let mut frames = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match *length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => {
                let (length, rest) = rest.split_first_chunk().expect("a length");
                (usize::try_from(u64::from_be_bytes(*length)).expect("small"), rest)
            }
            short => (usize::from(short), rest),
        };
        let (payload, rest) = rest.split_at(length);
        frames.push(match first {
            0x81 => Received::Text(serde_json::from_slice(payload).expect("JSON")),
            0x88 => Received::Close(u16::from_be_bytes([payload[0], payload[1]])),
            0x89 => Received::Ping,
            0x8a => Received::Pong,
            other => panic!("unexpected frame {other:#x}"),
        });
        bytes = rest;
    }
    assert!(bytes.is_empty(), "a frame is cut");
    frames
}

/// The frames without the heartbeat, whose phase is random.
fn quiet(frames: Vec<Received>) -> Vec<Received> {
    let is_ping = |frame: &Received| frame.kind().starts_with("ping");
    frames.into_iter().filter(|frame| !is_ping(frame)).collect()
}

fn kinds(frames: &[Received]) -> Vec<&str> {
    frames.iter().map(Received::kind).collect()
}
