//! What crowds of clients cost in resident memory.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clients::Bare;
use crate::harness::{ADMIN_KEY, Gateway, event, trader, until};

/// Clients of `/ws/market` that arrive together, and the most that they may cost.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    clients: usize,
    /// Channels, each with a last value.
    channels: usize,
    /// Whether the clients read what they get.
    reads: bool,
    most_mb: u64,
}

impl Crowd {
    /// From `TICKGATE_CROWD`: the three numbers, and `deaf` or `reading`.
    fn given() -> Option<Self> {
        let given = std::env::var("TICKGATE_CROWD").ok()?;
        let words: Vec<&str> = given.split(' ').collect();
        let [clients, channels, most_mb, way] = words[..] else {
            panic!("four words, such as \"300 100000 100 deaf\"");
        };
        Some(Self {
            clients: clients.parse().expect("a number"),
            channels: channels.parse().expect("a number"),
            reads: way == "reading",
            most_mb: most_mb.parse().expect("a number"),
        })
    }
}

/// One counter or gauge, summed over the shards.
async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let (_, text) = gateway.metrics().await;
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

async fn publish_all(gateway: &Gateway, channels: usize) {
    let all: Vec<Value> = (0..channels)
        .map(|n| json!({"channel": format!("market.s{n}.price"), "event": "price", "data": {"symbol": format!("s{n}"), "price": 94_000 + n}}))
        .collect();
    for some in all.chunks(10_000) {
        gateway.publish(some.to_vec()).await;
    }
}

/// Reads until `bytes` have come, and holds the connection.
async fn read(client: Bare, bytes: usize) -> TcpStream {
    let (mut stream, begun) = client.into_stream();
    let (mut room, mut left) = (vec![0; 64 * 1024], bytes.saturating_sub(begun));
    while left > 0 {
        let read = stream.read(&mut room).await.expect("read");
        assert!(read > 0, "the connection has ended");
        left = left.saturating_sub(read);
    }
    stream
}

