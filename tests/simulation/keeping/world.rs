//! The random steps: which client does what, when, and how much of it arrives.

mod faults;

use std::io::IoSlice;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tickgate::auth::{Identity, Mode, Permissions};
use tickgate::session;
use tickgate::session::limits::Limits;
use tickgate::shard::core::{Action, Arrival, Sent};
use tickgate::shard::mailbox::ConnectionId;
use tickgate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::disconnect::Disconnect;

use super::Fault;
use super::client::Client;
use super::store::{CHANNELS, SHARDS, Store};
use crate::surroundings::{CALM, Permit, endpoint};
use crate::wire;

const PATTERNS: [&str; 12] = [
    "*", "price.*", "board.*", "book.*", "order.*", "life.*", "trade.*", "*.a", "*.b", "*.c.*", "order.a", "board.a",
];

/// Counts what happened, so that a simulation in which nothing happens is noticed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    events: u64,
    caught_up: u64,
    conflated: u64,
    dropped: u64,
    recovered: u64,
    not_recovered: u64,
    too_slow: u64,
    restarts: u64,
    trimmed: u64,
    // Subscribe requests that took more than one pass.
    slow_subscribes: u64,
    // Answers that say that names are missing.
    incomplete: u64,
    // Returns with a cursor, without and with losses.
    resumed: u64,
    resumed_in_part: u64,
    // Connections that had used up their bytes of a second.
    throttled: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.caught_up += other.caught_up;
        self.conflated += other.conflated;
        self.dropped += other.dropped;
        self.recovered += other.recovered;
        self.not_recovered += other.not_recovered;
        self.too_slow += other.too_slow;
        self.restarts += other.restarts;
        self.trimmed += other.trimmed;
        self.slow_subscribes += other.slow_subscribes;
        self.incomplete += other.incomplete;
        self.resumed += other.resumed;
        self.resumed_in_part += other.resumed_in_part;
        self.throttled += other.throttled;
    }

    pub(crate) fn assert_everything_happened(&self) {
        let all = [
            self.events,
            self.caught_up,
            self.conflated,
            self.dropped,
            self.recovered,
            self.not_recovered,
            self.too_slow,
            self.restarts,
            self.trimmed,
            self.slow_subscribes,
            self.incomplete,
            self.resumed,
            self.resumed_in_part,
            self.throttled,
        ];
        assert!(all.iter().all(|count| *count > 0), "{self:?}");
    }
}

pub(crate) struct World {
    rng: StdRng,
    fault: Fault,
    now: Now,
    store: Store,
    settings: Arc<session::Settings>,
    clients: Vec<Client>,
    number: u64,
    summary: Summary,
    // For faults: the number of events of histories so far.
    histories: u64,
}

