//! The shard, the parts around it, and the random steps.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::task::{Context, Waker};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tickgate::auth::TokenError;
use tickgate::broker::Broker;
use tickgate::event::{NewEvent, PublishOptions};
use tickgate::hub::{self, Doorbell, Hub};
use tickgate::metrics::ShardMetrics;
use tickgate::session::{self, CommandOutcome};
use tickgate::shard::Settings;
use tickgate::shard::core::{Arrival, Sent, ShardCore};
use tickgate::shard::mailbox::{ConnectionId, ShardMessage};
use tickgate::time::Now;
use tickgate_protocol::channel::{Channel, Class, Classes, Pattern};
use tickgate_protocol::dialect;
use tickgate_protocol::disconnect::Disconnect;

use crate::client::{CHANNELS, Client, Kind, padding};
use crate::model::Log;
use crate::surroundings::{
    CALM, FakeServices, Fault, Job, Permit, Recorder, Summary, TIGHT, endpoint, identity, random_token,
};

pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) fault: Fault,
    pub(crate) now: Now,
    pub(crate) hub: Arc<Hub>,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) broker: Arc<Recorder>,
    pub(crate) services: Arc<FakeServices>,
    pub(crate) stats: Arc<ShardMetrics>,
    pub(crate) log: Arc<Mutex<Log>>,
    pub(crate) core: ShardCore,
    pub(crate) calm: Arc<session::Settings>,
    pub(crate) tight: Arc<session::Settings>,
    pub(crate) permits: Arc<AtomicI64>,
    pub(crate) clients: Vec<Client>,
    pub(crate) by_id: HashMap<ConnectionId, usize>,
    // The log's length when the inbox was last empty.
    pub(crate) popped: usize,
    pub(crate) published: u64,
    pub(crate) draining: bool,
    pub(crate) summary: Summary,
}

const CLOSING_MS: u64 = 5_000;

