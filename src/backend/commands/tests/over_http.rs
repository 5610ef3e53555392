//! The router with real HTTP servers on loopback, well-behaved and faulty ones.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use aws_lc_rs::hmac;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::auth::Secret;

/// What the server does with one request.
#[derive(Clone, Debug)]
enum Act {
    /// Sends 200 with this body and keeps the connection.
    Reply(String),
    /// Sends this status with a valid success as body and keeps the connection.
    Status(u16),
    /// Sends a valid success with this status line and these header lines, and keeps the connection.
    Head(&'static str),
    /// Announces a longer body than it sends, then closes the connection.
    DieMidReply,
    /// Closes the connection instead of answering.
    DieUnanswered,
    /// Never answers.
    Hang,
}

/// A request that the server received.
#[derive(Clone, Debug)]
struct Received {
    head: String,
    body: Vec<u8>,
}

impl Received {
    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|h| h.1)
    }
}

/// A scripted backend. `script(n)` decides what happens to request `n`, counted from 0.
struct Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(script: impl Fn(usize, &Received) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let server = Self {
            address: listener.local_addr().expect("bound"),
            received: Arc::default(),
            connections: Arc::default(),
        };
        let (received, connections, script) = (
            Arc::clone(&server.received),
            Arc::clone(&server.connections),
            Arc::new(script),
        );
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, SeqCst);
                tokio::spawn(serve(socket, Arc::clone(&received), Arc::clone(&script)));
            }
        });
        server
    }

    fn route(&self) -> RouteSettings {
        self.signed_route(None)
    }

    fn signed_route(&self, hmac_secret: Option<Secret>) -> RouteSettings {
        let url = BackendUrl::parse(&format!("http://{}/commands", self.address)).expect("valid");
        route("*", Target::Http(HttpSettings { url, hmac_secret }))
    }

    fn requests(&self) -> usize {
        self.received.lock().len()
    }
}

