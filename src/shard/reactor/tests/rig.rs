//! A shard that a test drives turn by turn or starts, and clients on real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::*;
use crate::auth::{Identity, Mode, Permissions};
use crate::broker::{Origin, Outcomes, Submitted};
use crate::event::{NewEvent, PublishOptions};
use crate::hub::{self, Hub, Wakes};
use crate::session::limits::Limits;
use crate::session::{self, Command};
use crate::shard::FlushMethod;
use crate::shard::mailbox::{self, ConnectionPermit, ShardHandle, ShardMessage, UnclaimedSocket};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::dialect::{self, Dialect};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::CommandKey;

pub(super) const PATIENCE: Duration = Duration::from_secs(180);

struct Direct(Arc<Hub>);

impl Broker for Direct {
    fn publish(&self, _: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(async { Vec::new() })
    }
    fn try_publish(&self, from: Origin, event: NewEvent, now: Now) -> Submitted {
        let Some(credit) = self.0.try_credit(
            from.connection.shard,
            tickgate_protocol::channel::Tenant::DEFAULT,
            event.data.len(),
        ) else {
            return Submitted::NoRoom(event);
        };
        let mut wakes = Wakes::default();
        let receipt = self.0.publish(event, now, credit, &mut wakes);
        self.0.wake(wakes);
        Submitted::Done(receipt)
    }
}

struct NoServices;

impl Services for NoServices {
    fn verify(&self, _: ConnectionId, _: u32, _: tickgate_protocol::channel::Tenant, _: Box<str>) {}
    fn command(&self, _: ConnectionId, _: &str, _: Option<std::net::IpAddr>, _: u32, _: Command) {}
    fn command_status(&self, _: ConnectionId, _: u32, _: &Identity, _: &CommandKey) {}
    fn forbidden(&self, _: &str, _: Option<std::net::IpAddr>, _: Command) {}
}

#[derive(Debug)]
struct NoPermit;

impl ConnectionPermit for NoPermit {
    fn authenticated(&mut self, _: &str) -> bool {
        true
    }
}

pub(super) fn settings(limits: Limits) -> Arc<session::Settings> {
    let everything = vec![Pattern::parse("*").expect("valid")];
    Arc::new(session::Settings {
        dialect: Dialect::Native,
        limits,
        auth_mode: Mode::Off,
        anonymous: Arc::new(Identity {
            tenant: tickgate_protocol::channel::Tenant::DEFAULT,
            user: None,
            role: None,
            permissions: Arc::new(Permissions {
                admin: true,
                gateway: false,
                channels: everything.clone(),
                commands: Vec::new(),
                publish: everything,
                max_rate: None,
                bytes_per_second: None,
            }),
            expires_at_ms: None,
            exp_ms: None,
            token_id: None,
            issued_at_ms: None,
        }),
        auto_subscribe: Box::default(),
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        tenant_name: None,
        auth_timeout_ms: 5_000,
        expiry_warning_ms: 30_000,
        heartbeat_interval_ms: 3_600_000,
        refused_values: std::sync::Arc::default(),
        classes: std::sync::Arc::default(),
        heartbeat_timeout_ms: 7_200_000,
    })
}

/// One shard, not started yet.
pub(super) struct Shard {
    pub(super) hub: Arc<Hub>,
    pub(super) handle: ShardHandle,
    parts: Option<(Inbox, Mailbox)>,
    settings: Arc<session::Settings>,
    flush: FlushMethod,
    nonce: u64,
}

/// Whether this machine allows io_uring. Many containers do not; then the tests of io_uring print that they did not
/// run.
pub(super) fn has_io_uring() -> bool {
    match Flusher::open(0, FlushMethod::IoUring, &ShardMetrics::default()) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("not run: {error}");
            false
        }
    }
}

impl Shard {
    pub(super) fn new(flush: FlushMethod, credits: u32, limits: Limits) -> Self {
        let (hub, mut inboxes) = Hub::new(
            hub::Settings {
                credits,
                ..hub::Settings::default()
            },
            1,
            dialect::encode_event,
        );
        let inbox = inboxes.remove(0);
        let (handle, mailbox) = mailbox::mailbox(inbox.doorbell().clone(), Arc::default());
        Self {
            hub,
            handle,
            parts: Some((inbox, mailbox)),
            settings: settings(limits),
            flush,
            nonce: 0,
        }
    }

    /// The reactor, to be driven turn by turn.
    pub(super) fn reactor(&mut self) -> Driven {
        let (inbox, mailbox) = self.parts.take().expect("once");
        let poll = open_poll(inbox.doorbell()).expect("a poll");
        let broker = Arc::new(Direct(self.hub.clone()));
        let services = Arc::new(NoServices);
        let settings = self.shard_settings();
        let reactor = Reactor::new(settings, Clock::start(), poll, inbox, mailbox, services, broker);
        Driven {
            reactor: reactor.expect("a reactor"),
            events: Events::with_capacity(POLL_EVENTS),
        }
    }

    /// Starts the shard on a thread of its own.
    pub(super) fn spawn(&mut self) -> std::thread::JoinHandle<()> {
        let (inbox, mailbox) = self.parts.take().expect("once");
        let broker = Arc::new(Direct(self.hub.clone()));
        let settings = self.shard_settings();
        crate::shard::spawn(settings, Clock::start(), inbox, mailbox, Arc::new(NoServices), broker).expect("a thread")
    }

