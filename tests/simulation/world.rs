//! The shard, its surroundings, and the dice.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tickgate::auth::{Identity, Mode, Permissions, TokenError};
use tickgate::broker::Embedded;
use tickgate::channel::{Channel, Pattern};
use tickgate::dialect::{self, Dialect};
use tickgate::disconnect::Disconnect;
use tickgate::event::NewEvent;
use tickgate::hub::{self, Broker, Doorbell, Hub, Receipt, Wakes};
use tickgate::limits::Limits;
use tickgate::mailbox::{ClientsPage, ConnectionId, ConnectionPermit, Services, ShardMessage};
use tickgate::session::{self, Command, CommandOutcome};
use tickgate::shard::Settings;
use tickgate::shard::engine::{Action, Arrival, Engine, Sent};
use tickgate::stats::ShardStats;
use tickgate::time::Now;

use crate::client::{CHANNELS, Client, Kind, padding};
use crate::model::Log;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// `unsubscribe` is answered and the subscription goes on.
    KeepsSubscription,
    /// A new subscriber gets an event published before it asked.
    EventFromBefore,
    LosesEvent,
    DoublesEvent,
    SwapsEvents,
    /// Events are dropped and nobody is told.
    HidesDrops,
    /// What waits for a credit is never tried again.
    SilentDoorbell,
}

/// What happened, so that a simulation in which nothing happens is noticed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    connections: u64,
    published: u64,
    received: u64,
    dropped: u64,
    parked: u64,
    endings: Vec<u64>,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.published += other.published;
        self.received += other.received;
        self.dropped += other.dropped;
        self.parked += other.parked;
        self.endings.resize(Disconnect::ALL.len(), 0);
        for (own, other) in self.endings.iter_mut().zip(&other.endings) {
            *own += other;
        }
    }

    pub(crate) fn assert_everything_happened(&self) {
        assert!(self.received > 0 && self.dropped > 0 && self.parked > 0, "{self:?}");
        // The gateway's own failures do not happen.
        let unseen = [Disconnect::Internal, Disconnect::Overload];
        for ending in Disconnect::ALL.iter().filter(|ending| !unseen.contains(ending)) {
            assert!(self.endings[*ending as usize] > 0, "no {ending:?}: {self:?}");
        }
    }
}

/// Publishes, and writes down in which order.
struct Recorder {
    embedded: Embedded,
    log: Arc<Mutex<Log>>,
    refused: AtomicI64,
}

impl Broker for Recorder {
    fn publish(&self, events: Vec<NewEvent>) -> std::pin::Pin<Box<dyn Future<Output = Vec<Receipt>> + Send + '_>> {
        self.embedded.publish(events)
    }

    fn try_publish(&self, shard: u16, event: NewEvent) -> Result<Receipt, NewEvent> {
        let (channel, data) = (event.channel.clone(), event.data.clone());
        let published = self.embedded.try_publish(shard, event);
        match &published {
            Ok(_) => self.log.lock().push(channel.as_str(), &data),
            Err(_) => self.refused.store(self.refused.load(Relaxed) + 1, Relaxed),
        }
        published
    }

    fn is_ready(&self) -> bool {
        self.embedded.is_ready()
    }
}

enum Job {
    Verify(ConnectionId, u32, String),
    Command(ConnectionId, u32),
}

/// Keeps what the shard asks for until the dice answer it.
#[derive(Default)]
struct Desk(Mutex<Vec<Job>>);

impl Services for Desk {
    fn verify(&self, from: ConnectionId, request: u32, token: Box<str>) {
        self.0.lock().push(Job::Verify(from, request, token.into()));
    }
    fn command(
        &self,
        from: ConnectionId,
        _client_id: &str,
        _address: Option<std::net::IpAddr>,
        request: u32,
        _command: Command,
    ) {
        self.0.lock().push(Job::Command(from, request));
    }
}

#[derive(Debug)]
struct Permit(Arc<AtomicI64>);

