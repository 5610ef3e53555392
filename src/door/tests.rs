//! The door over real sockets, with mailboxes in place of shards.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::auth::{Identity, Mode, Permissions, TokenError};
use crate::dialect::Dialect;
use crate::event::NewEvent;
use crate::hub::{Broker, Receipt};
use crate::limits::Limits;
use crate::mailbox::{Adopt, Mailbox, ShardMessage, mailbox};
use crate::message::ErrorCode;
use crate::stats::Refused;

const PATIENCE: Duration = Duration::from_secs(10);

/// A door's settings for tests: `/ws` (a token is asked for), `/open` (tokens are ignored), `/echo`; no limits.
pub(super) fn settings() -> Settings {
    let endpoint = |path: &str, dialect, auth_mode| Endpoint {
        path: path.into(),
        session: session(dialect, auth_mode),
    };
    Settings {
        listen: Vec::new(),
        trusted_proxies: TrustedProxies::default(),
        allowed_origins: Origins::default(),
        endpoints: vec![
            endpoint("/ws", Dialect::Native, Mode::Required),
            endpoint("/open", Dialect::Native, Mode::Off),
            endpoint("/echo/", Dialect::Echo, Mode::Optional),
        ],
        refuse: Refuse::Auto,
        max_connections: 1000,
        max_connections_per_ip: 0,
        max_connections_per_user: 0,
        connect_rate: 0,
        handshake_timeout_ms: 5000,
    }
}

fn identity(user: &str) -> Arc<Identity> {
    Arc::new(Identity {
        user: Some(user.into()),
        role: None,
        permissions: Arc::new(Permissions::default()),
        expires_at_ms: None,
        exp_ms: None,
        token_id: None,
    })
}

fn session(dialect: Dialect, auth_mode: Mode) -> Arc<session::Settings> {
    Arc::new(session::Settings {
        dialect,
        limits: Limits::default(),
        auth_mode,
        anonymous: identity("nobody"),
        auto_subscribe: Box::default(),
        auth_timeout_ms: 5000,
        expiry_warning_ms: 30_000,
        heartbeat_interval_ms: 30_000,
        heartbeat_timeout_ms: 60_000,
    })
}

/// Tokens in tests are `user:<name>`, `expired`, or bad.
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
    fn publish(&self, events: Vec<NewEvent>) -> std::pin::Pin<Box<dyn Future<Output = Vec<Receipt>> + Send + '_>> {
        Box::pin(async move { vec![Receipt::default(); events.len()] })
    }
    fn try_publish(&self, _: u16, _: NewEvent) -> Result<Receipt, NewEvent> {
        Ok(Receipt::default())
    }
    fn is_ready(&self) -> bool {
        true
    }
}

struct Fixture {
    address: ListenAddress,
    mailboxes: Vec<Mailbox>,
    health: Arc<Health>,
    stats: Arc<DoorStats>,
    door: Arc<Door>,
}

fn fixture(change: impl FnOnce(&mut Settings)) -> Fixture {
    fixture_at(&"127.0.0.1:0".parse().expect("an address"), change)
}

fn fixture_at(address: &ListenAddress, change: impl FnOnce(&mut Settings)) -> Fixture {
    let mut settings = settings();
    change(&mut settings);
    let (shards, mailboxes) = (0..2).map(|_| mailbox(Arc::default(), Arc::default())).unzip();
    let health = Arc::new(Health::new(Arc::new(NoBroker)));
    let stats = Arc::<DoorStats>::default();
    let parts = Parts {
        verify: Arc::new(verify),
        shards,
        health: Arc::clone(&health),
        stats: Arc::clone(&stats),
        clock: Clock::start(),
    };
    let door = Door::new(settings, parts);
    let listener = Arc::new(Listener::bind(address, 0o600).expect("bound"));
    let address = listener.address().clone();
    let _ = door.serve(listener);
    Fixture {
        address,
        mailboxes,
        health,
        stats,
        door,
    }
}

