//! The responses to handshakes and other requests.

use super::*;

#[tokio::test]
async fn handshakes_get_the_expected_responses() {
    // Target, changes to a valid handshake, status, lines of the response.
    type Row<'a> = (&'a str, &'a [&'a str], u16, &'a [&'a str]);
    const ACCEPT: &str = "\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    const OLD: &[&str] = &[
        "\r\nsec-websocket-version: 13\r\n",
        "\r\nupgrade: websocket\r\n",
        "UPGRADE_REQUIRED",
    ];
    const TABLE: &[Row<'_>] = &[
        (
            "/open",
            &[],
            101,
            &["\r\nupgrade: websocket\r\n", "\r\nconnection: upgrade\r\n", ACCEPT],
        ),
        ("/open/", &[], 101, &[ACCEPT]),
        ("/echo", &[], 101, &[ACCEPT]),
        ("/echo/", &[], 101, &[ACCEPT]),
        ("/ws", &[], 101, &[ACCEPT]),
        ("/open?token=rubbish&x=1", &[], 101, &[ACCEPT]),
        ("/open", &["Upgrade: h2c, WebSocket"], 101, &[ACCEPT]),
        ("/open", &["Connection: UPGRADE"], 101, &[ACCEPT]),
        (
            "/open",
            &["Connection: keep-alive", "+Connection: upgrade"],
            101,
            &[ACCEPT],
        ),
        ("/open", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="], 101, &[]),
        // The dialect's own subprotocol is selected. A client that offers another one is served without.
        (
            "/open",
            &["Sec-WebSocket-Protocol: zigquant-v2"],
            101,
            &["\r\nsec-websocket-protocol: zigquant-v2\r\n"],
        ),
        (
            "/open",
            &["Sec-WebSocket-Protocol: v1, zigquant-v2"],
            101,
            &["\r\nsec-websocket-protocol: zigquant-v2\r\n"],
        ),
        // Compression. The tests of the negotiation cover which offers are acceptable.
        (
            "/open",
            &["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"],
            101,
            &[
                ACCEPT,
                "\r\nsec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n",
            ],
        ),
        (
            "/echo",
            &[
                "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8",
                "+Sec-WebSocket-Extensions: x, permessage-deflate; server_max_window_bits=10",
            ],
            101,
            &["client_no_context_takeover; server_max_window_bits=10\r\n"],
        ),
        // Paths.
        ("/", &[], 404, &["NOT_FOUND"]),
        ("/wss", &[], 404, &[]),
        ("/ws//", &[], 404, &[]),
        ("/WS", &[], 404, &[]),
        ("/ws/x", &[], 404, &[]),
        ("/%77s", &[], 404, &[]),
        ("/metrics", &[], 404, &[]),
        ("/api/publish", &[], 404, &[]),
        // The headers of the upgrade.
        ("/ws", &["-Upgrade"], 426, OLD),
        ("/ws", &["Upgrade: h2c"], 426, OLD),
        ("/ws", &["-Connection"], 426, OLD),
        ("/ws", &["Connection: close"], 426, OLD),
        ("/ws", &["-Sec-WebSocket-Version"], 426, OLD),
        ("/ws", &["Sec-WebSocket-Version: 8"], 426, OLD),
        ("/ws", &["Sec-WebSocket-Version: 13, 8"], 426, OLD),
        ("/ws", &["+Sec-WebSocket-Version: 13"], 426, OLD),
        (
            "/ws",
            &["-Sec-WebSocket-Key"],
            400,
            &["INVALID_MESSAGE", "Sec-WebSocket-Key"],
        ),
        ("/ws", &["Sec-WebSocket-Key: c2hvcnQ="], 400, &[]),
        ("/ws", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE="], 400, &[]),
        ("/ws", &["Sec-WebSocket-Key: ========================"], 400, &[]),
        ("/ws", &["Sec-WebSocket-Key: dGhlIHNhbXBs!SBub25jZQ=="], 400, &[]),
        ("/ws", &["+Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="], 400, &[]),
        ("/ws", &["-Host"], 400, &["Host"]),
        ("/ws", &["+Host: other.example"], 400, &[]),
        ("/ws", &["Host:"], 400, &[]),
        ("/ws", &["Content-Length: 5"], 413, &["\r\nconnection: close\r\n"]),
        ("/ws", &["Transfer-Encoding: chunked"], 413, &[]),
        ("/ws", &["Content-Length: x"], 400, &[]),
        // AllowedOrigins.
        ("/open", &["Origin: https://gateway.example:8443"], 101, &[]),
        ("/open", &["Origin: https://evil.example"], 403, &["FORBIDDEN"]),
        ("/open", &["Origin: null"], 403, &[]),
        (
            "/open",
            &["Origin: https://gateway.example", "+Origin: https://gateway.example"],
            403,
            &[],
        ),
        // Tokens.
        ("/ws?token=user:u1", &[], 101, &[]),
        ("/ws?token=user%3Au1", &[], 101, &[]),
        ("/ws", &["Authorization: Bearer user:u1"], 101, &[]),
        ("/ws?token=bad", &["Authorization: Bearer user:u1"], 101, &[]),
        ("/ws?token=user:u1", &["Authorization: Basic eDp5"], 101, &[]),
        (
            "/ws?token=bad",
            &[],
            401,
            &[
                "\r\nwww-authenticate: bearer\r\n",
                r#"{"error":{"code":"TOKEN_INVALID","#,
            ],
        ),
        (
            "/ws?token=expired",
            &[],
            401,
            &["\r\ncontent-type: application/json\r\n", "TOKEN_EXPIRED"],
        ),
        ("/ws?token=user:u1", &["Authorization: Bearer bad"], 401, &[]),
        (
            "/ws",
            &["Authorization: Bearer user:u1", "+Authorization: Bearer user:u2"],
            400,
            &["more than one Authorization header"],
        ),
        // An empty token is none.
        ("/ws?token=", &[], 101, &[]),
        ("/ws", &["Authorization: Bearer"], 101, &[]),
        ("/ws?token=expired", &["Authorization: Bearer"], 401, &[]),
        ("/ws?token=user:u1&token=user:u2", &[], 400, &[]),
        ("/ws?token=%ff", &[], 400, &[]),
        ("/echo?token=bad", &["Origin: https://gateway.example"], 401, &[]),
        // A browser cannot read a 401.
        ("/ws?token=bad", &["Origin: https://gateway.example"], 101, &[]),
    ];
    let fixture = fixture(|_| {});
    for (target, changes, status, lines) in TABLE {
        let answer = fixture.exchange(&handshake(target, changes)).await;
        has(&answer, *status, lines);
        if *status != 101 && !changes.contains(&"Content-Length: x") {
            assert!(
                answer.contains(r#"{"error":{"code":""#),
                "{target} {changes:?}: {answer}"
            );
        }
        let echoed = changes.iter().any(|line| line.starts_with("Sec-WebSocket-Protocol"));
        assert_eq!(answer.contains("sec-websocket-protocol"), echoed, "{answer}");
    }
    // Two `Authorization` headers, two tokens, and a token that is not UTF-8.
    assert_eq!(fixture.metrics.refused(RefusalReason::Credentials), 3);
}

#[tokio::test]
async fn compression_is_agreed_on_only_where_it_is_enabled_and_offered() {
    let offer = &["Sec-WebSocket-Extensions: permessage-deflate"][..];
    for (enabled, changes, agreed) in [
        (true, offer, true),
        (true, &[], false),
        (false, offer, false),
        (true, &["Sec-WebSocket-Extensions: permessage-deflate; unknown"], false),
    ] {
        let fixture = fixture(|settings| settings.endpoints[1].deflate = enabled);
        let answer = fixture.exchange(&handshake("/open", changes)).await;
        has(&answer, 101, &[]);
        assert_eq!(answer.contains("sec-websocket-extensions"), agreed, "{answer}");
        // Another endpoint is not concerned.
        let answer = fixture.exchange(&handshake("/echo", offer)).await;
        assert!(answer.contains("sec-websocket-extensions"), "{answer}");
    }
}

#[tokio::test]
async fn other_requests_are_answered_and_keep_the_connection() {
    let fixture = fixture(|_| {});
    let mut stream = fixture.connect().await;
    for (request, status, lines) in [
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200, &["ok"][..]),
        ("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", 200, &["ok"]),
        ("GET /readyz/ HTTP/1.1\r\nHost: x\r\n\r\n", 200, &["ok"]),
        ("GET /readyz// HTTP/1.1\r\nHost: x\r\n\r\n", 404, &[]),
        (
            "OPTIONS /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
            200,
            &["\r\nallow: get, head, options\r\n", "ok"],
        ),
        ("OPTIONS /healthz/ HTTP/1.1\r\nHost: x\r\n\r\n", 200, &["ok"]),
        (
            "POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
            405,
            &["\r\nallow: get, head, options\r\n"],
        ),
        (
            "POST /ws HTTP/1.1\r\nHost: x\r\n\r\n",
            405,
            &["\r\nallow: get\r\n", "METHOD_NOT_ALLOWED"],
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404, &[]),
        (
            "GET /ws HTTP/1.1\r\nHost: x\r\n\r\n",
            426,
            &["\r\nsec-websocket-version: 13\r\n"],
        ),
    ] {
        has(&exchange(&mut stream, request.as_bytes()).await, status, lines);
    }
    fixture.health.drain();
    let answer = exchange(&mut stream, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    has(&answer, 503, &["draining"]);
    let answer = exchange(&mut stream, b"OPTIONS /readyz/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
    has(&answer, 503, &["draining"]);
    let answer = exchange(&mut stream, &handshake("/ws", &[])).await;
    has(&answer, 503, &["\r\nretry-after: 1\r\n", "DRAINING"]);
}

#[tokio::test]
async fn malformed_heads_are_answered() {
    let fixture = fixture(|_| {});
    let long = format!("X: {}", "x".repeat(http::HEAD_BYTES_MAX));
    has(&fixture.exchange(&handshake("/ws", &[&long])).await, 431, &[]);
    let many: Vec<_> = (0..http::HEADER_LINES_MAX).map(|n| format!("X-{n}: 1")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    has(&fixture.exchange(&handshake("/ws", &many)).await, 431, &[]);
    has(&fixture.exchange(b"GARBAGE\r\n\r\n").await, 400, &[]);
    has(
        &fixture.exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await,
        400,
        &[],
    );
    fixture.refused(RefusalReason::Http, 4).await;
    let old = fixture
        .exchange(b"GET /ws HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert!(
        old.starts_with("HTTP/1.0 426 ") || old.starts_with("HTTP/1.1 426 "),
        "{old}"
    );
}

#[tokio::test]
async fn the_refusal_of_tokens_can_be_configured() {
    for (refuse, status) in [(TokenRefusal::Http, 401), (TokenRefusal::Close, 101)] {
        let fixture = fixture(|settings| {
            settings
                .endpoints
                .iter_mut()
                .for_each(|endpoint| endpoint.token_refusal = refuse)
        });
        for changes in [&[][..], &["Origin: http://gateway.example"]] {
            has(
                &fixture.exchange(&handshake("/ws?token=bad", changes)).await,
                status,
                &[],
            );
        }
        fixture.refused(RefusalReason::Token, 2).await;
    }
}