async fn serve<S>(mut socket: TcpStream, received: Arc<Mutex<Vec<Received>>>, script: Arc<S>)
where
    S: Fn(usize, &Received) -> Act,
{
    let mut unread = Vec::new();
    while let Some(request) = read_request(&mut socket, &mut unread).await {
        let act = {
            let mut received = received.lock();
            received.push(request.clone());
            script(received.len() - 1, &request)
        };
        let reply = match act {
            Act::Reply(body) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
            Act::Status(status) => {
                let body = "{\"success\":true,\"data\":1}";
                format!("HTTP/1.1 {status} Odd\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
            Act::Head(head) => {
                let body = "{\"success\":true,\"data\":1}";
                format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
            Act::DieMidReply => {
                let _ = socket
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"success\":true")
                    .await;
                return;
            }
            Act::DieUnanswered => return,
            Act::Hang => std::future::pending().await,
        };
        if socket.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read_request(socket: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Received> {
    loop {
        if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(unread[..end].to_vec()).expect("ASCII");
            let mut request = Received { head, body: Vec::new() };
            let length: usize = request
                .header("content-length")
                .expect("a length")
                .parse()
                .expect("a number");
            if unread.len() >= end + 4 + length {
                request.body = unread[end + 4..end + 4 + length].to_vec();
                unread.drain(..end + 4 + length);
                return Some(request);
            }
        }
        if socket.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
}

fn reply(body: &str) -> Act {
    Act::Reply(body.to_owned())
}

#[tokio::test]
async fn commands_and_replies_pass_byte_for_byte() {
    let server = Server::start(|n, _| match n {
        0 => reply("{\"success\":true,\"data\":{\"n\" : 1.0e400, \"s\":\"\\u00e9\"}}"),
        _ => reply("{\"success\":false,\"error\":{\"code\":\"VALIDATION_ERROR\",\"message\":\"no\", \"x\":0.10}}"),
    })
    .await;
    let mut harness = Harness::with_route(server.route());
    assert_eq!(
        harness.ask("grid.start").await,
        success("{\"n\" : 1.0e400, \"s\":\"\\u00e9\"}")
    );
    let error = Bytes::from_static(b"{\"code\":\"VALIDATION_ERROR\",\"message\":\"no\", \"x\":0.10}");
    assert_eq!(harness.ask("grid.start").await, CommandOutcome::Failure { error });

    harness.send_from(3, "grid.stop", "{\"price\" : 94000.10}");
    harness.answers.recv().await.expect("an answer");
    let received = server.received.lock()[2].clone();
    assert!(
        received.head.starts_with("POST /commands HTTP/1.1"),
        "{}",
        received.head
    );
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert_eq!(received.header("x-tickgate-signature"), None);
    let body = String::from_utf8(received.body).expect("UTF-8");
    let start = "{\"id\":\"cmd_3\",\"action\":\"grid.stop\",\"params\":{\"price\" : 94000.10},\"user\":\"u42\",\
                 \"role\":\"trader\",\"client_id\":\"client_1\",\"timestamp\":";
    assert!(body.starts_with(start), "{body}");
}

#[tokio::test]
async fn a_command_that_is_not_idempotent_is_sent_once_and_fails_with_backend_unavailable() {
    let long = format!("{{\"success\":true,\"data\":\"{}\"}}", "x".repeat(200_000));
    let acts = [
        Act::Status(500),
        Act::Status(404),
        Act::Status(302),
        Act::Head("302 Found\r\nlocation: http://elsewhere/"),
        Act::Head("200 OK\r\ncontent-encoding: gzip"),
        reply("<html>not JSON</html>"),
        reply("{\"ok\":true}"),
        reply("{\"success\":false}"),
        Act::Reply(long),
        Act::DieMidReply,
        Act::DieUnanswered,
    ];
    for act in acts {
        for reused in [false, true] {
            let server = Server::start({
                let act = act.clone();
                move |n, _| {
                    if reused && n == 0 {
                        reply("{\"success\":true}")
                    } else {
                        act.clone()
                    }
                }
            })
            .await;
            let mut harness = Harness::with_route(server.route());
            if reused {
                assert_eq!(code(&harness.ask("a.b").await), "success");
            }
            assert_eq!(
                code(&harness.ask("a.b").await),
                "BACKEND_UNAVAILABLE",
                "{act:?}, reused {reused}"
            );
            assert_eq!(
                server.requests(),
                1 + usize::from(reused),
                "{act:?} must not be repeated"
            );
            assert!(harness.answers.try_recv().is_err(), "one answer only");
        }
    }
}

#[tokio::test]
async fn a_closed_port_is_backend_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let url = BackendUrl::parse(&format!("http://{address}/")).expect("valid");
    let mut harness = Harness::with_route(route("*", Target::Http(HttpSettings { url, hmac_secret: None })));
    assert_eq!(code(&harness.ask("a.b").await), "BACKEND_UNAVAILABLE");
}

#[tokio::test]
async fn a_backend_that_hangs_is_a_timeout() {
    let server = Server::start(|_, _| Act::Hang).await;
    let mut harness = Harness::with_route(RouteSettings {
        timeout: Duration::from_millis(50),
        ..server.route()
    });
    assert_eq!(code(&harness.ask("a.b").await), "TIMEOUT");
    assert_eq!(harness.router.read().backends[0].failures, 1);
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let server = Server::start(|_, _| reply("{\"success\":true}")).await;
    let mut harness = Harness::with_route(server.route());
    for _ in 0..20 {
        assert_eq!(code(&harness.ask("a.b").await), "success");
    }
    assert_eq!((server.requests(), server.connections.load(SeqCst)), (20, 1));
}

#[tokio::test]
async fn an_idempotent_command_is_repeated_until_it_succeeds() {
    let server = Server::start(|n, _| match n {
        0 => Act::DieUnanswered,
        1 => Act::Status(503),
        _ => reply("{\"success\":true,\"data\":3}"),
    })
    .await;
    let mut harness = Harness::with_route(RouteSettings {
        idempotent: true,
        ..server.route()
    });
    assert_eq!(harness.ask("a.b").await, success("3"));
    assert_eq!(server.requests(), 3);
}

const SECRET: &[u8; 35] = b"a shared secret of thirty-two bytes";

/// Verifies the signature of a request as docs/backends.md says.
fn verify(received: &Received) {
    let header = received.header(http::SIGNATURE_HEADER).expect("signed");
    let (time, signature) = header
        .strip_prefix("t=")
        .and_then(|rest| rest.split_once(",v1="))
        .expect("t and v1");
    assert!(time.parse::<u64>().expect("a number") > 0);
    let signature: Vec<u8> = (0..signature.len() / 2)
        .map(|at| u8::from_str_radix(&signature[2 * at..2 * at + 2], 16).expect("hex"))
        .collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signed = [time.as_bytes(), b".", &received.body].concat();
    hmac::verify(&key, &signed, &signature).expect("the documented signature");
}

#[tokio::test]
async fn the_signature_verifies_over_time_and_body() {
    let server = Server::start(|_, _| reply("{\"success\":true}")).await;
    let mut harness = Harness::with_route(server.signed_route(Some(Secret::new(*SECRET))));
    harness.ask("a.b").await;
    verify(&server.received.lock()[0]);
}

#[tokio::test]
async fn a_backend_gets_the_key_of_a_command_scoped_by_its_user_and_signed() {
    let server = Server::start(|_, _| reply("{\"success\":true}")).await;
    let mut harness = Harness::with_route(server.signed_route(Some(Secret::new(*SECRET))));
    for user in ["u42", "u43"] {
        harness.send_keyed(1, user, "a.b", "{}", "order-7");
        harness.answers.recv().await.expect("an answer");
    }
    let received = server.received.lock();
    let keys: Vec<serde_json::Value> = received
        .iter()
        .map(|received| {
            verify(received);
            let body: serde_json::Value = serde_json::from_slice(&received.body).expect("JSON");
            body["key"].clone()
        })
        .collect();
    assert_eq!(keys, ["u42 order-7", "u43 order-7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_commands_is_answered_exactly_once() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let rng = Mutex::new(rand::rngs::SmallRng::seed_from_u64(seed));
    let server = Server::start(move |_, _| match rng.lock().random_range(0..10) {
        0 => Act::Status(500),
        1 => reply("garbage"),
        2 => Act::DieMidReply,
        3 => Act::DieUnanswered,
        4 => Act::Hang,
        5 => reply("{\"success\":false,\"error\":{\"code\":\"NO\",\"message\":\"no\"}}"),
        _ => reply("{\"success\":true}"),
    })
    .await;
    let mut plain = server.route();
    plain.pattern = Pattern::parse("plain.*").expect("valid");
    plain.timeout = Duration::from_millis(300);
    let again = RouteSettings {
        idempotent: true,
        pattern: Pattern::parse("again.*").expect("valid"),
        ..plain.clone()
    };
    let mut harness = Harness::new(Settings {
        routes: vec![plain, again],
        ..Settings::default()
    });
    let mut waiting = std::collections::BTreeSet::new();
    for n in 0..200 {
        let action = ["plain.x", "again.x", "none.x"][n % 3];
        waiting.insert(harness.send_from(n as u32 % 50, action, "{}"));
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !waiting.is_empty() {
        let answer = tokio::time::timeout_at(deadline, harness.answers.recv()).await;
        let (_, request, _) = answer
            .unwrap_or_else(|_| panic!("unanswered: {waiting:?}"))
            .expect("an answer");
        assert!(waiting.remove(&request), "a second answer to {request}");
    }
    let sample = harness.router.read();
    assert_eq!(sample.in_flight, 0);
    assert_eq!(
        sample.outcomes.iter().map(|outcome| outcome.1).sum::<u64>(),
        200,
        "{sample:?}"
    );
    drop(harness.router);
    assert!(harness.answers.recv().await.is_none(), "no answer after the last");
}

#[tokio::test]
async fn failures_say_what_is_wrong() {
    for (signed, head, text, detail) in [
        (
            false,
            "307 Temporary\r\nlocation: https://u:hush@elsewhere:8443/commands?hush",
            "status 307",
            Some("it redirects to https://elsewhere:8443, and redirects are not followed"),
        ),
        (true, "401 Unauthorized", "status 401", Some("the same HMAC secret")),
        (false, "403 Forbidden", "status 403", Some("requests are not signed")),
        (true, "404 Not Found", "status 404", None),
        (
            true,
            "200 OK\r\ncontent-encoding: identity, gzip",
            "it is encoded (Content-Encoding: gzip)",
            None,
        ),
    ] {
        let server = Server::start(move |_, _| Act::Head(head)).await;
        let secret = signed.then(|| Secret::new(*b"a shared secret of thirty-two bytes"));
        let Target::Http(settings) = server.signed_route(secret).target else {
            panic!("an HTTP route")
        };
        let backend = http::HttpBackend::new(&http::Pool::default(), &settings, 1024);
        let request = Request::new(&TenantNames::default(), "client_1", command(1, "a.b", "{}"));
        let failure = backend.call(&request).await.expect_err("a failure");
        assert!(failure.to_string().contains(text), "{failure}");
        let found = failure.detail().unwrap_or_default();
        assert!(
            !found.contains("hush") && !failure.to_string().contains("hush"),
            "{found}"
        );
        assert_eq!(failure.detail().is_some(), detail.is_some(), "{found}");
        assert!(found.contains(detail.unwrap_or_default()), "{found}");
        let received = server.received.lock()[0].clone();
        assert_eq!(received.header("accept-encoding"), Some("identity"));
        assert!(
            received
                .header("user-agent")
                .is_some_and(|agent| agent.starts_with("tickgate/"))
        );
    }
}
