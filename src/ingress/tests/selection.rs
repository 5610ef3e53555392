//! Which endpoint serves a request.

use super::*;

/// The endpoints of `/ws`, told apart by the length of a message.
const ENDPOINTS: &[(u32, &str, &[&str], &[&str])] = &[
    (1, "", &[], &[]),
    (2, "", &["*.example"], &[]),
    (3, "", &["*.a.example"], &[]),
    (4, "", &["x.a.example", "[::1]"], &[]),
    (5, "", &[], &["one", "two"]),
    (6, "", &[], &["three"]),
    (7, "", &["x.a.example"], &["one"]),
    (8, "127.0.0.1:0", &["only.example"], &[]),
];

fn endpoint(number: u32, listen: &str, hosts: &[&str], subprotocols: &[&str]) -> Endpoint {
    let mut session = (*session(Dialect::Native, Mode::Off)).clone();
    session.limits.message_bytes = number;
    Endpoint {
        path: "/ws".into(),
        selector: Selector {
            listen: (!listen.is_empty()).then(|| listen.parse().expect("a listener")),
            hosts: hosts.iter().map(|host| host.parse().expect("a host")).collect(),
            subprotocols: subprotocols.iter().map(|&name| name.into()).collect(),
        },
        session: Arc::new(session),
        deflate: false,
        token_refusal: crate::ingress::TokenRefusal::Auto,
    }
}

fn with_endpoints(rows: &[(u32, &str, &[&str], &[&str])]) -> Fixture {
    fixture(|settings| {
        settings.endpoints = rows
            .iter()
            .map(|(number, listen, hosts, names)| endpoint(*number, listen, hosts, names))
            .collect();
    })
}

#[tokio::test]
async fn the_most_specific_endpoint_serves_whatever_the_order() {
    // Changes to a valid handshake, the endpoint, the subprotocol of the response.
    type Row<'a> = (&'a [&'a str], u32, &'a str);
    const TABLE: &[Row<'_>] = &[
        (&["Host: other.org"], 1, ""),
        (&["Host: other.org:8000"], 1, ""),
        (&["Host: b.example"], 2, ""),
        (&["Host: example"], 1, ""),
        (&["Host: y.a.example"], 3, ""),
        (&["Host: y.A.EXAMPLE.:443"], 3, ""),
        (&["Host: x.a.example"], 4, ""),
        (&["Host: X.a.example:1"], 4, ""),
        (&["Host: [::1]:8000"], 4, ""),
        (&["Host: other.org", "Sec-WebSocket-Protocol: two"], 5, "two"),
        // The client's order decides between endpoints and within one.
        (&["Host: other.org", "Sec-WebSocket-Protocol: three, one"], 6, "three"),
        (
            &["Host: other.org", "Sec-WebSocket-Protocol: zero, two, one, three"],
            5,
            "two",
        ),
        (&["Host: other.org", "Sec-WebSocket-Protocol: ONE"], 1, ""),
        // The host counts more than the subprotocol.
        (&["Host: y.a.example", "Sec-WebSocket-Protocol: one"], 3, ""),
        (&["Host: x.a.example", "Sec-WebSocket-Protocol: one"], 7, "one"),
        // The listener counts most.
        (&["Host: only.example"], 8, ""),
    ];
    let mut reversed = ENDPOINTS.to_vec();
    reversed.reverse();
    for rows in [ENDPOINTS, &reversed] {
        let mut fixture = with_endpoints(rows);
        for (changes, number, subprotocol) in TABLE {
            let response = fixture.exchange(&handshake("/ws", changes)).await;
            has(&response, 101, &[]);
            let line = format!("\r\nsec-websocket-protocol: {subprotocol}\r\n");
            let agreed = response.to_lowercase().contains("sec-websocket-protocol");
            assert_eq!(agreed, !subprotocol.is_empty(), "{changes:?}: {response}");
            assert!(!agreed || response.contains(&line), "{changes:?}: {response}");
            let adopted = fixture.adopted().await;
            assert_eq!(adopted.settings.limits.message_bytes, *number, "{changes:?}");
        }
    }
}