impl ConnectionPermit for Permit {
    fn authenticated(&mut self, _user: &str) -> bool {
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pub(crate) struct World {
    rng: StdRng,
    fault: Fault,
    now: Now,
    hub: Arc<Hub>,
    bell: Arc<Doorbell>,
    broker: Arc<Recorder>,
    desk: Arc<Desk>,
    stats: Arc<ShardStats>,
    log: Arc<Mutex<Log>>,
    engine: Engine,
    calm: Arc<session::Settings>,
    tight: Arc<session::Settings>,
    permits: Arc<AtomicI64>,
    clients: Vec<Client>,
    by_id: HashMap<ConnectionId, usize>,
    // The log's length when the inbox was last empty.
    popped: usize,
    published: u64,
    draining: bool,
    summary: Summary,
}

const CLOSING_MS: u64 = 5_000;

fn endpoint(limits: Limits) -> Arc<session::Settings> {
    Arc::new(session::Settings {
        dialect: Dialect::Native,
        limits,
        auth_mode: Mode::Required,
        anonymous: Arc::new(Identity::anonymous(Arc::default())),
        auth_timeout_ms: 5_000,
        expiry_warning_ms: 30_000,
        heartbeat_interval_ms: 30_000,
        heartbeat_timeout_ms: 60_000,
    })
}

impl World {
    pub(crate) fn new(seed: u64, fault: Fault) -> Self {
        let now = Now {
            mono_ms: 1_000,
            unix_ms: 1_703_836_800_000,
        };
        let mut rng = StdRng::seed_from_u64(seed);
        let credits = [4, 12, 64].choose(&mut rng).copied().unwrap_or(4);
        let (hub, mut inboxes) = Hub::new(hub::Settings { credits }, 1, dialect::encode_event);
        let inbox = inboxes.remove(0);
        let bell = inbox.doorbell().clone();
        let (log, stats, desk) = (
            Arc::<Mutex<Log>>::default(),
            Arc::<ShardStats>::default(),
            Arc::<Desk>::default(),
        );
        let broker = Arc::new(Recorder {
            embedded: Embedded::new(hub.clone()),
            log: log.clone(),
            refused: AtomicI64::new(0),
        });
        let limits = Limits {
            messages_per_second: 1_000,
            commands_per_second: 1_000,
            subscriptions: 12,
            message_bytes: 2_048,
            event_bytes: 1_024,
            outbox_frames: 12,
            outbox_bytes: 4_096,
            reply_frames: 64,
            reply_bytes: 64 * 1024,
        };
        let tight = Limits {
            messages_per_second: 20,
            commands_per_second: 5,
            reply_frames: 10,
            ..limits
        };
        let engine = Engine::new(
            Settings::new(0),
            inbox,
            desk.clone(),
            broker.clone(),
            stats.clone(),
            now,
        );
        Self {
            rng,
            fault,
            now,
            hub,
            bell,
            broker,
            desk,
            stats,
            log,
            engine,
            calm: endpoint(limits),
            tight: endpoint(tight),
            permits: Arc::default(),
            clients: Vec::new(),
            by_id: HashMap::new(),
            popped: 0,
            published: 0,
            draining: false,
            summary: Summary::default(),
        }
    }

    pub(crate) fn run(mut self) -> Result<Summary, String> {
        for step in 0..self.rng.random_range(300..900) {
            self.step().map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        self.settle()?;
        if self.rng.random_bool(0.5) {
            self.engine
                .on_message(ShardMessage::Drain { over_ms: 10_000 }, self.now);
            self.draining = true;
            if self.rng.random_bool(0.2) {
                // A shard that was kept from its work until the time was over.
                self.now = self.now.after_ms(11_000);
                self.run_timers();
            }
        }
        self.end()?;
        let read = self.stats.read();
        self.summary.connections = read.connections_total;
        self.summary.dropped = read.dropped;
        self.summary.endings = read.endings.to_vec();
        self.summary.published = self.log.lock().len() as u64;
        self.summary.parked = self.broker.refused.load(Relaxed).unsigned_abs();
        Ok(self.summary)
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..100) {
            0..=3 if self.clients.len() < 12 => self.connect(),
            0..=29 => self.somebody_sends(),
            30..=44 => self.publish(),
            45..=59 => self.deliver(),
            60..=69 => self.answer_job(),
            70..=77 => self.somebody_changes_pace(),
            78..=79 => self.somebody_leaves(),
            80 => self.operator_disconnects(),
            _ => self.pass_time(),
        }
        if self.rng.random_bool(0.7) {
            self.flush()?;
        }
        self.after()
    }

    fn identity(&mut self, token: &str) -> Result<Arc<Identity>, TokenError> {
        let mut parts = token.split('-');
        let (Some(user), Some(role), Some(ttl_ms)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError::invalid("bad token"));
        };
        let list = |texts: &[&str]| texts.iter().map(|text| Pattern::parse(text).expect("valid")).collect();
        let permissions = match role {
            "admin" => Permissions {
                admin: true,
                ..Permissions::default()
            },
            "wide" => Permissions {
                admin: false,
                channels: list(&["*", "user.*"]),
                commands: list(&["*"]),
                publish: list(&["*", "user.*"]),
            },
            _ => Permissions {
                channels: list(&["market.*"]),
                ..Permissions::default()
            },
        };
        let end_ms = ttl_ms
            .parse()
            .ok()
            .filter(|ttl| *ttl > 0)
            .map(|ttl: u64| self.now.unix_ms + ttl);
        Ok(Arc::new(Identity {
            user: Some(user.into()),
            role: Some(role.into()),
            permissions: Arc::new(permissions),
            expires_at_ms: end_ms,
            exp_ms: end_ms,
            token_id: None,
        }))
    }

    fn token(&mut self) -> String {
        let user = self.rng.random_range(0..2);
        let role = ["admin", "wide", "wide", "wide", "narrow"]
            .choose(&mut self.rng)
            .copied()
            .unwrap_or_default();
        let ttl_ms = if self.rng.random_bool(0.2) {
            self.rng.random_range(1..90_000)
        } else {
            0
        };
        format!("u{user}-{role}-{ttl_ms}")
    }

    fn connect(&mut self) {
        let kind = match self.rng.random_range(0..10) {
            0 => Kind::Flooder,
            1 => Kind::Nonsense,
            2 => Kind::Silent,
            _ => Kind::Calm,
        };
        let settings = if kind == Kind::Flooder {
            self.tight.clone()
        } else {
            self.calm.clone()
        };
        let (identity, explained, admin) = match self.rng.random_range(0..10) {
            0..=3 => (Ok(None), None, false),
            4 if self.rng.random_bool(0.3) => (Err(TokenError::invalid("bad token")), Some(4004), false),
            5 if self.rng.random_bool(0.3) => (Err(TokenError::expired(self.now.unix_ms)), Some(4001), false),
            _ => {
                let token = self.token();
                (self.identity(&token).map(Some), None, token.contains("admin"))
            }
        };
        self.permits.fetch_add(1, Relaxed);
        let has_authenticated = matches!(identity, Ok(Some(_)));
        let arrival = Arrival {
            settings,
            identity,
            address: None,
            nonce: self.rng.random(),
            permit: Box::new(Permit(self.permits.clone())),
        };
        let id = self.engine.adopt(arrival, self.now);
        let mut client = Client::new(id, kind, self.now.mono_ms, &mut self.rng);
        client.has_authenticated = has_authenticated;
        client.model.may_admin = admin;
        client.model.must_admin = admin;
        client.explained.extend(explained);
        self.by_id.insert(id, self.clients.len());
        self.clients.push(client);
    }

    fn somebody(&mut self) -> Option<usize> {
        let open = |client: &Client| !client.eof;
        let open: Vec<usize> = (0..self.clients.len()).filter(|at| open(&self.clients[*at])).collect();
        open.choose(&mut self.rng).copied()
    }

    fn somebody_sends(&mut self) {
        let Some(at) = self.somebody() else { return };
        let token = if self.rng.random_bool(0.9) {
            self.token()
        } else {
            "bad".to_owned()
        };
        let client = &mut self.clients[at];
        let rng = &mut self.rng;
        let times = if client.kind == Kind::Flooder {
            rng.random_range(0..60)
        } else {
            rng.random_range(1..=3)
        };
        for _ in 0..times {
            if client.kind == Kind::Silent
                || client.sent_close
                || client.kind != Kind::Flooder && client.outstanding() > 5
            {
                break;
            }
            match rng.random_range(0..100) {
                0..=2 => client.send_auth(&token, rng),
                _ if !client.has_authenticated && rng.random_bool(0.7) => client.send_auth(&token, rng),
                3 if client.kind == Kind::Nonsense => client.send_nonsense(rng),
                4..=8 => client.send_pong(rng),
                9 if rng.random_bool(0.2) => client.send_close(rng),
                _ => client.send_something(self.fault, rng),
            }
        }
        self.feed(at);
    }

    /// Hands some of a client's bytes to the shard, if it reads.
    fn feed(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.eof || !self.engine.wants_input(client.id) {
            return;
        }
        let log = self.log.lock().len();
        let mut bytes = client.take_bytes(log, self.popped, self.now.mono_ms, &mut self.rng);
        self.engine.on_bytes(client.id, &mut bytes, self.now);
    }

    fn publish(&mut self) {
        for _ in 0..self.rng.random_range(1..8) {
            self.published += 1;
            let channel = CHANNELS.choose(&mut self.rng).copied().unwrap_or_default();
            let data = json!({"id": format!("w{}", self.published), "pad": padding(&mut self.rng)}).to_string();
            let event = NewEvent {
                channel: Channel::parse(channel).expect("valid"),
                name: "e".into(),
                data: data.clone().into(),
                timestamp_ms: self.now.unix_ms,
            };
            let mut publish = self.broker.publish(vec![event]);
            // Without a credit it would wait; this publisher gives up instead.
            if let Poll::Ready(_) = publish.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                self.log.lock().push(channel, data.as_bytes());
            }
        }
    }

