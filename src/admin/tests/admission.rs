//! Who gets a place, and whose body is read: floods of connections and of bodies.

use super::*;
use crate::ingress::http::BYTES_FREE;

const EVENT: &str = r#"{"channel":"grid.a","event":"e"}"#;

/// An event whose text is longer than the part of a body that needs no room.
fn long_event() -> String {
    let data = "x".repeat(3 * BYTES_FREE);
    format!(r#"{{"channel":"grid.a","event":"e","data":"{data}"}}"#)
}

#[tokio::test]
async fn bodies_that_are_promised_and_not_sent_stop_no_other_publisher() {
    let fixture = fixture(|_| {});
    let mut promised = Vec::new();
    for _ in 0..32 {
        let mut stream = fixture.connect().await;
        stream
            .write_all(&post("Content-Length: 16777216\r\n"))
            .await
            .expect("sent");
        promised.push(stream);
    }
    until("all are being read", || fixture.admin.in_flight() == 32).await;
    has(&fixture.exchange(&publish(&long_event())).await, 200, "\"published\":1");
    assert_eq!(fixture.admin.parts.bodies.held(), 0);
    has(&fixture.exchange(&get("/readyz")).await, 200, "\"publishing\":\"ok\"");
}

#[tokio::test]
async fn a_body_that_trickles_ends_although_it_never_pauses_for_long() {
    let fixture = fixture(|_| {});
    for (headers, byte) in [
        ("Content-Length: 100000\r\n", b"x".as_slice()),
        (
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n",
            b"1\r\nx\r\n",
        ),
    ] {
        let late = fixture.admin.metrics.late_bodies.get();
        let mut stream = fixture.connect().await;
        let begun = tokio::time::Instant::now();
        stream.write_all(&post(headers)).await.expect("sent");
        until("the body is being read", || fixture.admin.in_flight() == 1).await;
        // From here on the clock jumps to the next deadline when all tasks wait.
        tokio::time::pause();
        let mut told = Vec::new();
        while told.is_empty() && begun.elapsed() < Duration::from_secs(600) {
            stream.write_all(byte).await.expect("sent");
            let mut buffer = [0; 1024];
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer));
            if let Ok(read) = read.await {
                told.extend(&buffer[..read.expect("an answer")]);
            }
        }
        tokio::time::resume();
        has(&String::from_utf8(told).expect("text"), 408, "TIMEOUT");
        assert!(begun.elapsed() >= Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(fixture.admin.metrics.late_bodies.get(), late + 1);
    }
    assert_eq!(fixture.metric("tickgate_admin_late_bodies_total").await, 2);
}

#[tokio::test]
async fn a_stream_may_pause_between_lines_and_a_body_may_be_slow_but_not_too_slow() {
    let fixture = fixture(|_| {});
    let mut stream = fixture.connect().await;
    let headers = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    stream.write_all(&post(headers)).await.expect("sent");
    let mut slow = fixture.connect().await;
    let body = long_event();
    let head = post(&format!("Content-Length: {}\r\n", body.len()));
    slow.write_all(&head).await.expect("sent");
    until("both are being read", || fixture.admin.in_flight() == 2).await;
    tokio::time::pause();
    let line = format!("{:x}\r\n{EVENT}\n\r\n", EVENT.len() + 1);
    for chunk in body.as_bytes().chunks(2000) {
        stream.write_all(line.as_bytes()).await.expect("sent");
        slow.write_all(chunk).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(3500)).await;
    }
    has(&answer(&mut slow).await, 200, "\"published\":1");
    for _ in 0..3 {
        stream.write_all(line.as_bytes()).await.expect("sent");
        tokio::time::sleep(Duration::from_secs(50)).await;
    }
    let told = exchange(&mut stream, b"0\r\n\r\n").await;
    has(&told, 200, "\"published\":10");
}

