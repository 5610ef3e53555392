//! Commands through the whole gateway to a real backend (Node) that answers, delays, fails, crashes and restarts. Every
//! command gets exactly one response and reaches the backend at most once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::clients::{Client, Told};
use super::harness::{Gateway, token, until};

const CLIENTS: usize = 50;
const COMMANDS_EACH: usize = 24;
// Fifty clients send four commands per second each: 200 per second.
const PAUSE: Duration = Duration::from_millis(250);

/// A Node process that can be killed and started again on the same port.
pub(crate) struct Node {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    address: SocketAddr,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn new(arguments: Vec<String>, environment: &[(&str, &str)], address: SocketAddr) -> Self {
        let environment = environment
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Self {
            arguments,
            environment: environment.collect(),
            address,
            child: None,
        }
    }

    /// Starts `program` and waits until it listens.
    pub(crate) async fn start(&mut self, program: &str) {
        let child = Command::new(program)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = self
            .child
            .insert(child.unwrap_or_else(|error| panic!("{program}: {error}")));
        until("the backend", async || {
            if let Some(status) = child.try_wait().expect("asked") {
                panic!("the backend ended with {status}");
            }
            TcpStream::connect(self.address).await.ok()
        })
        .await;
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address with a port that was free a moment ago.
pub(crate) async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    listener.local_addr().expect("bound")
}

struct Setup {
    backend: Node,
    gateway: Gateway,
    journal: PathBuf,
    _directory: tempfile::TempDir,
}

async fn setup() -> Setup {
    setup_with("").await
}

async fn setup_with(server: &str) -> Setup {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = directory.path().join("journal");
    let address = free_address().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sockets/backend.cjs");
    let arguments = vec![
        script.to_owned(),
        address.port().to_string(),
        journal.display().to_string(),
    ];
    let mut backend = Node::new(arguments, &[], address);
    backend.start("node").await;
    let route = format!(
        "[auth.role.tester]\nchannels = []\ncommands = [\"test.*\"]\npublish = []\n\
         [[command]]\nmatch = \"test.*\"\nhttp = \"http://{address}/commands\"\ntimeout = \"2s\"\n"
    );
    let gateway = Gateway::start(server, &route).await;
    Setup {
        backend,
        gateway,
        journal,
        _directory: directory,
    }
}

async fn connect(gateway: &Gateway, user: &str) -> Client {
    gateway.connect(&token(user, "tester", Duration::from_secs(600))).await
}

fn command(id: &str, action: &str, params: &Value) -> Value {
    json!({"type": "command", "id": id, "action": action, "params": params})
}

// Responses by outcome: `success`, or the code of the error. A second response to one id is a panic.
#[derive(Default)]
struct Answers(BTreeMap<String, String>);

impl Answers {
    fn add(&mut self, message: &Value) {
        let id = message["id"].as_str().expect("an id").to_owned();
        let outcome = message["error"]["code"].as_str().unwrap_or("success").to_owned();
        assert_eq!(message["success"], outcome == "success", "{message}");
        assert_eq!(self.0.insert(id.clone(), outcome), None, "a second answer: {message}");
    }

    fn count(&self, outcome: &str) -> usize {
        self.0.values().filter(|other| *other == outcome).count()
    }
}

async fn answers(client: &mut Client, count: usize) -> Answers {
    let mut answers = Answers::default();
    while answers.0.len() < count {
        answers.add(&client.expect("response").await);
    }
    // All earlier responses arrive before the response to this message.
    client.send(&json!({"type": "get_status"})).await;
    let status = client.next().await;
    assert!(
        matches!(&status, Told::Message(message) if message["type"] == "status"),
        "{status:?}"
    );
    answers
}

async fn one_client(mut client: Client, number: usize) -> Answers {
    for sent in 0..COMMANDS_EACH {
        let (action, params) = match (number + sent) % 12 {
            0 => ("test.delay", json!({"ms": 100})),
            1 => ("test.delay", json!({"ms": 3000})),
            2 => ("test.fail", json!({})),
            3 => ("test.garbage", json!({})),
            4 => ("test.refuse", json!({})),
            _ => ("test.answer", json!({"n": sent})),
        };
        client.send(&command(&format!("c{sent}"), action, &params)).await;
        tokio::time::sleep(PAUSE).await;
    }
    answers(&mut client, COMMANDS_EACH).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_is_answered_once_while_the_backend_restarts() {
    let mut setup = setup().await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let client = connect(&setup.gateway, &format!("u{number}")).await;
        clients.push(tokio::spawn(one_client(client, number)));
    }
    // The pauses create load; nothing is synchronised by them. The backend is killed meanwhile and starts again.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        setup.backend.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        setup.backend.start("node").await;
    }
    let mut all = Vec::new();
    for client in clients {
        all.push(client.await.expect("the client's own checks hold"));
    }
    let total: usize = all.iter().map(|answers| answers.0.len()).sum();
    assert_eq!(total, CLIENTS * COMMANDS_EACH);
    for outcome in ["success", "BACKEND_UNAVAILABLE"] {
        let count: usize = all.iter().map(|answers| answers.count(outcome)).sum();
        assert!(count > 0, "no {outcome} among {total}");
    }
    assert_at_most_once(&setup.journal);