    fn deliver(&mut self) {
        let limit = self.rng.random_range(1..12);
        self.engine.deliver(limit);
    }

    fn answer_job(&mut self) {
        let job = {
            let mut jobs = self.desk.0.lock();
            if jobs.is_empty() {
                return;
            }
            let at = self.rng.random_range(0..jobs.len());
            jobs.remove(at)
        };
        let message = match job {
            Job::Verify(to, request, token) => {
                let outcome = self.identity(&token);
                if let (Ok(_), Some(at)) = (&outcome, self.by_id.get(&to)) {
                    self.clients[*at].has_authenticated = true;
                }
                ShardMessage::Verified { to, request, outcome }
            }
            Job::Command(to, request) => {
                let outcome = if self.rng.random_bool(0.5) {
                    CommandOutcome::Success { data: "{}".into() }
                } else {
                    CommandOutcome::Failure {
                        error: r#"{"code":"X","message":""}"#.into(),
                    }
                };
                ShardMessage::Responded { to, request, outcome }
            }
        };
        self.engine.on_message(message, self.now);
    }

    fn somebody_changes_pace(&mut self) {
        let Some(at) = self.somebody() else { return };
        let client = &mut self.clients[at];
        client.stalled_steps = 0;
        client.room = match self.rng.random_range(0..3) {
            0 => usize::MAX,
            1 => self.rng.random_range(1..2_000),
            _ => {
                client.stalled_steps = self.rng.random_range(10..150);
                0
            }
        };
        self.engine.writable(self.clients[at].id);
    }

