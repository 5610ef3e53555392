//! Engine.IO requests, with mailboxes in place of the shards of the sessions.

use bytes::Bytes;
use hyper::header::HeaderValue;

use super::*;
use crate::shard::mailbox::ConnectionId;
use crate::shard::mailbox::polling::{Poll, PollError, PollRequest};
use tickgate_protocol::dialect::engine_io::{Revision, SECRET_BYTES, Sid};
use tickgate_protocol::dialect::socket_io;
use tickgate_protocol::disconnect::Disconnect;

const LAST: &str = "\r\nconnection: close\r\n";

fn with_socket_io() -> Fixture {
    fixture(|settings| {
        settings.endpoints.push(Endpoint {
            path: "/socket.io/".into(),
            selector: Selector::default(),
            session: session(Dialect::SocketIo(socket_io::Settings::default()), Mode::Off),
            deflate: true,
            token_refusal: crate::ingress::TokenRefusal::Auto,
        });
    })
}

fn request(method: &str, more: &str, headers: &str) -> Vec<u8> {
    format!("{method} /socket.io/?EIO=4&transport=polling{more} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()
}

/// The parameter `sid` of a session of the first shard.
fn sid() -> String {
    let to = ConnectionId {
        shard: 0,
        slot: 1,
        generation: 2,
    };
    let sid = Sid {
        connection: to.public_bits(),
        secret: [7; SECRET_BYTES],
    };
    format!("&sid={}", sid.to_text())
}

impl Fixture {
    /// The next message to a shard.
    async fn told(&mut self) -> ShardMessage {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(message) = self.mailboxes.iter_mut().find_map(Mailbox::pop) {
                return message;
            }
            assert!(Instant::now() < deadline, "no shard got a message");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn polled(&mut self) -> Poll {
        let ShardMessage::Poll(poll) = self.told().await else {
            panic!("no poll")
        };
        poll
    }

    /// Accepts the head of a POST, so that its body is read.
    async fn begin_post(&mut self) {
        let PollRequest::PostHead(reply) = self.polled().await.request else {
            panic!("no POST")
        };
        reply.send(Ok(())).expect("waited for");
    }

    /// Accepts a body of this many bytes.
    async fn take_post(&mut self, bytes: usize) {
        let PollRequest::PostBody(body, reply) = self.polled().await.request else {
            panic!("no body")
        };
        assert_eq!(body.len(), bytes);
        reply.send(Ok(())).expect("waited for");
    }

    /// Answers a GET with `body`.
    async fn serve_get(&mut self, body: Bytes) {
        let PollRequest::Get(reply) = self.polled().await.request else {
            panic!("no GET")
        };
        let (answer, receiver) = tokio::sync::oneshot::channel();
        reply.send(Ok(receiver)).expect("waited for");
        answer.send(body).expect("waited for");
    }
}

#[tokio::test]
async fn requests_that_open_sessions_are_counted_and_polls_are_not() {
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
async fn a_session_hears_of_a_client_that_leaves_before_the_response() {
    let mut fixture = with_socket_io();
    let get = request("GET", &sid(), "");
    let post = request("POST", &sid(), "");
    for (bytes, is_get) in [(get, true), (post, false)] {
        let mut stream = fixture.connect().await;
        stream.write_all(&bytes).await.expect("sent");
        // The request stays open until the end of this iteration.
        let asked = fixture.polled().await;
        assert!(matches!(
            (&asked.request, is_get),
            (PollRequest::Get(_), true) | (PollRequest::PostHead(_), false)
        ));
        drop(stream);
        let gone = fixture.polled().await;
        assert!(matches!(gone.request, PollRequest::Gone));
        assert_eq!(gone.number, asked.number);
    }
}

#[tokio::test]
async fn a_refused_request_reaches_the_session_once() {
    let mut fixture = with_socket_io();
    for method in ["GET", "POST"] {
        let mut stream = fixture.connect().await;
        stream.write_all(&request(method, &sid(), "")).await.expect("sent");
        match fixture.polled().await.request {
            PollRequest::Get(reply) => drop(reply.send(Err(PollError::BadRequest("why not")))),
            PollRequest::PostHead(reply) => drop(reply.send(Err(PollError::BadRequest("why not")))),
            other => panic!("{other:?}"),
        }
        let body = r#"{"code":3,"message":"Bad request: why not"}"#;
        has(&answer(&mut stream).await, 400, &[body]);
        assert!(fixture.mailboxes[0].pop().is_none(), "{method}");
    }
}

#[tokio::test]
async fn a_post_whose_content_length_is_too_long_is_refused_at_once() {
    let mut fixture = with_socket_io();
    let mut stream = fixture.connect().await;
    let post = request("POST", &sid(), "Content-Length: 1000000\r\n");
    stream.write_all(&post).await.expect("sent");
    fixture.begin_post().await;
    let body = r#"{"code":3,"message":"Payload too large: a POST may have 65536 bytes"}"#;
    has(&answer(&mut stream).await, 413, &[LAST, body]);
    assert!(matches!(
        fixture.polled().await.request,
        PollRequest::PostFailed(Disconnect::TooBig)
    ));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_in_time_ends_its_session() {
    let mut fixture = with_socket_io();
    let mut stream = fixture.connect().await;
    let post = [request("POST", &sid(), "Content-Length: 5\r\n"), b"half".to_vec()].concat();
    stream.write_all(&post).await.expect("sent");
    fixture.begin_post().await;
    // From here on the clock jumps to the next deadline when all tasks wait.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let mut told = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(3600), stream.read_exact(&mut told));
    read.await.expect("in time").expect("an answer");
    assert_eq!(told, *b"HTTP/1.1 400");
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(matches!(fixture.polled().await.request, PollRequest::Gone));
}

#[tokio::test]
async fn bodies_share_bounded_memory_and_short_ones_need_none_of_it() {
    let mut fixture = with_socket_io();
    let context = fixture.ingress.context();
    let room = &context.shared.bodies;
    let others = BODY_BYTES_MAX - 10_000;
    let mut other_bodies = room.share();
    other_bodies
        .try_resize(others + http::BYTES_FREE)
        .expect("no body is in memory");
    let post = |bytes: usize| request("POST", &sid(), &format!("Content-Length: {bytes}\r\n"));

    // All of the body but one byte. It holds room for the bytes above 4096.
    let mut long = fixture.connect().await;
    long.write_all(&[post(11_097), vec![b'x'; 11_096]].concat())
        .await
        .expect("sent");
    fixture.begin_post().await;
    until("7000 bytes are held", || room.held() == others + 7000).await;

    let mut refused = fixture.connect().await;
    refused
        .write_all(&[post(7097), vec![b'x'; 7097]].concat())
        .await
        .expect("sent");
    fixture.begin_post().await;
    has(
        &answer(&mut refused).await,
        503,
        &[LAST, "\r\nretry-after: 1\r\n", r#"{"code":3,"message":"Overloaded: "#],
    );
    assert!(matches!(
        fixture.polled().await.request,
        PollRequest::PostFailed(Disconnect::Overload)
    ));
    fixture.refused(RefusalReason::Memory, 1).await;

    let mut short = fixture.connect().await;
    short
        .write_all(&[post(4096), vec![b'x'; 4096]].concat())
        .await
        .expect("sent");
    fixture.begin_post().await;
    fixture.take_post(4096).await;
    has(&answer(&mut short).await, 200, &[]);

    long.write_all(b"x").await.expect("sent");
    fixture.take_post(11_097).await;
    has(&answer(&mut long).await, 200, &[]);
    until("nothing is held", || room.held() == others).await;
}

/// A proxy that uses the other length would take the rest for the request of another client.
#[tokio::test]
async fn a_body_with_two_lengths_ends_the_connection() {
    let mut fixture = with_socket_io();
    for lengths in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ] {
        let mut stream = fixture.connect().await;
        let smuggled = request("GET", &sid(), "");
        let both = [
            request("POST", &sid(), lengths),
            b"1\r\n3\r\n0\r\n\r\n".to_vec(),
            smuggled,
        ]
        .concat();
        stream.write_all(&both).await.expect("sent");
        fixture.begin_post().await;
        fixture.take_post(1).await;
        has(&answer(&mut stream).await, 200, &[LAST]);
        assert_eq!(answer(&mut stream).await, "", "the connection ends");
        assert!(fixture.mailboxes[0].pop().is_none(), "the rest is not a request");
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_not_poll_or_read_the_refusal() {
    let mut fixture = with_socket_io();
    for method in ["GET", "POST", "OPTIONS"] {
        for (origin, is_allowed) in [
            ("https://evil.example", false),
            ("null", false),
            ("https://x\r\nOrigin: https://evil.example", false),
            ("https://x", true),
        ] {
            let mut stream = fixture.connect().await;
            let asked = request(method, &sid(), &format!("Origin: {origin}\r\n"));
            stream.write_all(&asked).await.expect("sent");
            if is_allowed && method != "OPTIONS" {
                match fixture.polled().await.request {
                    PollRequest::Get(reply) => drop(reply.send(Err(PollError::UnknownSession))),
                    PollRequest::PostHead(reply) => drop(reply.send(Err(PollError::UnknownSession))),
                    other => panic!("{other:?}"),
                }
            }
            let told = answer(&mut stream).await;
            let allows = told.contains("access-control-allow-origin: https://x\r\n");
            assert_eq!(allows, is_allowed, "{method} from {origin}: {told}");
            if !is_allowed {
                has(&told, 403, &[]);
                assert!(!told.contains("access-control"), "{told}");
                assert!(fixture.mailboxes[0].pop().is_none(), "{method} from {origin}");
            }
        }
    }
}

/// A socket that is handed over while the response to a poll is being written would begin in the middle of it.
#[tokio::test]
async fn no_socket_is_handed_over_before_a_long_response_is_written() {
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

/// The time for the next head begins when the client has the response.
#[tokio::test]
async fn a_long_response_that_is_read_slowly_is_not_cut_and_an_unread_one_ends_the_connection() {
    let mut fixture = with_socket_io();
    let body = Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
    for is_read in [true, false] {
        let mut stream = fixture.connect().await;
        stream.write_all(&request("GET", &sid(), "")).await.expect("sent");
        fixture.serve_get(body.clone()).await;
        assert_eq!(stream.read_u8().await.expect("the response begins"), b'H');
        // From here on the clock jumps to the next deadline when all tasks wait.
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(if is_read { 50 } else { 70 })).await;
        tokio::time::resume();
        if is_read {
            let mut rest = vec![0; body.len()];
            stream.read_exact(&mut rest).await.expect("the whole response");
        } else {
            assert!(matches!(fixture.polled().await.request, PollRequest::Gone));
        }
    }
}

/// As Socket.IO-Client-Swift up to version 15 connects.
#[tokio::test]
async fn a_client_that_does_not_send_its_version_speaks_engine_io_3() {
    let mut fixture = with_socket_io();
    let mut stream = fixture.connect().await;
    let poll = "GET /socket.io/?transport=polling&b64=1 HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(poll.as_bytes()).await.expect("sent");
    let ShardMessage::Open(open) = fixture.told().await else {
        panic!("no session")
    };
    assert_eq!(open.opening.revision, Revision::Three);
    open.answer.send(Bytes::from_static(b"0{}")).expect("waited for");
    has(&answer(&mut stream).await, 200, &[]);

    // The same session, then its upgrade, then a session that begins with a WebSocket.
    let post = format!(
        "POST /socket.io/?transport=polling&b64=1{} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n4:40/n",
        sid()
    );
    stream.write_all(post.as_bytes()).await.expect("sent");
    fixture.begin_post().await;
    fixture.take_post(6).await;
    has(&answer(&mut stream).await, 200, &[]);
    let target = format!("/socket.io/?transport=websocket{}", sid());
    stream.write_all(&handshake(&target, &[])).await.expect("sent");
    let PollRequest::MayUpgrade(reply) = fixture.polled().await.request else {
        panic!("no upgrade")
    };
    reply.send(Ok(())).expect("waited for");
    has(&answer(&mut stream).await, 101, &[]);
    assert!(matches!(fixture.told().await, ShardMessage::Upgrade(_)));

    let told = fixture
        .exchange(&handshake("/socket.io/?transport=websocket", &[]))
        .await;
    has(&told, 101, &[]);
    let opening = fixture.adopted().await.engine_io.expect("a session");
    assert_eq!(opening.revision, Revision::Three);
}

#[tokio::test]
async fn a_preflight_lists_the_configured_headers() {
    let fixture = fixture(|settings| {
        settings.cors_headers = HeaderValue::from_static("authorization, x-request-id");
        settings.endpoints.push(Endpoint {
            path: "/socket.io/".into(),
            selector: Selector::default(),
            session: session(Dialect::SocketIo(socket_io::Settings::default()), Mode::Off),
            deflate: true,
            token_refusal: crate::ingress::TokenRefusal::Auto,
        });
    });
    let preflight = request(
        "OPTIONS",
        "",
        "Origin: https://x\r\nAccess-Control-Request-Headers: x-request-id\r\n",
    );
    let allowed = "\r\naccess-control-allow-headers: authorization, x-request-id\r\n";
    has(&fixture.exchange(&preflight).await, 204, &[allowed]);
}

#[tokio::test]
async fn an_encoded_post_is_refused_and_its_session_goes_on() {
    let mut fixture = with_socket_io();
    let post = |headers: &str| {
        let headers = format!("Content-Length: 1\r\n{headers}");
        [request("POST", &sid(), &headers), b"3".to_vec()].concat()
    };
    let told = fixture.exchange(&post("Content-Encoding: gzip\r\n")).await;
    has(
        &told,
        415,
        &["\r\naccept-encoding: identity\r\n", "Content-Encoding is not supported"],
    );
    fixture.refused(RefusalReason::Body, 1).await;
    assert!(
        fixture.mailboxes.iter_mut().all(|mailbox| mailbox.pop().is_none()),
        "no shard hears of it"
    );

    let mut stream = fixture.connect().await;
    stream
        .write_all(&post("Content-Encoding: identity\r\n"))
        .await
        .expect("sent");
    fixture.begin_post().await;
    fixture.take_post(1).await;
    has(&answer(&mut stream).await, 200, &["ok"]);
}

#[tokio::test]
async fn every_refused_post_says_what_is_wrong_in_the_form_of_engine_io() {
    let mut fixture = with_socket_io();
    let post = |target: &str| format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n3").into_bytes();
    let put = |target: &str| format!("PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n3").into_bytes();
    let polling = "/socket.io/?EIO=4&transport=polling";
    let known = format!("{polling}{}", sid());
    for (asked, body) in [
        (post("/socket.io/"), r#"{"code":0,"message":"Transport unknown"}"#),
        (
            post(&format!("{polling}&sid=abc")),
            r#"{"code":1,"message":"Session ID unknown"}"#,
        ),
        (post(polling), r#"{"code":2,"message":"Bad handshake method"}"#),
        (put(&known), r#"{"code":2,"message":"Bad handshake method"}"#),
        (
            post(&format!("{known}&j=0")),
            r#"{"code":3,"message":"Bad request: JSONP is not offered"}"#,
        ),
        (
            post(&format!("{known}&sid=abc")),
            r#"{"code":3,"message":"Bad request: a parameter occurs twice, or is not percent-encoded UTF-8"}"#,
        ),
        (
            post("/socket.io/?EIO=5&transport=polling"),
            r#"{"code":5,"message":"Unsupported protocol version"}"#,
        ),
    ] {
        has(
            &fixture.exchange(&asked).await,
            400,
            &["content-type: application/json", body],
        );
    }
    assert!(fixture.mailboxes[0].pop().is_none(), "no session hears of them");

    // The shard says why it ends a session.
    let mut stream = fixture.connect().await;
    stream.write_all(&post(&known)).await.expect("sent");
    fixture.begin_post().await;
    let PollRequest::PostBody(_, reply) = fixture.polled().await.request else {
        panic!("no body")
    };
    let refused = reply.send(Err(PollError::BadRequest("not an Engine.IO packet")));
    refused.expect("waited for");
    let body = r#"{"code":3,"message":"Bad request: not an Engine.IO packet"}"#;
    has(&answer(&mut stream).await, 400, &[body]);
}
