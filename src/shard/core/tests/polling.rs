//! Engine.IO sessions that are polled, probed and upgraded.

mod challenge;
mod upgrades;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::session::Opening;
use crate::shard::mailbox::polling::{Open, Poll, PollError, PollRequest};
use tickgate_protocol::dialect::engine_io::{Revision, SECRET_BYTES, Sid};
use tickgate_protocol::dialect::socket_io;
use tickgate_protocol::wire::Deflate;
use tickgate_protocol::wire::encode::first;

const SECRET: [u8; SECRET_BYTES] = *b"0123456789abcdef";

/// One session, and the client's side of its polls.
struct Client {
    rig: Rig,
    id: ConnectionId,
    numbers: u64,
    opened: String,
    // The compression that the socket negotiates.
    deflate: Option<Deflate>,
}

fn settings(limits: Limits) -> Arc<session::Settings> {
    Arc::new(session::Settings {
        dialect: Dialect::SocketIo(socket_io::Settings::default()),
        heartbeat_interval_ms: 25_000,
        heartbeat_timeout_ms: 45_000,
        ..(*session_settings(Mode::Off, limits)).clone()
    })
}

impl Client {
    /// A session that is opened, connected to the namespace and subscribed.
    fn new(limits: Limits) -> Self {
        let mut client = Self::open(limits, Revision::Four);
        assert_eq!(
            client.post("40\u{1e}42[\"subscribe\",{\"channels\":[\"grid.*\"]}]"),
            Ok(())
        );
        let told = client.poll();
        assert!(told.starts_with("40{") && told.contains("42[\"subscribed\""), "{told}");
        client
    }

    fn open(limits: Limits, revision: Revision) -> Self {
        let mut rig = Rig::new();
        rig.permits.fetch_add(1, Ordering::Relaxed);
        let (answer, mut body) = oneshot::channel();
        let open = Open {
            settings: settings(limits),
            opening: Opening {
                revision,
                by_poll: true,
                secret: SECRET,
                token: None,
            },
            address: None,
            nonce: 7,
            permit: Box::new(Permit {
                held: rig.permits.clone(),
                admits: true,
            }),
            number: 1,
            answer,
        };
        rig.message(ShardMessage::Open(Box::new(open)));
        rig.core.serve_polls(rig.now);
        let opened = text(&body.try_recv().expect("answered at once"));
        let name = opened.split('"').nth(3).expect("a sid").to_owned();
        let sid = Sid::parse(&name).expect("a sid");
        assert_eq!(sid.secret, SECRET);
        Self {
            rig,
            id: ConnectionId::from_public_bits(sid.connection).expect("a place"),
            numbers: 1,
            opened,
            deflate: None,
        }
    }

    fn tell(&mut self, number: u64, request: PollRequest) {
        self.tell_as(SECRET, number, request);
    }