#[tokio::test]
async fn a_body_without_room_is_refused_and_readyz_and_a_metric_say_so() {
    let fixture = fixture(|_| {});
    let room = Arc::clone(&fixture.admin.parts.bodies);
    let mut others = room.share();
    others
        .try_resize(256 * 1024 * 1024 + BYTES_FREE)
        .expect("no body is in memory");
    for headers in [
        "Content-Length: 100000\r\n",
        "Content-Length: 100000\r\nContent-Type: application/x-ndjson\r\n",
    ] {
        let mut refused = fixture.connect().await;
        refused.write_all(&post(headers)).await.expect("sent");
        refused.write_all(&[b'x'; 20_000]).await.expect("sent");
        until("it is being read", || fixture.admin.in_flight() == 1).await;
        // From here on the clock jumps to the next deadline when all tasks wait.
        tokio::time::pause();
        let told = answer(&mut refused).await;
        tokio::time::resume();
        has(&told, 503, "OVERLOADED");
        has(&told, 503, "\r\nretry-after: 1\r\n");
    }
    has(&fixture.exchange(&publish(EVENT)).await, 200, "\"published\":1");
    has(
        &fixture.exchange(&get("/readyz")).await,
        200,
        "\"publishing\":\"no_room_for_bodies\"",
    );
    assert_eq!(fixture.metric("tickgate_publishing").await, 0);
    assert_eq!(
        fixture.metric("tickgate_body_bytes{listener=\"admin\"}").await,
        256 << 20
    );
    assert_eq!(fixture.metric("tickgate_admin_bodies_without_room_total").await, 2);
    drop(others);
    has(&fixture.exchange(&publish(&long_event())).await, 200, "\"published\":1");
    has(&fixture.exchange(&get("/readyz")).await, 200, "\"publishing\":\"ok\"");
    assert_eq!(fixture.metric("tickgate_publishing").await, 1);
    assert_eq!(fixture.hub.metrics().events, 2);
}

#[tokio::test]
async fn half_lines_of_streams_share_the_room_of_bodies() {
    let fixture = fixture(|_| {});
    let room = &fixture.admin.parts.bodies;
    let mut stream = fixture.connect().await;
    let headers = "Content-Type: application/x-ndjson\r\nContent-Length: 100000\r\n";
    stream.write_all(&post(headers)).await.expect("sent");
    stream.write_all(&[b' '; 50_000]).await.expect("sent");
    until("the half line is held", || room.held() == 50_000 - BYTES_FREE).await;
    let end = format!("{EVENT}\n");
    stream.write_all(end.as_bytes()).await.expect("sent");
    until("the line is published", || fixture.hub.metrics().events == 1).await;
    until("its room is free", || room.held() == 0).await;
}

#[tokio::test]
async fn health_and_metrics_are_served_whatever_silent_connections_there_are() {
    let fixture = fixture(|settings| {
        settings.max_connections_without_key = 4;
        settings.max_connections_without_key_per_ip = 3;
    });
    let mut publisher = fixture.connect().await;
    has(&exchange(&mut publisher, &publish(EVENT)).await, 200, "\"published\":1");
    for beginning in [b"".as_slice(), b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut flood = Vec::new();
        for _ in 0..8 {
            let mut stream = fixture.connect().await;
            stream.write_all(beginning).await.expect("sent");
            flood.push(stream);
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            has(&fixture.exchange(&get(path)).await, 200, "");
        }
        has(&fixture.exchange(&publish(EVENT)).await, 200, "\"published\":1");
    }
    has(&exchange(&mut publisher, &publish(EVENT)).await, 200, "\"published\":1");
    assert!(fixture.metric("tickgate_admin_connections_displaced_total").await >= 15);
}

#[tokio::test]
async fn connections_with_a_key_are_bounded_apart() {
    let fixture = fixture(|settings| settings.max_connections = 2);
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut stream = fixture.connect().await;
        has(&exchange(&mut stream, &publish(EVENT)).await, 200, "\"published\":1");
        tokio::task::yield_now().await;
        idle.push(stream);
    }
    assert_eq!(answer(&mut idle[0]).await, "", "the longest idle one is closed");
    drop(idle);
    until("they have ended", || fixture.admin.metrics.connections.get() == 0).await;

    // Two that are being served are not closed: a third is refused, and a probe is served.
    let mut served = Vec::new();
    for _ in 0..2 {
        let mut stream = fixture.connect().await;
        stream.write_all(&post("Content-Length: 100\r\n")).await.expect("sent");
        served.push(stream);
    }
    until("both are being read", || fixture.admin.in_flight() == 2).await;
    let told = fixture.exchange(&publish(EVENT)).await;
    has(&told, 503, "OVERLOADED");
    has(&told, 503, "\r\nretry-after: 1\r\n");
    has(
        &fixture.exchange(&get("/readyz")).await,
        200,
        "\"publishing\":\"too_many_connections\"",
    );
    assert_eq!(fixture.metric("tickgate_admin_connections_refused_total").await, 1);
    served.pop();
    until("one has ended", || fixture.admin.in_flight() == 1).await;
    has(&fixture.exchange(&publish(EVENT)).await, 200, "\"published\":1");
}