async fn measure(crowd: Crowd) {
    let endpoint = r#"[[endpoint]]
path = "/ws/market"
dialect = "typed"
anonymous = true
auto_subscribe = ["market.*", "system.status"]

# The gateway keeps channels of its own, and none may be evicted.
[state]
channels = 1000000
bytes = 1073741824
"#;
    let gateway = Gateway::start("shards = 2\nconnect_rate = 0", endpoint).await;
    publish_all(&gateway, crowd.channels).await;
    // The frames are made once for all clients. They belong to the state.
    let first = Bare::upgraded(gateway.public, "/ws/market").await;
    let mut streams = vec![read(first, crowd.channels * 100).await];
    let (before, _) = gateway.memory_kb();
    gateway.forget_peak();
    let mut arriving = JoinSet::new();
    for _ in 1..crowd.clients {
        let public = gateway.public;
        arriving.spawn(async move {
            let client = Bare::upgraded(public, "/ws/market").await;
            if crowd.reads {
                read(client, crowd.channels * 100).await
            } else {
                client.into_stream().0
            }
        });
    }
    while let Some(arrived) = arriving.join_next().await {
        streams.push(arrived.expect("arrived"));
    }
    let owed = (crowd.clients * crowd.channels) as u64;
    until("all have joined", async || {
        (metric(&gateway, "tickgate_catch_ups_total").await >= owed).then_some(())
    })
    .await;
    let (after, peak) = gateway.memory_kb();
    let [after, peak] = [after, peak].map(|kb| kb.saturating_sub(before) / 1024);
    println!("{crowd:?}: {after} MB above the state without them, {peak} MB at most");
    assert!(peak <= crowd.most_mb, "{crowd:?} cost {peak} MB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_costs_memory_by_what_its_clients_differ_in() {
    let small = [
        Crowd {
            clients: 60,
            channels: 20_000,
            reads: false,
            most_mb: 15,
        },
        Crowd {
            clients: 60,
            channels: 5_000,
            reads: true,
            most_mb: 15,
        },
    ];
    match Crowd::given() {
        Some(crowd) => measure(crowd).await,
        None => {
            for crowd in small {
                measure(crowd).await;
            }
        }
    }
}

async fn memory_state(gateway: &Gateway) -> Value {
    gateway.admin("GET", "/readyz", "").await.1["memory"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_memory_is_short_joins_are_refused_and_then_stalled_clients_closed() {
    const CHANNELS: usize = 10_000;
    let gateway = Gateway::start("shards = 1", "[limits]\nmemory = 16777216\n").await;
    let all: Vec<Value> = (0..CHANNELS)
        .map(|n| json!({"channel": format!("grid.g{n}.lifecycle"), "event": "started", "data": {"pad": "x".repeat(100)}}))
        .collect();
    gateway.publish(all).await;
    let mut healthy = gateway.connect(&trader()).await;
    healthy.subscribe(&["grid.healthy.status"]).await;
    assert_eq!(memory_state(&gateway).await, "ok");
    // Each of these owes more than a megabyte to a client that reads nothing.
    let mut deaf = Vec::new();
    let refused = loop {
        let before = metric(&gateway, "tickgate_catch_up_memory_bytes").await;
        match gateway.connect_to(&format!("/ws?token={}", trader())).await {
            Ok(mut client) => {
                client.send(&json!({"type": "subscribe", "channels": ["grid.*"]})).await;
                deaf.push(client);
            }
            Err(refused) => break refused.to_string(),
        }
        assert!(deaf.len() < 100, "nothing is refused");
        until("the subscription, or its refusal", async || {
            let after = metric(&gateway, "tickgate_catch_up_memory_bytes").await;
            let refused = metric(&gateway, "tickgate_subscribes_refused_total").await;
            (after >= before + 500_000 || refused > 0).then_some(())
        })
        .await;
    };
    assert!(refused.contains("503"), "{refused}");
    assert!(deaf.len() > 5, "{} clients", deaf.len());
    assert_eq!(memory_state(&gateway).await, "refusing_joins");
    assert_eq!(metric(&gateway, "tickgate_connections_shed_total").await, 0);
    healthy
        .send(&json!({"type": "subscribe", "channels": ["grid.other.status"], "id": 1}))
        .await;
    let answer = healthy.expect("error").await;
    assert_eq!(answer["error"]["code"], "OVERLOADED");
    assert!(answer["data"]["retry_after_ms"].as_u64() > Some(0), "{answer}");
    // A body that is promised and does not end takes more than what is left.
    let mut body = TcpStream::connect(gateway.admin).await.expect("connected");
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: 8000000\r\n\r\n"
    );
    body.write_all(head.as_bytes()).await.expect("sent");
    body.write_all(&vec![b' '; 3_000_000]).await.expect("sent");
    until("stalled clients are closed", async || {
        (metric(&gateway, "tickgate_connections_shed_total").await > 0).then_some(())
    })
    .await;
    drop(body);
    gateway.publish(vec![event("grid.healthy.status", 1)]).await;
    assert_eq!(
        healthy.expect("event").await["data"]["n"],
        1,
        "the healthy client stays"
    );
    until("memory is enough again", async || {
        (memory_state(&gateway).await == "ok").then_some(())
    })
    .await;
    let closed = metric(&gateway, "tickgate_connections_shed_total").await;
    assert!(closed < deaf.len() as u64, "{closed} of {}", deaf.len());
    let (_, metrics) = gateway.metrics().await;
    let line = format!("tickgate_endings_total{{code=\"1013\",reason=\"overload\"}} {closed}\n");
    assert!(metrics.contains(&line), "{metrics}");
    let mut newcomer = gateway.connect(&trader()).await;
    newcomer.subscribe(&["grid.other.status"]).await;
    assert!(gateway.log().contains("memory is short"));
}
