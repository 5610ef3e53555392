//! The environment of the shard in `shard.rs`: endpoints of every dialect, messages of clients, and fake services, which keep
//! the shard's requests until the fuzz input answers them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tickgate::auth::{Identity, Mode, Permissions, TokenError};
use tickgate::session::limits::Limits;
use tickgate::session::{Command, CommandOutcome, Settings};
use tickgate::shard::mailbox::{ConnectionId, ConnectionPermit, Services, ShardMessage};
use tickgate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::dialect::{Dialect, socket_io, typed};
use tickgate_protocol::message::{CommandKey, ErrorCode};

/// Small limits, so that inputs reach them.
const LIMITS: Limits = Limits {
    messages_per_second: 12,
    commands_per_second: 3,
    bytes_per_second: 0,
    subscriptions: 6,
    message_bytes: 2048,
    event_bytes: 1024,
    outbox_frames: 6,
    outbox_bytes: 2048,
    reply_frames: 16,
    reply_bytes: 16 * 1024,
};

const NATIVE: &[&str] = &[
    r#"{"type":"ping","id":1}"#,
    r#"{"type":"subscribe","channels":["grid.*"]}"#,
    r#"{"type":"subscribe","channels":["grid.a.order","*"],"recover":{"grid.a.order":{"epoch":"0","offset":0}}}"#,
    r#"{"type":"subscribe","channels":["*.*.status","market.*"],"id":"s"}"#,
    r#"{"type":"unsubscribe","channels":["grid.*","*"]}"#,
    r#"{"type":"publish","channel":"grid.a.order","event":"filled","data":{"n":1},"id":"p"}"#,
    r#"{"type":"command","id":"c","action":"grid.start","params":{}}"#,
    r#"{"type":"get_status"}"#,
    r#"{"type":"history","channel":"grid.a.order","since":0}"#,
    r#"{"type":"auth","token":"x"}"#,
    r#"{"type":"pong"}"#,
    "[]",
];
const TYPED: &[&str] = &[
    r#"{"type":"ping"}"#,
    r#"{"type":"subscribe","subscription_type":"strategy","target":"volume_wave"}"#,
    r#"{"type":"subscribe","symbols":["x","KOGE/USDT"],"id":"s1"}"#,
    r#"{"type":"unsubscribe","symbol":"x"}"#,
    r#"{"type":"subscribe","channels":["grid.*","system.status"]}"#,
    r#"{"type":"command","id":7,"action":"grid.start","params":null}"#,
    r#"{"type":"get_status"}"#,
    r#"{"type":"auth","token":"x"}"#,
];
const SOCKET_IO: &[&str] = &[
    "40",
    r#"40{"token":"x"}"#,
    r#"42["subscribe",{"channels":["grid.*"]}]"#,
    r#"423["subscribe",{"channels":["*","market.x.price"]}]"#,
    r#"42["subscribe_trading",{"types":["orders"]}]"#,
    r#"42["unsubscribe",{"channels":["grid.*"]}]"#,
    r#"427["command",{"id":"c","action":"grid.start","params":{}}]"#,
    r#"42["get_status"]"#,
    r#"42["auth",{"token":"x"}]"#,
    "2",
    "3",
    "2probe",
    "5",
    "41",
    "1",
    r#"451-["x",{"_placeholder":true,"num":0}]"#,
    "b4AAAA",
    "",
];

/// The settings of one of the endpoints.
pub(crate) fn endpoint(choice: u8) -> Arc<Settings> {
    let utc = typed::Settings::default();
    let naive = typed::Settings {
        timestamps: typed::Timestamps::Naive,
        ..typed::Settings::default()
    };
    let (dialect, auth_mode) = match choice % 6 {
        0 => (Dialect::Native, Mode::Off),
        1 => (Dialect::Native, Mode::Required),
        2 => (Dialect::Typed(Arc::new(utc)), Mode::Optional),
        3 => (Dialect::Typed(Arc::new(naive)), Mode::Off),
        4 => (Dialect::SocketIo(socket_io::Settings::default()), Mode::Optional),
        _ => (Dialect::Echo, Mode::Off),
    };
    Arc::new(Settings {
        dialect,
        limits: LIMITS,
        auth_mode,
        anonymous: identity(None, None),
        auto_subscribe: [pattern("system.status")].into(),
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        tenant_name: None,
        auth_timeout_ms: 5_000,
        expiry_warning_ms: 3_000,
        heartbeat_interval_ms: 25_000,
        refused_values: std::sync::Arc::default(),
        classes: std::sync::Arc::default(),
        heartbeat_timeout_ms: 45_000,
    })
}

