//! The admin listener over real sockets in this process, with mailboxes in place of shards.

mod admission;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::auth::verifier;
use crate::auth::{Algorithm, Key, KeySet};
use crate::backend::commands::Router;
use crate::backend::feeds::Runner;
use crate::backend::jwks::KeySets;
use crate::backend::{commands, feeds, ingest};
use crate::broker::{Duties, Embedded};
use crate::ingress::http::LocalAddress;
use crate::ingress::tests::{answer, exchange, until};
use crate::shard::mailbox::{Mailbox, mailbox};
use tickgate_protocol::dialect;

pub(super) const KEY: &str = "the-admin-key-of-these-tests-only";

fn settings() -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().expect("an address"),
        key: AdminKey::new(KEY),
        viewer_key: None,
        trace_masks: Vec::new(),
        configuration: Vec::new(),
        publish_body_bytes: 16 * 1024 * 1024,
        publish_body_rate: 1000,
        max_connections: 100,
        max_connections_without_key: 100,
        max_connections_without_key_per_ip: 0,
        event_bytes: 256 * 1024,
        tenants: Vec::new(),
        log_lines_dropped: Arc::default(),
        reloads: Arc::default(),
        log_control: None,
    }
}

pub(super) struct Fixture {
    pub(super) admin: Arc<Admin>,
    pub(super) hub: Arc<Hub>,
    address: std::net::SocketAddr,
    _mailboxes: Vec<Mailbox>,
}

pub(super) fn fixture(change: impl FnOnce(&mut Settings)) -> Fixture {
    let mut settings = settings();
    change(&mut settings);
    let clock = Clock::start();
    let (hub, inboxes) = Hub::new(crate::hub::Settings::default(), 1, dialect::encode_event);
    let broker: Arc<dyn Broker> = Arc::new(Embedded::new(Arc::clone(&hub), clock));
    let (shards, mailboxes): (Vec<_>, Vec<_>) = inboxes
        .iter()
        .map(|inbox| mailbox(Arc::clone(inbox.doorbell()), Arc::default()))
        .unzip();
    let key = Key::hmac(Algorithm::Hs256, KEY.as_bytes(), false).expect("a good key");
    let verifier = verifier::Settings::new(KeySet::new(vec![key]), crate::auth::Settings::default());
    let verifier = Arc::new(Verifier::start(verifier, shards.clone()).expect("started"));
    let key_sets = KeySets::start(Vec::new(), Arc::clone(&verifier), tokio::runtime::Handle::current());
    let router = Router::new(
        commands::Settings::default(),
        Box::new(shards.clone()),
        Arc::clone(&broker),
        tokio::runtime::Handle::current(),
    );
    let alone = (Duties::alone(), None);
    let (feeds, _) = Runner::new(
        feeds::Settings::default(),
        Arc::clone(&hub),
        Arc::clone(&broker),
        clock,
        alone,
    );
    let bodies = body_room(&settings);
    let parts = Parts {
        node: "test".into(),
        verifier,
        health: Arc::new(Health::new(Arc::clone(&broker), None)),
        snapshot: Arc::default(),
        broker: Arc::clone(&broker),
        broker_sample: Box::new(Default::default),
        hub: Arc::clone(&hub),
        statistics: Arc::new(Statistics::new(
            Arc::clone(&hub),
            shards.clone(),
            &TenantNames::default(),
            clock.now(),
        )),
        shards,
        router: Arc::new(router),
        feeds,
        sources: ingest::Runner::new(ingest::Settings::default(), Arc::clone(&broker), Duties::alone(), "n").0,
        key_sets: Arc::new(key_sets),
        ingress: Arc::default(),
        bodies,
        public_bodies: Arc::new(BodyRoom::new(1)),
        tracer: crate::backend::spans::Tracer::default(),
        clock,
    };
    let listener = Arc::new(Listener::bind(&settings.listen, 0o600, false).expect("bound"));
    let LocalAddress::Tcp(address) = listener.address().clone() else {
        panic!("a TCP listener")
    };
    let admin = Admin::new(settings, parts);
    drop(admin.serve(listener));
    Fixture {
        admin,
        hub,
        address,
        _mailboxes: mailboxes,
    }
}

impl Fixture {
    /// A new connection. It is accepted, and its task waits for input.
    async fn connect(&self) -> TcpStream {
        let before = self.admin.metrics.accept.accepted.get();
        let stream = TcpStream::connect(self.address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        until("accepted", || self.admin.metrics.accept.accepted.get() > before).await;
        tokio::task::yield_now().await;
        stream
    }

    /// Sends a request on a new connection and reads the response.
    async fn exchange(&self, request: &[u8]) -> String {
        exchange(&mut self.connect().await, request).await
    }

    /// The value of a metric without labels.
    async fn metric(&self, name: &str) -> u64 {
        let page = self.exchange(&get("/metrics")).await;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect(name).parse().expect("a number")
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

/// The head of a publish request with the admin key, with these further headers.
fn post(headers: &str) -> Vec<u8> {
    format!("POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{headers}\r\n").into_bytes()
}

/// A whole publish request with the admin key.
fn publish(body: &str) -> Vec<u8> {
    [
        post(&format!("Content-Length: {}\r\n", body.len())),
        body.as_bytes().to_vec(),
    ]
    .concat()
}

fn has(answer: &str, status: u16, text: &str) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.to_lowercase().contains(&text.to_lowercase()),
        "expected {status} and {text}: {answer}"
    );
}
