//! Floods of connections that send nothing, or begin a request and do not go on.

use super::*;

/// Waits until a connection is closed, and returns what came on it before.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset ends the connection as well.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("closed in time");
    rest
}

/// Opens connections that send `beginning` and no more, one after the other.
async fn silent(fixture: &Fixture, count: usize, beginning: &[u8]) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let before = fixture.metrics.accept.accepted.get();
        let mut stream = fixture.connect().await;
        stream.write_all(beginning).await.expect("sent");
        until("accepted", || fixture.metrics.accept.accepted.get() > before).await;
        // The task of the connection waits for more input.
        tokio::task::yield_now().await;
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn a_half_open_flood_of_one_address_closes_its_own_oldest_connections() {
    for beginning in ["", "GET /ws HTTP/1.1\r\nHost: x\r\n"] {
        let mut fixture = fixture(|settings| {
            settings.max_pending_per_ip = 3;
            settings.handshake_timeout_ms = 600_000;
        });
        let mut flood = silent(&fixture, 5, beginning.as_bytes()).await;
        fixture.refused(RefusalReason::PendingPerAddress, 2).await;
        for stream in &mut flood[..2] {
            assert!(rest(stream).await.is_empty(), "the oldest ones get no response");
        }
        until("three are left", || fixture.metrics.pending.get() == 3).await;
        // A client that sends its handshake passes.
        has(&fixture.exchange(&handshake("/open", &[])).await, 101, &[]);
        let _healthy = fixture.adopted().await;
        // So does one of the flood that goes on.
        let last = flood.last_mut().expect("five");
        let end = match beginning {
            "" => handshake("/open", &[]),
            _ => b"\r\n".to_vec(),
        };
        let told = exchange(last, &end).await;
        has(&told, if beginning.is_empty() { 101 } else { 426 }, &[]);
    }
}

#[tokio::test]
async fn when_all_places_are_taken_the_longest_silent_connection_makes_room() {
    let mut fixture = fixture(|settings| {
        settings.max_pending = 4;
        settings.handshake_timeout_ms = 600_000;
    });
    let mut flood = silent(&fixture, 4, b"").await;
    until("all are pending", || fixture.metrics.pending.get() == 4).await;
    has(&fixture.exchange(&handshake("/open", &[])).await, 101, &[]);
    let _healthy = fixture.adopted().await;
    assert!(rest(&mut flood[0]).await.is_empty());
    fixture.refused(RefusalReason::Pending, 1).await;
    // A response that its client does not read, and input that is only discarded, keep no place either.
    let _refused: Vec<_> = silent(
        &fixture,
        8,
        b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    )
    .await;
    has(&fixture.exchange(&handshake("/open", &[])).await, 101, &[]);
    until("at most four", || fixture.metrics.pending.get() <= 4).await;
}

#[tokio::test]
async fn a_proxied_client_is_bounded_by_the_address_that_its_proxy_names() {
    let fixture = fixture(|settings| {
        settings.max_pending_per_ip = 2;
        settings.handshake_timeout_ms = 600_000;
        settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good");
    });
    // The proxy's own connections are not those of a client.
    let proxy = silent(&fixture, 5, b"").await;
    let header = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 1 2\r\n");
    let mut flood = silent(&fixture, 3, header("192.0.2.1").as_bytes()).await;
    let other = silent(&fixture, 2, header("192.0.2.2").as_bytes()).await;
    fixture.refused(RefusalReason::PendingPerAddress, 1).await;
    assert!(rest(&mut flood[0]).await.is_empty());
    until("the others are left", || fixture.metrics.pending.get() == 9).await;
    // A header of HTTP names the client of a request, and of the wait behind it.
    let health = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.2\r\n\r\n";
    let mut forwarded = fixture.connect().await;
    has(&exchange(&mut forwarded, health).await, 200, &[]);
    fixture.refused(RefusalReason::PendingPerAddress, 2).await;
    drop((proxy, other));
}
