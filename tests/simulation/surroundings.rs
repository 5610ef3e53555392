//! The parts that a shard works with: a broker that writes the log, fake services with random answers, connection
//! permits.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, MutexGuard};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tickgate::auth::{Identity, Mode, Permissions, TokenError};
use tickgate::broker::Embedded;
use tickgate::broker::{Broker, Origin, Outcomes, Submitted};
use tickgate::event::NewEvent;
use tickgate::hub::Hub;
use tickgate::session::limits::Limits;
use tickgate::session::{self, Command};
use tickgate::shard::mailbox::{ConnectionId, ConnectionPermit, Services};
use tickgate::time::{Clock, Now};
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::CommandKey;

use crate::model::Log;

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// An `unsubscribe` is answered, but the subscription stays.
    KeepsSubscription,
    /// A new subscriber receives an event that was published before it asked.
    EventFromBefore,
    LosesEvent,
    DoublesEvent,
    SwapsEvents,
    /// Dropped events are not reported.
    HidesDrops,
    /// Work that waits for a credit is never retried.
    SilentDoorbell,
}

/// Counts what happened, so that a simulation in which nothing happens is noticed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) connections: u64,
    pub(crate) published: u64,
    pub(crate) received: u64,
    pub(crate) dropped: u64,
    pub(crate) parked: u64,
    pub(crate) endings: Vec<u64>,
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
        // The simulation does not cause these failures of the gateway.
        let unseen = [
            Disconnect::Internal,
            Disconnect::Overload,
            Disconnect::Resync,
            Disconnect::TokenRevoked,
        ];
        for ending in Disconnect::ALL.iter().filter(|ending| !unseen.contains(ending)) {
            assert!(self.endings[*ending as usize] > 0, "no {ending:?}: {self:?}");
        }
    }
}

/// A broker that records the order of publishing.
pub(crate) struct Recorder {
    embedded: Embedded,
    log: Arc<Mutex<Log>>,
    refused: AtomicU64,
}

impl Recorder {
    pub(crate) fn new(hub: Arc<Hub>, log: Arc<Mutex<Log>>) -> Self {
        Self {
            embedded: Embedded::new(hub, Clock::start()),
            log,
            refused: AtomicU64::new(0),
        }
    }

    /// How often a shard had to wait for a credit.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl Broker for Recorder {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        self.embedded.publish(events)
    }

    fn try_publish(&self, from: Origin, event: NewEvent, now: Now) -> Submitted {
        let (channel, data) = (event.channel.clone(), event.data.clone());
        let published = self.embedded.try_publish(from, event, now);
        match &published {
            Submitted::Done(_) => self.log.lock().push(channel.as_str(), &data),
            _ => drop(self.refused.fetch_add(1, Relaxed)),
        }
        published
    }
}

pub(crate) enum Job {
    Verify(ConnectionId, u32, String),
    Command(ConnectionId, u32),
}

/// Keeps the shard's requests until the simulation answers them.
#[derive(Default)]
pub(crate) struct FakeServices(Mutex<Vec<Job>>);

impl FakeServices {
    pub(crate) fn jobs(&self) -> MutexGuard<'_, Vec<Job>> {
        self.0.lock()
    }
}

impl Services for FakeServices {
    fn verify(&self, from: ConnectionId, request: u32, _: tickgate_protocol::channel::Tenant, token: Box<str>) {
        self.0.lock().push(Job::Verify(from, request, token.into()));
    }
    fn command(&self, from: ConnectionId, _: &str, _: Option<IpAddr>, request: u32, _: Command) {
        self.0.lock().push(Job::Command(from, request));
    }
    fn command_status(&self, from: ConnectionId, request: u32, _: &Identity, _: &CommandKey) {
        self.0.lock().push(Job::Command(from, request));
    }
    fn forbidden(&self, _: &str, _: Option<IpAddr>, _: Command) {}
}

#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicI64>);

impl Permit {
    /// Takes a permit, which `count` counts until it is dropped.
    pub(crate) fn new(count: Arc<AtomicI64>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl ConnectionPermit for Permit {
    fn authenticated(&mut self, _user: &str) -> bool {
        true
    }

    fn challenged(&mut self, _has_answered: bool) -> bool {
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pub(crate) fn endpoint(limits: Limits) -> Arc<session::Settings> {
    Arc::new(session::Settings {
        dialect: Dialect::Native,
        limits,
        auth_mode: Mode::Required,
        anonymous: Arc::new(Identity::anonymous(Arc::default())),
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

/// The limits of calm clients: so small that outboxes overflow, but large enough for their replies.
pub(crate) const CALM: Limits = Limits {
    messages_per_second: 1_000,
    commands_per_second: 1_000,
    bytes_per_second: 0,
    subscriptions: 12,
    message_bytes: 2_048,
    event_bytes: 1_024,
    outbox_frames: 12,
    outbox_bytes: 4_096,
    reply_frames: 64,
    reply_bytes: 64 * 1024,
};

/// The limits of flooders.
pub(crate) const TIGHT: Limits = Limits {
    messages_per_second: 20,
    commands_per_second: 5,
    reply_frames: 10,
    ..CALM
};

/// A token for one of two users, of any role. Some expire soon.
pub(crate) fn random_token(rng: &mut StdRng) -> String {
    let user = rng.random_range(0..2);
    let role = ["admin", "wide", "wide", "wide", "narrow"]
        .choose(rng)
        .copied()
        .unwrap_or_default();
    let ttl_ms = if rng.random_bool(0.2) {
        rng.random_range(1..90_000)
    } else {
        0
    };
    format!("u{user}-{role}-{ttl_ms}")
}

/// The identity that a token stands for.
pub(crate) fn identity(token: &str, now: Now) -> Result<Arc<Identity>, TokenError> {
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
            gateway: false,
            channels: list(&["*", "user.*"]),
            commands: list(&["*"]),
            publish: list(&["*", "user.*"]),
            max_rate: None,
            bytes_per_second: None,
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
        .map(|ttl: u64| now.unix_ms + ttl);
    Ok(Arc::new(Identity {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: Some(user.into()),
        role: Some(role.into()),
        permissions: Arc::new(permissions),
        expires_at_ms: end_ms,
        exp_ms: end_ms,
        token_id: None,
        issued_at_ms: None,
    }))
}