/// A message that is meaningful in some state of a session of this dialect.
pub(crate) fn text_for(dialect: &Dialect, choice: u8) -> &'static str {
    let texts = match dialect {
        Dialect::Native | Dialect::Echo => NATIVE,
        Dialect::Typed(_) => TYPED,
        Dialect::SocketIo(_) => SOCKET_IO,
    };
    texts[usize::from(choice) % texts.len()]
}

fn identity(user: Option<&str>, expires_at_ms: Option<u64>) -> Arc<Identity> {
    let anything = || vec![pattern("*"), pattern("user.*")];
    Arc::new(Identity {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: user.map(Into::into),
        role: None,
        permissions: Arc::new(Permissions {
            admin: false,
            gateway: false,
            channels: anything(),
            commands: anything(),
            publish: anything(),
            max_rate: None,
            bytes_per_second: None,
        }),
        expires_at_ms,
        exp_ms: expires_at_ms,
        token_id: None,
        issued_at_ms: None,
    })
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("valid")
}

/// A request of the shard.
#[derive(Clone, Copy)]
enum Pending {
    Token(ConnectionId, u32),
    Command(ConnectionId, u32),
}

/// Keeps the requests of the shard, so that they can be answered late, twice or never.
#[derive(Default)]
pub(crate) struct FakeServices(Mutex<Vec<Pending>>);

impl FakeServices {
    /// An answer to one of the requests. The request is kept, so that it can be answered again, or after its connection has
    /// ended.
    pub(crate) fn answer(&self, which: u8, how: u8, now: Now) -> Option<ShardMessage> {
        let pending = self.0.lock().expect("not poisoned");
        let pending = *pending.get(usize::from(which) % pending.len().max(1))?;
        Some(match pending {
            Pending::Token(to, request) => ShardMessage::Verified {
                to,
                request,
                outcome: match how {
                    0 => Err(TokenError::invalid("no")),
                    1 => Ok(identity(Some("4"), None)),
                    _ => {
                        let expires_at_ms = now.unix_ms + u64::from(how) * 500;
                        Ok(identity(Some(["4", "5"][usize::from(how) % 2]), Some(expires_at_ms)))
                    }
                },
            },
            Pending::Command(to, request) => ShardMessage::Responded {
                to,
                request,
                outcome: match how % 3 {
                    0 => CommandOutcome::Success { data: "{}".into() },
                    1 => CommandOutcome::Failure {
                        error: r#"{"code":"NO"}"#.into(),
                    },
                    _ => CommandOutcome::Refused {
                        code: ErrorCode::BackendUnavailable,
                        message: "gone".into(),
                    },
                },
            },
        })
    }
}

impl Services for FakeServices {
    fn verify(&self, from: ConnectionId, request: u32, _: tickgate_protocol::channel::Tenant, _: Box<str>) {
        self.0.lock().expect("not poisoned").push(Pending::Token(from, request));
    }
    fn command(&self, from: ConnectionId, _: &str, _: Option<IpAddr>, request: u32, _: Command) {
        self.0
            .lock()
            .expect("not poisoned")
            .push(Pending::Command(from, request));
    }
    fn command_status(&self, from: ConnectionId, request: u32, _: &Identity, _: &CommandKey) {
        self.0
            .lock()
            .expect("not poisoned")
            .push(Pending::Command(from, request));
    }
    fn forbidden(&self, _: &str, _: Option<IpAddr>, _: Command) {}
}

/// A permit of the connection limits, which is counted while it exists. One user may have any number of permits, the others at
/// most three.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Permit {
    pub(crate) fn new(held: &Arc<AtomicUsize>) -> Box<Self> {
        held.fetch_add(1, Relaxed);
        Box::new(Self(held.clone()))
    }
}

impl ConnectionPermit for Permit {
    fn authenticated(&mut self, user: &str) -> bool {
        user == "4" || self.0.load(Relaxed) < 4
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
