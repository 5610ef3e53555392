//! Clients that stall, flood, send garbage or do not finish what they begin. Each ends with its close code, and a healthy
//! client on the same gateway receives every event, once and in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clients::{Bare, Told, masked, text};
use crate::harness::{Gateway, event, numbers, trader, until};

const CHANNEL: &str = "grid.healthy.status";

/// Runs `hostile` while events are published and a healthy client receives them, until the hostile clients have ended
/// and `EVENTS_MIN` events are published.
async fn beside_a_healthy_client<T>(gateway: Arc<Gateway>, hostile: impl AsyncFnOnce(&Gateway) -> T) -> T {
    const EVENTS_MIN: usize = 200;
    let mut healthy = gateway.connect(&trader()).await;
    healthy.subscribe(&[CHANNEL]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn({
        let (gateway, stop) = (gateway.clone(), stop.clone());
        async move {
            let mut count = 0;
            while count < EVENTS_MIN || !stop.load(Ordering::Relaxed) {
                gateway.publish(vec![event(CHANNEL, count)]).await;
                count += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            gateway
                .publish(vec![json!({"channel": CHANNEL, "event": "end", "data": {"n": count}})])
                .await;
            count + 1
        }
    });
    let listener = tokio::spawn(async move {
        let mut heard = Vec::new();
        loop {
            let event = healthy.expect("event").await;
            let is_last = event["event"] == "end";
            heard.push(event);
            if is_last {
                return heard;
            }
        }
    });
    let outcome = hostile(&gateway).await;
    stop.store(true, Ordering::Relaxed);
    let published = publisher.await.expect("published");
    let heard = listener.await.expect("heard");
    assert!(
        numbers(&heard, CHANNEL).into_iter().eq(0..published),
        "the healthy client missed something"
    );
    outcome
}

fn url() -> String {
    format!("/ws?token={}", trader())
}

fn code(end: &Told) -> u16 {
    match end {
        Told::Closed(code, _) => *code,
        other => panic!("expected a Close frame, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_framing_ends_with_its_code() {
    let gateway = Arc::new(Gateway::start("shards = 1", "").await);
    let cases: [(&str, Vec<u8>, u16, &str); 9] = [
        (
            "garbage",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50),
            1002,
            "RSV1 is set without an extension",
        ),
        (
            "an unmasked frame",
            vec![0x81, 0x02, b'{', b'}'],
            1002,
            "frame is not masked",
        ),
        ("a reserved opcode", masked(true, 3, b"x"), 1002, "reserved opcode"),
        (
            "a reserved bit",
            vec![0xc1, 0x80, 0, 0, 0, 0],
            1002,
            "RSV1 is set without an extension",
        ),
        (
            "a fragmented ping",
            masked(false, 9, b"x"),
            1002,
            "fragmented control frame",
        ),
        (
            "a continuation of nothing",
            masked(true, 0, b"x"),
            1002,
            "continuation without a message",
        ),
        (
            "a text within a text",
            [masked(false, 1, b"{"), masked(true, 1, b"{}")].concat(),
            1002,
            "new message inside a fragmented one",
        ),
        (
            "a text that is not UTF-8",
            masked(true, 1, b"\"\xff\""),
            1007,
            "invalid UTF-8",
        ),
        (
            "a frame that claims 2^62 bytes",
            [&[0x81, 0xff, 0x40][..], &[0; 11]].concat(),
            1009,
            "message too big",
        ),
    ];
    beside_a_healthy_client(gateway, async |gateway| {
        for (what, bytes, expected, rule) in cases {
            let mut client = gateway.connect_bare(&url()).await;
            client.send(&bytes).await.expect("sent");
            let (messages, end) = client.rest().await;
            assert_eq!((code(&end), messages.len()), (expected, 0), "{what}: {messages:?}");
            assert_eq!(end, Told::Closed(expected, rule.to_owned()), "{what}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_fragments_end_at_the_message_limit() {
    let gateway = Arc::new(Gateway::start("shards = 1", "").await);
    beside_a_healthy_client(gateway, async |gateway| {
        let mut client = gateway.connect_bare(&url()).await;
        let mut sent = 0;
        let mut fragment = masked(false, 1, &[b' '; 1000]);
        // This is far more than the limit and all buffers on the way hold.
        while sent < 64 << 20 && client.send(&fragment).await.is_ok() {
            sent += 1000;
            fragment = masked(false, 0, &[b' '; 1000]);
            if let Some((_, end)) = client.ended_meanwhile().await {
                assert_eq!(code(&end), 1009);
                return;
            }
        }
        panic!("{sent} bytes were taken");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_never_finished_ends_in_time() {
    let gateway = Arc::new(Gateway::start("shards = 1", "").await);
    beside_a_healthy_client(gateway, async |gateway| {
        let mut client = gateway.connect_bare(&url()).await;
        client.send(&masked(false, 1, b"{")).await.expect("sent");
        // An empty fragment is a sign of life, although it does not add to the message's size.
        loop {
            if let Some((_, end)) = client.ended_meanwhile().await {
                assert_eq!(code(&end), 1008);
                return;
            }
            client.send(&masked(false, 0, b"")).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_refused_reported_once_a_second_and_then_ended() {
    let gateway = Arc::new(Gateway::start("shards = 1", "").await);
    let (messages, end) = beside_a_healthy_client(gateway, async |gateway| {
        let mut client = gateway.connect_bare(&url()).await;
        let batch = text(&json!({"type": "get_status"})).repeat(100);
        loop {
            if let Some(ended) = client.ended_meanwhile().await {
                return ended;
            }
            client.send(&batch).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(code(&end), 4029);
    let refusals: Vec<&Value> = messages
        .iter()
        .filter(|message| message["error"]["code"] == "RATE_LIMITED")
        .collect();
    assert!(!refusals.is_empty());
    assert!(
        refusals
            .iter()
            .all(|refusal| refusal["data"]["refused"].as_u64() > Some(0)),
        "{refusals:?}"
    );
    // At most one per second by the gateway's monotonic clock. The messages show its wall clock, hence the tolerance.
    let told_ms = |refusal: &Value| refusal["timestamp"].as_u64().expect("a timestamp");
    let apart = |pair: &[&Value]| told_ms(pair[1]) - told_ms(pair[0]) >= 900;
    assert!(refusals.windows(2).all(apart), "{refusals:?}");
    let answers = messages.iter().filter(|message| message["type"] == "status").count();
    assert!(answers >= 100, "the burst is served: {answers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_ends_the_connection() {
    let gateway = Arc::new(Gateway::start("shards = 1", "").await);
    let (_, end) = beside_a_healthy_client(gateway, async |gateway| {
        let mut client = gateway.connect_bare(&url()).await;
        let batch = masked(true, 9, b"ping").repeat(1000);
        client.send(&batch).await.expect("sent");
        client.rest().await
    })
    .await;
    assert_eq!(code(&end), 4029);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_client_that_stops_reading_loses_events_and_it_learns_how_many() {
    const BIG: &str = "grid.big.note";
    let gateway = Arc::new(Gateway::start("shards = 1", "[limits]\noutbox_bytes = 300000").await);
    // 40 MB are more than the outbox and the kernel's buffers of both sides hold together.
    const EVENTS: usize = 800;
    let padding = "x".repeat(50_000);
    let (messages, dropped) = beside_a_healthy_client(gateway, async |gateway| {
        let mut stalled = gateway.connect_bare(&url()).await;
        stalled
            .send(&text(&json!({"type": "subscribe", "channels": [BIG]})))
            .await
            .expect("sent");
        until("the subscription", async || {
            (gateway.stats().await["subscriptions"][BIG] == 1).then_some(())
        })
        .await;
        for number in 0..EVENTS {
            let event = json!({"channel": BIG, "event": "update", "data": {"n": number, "padding": padding}});
            gateway.publish(vec![event]).await;
        }
        // Now the client reads again. It does not unsubscribe before, because then events that its shard has not taken
        // from the inbox would not arrive.
        let messages = stalled.until_event(EVENTS - 1).await;
        let dropped = messages.iter().filter(|message| message["type"] == "dropped");
        let dropped: u64 = dropped
            .map(|told| told["data"]["count"].as_u64().expect("a count"))
            .sum();
        (messages, dropped)
    })
    .await;
    let heard = numbers(&messages, BIG);
    assert!(
        heard.windows(2).all(|pair| pair[0] < pair[1]),
        "out of order: {heard:?}"
    );
    assert_eq!(
        heard.len() + usize::try_from(dropped).expect("fits"),
        EVENTS,
        "heard and dropped, together, are all; the last heard was {:?}",
        heard.last()
    );
    assert!(
        dropped > 0 && heard.last() == Some(&(EVENTS - 1)),
        "the newest are kept: {:?}",
        heard.last()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_is_ended_by_the_heartbeat() {
    let gateway = Arc::new(Gateway::start("shards = 1", "[heartbeat]\ninterval = \"500ms\"\ntimeout = \"4s\"").await);
    let (_, end) = beside_a_healthy_client(gateway, async |gateway| {
        let mut stalled = gateway.connect_bare(&url()).await;
        until("the heartbeat", async || {
            let endings = gateway.stats().await["endings"].clone();
            (endings["4009"] == 1).then_some(())
        })
        .await;
        stalled.rest().await
    })
    .await;
    assert_eq!(code(&end), 4009);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_are_ended_and_do_not_block_others() {
    let gateway = Arc::new(Gateway::start("shards = 1\nhandshake_timeout = \"3s\"", "").await);
    beside_a_healthy_client(gateway, async |gateway| {
        let mut trickling = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(gateway.public).await.expect("connected");
            stream
                .write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
                .await
                .expect("sent");
            trickling.push(stream);
        }
        // Other clients are served meanwhile.
        let mut client = gateway.connect(&trader()).await;
        client.subscribe(&["grid.*"]).await;
        for mut stream in trickling {
            let trickle = async {
                let mut answer = Vec::new();
                loop {
                    tokio::select! {
                        read = stream.read_buf(&mut answer) => if !matches!(read, Ok(1..)) { return answer },
                        () = tokio::time::sleep(Duration::from_millis(100)) => {
                            let _ = stream.write_all(b"X: y\r\n").await;
                        }
                    }
                }
            };
            let answer = crate::harness::within("the end of a trickling handshake", trickle).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
        }
        drop::<Bare>(gateway.connect_bare(&url()).await);
    })
    .await;
}
