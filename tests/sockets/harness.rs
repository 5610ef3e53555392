//! A gateway process and clients of it: fastwebsockets' for everything well-behaved, a bare socket for the rest.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocketError};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::Request;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tickgate::auth::{Algorithm, Grant, Key, KeySet, Settings, mint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The HMAC secret of every gateway here.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const ADMIN_KEY: &str = "end-to-end-admin-key";

/// No wait lasts longer; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Awaits `what` with an end.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("{what}: nothing came within {PATIENCE:?}"))
}

/// Polls `condition` until it gives something.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// A token for `claims`, which give at least `sub`.
pub(crate) fn token(subject: &str, role: &str, ttl: Duration) -> String {
    let key = Key::hmac(Algorithm::Hs256, SECRET.as_bytes(), false).expect("a good key");
    let grant = Grant {
        subject: subject.into(),
        role: Some(role.into()),
        ttl_ms: u64::try_from(ttl.as_millis()).expect("short"),
        ..Grant::default()
    };
    mint(
        &grant,
        &KeySet::new(vec![key]),
        &Settings::default(),
        tickgate::time::unix_ms(),
    )
    .expect("signed")
}

/// A trader's token that outlives the test.
pub(crate) fn trader() -> String {
    token("u1", "trader", Duration::from_secs(3600))
}

/// A gateway process. Dropping it kills it.
pub(crate) struct Gateway {
    child: Child,
    directory: tempfile::TempDir,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// Starts one with this configuration, in which `[server]` is written here: `server` holds more of its lines.
    pub(crate) async fn start(server: &str, rest: &str) -> Self {
        Self::start_as(&["serve"], &[], server, rest).await
    }

    /// The same by other `arguments`, and with more in its `environment`.
    pub(crate) async fn start_as(arguments: &[&str], environment: &[(&str, &str)], server: &str, rest: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let toml = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin_listen = \"127.0.0.1:0\"\n{server}\n{rest}\n[log]\nformat = \"json\"\n"
        );
        let file = directory.path().join("tickgate.toml");
        std::fs::write(&file, toml).expect("written");
        let log = std::fs::File::create(directory.path().join("log")).expect("created");
        let out = std::fs::File::create(directory.path().join("out")).expect("created");
        let child = binary()
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .envs(environment.iter().copied())
            .stderr(log)
            .stdout(out)
            .spawn();
        let mut gateway = Self {
            child: child.expect("started"),
            directory,
            public: unset(),
            admin: unset(),
        };
        let (public, admin) = until("the gateway's addresses", async || {
            if let Some(status) = gateway.child.try_wait().expect("asked") {
                panic!("the gateway ended with {status}: {}", gateway.log());
            }
            let log = gateway.log();
            Some((
                address(&log, "listening")?,
                address(&log, "listening for the admin API")?,
            ))
        })
        .await;
        (gateway.public, gateway.admin) = (public, admin);
        gateway
    }

    /// Everything it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("readable")
    }

    /// Everything it printed so far.
    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("out")).expect("readable")
    }

    /// Connects a well-behaved client with `token`.
    pub(crate) async fn connect(&self, token: &str) -> Client {
        self.connect_to(&format!("/ws?token={token}")).await.expect("connected")
    }

    /// Connects a well-behaved client to `target`; the error has the status when it is refused.
    pub(crate) async fn connect_to(&self, target: &str) -> Result<Client, WebSocketError> {
        let stream = TcpStream::connect(self.public).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        let request = Request::get(target)
            .header("Host", self.public.to_string())
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", fastwebsockets::handshake::generate_key())
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let executor = TokioExecutor::new();
        let handshake = fastwebsockets::handshake::client(&executor, request, stream);
        let (mut socket, _) = within("the handshake", handshake).await?;
        socket.set_max_message_size(64 << 20);
        Ok(Client(FragmentCollector::new(socket)))
    }

    /// Connects a client that may misbehave.
    pub(crate) async fn connect_bare(&self, target: &str) -> Bare {
        Bare::upgraded(self.public, target).await
    }

    /// A request to the admin listener with the admin key: status and JSON (`null` when there is none).
    pub(crate) async fn admin(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let (status, body) = self.admin_raw(method, path, body).await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// `GET /metrics`.
    pub(crate) async fn metrics(&self) -> (u16, String) {
        let (status, body) = self.admin_raw("GET", "/metrics", "").await;
        (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    async fn admin_raw(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (u16, Bytes) {
        let stream = TcpStream::connect(self.admin).await.expect("connected");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("an HTTP connection");
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "tickgate")
            .header("Content-Type", "application/json")
            .header("Authorization", format!("Bearer {ADMIN_KEY}"))
            .body(Full::new(body.into()))
            .expect("a request");
        let response = within(path, sender.send_request(request)).await.expect("answered");
        let status = response.status().as_u16();
        let body = within(path, response.into_body().collect())
            .await
            .expect("a body")
            .to_bytes();
        (status, body)
    }

    /// Publishes these events, all of which must be taken.
    pub(crate) async fn publish(&self, events: Vec<Value>) {
        let count = events.len();
        let (status, answer) = self
            .admin("POST", "/api/publish", Value::Array(events).to_string())
            .await;
        assert_eq!((status, &answer["published"]), (200, &json!(count)), "{answer}");
    }

    /// `GET /api/websocket/stats`.
    pub(crate) async fn stats(&self) -> Value {
        let (status, stats) = self.admin("GET", "/api/websocket/stats", "").await;
        assert_eq!(status, 200, "{stats}");
        stats
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        until("the gateway's end", async || self.child.try_wait().expect("asked")).await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{}", self.log());
        }
    }
}

/// The binary with its secrets and nothing else of this process's environment.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_tickgate")));
    command
        .env_clear()
        .env("TICKGATE_JWT_SECRET", SECRET)
        .env("TICKGATE_ADMIN_KEY", ADMIN_KEY);
    command
}

