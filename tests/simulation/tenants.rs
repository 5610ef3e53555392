//! Tenants that use the same channels, patterns and users: nothing of one reaches another.
//!
//! Three tenants share a shard and its hub. Their clients subscribe with wide patterns, come back with positions, sometimes
//! with those of another tenant, publish, read histories, ask for their status, stall and leave; backends publish and delete
//! channels. Every event says of which tenant it is. At the end, a client has the newest values of its own tenant.
//!
//! `TICKGATE_SEEDS` and `TICKGATE_SEED` work as in `main.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tickgate::auth::{Identity, Mode, Permissions};
use tickgate::broker::Embedded;
use tickgate::event::{Deletion, NewEvent, PublishOptions};
use tickgate::hub::{self, Hub, Wakes};
use tickgate::metrics::ShardMetrics;
use tickgate::session;
use tickgate::shard::Settings;
use tickgate::shard::core::{Arrival, ShardCore};
use tickgate::shard::mailbox::ConnectionId;
use tickgate::time::{Clock, Now};
use tickgate_protocol::channel::{Channel, Class, Classes, History, Overflow, Pattern, Tenant};
use tickgate_protocol::dialect;

use crate::surroundings::{CALM, FakeServices, Permit, endpoint};
use crate::wire::{self, Reader, Received};

const TENANTS: usize = 3;
const CHANNELS: [&str; 6] = ["price.a", "price.b", "board.a", "order.a", "user.7.balance", "log.a"];
const PATTERNS: [&str; 8] = [
    "*", "price.*", "*.a", "board.a", "order.*", "user.7.*", "user.*", "log.a",
];

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A client gets an event of another tenant.
    MixesEvents,
    /// An event is published to another tenant.
    MixesChannels,
    /// A channel is deleted for all tenants.
    SharesState,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Summary {
    events: u64,
    of_histories: u64,
    by_clients: u64,
    deleted: u64,
    with_foreign_positions: u64,
}

struct Client {
    tenant: usize,
    id: Option<ConnectionId>,
    reader: Reader,
    is_stalled: bool,
    wanted: BTreeSet<&'static str>,
    asked: BTreeSet<&'static str>,
    // Patterns whose subscription is confirmed.
    held: BTreeSet<String>,
    // The newest number of each channel; 0: it was deleted.
    newest: BTreeMap<String, u64>,
    positions: BTreeMap<String, Value>,
    was_told_of_losses: bool,
    // It has asked for recovery.
    recovers: bool,
}

