//! Liveness and readiness, the same on both listeners.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hyper::StatusCode;
use hyper::header::{ALLOW, HeaderValue};

use super::HttpErrorCode;
use super::response::{self, HttpResponse};
use crate::broker::Broker;

/// Whether the gateway should get new clients. Both listeners and the drain share one.
pub struct Health {
    broker: Arc<dyn Broker>,
    draining: AtomicBool,
}

impl Health {
    /// The methods of the health checks. Some load balancers probe with OPTIONS, so it is answered as GET is.
    pub const METHODS: &'static str = "GET, HEAD, OPTIONS";

    /// A gateway that does not drain and is ready while its broker is.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self {
            broker,
            draining: AtomicBool::new(false),
        }
    }

    /// Begins a drain: the gateway is not ready from now on. Returns `false` when the drain had begun before.
    pub fn drain(&self) -> bool {
        !self.draining.swap(true, Relaxed)
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Why the gateway is not ready: `draining` or `broker_lost`; `None` when it is ready.
    #[must_use]
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.is_draining() {
            Some("draining")
        } else if !self.broker.is_ready() {
            Some("broker_lost")
        } else {
            None
        }
    }

    /// The response to a request for `/healthz` or `/readyz` with one of the [`METHODS`](Self::METHODS); `None` for other
    /// paths. A trailing slash makes no difference.
    ///
    /// `/healthz` is 200 as long as the process serves requests. `/readyz` is 200 when the gateway should get new
    /// clients, else 503 with the reason as its message.
    #[must_use]
    pub fn response(&self, path: &str) -> Option<HttpResponse> {
        let not_ready = match path.strip_suffix('/').unwrap_or(path) {
            "/healthz" => None,
            "/readyz" => self.not_ready(),
            _ => return None,
        };
        let mut response = match not_ready {
            None => response::with_body(StatusCode::OK, "application/json", r#"{"status":"ok"}"#),
            Some(reason) => response::error(HttpErrorCode::NotReady, reason),
        };
        let allow = HeaderValue::from_static(Self::METHODS);
        response.headers_mut().insert(ALLOW, allow);
        Some(response)
    }
}
