//! Engine.IO requests on one connection, with mailboxes in place of the sessions' shards.

use bytes::Bytes;

use super::*;
use crate::dialect::engine_io::{SECRET_BYTES, Sid};
use crate::dialect::socket_io;
use crate::mailbox::ConnectionId;
use crate::mailbox::polling::{Poll, Refusal, Request};

const LAST: &str = "\r\nconnection: close\r\n";

fn with_socket_io() -> Fixture {
    fixture(|settings| {
        settings.endpoints.push(Endpoint {
            path: "/socket.io/".into(),
            session: session(Dialect::SocketIo(socket_io::Settings::default()), Mode::Off),
        });
    })
}

fn request(method: &str, more: &str, headers: &str) -> Vec<u8> {
    format!("{method} /socket.io/?EIO=4&transport=polling{more} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()
}

/// Names a session of the first shard.
fn sid() -> String {
    let to = ConnectionId {
        shard: 0,
        slot: 1,
        generation: 2,
    };
    let sid = Sid {
        place: to.public_bits(),
        secret: [7; SECRET_BYTES],
    };
    format!("&sid={}", sid.to_text())
}

impl Fixture {
    /// What a shard is told next.
    async fn told(&mut self) -> ShardMessage {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(message) = self.mailboxes.iter_mut().find_map(Mailbox::pop) {
                return message;
            }
            assert!(Instant::now() < deadline, "nothing was told to a shard");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn polled(&mut self) -> Poll {
        let ShardMessage::Poll(poll) = self.told().await else {
            panic!("no poll")
        };
        poll
    }

    /// Answers a GET of a session.
    async fn serve_get(&mut self, body: Bytes) {
        let Request::Get(reply) = self.polled().await.request else {
            panic!("no GET")
        };
        let (answer, receiver) = tokio::sync::oneshot::channel();
        reply.send(Ok(receiver)).expect("waited for");
        answer.send(body).expect("waited for");
    }
}

#[tokio::test]
async fn what_opens_sessions_is_counted_and_polls_of_a_session_are_not() {
    let mut fixture = with_socket_io();
    let mut stream = fixture.connect().await;
    for _ in 0..100 {
        stream.write_all(&request("GET", &sid(), "")).await.expect("sent");
        fixture.serve_get(Bytes::from_static(b"6")).await;
        let told = answer(&mut stream).await;
        has(&told, 200, &[]);
        assert!(!told.contains(LAST), "{told}");
    }
    for n in 1..=32 {
        let opens = n % 2 == 0;
        let method = if opens { "GET" } else { "OPTIONS" };
        stream.write_all(&request(method, "", "")).await.expect("sent");
        if opens {
            let ShardMessage::Open(open) = fixture.told().await else {
                panic!("no session")
            };
            open.answer.send(Bytes::from_static(b"0{}")).expect("waited for");
        }
        let told = answer(&mut stream).await;
        has(&told, if opens { 200 } else { 204 }, &[]);
        assert_eq!(told.contains(LAST), n == 32, "request {n}: {told}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_its_session_answered_is_told_of() {
    let mut fixture = with_socket_io();
    let get = request("GET", &sid(), "");
    let post = request("POST", &sid(), "");
    for (bytes, is_get) in [(get, true), (post, false)] {
        let mut stream = fixture.connect().await;
        stream.write_all(&bytes).await.expect("sent");
        // Not answered until the end of the round.
        let asked = fixture.polled().await;
        assert!(matches!(
            (&asked.request, is_get),
            (Request::Get(_), true) | (Request::PostBegins(_), false)
        ));
        drop(stream);
        let gone = fixture.polled().await;
        assert!(matches!(gone.request, Request::Gone));
        assert_eq!(gone.number, asked.number);
    }
}

#[tokio::test]
async fn a_refused_request_is_told_of_once() {
    let mut fixture = with_socket_io();
    for method in ["GET", "POST"] {
        let mut stream = fixture.connect().await;
        stream.write_all(&request(method, &sid(), "")).await.expect("sent");
        match fixture.polled().await.request {
            Request::Get(reply) => drop(reply.send(Err(Refusal::Bad))),
            Request::PostBegins(reply) => drop(reply.send(Err(Refusal::Bad))),
            other => panic!("{other:?}"),
        }
        has(&answer(&mut stream).await, 400, &[]);
        assert!(fixture.mailboxes[0].pop().is_none(), "{method}");
    }
}

#[tokio::test]
async fn a_post_that_says_that_it_is_too_long_is_not_waited_for() {
    let mut fixture = with_socket_io();
    let mut stream = fixture.connect().await;
    let post = request("POST", &sid(), "Content-Length: 1000000\r\n");
    stream.write_all(&post).await.expect("sent");
    let Request::PostBegins(reply) = fixture.polled().await.request else {
        panic!("no POST")
    };
    reply.send(Ok(())).expect("waited for");
    has(&answer(&mut stream).await, 413, &[LAST]);
    assert!(matches!(fixture.polled().await.request, Request::TooLarge));
}

/// A socket that is taken over while a poll's answer is on its way would begin in the middle of it.
#[tokio::test]
async fn no_socket_is_taken_over_before_a_long_answer_is_written() {
    let mut fixture = with_socket_io();
    let body = Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
    for target in ["/open", "/socket.io/?EIO=4&transport=websocket"] {
        let mut stream = fixture.connect().await;
        let both = [request("GET", &sid(), ""), handshake(target, &[])].concat();
        stream.write_all(&both).await.expect("sent");
        fixture.serve_get(body.clone()).await;
        let told = answer(&mut stream).await;
        assert!(told.starts_with("HTTP/1.1 200 ") && told.len() > body.len());
        has(&answer(&mut stream).await, 101, &[]);
        drop(fixture.adopted().await);
    }
}
