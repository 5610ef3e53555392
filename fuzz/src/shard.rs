//! A shard under any sequence of operations. Clients of every dialect connect with sockets and polls, send anything, stall and
//! leave. Events are published, answers of services come late, twice or never, and time passes.
//!
//! 1. Nothing panics, and every call returns.
//! 2. After all clients have left, the shard holds no connection, permit, subscription, frame, event or credit.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use tickgate::broker::Embedded;
use tickgate::event::Event;
use tickgate::hub::{Hub, Settings as HubSettings, Wakes};
use tickgate::metrics::ShardMetrics;
use tickgate::session::{Opening, Settings};
use tickgate::shard;
use tickgate::shard::core::{Action, Arrival, Sent, ShardCore};
use tickgate::shard::mailbox::polling::{Open, Poll, PollRequest};
use tickgate::shard::mailbox::{ConnectionId, ShardMessage};
use tickgate::time::{Clock, Now};
use tickgate_protocol::dialect;
use tickgate_protocol::dialect::engine_io::{Revision, SECRET_BYTES, Sid};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::Deflate;
use tokio::sync::oneshot;

use crate::rig::{NOW, client_frame, event};
use crate::services::{FakeServices, Permit, endpoint, text_for};

const CLIENTS_MAX: usize = 8;
/// Few credits, so that publishers run out of them.
const CREDITS: u32 = 64;
const CHANNELS: &[&str] = &[
    "grid.a.order",
    "grid.a.status",
    "market.x.price",
    "user.4.orders",
    "other",
];
const SECRET: [u8; SECRET_BYTES] = *b"0123456789abcdef";

