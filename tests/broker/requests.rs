//! Requests over NATS: publishing, and commands.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tickgate::backend::commands::{RouteSettings, Target};
use tickgate::backend::spans;
use tickgate::broker::{SharedSettings, nats, redis};
use tickgate_protocol::channel::Pattern;
use tokio::runtime::Runtime;

use crate::gateway::{self, Running};
use crate::nats_server::{Nats, Proxy};
use crate::node::Node;

/// A backend's connection to NATS.
struct Backend {
    runtime: Runtime,
    client: Client,
}

impl Backend {
    fn connect(server: &Nats) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let client = runtime.block_on(async_nats::connect(server.url())).expect("connected");
        Self { runtime, client }
    }

    /// The reply, and the code of its error.
    fn request(&self, subject: &str, body: impl ToString) -> (Value, Option<String>) {
        let body = Bytes::from(body.to_string());
        let reply = self.runtime.block_on(self.client.request(subject.to_owned(), body));
        let reply = reply.unwrap_or_else(|error| panic!("{subject}: {error}"));
        let header = |name: &str| Some(reply.headers.as_ref()?.get(name)?.to_string());
        let error = header("Nats-Service-Error");
        assert_eq!(error.is_some(), header("Nats-Service-Error-Code").is_some());
        (serde_json::from_slice(&reply.payload).expect("JSON"), error)
    }

    /// Answers the commands of a subject as `answer` says; `None`: not at all. Returns the bodies of the commands.
    fn answer(
        &self,
        subject: &str,
        answer: impl Fn(&Value) -> Option<Value> + Send + 'static,
    ) -> Arc<Mutex<Vec<Value>>> {
        let subscribed = self.client.queue_subscribe(subject.to_owned(), format!("of-{subject}"));
        let mut commands = self.runtime.block_on(subscribed).expect("subscribed");
        self.runtime.block_on(self.client.flush()).expect("flushed");
        let got = Arc::<Mutex<Vec<Value>>>::default();
        let (seen, client) = (Arc::clone(&got), self.client.clone());
        self.runtime.spawn(async move {
            while let Some(message) = commands.next().await {
                let command: Value = serde_json::from_slice(&message.payload).expect("JSON");
                seen.lock().expect("not poisoned").push(command.clone());
                if let (Some(reply), Some(answer)) = (message.reply, answer(&command)) {
                    client.publish(reply, answer.to_string().into()).await.expect("sent");
                }
            }
        });
        got
    }
}

/// Adds the tenant `acme` with the keys of the default tenant.
pub(crate) fn add_acme(settings: &mut tickgate::gateway::Settings) {
    settings.tenants.push(tickgate::gateway::TenantSettings {
        name: "acme".into(),
        keys: settings.keys.clone(),
        auth: settings.auth.clone(),
        admin_key: None,
        viewer_key: None,
        event_bytes: 1000,
        publish_per_second: 0,
    });
}

/// The broker at an address.
pub(crate) fn broker(url: String, node: &str) -> SharedSettings {
    if url.starts_with("redis://") {
        SharedSettings::Redis(Node::redis_settings(&url, node))
    } else {
        SharedSettings::Nats(Node::settings(url, node))
    }
}

pub(crate) fn start(url: String, node: &str, change: impl FnOnce(&mut tickgate::gateway::Settings)) -> Running {
    let running = gateway::start(|settings| {
        settings.node = node.into();
        settings.shared = Some(broker(url, node));
        change(settings);
    });
    gateway::until("ready", || running.admin("GET", "/readyz", "").status == 200);
    running
}

/// Starts a gateway with a class of channels that no other gateway has.
pub(crate) fn start_with_class(url: String, node: &str, pattern: &str) -> Running {
    let mut shared = broker(url, node);
    let (SharedSettings::Nats(nats::Settings { classes, .. }) | SharedSettings::Redis(redis::Settings { classes, .. })) =
        &mut shared;
    classes.hash ^= 1;
    classes
        .entries
        .push((pattern.to_owned(), "cache = \"last\"".to_owned()));
    gateway::start(|settings| {
        settings.node = node.into();
        settings.shared = Some(shared);
    })
}