    fn shard_settings(&self) -> Settings {
        Settings {
            flush: self.flush,
            ..Settings::new(0)
        }
    }

    pub(super) fn adopt(&mut self, socket: impl Into<OwnedFd>, unread: &[u8]) {
        self.nonce += 1;
        let adopt = Adopt {
            socket: UnclaimedSocket::new(socket.into()),
            unread: Bytes::copy_from_slice(unread),
            settings: self.settings.clone(),
            engine_io: None,
            identity: Ok(None),
            address: None,
            nonce: self.nonce,
            deflate: None,
            permit: Box::new(NoPermit),
        };
        assert!(self.handle.send(ShardMessage::Adopt(Box::new(adopt))).is_ok());
    }

    /// Publishes an event and rings the doorbell. Returns `false` if there is no credit.
    pub(super) fn try_publish(&self, channel: &str, data: &str) -> bool {
        let Some(credit) = self
            .hub
            .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, data.len())
        else {
            return false;
        };
        let event = NewEvent {
            channel: Channel::parse(channel).expect("valid"),
            name: "n".into(),
            data: data.to_owned().into(),
            timestamp_ms: 1,
            options: PublishOptions::default(),
        };
        let mut wakes = Wakes::default();
        self.hub.publish(event, Now::default(), credit, &mut wakes);
        self.hub.wake(wakes);
        true
    }

    pub(super) fn ended(&self, ending: Disconnect) -> u64 {
        self.handle.metrics().endings(ending)
    }
}

pub(super) struct Driven {
    pub(super) reactor: Reactor,
    pub(super) events: Events,
}

impl Driven {
    /// Makes one turn and polls without waiting. Returns how long the turn would have waited.
    pub(super) fn turn(&mut self) -> Option<Duration> {
        let timeout = self.reactor.turn();
        let poll = Some(Duration::ZERO);
        self.reactor.wait(&mut self.events, poll).expect("a poll");
        timeout
    }

    pub(super) fn turn_until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            self.turn();
            assert!(Instant::now() < deadline, "{what} never happened");
        }
    }

    /// Makes turns until there is nothing to do.
    pub(super) fn settle(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut quiet = 0;
        while quiet < 3 {
            let is_quiet = self.turn() != Some(Duration::ZERO) && self.events.is_empty();
            quiet = if is_quiet { quiet + 1 } else { 0 };
            assert!(Instant::now() < deadline, "the shard never becomes idle");
        }
    }
}

/// A client: a socket, and the bytes that it has read.
pub(super) struct Client<S> {
    pub(super) socket: S,
    pub(super) bytes: Vec<u8>,
    pub(super) is_at_end: bool,
}

impl<S: Read + Write> Client<S> {
    pub(super) fn of(socket: S) -> Self {
        Self {
            socket,
            bytes: Vec::new(),
            is_at_end: false,
        }
    }

    pub(super) fn say(&mut self, message: &str) {
        self.socket
            .write_all(&frame(0x81, message.as_bytes()))
            .expect("space in the socket");
    }

    /// Reads all bytes that have arrived. Panics on an error of the connection.
    pub(super) fn read(&mut self) {
        let mut chunk = [0; 64 * 1024];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return self.is_at_end = true,
                Ok(bytes) => self.bytes.extend_from_slice(&chunk[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the connection failed: {error}"),
            }
        }
    }

    /// Takes out the complete frames read so far.
    pub(super) fn take_frames(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        let mut rest = &self.bytes[..];
        loop {
            let (length, head) = match rest {
                [_, 126, high, low, ..] => (usize::from(u16::from_be_bytes([*high, *low])), 4),
                [_, length @ ..126, ..] => (usize::from(*length), 2),
                _ => break,
            };
            if rest.len() < head + length {
                break;
            }
            frames.push((rest[0], rest[head..head + length].to_vec()));
            rest = &rest[head + length..];
        }
        self.bytes = rest.to_vec();
        frames
    }

    pub(super) fn texts(&mut self) -> Vec<serde_json::Value> {
        let texts = self.take_frames().into_iter().filter(|(first, _)| *first == 0x81);
        texts
            .map(|(_, text)| serde_json::from_slice(&text).expect("JSON"))
            .collect()
    }

    pub(super) fn close_code(&mut self) -> Option<u16> {
        let close = self.take_frames().into_iter().find(|(first, _)| *first == 0x88);
        close.map(|(_, payload)| u16::from_be_bytes([payload[0], payload[1]]))
    }
}

pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..126 => bytes.push(0x80 | u8::try_from(length).expect("short")),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).expect("below 64 KiB").to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

pub(super) fn unix() -> (UnixStream, Client<UnixStream>) {
    let (server, client) = UnixStream::pair().expect("a socket pair");
    server.set_nonblocking(true).expect("a mode");
    client.set_nonblocking(true).expect("a mode");
    (server, Client::of(client))
}

pub(super) fn tcp() -> (TcpStream, Client<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
    let (server, _) = listener.accept().expect("a connection");
    server.set_nonblocking(true).expect("a mode");
    client.set_nonblocking(true).expect("a mode");
    (server, Client::of(client))
}

pub(super) fn data(texts: &[serde_json::Value]) -> Vec<u64> {
    let events = texts.iter().filter(|text| text["type"] == "event");
    events.map(|event| event["data"].as_u64().expect("a number")).collect()
}
