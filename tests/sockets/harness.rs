//! A gateway process for the tests.

#![allow(dead_code, reason = "`tests/recovery` and `tests/sockets` use a part of it each")]

use std::fmt::Write as _;
use std::io::{BufRead as _, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use fastwebsockets::WebSocketError;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tickgate::auth::{Algorithm, Grant, Key, KeySet, Settings, mint};
use tokio::net::TcpStream;

use crate::clients::{Bare, Client};

/// The HMAC secret of every gateway in these tests.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const ADMIN_KEY: &str = "end-to-end-admin-key";

/// The longest wait. A test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Awaits `what` for at most that time.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("{what}: nothing came within {PATIENCE:?}"))
}

/// Polls `condition` until it returns a value.
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

/// A token of this user and role.
pub(crate) fn token(subject: &str, role: &str, ttl: Duration) -> String {
    token_by(SECRET, subject, role, ttl)
}

/// The same, signed with this secret.
pub(crate) fn token_by(secret: &str, subject: &str, role: &str, ttl: Duration) -> String {
    let key = Key::hmac(Algorithm::Hs256, secret.as_bytes(), false).expect("a good key");
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

/// A token of role trader that is valid for longer than the test.
pub(crate) fn trader() -> String {
    token("u1", "trader", Duration::from_secs(3600))
}

/// A gateway process. Dropping it kills it.
pub(crate) struct Gateway {
    child: Child,
    directory: tempfile::TempDir,
    // Standard error, if it is not read.
    unread_log: Option<ChildStderr>,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// Starts a gateway. `server` are further lines of `[server]`, and `rest` are the other sections of the
    /// configuration.
    pub(crate) async fn start(server: &str, rest: &str) -> Self {
        Self::start_as(&["serve"], &[], server, rest).await
    }

    /// As [`start`](Self::start), with other `arguments` and a larger `environment`.
    pub(crate) async fn start_as(arguments: &[&str], environment: &[(&str, &str)], server: &str, rest: &str) -> Self {
        let mut command = binary();
        command.args(arguments).envs(environment.iter().copied());
        Self::launch(command, server, rest).await
    }

    /// Starts a gateway that has no keys and makes its own.
    pub(crate) async fn start_without_keys(server: &str, rest: &str) -> Self {
        let mut command = binary();
        command
            .arg("serve")
            .env_remove("TICKGATE_JWT_SECRET")
            .env_remove("TICKGATE_ADMIN_KEY");
        Self::launch(command, server, rest).await
    }

    /// Starts a gateway and passes it the public socket as systemd does (`sd_listen_fds(3)`): as descriptor 3, with two
    /// variables, one of which is the id of the process.
    pub(crate) async fn start_on(socket: &TcpListener, server: &str) -> Self {
        let mut command = Command::new("sh");
        let passed = socket.try_clone().expect("cloned");
        command.args([
            "-c",
            r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@""#,
        ]);
        command
            .args([env!("CARGO_BIN_EXE_tickgate"), "serve"])
            .stdin(OwnedFd::from(passed));
        Self::launch(with_secrets(command), server, "").await
    }

    /// Starts a gateway whose standard error is a pipe that is not read after the start.
    pub(crate) async fn start_with_unread_log(environment: &[(&str, &str)], server: &str, rest: &str) -> Self {
        let mut command = binary();
        command.arg("serve").envs(environment.iter().copied());
        let mut gateway = Self::spawn(command, server, rest, Some(Stdio::piped()));
        let mut stderr = gateway.child.stderr.take().expect("a pipe");
        let mut log = String::new();
        // Byte by byte, so that nothing is read behind the last line that is needed.
        while Self::find_addresses(&log).is_none() {
            let mut byte = [0];
            stderr.read_exact(&mut byte).expect("the gateway logs its addresses");
            log.push(char::from(byte[0]));
        }
        (gateway.public, gateway.admin) = Self::find_addresses(&log).expect("found");
        gateway.unread_log = Some(stderr);
        gateway
    }

    /// Reads the log from now on, which was not read until now. Returns the lines that come until the process has ended.
    pub(crate) fn read_log(&mut self) -> std::thread::JoinHandle<Vec<String>> {
        let stderr = self.unread_log.take().expect("a log that is not read");
        std::thread::spawn(move || {
            let lines = std::io::BufReader::new(stderr).lines();
            // The first one is the rest of a line that was read.
            lines.skip(1).map(|line| line.expect("text")).collect()
        })
    }

    async fn launch(command: Command, server: &str, rest: &str) -> Self {
        let mut gateway = Self::spawn(command, server, rest, None);
        let (public, admin) = until("the gateway's addresses", async || {
            if let Some(status) = gateway.child.try_wait().expect("asked") {
                panic!("the gateway ended with {status}: {}", gateway.log());
            }
            Self::find_addresses(&gateway.log())
        })
        .await;
        (gateway.public, gateway.admin) = (public, admin);
        gateway
    }

    fn find_addresses(log: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((address(log, "listening")?, address(log, "listening for the admin API")?))
    }

    /// Starts the process. Its standard error is `log`, or the file that [`log`](Self::log) reads.
    fn spawn(mut command: Command, server: &str, rest: &str, log: Option<Stdio>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("tickgate.toml");
        std::fs::write(&file, configuration(server, rest)).expect("written");
        let log_file = std::fs::File::create(directory.path().join("log")).expect("created");
        let log = log.unwrap_or_else(|| log_file.into());
        let out = std::fs::File::create(directory.path().join("out")).expect("created");
        let child = command.arg("--config").arg(&file).stderr(log).stdout(out).spawn();
        Self {
            child: child.expect("started"),
            directory,
            unread_log: None,
            public: unset(),
            admin: unset(),
        }
    }

    /// Replaces the configuration file by that of [`start`](Self::start). The process does not read it by itself.
    pub(crate) fn configure(&self, server: &str, rest: &str) {
        std::fs::write(self.configuration(), configuration(server, rest)).expect("written");
    }

    /// The configuration file.
    pub(crate) fn configuration(&self) -> std::path::PathBuf {
        self.directory.path().join("tickgate.toml")
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("readable")
    }

    /// The output so far.
    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("out")).expect("readable")
    }

    /// Connects a regular client with `token`.
    pub(crate) async fn connect(&self, token: &str) -> Client {
        self.connect_to(&format!("/ws?token={token}")).await.expect("connected")
    }

    /// Connects a regular client to `target`. The error of a refused client has the status.
    pub(crate) async fn connect_to(&self, target: &str) -> Result<Client, WebSocketError> {
        Client::connect(self.public, target).await
    }

    /// Connects a client that may misbehave.
    pub(crate) async fn connect_bare(&self, target: &str) -> Bare {
        Bare::upgraded(self.public, target).await
    }

    /// Sends a request with the admin key. Returns the status and the JSON body, `null` when there is none.
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
        self.try_admin(method, path, body).await.expect("answered")
    }

    /// Sends a request to a gateway that may be shutting down. The error means that the outcome is unknown.
    pub(crate) async fn try_admin(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        self.request((method, path), "application/json", body.into()).await
    }

    /// `GET /metrics` in OpenMetrics, which has exemplars.
    pub(crate) async fn open_metrics(&self) -> String {
        let asked = self.request(("GET", "/metrics"), "application/openmetrics-text", Bytes::new());
        let (status, body) = asked.await.expect("answered");
        assert_eq!(status, 200);
        String::from_utf8(body.to_vec()).expect("UTF-8")
    }

    async fn request(
        &self,
        (method, path): (&str, &str),
        accept: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.admin).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "tickgate")
            .header("Accept", accept)
            .header("Content-Type", "application/json")
            .header("Authorization", format!("Bearer {ADMIN_KEY}"))
            .body(Full::new(body))
            .expect("a request");
        let response = within(path, sender.send_request(request)).await?;
        let status = response.status().as_u16();
        let body = within(path, response.into_body().collect()).await?.to_bytes();
        Ok((status, body))
    }

    /// Publishes these events. All of them must be accepted.
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

    /// The process's resident memory in KiB, and its peak since [`forget_peak`](Self::forget_peak).
    pub(crate) fn memory_kb(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("readable");
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .expect("a field");
            let number = line.split_whitespace().next().expect("a number");
            number.parse().expect("a number")
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Begins to measure the peak of the process's memory anew (`proc_pid_clear_refs(5)`).
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("written");
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

    /// Waits until the process has ended.
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

fn configuration(server: &str, rest: &str) -> String {
    format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin_listen = \"127.0.0.1:0\"\n{server}\n{rest}\n[log]\nformat = \"json\"\n"
    )
}

/// The binary with its secrets, and without the environment of the test process.
pub(crate) fn binary() -> Command {
    with_secrets(Command::new(env!("CARGO_BIN_EXE_tickgate")))
}

fn with_secrets(mut command: Command) -> Command {
    command
        .env_clear()
        .env("TICKGATE_JWT_SECRET", SECRET)
        .env("TICKGATE_ADMIN_KEY", ADMIN_KEY);
    command
}

fn unset() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

/// The address in the first log line that has this message.
fn address(log: &str, message: &str) -> Option<SocketAddr> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.into_iter().find(|line| line["message"] == message)?;
    line["address"].as_str()?.parse().ok()
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

/// A list of messages, shortened for the text of a failure.
pub(crate) fn brief(messages: &[Value]) -> String {
    let mut text = String::new();
    for message in messages.iter().take(20) {
        let _ = writeln!(text, "{message}");
    }
    let _ = writeln!(text, "({} in all)", messages.len());
    text
}
