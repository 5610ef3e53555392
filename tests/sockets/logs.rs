//! The log of a gateway whose standard error is not read, and the lines that clients write into it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::clients::{Client, Told};
use super::harness::{Gateway, token, trader, until};

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// More audit lines than the pipe and the queue of lines hold together.
const COMMANDS: usize = 12_000;

const AUDITED: &str = r#"
[auth.role.reader]
channels = ["*"]
commands = []

[[command]]
match = "*"
http = "http://127.0.0.1:9/"
audit = true

[limits]
messages_per_second = 1000000
commands_per_second = 1000000
"#;

#[tokio::test]
async fn an_unread_log_stops_neither_clients_nor_the_drain() {
    let mut gateway = Gateway::start_with_unread_log(&[], "drain = \"1s\"", AUDITED).await;
    let mut other = gateway.connect(&trader()).await;
    other.subscribe(&["grid.*"]).await;
    let mut client = gateway.connect(&token("u2", "reader", HOUR)).await;
    for number in 0..COMMANDS {
        client
            .send(&json!({"type": "command", "id": number.to_string(), "action": "grid.start", "params": {}}))
            .await;
        // Every command is answered, so the shard does not wait for the log.
        let response = client.expect("response").await;
        assert_eq!(response["error"]["code"], "FORBIDDEN", "{response}");
    }
    gateway
        .publish(vec![json!({"channel": "grid.a.status", "event": "update", "data": 1})])
        .await;
    other.expect("event").await;
    until("dropped lines in the metric", async || {
        let (_, metrics) = gateway.metrics().await;
        let name = "tickgate_log_lines_dropped_total ";
        let dropped = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the metric");
        (dropped != "0").then_some(())
    })
    .await;
    gateway.signal("TERM");
    let ended = gateway.ended().await;
    assert!(ended.success(), "{ended}");
    assert!(
        matches!(other.rest().await.1, Told::Closed(1012, _)),
        "closed by the drain"
    );
}

#[tokio::test]
async fn lines_about_a_connection_name_its_tenant() {
    let tenant = |name: &str| {
        format!(
            "[[tenant]]\nname = \"{name}\"\n[[tenant.endpoint]]\npath = \"/{name}\"\ndialect = \"native\"\nanonymous = true\n"
        )
    };
    let environment = [("TICKGATE_LOG__LEVEL", "debug")];
    let tenants = tenant("one") + &tenant("two");
    let gateway = Gateway::start_as(&["serve"], &environment, "", &tenants).await;
    for name in ["one", "two"] {
        let mut client = gateway.connect_to(&format!("/{name}")).await.expect("connected");
        client.subscribe(&["market.*"]).await;
        client.send(&json!({"type": "get_status"})).await;
        let id = client.expect("status").await["client_id"].clone();
        drop(client);
        // It opened, subscribed and ended.
        let lines = until("the lines", async || {
            let log = gateway.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let of_client: Vec<_> = lines.filter(|line| line["client_id"] == id).collect();
            (of_client.len() >= 3).then_some(of_client)
        })
        .await;
        assert!(lines.iter().all(|line| line["tenant"] == name), "{lines:?}");
    }
}

