//! The ingress over real sockets, with mailboxes in place of shards.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

mod descriptors;
mod hand_over;
mod handshakes;
mod limits;
mod pending;
mod polls;
mod proxies;
mod selection;

use super::*;
use crate::auth::{Identity, Mode, Permissions, TokenError};
use crate::broker::{Broker, Origin, Outcomes, Submitted};
use crate::event::NewEvent;
use crate::hub::Receipt;
use crate::metrics::RefusalReason;
use crate::session;
use crate::session::limits::Limits;
use crate::shard::mailbox::{Adopt, Mailbox, ShardMessage, mailbox};
use crate::time::Now;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::message::ErrorCode;

const PATIENCE: Duration = Duration::from_secs(60);

/// Settings for tests: `/ws` (with tokens), `/open` (tokens are ignored) and `/echo`, without limits.
pub(in crate::ingress) fn settings() -> Settings {
    let endpoint = |path: &str, dialect, auth_mode| Endpoint {
        path: path.into(),
        selector: Selector::default(),
        session: session(dialect, auth_mode),
        deflate: true,
        token_refusal: TokenRefusal::Auto,
    };
    Settings {
        listen: Vec::new(),
        socket_mode: 0o600,
        trusted_proxies: TrustedProxies::default(),
        allowed_origins: AllowedOrigins::default(),
        cors_headers: hyper::header::HeaderValue::from_static("authorization, content-type"),
        endpoints: vec![
            endpoint("/ws", Dialect::Native, Mode::Required),
            endpoint("/open", Dialect::Native, Mode::Off),
            endpoint("/echo/", Dialect::Echo, Mode::Optional),
        ],
        tenants: Vec::new(),
        max_connections: 1000,
        max_connections_per_ip: 0,
        max_connections_per_user: 0,
        per_user_overflow: PerUserOverflow::Refuse,
        max_pending: 1000,
        max_pending_per_ip: 0,
        connect_rate: 0,
        handshake_timeout_ms: 5000,
    }
}

fn identity(user: &str) -> Arc<Identity> {
    Arc::new(Identity {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: Some(user.into()),
        role: None,
        permissions: Arc::new(Permissions::default()),
        expires_at_ms: None,
        exp_ms: None,
        token_id: None,
        issued_at_ms: None,
    })
}

fn session(dialect: Dialect, auth_mode: Mode) -> Arc<session::Settings> {
    Arc::new(session::Settings {
        dialect,
        limits: Limits::default(),
        auth_mode,
        anonymous: identity("nobody"),
        auto_subscribe: Box::default(),
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        tenant_name: None,
        auth_timeout_ms: 5000,
        expiry_warning_ms: 30_000,
        heartbeat_interval_ms: 30_000,
        refused_values: std::sync::Arc::default(),
        classes: std::sync::Arc::default(),
        heartbeat_timeout_ms: 60_000,
    })
}

/// Tokens in tests are `user:<name>` or `expired`. Any other token is invalid.
fn verify(token: &str) -> Result<Arc<Identity>, TokenError> {
    match token.strip_prefix("user:") {
        Some(user) => Ok(identity(user)),
        None if token == "expired" => Err(TokenError {
            code: ErrorCode::TokenExpired,
            message: "token expired".into(),
        }),
        None => Err(TokenError {
            code: ErrorCode::TokenInvalid,
            message: "token invalid".into(),
        }),
    }
}

struct NoBroker;

impl Broker for NoBroker {
    fn publish(&self, events: Vec<NewEvent>) -> std::pin::Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(async move { vec![Ok(Receipt::default()); events.len()] })
    }
    fn try_publish(&self, _: Origin, _: NewEvent, _: Now) -> Submitted {
        Submitted::Done(Receipt::default())
    }
}

struct Fixture {
    address: ListenAddress,
    mailboxes: Vec<Mailbox>,
    health: Arc<Health>,
    metrics: Arc<IngressMetrics>,
    ingress: Ingress,
}