fn unset() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

/// The address in the first log line with this message.
fn address(log: &str, message: &str) -> Option<SocketAddr> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.into_iter().find(|line| line["message"] == message)?;
    line["address"].as_str()?.parse().ok()
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    Message(Value),
    Binary(Vec<u8>),
    /// The close code (1005: none) and reason.
    Closed(u16, String),
    /// The connection ended without a Close frame.
    Lost,
}

/// fastwebsockets' client. It answers pings and Close frames by itself.
pub(crate) struct Client(FragmentCollector<TokioIo<Upgraded>>);

impl Client {
    pub(crate) async fn send(&mut self, message: &Value) {
        let payload = Payload::Owned(message.to_string().into_bytes());
        within("sending", self.0.write_frame(Frame::text(payload)))
            .await
            .expect("sent");
    }

    pub(crate) async fn send_frame(&mut self, frame: Frame<'_>) -> Result<(), WebSocketError> {
        within("sending", self.0.write_frame(frame)).await
    }

    /// The next message that is not a JSON ping.
    pub(crate) async fn next(&mut self) -> Told {
        loop {
            let told = match within("a message", self.0.read_frame()).await {
                Err(_) => Told::Lost,
                Ok(frame) => match frame.opcode {
                    OpCode::Text => Told::Message(serde_json::from_slice(&frame.payload).expect("JSON")),
                    OpCode::Close => closed(&frame.payload),
                    OpCode::Binary => Told::Binary(frame.payload.to_vec()),
                    _ => continue,
                },
            };
            if !matches!(&told, Told::Message(message) if message["type"] == "ping") {
                return told;
            }
        }
    }

    /// The next message, which must be one of this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        match self.next().await {
            Told::Message(message) if message["type"] == kind => message,
            other => panic!("expected {kind}, got {other:?}"),
        }
    }

    /// Subscribes and waits for the answer.
    pub(crate) async fn subscribe(&mut self, channels: &[&str]) -> Value {
        self.send(&json!({"type": "subscribe", "channels": channels})).await;
        self.expect("subscribed").await
    }

    /// Everything up to the end, and the end.
    pub(crate) async fn rest(&mut self) -> (Vec<Value>, Told) {
        let mut messages = Vec::new();
        loop {
            match self.next().await {
                Told::Message(message) => messages.push(message),
                Told::Binary(_) => {}
                end => return (messages, end),
            }
        }
    }
}

fn closed(payload: &[u8]) -> Told {
    match payload {
        [high, low, reason @ ..] => Told::Closed(
            u16::from_be_bytes([*high, *low]),
            String::from_utf8_lossy(reason).into_owned(),
        ),
        _ => Told::Closed(1005, String::new()),
    }
}

