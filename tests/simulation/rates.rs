//! Subscriptions with a rate: every client has the newest value of every channel at the end of its period, and no more
//! updates than its rate allows.
//!
//! Clients subscribe at rates that overlap, change them, and unsubscribe, while channels are published at random times. The
//! shard is driven at every time at which it has something to do, and all clients read, so a late value is its fault.
//!
//! `TICKGATE_SEEDS` and `TICKGATE_SEED` work as in `main.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tickgate::auth::{Identity, Mode, Permissions};
use tickgate::broker::Embedded;
use tickgate::event::{NewEvent, PublishOptions};
use tickgate::hub::{self, Hub, Wakes};
use tickgate::metrics::ShardMetrics;
use tickgate::session;
use tickgate::shard::Settings;
use tickgate::shard::core::{Arrival, ShardCore};
use tickgate::shard::mailbox::ConnectionId;
use tickgate::time::{Clock, Now};
use tickgate_protocol::channel::{Channel, Class, Classes, Overflow, Pattern, Tenant};
use tickgate_protocol::dialect;
use tickgate_protocol::rate::{Rate, faster, slower};

use crate::surroundings::{CALM, FakeServices, Permit, endpoint};
use crate::wire::{self, Reader, Received};

const CHANNELS: [&str; 6] = ["price.a", "price.b", "price.c.x", "board.a", "board.b", "depth.a"];
const PATTERNS: [&str; 9] = [
    "*", "price.*", "*.a", "*.b", "board.*", "price.a", "board.a", "depth.*", "*.c.*",
];

/// A planted fault, between the gateway and a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A value comes later than the end of its period.
    Delays,
    /// A value comes twice.
    Repeats,
    /// A value comes before the end of the period, beside the one at its end.
    Hurries,
    /// A merged record is lost.
    LosesRecord,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Summary {
    events: u64,
    updates: u64,
    conflated: u64,
    changes: u64,
    merged: u64,
}

#[derive(Default)]
struct Watch {
    // The newest number of each record; of other values, the number.
    held: BTreeMap<String, u64>,
    // What has to be there at the end of a millisecond: the time, the record, its number.
    owed: Vec<(u64, String, u64)>,
    // When updates came since the last change.
    updates: Vec<u64>,
}

#[derive(Default)]
struct Client {
    id: Option<ConnectionId>,
    reader: Reader,
    wanted: BTreeMap<&'static str, Option<Rate>>,
    watches: BTreeMap<&'static str, Watch>,
    delayed: VecDeque<(u64, Value)>,
}

struct World {
    rng: StdRng,
    fault: Fault,
    now: Now,
    hub: Arc<Hub>,
    core: ShardCore,
    metrics: Arc<ShardMetrics>,
    settings: Arc<session::Settings>,
    limit: Option<Rate>,
    clients: Vec<Client>,
    // The newest number of each record of each channel.
    truth: BTreeMap<&'static str, BTreeMap<String, u64>>,
    number: u64,
    summary: Summary,
}

fn is_merged(channel: &str) -> bool {
    channel.starts_with("board")
}