    fn somebody_leaves(&mut self) {
        let Some(at) = self.somebody() else { return };
        if self.rng.random_bool(0.5) {
            self.hang_up(at);
        }
    }

    /// The client's side ends without a word.
    fn hang_up(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.eof = true;
        client.forget_bytes();
        if self.rng.random_bool(0.5) {
            self.engine.on_end_of_input(client.id, self.now);
        } else {
            self.engine.on_socket_error(client.id, self.now);
        }
    }

    fn operator_disconnects(&mut self) {
        let Some(at) = self.somebody() else { return };
        if self.rng.random_bool(0.7) {
            return;
        }
        let client = &mut self.clients[at];
        client.explained.push(4003);
        let message = ShardMessage::Disconnect {
            id: client.id,
            ending: Disconnect::ByOperator,
            reply: Box::new(|_| {}),
        };
        self.engine.on_message(message, self.now);
    }

    fn pass_time(&mut self) {
        self.now = self.now.after_ms(self.rng.random_range(0..1_500));
        self.run_timers();
    }

    fn run_timers(&mut self) {
        while self.engine.next_timer_ms().is_some_and(|due| due <= self.now.mono_ms) {
            let more = self.engine.run_timers(3, self.now);
            if !more {
                break;
            }
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        while let Some(id) = self.engine.next_dirty() {
            loop {
                let mut slices = [IoSlice::new(&[]); 8];
                let filled = self.engine.pending(id, self.now, &mut slices);
                let mut bytes: Vec<u8> = slices[..filled]
                    .iter()
                    .flat_map(|slice| slice.iter().copied())
                    .collect();
                if bytes.is_empty() {
                    break;
                }
                let at = *self.by_id.get(&id).ok_or("writes to nobody")?;
                let client = &mut self.clients[at];
                let wanted = bytes.len();
                bytes.truncate(client.room);
                client.room -= bytes.len().min(client.room);
                if client.room > usize::MAX / 2 {
                    client.room = usize::MAX;
                }
                if !client.eof {
                    client.receive(&bytes, &self.log.lock(), self.fault, &mut self.rng)?;
                }
                let sent = self.engine.sent(id, bytes.len());
                if bytes.len() < wanted {
                    self.engine.blocked(id);
                    break;
                }
                if sent == Sent::Drained {
                    break;
                }
            }
        }
        Ok(())
    }

    /// What the shard's driver does at the end of each turn, and what must be true then.
    fn after(&mut self) -> Result<(), String> {
        // As a shard that wants to sleep: a bell that rang keeps it awake and makes it try again.
        if !self.bell.fall_asleep() && self.fault != Fault::SilentDoorbell {
            self.bell.answer();
            self.engine.retry_parked(self.now);
        }
        self.bell.answer();
        if self.engine.waiting_events() == 0 {
            self.popped = self.log.lock().len();
        }
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::Resume(_) => {}
                Action::ShutDown(id) => self.peer_sees_the_end(id)?,
                Action::Remove(id) => self.removed(id)?,
            }
        }
        for at in 0..self.clients.len() {
            self.look_at(at);
        }
        self.check_caps()
    }

    fn look_at(&mut self, at: usize) {
        let log = self.log.lock().len();
        let client = &mut self.clients[at];
        if client.stalled_steps > 0 {
            client.stalled_steps -= 1;
            if client.stalled_steps == 0 {
                client.room = usize::MAX;
                self.engine.writable(client.id);
            }
        }
        let is_closing = self.engine.is_closing(client.id);
        if is_closing && !client.is_closing {
            explain(client, self.now.mono_ms, self.draining);
        }
        client.is_closing = is_closing;
        if !is_closing {
            client.alive_popped = self.popped;
        }
        if is_closing || self.engine.wants_input(client.id) {
            client.model.done(log);
        }
    }

    /// All is flushed and the gateway shut its side down.
    fn peer_sees_the_end(&mut self, id: ConnectionId) -> Result<(), String> {
        let at = *self.by_id.get(&id).ok_or("shuts down nobody")?;
        let client = &mut self.clients[at];
        if client.model.closed.is_none() && !client.eof {
            return Err("shut down without a Close frame".into());
        }
        if !client.is_stubborn && !client.eof {
            client.eof = true;
            self.engine.on_end_of_input(id, self.now);
        }
        Ok(())
    }

    fn removed(&mut self, id: ConnectionId) -> Result<(), String> {
        let at = self.by_id.remove(&id).ok_or("removed twice")?;
        let mut client = self.clients.swap_remove(at);
        if let Some(moved) = self.clients.get(at) {
            self.by_id.insert(moved.id, at);
        }
        self.summary.received += client.model.received() as u64;
        let Some(code) = client.model.closed else {
            return Ok(()); // it hung up, or did not read to the end in time
        };
        if client.is_mid_frame() {
            return Err("something after the Close frame".into());
        }
        explain(&mut client, self.now.mono_ms, self.draining);
        if code.is_some_and(|code| !client.explained.contains(&code)) {
            return Err(format!(
                "{:?} closed with {code:?}, explained are {:?}",
                client.kind, client.explained
            ));
        }
        client.model.check_end(client.alive_popped, &self.log.lock())
    }

    fn check_caps(&mut self) -> Result<(), String> {
        let page: Arc<Mutex<ClientsPage>> = Arc::default();
        let reply = page.clone();
        let message = ShardMessage::Clients {
            from_slot: 0,
            limit: usize::MAX,
            user: None,
            reply: Box::new(move |page| *reply.lock() = page),
        };
        self.engine.on_message(message, self.now);
        let page = page.lock();
        if page.clients.len() != self.clients.len() || self.engine.connections() != self.clients.len() {
            return Err(format!(
                "{} connections, not {}",
                page.clients.len(),
                self.clients.len()
            ));
        }
        let limits = self.calm.limits;
        for client in &page.clients {
            // Beside events and replies: the farewell, which knows no bound.
            let most = u64::from(limits.outbox_frames + limits.reply_frames) + 4;
            if client.pending > most || client.subscriptions.len() > limits.subscriptions as usize {
                return Err(format!("over a cap: {client:?}"));
            }
        }
        self.engine.update_stats();
        let open = i64::try_from(self.clients.len()).unwrap_or(i64::MAX);
        let stats = self.stats.read();
        // A lone event may be longer than the bound.
        let bytes_max = i64::from(limits.outbox_bytes);
        if stats.pending_frames > open * i64::from(limits.outbox_frames) || stats.pending_bytes > open * bytes_max {
            return Err(format!("outboxes hold too much: {stats:?}"));
        }
        let held: usize = page.clients.iter().map(|client| client.subscriptions.len()).sum();
        if usize::try_from(stats.subscriptions) != Ok(held) {
            return Err(format!("{} subscriptions counted, {held} held", stats.subscriptions));
        }
        Ok(())
    }

    /// Everybody reads and nobody does anything new, until nothing moves any more.
    fn settle(&mut self) -> Result<(), String> {
        for client in &mut self.clients {
            client.room = usize::MAX;
            client.stalled_steps = 0;
            self.engine.writable(client.id);
        }
        for _ in 0..400 {
            for at in 0..self.clients.len() {
                if self.clients[at].has_bytes() {
                    self.feed(at);
                }
            }
            self.answer_job();
            self.engine.deliver(64);
            self.flush()?;
            self.after()?;
        }
        for client in &mut self.clients {
            let can_answer = client.kind != Kind::Flooder && !client.is_closing && !client.eof;
            if can_answer && !client.model.unanswered().is_empty() {
                return Err(format!("never answered: {:?}", client.model.unanswered()));
            }
            if !client.is_closing && !client.eof {
                client.model.check_end(self.popped, &self.log.lock())?;
            }
        }
        Ok(())
    }

    /// Everybody goes, one way or another; then nothing may be left.
    fn end(&mut self) -> Result<(), String> {
        for _ in 0..200 {
            if let Some(at) = self.somebody()
                && !self.draining
            {
                let client = &mut self.clients[at];
                if self.rng.random_bool(0.5) {
                    self.hang_up(at);
                } else if !client.sent_close {
                    client.send_close(&mut self.rng);
                }
            }
            for at in 0..self.clients.len() {
                self.feed(at);
            }
            self.now = self.now.after_ms(CLOSING_MS / 20);
            self.run_timers();
            self.flush()?;
            self.after()?;
        }
        self.check_nothing_is_left()
    }

    fn check_nothing_is_left(&mut self) -> Result<(), String> {
        if !self.clients.is_empty() {
            let left: Vec<_> = self
                .clients
                .iter()
                .map(|client| (client.id, client.kind, client.is_closing))
                .collect();
            return Err(format!("still there: {left:?}"));
        }
        while self.engine.deliver(64) > 0 {}
        let stats = self.stats.read();
        let left = [
            stats.connections,
            stats.subscriptions,
            stats.pending_frames,
            stats.pending_bytes,
        ];
        if left != [0; 4] || self.permits.load(Relaxed) != 0 {
            return Err(format!("left behind: {left:?}, {} permits", self.permits.load(Relaxed)));
        }
        if stats.endings.iter().sum::<u64>() != stats.connections_total {
            return Err(format!(
                "{} connections ended {:?}",
                stats.connections_total, stats.endings
            ));
        }
        if self.draining && !self.engine.is_finished() {
            return Err("the drain does not end".into());
        }
        self.check_hub()
    }

    fn check_hub(&self) -> Result<(), String> {
        let before = self.hub.stats();
        if before.credits_lent != 0 {
            return Err(format!("{} credits are lost", before.credits_lent));
        }
        for channel in CHANNELS {
            let event = NewEvent {
                channel: Channel::parse(channel).expect("valid"),
                name: "e".into(),
                data: "0".into(),
                timestamp_ms: 0,
            };
            let credit = self.hub.credit_now(0).ok_or("no credit")?;
            self.hub.publish(event, credit, &mut Wakes::default());
        }
        let unwanted = self.hub.stats().unwanted - before.unwanted;
        if unwanted != CHANNELS.len() as u64 {
            return Err(format!(
                "{} channels are still wanted",
                CHANNELS.len() as u64 - unwanted
            ));
        }
        Ok(())
    }
}

/// Adds the endings that time and the client's kind explain.
fn explain(client: &mut Client, now_ms: u64, draining: bool) {
    if now_ms - client.connected_ms >= 5_000 && !client.has_authenticated {
        client.explained.push(4002);
    }
    if now_ms - client.last_input_ms >= 60_000 {
        client.explained.push(4009);
    }
    if client.has_bytes() {
        client.explained.push(1008); // the rest of a message that never went in
    }
    if client.kind == Kind::Flooder {
        client.explained.extend([4008, 4029]);
    }
    if client.has_authenticated {
        client.explained.push(4001);
    }
    if draining {
        client.explained.extend([1001, 1012]);
    }
}
