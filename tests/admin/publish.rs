//! `POST /api/publish`: single events, arrays and streams of lines.

use std::io::Write;

use serde_json::{Value, json};

use tickgate_protocol::channel::Pattern;

use super::gateway::{ADMIN_KEY, answer, connect, start};

#[test]
fn one_event_arrives_byte_for_byte() {
    let gateway = start(|_| {});
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    let data = r#"{"price": 94000.50, "big":123456789012345678901234567890,"e":1e400,"s":"\u0041\/ä", "n":[ ] }"#;
    let answer = gateway.publish(&format!(
        r#" {{"data":{data},"channel":"grid.a.order","event":"filled","timestamp":7}}"#
    ));
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["published"], 1);
    let offset = answer["offset"].as_u64().expect("a channel with history");
    assert_eq!(answer["epoch"].as_str().map(str::len), Some(16));
    assert_eq!(
        client.text(),
        format!(
            r#"{{"type":"event","channel":"grid.a.order","event":"filled","timestamp":7,"offset":{offset},"data":{data}}}"#
        )
    );
    // An event without subscribers is published too. `timestamp` and `data` are optional.
    assert_eq!(
        gateway.publish(r#"{"channel":"x.y","event":"e"}"#).body,
        r#"{"published":1,"without_subscriber":1}"#
    );
    let both = r#"[{"channel":"x.y","event":"e"},{"channel":"grid.b","event":"e"}]"#;
    assert_eq!(
        gateway.publish(both).body,
        r#"{"published":2,"without_subscriber":1}"#,
        "one has a subscriber"
    );
    assert_eq!(client.json()["channel"], "grid.b");
    gateway.publish(r#"{"channel":"grid.a","event":"e"}"#);
    let event = client.json();
    assert_eq!(event["data"], Value::Null);
    assert!(event["timestamp"].as_u64() > Some(1_700_000_000_000));
}

#[test]
fn an_array_is_published_in_order_without_its_bad_items() {
    let gateway = start(|settings| settings.admin.event_bytes = 64);
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    let long = "x".repeat(100);
    let answer = gateway.publish(
        &json!([
            { "channel": "grid.a", "event": "e", "data": 0 },
            { "channel": "grid..a", "event": "e", "data": 1 },
            { "channel": "grid.a", "event": "", "data": 2 },
            { "channel": "grid.a", "event": "e", "data": 3 },
            { "channel": "grid.a", "event": "e", "data": long },
            17,
            { "channel": "grid.*", "event": "e" },
            { "event": "e" },
            { "channel": "grid.a", "event": "e", "timestamp": "now" },
            { "channel": "grid.a", "event": "e", "data": 9 },
        ])
        .to_string(),
    );
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["published"], 3);
    let errors: Vec<_> = answer["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| {
            assert!(!error["message"].as_str().expect("a message").is_empty());
            (
                error["index"].as_u64().expect("an index"),
                error["code"].as_str().expect("a code"),
            )
        })
        .collect();
    assert_eq!(
        errors,
        [
            (1, "INVALID_CHANNEL"),
            (2, "INVALID_MESSAGE"),
            (4, "MESSAGE_TOO_LARGE"),
            (5, "INVALID_MESSAGE"),
            (6, "INVALID_CHANNEL"),
            (7, "INVALID_MESSAGE"),
            (8, "INVALID_MESSAGE"),
        ]
    );
    for data in [0, 3, 9] {
        assert_eq!(client.json()["data"], data);
    }
}

