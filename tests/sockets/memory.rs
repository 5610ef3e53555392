//! What crowds of clients cost in resident memory.

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clients::Bare;
use crate::harness::{Gateway, until};

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
async fn read(mut stream: TcpStream, bytes: usize) -> TcpStream {
    let (mut room, mut left) = (vec![0; 64 * 1024], bytes);
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
"#;
    let gateway = Gateway::start("shards = 2\nconnect_rate = 0", endpoint).await;
    publish_all(&gateway, crowd.channels).await;
    // The frames are made once for all clients. They belong to the state.
    let first = Bare::upgraded(gateway.public, "/ws/market").await;
    let mut streams = vec![read(first.into_stream(), crowd.channels * 100).await];
    let (before, _) = gateway.memory_kb();
    gateway.forget_peak();
    let mut arriving = JoinSet::new();
    for _ in 1..crowd.clients {
        let public = gateway.public;
        arriving.spawn(async move {
            let client = Bare::upgraded(public, "/ws/market").await;
            if crowd.reads {
                read(client.into_stream(), crowd.channels * 100).await
            } else {
                client.into_stream()
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