impl World {
    pub(crate) fn new(seed: u64, fault: Fault) -> Self {
        let now = Now {
            mono_ms: 1_000,
            unix_ms: 1_703_836_800_000,
        };
        let mut rng = StdRng::seed_from_u64(seed);
        let credits = [4, 12, 64].choose(&mut rng).copied().unwrap_or(4);
        let (hub, mut inboxes) = Hub::new(
            hub::Settings {
                credits,
                classes: without_kept_state(),
                ..hub::Settings::default()
            },
            1,
            dialect::encode_event,
        );
        let inbox = inboxes.remove(0);
        let bell = inbox.doorbell().clone();
        let (log, stats, services) = (
            Arc::<Mutex<Log>>::default(),
            Arc::<ShardMetrics>::default(),
            Arc::<FakeServices>::default(),
        );
        let broker = Arc::new(Recorder::new(hub.clone(), log.clone()));
        let core = ShardCore::new(
            Settings::new(0),
            inbox,
            services.clone(),
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
            services,
            stats,
            log,
            core,
            calm: endpoint(CALM),
            tight: endpoint(TIGHT),
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
            self.core.on_message(ShardMessage::Drain { over_ms: 10_000 }, self.now);
            self.draining = true;
            if self.rng.random_bool(0.2) {
                // Like a shard that was not scheduled until the drain's deadline had passed.
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
        self.summary.parked = self.broker.refused();
        Ok(self.summary)
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..100) {
            0..=3 if self.clients.len() < 12 => self.connect(),
            0..=29 => self.client_sends(),
            30..=44 => self.publish(),
            45..=59 => self.deliver(),
            60..=69 => self.answer_job(),
            70..=77 => self.client_changes_pace(),
            78..=79 => self.client_leaves(),
            80 if self.rng.random_bool(0.5) => self.newer_connection_wants_place(),
            80 => self.operator_disconnects(),
            81 => self.client_floods()?,
            _ => self.pass_time(),
        }
        if self.rng.random_bool(0.7) {
            self.flush()?;
        }
        self.after()
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
                let token = random_token(&mut self.rng);
                (identity(&token, self.now).map(Some), None, token.contains("admin"))
            }
        };
        let has_authenticated = matches!(identity, Ok(Some(_)));
        let arrival = Arrival {
            settings,
            engine_io: None,
            identity,
            address: None,
            nonce: self.rng.random(),
            deflate: None,
            permit: Box::new(Permit::new(self.permits.clone())),
        };
        let id = self.core.adopt(arrival, self.now);
        let mut client = Client::new(id, kind, self.now.mono_ms, &mut self.rng);
        client.has_authenticated = has_authenticated;
        client.model.may_admin = admin;
        client.model.must_admin = admin;
        client.explained.extend(explained);
        self.by_id.insert(id, self.clients.len());
        self.clients.push(client);
    }

    fn random_client(&mut self) -> Option<usize> {
        let open = |client: &Client| !client.eof;
        let open: Vec<usize> = (0..self.clients.len()).filter(|at| open(&self.clients[*at])).collect();
        open.choose(&mut self.rng).copied()
    }

    fn client_sends(&mut self) {
        let Some(at) = self.random_client() else { return };
        let token = if self.rng.random_bool(0.9) {
            random_token(&mut self.rng)
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

    /// Sends far more than the limit of messages in each of three seconds.
    fn client_floods(&mut self) -> Result<(), String> {
        let Some(at) = self.clients.iter().position(|client| client.kind == Kind::Flooder) else {
            return Ok(());
        };
        for _ in 0..4 {
            for _ in 0..150 {
                self.clients[at].send_pong(&mut self.rng);
            }
            for _ in 0..10 {
                self.feed(at);
            }
            self.now = self.now.after_ms(900);
            self.flush()?;
        }
        Ok(())
    }

    /// Passes some of a client's bytes to the shard, if the shard wants input.
    fn feed(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.eof || !self.core.wants_input(client.id) {
            return;
        }
        let log = self.log.lock().len();
        let mut bytes = client.take_bytes(log, self.popped, self.now.mono_ms, &mut self.rng);
        self.core.on_bytes(client.id, &mut bytes, self.now);
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
                options: PublishOptions::default(),
            };
            let mut publish = self.broker.publish(vec![event]);
            // Without a credit the publisher would wait. It gives up instead.
            if publish
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
            {
                self.log.lock().push(channel, data.as_bytes());
            }
        }
    }

    fn deliver(&mut self) {
        let limit = self.rng.random_range(1..12);
        self.core.deliver(limit);
    }

    fn answer_job(&mut self) {
        let job = {
            let mut jobs = self.services.jobs();
            if jobs.is_empty() {
                return;
            }
            let at = self.rng.random_range(0..jobs.len());
            jobs.remove(at)
        };
        let message = match job {
            Job::Verify(to, request, token) => {
                let outcome = identity(&token, self.now);
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
        self.core.on_message(message, self.now);
    }

    fn client_changes_pace(&mut self) {
        let Some(at) = self.random_client() else { return };
        let client = &mut self.clients[at];
        client.stalled_steps = 0;
        client.writable_bytes = match self.rng.random_range(0..3) {
            0 => usize::MAX,
            1 => self.rng.random_range(1..2_000),
            _ => {
                client.stalled_steps = self.rng.random_range(10..150);
                0
            }
        };
        self.core.writable(self.clients[at].id);
    }

    fn client_leaves(&mut self) {
        let Some(at) = self.random_client() else { return };
        if self.rng.random_bool(0.5) {
            self.hang_up(at);
        }
    }

    /// The client's side ends without a Close frame.
    fn hang_up(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.eof = true;
        client.forget_bytes();
        if self.rng.random_bool(0.5) {
            self.core.on_end_of_input(client.id, self.now);
        } else {
            self.core.on_socket_error(client.id, self.now);
        }
    }

    fn operator_disconnects(&mut self) {
        let Some(at) = self.random_client() else { return };
        if self.rng.random_bool(0.7) {
            return;
        }
        let client = &mut self.clients[at];
        client.explained.push(4003);
        let message = ShardMessage::Disconnect {
            tenant: None,
            id: client.id,
            ending: Disconnect::ByOperator,
            reply: Box::new(|_| {}),
        };
        self.core.on_message(message, self.now);
    }

    fn newer_connection_wants_place(&mut self) {
        let Some(at) = self.random_client() else { return };
        let client = &mut self.clients[at];
        client.explained.extend([4005, 4009]);
        self.core
            .on_message(ShardMessage::Challenge { id: client.id }, self.now);
    }

    fn pass_time(&mut self) {
        self.now = self.now.after_ms(self.rng.random_range(0..1_500));
        self.run_timers();
    }

    fn run_timers(&mut self) {
        while self.core.next_timer_ms().is_some_and(|due| due <= self.now.mono_ms) {
            let more = self.core.run_timers(3, self.now);
            if !more {
                break;
            }
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        while let Some(id) = self.core.next_dirty() {
            loop {
                let mut slices = [IoSlice::new(&[]); 8];
                let filled = self.core.pending(id, self.now, &mut slices);
                let mut bytes: Vec<u8> = slices[..filled]
                    .iter()
                    .flat_map(|slice| slice.iter().copied())
                    .collect();
                if bytes.is_empty() {
                    break;
                }
                let at = *self.by_id.get(&id).ok_or("writes to an unknown connection")?;
                let client = &mut self.clients[at];
                let wanted = bytes.len();
                bytes.truncate(client.writable_bytes);
                client.writable_bytes -= bytes.len().min(client.writable_bytes);
                if client.writable_bytes > usize::MAX / 2 {
                    client.writable_bytes = usize::MAX;
                }
                if !client.eof {
                    client.receive(&bytes, &self.log.lock(), self.fault, &mut self.rng)?;
                }
                let sent = self.core.sent(id, bytes.len(), self.now);
                if bytes.len() < wanted {
                    self.core.blocked(id, self.now);
                    break;
                }
                if sent == Sent::Drained {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Lets all clients read and sends nothing new, until everything has settled.
    fn settle(&mut self) -> Result<(), String> {
        for client in &mut self.clients {
            client.writable_bytes = usize::MAX;
            client.stalled_steps = 0;
            self.core.writable(client.id);
        }
        for _ in 0..400 {
            for at in 0..self.clients.len() {
                if self.clients[at].has_bytes() {
                    self.feed(at);
                }
            }
            self.answer_job();
            self.core.deliver(64);
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

    /// Ends all connections, one way or another, and checks that no resource is still in use.
    fn end(&mut self) -> Result<(), String> {
        for _ in 0..200 {
            if let Some(at) = self.random_client()
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
        self.check_no_resource_in_use()
    }
}

// Every event is delivered unchanged, or dropped and reported.
fn without_kept_state() -> Arc<Classes> {
    let all = Pattern::parse("*").expect("valid");
    Arc::new(Classes::new(vec![(all, Class::default())]))
}