    fn tell_as(&mut self, secret: [u8; SECRET_BYTES], number: u64, request: PollRequest) {
        let poll = Poll {
            to: self.id,
            tenant: tickgate_protocol::channel::Tenant::DEFAULT,
            secret,
            number,
            request,
        };
        self.rig.message(ShardMessage::Poll(poll));
        self.rig.core.serve_polls(self.rig.now);
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Sends a GET; returns whether it waits, or why it is refused.
    fn get(&mut self) -> Result<oneshot::Receiver<Bytes>, PollError> {
        let (reply, mut answer) = oneshot::channel();
        let number = self.number();
        self.tell(number, PollRequest::Get(reply));
        answer.try_recv().expect("answered at once")
    }

    /// Sends a GET that is answered at once.
    fn poll(&mut self) -> String {
        text(&self.get().expect("taken").try_recv().expect("something to tell"))
    }

    fn begin_post(&mut self, number: u64) -> Result<(), PollError> {
        let (reply, mut answer) = oneshot::channel();
        self.tell(number, PollRequest::PostHead(reply));
        answer.try_recv().expect("answered at once")
    }

    fn post(&mut self, body: &str) -> Result<(), PollError> {
        let number = self.number();
        self.begin_post(number)?;
        let (reply, mut answer) = oneshot::channel();
        self.tell(
            number,
            PollRequest::PostBody(Bytes::copy_from_slice(body.as_bytes()), reply),
        );
        answer.try_recv().expect("nothing to wait for")
    }

    fn event(&mut self, data: &str) {
        self.rig.event("grid.a", data);
        self.rig.core.serve_polls(self.rig.now);
    }

    fn candidate(&mut self) -> Option<ConnectionId> {
        self.rig.core.adopt_candidate(
            (self.id, tickgate_protocol::channel::Tenant::DEFAULT),
            &SECRET,
            self.deflate,
            self.rig.now,
        )
    }

    fn say(&mut self, packet: &str) {
        self.rig.say(self.id, packet);
        self.rig.core.serve_polls(self.rig.now);
    }

    /// The packets that are written to the socket.
    fn written(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        while let Some(dirty) = self.rig.core.next_dirty() {
            assert_eq!(dirty, self.id);
            while self.rig.write_some(self.id, usize::MAX, &mut bytes) == Some(Sent::More) {}
        }
        let mut packets = Vec::new();
        let mut rest = &bytes[..];
        while let Some(frame) = first(rest) {
            packets.push(String::from_utf8_lossy(frame.payload).into_owned());
            rest = &rest[frame.bytes..];
        }
        packets
    }

    fn is_gone(&self) -> bool {
        self.rig.core.connections() == 0
    }
}

fn text(body: &Bytes) -> String {
    String::from_utf8(body.to_vec()).expect("text")
}

fn data(packets: &str) -> Vec<u64> {
    let events = packets
        .split('\u{1e}')
        .filter(|packet| packet.starts_with("42[\"update\""));
    events
        .map(|packet| {
            let event: serde_json::Value = serde_json::from_str(&packet[2..]).expect("JSON");
            event[1]["data"].as_u64().expect("a number")
        })
        .collect()
}

#[test]
fn a_get_waits_for_packets_and_takes_all_of_them() {
    let mut client = Client::new(Limits::default());
    let mut waiting = client.get().expect("taken");
    assert_eq!(waiting.try_recv(), Err(TryRecvError::Empty));
    client.rig.publish("grid.a", "1");
    client.event("2");
    let body = text(&waiting.try_recv().expect("answered"));
    assert_eq!(data(&body), [1, 2]);
    client.event("3");
    client.event("4");
    assert_eq!(
        data(&client.poll()),
        [3, 4],
        "what came between two polls waits for the next"
    );
    assert_eq!(client.rig.metrics.polls.get(), 4);
    assert_eq!(client.rig.metrics.polling.get(), 1);
}

#[test]
fn an_answer_has_at_most_16_packets() {
    let mut client = Client::new(Limits::default());
    for n in 0..40 {
        client.event(&n.to_string());
    }
    for expected in [0..16, 16..32, 32..40] {
        assert_eq!(data(&client.poll()), expected.collect::<Vec<u64>>());
    }
    let mut waiting = client.get().expect("taken");
    assert_eq!(waiting.try_recv(), Err(TryRecvError::Empty));
    client.event("40");
    assert_eq!(data(&text(&waiting.try_recv().expect("answered"))), [40]);
}

#[test]
fn a_session_of_revision_3_is_polled_in_its_own_framing() {
    let mut client = Client::open(Limits::default(), Revision::Three);
    // The session is connected without a request, in the answer that opens it.
    assert!(
        client.opened.contains("}2:40") && client.opened.contains(":42[\"connected\""),
        "{}",
        client.opened
    );
    let subscribe = "42[\"subscribe\",{\"channels\":[\"grid.*\"]}]";
    let body = format!("1:2{}:{subscribe}1:2", subscribe.len());
    assert_eq!(client.post(&body), Ok(()));
    let told = client.poll();
    assert!(
        told.starts_with("1:3") && told.ends_with("1:3") && told.contains("subscribed"),
        "{told}"
    );
    client.event("\"€\"");
    let told = client.poll();
    let (length, packet) = told.split_once(':').expect("a length");
    assert_eq!(length.parse(), Ok(packet.len()));
    assert!(
        packet.contains(r#""data":"\u20ac""#),
        "version 1 of the client would read text that is not ASCII as bytes: {packet}"
    );
    let mut client = Client::open(Limits::default(), Revision::Three);
    let payload = "body is not a payload of Engine.IO packets";
    assert_eq!(client.post("2:2"), Err(PollError::BadRequest(payload)));
    assert!(client.is_gone());
}

#[test]
fn a_guessed_session_id_reaches_no_session() {
    let mut client = Client::new(Limits::default());
    let mut waiting = client.get().expect("taken");
    let newest = client.numbers;
    assert_eq!(client.begin_post(100), Ok(()));
    let mut almost = SECRET;
    almost[SECRET_BYTES - 1] ^= 1;
    for secret in [almost, [0; SECRET_BYTES]] {
        let (reply, mut answer) = oneshot::channel();
        client.tell_as(secret, 200, PollRequest::Get(reply));
        assert_eq!(
            answer.try_recv().expect("answered").err(),
            Some(PollError::UnknownSession)
        );
        let (begins, mut begun) = oneshot::channel();
        client.tell_as(secret, 200, PollRequest::PostHead(begins));
        let (posted, mut taken) = oneshot::channel();
        client.tell_as(secret, 100, PollRequest::PostBody(Bytes::from_static(b"41"), posted));
        let (upgrades, mut wanted) = oneshot::channel();
        client.tell_as(secret, 200, PollRequest::MayUpgrade(upgrades));
        for answer in [&mut begun, &mut taken, &mut wanted] {
            assert_eq!(answer.try_recv(), Ok(Err(PollError::UnknownSession)));
        }
        client.tell_as(secret, newest, PollRequest::Gone);
        client.tell_as(secret, 100, PollRequest::PostFailed(Disconnect::TooBig));
        let (id, now) = (client.id, client.rig.now);
        assert_eq!(
            client
                .rig
                .core
                .adopt_candidate((id, tickgate_protocol::channel::Tenant::DEFAULT), &secret, None, now),
            None
        );
    }
    client.event("1");
    assert_eq!(data(&text(&waiting.try_recv().expect("still waited for"))), [1]);
    assert!(client.candidate().is_some());
}

#[test]
fn two_polls_of_one_kind_end_the_session() {
    let mut client = Client::open(Limits::default(), Revision::Four);
    let mut first = client.get().expect("taken");
    let concurrent = PollError::BadRequest("another GET of the session is waiting");
    assert_eq!(client.get().err(), Some(concurrent));
    assert_eq!(text(&first.try_recv().expect("answered")), "1");
    assert!(client.is_gone());
    assert_eq!(client.get().err(), Some(PollError::UnknownSession));
    assert_eq!(client.rig.permits.load(Ordering::Relaxed), 0);

    let mut client = Client::new(Limits::default());
    assert_eq!(client.begin_post(100), Ok(()));
    let concurrent = PollError::BadRequest("another POST of the session is under way");
    assert_eq!(client.begin_post(101), Err(concurrent));
    assert!(client.is_gone(), "no GET waits for its last packets");
    assert_eq!(client.post("3"), Err(PollError::UnknownSession));
}

#[test]
fn a_post_is_answered_when_the_session_has_taken_all_of_it() {
    let limits = Limits::default();
    let mut rig = Client::open(limits, Revision::Four);
    // The token must be verified first. The packets after CONNECT in the same body wait for that.
    let settings = Arc::new(session::Settings {
        auth_mode: Mode::Required,
        ..(*settings(limits)).clone()
    });
    rig.rig.core.connections.endpoints_mut().set_settings(0, settings);
    let number = rig.number();
    assert_eq!(rig.begin_post(number), Ok(()));
    let (reply, mut answer) = oneshot::channel();
    let body = "40{\"token\":\"t\"}\u{1e}42[\"subscribe\",{\"channels\":[\"grid.*\"]}]";
    rig.tell(
        number,
        PollRequest::PostBody(Bytes::from_static(body.as_bytes()), reply),
    );
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    let (to, request, _) = rig.rig.asked.verify.lock().expect("not poisoned").remove(0);
    rig.rig.message(ShardMessage::Verified {
        to,
        request,
        outcome: Ok(identity(Some("4"))),
    });
    assert_eq!(answer.try_recv(), Ok(Ok(())));
    let told = rig.poll();
    assert!(told.contains("\"user_id\":4") && told.contains("subscribed"), "{told}");
}

#[test]
fn an_invalid_payload_ends_the_session_at_once() {
    for (body, reason) in [
        ("abc", "not an Engine.IO packet"),
        ("", "not an Engine.IO packet"),
        ("2", "ping packet: the server sends the pings"),
        ("4abc", "not a Socket.IO packet"),
        ("42{}", "payload of an event is not a JSON array"),
        ("3\u{1e}", "not an Engine.IO packet"),
        ("b!", "body is not a payload of Engine.IO packets"),
        ("bAAAA", "binary messages are not supported"),
    ] {
        let mut client = Client::new(Limits::default());
        assert_eq!(client.post(body), Err(PollError::BadRequest(reason)), "{body:?}");
        assert!(client.is_gone(), "{body:?}");
    }
    let mut client = Client::new(Limits::default());
    let mut waiting = client.get().expect("taken");
    assert_eq!(
        client.post("4abc"),
        Err(PollError::BadRequest("not a Socket.IO packet"))
    );
    client.rig.core.serve_polls(client.rig.now);
    let told = text(&waiting.try_recv().expect("answered"));
    assert!(
        told.starts_with("42[\"error\"") && told.ends_with(",\"close_code\":1002}]"),
        "{told}"
    );
    assert_eq!(client.poll(), "1");
    assert!(client.is_gone());
}

#[test]
fn a_client_that_closes_is_answered_with_a_noop() {
    let mut client = Client::new(Limits::default());
    let mut waiting = client.get().expect("taken");
    assert_eq!(client.post("1"), Ok(()));
    client.rig.core.serve_polls(client.rig.now);
    assert_eq!(text(&waiting.try_recv().expect("answered")), "6");
    assert!(client.is_gone());
    let mut client = Client::new(Limits::default());
    assert_eq!(client.post("1"), Ok(()));
    assert!(client.is_gone());
}

#[test]
fn the_last_packets_wait_for_the_next_get_but_not_for_ever() {
    for comes_back in [true, false] {
        let mut client = Client::new(Limits::default());
        client.rig.message(ShardMessage::Drain { over_ms: 0 });
        client.rig.pass(10);
        let pongs = client.post("3");
        assert_eq!(pongs, Ok(()), "the session is over, and its client hears it by a GET");
        if comes_back {
            let told = client.poll();
            assert!(
                told.contains("\"RESTART\"") || told.contains("\"DRAIN_DEADLINE\""),
                "{told}"
            );
            // Not with `1`, after which some libraries stay away. And apart, or the client would not hear what stands
            // before it.
            let mut last = client.get().expect("taken");
            assert_eq!(last.try_recv(), Err(TryRecvError::Closed), "refused");
        } else {
            client.rig.pass(5_250);
        }
        assert!(client.rig.core.is_finished(), "{comes_back}");
        assert_eq!(client.rig.permits.load(Ordering::Relaxed), 0);
        assert_eq!(client.post("3").err(), Some(PollError::UnknownSession));
    }
}

#[test]
fn a_session_without_an_answer_ends_to_the_millisecond() {
    let mut client = Client::new(Limits::default());
    client.rig.pass(24_999);
    assert!(client.poll().ends_with('2'));
    client.rig.now = client.rig.now.after_ms(20_001);
    assert_eq!(client.get().err(), Some(PollError::UnknownSession), "before the timer");
    assert!(client.is_gone());
    assert_eq!(client.rig.metrics.endings(Disconnect::HeartbeatTimeout), 1);
}

#[test]
fn a_client_that_is_gone_takes_its_session_with_it_unless_it_came_back() {
    let mut client = Client::new(Limits::default());
    let old = client.numbers;
    drop(client.get().expect("taken"));
    let newest = client.numbers;
    client.event("1");
    client.tell(old, PollRequest::Gone);
    assert!(!client.is_gone(), "an older poll");
    client.tell(newest, PollRequest::Gone);
    assert!(client.is_gone());
    assert_eq!(client.rig.metrics.endings(Disconnect::Lost), 1);

    let mut client = Client::new(Limits::default());
    assert_eq!(client.begin_post(100), Ok(()));
    client.tell(100, PollRequest::Gone);
    assert!(client.is_gone(), "half a body");

    let mut client = Client::new(Limits::default());
    assert_eq!(client.begin_post(100), Ok(()));
    client.tell(100, PollRequest::PostFailed(Disconnect::TooBig));
    assert_eq!(client.rig.metrics.endings(Disconnect::TooBig), 1);
}

#[test]
fn nothing_is_taken_out_for_a_client_that_is_gone() {
    let mut client = Client::new(Limits::default());
    drop(client.get().expect("taken"));
    client.event("1");
    assert_eq!(client.rig.metrics.deliveries.get(), 1);
    assert_eq!(client.rig.core.queued_frames(), 1);
}

#[test]
fn a_client_that_does_not_poll_loses_the_oldest_events_and_learns_it() {
    let limits = Limits {
        outbox_frames: 3,
        ..Limits::default()
    };
    let mut client = Client::new(limits);
    for n in 0..5 {
        client.event(&n.to_string());
    }
    assert!(!client.rig.core.is_pressed());
    let told = client.poll();
    assert_eq!(data(&told), [2, 3, 4]);
    assert!(
        told.starts_with("42[\"dropped\",") && told.contains("\"count\":2"),
        "{told}"
    );
}
