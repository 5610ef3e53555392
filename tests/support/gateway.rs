//! A whole gateway in the test process, with HTTP and WebSocket clients over blocking sockets.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tickgate::auth::{self, Algorithm, Grant, Key, KeySet, Mode, mint};
use tickgate::backend::{commands, feeds, ingest};
use tickgate::gateway::{Gateway, Settings};
use tickgate::ingress::{AllowedOrigins, Endpoint, Selector, TokenRefusal, TrustedProxies};
use tickgate::session::limits::Limits;
use tickgate::{admin, hub, ingress, session, shard, time};
use tickgate_protocol::dialect::Dialect;

pub(crate) const ADMIN_KEY: &str = "the-admin-key-of-the-tests";
pub(crate) const VIEWER_KEY: &str = "the-viewer-key-of-the-tests";

/// The longest wait. A test that reaches it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Settings with listeners on loopback, two shards, the endpoint `/ws` with tokens, and `/echo` without.
pub(crate) fn settings() -> Settings {
    let key = Key::hmac(Algorithm::Hs256, b"the-secret-of-the-tests-32-bytes", false).expect("a good key");
    let auth = auth::Settings::default();
    let anonymous = Arc::new(auth.anonymous_identity());
    let session = |dialect, auth_mode| {
        Arc::new(session::Settings {
            dialect,
            limits: Limits::default(),
            auth_mode,
            anonymous: Arc::clone(&anonymous),
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
    };
    let loopback: ingress::ListenAddress = "127.0.0.1:0".parse().expect("an address");
    Settings {
        node: "test".into(),
        shards: 2,
        drain_ms: 500,
        restart_drain_ms: 500,
        ingress: ingress::Settings {
            listen: vec![loopback.clone()],
            socket_mode: 0o660,
            trusted_proxies: TrustedProxies::parse(&["127.0.0.0/8", "::1", "unix"]).expect("good entries"),
            allowed_origins: AllowedOrigins::default(),
            cors_headers: hyper::header::HeaderValue::from_static("authorization, content-type"),
            endpoints: vec![
                Endpoint {
                    path: "/ws".into(),
                    selector: Selector::default(),
                    session: session(Dialect::Native, Mode::Required),
                    deflate: true,
                    token_refusal: TokenRefusal::Auto,
                },
                Endpoint {
                    path: "/echo".into(),
                    selector: Selector::default(),
                    session: session(Dialect::Echo, Mode::Off),
                    deflate: true,
                    token_refusal: TokenRefusal::Auto,
                },
            ],
            tenants: Vec::new(),
            max_connections: 10_000,
            max_connections_per_ip: 0,
            max_connections_per_user: 0,
            per_user_overflow: ingress::PerUserOverflow::Refuse,
            max_pending: 1000,
            max_pending_per_ip: 0,
            connect_rate: 0,
            handshake_timeout_ms: 5_000,
        },
        admin: admin::Settings {
            listen: loopback,
            key: admin::AdminKey::new(ADMIN_KEY),
            viewer_key: admin::AdminKey::new(VIEWER_KEY),
            trace_masks: vec!["pin".into()],
            configuration: Vec::new(),
            publish_body_bytes: 16 * 1024 * 1024,
            publish_body_rate: 16 * 1024,
            max_connections: 4096,
            max_connections_without_key: 1024,
            max_connections_without_key_per_ip: 256,
            log_lines_dropped: Arc::default(),
            reloads: Arc::default(),
            log_control: None,
            event_bytes: 256 * 1024,
            tenants: Vec::new(),
        },
        tenants: Vec::new(),
        hub: hub::Settings::default(),
        publish_per_second: 0,
        shared: None,
        otlp: None,
        snapshot: None,
        memory_bytes: 0,
        deflate_bytes_min: hub::DEFLATE_BYTES_MIN,
        coalesce: shard::CoalescePolicy::AUTO,
        scan_budget: shard::ScanBudget::default(),
        flush: shard::FlushMethod::Auto,
        keys: KeySet::new(vec![key]),
        key_sets: Vec::new(),
        auth,
        commands: commands::Settings::default(),
        feeds: feeds::Settings::default(),
        sources: ingest::Settings::default(),
    }
}

/// A running gateway and its addresses.
pub(crate) struct Running {
    pub(crate) gateway: Gateway,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    keys: KeySet,
}

pub(crate) fn start(change: impl FnOnce(&mut Settings)) -> Running {
    let mut settings = settings();
    change(&mut settings);
    let keys = settings.keys.clone();
    let gateway = Gateway::start(settings).expect("started");
    let public = gateway
        .addresses()
        .iter()
        .find_map(|address| address.tcp())
        .expect("a TCP listener");
    let admin = gateway.admin_address().tcp().expect("a TCP listener");
    Running {
        gateway,
        public,
        admin,
        keys,
    }
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
    /// The code of an error body.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Running {
    /// A token of this user, valid for an hour.
    pub(crate) fn token(&self, user: &str, change: impl FnOnce(&mut Grant)) -> String {
        let mut grant = Grant {
            subject: user.into(),
            ttl_ms: 3_600_000,
            ..Grant::default()
        };
        change(&mut grant);
        mint(&grant, &self.keys, &auth::Settings::default(), time::unix_ms()).expect("a token")
    }

    pub(crate) fn trader(&self, user: &str) -> String {
        self.token(user, |grant| grant.role = Some("trader".into()))
    }

    /// Sends one request with the admin key to the admin listener.
    pub(crate) fn admin(&self, method: &str, target: &str, body: &str) -> Answer {
        self.admin_as(Some(ADMIN_KEY), method, target, "", body.as_bytes())
    }

    pub(crate) fn admin_as(
        &self,
        bearer: Option<&str>,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> Answer {
        let authorization = bearer.map_or(String::new(), |bearer| format!("Authorization: Bearer {bearer}\r\n"));
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\n{authorization}{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = connect(self.admin);
        stream.write_all(&[head.as_bytes(), body].concat()).expect("sent");
        answer(&mut stream)
    }

    pub(crate) fn publish(&self, body: &str) -> Answer {
        self.admin("POST", "/api/publish", body)
    }

    /// A WebSocket client on `/ws`.
    pub(crate) fn client(&self, token: &str) -> Client<TcpStream> {
        Client::open(connect(self.public), &format!("/ws?token={token}"))
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Reads one response: the head, and the body by its length.
pub(crate) fn answer(stream: &mut impl Read) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error} after {:?}", head.escape_ascii().to_string()));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().expect("a length"))
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).expect("the body");
    Answer {
        status,
        head,
        body: String::from_utf8(body).expect("text"),
    }
}

/// Polls until the condition holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A frame from the server.
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    Text(String),
    Close(u16),
    Other(u8),
    /// The connection ended.
    End,
}

/// A WebSocket client that reads one frame per call.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn open(mut stream: S, target: &str) -> Self {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let answer = answer(&mut stream);
        assert_eq!(answer.status, 101, "{answer:?}");
        Self { stream }
    }

    /// Sends a text message of at most 65535 bytes, with a mask of zeros.
    pub(crate) fn send(&mut self, text: &str) {
        let mut frame = vec![0x81];
        match u8::try_from(text.len()) {
            Ok(short @ 0..=125) => frame.push(0x80 | short),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write_all(&frame).expect("sent");
    }

    /// The next frame that is not a heartbeat of the gateway. The first heartbeat comes at a random time.
    pub(crate) fn receive(&mut self) -> Received {
        loop {
            match self.frame() {
                Received::Other(0x89) => {}
                Received::Text(text) if text.starts_with(r#"{"type":"ping","#) => {}
                other => return other,
            }
        }
    }

    /// The next frame.
    pub(crate) fn frame(&mut self) -> Received {
        let mut head = [0; 2];
        if self.stream.read_exact(&mut head).is_err() {
            return Received::End;
        }
        let length = match head[1] {
            126 => usize::from(u16::from_be_bytes(self.bytes())),
            127 => usize::try_from(u64::from_be_bytes(self.bytes())).expect("fits"),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).expect("the payload");
        match head[0] {
            0x81 => Received::Text(String::from_utf8(payload).expect("UTF-8")),
            0x88 => Received::Close(u16::from_be_bytes([payload[0], payload[1]])),
            other => Received::Other(other),
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("a header");
        bytes
    }

    /// The next text message.
    pub(crate) fn text(&mut self) -> String {
        match self.receive() {
            Received::Text(text) => text,
            other => panic!("expected a text message: {other:?}"),
        }
    }

    pub(crate) fn json(&mut self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Subscribes, and waits for the confirmation.
    pub(crate) fn subscribe(&mut self, channels: &[&str]) {
        self.send(&serde_json::json!({ "type": "subscribe", "channels": channels }).to_string());
        let answer = self.json();
        assert_eq!(answer["type"], "subscribed", "{answer}");
    }

    /// Skips messages until the Close frame, and returns its code.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.receive() {
                Received::Close(code) => return Some(code),
                Received::End => return None,
                Received::Text(_) | Received::Other(_) => {}
            }
        }
    }
}
