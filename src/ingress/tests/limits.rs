//! Limits of connections, of their rate, and of time.

use super::*;

#[tokio::test]
async fn reached_limits_are_reported_and_ended_connections_free_them() {
    let mut fixture = fixture(|settings| {
        settings.max_connections = 3;
        settings.max_connections_per_user = 1;
        settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good");
        settings.max_connections_per_ip = 2;
    });
    let from = |address: &str, user: &str| {
        handshake(
            &format!("/ws?token=user:{user}"),
            &[&format!("X-Forwarded-For: {address}")],
        )
    };
    has(&fixture.exchange(&from("192.0.2.1", "a")).await, 101, &[]);
    let first = fixture.adopted().await;
    let again = fixture.exchange(&from("192.0.2.1", "a")).await;
    has(&again, 429, &["\r\nretry-after: 10\r\n", "RATE_LIMITED", "this user"]);
    has(&fixture.exchange(&from("192.0.2.1", "b")).await, 101, &[]);
    let _second = fixture.adopted().await;
    has(
        &fixture.exchange(&from("192.0.2.1", "c")).await,
        429,
        &["\r\nretry-after: 10\r\n", "this address"],
    );
    has(&fixture.exchange(&from("192.0.2.2", "c")).await, 101, &[]);
    let _third = fixture.adopted().await;
    has(
        &fixture.exchange(&from("192.0.2.3", "d")).await,
        503,
        &["\r\nretry-after: 10\r\n", "OVERLOADED"],
    );
    drop(first);
    has(&fixture.exchange(&from("192.0.2.3", "a")).await, 101, &[]);
    for (why, times) in [
        (RefusalReason::PerUser, 1),
        (RefusalReason::PerAddress, 1),
        (RefusalReason::Total, 1),
    ] {
        fixture.refused(why, times).await;
    }
}

#[tokio::test]
async fn the_connect_rate_is_reported_with_retry_after() {
    let fixture = fixture(|settings| settings.connect_rate = 1);
    has(&fixture.exchange(&handshake("/open", &[])).await, 101, &[]);
    // The burst is one connection. A further one within a second is too fast.
    let mut refused = false;
    for _ in 0..20 {
        let answer = fixture.exchange(&handshake("/open", &[])).await;
        if answer.starts_with("HTTP/1.1 429 ") {
            has(&answer, 429, &["\r\nretry-after: 1\r\n", "RATE_LIMITED"]);
            refused = true;
            break;
        }
    }
    assert!(refused);
    has(
        &fixture.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await,
        200,
        &[],
    );
}

#[tokio::test]
async fn slow_handshakes_end_and_do_not_delay_others() {
    let mut fixture = fixture(|settings| {
        settings.handshake_timeout_ms = 300;
        settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good");
    });
    let mut slow = Vec::new();
    for beginning in [
        "",
        "GET",
        "GET /ws HTTP/1.1\r\nHost: x\r\n",
        "PROXY TC",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\nGET /",
    ] {
        for _ in 0..10 {
            let mut stream = fixture.connect().await;
            stream.write_all(beginning.as_bytes()).await.expect("sent");
            slow.push(stream);
        }
    }
    has(&fixture.exchange(&handshake("/open", &[])).await, 101, &[]);
    let _healthy = fixture.adopted().await;
    for stream in &mut slow {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .expect("closed in time");
        assert_eq!(read.unwrap_or(0), 0, "it gets no response");
    }
    fixture.refused(RefusalReason::Timeout, 50).await;
    until("no pending connection", || fixture.metrics.pending.get() == 0).await;
}

#[tokio::test]
async fn accepting_does_not_wait_for_handshakes() {
    // This runtime does not run until something drives it.
    let busy = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let fixture = fixture_on(
        &"127.0.0.1:0".parse().expect("an address"),
        busy.handle().clone(),
        |_| {},
    );
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = fixture.connect().await;
        client.write_all(&handshake("/open", &[])).await.expect("sent");
        clients.push(client);
    }
    until("all are accepted", || fixture.metrics.accept.accepted.get() == 20).await;
    assert_eq!(fixture.metrics.upgraded.get(), 0);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let driver = std::thread::spawn(move || busy.block_on(ended).is_err());
    for client in &mut clients {
        has(&answer(client).await, 101, &[]);
    }
    drop(end);
    assert!(driver.join().expect("no panic"));
}

/// A proxy may open a connection before it has a request for it. The rest of the time for the first head is no limit of
/// later ones.
#[tokio::test]
async fn each_head_behind_a_trusted_proxy_has_the_whole_time() {
    let fixture = fixture(|settings| {
        settings.handshake_timeout_ms = 4000;
        settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good");
    });
    let mut stream = fixture.connect().await;
    until("accepted", || fixture.metrics.pending.get() == 1).await;
    // From here on the clock jumps to the next deadline when all tasks wait.
    tokio::time::pause();
    for pause_ms in [3500, 3500, 2000, 3900] {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let told = exchange(&mut stream, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        has(&told, 200, &[]);
    }
    assert_eq!(answer(&mut stream).await, "", "an idle connection ends");
}

#[tokio::test]
async fn an_old_connection_ends_with_a_response_that_says_so() {
    const LAST: &str = "\r\nconnection: close\r\n";
    let fixture = fixture(|_| {});
    let mut stream = fixture.connect().await;
    stream.set_nodelay(true).expect("set");
    until("accepted", || fixture.metrics.pending.get() == 1).await;
    // From here on the clock jumps to the next deadline when all tasks wait.
    tokio::time::pause();
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    for second in (4..60).step_by(4) {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let told = exchange(&mut stream, request).await;
        has(&told, 200, &[]);
        assert!(!told.contains(LAST), "after {second} s: {told}");
    }
    // A head that begins after 59 s and ends after 60.5 s.
    tokio::time::sleep(Duration::from_secs(3)).await;
    stream.write_all(&request[..20]).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let told = exchange(&mut stream, &request[20..]).await;
    has(&told, 200, &[LAST]);
    assert_eq!(answer(&mut stream).await, "");
}