    // The breaker closes again by itself.
    let mut client = connect(&setup.gateway, "last").await;
    let mut sent = 0;
    until("a success after it all", async || {
        sent += 1;
        client
            .send(&command(&format!("l{sent}"), "test.answer", &json!(null)))
            .await;
        let answer = client.expect("response").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        (answer["success"] == true).then_some(())
    })
    .await;
    let stats = setup.gateway.stats().await;
    let circuits: Vec<_> = stats["commands"]["backends"]
        .as_array()
        .expect("backends")
        .iter()
        .map(|backend| &backend["circuit"])
        .collect();
    assert_eq!(circuits, ["closed"], "{stats}");
}

fn assert_at_most_once(journal: &Path) {
    let journal = std::fs::read_to_string(journal).expect("the backend wrote it");
    let mut lines: Vec<&str> = journal.lines().collect();
    assert!(lines.len() > CLIENTS, "the backend was used");
    lines.sort_unstable();
    let again = lines.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(again, None, "the backend got a command twice");
}

#[tokio::test]
async fn fifty_commands_at_once_meet_the_limit_of_ten_per_second() {
    let setup = setup().await;
    let mut client = connect(&setup.gateway, "eager").await;
    let begun = Instant::now();
    for sent in 0..50 {
        client
            .send(&command(&format!("c{sent}"), "test.answer", &json!({"n": sent})))
            .await;
    }
    let answers = answers(&mut client, 50).await;
    let (taken, refused) = (answers.count("success"), answers.count("RATE_LIMITED"));
    assert_eq!(taken + refused, 50, "{:?}", answers.0);
    // The burst, and at most ten more per second.
    let most = 10 + 10 * (begun.elapsed().as_secs() + 1);
    assert!(
        taken >= 10 && taken as u64 <= most && refused > 0,
        "{taken} taken, {refused} refused"
    );
    assert_at_most_once_of(&setup.journal, taken);
}

fn assert_at_most_once_of(journal: &Path, taken: usize) {
    let journal = std::fs::read_to_string(journal).expect("the backend wrote it");
    assert_eq!(
        journal.lines().count(),
        taken,
        "only what was answered reached the backend"
    );
}

#[tokio::test]
async fn commands_without_permission_route_or_time_get_their_codes() {
    let setup = setup().await;
    let mut client = connect(&setup.gateway, "u1").await;
    for (id, action, code) in [
        ("a", "test.answer", "success"),
        ("b", "grid.start", "FORBIDDEN"),
        ("c", "test.refuse", "VALIDATION_ERROR"),
        ("d", "test.fail", "BACKEND_UNAVAILABLE"),
        ("e", "test.garbage", "BACKEND_UNAVAILABLE"),
    ] {
        client.send(&command(id, action, &json!({"x": 1}))).await;
        assert_eq!(answers(&mut client, 1).await.0[id], code, "{action}");
    }
    // Two commands with one id: the second one is refused, the first one times out.
    client
        .send(&command("slow", "test.delay", &json!({"ms": 60_000})))
        .await;
    client
        .send(&command("slow", "test.delay", &json!({"ms": 60_000})))
        .await;
    let codes = [client.expect("response").await, client.expect("response").await].map(|answer| {
        assert_eq!(answer["id"], "slow");
        answer["error"]["code"].clone()
    });
    assert_eq!(codes, ["DUPLICATE_ID", "TIMEOUT"]);

    let mut admin = setup
        .gateway
        .connect(&token("root", "admin", Duration::from_secs(600)))
        .await;
    admin.send(&command("x", "nobody.knows", &json!({}))).await;
    assert_eq!(admin.expect("response").await["error"]["code"], "UNKNOWN_ACTION");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_cancel_its_command() {
    let setup = setup().await;
    let mut client = connect(&setup.gateway, "u1").await;
    client.send(&command("left", "test.delay", &json!({"ms": 300}))).await;
    until("the backend has it", async || {
        let journal = std::fs::read_to_string(&setup.journal).ok()?;
        journal.contains(" left").then_some(())
    })
    .await;
    drop(client);
    until("its outcome is counted", async || {
        let (status, metrics) = setup.gateway.metrics().await;
        assert_eq!(status, 200);
        metrics
            .lines()
            .any(|line| {
                line.starts_with("tickgate_commands_answered_total")
                    && line.contains("\"success\"")
                    && line.ends_with(" 1")
            })
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn commands_are_answered_until_a_drain_closes_their_connection() {
    let mut setup = setup_with("drain = \"1h\"").await;
    let mut client = connect(&setup.gateway, "u1").await;
    // The answer shows that a shard has the connection; one that none has taken yet is closed without `going_away`.
    client.subscribe(&["user.u1.*"]).await;
    setup.gateway.signal("TERM");
    client.expect("going_away").await;
    client.send(&command("late", "test.answer", &json!({"n": 1}))).await;
    let response = client.expect("response").await;
    assert_eq!(
        (&response["id"], &response["success"]),
        (&json!("late"), &json!(true)),
        "{response}"
    );
    drop(client);
    assert_eq!(setup.gateway.ended().await.code(), Some(0));
}