#[test]
fn a_backend_publishes_by_requests_with_the_outcomes_of_the_http_api() {
    let server = Nats::start();
    let proxy = Proxy::start(server.port);
    let (one, two) = (start(proxy.url(), "one", |_| {}), start(server.url(), "two", |_| {}));
    let mut client = one.client(&one.trader("u1"));
    client.send(r#"{"type":"subscribe","channels":["grid.a.order"]}"#);
    client.text();
    let backend = Backend::connect(&server);
    let subject = "suite.one.in.~.grid.a.order";
    // The gateways subscribe a moment after they are ready.
    let item = json!({"event": "filled", "data": {"n": 1.50}, "id": "x", "timestamp": 7});
    let (reply, error) = until_taken(&backend, subject, &item);
    assert_eq!((error, &reply["published"]), (None, &json!(1)), "{reply}");
    let event: Value = serde_json::from_str(&client.text()).expect("JSON");
    assert_eq!(
        (&event["data"]["n"], &event["timestamp"], &event["offset"]),
        (&json!(1.5), &json!(7), &reply["offset"])
    );
    // The same id over HTTP, and again by a request.
    let twice = json!({"channel": "grid.a.order", "event": "filled", "id": "x"});
    assert_eq!(two.publish(&twice.to_string()).json()["duplicate"], json!(true));
    let (again, _) = backend.request(subject, &twice);
    assert_eq!(
        (&again["duplicate"], &again["offset"]),
        (&json!(true), &reply["offset"])
    );
    // An array is answered as by the HTTP API: each item for itself.
    let items = json!([{"event": "a"}, {"event": ""}, {"event": "b", "channel": "grid.b.order"}, {"event": "c"}]);
    let (reply, error) = backend.request(subject, &items);
    let indices: Vec<&Value> = reply["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| &error["index"])
        .collect();
    assert_eq!((error, &reply["published"]), (None, &json!(2)), "{reply}");
    assert_eq!(indices, [&json!(1), &json!(2)]);
    for (subject, body, code) in [
        (subject, "{".to_owned(), "INVALID_JSON"),
        (subject, "[1".to_owned(), "INVALID_JSON"),
        (subject, json!({"event": 1}).to_string(), "INVALID_MESSAGE"),
        (
            subject,
            json!({"event": "e", "data": "x".repeat(300_000)}).to_string(),
            "MESSAGE_TOO_LARGE",
        ),
        ("suite.one.in.nobody.grid.a.order", item.to_string(), "NOT_FOUND"),
        ("suite.one.in.~.grid.\u{7f}", item.to_string(), "INVALID_CHANNEL"),
    ] {
        let (reply, error) = backend.request(subject, body);
        assert_eq!(
            (error.as_deref(), reply["error"]["code"].as_str()),
            (Some(code), Some(code)),
            "{reply}"
        );
    }
    // A gateway without a link takes no requests.
    proxy.cut();
    gateway::until("not ready", || one.admin("GET", "/readyz", "").status == 503);
    for number in 0..20 {
        let (reply, error) = backend.request(subject, json!({"event": "e", "data": number}));
        assert_eq!((error, &reply["published"]), (None, &json!(1)), "{reply}");
    }
    // A gateway that drains takes none either.
    proxy.mend();
    gateway::until("ready", || one.admin("GET", "/readyz", "").status == 200);
    two.gateway.handle().drain();
    for number in 0..20 {
        let (reply, error) = until_taken(&backend, subject, &json!({"event": "e", "data": number}));
        assert_eq!((error, &reply["published"]), (None, &json!(1)), "{reply}");
    }
}

/// Requests until a gateway takes it.
fn until_taken(backend: &Backend, subject: &str, item: &Value) -> (Value, Option<String>) {
    gateway::until("a gateway", || {
        let request = backend.client.request(subject.to_owned(), "[]".into());
        backend.runtime.block_on(request).is_ok()
    });
    backend.request(subject, item)
}

fn over_nats(settings: &mut tickgate::gateway::Settings) {
    let route = |pattern: &str, timeout_ms, idempotent| RouteSettings {
        timeout: Duration::from_millis(timeout_ms),
        idempotent,
        ..RouteSettings::new(
            Pattern::parse(pattern).expect("valid"),
            Target::Nats {
                hmac_secret: Some(tickgate::auth::Secret::new(*b"hush")),
            },
        )
    };
    settings.commands.routes = vec![
        route("grid.slow", 300, false),
        route("grid.twice", 2000, true),
        route("grid.*", 10_000, false),
    ];
}

#[test]
fn commands_are_answered_by_whoever_subscribes_to_their_subjects() {
    let server = Nats::start();
    let one = start(server.url(), "one", over_nats);
    let mut client = one.client(&one.trader("u1"));
    let mut command = |id: u32, action: &str| -> Value {
        client.send(&format!(
            r#"{{"type":"command","id":{id},"action":"{action}","params":{{"n":1.50}},"key":"k{id}"}}"#
        ));
        serde_json::from_str(&client.text()).expect("JSON")
    };
    // Nobody is there: the command is not carried out, and the answer comes at once.
    let began = Instant::now();
    let refused = command(1, "grid.start");
    assert_eq!(refused["error"]["code"], "BACKEND_UNAVAILABLE", "{refused}");
    assert!(began.elapsed() < Duration::from_secs(5));
    let backend = Backend::connect(&server);
    let answer = |command: &Value| {
        Some(match command["action"].as_str() {
            Some("grid.stop") => json!({"success": false, "error": {"code": "NO", "message": "no"}}),
            Some("grid.odd") => json!(17),
            _ => json!({"success": true, "data": {"by": command["user"], "n": command["params"]["n"]}}),
        })
    };
    let got = backend.answer("suite.one.cmd.~.grid.*", move |command| {
        match command["action"].as_str() {
            Some("grid.slow" | "grid.twice") => None,
            _ => answer(command),
        }
    });
    let response = command(2, "grid.start");
    assert_eq!(response["data"], json!({"by": "u1", "n": 1.5}), "{response}");
    assert_eq!(command(3, "grid.stop")["error"]["code"], "NO");
    let odd = command(4, "grid.odd");
    assert_eq!(
        odd["error"]["code"], "UNKNOWN",
        "it has a key, and the backend may have carried it out: {odd}"
    );
    assert_eq!(command(5, "grid.slow")["error"]["code"], "UNKNOWN");
    let seen: Vec<Value> = got
        .lock()
        .expect("not poisoned")
        .iter()
        .map(|command| command["id"].clone())
        .collect();
    assert_eq!(seen, [2, 3, 4, 5], "each is sent once");
    let fields = got.lock().expect("not poisoned")[0].clone();
    assert_eq!((&fields["key"], &fields["role"]), (&json!("u1 k2"), &json!("trader")));
    // The first attempt at an idempotent command gets lost, the second one is answered.
    let lost = Mutex::new(true);
    backend.answer("suite.one.cmd.~.grid.twice", move |_| {
        let is_lost = std::mem::take(&mut *lost.lock().expect("not poisoned"));
        (!is_lost).then(|| json!({"success": true, "data": 2}))
    });
    let twice = command(6, "grid.twice");
    assert_eq!(twice["success"], json!(true), "{twice}");
    // Another gateway knows the keys: the command is not carried out again.
    let two = start(server.url(), "two", over_nats);
    let mut elsewhere = two.client(&two.trader("u1"));
    elsewhere.send(r#"{"type":"command","id":7,"action":"grid.start","params":{"n":1.50},"key":"k2"}"#);
    let again: Value = serde_json::from_str(&elsewhere.text()).expect("JSON");
    assert_eq!(again["data"], response["data"], "{again}");
    elsewhere.send(r#"{"type":"command_status","id":8,"key":"k3"}"#);
    let status: Value = serde_json::from_str(&elsewhere.text()).expect("JSON");
    assert_eq!(status["data"]["response"]["error"]["code"], "NO", "{status}");
    let got = got.lock().expect("not poisoned");
    assert!(got.iter().all(|command| command["id"] != 7), "{got:?}");
}

#[test]
fn a_tenant_is_published_to_by_its_name_and_sees_its_own_channels_only() {
    let server = Nats::start();
    let with_tenant = |settings: &mut tickgate::gateway::Settings| {
        if let Some(SharedSettings::Nats(nats)) = &mut settings.shared {
            nats.tenants = vec!["acme".into()];
        }
        add_acme(settings);
    };
    let one = start(server.url(), "one", with_tenant);
    let two = start(server.url(), "two", with_tenant);
    let backend = Backend::connect(&server);
    let (reply, error) = until_taken(
        &backend,
        "suite.one.in.acme.grid.a.order",
        &json!({"event": "e", "data": "of acme"}),
    );
    assert_eq!((error, &reply["published"]), (None, &json!(1)), "{reply}");
    let (_, error) = backend.request(
        "suite.one.in.acme.grid.a.order",
        json!({"event": "e", "data": "x".repeat(2000)}),
    );
    assert_eq!(error.as_deref(), Some("MESSAGE_TOO_LARGE"), "the limit of the tenant");
    for running in [&one, &two] {
        let history = |tenant: &str| {
            let target = format!("/api/channels/grid.a.order/history?tenant={tenant}");
            running.admin("GET", &target, "").json()["events"]
                .as_array()
                .map_or(0, Vec::len)
        };
        gateway::until("the event", || history("acme") == 1);
        assert_eq!(history("default"), 0);
    }
}

/// An HTTP server that takes spans. Returns its address, and the bodies of its requests.
fn collector() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    let (sender, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = BufReader::new(stream);
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|count| count > 2) {
                let line = std::mem::take(&mut line).to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("a body");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
            stream.get_mut().write_all(answer).expect("answered");
            if sender.send(String::from_utf8(body).expect("UTF-8")).is_err() {
                return;
            }
        }
    });
    (address, bodies)
}

#[test]
fn a_publication_over_nats_continues_the_trace_of_its_header() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";
    let (address, bodies) = collector();
    let server = Nats::start();
    let one = start(server.url(), "one", |settings| {
        settings.otlp = Some(spans::Settings {
            endpoint: format!("http://{address}").parse().expect("a URL"),
            service: "tickgate".into(),
            one_in: 0,
        });
    });
    let backend = Backend::connect(&server);
    let subject = "suite.one.in.~.grid.a.order";
    until_taken(&backend, subject, &json!({"event": "filled"}));
    // The name of the header may have any case.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Traceparent", format!("00-{TRACE}-{SPAN}-01"));
    for body in [json!({"event": "filled"}), json!({"event": 1})] {
        let request = async_nats::Request::new()
            .payload(body.to_string().into())
            .headers(headers.clone());
        let reply = backend.client.send_request(subject, request);
        backend.runtime.block_on(reply).expect("a reply");
    }
    let mut spans: Vec<Value> = Vec::new();
    while spans.len() < 2 {
        let body = bodies.recv_timeout(gateway::PATIENCE).expect("spans");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let told = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned();
        spans.extend(told.expect("a list"));
    }
    for (span, status) in spans.iter().zip([Value::Null, json!(2)]) {
        assert_eq!(span["name"], "publish");
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!(SPAN)));
        assert_eq!(span["status"]["code"], status, "{span}");
    }
    drop(one);
}