impl World {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Now {
            mono_ms: 1_000 + rng.random_range(0..20_000),
            unix_ms: 1_703_836_800_000,
        };
        let limit = [None, Rate::at_most(5.0), Rate::at_most(1.0)]
            .choose(&mut rng)
            .copied()
            .flatten();
        let class = |record_key: bool, max_rate| Class {
            cache_last: true,
            overflow: Overflow::Conflate,
            record_key: record_key.then(|| "code".into()),
            max_rate,
            ..Class::default()
        };
        let classes = [
            ("price.*", class(false, None)),
            ("board.*", class(true, None)),
            ("depth.*", class(false, limit)),
        ];
        let classes = classes.map(|(pattern, class)| (Pattern::parse(pattern).expect("valid"), class));
        let classes = Arc::new(Classes::new(classes.into()));
        let hub_settings = hub::Settings {
            classes: Arc::clone(&classes),
            ..hub::Settings::default()
        };
        let (hub, mut inboxes) = Hub::new(hub_settings, 1, dialect::encode_event);
        let metrics = Arc::<ShardMetrics>::default();
        let core = ShardCore::new(
            Settings::new(0),
            inboxes.pop().expect("one"),
            Arc::<FakeServices>::default(),
            Arc::new(Embedded::new(hub.clone(), Clock::start())),
            metrics.clone(),
            now,
        );
        let all = ["*", "user.*"].map(|text| Pattern::parse(text).expect("valid"));
        let permissions = Permissions {
            channels: all.into(),
            ..Permissions::default()
        };
        let settings = session::Settings {
            auth_mode: Mode::Off,
            anonymous: Arc::new(Identity::anonymous(Arc::new(permissions))),
            heartbeat_timeout_ms: u64::MAX / 4,
            classes,
            ..(*endpoint(CALM)).clone()
        };
        Self {
            clients: (0..rng.random_range(2..9)).map(|_| Client::default()).collect(),
            rng,
            fault,
            now,
            hub,
            core,
            metrics,
            settings: Arc::new(settings),
            limit,
            truth: BTreeMap::new(),
            number: 0,
            summary: Summary::default(),
        }
    }

    fn run(mut self) -> Result<Summary, String> {
        for at in 0..self.clients.len() {
            let arrival = Arrival {
                settings: self.settings.clone(),
                identity: Ok(None),
                address: None,
                deflate: None,
                engine_io: None,
                nonce: self.rng.random(),
                permit: Box::new(Permit::new(Arc::default())),
            };
            self.clients[at].id = Some(self.core.adopt(arrival, self.now));
        }
        for step in 0..self.rng.random_range(60..160) {
            self.step().map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        self.pass(25_000)?;
        for client in &self.clients {
            for (name, watch) in &client.watches {
                if self.truth.get(name).is_some_and(|newest| *newest != watch.held) {
                    return Err(format!(
                        "{name} ends with {:?}, not {:?}",
                        watch.held,
                        self.truth.get(name)
                    ));
                }
            }
        }
        self.summary.conflated = self.metrics.rate_conflated.get();
        Ok(self.summary)
    }

    fn step(&mut self) -> Result<(), String> {
        let at = self.rng.random_range(0..self.clients.len());
        match self.rng.random_range(0..20) {
            0..=1 => self.subscribe(at)?,
            2 => self.unsubscribe(at)?,
            3..=12 => self.publish(),
            13..=17 => {
                let ms = self.rng.random_range(0..80);
                self.pass(ms)?;
            }
            _ => {
                let ms = self.rng.random_range(0..4_000);
                self.pass(ms)?;
            }
        }
        self.drive()
    }

    fn rate_of(&self, at: usize, channel: &str) -> Option<Option<Rate>> {
        let wanted = self.clients[at].wanted.iter();
        let matching = wanted.filter(|(pattern, _)| Pattern::parse(pattern).expect("valid").matches_name(channel));
        let fastest = matching.map(|(_, rate)| *rate).reduce(faster)?;
        Some(if channel.starts_with("depth") {
            slower(fastest, self.limit)
        } else {
            fastest
        })
    }

    fn subscribe(&mut self, at: usize) -> Result<(), String> {
        let pattern = *PATTERNS.choose(&mut self.rng).expect("some");
        let rates: Vec<_> = Rate::ALL.into_iter().skip(1).map(Some).chain([None, None]).collect();
        let rate = rates.choose(&mut self.rng).copied().flatten();
        let mut message = json!({"type": "subscribe", "channels": [pattern]});
        if let Some(rate) = rate {
            message["max_rate"] = serde_json::from_str(rate.as_str()).expect("a number");
        }
        self.say(at, &message);
        // What waited comes before the answer.
        self.drive()?;
        self.clients[at].wanted.insert(pattern, rate);
        self.follow(at);
        self.drive()
    }

    fn unsubscribe(&mut self, at: usize) -> Result<(), String> {
        let wanted: Vec<_> = self.clients[at].wanted.keys().copied().collect();
        let Some(pattern) = wanted.choose(&mut self.rng) else {
            return Ok(());
        };
        self.say(at, &json!({"type": "unsubscribe", "channels": [pattern]}));
        self.drive()?;
        self.clients[at].wanted.remove(pattern);
        self.follow(at);
        Ok(())
    }

    // The patterns of a client have changed.
    fn follow(&mut self, at: usize) {
        self.summary.changes += 1;
        for name in CHANNELS {
            let is_covered = self.rate_of(at, name).is_some();
            let watches = &mut self.clients[at].watches;
            if !is_covered {
                watches.remove(name);
            } else if let Some(watch) = watches.get_mut(name) {
                watch.updates.clear();
            }
        }
    }

    fn publish(&mut self) {
        let name = *CHANNELS.choose(&mut self.rng).expect("some");
        self.number += 1;
        let number = self.number;
        let (code, data) = if is_merged(name) {
            let code = ["u", "v", "w"].choose(&mut self.rng).expect("some").to_string();
            let data = json!([{"code": code, "n": number}]);
            (code, data)
        } else {
            (String::new(), json!({"n": number}))
        };
        let data = data.to_string();
        let credit = self.hub.credit_now(Tenant::DEFAULT, data.len()).expect("room");
        let event = NewEvent {
            channel: Channel::parse(name).expect("valid"),
            name: "e".into(),
            data: data.into(),
            timestamp_ms: self.now.unix_ms,
            options: PublishOptions::default(),
        };
        self.hub.publish(event, self.now, credit, &mut Wakes::default());
        self.summary.events += 1;
        self.truth.entry(name).or_default().insert(code.clone(), number);
        for at in 0..self.clients.len() {
            if let Some(rate) = self.rate_of(at, name) {
                let by_ms = self.now.mono_ms + rate.map_or(0, Rate::period_ms);
                let watch = self.clients[at].watches.entry(name).or_default();
                watch.owed.push((by_ms, code.clone(), number));
            }
        }
    }

    // What waits for the client comes before the change, beside what its rate allows.
    fn say(&mut self, at: usize, message: &Value) {
        self.clients[at]
            .watches
            .values_mut()
            .for_each(|watch| watch.updates.clear());
        let mut bytes = wire::frame(wire::TEXT, message.to_string().as_bytes(), self.rng.random());
        if let Some(id) = self.clients[at].id {
            self.core.on_bytes(id, &mut bytes, self.now);
        }
    }

    // Lets time pass; the shard runs whenever it has something to do.
    fn pass(&mut self, ms: u64) -> Result<(), String> {
        let end = self.now.after_ms(ms);
        loop {
            self.drive()?;
            match self.core.next_turn_ms().filter(|next| *next <= end.mono_ms) {
                Some(next) => self.now = self.now.after_ms(next.saturating_sub(self.now.mono_ms)),
                None => break,
            }
        }
        self.now = end;
        self.drive()
    }

    // Does all that there is to do now, and checks what is owed.
    fn drive(&mut self) -> Result<(), String> {
        loop {
            self.core.begin_turn(self.now);
            self.core.deliver(usize::MAX);
            while let Some(id) = self.core.next_dirty() {
                self.write(id)?;
            }
            if !self.core.has_turn_to_begin() && self.core.waiting_events() == 0 && !self.core.has_dirty() {
                break;
            }
        }
        let now_ms = self.now.mono_ms;
        for at in 0..self.clients.len() {
            while self.clients[at]
                .delayed
                .front()
                .is_some_and(|(by_ms, _)| *by_ms <= now_ms)
                && let Some((_, message)) = self.clients[at].delayed.pop_front()
            {
                self.event(at, &message)?;
            }
            for (name, watch) in &self.clients[at].watches {
                if let Some((by_ms, code, number)) = watch.owed.iter().find(|(by_ms, ..)| *by_ms <= now_ms) {
                    return Err(format!(
                        "client {at} has no value of {name} {code} as new as {number}, which is older than its period \
                         since {by_ms}, at {now_ms}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, id: ConnectionId) -> Result<(), String> {
        let mut slices = [IoSlice::new(&[]); 16];
        loop {
            let filled = self.core.pending(id, self.now, &mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            slices = [IoSlice::new(&[]); 16];
            if bytes.is_empty() {
                return Ok(());
            }
            self.core.sent(id, bytes.len(), self.now);
            let at = self
                .clients
                .iter()
                .position(|client| client.id == Some(id))
                .ok_or("no client")?;
            self.clients[at].reader.push(&bytes);
            while let Some(frame) = self.clients[at].reader.next()? {
                if let Received::Text(message) = frame
                    && message["type"] == "event"
                {
                    self.receive(at, message)?;
                }
            }
        }
    }

    fn receive(&mut self, at: usize, mut message: Value) -> Result<(), String> {
        let strikes = self.rng.random_bool(0.05);
        let channel = message["channel"].as_str().unwrap_or_default().to_owned();
        let rate = self.rate_of(at, &channel).flatten();
        match (self.fault, rate) {
            (Fault::Delays, Some(rate)) if strikes => {
                let by_ms = self.now.mono_ms + rate.period_ms() + 1;
                self.clients[at].delayed.push_back((by_ms, message));
                return Ok(());
            }
            (Fault::Repeats, _) if strikes => self.event(at, &message.clone())?,
            (Fault::Hurries, Some(_)) if strikes => {
                for _ in 0..3 {
                    let watch = self.clients[at].watches.values_mut();
                    watch.for_each(|watch| watch.updates.push(self.now.mono_ms));
                }
            }
            (Fault::LosesRecord, Some(_)) => {
                if let Some(records) = message["data"].as_array_mut().filter(|records| records.len() > 1) {
                    records.remove(0);
                }
            }
            _ => {}
        }
        self.event(at, &message)
    }

    fn event(&mut self, at: usize, message: &Value) -> Result<(), String> {
        self.summary.updates += 1;
        let channel = message["channel"].as_str().ok_or("no channel")?;
        let name = *CHANNELS
            .iter()
            .find(|name| **name == channel)
            .ok_or("an unknown channel")?;
        let period_ms = self.rate_of(at, name).flatten().map(Rate::period_ms);
        // Where a class has a limit, a newcomer may get one update more.
        let spare = u64::from(self.limit.is_some());
        let now_ms = self.now.mono_ms;
        let records: Vec<(String, u64)> = match &message["data"] {
            Value::Array(records) => (records.iter())
                .map(|record| {
                    (
                        record["code"].as_str().unwrap_or_default().to_owned(),
                        record["n"].as_u64().unwrap_or(0),
                    )
                })
                .collect(),
            value => vec![(String::new(), value["n"].as_u64().ok_or("no number")?)],
        };
        self.summary.merged += u64::from(records.len() > 1);
        let watch = self.clients[at].watches.entry(name).or_default();
        let is_news = records
            .iter()
            .any(|(code, number)| watch.held.get(code).is_none_or(|held| held < number));
        // A merged record may come again when subscriptions have changed.
        if !is_news && !is_merged(name) {
            return Err(format!("client {at} has {:?} already: {message}", watch.held));
        }
        for (code, number) in records {
            watch.owed.retain(|(_, owed, least)| *owed != code || *least > number);
            let held = watch.held.insert(code, number);
            if held.is_some_and(|held| held > number) {
                return Err(format!("client {at} has {held:?}, which is newer: {message}"));
            }
        }
        watch.updates.push(now_ms);
        if let Some(period_ms) = period_ms {
            for (before, first_ms) in watch.updates.iter().rev().enumerate().skip(1) {
                let most = (now_ms - first_ms).div_ceil(period_ms).max(1) + 1 + spare;
                if before as u64 + 1 > most {
                    return Err(format!(
                        "client {at} got {} updates of {name} since {first_ms}, at {now_ms}",
                        before + 1
                    ));
                }
            }
        }
        Ok(())
    }
}

fn run(seed: u64, fault: Fault) -> Result<Summary, String> {
    super::caught(|| World::new(seed, fault).run())
}

#[test]
fn the_newest_value_comes_within_its_period_with_many_seeds() {
    let mut sum = Summary::default();
    let add = |sum: &mut Summary, one: &Summary| {
        sum.events += one.events;
        sum.updates += one.updates;
        sum.conflated += one.conflated;
        sum.changes += one.changes;
        sum.merged += one.merged;
    };
    if super::sweep(&mut sum, |seed| run(seed, Fault::None), add) {
        let all = [sum.events, sum.updates, sum.conflated, sum.changes, sum.merged];
        assert!(all.iter().all(|count| *count > 0), "{sum:?}");
    }
}

fn assert_found(fault: Fault, symptom: &str) {
    super::assert_found_by(0..40, fault, |seed| run(seed, fault), &[symptom]);
}

#[test]
fn a_value_that_is_older_than_its_period_is_found() {
    assert_found(Fault::Delays, "older than its period");
}

#[test]
fn a_value_that_comes_twice_is_found() {
    assert_found(Fault::Repeats, "already");
}

#[test]
fn a_rate_that_is_exceeded_is_found() {
    assert_found(Fault::Hurries, "updates of");
}

#[test]
fn a_record_that_is_lost_over_a_period_is_found() {
    assert_found(Fault::LosesRecord, "older than its period");
}