#[tokio::test]
async fn a_request_that_fits_no_endpoint_gets_404() {
    let rows: &[(u32, &str, &[&str], &[&str])] = &[
        (1, "", &["a.example"], &[]),
        (2, "127.0.0.1:1", &["b.example"], &[]),
        (3, "", &["c.example"], &["one"]),
    ];
    let fixture = with_endpoints(rows);
    let unfit = &["NOT_FOUND", "no endpoint of this path serves"];
    for changes in [
        &["Host: other.org"][..],
        &["Host: b.example"],
        &["Host: c.example"],
        &["Host: c.example", "Sec-WebSocket-Protocol: two"],
        &["-Host"],
        &["+Host: a.example"],
    ] {
        has(&fixture.exchange(&handshake("/ws", changes)).await, 404, unfit);
    }
    has(&fixture.exchange(&handshake("/other", &[])).await, 404, &["NOT_FOUND"]);
    has(
        &fixture
            .exchange(b"GET /readyz HTTP/1.1\r\nHost: other.org\r\n\r\n")
            .await,
        200,
        &[],
    );
    fixture.refused(RefusalReason::Path, 7).await;
}

#[tokio::test]
async fn endpoints_and_listeners_that_do_not_go_together_are_refused() {
    let listener = Listener::bind(&"127.0.0.1:0".parse().expect("an address"), 0o600, false).expect("bound");
    let bound = listener.address().to_string();
    let listeners = [listener.names()];
    let check = |rows: &[(&str, &[&str], &[&str])]| {
        let endpoints: Vec<_> = rows
            .iter()
            .map(|(listen, hosts, names)| endpoint(0, listen, hosts, names))
            .collect();
        check_endpoints(&endpoints, &listeners).map_err(|error| error.to_string())
    };
    assert_eq!(
        check(&[("", &[], &[]), ("127.0.0.1:0", &[], &[]), ("", &["x"], &[])]),
        Ok(())
    );
    assert_eq!(check(&[(&bound, &[], &["a"]), (&bound, &[], &["b"])]), Ok(()));
    let ambiguous = "two endpoints serve /ws equally well: let them differ in listen, hosts or subprotocols";
    // The configured and the bound address name the same listener.
    for rows in [
        &[("127.0.0.1:0", &[][..], &[][..]), (&bound, &[], &[])][..],
        &[("", &["x", "y"], &[]), ("", &["y"], &[])],
        &[("", &[], &["a"]), ("", &[], &["b", "a"])],
    ] {
        assert_eq!(check(rows), Err(ambiguous.to_owned()), "{rows:?}");
    }
    assert_eq!(
        check(&[("systemd:market", &[], &[])]),
        Err(
            "the endpoint /ws has listen = \"systemd:market\", and no listener has this name; there are 127.0.0.1:0"
                .to_owned()
        )
    );
}

#[tokio::test]
async fn replaced_settings_hold_for_connections_that_come_later() {
    let mut fixture = fixture(|settings| {
        settings.endpoints = vec![endpoint(1, "", &[], &[])];
        settings.max_connections_per_ip = 1;
    });
    let mut kept = fixture.connect().await;
    has(
        &exchange(&mut kept, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await,
        200,
        &[],
    );
    let mut new = settings();
    new.endpoints = vec![
        endpoint(2, "", &[], &[]),
        Endpoint {
            path: "/new".into(),
            ..endpoint(3, "", &[], &[])
        },
    ];
    new.max_connections_per_ip = 2;
    fixture.ingress.replace(new);

    has(&fixture.exchange(&handshake("/new", &[])).await, 101, &[]);
    let first = fixture.adopted().await;
    assert_eq!(first.settings.limits.message_bytes, 3);
    // A connection that was accepted before has the endpoints of that time. The limits hold for all.
    has(&exchange(&mut kept, &handshake("/ws", &[])).await, 101, &[]);
    let second = fixture.adopted().await;
    assert_eq!(second.settings.limits.message_bytes, 1);
    has(&fixture.exchange(&handshake("/ws", &[])).await, 429, &[]);
    drop(first);
    has(&fixture.exchange(&handshake("/ws", &[])).await, 101, &[]);
    assert_eq!(fixture.adopted().await.settings.limits.message_bytes, 2);
}