impl World {
    pub(crate) fn new(seed: u64, fault: Fault) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Now {
            mono_ms: 1_000,
            unix_ms: 1_703_836_800_000,
        };
        let limits = Limits {
            outbox_frames: [3, 8, 30].choose(&mut rng).copied().unwrap_or(8),
            bytes_per_second: [0, 0, 1_500, 6_000].choose(&mut rng).copied().unwrap_or(0),
            subscriptions: 100,
            reply_frames: 1_000,
            reply_bytes: 1 << 20,
            ..CALM
        };
        let mut store = Store::new(now, &mut rng);
        store.is_limited = limits.bytes_per_second > 0;
        Self {
            fault,
            now,
            store,
            settings: Arc::new(session::Settings {
                auth_mode: Mode::Off,
                anonymous: anonymous(),
                // The clients never answer pings, so the heartbeat is turned off.
                heartbeat_timeout_ms: u64::MAX / 4,
                heartbeat_interval_ms: 1_500,
                ..(*endpoint(limits)).clone()
            }),
            clients: (0..rng.random_range(2..6))
                .map(|_| Client::new(rng.random_bool(0.6)))
                .collect(),
            rng,
            number: 0,
            summary: Summary::default(),
            histories: 0,
        }
    }

    pub(crate) fn run(mut self) -> Result<Summary, String> {
        for step in 0..self.rng.random_range(200..600) {
            self.step().map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        for at in 0..self.clients.len() {
            if self.clients[at].connection.is_none() {
                self.connect(at);
                self.subscribe(at)?;
            }
        }
        self.settle()?;
        for client in &mut self.clients {
            if client.connection.is_some() {
                client.check_end(&mut self.store, self.now)?;
            }
        }
        self.sum_up();
        Ok(self.summary)
    }

    fn step(&mut self) -> Result<(), String> {
        let at = self.rng.random_range(0..self.clients.len());
        let is_connected = self.clients[at].connection.is_some();
        match self.rng.random_range(0..100) {
            0..=9 if !is_connected => {
                self.connect(at);
                self.subscribe(at)?;
            }
            0..=9 => self.subscribe(at)?,
            10..=12 => self.unsubscribe(at)?,
            13..=44 => self.publish(),
            45..=69 => self.pass()?,
            70..=79 => self.change_pace(at),
            80..=83 => self.hang_up(at),
            84..=85 => self.store.hub.expire(self.now),
            86 if self.rng.random_bool(0.1) => self.restart(),
            _ => self.now = self.now.after_ms(self.rng.random_range(0..3_000)),
        }
        Ok(())
    }

    fn connect(&mut self, at: usize) {
        let shard = self.rng.random_range(0..usize::from(SHARDS));
        let arrival = Arrival {
            settings: self.settings.clone(),
            identity: Ok(None),
            address: None,
            deflate: None,
            engine_io: None,
            nonce: self.rng.random(),
            permit: Box::new(Permit::new(Arc::default())),
        };
        let id = self.store.cores[shard].adopt(arrival, self.now);
        self.clients[at].connected(id);
    }

    fn subscribe(&mut self, at: usize) -> Result<(), String> {
        let (sends_seen, change) = (self.rng.random_bool(0.3), self.rng.random_range(0..40));
        let message = self.clients[at].resume(&self.store, self.now, sends_seen, |cursor| match change {
            0 => cursor.epoch.0 ^= 1,
            1 => cursor.holder ^= 1,
            // What the client has is more than such a cursor says.
            2..=5 => cursor.version = cursor.version.saturating_sub(change),
            6 => cursor.version += 1_000_000,
            _ => {}
        });
        if let Some(message) = message {
            self.send(at, &message)?;
        }
        let all: Vec<&str> = PATTERNS.iter().copied().chain(CHANNELS.map(|(name, _)| name)).collect();
        let count = self.rng.random_range(1..=3);
        let patterns: Vec<Pattern> = (0..count)
            .filter_map(|_| all.choose(&mut self.rng))
            .map(|text| Pattern::parse(text).expect("valid"))
            .collect();
        let patterns: Vec<Pattern> = patterns
            .into_iter()
            .filter(|pattern| !self.clients[at].wanted().contains(pattern))
            .collect();
        let recovers = self.rng.random_bool(0.8);
        let rng = &mut self.rng;
        let message = self.clients[at].subscribe(patterns, recovers, &self.store, self.now, |known| {
            match rng.random_range(0..40) {
                0 => known.0 = "0123456789abcdef".to_owned(),
                1 => known.0 = "another".to_owned(),
                2 => known.1 = known.1.saturating_sub(3),
                3 => known.1 += 1_000_000,
                _ => {}
            }
        });
        self.send(at, &message)?;
        let id = self.clients[at].connection;
        let waits = id.is_some_and(|id| self.store.cores[usize::from(id.shard)].has_turn_to_begin());
        self.summary.slow_subscribes += u64::from(self.store.is_slow && waits);
        Ok(())
    }

    fn unsubscribe(&mut self, at: usize) -> Result<(), String> {
        let Some(pattern) = self.clients[at].wanted().choose(&mut self.rng).cloned() else {
            return Ok(());
        };
        let message = self.clients[at].unsubscribe(vec![pattern]);
        self.send(at, &message)
    }

    fn send(&mut self, at: usize, message: &Value) -> Result<(), String> {
        let Some(id) = self.clients[at].connection else {
            return Ok(());
        };
        let mut bytes = wire::frame(wire::TEXT, message.to_string().as_bytes(), self.rng.random());
        let core = &mut self.store.cores[usize::from(id.shard)];
        core.on_bytes(id, &mut bytes, self.now);
        self.act()
    }

    fn publish(&mut self) {
        let burst = if self.rng.random_bool(0.1) { 40 } else { 8 };
        let one = CHANNELS.choose(&mut self.rng).copied().unwrap_or(CHANNELS[0]);
        for _ in 0..self.rng.random_range(1..burst) {
            let (channel, kind) = if self.rng.random_bool(0.5) {
                one
            } else {
                CHANNELS.choose(&mut self.rng).copied().unwrap_or(one)
            };
            self.number += 1;
            self.store.publish(channel, kind, self.number, self.now, &mut self.rng);
        }
    }

    /// One pass of a shard's loop, or a part of it.
    fn pass(&mut self) -> Result<(), String> {
        let shard = self.rng.random_range(0..usize::from(SHARDS));
        let core = &mut self.store.cores[shard];
        if self.rng.random_bool(0.7) {
            core.begin_turn(self.now);
        }
        core.deliver(self.rng.random_range(0..20));
        while core.run_timers(8, self.now) {}
        if self.rng.random_bool(0.8) {
            self.flush(shard)?;
        }
        self.act()
    }

    fn flush(&mut self, shard: usize) -> Result<(), String> {
        while let Some(id) = self.store.cores[shard].next_dirty() {
            while self.write(shard, id)? {}
        }
        Ok(())
    }

    // Writes to one socket once. Returns whether another write may follow.
    fn write(&mut self, shard: usize, id: ConnectionId) -> Result<bool, String> {
        let core = &mut self.store.cores[shard];
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = core.pending(id, self.now, &mut slices);
        let mut bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        let wanted = bytes.len();
        let Some(at) = self.clients.iter().position(|client| client.connection == Some(id)) else {
            core.sent(id, wanted, self.now);
            return Ok(filled > 0);
        };
        if wanted == 0 {
            return Ok(false);
        }
        let writable_bytes = self.clients[at].writable_bytes;
        bytes.truncate(writable_bytes);
        if writable_bytes < usize::MAX {
            self.clients[at].writable_bytes -= bytes.len();
        }
        let sent = core.sent(id, bytes.len(), self.now);
        let is_blocked = bytes.len() < wanted;
        if is_blocked {
            core.blocked(id, self.now);
        }
        self.receive(at, &bytes)?;
        Ok(!is_blocked && sent == Sent::More)
    }

    fn receive(&mut self, at: usize, bytes: &[u8]) -> Result<(), String> {
        self.clients[at].reader.push(bytes);
        while let Some(frame) = self.clients[at].reader.next()? {
            for frame in self.inject_fault(at, frame) {
                self.clients[at].frame(frame, &self.store, self.now)?;
            }
        }
        let epoch = self.store.epoch();
        self.clients[at].name_epoch(&epoch);
        Ok(())
    }

    fn change_pace(&mut self, at: usize) {
        self.clients[at].writable_bytes = match self.rng.random_range(0..4) {
            0 => 0,
            1 => self.rng.random_range(0..600),
            _ => usize::MAX,
        };
        if self.clients[at].writable_bytes > 0
            && let Some(id) = self.clients[at].connection
        {
            self.store.cores[usize::from(id.shard)].writable(id);
        }
    }

    fn hang_up(&mut self, at: usize) {
        if let Some(id) = self.clients[at].connection.take() {
            self.store.cores[usize::from(id.shard)].on_socket_error(id, self.now);
        }
    }

    /// Replaces the gateway. Connections are lost; clients keep what they know.
    fn restart(&mut self) {
        self.sum_up();
        self.summary.restarts += 1;
        let is_limited = self.store.is_limited;
        self.store = Store::new(self.now, &mut self.rng);
        self.store.is_limited = is_limited;
        for client in &mut self.clients {
            client.lose_store();
        }
    }

    // Carries out the actions of the shards. A closed client may connect again later.
    fn act(&mut self) -> Result<(), String> {
        for shard in 0..usize::from(SHARDS) {
            while let Some(action) = self.store.cores[shard].next_action() {
                if let Action::Remove(id) = action {
                    // It was closed and did not read in time, or it has hung up.
                    let mut clients = self.clients.iter_mut();
                    if let Some(client) = clients.find(|client| client.connection == Some(id)) {
                        client.connection = None;
                    }
                }
                let Action::ShutDown(id) = action else { continue };
                let client = self.clients.iter_mut().find(|client| client.connection == Some(id));
                if let Some(client) = client {
                    if client.closed != Some(4008) {
                        return Err(format!("closed with {:?}", client.closed));
                    }
                    client.connection = None;
                }
                self.store.cores[shard].on_end_of_input(id, self.now);
            }
        }
        Ok(())
    }

    /// Lets all clients read and publishes nothing, until everything has settled.
    fn settle(&mut self) -> Result<(), String> {
        for client in &mut self.clients {
            client.writable_bytes = usize::MAX;
            if let Some(id) = client.connection {
                self.store.cores[usize::from(id.shard)].writable(id);
            }
        }
        for _ in 0..10_000 {
            let mut is_idle = true;
            for shard in 0..usize::from(SHARDS) {
                let core = &mut self.store.cores[shard];
                core.begin_turn(self.now);
                core.deliver(16);
                self.flush(shard)?;
                let core = &self.store.cores[shard];
                is_idle &= core.waiting_events() == 0 && !core.has_dirty() && !core.has_turn_to_begin();
                is_idle &= core.next_turn_ms().is_none();
            }
            if !is_idle {
                // Clients that have used up their bytes get the next ones.
                self.now = self.now.after_ms(20);
            }
            self.act()?;
            if is_idle {
                return self.check_nothing_waits();
            }
        }
        Err("the shards do not come to rest".into())
    }

    fn check_nothing_waits(&self) -> Result<(), String> {
        let queued: usize = self.store.cores.iter().map(|core| core.queued_frames()).sum();
        if queued > 0 {
            return Err(format!("{queued} frames are left"));
        }
        for core in &self.store.cores {
            core.update_gauges();
        }
        let gauges = self.store.stats.iter().map(|stats| stats.read());
        let left: i64 = gauges.map(|read| read.pending_frames + read.pending_bytes).sum();
        if left != 0 || self.store.hub.metrics().credits_lent != 0 {
            return Err(format!("{left} are counted as pending, or credits are lent"));
        }
        Ok(())
    }

    fn sum_up(&mut self) {
        for stats in &self.store.stats {
            let read = stats.read();
            self.summary.caught_up += read.caught_up;
            self.summary.conflated += read.conflated;
            self.summary.dropped += read.dropped;
            self.summary.recovered += read.recovered;
            self.summary.not_recovered += read.not_recovered;
            self.summary.throttled += read.throttles;
            self.summary.too_slow += stats.endings(Disconnect::SlowConsumer);
        }
        for (name, kind) in CHANNELS {
            self.summary.events += self.store.truth.of(name).len() as u64;
            let is_trimmed = kind.has_history() && self.store.covers(name, 0, self.now) == Some(false);
            self.summary.trimmed += u64::from(is_trimmed);
        }
    }
}

fn anonymous() -> Arc<Identity> {
    Arc::new(Identity::anonymous(Arc::new(Permissions {
        channels: ["*", "user.*"].map(|text| Pattern::parse(text).expect("valid")).into(),
        ..Permissions::default()
    })))
}