impl Fixture {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.tcp().expect("a TCP listener"))
            .await
            .expect("connected")
    }

    /// Sends `bytes` on a connection of its own and reads one answer.
    async fn exchange(&self, bytes: &[u8]) -> String {
        exchange(&mut self.connect().await, bytes).await
    }

    /// The next connection handed to any shard.
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
            assert!(Instant::now() < deadline, "nothing was handed to a shard");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn refused(&self, why: Refused, times: u64) {
        until(&format!("{why:?} {times} times"), || self.stats.refused(why) >= times).await;
        assert_eq!(self.stats.refused(why), times);
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> String {
    stream.write_all(bytes).await.expect("sent");
    answer(stream).await
}

/// Reads one answer: the head, and as much body as it announces.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
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

/// A good handshake with some lines replaced (`name: value`), left out (`-name`) or added.
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

#[tokio::test]
async fn the_handshake_table() {
    // target, changes to a good handshake, status, lines of the answer
    type Row<'a> = (&'a str, &'a [&'a str], u16, &'a [&'a str]);
    const ACCEPT: &str = "\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    const OLD: &[&str] = &[
        "\r\nsec-websocket-version: 13\r\n",
        "\r\nupgrade: websocket\r\n",
        "UPGRADE_REQUIRED",
    ];
    const TABLE: &[Row<'_>] = &[
        (
            "/open",
            &[],
            101,
            &["\r\nupgrade: websocket\r\n", "\r\nconnection: upgrade\r\n", ACCEPT],
        ),
        ("/open/", &[], 101, &[ACCEPT]),
        ("/echo", &[], 101, &[ACCEPT]),
        ("/echo/", &[], 101, &[ACCEPT]),
        ("/ws", &[], 101, &[ACCEPT]),
        ("/open?token=rubbish&x=1", &[], 101, &[ACCEPT]),
        ("/open", &["Upgrade: h2c, WebSocket"], 101, &[ACCEPT]),
        ("/open", &["Connection: UPGRADE"], 101, &[ACCEPT]),
        (
            "/open",
            &["Connection: keep-alive", "+Connection: upgrade"],
            101,
            &[ACCEPT],
        ),
        ("/open", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="], 101, &[]),
        // The subprotocol is echoed when it is ours; others are served without.
        (
            "/open",
            &["Sec-WebSocket-Protocol: zigquant-v2"],
            101,
            &["\r\nsec-websocket-protocol: zigquant-v2\r\n"],
        ),
        (
            "/open",
            &["Sec-WebSocket-Protocol: v1, zigquant-v2"],
            101,
            &["\r\nsec-websocket-protocol: zigquant-v2\r\n"],
        ),
        (
            "/open",
            &["Sec-WebSocket-Extensions: permessage-deflate"],
            101,
            &[ACCEPT],
        ),
        // Paths.
        ("/", &[], 404, &["NOT_FOUND"]),
        ("/wss", &[], 404, &[]),
        ("/ws//", &[], 404, &[]),
        ("/WS", &[], 404, &[]),
        ("/ws/x", &[], 404, &[]),
        ("/%77s", &[], 404, &[]),
        ("/metrics", &[], 404, &[]),
        ("/api/publish", &[], 404, &[]),
        // The upgrade itself.
        ("/ws", &["-Upgrade"], 426, OLD),
        ("/ws", &["Upgrade: h2c"], 426, OLD),
        ("/ws", &["-Connection"], 426, OLD),
        ("/ws", &["Connection: close"], 426, OLD),
        ("/ws", &["-Sec-WebSocket-Version"], 426, OLD),
        ("/ws", &["Sec-WebSocket-Version: 8"], 426, OLD),
        ("/ws", &["Sec-WebSocket-Version: 13, 8"], 426, OLD),
        ("/ws", &["+Sec-WebSocket-Version: 13"], 426, OLD),
        (
            "/ws",
            &["-Sec-WebSocket-Key"],
            400,
            &["INVALID_MESSAGE", "Sec-WebSocket-Key"],
        ),
        ("/ws", &["Sec-WebSocket-Key: c2hvcnQ="], 400, &[]),
        ("/ws", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE="], 400, &[]),
        ("/ws", &["Sec-WebSocket-Key: ========================"], 400, &[]),
        ("/ws", &["Sec-WebSocket-Key: dGhlIHNhbXBs!SBub25jZQ=="], 400, &[]),
        ("/ws", &["+Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="], 400, &[]),
        ("/ws", &["-Host"], 400, &["Host"]),
        ("/ws", &["+Host: other.example"], 400, &[]),
        ("/ws", &["Host:"], 400, &[]),
        ("/ws", &["Content-Length: 5"], 413, &["\r\nconnection: close\r\n"]),
        ("/ws", &["Transfer-Encoding: chunked"], 413, &[]),
        ("/ws", &["Content-Length: x"], 400, &[]),
        // Origins.
        ("/open", &["Origin: https://gateway.example:8443"], 101, &[]),
        ("/open", &["Origin: https://evil.example"], 403, &["FORBIDDEN"]),
        ("/open", &["Origin: null"], 403, &[]),
        (
            "/open",
            &["Origin: https://gateway.example", "+Origin: https://gateway.example"],
            403,
            &[],
        ),
        // Tokens.
        ("/ws?token=user:u1", &[], 101, &[]),
        ("/ws?token=user%3Au1", &[], 101, &[]),
        ("/ws", &["Authorization: Bearer user:u1"], 101, &[]),
        ("/ws?token=bad", &["Authorization: Bearer user:u1"], 101, &[]),
        ("/ws?token=user:u1", &["Authorization: Basic eDp5"], 101, &[]),
        (
            "/ws?token=bad",
            &[],
            401,
            &[
                "\r\nwww-authenticate: bearer\r\n",
                r#"{"error":{"code":"TOKEN_INVALID","#,
            ],
        ),
        (
            "/ws?token=expired",
            &[],
            401,
            &["\r\ncontent-type: application/json\r\n", "TOKEN_EXPIRED"],
        ),
        ("/ws?token=user:u1", &["Authorization: Bearer bad"], 401, &[]),
        ("/ws?token=", &[], 401, &[]),
        ("/ws", &["Authorization: Bearer"], 401, &[]),
        ("/ws?token=user:u1&token=user:u2", &[], 400, &[]),
        ("/ws?token=%ff", &[], 400, &[]),
        // A browser cannot read a 401.
        ("/ws?token=bad", &["Origin: https://gateway.example"], 101, &[]),
    ];
    let fixture = fixture(|_| {});
    for (target, changes, status, lines) in TABLE {
        let answer = fixture.exchange(&handshake(target, changes)).await;
        has(&answer, *status, lines);
        if *status != 101 && !changes.contains(&"Content-Length: x") {
            assert!(
                answer.contains(r#"{"error":{"code":""#),
                "{target} {changes:?}: {answer}"
            );
        }
        let echoed = changes.iter().any(|line| line.starts_with("Sec-WebSocket-Protocol"));
        assert_eq!(answer.contains("sec-websocket-protocol"), echoed, "{answer}");
    }
}

#[tokio::test]
async fn other_requests_are_answered_and_the_connection_kept() {
    let fixture = fixture(|_| {});
    let mut stream = fixture.connect().await;
    for (request, status, lines) in [
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200, &["ok"][..]),
        ("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", 200, &["ok"]),
        (
            "POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
            405,
            &["\r\nallow: get, head\r\n"],
        ),
        (
            "POST /ws HTTP/1.1\r\nHost: x\r\n\r\n",
            405,
            &["\r\nallow: get\r\n", "METHOD_NOT_ALLOWED"],
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404, &[]),
        (
            "GET /ws HTTP/1.1\r\nHost: x\r\n\r\n",
            426,
            &["\r\nsec-websocket-version: 13\r\n"],
        ),
    ] {
        has(&exchange(&mut stream, request.as_bytes()).await, status, lines);
    }
    fixture.health.drain();
    let answer = exchange(&mut stream, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    has(&answer, 503, &["draining"]);
    let answer = exchange(&mut stream, &handshake("/ws", &[])).await;
    has(&answer, 503, &["\r\nretry-after: 1\r\n", "DRAINING"]);
}

#[tokio::test]
async fn heads_that_http_cannot_read_are_answered() {
    let fixture = fixture(|_| {});
    let long = format!("X: {}", "x".repeat(http::HEAD_BYTES_MAX));
    has(&fixture.exchange(&handshake("/ws", &[&long])).await, 431, &[]);
    let many: Vec<_> = (0..http::HEADER_LINES_MAX).map(|n| format!("X-{n}: 1")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    has(&fixture.exchange(&handshake("/ws", &many)).await, 431, &[]);
    has(&fixture.exchange(b"GARBAGE\r\n\r\n").await, 400, &[]);
    has(
        &fixture.exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await,
        400,
        &[],
    );
    fixture.refused(Refused::Http, 4).await;
    let old = fixture
        .exchange(b"GET /ws HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert!(
        old.starts_with("HTTP/1.0 426 ") || old.starts_with("HTTP/1.1 426 "),
        "{old}"
    );
}

#[tokio::test]
async fn what_follows_the_handshake_reaches_the_shard() {
    let mut fixture =
        fixture(|settings| settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good"));
    let frames: Vec<u8> = (0..5000u32).map(|n| n.to_le_bytes()[0]).collect();
    for prefix in [
        "",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut stream = fixture.connect().await;
        let bytes = [prefix.as_bytes(), &handshake("/open", &[]), &frames].concat();
        stream.write_all(&bytes).await.expect("sent");
        if prefix.starts_with("GET") {
            has(&answer(&mut stream).await, 200, &[]);
        }
        has(&answer(&mut stream).await, 101, &[]);
        let adopt = fixture.adopted().await;
        let mut received = adopt.unread.to_vec();
        let mut socket = from_fd(adopt.socket);
        let mut rest = vec![0; frames.len() - received.len()];
        socket
            .read_exact(&mut rest)
            .await
            .expect("the rest is still in the socket");
        received.extend(rest);
        assert_eq!(received, frames, "behind {prefix:?}");
        socket.write_all(b"hello").await.expect("sent");
        let mut hello = [0; 5];
        stream
            .read_exact(&mut hello)
            .await
            .expect("the shard writes to the same client");
        assert_eq!(&hello, b"hello");
    }
}

/// The shard's end of an adopted TCP connection.
fn from_fd(fd: OwnedFd) -> TcpStream {
    TcpStream::from_std(std::net::TcpStream::from(fd)).expect("a non-blocking socket")
}

#[tokio::test]
async fn connections_carry_who_they_are_and_are_spread() {
    let mut fixture = fixture(|_| {});
    let mut held = Vec::new();
    for (target, origin, user, code) in [
        ("/ws?token=user:u1", None, Some("u1"), None),
        ("/ws", None, None, None),
        ("/open?token=user:u1", None, None, None),
        (
            "/ws?token=bad",
            Some("Origin: http://gateway.example"),
            None,
            Some(ErrorCode::TokenInvalid),
        ),
        (
            "/ws?token=expired",
            Some("Origin: http://gateway.example"),
            None,
            Some(ErrorCode::TokenExpired),
        ),
    ] {
        let mut stream = fixture.connect().await;
        has(
            &exchange(&mut stream, &handshake(target, origin.as_slice())).await,
            101,
            &[],
        );
        let adopt = fixture.adopted().await;
        let (identity, error) = match &adopt.identity {
            Ok(identity) => (identity.as_ref().and_then(|identity| identity.user.as_deref()), None),
            Err(error) => (None, Some(error.code)),
        };
        assert_eq!((identity, error), (user, code), "{target}");
        assert_eq!(adopt.address, Some([127, 0, 0, 1].into()));
        held.push((stream, adopt));
    }
    assert_eq!(fixture.door.connections(), 5);
    held.clear();
    assert_eq!(fixture.door.connections(), 0);

    for n in 1..=10 {
        has(&fixture.exchange(&handshake("/open", &[])).await, 101, &[]);
        until("handed over", || {
            fixture.mailboxes.iter().map(Mailbox::len).sum::<usize>() == n
        })
        .await;
    }
    assert!(
        fixture.mailboxes.iter().all(|mailbox| mailbox.len() == 5),
        "each shard has half of them"
    );
}

#[tokio::test]
async fn refusing_can_be_fixed_to_one_way() {
    for (refuse, status) in [(Refuse::Http, 401), (Refuse::Close, 101)] {
        let fixture = fixture(|settings| settings.refuse = refuse);
        for changes in [&[][..], &["Origin: http://gateway.example"]] {
            has(
                &fixture.exchange(&handshake("/ws?token=bad", changes)).await,
                status,
                &[],
            );
        }
        fixture.refused(Refused::Token, 2).await;
    }
}

#[tokio::test]
async fn limits_are_answered_and_places_come_back() {
    let mut fixture = fixture(|settings| {
        settings.max_connections = 3;
        settings.max_connections_per_user = 1;
        settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good");
        settings.max_connections_per_ip = 2;
    });
    let from = |address: &str, user: &str| {
        handshake(
            &format!("/ws?token=user:{user}"),
            &[&format!("X-Forwarded-For: {address}")],
        )
    };
    has(&fixture.exchange(&from("192.0.2.1", "a")).await, 101, &[]);
    let first = fixture.adopted().await;
    let again = fixture.exchange(&from("192.0.2.1", "a")).await;
    has(&again, 429, &["\r\nretry-after: 10\r\n", "RATE_LIMITED", "this user"]);
    has(&fixture.exchange(&from("192.0.2.1", "b")).await, 101, &[]);
    let _second = fixture.adopted().await;
    has(
        &fixture.exchange(&from("192.0.2.1", "c")).await,
        429,
        &["\r\nretry-after: 10\r\n", "this address"],
    );
    has(&fixture.exchange(&from("192.0.2.2", "c")).await, 101, &[]);
    let _third = fixture.adopted().await;
    has(
        &fixture.exchange(&from("192.0.2.3", "d")).await,
        503,
        &["\r\nretry-after: 10\r\n", "OVERLOADED"],
    );
    drop(first);
    has(&fixture.exchange(&from("192.0.2.3", "a")).await, 101, &[]);
    for (why, times) in [(Refused::PerUser, 1), (Refused::PerAddress, 1), (Refused::Total, 1)] {
        fixture.refused(why, times).await;
    }
}

#[tokio::test]
async fn too_many_handshakes_per_second_are_told_when_to_come_back() {
    let fixture = fixture(|settings| settings.connect_rate = 1);
    has(&fixture.exchange(&handshake("/open", &[])).await, 101, &[]);
    // A burst of one: unless a whole second passes in between, the next one is too fast.
    let mut refused = false;
    for _ in 0..20 {
        let answer = fixture.exchange(&handshake("/open", &[])).await;
        if answer.starts_with("HTTP/1.1 429 ") {
            has(&answer, 429, &["\r\nretry-after: 1\r\n", "RATE_LIMITED"]);
            refused = true;
            break;
        }
    }
    assert!(refused);
    has(
        &fixture.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await,
        200,
        &[],
    );
}

#[tokio::test]
async fn slow_handshakes_end_and_delay_nobody() {
    let mut fixture = fixture(|settings| {
        settings.handshake_timeout_ms = 300;
        settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good");
    });
    let mut slow = Vec::new();
    for beginning in [
        "",
        "GET",
        "GET /ws HTTP/1.1\r\nHost: x\r\n",
        "PROXY TC",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\nGET /",
    ] {
        for _ in 0..10 {
            let mut stream = fixture.connect().await;
            stream.write_all(beginning.as_bytes()).await.expect("sent");
            slow.push(stream);
        }
    }
    has(&fixture.exchange(&handshake("/open", &[])).await, 101, &[]);
    let _healthy = fixture.adopted().await;
    for stream in &mut slow {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .expect("closed in time");
        assert_eq!(read.unwrap_or(0), 0, "nothing is said to it");
    }
    fixture.refused(Refused::Timeout, 50).await;
    until("nobody pending", || fixture.stats.pending.get() == 0).await;
}

#[tokio::test]
async fn trusted_proxies_are_believed_in_any_split_and_others_are_not() {
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x0a\0\0\x01\0\x01\0\x02".as_slice();
    let v1 = b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".as_slice();
    let mut fixture =
        fixture(|settings| settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good"));
    for header in [v1, v2] {
        for split in [1, 5, 12, 15, 20, header.len() - 1, header.len()] {
            let mut stream = fixture.connect().await;
            stream.set_nodelay(true).expect("set");
            stream.write_all(&header[..split]).await.expect("sent");
            stream.flush().await.expect("sent");
            tokio::task::yield_now().await;
            stream.write_all(&header[split..]).await.expect("sent");
            // The header's client is not trusted, so what it forwards is its own invention.
            let answer = exchange(&mut stream, &handshake("/open", &["X-Forwarded-For: 203.0.113.9"])).await;
            has(&answer, 101, &[]);
            assert_eq!(fixture.adopted().await.address, Some([192, 0, 2, 1].into()));
        }
    }
    has(
        &fixture
            .exchange(&handshake("/open", &["X-Forwarded-For: 203.0.113.9"]))
            .await,
        101,
        &[],
    );
    assert_eq!(fixture.adopted().await.address, Some([203, 0, 113, 9].into()));
    assert_eq!(fixture.exchange(b"PROXY NONSENSE\r\n").await, "");
    fixture.refused(Refused::ProxyHeader, 1).await;

    let mut fixture = super::tests::fixture(|_| {});
    has(
        &fixture
            .exchange(&handshake(
                "/open",
                &["X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9"],
            ))
            .await,
        101,
        &[],
    );
    assert_eq!(fixture.adopted().await.address, Some([127, 0, 0, 1].into()));
    has(
        &fixture.exchange(&[v1, &handshake("/open", &[])].concat()).await,
        400,
        &[],
    );
}

#[tokio::test]
async fn unix_sockets_are_served_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path: PathBuf = directory.path().join("public.sock");
    let unix = TrustedProxies::parse(&["unix"]).expect("good");
    let mut fixture = fixture_at(&ListenAddress::Unix(path.clone()), |settings| {
        settings.trusted_proxies = unix
    });
    for (changes, address) in [
        (&["X-Forwarded-For: 192.0.2.1"][..], Some([192, 0, 2, 1].into())),
        (&[], None),
    ] {
        let mut stream = UnixStream::connect(&path).await.expect("connected");
        let bytes = [handshake("/open", changes), b"frame".to_vec()].concat();
        has(&exchange(&mut stream, &bytes).await, 101, &[]);
        let adopt = fixture.adopted().await;
        assert_eq!(adopt.address, address);
        let mut socket = std::os::unix::net::UnixStream::from(adopt.socket);
        std::io::Write::write_all(&mut socket, b"hello").expect("sent");
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.expect("received");
        assert_eq!(&hello, b"hello");
    }
}

const CHILD: &str = "TICKGATE_TEST_DESCRIPTORS_CHILD";

/// Runs in a process of its own, whose limit of descriptors it can lower.
#[test]
fn running_out_of_descriptors_is_survived() {
    if std::env::var_os(CHILD).is_some() {
        return child_with_few_descriptors();
    }
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "door::tests::running_out_of_descriptors_is_survived",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"))
        .lines()
        .map(|line| line.expect("text"));
    let mut said = |what: &str| {
        lines
            .find_map(|line| line.split_once(what).map(|(_, rest)| rest.to_owned()))
            .expect("the child speaks")
    };
    let address: std::net::SocketAddr = said("ADDRESS ").parse().expect("an address");
    // More than the child has descriptors; the kernel accepts them for it.
    let crowd: Vec<_> = (0..80)
        .map(|_| std::net::TcpStream::connect(address).expect("connected"))
        .collect();
    said("PAUSED");
    drop(crowd);
    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    stream.write_all(&handshake("/open", &[])).expect("sent");
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status).expect("an answer");
    assert_eq!(status.trim_end(), "HTTP/1.1 101 Switching Protocols");
    drop(child.stdin.take());
    assert!(child.wait().expect("ended").success());
}

#[tokio::main(flavor = "current_thread")]
async fn child_with_few_descriptors() {
    let fixture = fixture(|settings| settings.handshake_timeout_ms = 60_000);
    let limit = rustix::process::Rlimit {
        current: Some(40),
        maximum: Some(40),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("lowered");
    println!("\nADDRESS {}", fixture.address);
    until("out of descriptors", || fixture.stats.accept.paused.get() > 0).await;
    println!("\nPAUSED");
    // Until the parent hangs up.
    let wait = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    assert_eq!(wait.await.expect("joined").expect("end of input"), 0);
}