struct World {
    rng: StdRng,
    fault: Fault,
    now: Now,
    hub: Arc<Hub>,
    core: ShardCore,
    settings: Vec<Arc<session::Settings>>,
    clients: Vec<Client>,
    // The newest number of each channel of each tenant; 0: it was deleted.
    truth: BTreeMap<(usize, &'static str), u64>,
    number: u64,
    summary: Summary,
}

fn tenant(index: usize) -> Tenant {
    Tenant::new(index).expect("few")
}

fn channel(index: usize, name: &str) -> Channel {
    Channel::parse(name).expect("valid").in_tenant(tenant(index))
}

fn keeps_last(name: &str) -> bool {
    name != "log.a"
}

fn classes() -> Classes {
    let last = Class {
        cache_last: true,
        overflow: Overflow::Conflate,
        ..Class::default()
    };
    let records = Class {
        record_key: Some("code".into()),
        ..last.clone()
    };
    let history = Class {
        cache_last: true,
        history: Some(History {
            size: 20,
            ttl_ms: 600_000,
        }),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    let entries = [
        ("price.*", last.clone()),
        ("user.*", last),
        ("board.*", records),
        ("order.*", history),
    ];
    Classes::new(
        entries
            .map(|(text, class)| (Pattern::parse(text).expect("valid"), class))
            .into(),
    )
}

impl World {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Now {
            mono_ms: 1_000,
            unix_ms: 1_703_836_800_000,
        };
        let hub_settings = hub::Settings {
            classes: Arc::new(classes().with_tenants(vec![classes(); TENANTS - 1])),
            tenants: vec![hub::Quota::default(); TENANTS - 1],
            ..hub::Settings::default()
        };
        let (hub, mut inboxes) = Hub::new(hub_settings, 1, dialect::encode_event);
        let core = ShardCore::new(
            Settings::new(0),
            inboxes.pop().expect("one"),
            Arc::<FakeServices>::default(),
            Arc::new(Embedded::new(hub.clone(), Clock::start())),
            Arc::<ShardMetrics>::default(),
            now,
        );
        let settings = |index| {
            Arc::new(session::Settings {
                auth_mode: Mode::Required,
                tenant: tenant(index),
                heartbeat_timeout_ms: u64::MAX / 4,
                classes: Arc::new(classes()),
                ..(*endpoint(CALM)).clone()
            })
        };
        let client = |tenant| Client {
            tenant,
            id: None,
            reader: Reader::default(),
            is_stalled: false,
            wanted: BTreeSet::new(),
            asked: BTreeSet::new(),
            held: BTreeSet::new(),
            newest: BTreeMap::new(),
            positions: BTreeMap::new(),
            was_told_of_losses: false,
            recovers: false,
        };
        Self {
            clients: (0..rng.random_range(4..10)).map(|at| client(at % TENANTS)).collect(),
            settings: (0..TENANTS).map(settings).collect(),
            rng,
            fault,
            now,
            hub,
            core,
            truth: BTreeMap::new(),
            number: 0,
            summary: Summary::default(),
        }
    }

    fn run(mut self) -> Result<Summary, String> {
        for step in 0..self.rng.random_range(80..250) {
            self.step().map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        for client in &mut self.clients {
            client.is_stalled = false;
            if let Some(id) = client.id {
                self.core.writable(id);
            }
        }
        self.drive()?;
        for client in self
            .clients
            .iter()
            .filter(|client| client.id.is_some() && !client.was_told_of_losses)
        {
            let held = |name: &str| client.wanted.iter().any(|text| pattern(text).matches_name(name));
            for name in CHANNELS.into_iter().filter(|name| keeps_last(name) && held(name)) {
                let newest = self.truth.get(&(client.tenant, name)).copied().unwrap_or(0);
                let got = client.newest.get(name).copied().unwrap_or(0);
                // Who was at a history's end already gets nothing.
                let is_known = name == "order.a" && client.recovers && got == 0;
                if got != newest && !is_known {
                    return Err(format!(
                        "a client of tenant {} ends with {got} of {name}, not {newest}",
                        client.tenant
                    ));
                }
            }
        }
        Ok(self.summary)
    }

    fn step(&mut self) -> Result<(), String> {
        let at = self.rng.random_range(0..self.clients.len());
        let of = self.clients[at].tenant;
        let name = *CHANNELS.choose(&mut self.rng).expect("some");
        match self.rng.random_range(0..20) {
            _ if self.clients[at].id.is_none() => self.connect(at),
            0 => self.hang_up(at),
            1..=3 => self.subscribe(at),
            4 => {
                let wanted: Vec<_> = self.clients[at].wanted.iter().copied().collect();
                if let Some(text) = wanted.choose(&mut self.rng) {
                    self.clients[at].wanted.remove(text);
                    self.say(at, &json!({"type": "unsubscribe", "channels": [text]}));
                }
            }
            5 => self.say(at, &json!({"type": "history", "channel": "order.a"})),
            6 => self.say(at, &json!({"type": "get_status"})),
            7 => self.clients[at].is_stalled ^= true,
            8 => self.delete(of, name),
            9..=10 => {
                self.number += 1;
                let data = data(of, name, self.number);
                self.truth.insert((of, name), self.number);
                self.summary.by_clients += 1;
                self.say(
                    at,
                    &json!({"type": "publish", "channel": name, "event": "e", "data": data}),
                );
            }
            _ => self.publish(of, name),
        }
        self.now = self.now.after_ms(self.rng.random_range(0..50));
        if !self.clients[at].is_stalled
            && let Some(id) = self.clients[at].id
        {
            self.core.writable(id);
        }
        self.drive()
    }

    fn connect(&mut self, at: usize) {
        let of = self.clients[at].tenant;
        let permissions = Permissions {
            channels: ["*", "user.*"].map(pattern).into(),
            publish: ["*", "user.*"].map(pattern).into(),
            ..Permissions::default()
        };
        let identity = Identity {
            tenant: tenant(of),
            // The same user in each tenant.
            user: Some("7".into()),
            ..Identity::anonymous(Arc::new(permissions.in_tenant(tenant(of))))
        };
        let arrival = Arrival {
            settings: Arc::clone(&self.settings[of]),
            identity: Ok(Some(Arc::new(identity))),
            address: None,
            deflate: None,
            engine_io: None,
            nonce: self.rng.random(),
            permit: Box::new(Permit::new(Arc::default())),
        };
        let positions = std::mem::take(&mut self.clients[at].positions);
        self.clients[at] = Client {
            id: Some(self.core.adopt(arrival, self.now)),
            positions,
            tenant: of,
            reader: Reader::default(),
            is_stalled: false,
            wanted: BTreeSet::new(),
            asked: BTreeSet::new(),
            held: BTreeSet::new(),
            newest: BTreeMap::new(),
            was_told_of_losses: false,
            recovers: false,
        };
    }

    fn hang_up(&mut self, at: usize) {
        if let Some(id) = self.clients[at].id.take() {
            self.core.on_socket_error(id, self.now);
        }
    }

    fn subscribe(&mut self, at: usize) {
        let text = *PATTERNS.choose(&mut self.rng).expect("some");
        let mut message = json!({"type": "subscribe", "channels": [text]});
        let mut recovers = false;
        let is_new = |name: &&str| {
            let covers = |text: &&str| pattern(text).matches_name(name);
            covers(&text) && !self.clients[at].wanted.iter().any(covers)
        };
        if is_new(&"order.a") && self.rng.random_bool(0.5) {
            // Sometimes the position that a client of another tenant has in its channel of this name.
            let is_foreign = self.rng.random_bool(0.3);
            let other = self
                .clients
                .iter()
                .find(|client| client.tenant != self.clients[at].tenant);
            let owner = other.filter(|_| is_foreign).unwrap_or(&self.clients[at]);
            if let Some(position) = owner.positions.get("order.a") {
                message["recover"] = json!({"order.a": position});
                recovers = true;
                self.summary.with_foreign_positions += u64::from(is_foreign);
            }
        }
        self.clients[at].recovers |= recovers;
        self.clients[at].wanted.insert(text);
        self.clients[at].asked.insert(text);
        self.say(at, &message);
    }

    fn publish(&mut self, of: usize, name: &'static str) {
        self.number += 1;
        let data = data(of, name, self.number).to_string();
        let mixes = self.fault == Fault::MixesChannels && self.rng.random_bool(0.1);
        let to = if mixes { (of + 1) % TENANTS } else { of };
        let event = NewEvent {
            channel: channel(to, name),
            name: "e".into(),
            data: data.into(),
            timestamp_ms: self.now.unix_ms,
            options: PublishOptions::default(),
        };
        self.truth.insert((of, name), self.number);
        self.send(to, event);
        self.summary.events += 1;
    }

    fn delete(&mut self, of: usize, name: &'static str) {
        if !keeps_last(name) || self.truth.get(&(of, name)).is_none_or(|newest| *newest == 0) {
            return;
        }
        self.truth.insert((of, name), 0);
        self.summary.deleted += 1;
        let all = if self.fault == Fault::SharesState {
            0..TENANTS
        } else {
            of..of + 1
        };
        for of in all {
            self.send(
                of,
                NewEvent::deletion(channel(of, name), Deletion::Everything, self.now.unix_ms),
            );
        }
    }

    fn send(&mut self, of: usize, event: NewEvent) {
        let credit = self.hub.credit_now(tenant(of), event.data.len()).expect("room");
        self.hub.publish(event, self.now, credit, &mut Wakes::default());
    }

    fn say(&mut self, at: usize, message: &Value) {
        let mut bytes = wire::frame(wire::TEXT, message.to_string().as_bytes(), self.rng.random());
        if let Some(id) = self.clients[at].id {
            self.core.on_bytes(id, &mut bytes, self.now);
        }
    }

    // Does all that there is to do now. Stalled clients read nothing.
    fn drive(&mut self) -> Result<(), String> {
        loop {
            self.core.begin_turn(self.now);
            self.core.deliver(usize::MAX);
            while let Some(id) = self.core.next_dirty() {
                self.write(id)?;
            }
            while let Some(action) = self.core.next_action() {
                if let tickgate::shard::core::Action::ShutDown(id) = action {
                    self.core.on_end_of_input(id, self.now);
                    let client = self.clients.iter_mut().find(|client| client.id == Some(id));
                    client.into_iter().for_each(|client| client.id = None);
                }
            }
            if !self.core.has_turn_to_begin() && self.core.waiting_events() == 0 && !self.core.has_dirty() {
                return Ok(());
            }
        }
    }

    fn write(&mut self, id: ConnectionId) -> Result<(), String> {
        let Some(at) = self.clients.iter().position(|client| client.id == Some(id)) else {
            return Ok(());
        };
        if self.clients[at].is_stalled {
            self.core.blocked(id, self.now);
            return Ok(());
        }
        loop {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = self.core.pending(id, self.now, &mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            if bytes.is_empty() {
                return Ok(());
            }
            self.core.sent(id, bytes.len(), self.now);
            self.clients[at].reader.push(&bytes);
            while let Some(frame) = self.clients[at].reader.next()? {
                if let Received::Text(message) = frame {
                    if self.fault == Fault::MixesEvents && message["type"] == "event" && self.rng.random_bool(0.05) {
                        let other = (at + 1) % self.clients.len();
                        self.clients[other].message(&message, &mut self.summary)?;
                    }
                    self.clients[at].message(&message, &mut self.summary)?;
                }
            }
        }
    }
}

impl Client {
    fn message(&mut self, message: &Value, summary: &mut Summary) -> Result<(), String> {
        match message["type"].as_str() {
            Some("event") => self.event(message),
            Some("history") => {
                let events = message["data"]["events"].as_array().ok_or("no events")?;
                summary.of_histories += events.len() as u64;
                events.iter().try_for_each(|event| self.check(event))
            }
            Some("status") => {
                let told = message["subscriptions"].as_array().ok_or("no subscriptions")?;
                let is_own = |text: &Value| self.asked.iter().any(|asked| text == asked);
                let foreign = told.iter().find(|text| !is_own(text));
                foreign.map_or(Ok(()), |text| {
                    Err(format!("a pattern of another client in the status: {text}"))
                })
            }
            Some("unsubscribed") => {
                for text in message["data"]["channels"].as_array().into_iter().flatten() {
                    self.held.remove(text.as_str().ok_or("no pattern")?);
                }
                let held = &self.held;
                self.newest
                    .retain(|name, _| held.iter().any(|text| pattern(text).matches_name(name)));
                Ok(())
            }
            Some("subscribed") => {
                let patterns = message["data"]["channels"].as_array().into_iter().flatten();
                self.held.extend(patterns.filter_map(Value::as_str).map(str::to_owned));
                for (name, position) in message["data"]["positions"].as_object().into_iter().flatten() {
                    self.positions.insert(name.clone(), position.clone());
                }
                Ok(())
            }
            Some("dropped") => {
                self.was_told_of_losses = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn event(&mut self, message: &Value) -> Result<(), String> {
        self.check(message)?;
        let name = message["channel"].as_str().ok_or("no channel")?;
        if let Some(offset) = message["offset"].as_u64()
            && let Some(position) = self.positions.get_mut(name)
        {
            position["offset"] = offset.into();
        }
        let newest = newest(&message["data"]);
        if message["snapshot"] == true || newest.is_some() {
            let held = self.newest.entry(name.to_owned()).or_default();
            *held = newest
                .unwrap_or(0)
                .max(if message["snapshot"] == true { 0 } else { *held });
        } else {
            self.newest.insert(name.to_owned(), 0);
        }
        Ok(())
    }

    // Every event says of which tenant it is; a deletion says nothing.
    fn check(&self, message: &Value) -> Result<(), String> {
        let data = &message["data"];
        let all = data.as_array().map_or(std::slice::from_ref(data), |records| records);
        let foreign = all.iter().find(|one| !one.is_null() && one["t"] != self.tenant);
        foreign.map_or(Ok(()), |_| {
            Err(format!(
                "a client of tenant {} got a foreign event: {message}",
                self.tenant
            ))
        })
    }
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("valid")
}

fn data(of: usize, name: &str, number: u64) -> Value {
    let data = json!({"t": of, "n": number});
    if name != "board.a" {
        return data;
    }
    let code = ["u", "v", "w"][usize::try_from(number % 3).expect("small")];
    json!([{"code": code, "t": of, "n": number}])
}

fn newest(data: &Value) -> Option<u64> {
    match data {
        Value::Array(records) => records.iter().filter_map(|record| record["n"].as_u64()).max(),
        other => other["n"].as_u64(),
    }
}

fn run(seed: u64, fault: Fault) -> Result<Summary, String> {
    super::caught(|| World::new(seed, fault).run())
}

#[test]
fn tenants_with_the_same_names_and_users_are_apart_with_many_seeds() {
    let mut sum = Summary::default();
    let add = |sum: &mut Summary, one: &Summary| {
        sum.events += one.events;
        sum.of_histories += one.of_histories;
        sum.by_clients += one.by_clients;
        sum.deleted += one.deleted;
        sum.with_foreign_positions += one.with_foreign_positions;
    };
    if super::sweep(&mut sum, |seed| run(seed, Fault::None), add) {
        let all = [
            sum.events,
            sum.of_histories,
            sum.by_clients,
            sum.deleted,
            sum.with_foreign_positions,
        ];
        assert!(all.iter().all(|count| *count > 0), "{sum:?}");
    }
}

fn assert_found(fault: Fault, symptom: &str) {
    super::assert_found_by(0..40, fault, |seed| run(seed, fault), &[symptom]);
}

#[test]
fn an_event_that_reaches_a_client_of_another_tenant_is_found() {
    assert_found(Fault::MixesEvents, "a foreign event");
}

#[test]
fn an_event_that_is_published_to_another_tenant_is_found() {
    assert_found(Fault::MixesChannels, "a foreign event");
}

#[test]
fn a_deletion_that_crosses_tenants_is_found() {
    assert_found(Fault::SharesState, "ends with");
}
