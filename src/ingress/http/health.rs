//! Liveness and readiness, the same on both listeners.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use hyper::StatusCode;
use hyper::header::{ALLOW, HeaderValue};
use serde::Serialize;

use super::HttpErrorCode;
use super::response::{self, HttpResponse};
use crate::broker::{Broker, Trouble};
use crate::hub::Hub;
use crate::hub::snapshot::SnapshotMetrics;
use crate::memory::{Budget, Pressure};

/// Whether the gateway should get new clients. Both listeners and the drain share one.
pub struct Health {
    broker: Arc<dyn Broker>,
    snapshot: Option<Arc<SnapshotMetrics>>,
    phase: AtomicU8,
    publishing: OnceLock<Box<dyn Fn() -> Option<&'static str> + Send + Sync>>,
    budget: OnceLock<Arc<Budget>>,
    hub: OnceLock<Arc<Hub>>,
}

/// The phases of a gateway: it serves, it ends its connections for the program that takes its place, or for good.
const SERVING: u8 = 0;
const RESTARTING: u8 = 1;
const DRAINING: u8 = 2;

/// The body of `/healthz` and of a ready `/readyz`.
#[derive(Serialize)]
struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    publishing: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<&'static str>,
}

impl Health {
    /// The methods of the health checks. Some load balancers probe with OPTIONS, so it is answered as GET is.
    pub const METHODS: &'static str = "GET, HEAD, OPTIONS";

    /// A gateway that does not drain and is ready while its broker is.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>, snapshot: Option<Arc<SnapshotMetrics>>) -> Self {
        Self {
            broker,
            snapshot,
            phase: AtomicU8::new(SERVING),
            publishing: OnceLock::new(),
            budget: OnceLock::new(),
            hub: OnceLock::new(),
        }
    }

    /// Begins a drain: the gateway is not ready from now on. Returns `false` when a drain had begun before. One that began
    /// as a restart ends the gateway for good now.
    pub fn drain(&self) -> bool {
        self.phase.swap(DRAINING, Relaxed) == SERVING
    }

    /// Begins a drain after which another program takes this one's place. Returns `false` when a drain had begun before.
    pub fn restart(&self) -> bool {
        self.phase
            .compare_exchange(SERVING, RESTARTING, Relaxed, Relaxed)
            .is_ok()
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase.load(Relaxed) != SERVING
    }

    /// Whether another program takes this one's place after the drain. Connections that were accepted before are served.
    #[must_use]
    pub fn is_restarting(&self) -> bool {
        self.phase.load(Relaxed) == RESTARTING
    }

    /// Whether clients are refused because the gateway drains.
    #[must_use]
    pub fn refuses_clients(&self) -> bool {
        self.phase.load(Relaxed) == DRAINING
    }

    /// Why the gateway is not ready: `draining`, `broker_lost`, `broker_unfit`, `publishing_stuck` or `shard_stuck`
    /// ([`Hub::stuck`]); `None` when it is ready.
    #[must_use]
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.is_draining() {
            Some("draining")
        } else if !self.broker.is_ready() {
            Some(self.broker_trouble().map_or("broker_lost", |(word, _)| word))
        } else {
            self.hub.get().and_then(|hub| hub.stuck())
        }
    }

    /// Why the gateway has no link to the broker that it shares with others: one word, and what operators are told. It may
    /// name addresses and parts of the configuration.
    #[must_use]
    pub fn broker_trouble(&self) -> Option<(&'static str, Arc<str>)> {
        let Trouble { is_unfit, reason } = self.broker.trouble()?;
        Some((if is_unfit { "broker_unfit" } else { "broker_lost" }, reason))
    }

    /// Sets the hub whose synthetic event must pass, once.
    pub fn watch_hub(&self, hub: Arc<Hub>) {
        let _ = self.hub.set(hub);
    }

    /// Sets the budget of memory, once.
    pub fn watch_memory(&self, budget: Arc<Budget>) {
        let _ = self.budget.set(budget);
    }

    /// Whether memory is short, and what is given up because of it.
    #[must_use]
    pub fn memory(&self) -> Pressure {
        self.budget.get().map_or(Pressure::None, |budget| budget.pressure())
    }

    /// Whether the last write of the snapshot failed; `None` without a snapshot.
    #[must_use]
    pub fn snapshot_failing(&self) -> Option<bool> {
        self.snapshot.as_ref().map(|snapshot| snapshot.is_failing())
    }

    /// The bytes that all clients hold, and the most that they may hold.
    #[must_use]
    pub fn memory_bytes(&self) -> (u64, u64) {
        let read = |budget: &Arc<Budget>| (budget.used_bytes(), budget.limit_bytes());
        self.budget.get().map_or((0, u64::MAX), read)
    }

    /// Sets how to find out why the admin listener cannot take events at present, once. The reason is one word for
    /// `/readyz`.
    pub fn watch_publishing(&self, why_not: impl Fn() -> Option<&'static str> + Send + Sync + 'static) {
        let _ = self.publishing.set(Box::new(why_not));
    }

    /// Why the admin listener cannot take events of any size at present; `None` when it can.
    #[must_use]
    pub fn not_publishing(&self) -> Option<&'static str> {
        if self.broker.is_ready() {
            self.publishing.get().and_then(|why_not| why_not())
        } else {
            Some("broker_lost")
        }
    }

    /// The response to a request for `/healthz` or `/readyz` with one of the [`METHODS`](Self::METHODS); `None` for other
    /// paths. A trailing slash makes no difference.
    ///
    /// `/healthz` is 200 as long as the process serves requests. `/readyz` is 200 when the gateway should get new
    /// clients, else 503 with the reason as its message. Its field `publishing` is `ok`, or says why events cannot be
    /// published; with a snapshot, `snapshot` is `ok`, or `failing` while the last write of it failed; `memory` is `ok`,
    /// `refusing_joins` or `closing_stalled` ([`Pressure`]). None of them changes the status: clients can be served all the
    /// same.
    ///
    /// With `for_operators` a 503 because of the broker says the whole reason.
    #[must_use]
    pub fn response(&self, path: &str, for_operators: bool) -> Option<HttpResponse> {
        let status = "ok";
        let mut response = match path.strip_suffix('/').unwrap_or(path) {
            "/healthz" => {
                let body = Status {
                    status,
                    publishing: None,
                    snapshot: None,
                    memory: None,
                };
                response::json(StatusCode::OK, &body)
            }
            "/readyz" => match self.not_ready() {
                Some(reason) => {
                    let trouble = self
                        .broker_trouble()
                        .filter(|(word, _)| for_operators && *word == reason);
                    let detail = trouble.as_ref().map(|(_, detail)| &**detail);
                    response::detailed_error(HttpErrorCode::NotReady, reason, detail)
                }
                None => {
                    let is_failing = self.snapshot_failing();
                    let body = Status {
                        status,
                        publishing: Some(self.not_publishing().unwrap_or("ok")),
                        snapshot: is_failing.map(|is_failing| if is_failing { "failing" } else { "ok" }),
                        memory: Some(self.memory().label()),
                    };
                    response::json(StatusCode::OK, &body)
                }
            },
            _ => return None,
        };
        let allow = HeaderValue::from_static(Self::METHODS);
        response.headers_mut().insert(ALLOW, allow);
        Some(response)
    }
}