/// A bare socket behind a handshake: sends any bytes, reads frames only when asked.
pub(crate) struct Bare {
    stream: TcpStream,
    received: Vec<u8>,
    messages: Vec<Value>,
}

impl Bare {
    pub(crate) async fn upgraded(address: SocketAddr, target: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        let mut bare = Self {
            stream,
            received: Vec::new(),
            messages: Vec::new(),
        };
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        bare.send(request.as_bytes()).await.expect("sent");
        let head = within("the handshake", async {
            loop {
                if let Some(end) = bare.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    return String::from_utf8_lossy(&bare.received.drain(..end + 4).collect::<Vec<_>>()).into_owned();
                }
                assert!(bare.more().await, "the handshake was cut off");
            }
        })
        .await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        bare
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Takes what has come so far, without waiting for more. `Some`: the connection has ended; gives all messages
    /// since the handshake, and the end.
    pub(crate) async fn ended_meanwhile(&mut self) -> Option<(Vec<Value>, Told)> {
        self.ended_within(Duration::from_millis(1)).await
    }

    /// The same, with some waiting.
    pub(crate) async fn ended_within(&mut self, time: Duration) -> Option<(Vec<Value>, Told)> {
        // `take` loses nothing when it is cut off: what was read stays in `received`, what was parsed in `messages`.
        let end = tokio::time::timeout(time, self.take(|_| false)).await.ok()??;
        Some((std::mem::take(&mut self.messages), end))
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.received).await, Ok(1..))
    }

    /// The next frame: opcode and payload; `None` at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((header, length)) = parse_header(&self.received)
                && self.received.len() >= header + length
            {
                let frame: Vec<u8> = self.received.drain(..header + length).collect();
                return Some((frame[0] & 0x0f, frame[header..].to_vec()));
            }
            if !within("a frame", self.more()).await {
                return None;
            }
        }
    }

    /// Reads messages into `messages` until one is `wanted` (`None`) or the connection ends.
    async fn take(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Told> {
        while let Some((opcode, payload)) = self.frame().await {
            match opcode {
                1 => {
                    let message = serde_json::from_slice(&payload).expect("JSON");
                    let found = wanted(&message);
                    self.messages.push(message);
                    if found {
                        return None;
                    }
                }
                8 => return Some(closed(&payload)),
                _ => {}
            }
        }
        Some(Told::Lost)
    }

    /// All messages up to the end, and the end.
    pub(crate) async fn rest(&mut self) -> (Vec<Value>, Told) {
        let end = self.take(|_| false).await.expect("only the end ends it");
        (std::mem::take(&mut self.messages), end)
    }

    /// All messages up to the first of this type.
    pub(crate) async fn until_message(&mut self, kind: &str) -> Vec<Value> {
        let end = self.take(|message| message["type"] == kind).await;
        assert_eq!(end, None, "ended before {kind} came");
        std::mem::take(&mut self.messages)
    }
}

/// Length of the header and of the payload of an unmasked frame, once the header is there.
fn parse_header(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, length) = match *bytes.get(1)? {
        126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        masked if masked >= 128 => panic!("the gateway masked a frame"),
        length => (2, u64::from(length)),
    };
    Some((header, usize::try_from(length).expect("fits")))
}

/// A client's frame, masked with zeros.
pub(crate) fn masked(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | u8::try_from(length).expect("small")),
        length @ ..65536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).expect("fits").to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A client's text message.
pub(crate) fn text(message: &Value) -> Vec<u8> {
    masked(true, 1, message.to_string().as_bytes())
}

/// One event for `/api/publish`.
pub(crate) fn event(channel: &str, number: usize) -> Value {
    json!({"channel": channel, "event": "update", "data": {"n": number}})
}

/// The numbers that [`event`] put into the events of `channel` among `messages`, in order.
pub(crate) fn numbers(messages: &[Value], channel: &str) -> Vec<usize> {
    let of_channel = messages
        .iter()
        .filter(|message| message["type"] == "event" && message["channel"] == channel);
    of_channel
        .map(|message| usize::try_from(message["data"]["n"].as_u64().expect("a number")).expect("fits"))
        .collect()
}

/// A list of messages, shortened for a failure's text.
pub(crate) fn brief(messages: &[Value]) -> String {
    let mut text = String::new();
    for message in messages.iter().take(20) {
        let _ = writeln!(text, "{message}");
    }
    let _ = writeln!(text, "({} in all)", messages.len());
    text
}
