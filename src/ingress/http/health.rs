//! Liveness and readiness, the same on both listeners.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hyper::StatusCode;

use super::HttpErrorCode;
use super::response::{self, HttpResponse};
use crate::broker::Broker;

/// Whether the gateway should get new clients.
pub struct Health {
    broker: Arc<dyn Broker>,
    draining: AtomicBool,
}

impl Health {
    /// Not draining.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self {
            broker,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on the gateway is not ready. `false` when it was draining already.
    pub fn drain(&self) -> bool {
        !self.draining.swap(true, Relaxed)
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Why it is not ready, or nothing when it is.
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

    /// Answers `GET /healthz` (the process serves requests) and `GET /readyz` (it should get new clients, else 503
    /// with the reason); `None` for other paths.
    #[must_use]
    pub fn answer(&self, path: &str) -> Option<HttpResponse> {
        let not_ready = match path {
            "/healthz" => None,
            "/readyz" => self.not_ready(),
            _ => return None,
        };
        Some(match not_ready {
            None => response::with_body(StatusCode::OK, "application/json", r#"{"status":"ok"}"#),
            Some(reason) => response::error(HttpErrorCode::NotReady, reason),
        })
    }
}
