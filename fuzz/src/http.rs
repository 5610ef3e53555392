//! The whole ingress, from the bytes of a connection to the responses: PROXY headers, routing, handshakes and polls.
//!
//! 1. Each response is complete and has a status that the ingress uses. An error has its reason in JSON.
//! 2. A socket is handed to a shard once, after a 101, which is the last response. The shard gets every byte after the request.
//! 3. After the client has left, no connection is counted and no permit is held.
//!
//! Time is virtual, so waiting for a silent client takes no time.

use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tickgate::auth::{Identity, Mode, TokenError};
use tickgate::broker::Embedded;
use tickgate::hub::{Doorbell, Hub, Settings as HubSettings};
use tickgate::ingress::http::{BodyRoom, Health, Listener};
use tickgate::ingress::{
    AllowedOrigins, BODY_BYTES_MAX, Endpoint, Ingress, Parts, PerUserOverflow, Selector, Settings, TokenRefusal,
    TrustedProxies,
};
use tickgate::metrics::IngressMetrics;
use tickgate::session;
use tickgate::session::limits::Limits;
use tickgate::shard::mailbox::polling::{Poll, PollRequest};
use tickgate::shard::mailbox::{Mailbox, ShardMessage, mailbox};
use tickgate::time::Clock;
use tickgate_protocol::dialect::{self, Dialect, socket_io};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};

/// The statuses of the ingress and of hyper's parser.
const STATUSES: &[u16] = &[101, 200, 204, 400, 401, 403, 404, 405, 413, 414, 426, 429, 431, 503];

/// Checks one fuzz input: the choice of an instance, the position at which the client's bytes are split, and these bytes.
pub fn check_input(data: &[u8]) {
    let &[choice, cut, ref sent @ ..] = data else { return };
    thread_local!(static INSTANCES: Instances = Instances::new());
    INSTANCES.with(|instances| {
        let instance = &instances.list[usize::from(choice) % instances.list.len()];
        let cut = usize::from(cut) * sent.len() / 256;
        instances.runtime.block_on(instance.check(&sent[..cut], &sent[cut..]));
    });
}

/// Instances of the ingress in several configurations.
struct Instances {
    runtime: Runtime,
    list: Vec<Instance>,
    _folder: tempfile::TempDir,
}

/// An ingress with the shard behind it.
struct Instance {
    path: PathBuf,
    ingress: Ingress,
    stats: Arc<IngressMetrics>,
    /// The sockets that the shard got, each with the bytes that were read already.
    given: tokio::sync::Mutex<UnboundedReceiver<(StdUnixStream, Bytes)>>,
}

impl Instances {
    fn new() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let list = runtime.block_on(async {
            let configurations = [(false, false), (true, false), (false, true)].into_iter().enumerate();
            configurations
                .map(|(n, (trusts, drains))| Instance::new(folder.path().join(n.to_string()), trusts, drains))
                .collect()
        });
        Self {
            runtime,
            list,
            _folder: folder,
        }
    }
}

impl Instance {
    fn new(path: PathBuf, trusts: bool, drains: bool) -> Self {
        let doorbell = Arc::<Doorbell>::default();
        let (shard, mailbox) = mailbox(Arc::clone(&doorbell), Arc::default());
        let (hub, _inboxes) = Hub::new(HubSettings::default(), 1, dialect::encode_event);
        let health = Arc::new(Health::new(Arc::new(Embedded::new(hub, Clock::start())), None));
        if drains {
            health.drain();
        }
        let stats = Arc::<IngressMetrics>::default();
        let parts = Parts {
            verify: Arc::new(|_, token| verify(token)),
            shards: vec![shard],
            health,
            metrics: Arc::clone(&stats),
            bodies: Arc::new(BodyRoom::new(BODY_BYTES_MAX)),
            clock: Clock::start(),
        };
        let ingress = Ingress::new(settings(trusts), parts);
        let address = format!("unix:{}", path.display()).parse().expect("an address");
        let listener = Arc::new(Listener::bind(&address, 0o600, false).expect("bound"));
        drop(ingress.serve(listener, Handle::current()));
        let (gives, given) = unbounded_channel();
        tokio::spawn(shard_of(mailbox, doorbell, gives));
        Self {
            path,
            ingress,
            stats,
            given: given.into(),
        }
    }