#[test]
fn bad_bodies_are_refused_as_a_whole() {
    let gateway = start(|settings| settings.admin.publish_body_bytes = 4096);
    let eleven_thousand = format!("[{}]", vec!["1"; 10_001].join(","));
    let too_long = format!(r#"{{"channel":"a","event":"e","data":"{}"}}"#, "x".repeat(5000));
    let deep = format!(
        r#"{{"channel":"a","event":"e","data":{}{}}}"#,
        "[".repeat(64),
        "]".repeat(64)
    );
    for (body, status, code) in [
        ("", 400, "INVALID_JSON"),
        ("{", 400, "INVALID_JSON"),
        ("[{]", 400, "INVALID_JSON"),
        (r#"[{"channel":"a","event":"e"}"#, 400, "INVALID_JSON"),
        (r#"{"channel":"a","event":"e"} x"#, 400, "INVALID_JSON"),
        ("17", 400, "INVALID_MESSAGE"),
        (r#"{"event":"e"}"#, 400, "INVALID_MESSAGE"),
        (r#"{"channel":"a","event":"e","channel":"b"}"#, 400, "INVALID_MESSAGE"),
        (r#"{"channel":"a.*","event":"e"}"#, 400, "INVALID_CHANNEL"),
        (deep.as_str(), 400, "INVALID_JSON"),
        (too_long.as_str(), 413, "MESSAGE_TOO_LARGE"),
    ] {
        let answer = gateway.publish(body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body:.60}");
    }
    let answer = gateway.admin_as(Some(ADMIN_KEY), "POST", "/api/publish", "", b"{\"channel\":\"\xff\"}");
    assert_eq!((answer.status, answer.code().as_str()), (400, "INVALID_JSON"));
    drop(gateway);

    let gateway = start(|settings| settings.admin.event_bytes = 16);
    let answer = gateway.publish(&eleven_thousand);
    assert_eq!((answer.status, answer.code().as_str()), (400, "INVALID_MESSAGE"));
    assert_eq!(answer.json()["error"]["message"], "more than 10000 items");
    let answer = gateway.publish(r#"{"channel":"a","event":"e","data":"0123456789012345"}"#);
    assert_eq!((answer.status, answer.code().as_str()), (413, "MESSAGE_TOO_LARGE"));
    // An announced length is refused before the body is sent.
    let mut stream = connect(gateway.admin);
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 16777217\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    assert_eq!(answer_of(&mut stream), 413);
    // A length that is not announced is refused when the body exceeds the limit. The rest of the body does not destroy the
    // response.
    let mut stream = connect(gateway.admin);
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..17 {
        stream.write_all(&chunk).expect("sent");
    }
    assert_eq!(answer_of(&mut stream), 413);
}

fn answer_of(stream: &mut std::net::TcpStream) -> u16 {
    answer(stream).status
}

#[test]
fn lines_are_published_as_they_arrive() {
    let gateway = start(|_| {});
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    let mut stream = connect(gateway.admin);
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\
         Content-Type: application/x-ndjson; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut send = |text: &str| {
        stream
            .write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
            .expect("sent");
    };
    send("{\"channel\":\"grid.a\",\"event\":\"e\",\"data\":\"first\"}\n{\"channel\":\"grid.a\",");
    assert_eq!(client.json()["data"], "first", "before the request ends");
    send("\"event\":\"e\",\"data\":-1}\r\n\n  \nnonsense\n");
    assert_eq!(client.json()["data"], -1);
    for chunk in 0..20 {
        let lines: String = (0..500)
            .map(|n| {
                format!(
                    "{{\"channel\":\"grid.a\",\"event\":\"e\",\"data\":{}}}\n",
                    chunk * 500 + n
                )
            })
            .collect();
        send(&lines);
        // The client reads meanwhile, since its outbox is bounded.
        for n in 0..500 {
            assert_eq!(client.json()["data"], chunk * 500 + n);
        }
    }
    send("{\"channel\":\"grid.a\",\"event\":\"e\",\"data\":\"last\"}");
    stream.write_all(b"0\r\n\r\n").expect("sent");
    let answer = answer(&mut stream);
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["published"], 10_003);
    assert_eq!(answer["errors"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&answer["errors"][0]["index"], &answer["errors"][0]["code"]),
        (&json!(2), &json!("INVALID_JSON"))
    );
    assert_eq!(client.json()["data"], "last");
}

#[test]
fn ten_thousand_lines_and_ten_thousand_items_at_once() {
    const PUBLISHED: &str = r#"{"published":10000,"without_subscriber":10000}"#;
    let gateway = start(|_| {});
    let item = |n: usize| json!({ "channel": format!("c.{}", n % 7), "event": "e", "data": n }).to_string();
    let lines: String = (0..10_000).map(|n| item(n) + "\n").collect();
    let headers = "Content-Type: application/x-ndjson\r\n";
    let answer = gateway.admin_as(Some(ADMIN_KEY), "POST", "/api/publish", headers, lines.as_bytes());
    assert_eq!((answer.status, answer.body.as_str()), (200, PUBLISHED));
    let answer = gateway.publish(&lines);
    assert_eq!((answer.status, answer.code().as_str()), (400, "INVALID_JSON"));
    assert!(answer.body.contains("x-ndjson"), "{}", answer.body);
    let items: Vec<_> = (0..10_000).map(item).collect();
    assert_eq!(gateway.publish(&format!("[{}]", items.join(","))).body, PUBLISHED);
    assert_eq!(gateway.publish("[]").body, r#"{"published":0}"#);
}

#[test]
fn a_repeated_id_is_published_once_per_channel() {
    let gateway = start(|_| {});
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    for (channel, id, body) in [
        ("grid.a", json!("x"), r#"{"published":1}"#),
        ("grid.a", json!("x"), r#"{"published":0,"duplicate":true}"#),
        ("grid.b", json!("x"), r#"{"published":1}"#),
        ("grid.a", json!(1), r#"{"published":1}"#),
        ("grid.a", json!("1"), r#"{"published":1}"#),
        // An empty id is none.
        ("grid.c", json!(""), r#"{"published":1}"#),
        ("grid.c", json!(""), r#"{"published":1}"#),
        ("grid.c", json!(" "), r#"{"published":1}"#),
    ] {
        let event = json!({ "channel": channel, "event": "e", "id": id });
        assert_eq!(gateway.publish(&event.to_string()).body, body, "{event}");
    }
    let event = |id: u64| json!({ "channel": "grid.a", "event": "e", "id": id });
    let answer = gateway.publish(&json!([event(1), event(2), event(2), event(3)]).to_string());
    assert_eq!(answer.body, r#"{"published":2,"duplicates":[0,2]}"#);
    gateway.publish(r#"{"channel":"grid.end","event":"end"}"#);
    let mut events = 0;
    while client.json()["event"] != "end" {
        events += 1;
    }
    assert_eq!(events, 9);
}

#[test]
fn connections_are_kept_and_pipelined_requests_answered_in_order() {
    let gateway = start(|_| {});
    let mut stream = connect(gateway.admin);
    let request = |n: u32| {
        let body = format!(r#"{{"channel":"grid.a","event":"e","data":{n}}}"#);
        format!(
            "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    let all: String = (0..50).map(request).collect();
    stream.write_all(all.as_bytes()).expect("sent");
    for n in 0..50 {
        assert_eq!(answer_of(&mut stream), 200);
        assert_eq!(client.json()["data"], n);
    }
}

#[test]
fn encoded_bodies_are_refused_with_415() {
    let gateway = start(|_| {});
    // `{"channel":"a","event":"e"}` would be published if the header were ignored.
    let event = br#"{"channel":"a","event":"e"}"#;
    for (path, coding, content_type, status) in [
        ("/api/publish", "gzip", "application/json", 415),
        ("/api/publish", "deflate", "application/x-ndjson", 415),
        ("/api/publish", "identity, br", "application/json", 415),
        ("/api/publish", "identity", "application/json", 200),
        ("/api/publish", "", "application/x-ndjson", 200),
        ("/api/websocket/broadcast/test", "gzip", "application/json", 415),
    ] {
        let headers = format!("Content-Encoding: {coding}\r\nContent-Type: {content_type}\r\n");
        let answer = gateway.admin_as(Some(ADMIN_KEY), "POST", path, &headers, event);
        assert_eq!(answer.status, status, "{path} {coding}: {answer:?}");
        if status == 415 {
            assert_eq!(answer.code(), "UNSUPPORTED_MEDIA_TYPE");
            let head = answer.head.to_lowercase();
            assert!(head.contains("\r\naccept-encoding: identity\r\n"), "{head}");
        }
    }
}

#[test]
fn a_stream_of_which_no_line_was_published_is_an_error() {
    let gateway = start(|_| {});
    let lines = |body: &[u8]| {
        let headers = "Content-Type: application/x-ndjson\r\n";
        gateway.admin_as(Some(ADMIN_KEY), "POST", "/api/publish", headers, body)
    };
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\x56";
    let utf_16: Vec<u8> = "\u{feff}{\"channel\":\"a\",\"event\":\"e\"}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (body, status, code, names) in [
        (b"".as_slice(), 400, "INVALID_MESSAGE", "no lines"),
        (b"\n \n\n", 400, "INVALID_MESSAGE", "no lines"),
        (b"nonsense\n", 400, "INVALID_JSON", "line 0"),
        (
            b"{\"channel\":\"a..b\",\"event\":\"e\"}",
            400,
            "INVALID_CHANNEL",
            "line 0",
        ),
        (gzip, 400, "INVALID_JSON", "gzip"),
        (&utf_16, 400, "INVALID_JSON", "UTF-16"),
    ] {
        let answer = lines(body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
        assert_eq!(answer.json()["published"], 0);
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains(names), "{message}");
    }
    // One line that was published, now or before, makes the request a success.
    let one = br#"{"channel":"a","event":"e","id":"x"}"#;
    let both = [one.as_slice(), b"\nnonsense"].concat();
    assert_eq!(lines(&both).status, 200);
    assert_eq!(lines(one).body, r#"{"published":0,"duplicates":[0]}"#);
}

#[test]
fn a_byte_order_mark_costs_no_event() {
    let gateway = start(|_| {});
    let event = |id: u8| format!("\u{feff}{{\"channel\":\"a\",\"event\":\"e\",\"id\":{id}}}");
    assert_eq!(gateway.publish(&event(1)).json()["published"], 1);
    let array = format!("\u{feff}[{}]", event(2).trim_start_matches('\u{feff}'));
    assert_eq!(gateway.publish(&array).json()["published"], 1);
    // Files with marks may be joined, so each line may begin with one.
    let lines = format!("{}\n{}\n", event(3), event(4));
    let headers = "Content-Type: application/x-ndjson\r\n";
    let answer = gateway.admin_as(Some(ADMIN_KEY), "POST", "/api/publish", headers, lines.as_bytes());
    assert_eq!(answer.json()["published"], 2);
}

/// Sends a whole body of 32 MiB before it reads, as Python's `urllib` does, and returns the status of the response.
fn status_of_large_body(address: std::net::SocketAddr, head: &str, framing: &str) -> u16 {
    let mut stream = connect(address);
    let head = format!("{head}Host: x\r\n{framing}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mebibyte = vec![b' '; 1 << 20];
    for _ in 0..32 {
        let sent = if framing.starts_with("Content-Length") {
            stream.write_all(&mebibyte)
        } else {
            stream.write_all(&[b"100000\r\n".as_slice(), &mebibyte, b"\r\n"].concat())
        };
        sent.unwrap_or_else(|error| panic!("{error} while sending the body of {head}"));
    }
    answer_of(&mut stream)
}

#[test]
fn the_response_reaches_a_client_that_first_sends_a_large_body() {
    let gateway = start(|_| {});
    let key = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
    for framing in ["Content-Length: 33554432", "Transfer-Encoding: chunked"] {
        for (address, head, status) in [
            (gateway.admin, "POST /api/publish HTTP/1.1\r\n".to_owned(), 401),
            (gateway.admin, format!("POST /api/publish HTTP/1.1\r\n{key}"), 413),
            (gateway.admin, format!("POST /api/nothing HTTP/1.1\r\n{key}"), 404),
            (
                gateway.admin,
                format!("POST /api/publish HTTP/1.1\r\nContent-Encoding: gzip\r\n{key}"),
                415,
            ),
            (gateway.public, "POST /nothing HTTP/1.1\r\n".to_owned(), 404),
            (gateway.public, "POST /ws HTTP/1.1\r\n".to_owned(), 405),
        ] {
            assert_eq!(
                status_of_large_body(address, &head, framing),
                status,
                "{head} {framing}"
            );
        }
    }
}

#[test]
fn a_refused_request_that_expects_to_continue_is_answered_at_once() {
    let gateway = start(|_| {});
    let key = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
    for (target, key, status) in [
        ("/api/publish", "", 401),
        ("/api/publish", key.as_str(), 413),
        ("/api/nothing", key.as_str(), 404),
    ] {
        let mut stream = connect(gateway.admin);
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\n{key}Expect: 100-continue\r\nContent-Length: 33554432\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        // Not 100: the client does not send the body.
        assert_eq!(answer_of(&mut stream), status, "{target}");
    }
}

#[test]
fn a_publisher_that_is_too_fast_is_told_over_http_and_websocket() {
    let gateway = start(|settings| settings.publish_per_second = 3);
    let token = gateway.token("p", |grant| {
        grant.publish = Some(vec![Pattern::parse("x.*").expect("valid")])
    });
    const EVENT: &str = r#"{"channel":"x.a","event":"e"}"#;
    let publish =
        |headers: &str, body: &str| gateway.admin_as(Some(&token), "POST", "/api/publish", headers, body.as_bytes());
    let answer = publish("", &format!("[{}]", [EVENT; 9].join(",")));
    let reply = answer.json();
    let (published, errors) = (reply["published"].as_u64(), reply["errors"].as_array().expect("errors"));
    assert!((3..9).contains(&published.expect("a number")), "{reply}");
    assert_eq!(Some(errors.len() as u64), published.map(|published| 9 - published));
    assert!(errors.iter().all(|error| error["code"] == "RATE_LIMITED"), "{reply}");
    // One request after the other cannot be so slow that none of them is refused.
    let refused = (0..1000)
        .map(|_| publish("", EVENT))
        .find(|answer| answer.status != 200);
    let refused = refused.expect("too fast");
    assert_eq!((refused.status, refused.code().as_str()), (429, "RATE_LIMITED"));
    assert!(
        refused.head.to_lowercase().contains("\r\nretry-after: 1\r\n"),
        "{refused:?}"
    );
    // The rate is that of the user, on whatever way the events come.
    let mut client = gateway.client(&token);
    for number in 0..20 {
        client.send(&json!({"type": "publish", "id": number, "channel": "x.a", "event": "e"}).to_string());
    }
    let refused = (0..20)
        .map(|_| client.json())
        .filter(|answer| answer["type"] != "published");
    let refused: Vec<_> = refused.collect();
    assert!(refused.len() >= 10, "{refused:?}");
    for answer in refused {
        assert_eq!(
            (&answer["type"], &answer["error"]["code"]),
            (&json!("error"), &json!("RATE_LIMITED")),
            "{answer}"
        );
    }
    // An operator has no rate.
    for _ in 0..20 {
        assert_eq!(gateway.publish(EVENT).status, 200);
    }
}

#[test]
fn a_token_that_publishes_many_channels_evicts_no_state_of_others() {
    let gateway = start(|settings| {
        settings.hub.state.channels = 100;
        settings.hub.state.per_publisher.channels = 10;
    });
    let token = gateway.token("p", |grant| {
        grant.publish = Some(vec![Pattern::parse("market.*").expect("valid")])
    });
    let event = |name: &str, number: usize| json!({ "channel": format!("market.{name}{number}.price"), "event": "e" });
    let events = |name: &str, count: usize| {
        let events: Vec<_> = (0..count).map(|number| event(name, number)).collect();
        serde_json::to_vec(&events).expect("JSON")
    };
    let published = |key: &str, body: &[u8]| gateway.admin_as(Some(key), "POST", "/api/publish", "", body).json();
    assert_eq!(published(ADMIN_KEY, &events("operator", 50))["published"], 50);
    assert_eq!(published(&token, &events("flood", 1000))["published"], 1000);
    for number in 0..50 {
        let kept = gateway
            .admin("GET", &format!("/api/channels/market.operator{number}.price"), "")
            .json();
        assert!(!kept["last"].is_null(), "{number}: {kept}");
    }
    let stats = gateway.admin("GET", "/api/websocket/stats", "").json();
    assert_eq!(stats["state"]["evicted_by_quota"], 950, "{stats}");
}