/// One operation. A `client` is an index into the connected clients, modulo their number.
#[derive(Arbitrary, Debug)]
enum Operation<'d> {
    /// A client connects.
    Connect {
        endpoint: u8,
        #[arbitrary(with = window_bits)]
        window_bits: Option<u8>,
        /// For Engine.IO: revision 3 instead of 4.
        is_three: bool,
        /// For Engine.IO: with a poll instead of a socket.
        by_poll: bool,
    },
    /// A client sends a meaningful message.
    SendMessage { client: u8, text: u8 },
    /// A client sends any text, in a frame or as the body of a POST.
    SendText { client: u8, text: &'d [u8] },
    /// A client sends any bytes.
    SendBytes { client: u8, bytes: &'d [u8] },
    /// A client polls with a GET.
    Get { client: u8 },
    /// A client drops its last request.
    AbandonRequest { client: u8 },
    /// A polling client opens a WebSocket to probe.
    Probe {
        client: u8,
        #[arbitrary(with = window_bits)]
        window_bits: Option<u8>,
    },
    /// The socket of a client accepts no more bytes.
    Block { client: u8 },
    /// The socket of a client accepts bytes again.
    Unblock { client: u8 },
    /// The input of a client ends.
    EndInput { client: u8 },
    /// A request of the shard to its services is answered.
    Answer { which: u8, how: u8 },
    /// An event is published.
    Publish {
        #[arbitrary(with = channel)]
        channel: &'static str,
    },
    /// The shard gets an event as a broadcast.
    Broadcast {
        #[arbitrary(with = channel)]
        channel: &'static str,
    },
    /// An operator disconnects one connection or all of a user.
    Disconnect { client: u8, whole_user: bool },
    /// The shard begins a pass.
    BeginTurn,
    /// The shard delivers at most this many events.
    Deliver { events: u8 },
    /// The shard writes at most `16 * blocks + 1` bytes to each dirty connection.
    Write { blocks: u8 },
    /// Time passes, in units of 137 ms.
    Wait { steps: u8 },
    /// The gateway drains, with a deadline in units of 137 ms.
    Drain { steps: u8 },
}

fn window_bits(data: &mut Unstructured<'_>) -> Result<Option<u8>> {
    let bits = data.int_in_range(9..=16)?;
    Ok((bits <= 15).then_some(bits))
}

fn channel(data: &mut Unstructured<'_>) -> Result<&'static str> {
    data.choose(CHANNELS).copied()
}

/// A client, as its driver sees it.
struct Client {
    id: ConnectionId,
    settings: Arc<Settings>,
    has_socket: bool,
    /// For a client that connected with a poll: the number of its last request, and the response that it waits for.
    polls: Option<(u64, Option<oneshot::Receiver<Bytes>>)>,
}

struct World {
    hub: Arc<Hub>,
    services: Arc<FakeServices>,
    stats: Arc<ShardMetrics>,
    permits: Arc<AtomicUsize>,
    core: ShardCore,
    clients: Vec<Client>,
    /// The connections whose sockets were written to.
    written: HashSet<ConnectionId>,
    numbers: u64,
    now: Now,
}

/// Checks one fuzz input: a `Vec<Operation>`.
pub fn check_input(data: &[u8]) {
    let Ok(operations) = Vec::<Operation<'_>>::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let mut world = World::new();
    for operation in operations {
        world.carry_out(operation);
        world.act();
    }
    world.end();
}

impl World {
    fn new() -> Self {
        let settings = HubSettings {
            credits: CREDITS,
            ..HubSettings::default()
        };
        let (hub, mut inboxes) = Hub::new(settings, 1, dialect::encode_event);
        let services = Arc::<FakeServices>::default();
        let stats = Arc::<ShardMetrics>::default();
        let broker = Arc::new(Embedded::new(hub.clone(), Clock::start()));
        let settings = shard::Settings::new(0);
        let core = ShardCore::new(
            settings,
            inboxes.remove(0),
            services.clone(),
            broker,
            stats.clone(),
            NOW,
        );
        Self {
            hub,
            services,
            stats,
            permits: Arc::default(),
            core,
            clients: Vec::new(),
            written: HashSet::new(),
            numbers: 0,
            now: NOW,
        }
    }

    fn client(&mut self, client: u8) -> Option<&mut Client> {
        let count = self.clients.len().max(1);
        self.clients.get_mut(usize::from(client) % count)
    }

    fn id(&mut self, client: u8) -> Option<ConnectionId> {
        self.client(client).map(|client| client.id)
    }

    /// The connection of a client whose socket is written to. A socket that a polling client only probes is not.
    fn written(&mut self, client: u8) -> Option<ConnectionId> {
        let client = self.client(client).filter(|client| client.has_socket)?;
        let (id, is_polled) = (client.id, client.polls.is_some());
        (!is_polled || self.written.contains(&id)).then_some(id)
    }

    fn carry_out(&mut self, operation: Operation<'_>) {
        match operation {
            Operation::Connect {
                endpoint,
                window_bits,
                is_three,
                by_poll,
            } => self.connect(endpoint, window_bits, is_three, by_poll),
            Operation::SendMessage { client, text } => {
                if let Some(found) = self.client(client) {
                    let text = text_for(&found.settings.dialect, text);
                    self.send_text(client, text.as_bytes());
                }
            }
            Operation::SendText { client, text } => self.send_text(client, text),
            Operation::SendBytes { client, bytes } => self.send_bytes(client, bytes),
            Operation::Get { client } => self.get(client),
            Operation::AbandonRequest { client } => self.abandon_request(client),
            Operation::Probe { client, window_bits } => self.probe(client, window_bits),
            Operation::Block { client } => {
                if let Some(id) = self.written(client) {
                    self.core.blocked(id, self.now);
                }
            }
            Operation::Unblock { client } => {
                if let Some(id) = self.written(client) {
                    self.core.writable(id);
                }
            }
            Operation::EndInput { client } => {
                if let Some(id) = self
                    .client(client)
                    .filter(|client| client.has_socket)
                    .map(|client| client.id)
                {
                    self.core.on_end_of_input(id, self.now);
                }
            }
            Operation::Answer { which, how } => {
                if let Some(answer) = self.services.answer(which, how, self.now) {
                    self.tell(answer);
                }
            }
            Operation::Publish { channel } => {
                let event = event(channel);
                if let Some(credit) = self
                    .hub
                    .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, event.data.len())
                {
                    self.hub.publish(event, self.now, credit, &mut Wakes::default());
                }
            }
            Operation::Broadcast { channel } => self.tell(ShardMessage::Broadcast {
                event: Arc::new(Event::new(event(channel), None)),
                reply: Box::new(drop),
            }),
            Operation::Disconnect { client, whole_user } => self.disconnect(client, whole_user),
            Operation::BeginTurn => self.core.begin_turn(self.now),
            Operation::Deliver { events } => drop(self.core.deliver(events.into())),
            Operation::Write { blocks } => self.write(usize::from(blocks) * 16 + 1),
            Operation::Wait { steps } => self.wait(u64::from(steps) * 137),
            Operation::Drain { steps } => {
                let over_ms = u64::from(steps) * 137;
                self.tell(ShardMessage::Drain { over_ms });
            }
        }
    }

    fn connect(&mut self, choice: u8, window_bits: Option<u8>, is_three: bool, by_poll: bool) {
        if self.clients.len() == CLIENTS_MAX {
            return;
        }
        let settings = endpoint(choice);
        let engine_io = settings.dialect.is_engine_io().then_some(Opening {
            revision: if is_three { Revision::Three } else { Revision::Four },
            by_poll,
            secret: SECRET,
            token: None,
        });
        self.numbers += 1;
        let number = self.numbers;
        let (id, polls) = match engine_io {
            Some(opening) if by_poll => {
                let (answer, mut body) = oneshot::channel();
                self.tell(ShardMessage::Open(Box::new(Open {
                    settings: settings.clone(),
                    opening,
                    address: None,
                    nonce: number,
                    permit: Permit::new(&self.permits),
                    number,
                    answer,
                })));
                // During a drain there may be no response.
                let Ok(body) = body.try_recv() else { return };
                let body = std::str::from_utf8(&body).expect("text");
                let sid = body.split('"').nth(3).and_then(Sid::parse).expect("a session id");
                let id = ConnectionId::from_public_bits(sid.connection).expect("an id");
                (id, Some((number, None)))
            }
            engine_io => {
                let arrival = Arrival {
                    settings: settings.clone(),
                    engine_io,
                    identity: Ok(None),
                    address: None,
                    nonce: number,
                    deflate: window_bits.map(|window_bits| Deflate { window_bits }),
                    permit: Permit::new(&self.permits),
                };
                (self.core.adopt(arrival, self.now), None)
            }
        };
        self.clients.push(Client {
            id,
            settings,
            has_socket: polls.is_none(),
            polls,
        });
    }

    /// Sends a text in a frame or as the body of a POST.
    fn send_text(&mut self, client: u8, text: &[u8]) {
        let Some(found) = self.client(client) else { return };
        if found.has_socket {
            return self.send_bytes(client, &client_frame(text));
        }
        let (begun, _begun) = oneshot::channel();
        self.request(client, PollRequest::PostHead(begun));
        let (taken, _taken) = oneshot::channel();
        self.continue_request(client, PollRequest::PostBody(Bytes::copy_from_slice(text), taken));
    }

    fn send_bytes(&mut self, client: u8, bytes: &[u8]) {
        let Some(client) = self.client(client).filter(|client| client.has_socket) else {
            return;
        };
        let id = client.id;
        if self.core.wants_input(id) {
            self.core.on_bytes(id, &mut bytes.to_vec(), self.now);
        }
    }

    fn get(&mut self, client: u8) {
        let (reply, mut answer) = oneshot::channel();
        self.request(client, PollRequest::Get(reply));
        let waits = answer.try_recv().ok().and_then(std::result::Result::ok);
        if let Some((_, waiting)) = self.client(client).and_then(|client| client.polls.as_mut()) {
            *waiting = waits;
        }
    }

    fn abandon_request(&mut self, client: u8) {
        if let Some((_, waiting)) = self.client(client).and_then(|client| client.polls.as_mut()) {
            *waiting = None;
            self.continue_request(client, PollRequest::Gone);
        }
    }

    /// Sends a new request, with a new number.
    fn request(&mut self, client: u8, request: PollRequest) {
        self.numbers += 1;
        let number = self.numbers;
        if let Some((last, _)) = self.client(client).and_then(|client| client.polls.as_mut()) {
            *last = number;
        }
        self.continue_request(client, request);
    }

    /// Sends another message about the last request.
    fn continue_request(&mut self, client: u8, request: PollRequest) {
        let Some(client) = self.client(client) else { return };
        let Some((number, _)) = client.polls else { return };
        let poll = Poll {
            tenant: tickgate_protocol::channel::Tenant::DEFAULT,
            to: client.id,
            secret: SECRET,
            number,
            request,
        };
        self.tell(ShardMessage::Poll(poll));
    }

    fn probe(&mut self, client: u8, window_bits: Option<u8>) {
        let deflate = window_bits.map(|window_bits| Deflate { window_bits });
        let now = self.now;
        let Some(id) = self.id(client) else { return };
        if self
            .core
            .adopt_candidate((id, tickgate_protocol::channel::Tenant::DEFAULT), &SECRET, deflate, now)
            .is_some()
            && let Some(client) = self.client(client)
        {
            client.has_socket = true;
        }
    }

    fn disconnect(&mut self, client: u8, whole_user: bool) {
        let ending = Disconnect::ByOperator;
        if whole_user {
            return self.tell(ShardMessage::DisconnectUser {
                tenant: tickgate_protocol::channel::Tenant::DEFAULT,
                user: "4".into(),
                ending,
                reply: Box::new(drop),
            });
        }
        if let Some(id) = self.id(client) {
            self.tell(ShardMessage::Disconnect {
                tenant: None,
                id,
                ending,
                reply: Box::new(drop),
            });
        }
    }

    fn tell(&mut self, message: ShardMessage) {
        assert!(self.core.on_message(message, self.now).is_none());
        self.core.serve_polls(self.now);
    }

    /// Writes at most `most` bytes to each dirty connection.
    fn write(&mut self, most: usize) {
        let mut dirty = Vec::new();
        while let Some(id) = self.core.next_dirty() {
            dirty.push(id);
        }
        for id in dirty {
            self.written.insert(id);
            let mut slices = [std::io::IoSlice::new(&[]); 16];
            let filled = self.core.pending(id, self.now, &mut slices);
            let bytes: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            let written = bytes.min(most);
            if filled > 0 && self.core.sent(id, written, self.now) == Sent::More {
                self.core.postpone(id);
            }
        }
        self.core.serve_polls(self.now);
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        while self.core.run_timers(64, self.now) {}
    }

    fn act(&mut self) {
        while let Some(action) = self.core.next_action() {
            match action {
                Action::Remove(gone) => self.clients.retain(|client| client.id != gone),
                Action::Drop(id) => {
                    for client in &mut self.clients {
                        client.has_socket &= client.id != id;
                    }
                }
                Action::Resume(_) | Action::ShutDown(_) | Action::AnswerProbe(_) => {}
            }
        }
    }

    fn end(mut self) {
        self.core.retry_parked(self.now);
        for (id, has_socket) in self
            .clients
            .iter()
            .map(|client| (client.id, client.has_socket))
            .collect::<Vec<_>>()
        {
            if has_socket {
                self.core.on_socket_error(id, self.now);
            }
            self.tell(ShardMessage::Disconnect {
                tenant: None,
                id,
                ending: Disconnect::ByOperator,
                reply: Box::new(drop),
            });
            self.act();
        }
        // The last packets of a polling session wait for a poll, for a limited time.
        for _ in 0..3 {
            self.core.begin_turn(self.now);
            while self.core.deliver(1000) > 0 || self.core.is_pressed() {}
            self.core.retry_parked(self.now);
            self.wait(30_000);
            self.act();
        }
        self.core.update_gauges();
        assert_eq!(self.core.connections(), 0);
        assert_eq!(self.permits.load(Relaxed), 0);
        assert_eq!(self.core.queued_frames(), 0);
        assert_eq!(self.stats.subscriptions.get(), 0);
        assert_eq!(self.stats.polling.get(), 0);
        assert_eq!(self.hub.metrics().credits_lent, 0);
    }
}