    async fn check(&self, head: &[u8], tail: &[u8]) {
        let mut given = self.given.lock().await;
        let mut client = UnixStream::connect(&self.path).await.expect("connected");
        let mut responses = Vec::new();
        // The ingress may have closed the connection before the second part.
        let _ = client.write_all(head).await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let _ = client.write_all(tail).await;
        let socket = loop {
            tokio::select! {
                biased;
                Some(socket) = given.recv() => break Some(socket),
                // An error is an end too: a close with unread input resets the connection.
                read = client.read_buf(&mut responses) => if !matches!(read, Ok(1..)) { break None },
            }
        };
        if let Some((mut socket, unread)) = socket {
            while matches!(client.try_read_buf(&mut responses), Ok(1..)) {}
            let mut behind = unread.to_vec();
            let ended = socket.read_to_end(&mut behind).expect_err("the client is there");
            assert_eq!(ended.kind(), io::ErrorKind::WouldBlock);
            let sent = [head, tail].concat();
            let request = sent.strip_suffix(&behind[..]).expect("what was sent");
            let is_whole = request.ends_with(b"\n\r\n") || request.ends_with(b"\n\n");
            assert!(is_whole, "{behind:?} are not the bytes after the request");
            assert_eq!(
                check_responses(&responses),
                Some(101),
                "the socket is handed over after a 101"
            );
        } else {
            assert_ne!(check_responses(&responses), Some(101), "no shard got the socket");
        }
        drop(client);
        let mut waits = 0;
        while self.ingress.connections() > 0 || self.stats.pending.get() > 0 || self.ingress.is_answering() {
            waits += 1;
            assert!(waits < 1000, "a connection is still counted");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Checks the responses and returns the status of the last one.
fn check_responses(mut bytes: &[u8]) -> Option<u16> {
    let mut last = None;
    while !bytes.is_empty() {
        assert_ne!(last, Some(101), "a 101 is the last response");
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, rest) = bytes.split_at(end.expect("a whole head") + 4);
        let head = std::str::from_utf8(head).expect("ASCII");
        let status = head
            .strip_prefix("HTTP/1.")
            .and_then(|head| head.get(2..5)?.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no status: {head}"));
        assert!(STATUSES.contains(&status), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().expect("a number"));
        // A response to HEAD has the length of a body that is not sent. No body starts like a response.
        let body = if rest.is_empty() || rest.starts_with(b"HTTP/1.") {
            &[]
        } else {
            rest.get(..length).expect("a whole body")
        };
        if status >= 400 && !body.is_empty() {
            let why: serde_json::Value = serde_json::from_slice(body).expect("JSON");
            assert!(why["error"]["code"].is_string() || why["code"].is_number(), "{why}");
        }
        bytes = &rest[body.len()..];
        last = Some(status);
    }
    last
}

/// A shard that answers the polls of every session id and passes sockets to the test.
async fn shard_of(mut mailbox: Mailbox, doorbell: Arc<Doorbell>, gives: UnboundedSender<(StdUnixStream, Bytes)>) {
    let rung = Arc::new(Notify::new());
    let waker = Arc::clone(&rung);
    doorbell.connect(move || waker.notify_one());
    loop {
        doorbell.answer();
        while let Some(message) = mailbox.pop() {
            match message {
                ShardMessage::Adopt(adopt) => drop(gives.send((adopt.socket.claim().into(), adopt.unread))),
                ShardMessage::Upgrade(upgrade) => drop(gives.send((upgrade.socket.into(), upgrade.unread))),
                ShardMessage::Open(open) => drop(open.answer.send(Bytes::from_static(b"0{}"))),
                ShardMessage::Poll(Poll { request, .. }) => polled(request),
                _ => {}
            }
        }
        if doorbell.fall_asleep() {
            rung.notified().await;
        }
    }
}

fn polled(request: PollRequest) {
    match request {
        PollRequest::Get(reply) => {
            let (answer, body) = oneshot::channel();
            let _ = answer.send(Bytes::from_static(b"6"));
            let _ = reply.send(Ok(body));
        }
        PollRequest::PostHead(reply) | PollRequest::PostBody(_, reply) | PollRequest::MayUpgrade(reply) => {
            let _ = reply.send(Ok(()));
        }
        PollRequest::PostFailed(_) | PollRequest::Gone => {}
    }
}

fn settings(trusts: bool) -> Settings {
    let endpoint = |path: &str, dialect, auth_mode| Endpoint {
        path: path.into(),
        selector: Selector::default(),
        session: session(dialect, auth_mode),
        deflate: true,
        token_refusal: TokenRefusal::Auto,
    };
    let trusted: &[&str] = if trusts { &["unix"] } else { &[] };
    Settings {
        listen: Vec::new(),
        socket_mode: 0o600,
        trusted_proxies: TrustedProxies::parse(trusted).expect("good entries"),
        allowed_origins: AllowedOrigins::parse(&["https://app.example"]).expect("a good entry"),
        cors_headers: hyper::header::HeaderValue::from_static("authorization, content-type"),
        endpoints: vec![
            endpoint("/ws", Dialect::Native, Mode::Required),
            endpoint("/open", Dialect::Native, Mode::Off),
            endpoint("/echo/", Dialect::Echo, Mode::Optional),
            endpoint(
                "/socket.io/",
                Dialect::SocketIo(socket_io::Settings::default()),
                Mode::Optional,
            ),
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

fn session(dialect: Dialect, auth_mode: Mode) -> Arc<session::Settings> {
    Arc::new(session::Settings {
        dialect,
        limits: Limits {
            message_bytes: 512,
            ..Limits::default()
        },
        auth_mode,
        anonymous: identity(),
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

fn identity() -> Arc<Identity> {
    Arc::new(Identity {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: Some("u".into()),
        ..Identity::anonymous(Arc::default())
    })
}

fn verify(token: &str) -> Result<Arc<Identity>, TokenError> {
    match token {
        "good" => Ok(identity()),
        _ => Err(TokenError::invalid("token invalid")),
    }
}
