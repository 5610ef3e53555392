//! A shard under any sequence of operations: clients of every dialect, by sockets and by polls, that come, say anything,
//! stall and go; events, answers that come late, twice or never; time.
//!
//! 1. Nothing panics and no call hangs.
//! 2. In the end, when everybody has gone, nothing is left: no connection, no place in the limits, no subscription, no
//!    frame, no event in the inbox, no credit.

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
/// Few, so that publishers wait for them.
const CREDITS: u32 = 64;
const CHANNELS: &[&str] = &[
    "grid.a.order",
    "grid.a.status",
    "market.x.price",
    "user.4.orders",
    "other",
];
const SECRET: [u8; SECRET_BYTES] = *b"0123456789abcdef";

/// One step. Who it concerns is a place among the clients there are, counted round and round.
#[derive(Arbitrary, Debug)]
enum Operation<'d> {
    /// A client comes.
    Connect {
        endpoint: u8,
        #[arbitrary(with = window_bits)]
        window_bits: Option<u8>,
        /// Of Engine.IO: the third revision; by a poll and not by a socket.
        is_three: bool,
        by_poll: bool,
    },
    /// It says what makes sense.
    Say { who: u8, text: u8 },
    /// It says anything, in a frame or a packet.
    SayAnything { who: u8, text: &'d [u8] },
    /// It sends anything.
    Send { who: u8, bytes: &'d [u8] },
    /// It asks for what is queued.
    Get { who: u8 },
    /// It does not wait for what it asked last.
    GoAway { who: u8 },
    /// It opens a socket beside its polls.
    Probe {
        who: u8,
        #[arbitrary(with = window_bits)]
        window_bits: Option<u8>,
    },
    /// Its socket takes no more.
    Block { who: u8 },
    /// Its socket takes more.
    Unblock { who: u8 },
    /// It sends no more.
    EndInput { who: u8 },
    /// A question of the shard's is answered.
    Answer { which: u8, how: u8 },
    /// An event is published.
    Publish {
        #[arbitrary(with = channel)]
        channel: &'static str,
    },
    /// An event is sent to everybody.
    Broadcast {
        #[arbitrary(with = channel)]
        channel: &'static str,
    },
    /// The operator ends one connection, or all of a user's.
    Disconnect { who: u8, whole_user: bool },
    /// The shard begins a turn.
    BeginTurn,
    /// It delivers at most so many events.
    Deliver { events: u8 },
    /// It writes at most 16 times so many bytes and one to each dirty connection.
    Write { sixteens: u8 },
    /// Time passes, in steps of 137 ms.
    Wait { steps: u8 },
    /// The gateway ends, in steps of 137 ms.
    Drain { steps: u8 },
}

fn window_bits(data: &mut Unstructured<'_>) -> Result<Option<u8>> {
    let bits = data.int_in_range(9..=16)?;
    Ok((bits <= 15).then_some(bits))
}

fn channel(data: &mut Unstructured<'_>) -> Result<&'static str> {
    data.choose(CHANNELS).copied()
}

/// A client, as far as its driver knows it.
struct Client {
    id: ConnectionId,
    settings: Arc<Settings>,
    has_socket: bool,
    /// It began by polling: what it asked last, and for what it waits.
    polls: Option<(u64, Option<oneshot::Receiver<Bytes>>)>,
}

struct World {
    hub: Arc<Hub>,
    services: Arc<FakeServices>,
    stats: Arc<ShardMetrics>,
    permits: Arc<AtomicUsize>,
    core: ShardCore,
    clients: Vec<Client>,
    /// Whose sockets are written to.
    written: HashSet<ConnectionId>,
    numbers: u64,
    now: Now,
}

/// One fuzz input: a `Vec<Operation>`.
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

    fn client(&mut self, who: u8) -> Option<&mut Client> {
        let count = self.clients.len().max(1);
        self.clients.get_mut(usize::from(who) % count)
    }

    fn id(&mut self, who: u8) -> Option<ConnectionId> {
        self.client(who).map(|client| client.id)
    }

    /// Whose socket is written to: not one beside polls.
    fn written(&mut self, who: u8) -> Option<ConnectionId> {
        let client = self.client(who).filter(|client| client.has_socket)?;
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
            Operation::Say { who, text } => {
                if let Some(client) = self.client(who) {
                    let text = text_for(&client.settings.dialect, text);
                    self.say(who, text.as_bytes());
                }
            }
            Operation::SayAnything { who, text } => self.say(who, text),
            Operation::Send { who, bytes } => self.bytes(who, bytes),
            Operation::Get { who } => self.get(who),
            Operation::GoAway { who } => self.go_away(who),
            Operation::Probe { who, window_bits } => self.probe(who, window_bits),
            Operation::Block { who } => {
                if let Some(id) = self.written(who) {
                    self.core.blocked(id, self.now);
                }
            }
            Operation::Unblock { who } => {
                if let Some(id) = self.written(who) {
                    self.core.writable(id);
                }
            }
            Operation::EndInput { who } => {
                if let Some(id) = self
                    .client(who)
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
                if let Some(credit) = self.hub.credit_now(event.data.len()) {
                    self.hub.publish(event, self.now, credit, &mut Wakes::default());
                }
            }
            Operation::Broadcast { channel } => self.tell(ShardMessage::Broadcast {
                event: Arc::new(Event::new(event(channel), None)),
                reply: Box::new(drop),
            }),
            Operation::Disconnect { who, whole_user } => self.disconnect(who, whole_user),
            Operation::BeginTurn => self.core.begin_turn(self.now),
            Operation::Deliver { events } => drop(self.core.deliver(events.into())),
            Operation::Write { sixteens } => self.write(usize::from(sixteens) * 16 + 1),
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
                // One that comes into a drain may be told nothing.
                let Ok(body) = body.try_recv() else { return };
                let body = std::str::from_utf8(&body).expect("text");
                let sid = body.split('"').nth(3).and_then(Sid::parse).expect("a name");
                let id = ConnectionId::from_public_bits(sid.place).expect("a place");
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

    /// In a frame, or as the body of a POST.
    fn say(&mut self, who: u8, text: &[u8]) {
        let Some(client) = self.client(who) else { return };
        if client.has_socket {
            return self.bytes(who, &client_frame(text));
        }
        let (begun, _begun) = oneshot::channel();
        self.ask(who, PollRequest::PostHead(begun));
        let (taken, _taken) = oneshot::channel();
        self.ask_again(who, PollRequest::PostBody(Bytes::copy_from_slice(text), taken));
    }

    fn bytes(&mut self, who: u8, bytes: &[u8]) {
        let Some(client) = self.client(who).filter(|client| client.has_socket) else {
            return;
        };
        let id = client.id;
        if self.core.wants_input(id) {
            self.core.on_bytes(id, &mut bytes.to_vec(), self.now);
        }
    }

    fn get(&mut self, who: u8) {
        let (reply, mut answer) = oneshot::channel();
        self.ask(who, PollRequest::Get(reply));
        let waits = answer.try_recv().ok().and_then(std::result::Result::ok);
        if let Some((_, waiting)) = self.client(who).and_then(|client| client.polls.as_mut()) {
            *waiting = waits;
        }
    }

    fn go_away(&mut self, who: u8) {
        if let Some((_, waiting)) = self.client(who).and_then(|client| client.polls.as_mut()) {
            *waiting = None;
            self.ask_again(who, PollRequest::Gone);
        }
    }

    /// A request with a number of its own.
    fn ask(&mut self, who: u8, request: PollRequest) {
        self.numbers += 1;
        let number = self.numbers;
        if let Some((last, _)) = self.client(who).and_then(|client| client.polls.as_mut()) {
            *last = number;
        }
        self.ask_again(who, request);
    }

    /// More of the last request.
    fn ask_again(&mut self, who: u8, request: PollRequest) {
        let Some(client) = self.client(who) else { return };
        let Some((number, _)) = client.polls else { return };
        let poll = Poll {
            to: client.id,
            secret: SECRET,
            number,
            request,
        };
        self.tell(ShardMessage::Poll(poll));
    }

    fn probe(&mut self, who: u8, window_bits: Option<u8>) {
        let deflate = window_bits.map(|window_bits| Deflate { window_bits });
        let now = self.now;
        let Some(id) = self.id(who) else { return };
        if self.core.adopt_candidate(id, &SECRET, deflate, now).is_some()
            && let Some(client) = self.client(who)
        {
            client.has_socket = true;
        }
    }

    fn disconnect(&mut self, who: u8, whole_user: bool) {
        let ending = Disconnect::ByOperator;
        if whole_user {
            return self.tell(ShardMessage::DisconnectUser {
                user: "4".into(),
                ending,
                reply: Box::new(drop),
            });
        }
        if let Some(id) = self.id(who) {
            self.tell(ShardMessage::Disconnect {
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

    /// Writes at most so many bytes to each dirty connection.
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
                id,
                ending: Disconnect::ByOperator,
                reply: Box::new(drop),
            });
            self.act();
        }
        // The last words of who is polled wait for a poll, but not for ever.
        for _ in 0..3 {
            self.core.begin_turn(self.now);
            while self.core.deliver(1000) > 0 || self.core.is_pressed() {}
            self.core.retry_parked(self.now);
            self.wait(30_000);
            self.act();
        }
        self.core.update_stats();
        assert_eq!(self.core.connections(), 0);
        assert_eq!(self.permits.load(Relaxed), 0);
        assert_eq!(self.core.queued_frames(), 0);
        assert_eq!(self.stats.subscriptions.get(), 0);
        assert_eq!(self.stats.polling.get(), 0);
        assert_eq!(self.hub.metrics().credits_lent, 0);
    }
}