/// A backend that carries out every command, and the number of those it has seen.
async fn backend() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            let answer = service_fn(move |request: Request<Incoming>| {
                let counter = Arc::clone(&counter);
                async move {
                    let _ = request.into_body().collect().await;
                    counter.fetch_add(1, Ordering::SeqCst);
                    let body = Bytes::from_static(br#"{"success":true,"data":null}"#);
                    Ok::<_, Infallible>(Response::new(Full::new(body)))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    (address, seen)
}

/// A gateway with a complete audit trail that nobody reads.
async fn with_complete_trail(backend: SocketAddr) -> Gateway {
    let rest = format!(
        r#"
[auth.role.operator]
channels = ["*"]
commands = ["audited.*", "other.*"]

[[command]]
match = "audited.*"
http = "http://{backend}/"
audit = true
timeout = "2s"

[[command]]
match = "*"
http = "http://{backend}/"

[limits]
messages_per_second = 1000000
commands_per_second = 1000000
"#
    );
    Gateway::start_with_unread_log(&[("TICKGATE_LOG__AUDIT", "lossless")], "drain = \"1s\"", &rest).await
}

/// Sends a command and returns the response.
async fn ask(client: &mut Client, action: &str) -> Value {
    let params = json!({"text": "x".repeat(900)});
    client
        .send(&json!({"type": "command", "id": "c", "action": action, "params": params}))
        .await;
    client.expect("response").await
}

/// Sends audited commands until one is refused, because nobody reads the log. Returns how many were carried out.
async fn stall(client: &mut Client) -> usize {
    for done in 0..COMMANDS {
        let response = ask(client, "audited.x").await;
        if response["success"] != true {
            assert_eq!(response["error"]["code"], "BACKEND_UNAVAILABLE", "{response}");
            return done;
        }
    }
    panic!("no command was refused")
}

#[tokio::test]
async fn a_complete_audit_trail_stalls_audited_commands_alone_and_loses_none() {
    let (backend, seen) = backend().await;
    let mut gateway = with_complete_trail(backend).await;
    let mut client = gateway.connect(&token("u1", "operator", HOUR)).await;
    let mut other = gateway.connect(&trader()).await;
    other.subscribe(&["grid.*"]).await;
    let mut carried_out = stall(&mut client).await;
    assert_eq!(
        seen.load(Ordering::SeqCst),
        carried_out,
        "a refused command is not carried out"
    );
    assert_eq!(ask(&mut client, "other.x").await["success"], true);
    gateway
        .publish(vec![json!({"channel": "grid.a.status", "event": "update", "data": 1})])
        .await;
    other.expect("event").await;
    // Forbidden for this client. The line waits for room, and the client does not.
    assert_eq!(ask(&mut other, "audited.x").await["error"]["code"], "FORBIDDEN");

    let log = gateway.read_log();
    let mut refused = 1;
    while ask(&mut client, "audited.x").await["success"] != true {
        refused += 1;
    }
    carried_out += 1;
    gateway.signal("TERM");
    let ended = gateway.ended().await;
    assert!(ended.success(), "{ended}");
    let lines: Vec<Value> = log
        .join()
        .expect("read")
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let count = |outcome: &str, code: Value| {
        let is_wanted = |line: &&Value| line["target"] == "audit" && line["outcome"] == outcome && line["code"] == code;
        lines.iter().filter(is_wanted).count()
    };
    assert_eq!(count("success", Value::Null), carried_out);
    assert_eq!(count("refused", "BACKEND_UNAVAILABLE".into()), refused);
    assert_eq!(count("refused", "FORBIDDEN".into()), 1);
}

#[tokio::test]
async fn a_complete_audit_trail_that_nobody_reads_fails_the_end_of_the_process() {
    let (backend, _) = backend().await;
    let mut gateway = with_complete_trail(backend).await;
    let mut client = gateway.connect(&token("u1", "operator", HOUR)).await;
    stall(&mut client).await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(1));
}

#[tokio::test]
async fn the_level_is_changed_while_the_gateway_runs_and_goes_back() {
    let gateway = Gateway::start("", "").await;
    let put = async |body: Value| gateway.admin("PUT", "/api/log", body.to_string()).await;
    for body in [
        json!({}),
        json!({"level": "loud"}),
        json!({"level": "info,hubs=debug"}),
        json!({"level": "info", "for_seconds": 0}),
        json!({"level": "info", "seconds": 1}),
    ] {
        let (status, answer) = put(body.clone()).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &json!("INVALID_MESSAGE")),
            "{body}"
        );
    }
    let (_, answer) = gateway.admin("GET", "/api/log", "").await;
    assert_eq!(answer, json!({"configured": "info", "level": "info"}));
    assert!(!gateway.log().contains("admin request"));

    let (status, answer) = put(json!({"level": "warn,admin=debug"})).await;
    assert_eq!(
        (status, answer),
        (200, json!({"configured": "info", "level": "warn,admin=debug"}))
    );
    gateway.admin("GET", "/healthz", "").await;
    until("the line of a request", async || {
        gateway.log().contains("admin request").then_some(())
    })
    .await;
    assert!(
        gateway.log().contains("the level of the log is changed"),
        "{}",
        gateway.log()
    );

    let (_, answer) = put(json!({"level": "debug", "for_seconds": 1})).await;
    assert_eq!(answer["level"], "debug");
    assert!(answer["seconds_left"].as_u64() <= Some(2), "{answer}");
    until("the configured level", async || {
        let (_, answer) = gateway.admin("GET", "/api/log", "").await;
        (answer == json!({"configured": "info", "level": "info"})).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_log_tells_the_life_of_a_connection() {
    let gateway = Gateway::start("", "").await;
    gateway
        .admin("PUT", "/api/log", json!({"level": "debug"}).to_string())
        .await;
    let mut client = gateway.connect(&trader()).await;
    client.subscribe(&["grid.*"]).await;
    let event = json!({"channel": "grid.a.status", "event": "update", "data": "x".repeat(1_000)});
    gateway.publish(vec![event]).await;
    client.expect("event").await;
    drop(client);
    for what in [
        "a connection opened",
        "a client subscribes",
        "request served",
        "admin request",
        "a connection ended",
    ] {
        until(what, async || gateway.log().contains(what).then_some(())).await;
    }
    let log = gateway.log();
    for what in ["request served", "admin request"] {
        let line = log.lines().find(|line| line.contains(what)).expect("found");
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["duration_us"].is_u64(), "{line}");
    }
    let line = log.lines().find(|line| line.contains("a connection ended"));
    let line: Value = serde_json::from_str(line.expect("found")).expect("JSON");
    let known = ["user", "address", "code", "blame"].map(|field| line[field].clone());
    let expected = [json!("u1"), json!("127.0.0.1"), json!(1006), json!("client")];
    assert_eq!(known, expected, "{line}");
    assert!(line["seconds"].is_u64(), "{line}");
    let number = |field: &str| line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"));
    assert!(number("messages_out") >= 2 && number("bytes_out") > 1_000, "{line}");
    assert!((20..1_000).contains(&number("bytes_in")), "{line}");
}