fn fixture(change: impl FnOnce(&mut Settings)) -> Fixture {
    fixture_at(&"127.0.0.1:0".parse().expect("an address"), change)
}

fn fixture_at(address: &ListenAddress, change: impl FnOnce(&mut Settings)) -> Fixture {
    fixture_on(address, tokio::runtime::Handle::current(), change)
}

fn fixture_on(
    address: &ListenAddress,
    handshakes: tokio::runtime::Handle,
    change: impl FnOnce(&mut Settings),
) -> Fixture {
    let mut settings = settings();
    change(&mut settings);
    let (shards, mailboxes) = (0..2).map(|_| mailbox(Arc::default(), Arc::default())).unzip();
    let health = Arc::new(Health::new(Arc::new(NoBroker), None));
    let metrics = Arc::<IngressMetrics>::default();
    let parts = Parts {
        verify: Arc::new(|_, token| verify(token)),
        shards,
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        bodies: Arc::new(BodyRoom::new(BODY_BYTES_MAX)),
        clock: Clock::start(),
    };
    let ingress = Ingress::new(settings, parts);
    let listener = Arc::new(Listener::bind(address, 0o600, false).expect("bound"));
    let address = listener.address().clone();
    drop(ingress.serve(listener, handshakes));
    Fixture {
        address,
        mailboxes,
        health,
        metrics,
        ingress,
    }
}

impl Fixture {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.tcp().expect("a TCP listener"))
            .await
            .expect("connected")
    }

    /// Sends `bytes` on a new connection and reads one response.
    async fn exchange(&self, bytes: &[u8]) -> String {
        exchange(&mut self.connect().await, bytes).await
    }

    /// The next connection that a shard gets.
    async fn adopted(&mut self) -> Box<Adopt> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let adopted = self.mailboxes.iter_mut().find_map(|mailbox| match mailbox.pop() {
                Some(ShardMessage::Adopt(adopt)) => Some(adopt),
                _ => None,
            });
            if let Some(adopted) = adopted {
                return adopted;
            }
            assert!(Instant::now() < deadline, "no shard got a connection");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn refused(&self, why: RefusalReason, times: u64) {
        until(&format!("{why:?} {times} times"), || self.metrics.refused(why) >= times).await;
        assert_eq!(self.metrics.refused(why), times);
    }
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> String {
    stream.write_all(bytes).await.expect("sent");
    answer(stream).await
}

/// Reads one response: the head, and the body by its length.
pub(crate) async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let read = async {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => answer.push(byte),
                Err(_) => return answer,
            }
        }
        let head = String::from_utf8_lossy(&answer).to_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split('\r').next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.expect("the announced body");
        answer.extend(body);
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, read).await.expect("an answer in time");
    String::from_utf8(answer).expect("text")
}

/// A valid handshake with some headers replaced (`name: value`), removed (`-name`) or added (`+name: value`).
fn handshake(target: &str, changes: &[&str]) -> Vec<u8> {
    let mut lines = vec![
        "Host: gateway.example".to_owned(),
        "Upgrade: websocket".to_owned(),
        "Connection: keep-alive, Upgrade".to_owned(),
        "Sec-WebSocket-Version: 13".to_owned(),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".to_owned(),
    ];
    for change in changes {
        let name = change.trim_start_matches(['-', '+']).split(':').next().expect("one");
        if !change.starts_with('+') {
            lines.retain(|line| !line.to_lowercase().starts_with(&format!("{}:", name.to_lowercase())));
        }
        if !change.starts_with('-') {
            lines.push(change.trim_start_matches('+').to_owned());
        }
    }
    let mut text = format!("GET {target} HTTP/1.1\r\n");
    for line in lines {
        let _ = write!(text, "{line}\r\n");
    }
    (text + "\r\n").into_bytes()
}

fn has(answer: &str, status: u16, lines: &[&str]) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "expected {status}: {answer}"
    );
    for line in lines {
        assert!(
            answer.to_lowercase().contains(&line.to_lowercase()),
            "expected {line}: {answer}"
        );
    }
}
