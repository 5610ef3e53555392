//! The task that sends spans to the collector, in batches.
//!
//! Invariant: a batch is sent until the collector takes it, refuses it for good, or three attempts have failed. Meanwhile
//! the queue fills, so the bound on memory is that of the queue and one batch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::encode::Resource;
use super::{CollectorUrl, Finished, Message, Settings, SpanMetrics};
use crate::backend::commands::http::RequestError;
use crate::backend::jwks::Client;

/// Most spans of one request.
const BATCH_MAX: usize = 512;
/// How long a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a batch is sent, and the wait before the second time, which doubles.
const ATTEMPTS_MAX: u32 = 3;
const BACK_OFF: Duration = Duration::from_secs(1);
/// Longest answer of a collector, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Sends spans; see the module's docs.
pub(super) struct Exporter {
    client: Client,
    endpoint: CollectorUrl,
    resource: Resource,
    metrics: Arc<SpanMetrics>,
    // Whether the log told that the collector does not take spans.
    is_failing: bool,
}

/// Why the collector did not take a batch.
struct Failed {
    why: String,
    may_succeed_later: bool,
}

impl Exporter {
    pub(super) fn new(settings: &Settings, node: &str, runtime: &Handle, metrics: Arc<SpanMetrics>) -> Self {
        // The pool creates its timer within the runtime.
        let _entered = runtime.enter();
        let is_https = settings.endpoint.uri().scheme_str() == Some("https");
        Self {
            client: if is_https {
                Client::of_system()
            } else {
                Client::without_certificates()
            },
            endpoint: settings.endpoint.clone(),
            resource: Resource::new(&settings.service, node),
            metrics,
            is_failing: false,
        }
    }

    /// Runs until the last sender is gone.
    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(first) = messages.recv().await {
            let deadline = Instant::now() + BATCH_WAIT;
            let mut batch = Vec::new();
            let mut flushed: Option<oneshot::Sender<()>> = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Span(span) => batch.push(*span),
                    Message::Flush(done) => flushed = Some(done),
                }
                if batch.len() == BATCH_MAX || flushed.is_some() {
                    break;
                }
                next = timeout_at(deadline, messages.recv()).await.ok().flatten();
            }
            if !batch.is_empty() {
                self.send(&batch).await;
            }
            drop(flushed);
        }
    }

    async fn send(&mut self, batch: &[Finished]) {
        let body = Bytes::from(self.resource.request(batch));
        let mut back_off = BACK_OFF;
        for attempt in 1..=ATTEMPTS_MAX {
            let failed = match self.post(body.clone()).await {
                Ok(()) => {
                    self.metrics.exported.add(batch.len() as u64);
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!(endpoint = %self.endpoint, "the collector takes spans again");
                    }
                    return;
                }
                Err(failed) => failed,
            };
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(endpoint = %self.endpoint, "the collector does not take spans: {}", failed.why);
            }
            if attempt == ATTEMPTS_MAX || !failed.may_succeed_later {
                break;
            }
            sleep(back_off).await;
            back_off *= 2;
        }
        self.metrics.dropped.add(batch.len() as u64);
    }

    async fn post(&self, body: Bytes) -> Result<(), Failed> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.endpoint.uri().clone();
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        let answer = timeout(REQUEST_TIMEOUT, self.client.request(request, ANSWER_BYTES_MAX)).await;
        let failed = |why: String, may_succeed_later| Err(Failed { why, may_succeed_later });
        match answer {
            // The answer may say that some spans were refused. They are not worth a second request.
            Ok(Ok(_)) => Ok(()),
            Err(_) => failed(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()), true),
            Ok(Err(RequestError::Status(status, _))) => {
                failed(format!("status {status}"), matches!(status, 429 | 502..=504))
            }
            Ok(Err(RequestError::Unreachable(why) | RequestError::Lost(why))) => failed(why, true),
            // The spans are taken: the status is 2xx.
            Ok(Err(RequestError::TooLong | RequestError::Encoded(_))) => Ok(()),
        }
    }
}
