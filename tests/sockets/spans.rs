//! Traces of publications and commands: what a collector gets, and what backends are told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::harness::{Gateway, trader, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// The `traceparent` and the body of a request.
type Noted = (Option<String>, Value);

/// An HTTP server that notes `traceparent` and body of each request.
struct Noting {
    address: SocketAddr,
    failures: usize,
    requests: Arc<Mutex<Vec<Noted>>>,
}

impl Noting {
    /// The first answers have the status 503, as many as `failures`.
    async fn start(answer: &'static str, failures: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::<Mutex<Vec<Noted>>>::default();
        let noted = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let noted = Arc::clone(&noted);
                let service = service_fn(move |request: Request<Incoming>| {
                    let noted = Arc::clone(&noted);
                    async move {
                        let trace = request.headers().get("traceparent");
                        let trace = trace.map(|trace| trace.to_str().expect("ASCII").to_owned());
                        let body = request.into_body().collect().await.expect("whole").to_bytes();
                        let body = serde_json::from_slice(&body).expect("JSON");
                        let mut noted = noted.lock().expect("not poisoned");
                        noted.push((trace, body));
                        let mut response = Response::new(Full::new(Bytes::from_static(answer.as_bytes())));
                        if noted.len() <= failures {
                            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                        }
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self {
            address,
            failures,
            requests,
        }
    }

    fn requests(&self) -> Vec<Noted> {
        self.requests.lock().expect("not poisoned").clone()
    }

    /// The spans that a collector took.
    fn spans(&self) -> Vec<Value> {
        let spans = |(_, body): Noted| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned();
        let taken = self.requests().into_iter().skip(self.failures);
        taken.filter_map(spans).flatten().collect()
    }
}

fn route(backend: SocketAddr, otlp: &str) -> String {
    format!("[[command]]\nmatch = \"grid.*\"\nhttp = \"http://{backend}/\"\nidempotent = true\n{otlp}")
}

fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

#[tokio::test]
async fn a_trace_goes_on_through_the_gateway_to_the_backend() {
    // Both fail once: the command is repeated, and so is the batch of spans.
    let backend = Noting::start(r#"{"success":true,"data":1}"#, 1).await;
    let collector = Noting::start("{}", 1).await;
    let otlp = format!("[otlp]\nendpoint = \"http://{}\"\none_in = 0", collector.address);
    let mut gateway = Gateway::start("", &route(backend.address, &otlp)).await;
    let mut client = gateway.connect(&trader()).await;
    let command = json!({"type": "command", "id": "c1", "action": "grid.start", "params": {"secret": "hush"},
        "traceparent": format!("00-{TRACE}-{SPAN}-01")});
    client.send(&command).await;
    assert_eq!(client.expect("response").await["success"], true);
    // Neither brings a trace that is recorded.
    let quiet = json!({"type": "command", "id": "c2", "action": "grid.start", "params": {},
        "traceparent": format!("00-{TRACE}-{SPAN}-00")});
    client.send(&quiet).await;
    client.expect("response").await;
    client
        .send(&json!({"type": "command", "id": "c3", "action": "grid.start", "params": {}}))
        .await;
    client.expect("response").await;
    let told: Vec<_> = backend.requests().into_iter().map(|(trace, _)| trace).collect();
    assert_eq!(told[2..], [Some(format!("00-{TRACE}-{SPAN}-00")), None]);

    let spans = until("the command and its attempts", async || {
        let spans = collector.spans();
        (spans.len() == 3).then_some(spans)
    })
    .await;
    // The histograms name the trace.
    let page = gateway.open_metrics().await;
    for name in ["tickgate_command_seconds", "tickgate_backend_seconds"] {
        let exemplar = format!("# {{trace_id=\"{TRACE}\"}}");
        let mut buckets = page.lines().filter(|line| line.starts_with(&format!("{name}_bucket")));
        assert!(buckets.any(|line| line.contains(&exemplar)), "{name} in {page}");
    }
    // What has just ended is sent before the process ends.
    let last = json!({"type": "command", "id": "c4", "action": "grid.stop", "params": {},
        "traceparent": format!("00-{TRACE}-{SPAN}-01")});
    client.send(&last).await;
    client.expect("response").await;
    drop(client);
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    assert_eq!(named(&collector.spans(), "command grid.stop").len(), 1);
    let [command] = named(&spans, "command grid.start")[..] else {
        panic!("one recorded command: {spans:?}")
    };
    assert_eq!(
        (&command["traceId"], &command["parentSpanId"]),
        (&json!(TRACE), &json!(SPAN))
    );
    let attempts: Vec<_> = spans.iter().filter(|span| span["kind"] == 3).collect();
    assert_eq!(attempts.len(), 2, "{spans:?}");
    for (attempt, told) in attempts.iter().zip(&told) {
        assert_eq!(attempt["parentSpanId"], command["spanId"]);
        let id = attempt["spanId"].as_str().expect("a text");
        assert_eq!(
            told.as_deref(),
            Some(&*format!("00-{TRACE}-{id}-01")),
            "the backend continues the attempt"
        );
    }
    assert_eq!(
        (&attempts[0]["status"]["code"], &attempts[1]["status"]["code"]),
        (&json!(2), &Value::Null)
    );
    assert!(
        !collector
            .requests()
            .iter()
            .any(|(_, body)| body.to_string().contains("hush"))
    );
}

#[tokio::test]
async fn a_request_without_a_trace_begins_one_and_a_collector_that_is_away_holds_nothing_up() {
    let backend = Noting::start(r#"{"success":true,"data":1}"#, 0).await;
    let collector = Noting::start("{}", 0).await;
    let otlp = format!("[otlp]\nendpoint = \"http://{}/v1/traces\"", collector.address);
    let gateway = Gateway::start("", &route(backend.address, &otlp)).await;
    let event = json!({"channel": "grid.a.status", "event": "update", "data": 1});
    gateway.publish(vec![event.clone()]).await;
    assert_ne!(gateway.admin("POST", "/api/publish", "{").await.0, 200);
    let spans = until("two spans", async || {
        let spans = collector.spans();
        (spans.len() == 2).then_some(spans)
    })
    .await;
    assert_eq!(named(&spans, "publish").len(), 2);
    assert_ne!(spans[0]["traceId"], spans[1]["traceId"]);
    assert_eq!(
        spans.iter().filter(|span| span["status"]["code"] == 2).count(),
        1,
        "the refused one"
    );
    let page = gateway.open_metrics().await;
    let exemplar = page
        .lines()
        .find(|line| line.starts_with("tickgate_publish_seconds_bucket") && line.contains(" # "));
    let ids = [&spans[0], &spans[1]].map(|span| span["traceId"].as_str().expect("a text"));
    let exemplar = exemplar.unwrap_or_else(|| panic!("no exemplar in {page}"));
    assert!(ids.iter().any(|id| exemplar.contains(id)), "{exemplar}");
    let exported = async || gateway.metrics().await.1.contains("tickgate_spans_exported_total 2\n");
    until("the metric", async || exported().await.then_some(())).await;

    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bound")
        .local_addr()
        .expect("bound");
    let otlp = format!("[otlp]\nendpoint = \"http://{nobody}\"");
    let gateway = Gateway::start("", &route(backend.address, &otlp)).await;
    gateway.publish(vec![event]).await;
    until("a line", async || {
        gateway
            .log()
            .contains("the collector does not take spans")
            .then_some(())
    })
    .await;
}
