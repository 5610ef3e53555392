//! The admin listener: its connections, and from a request to its route.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

use super::routes::{self, Call, Handler, NoRoute};
use super::{Admin, BODY_KIB};
use crate::ingress::http::response::{self, HttpResponse};
use crate::ingress::http::{self, HttpErrorCode, Socket};
use crate::metrics::Gauge;

/// Connections served at one time. Further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

/// The time for the head of a request. It also limits the pause between two requests, since backends keep connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Accepts connections until the task is aborted. Accepted connections live on in their own tasks.
pub(super) async fn listener(admin: Arc<Admin>, listener: Arc<http::Listener>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut http = http::http1(HEAD_TIMEOUT);
    // A client may end its side behind its last request.
    http.half_close(true);
    http::accept_forever(&listener, &permits, &admin.metrics.accept, |socket, permit| {
        let (admin, http) = (Arc::clone(&admin), http.clone());
        tokio::spawn(async move {
            match socket.open() {
                Ok(socket) => connection(admin, http, socket).await,
                Err(error) => tracing::error!(%error, "cannot serve an admin connection"),
            }
            drop(permit);
        });
    })
    .await;
}

async fn connection(admin: Arc<Admin>, http: hyper::server::conn::http1::Builder, socket: Socket) {
    // A task of its own lets the handler finish even if the connection fails meanwhile: what a backend has sent as a
    // whole is published.
    let service = service_fn(|request| {
        let admin = Arc::clone(&admin);
        let handler = tokio::spawn(async move { admin.handle(request).await });
        Box::pin(async move { Ok::<_, Infallible>(handler.await.unwrap_or_else(|_| failed())) })
    });
    let mut connection = http.serve_connection(TokioIo::new(socket), service);
    let ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let answered = ended.as_ref().map_or_else(hyper::Error::is_parse, |()| true);
    if answered {
        Box::pin(http::linger(connection.into_parts().io.into_inner())).await;
    }
}

/// The response when a handler panicked.
fn failed() -> HttpResponse {
    response::error(HttpErrorCode::Internal, "the gateway failed to handle the request")
}

/// Counts a request until it is answered or dropped.
struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    fn count(gauge: &'a Gauge) -> Self {
        gauge.add(1);
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

impl Admin {
    async fn handle(&self, request: Request<Incoming>) -> HttpResponse {
        self.metrics.requests.add(1);
        let _in_flight = InFlight::count(&self.metrics.in_flight);
        let path = request.uri().path().to_owned();
        let response = self.dispatch(request).await.unwrap_or_else(|refused| *refused);
        // A probe expects to be told that the gateway is not ready.
        if response.status().is_server_error() && !path.starts_with("/readyz") {
            tracing::warn!(status = response.status().as_u16(), path, "an admin request failed");
        }
        response
    }

    /// Finds the route, checks the access and runs the handler. The error is the response to a refused request.
    async fn dispatch(&self, request: Request<Incoming>) -> Result<HttpResponse, Box<HttpResponse>> {
        let path = request.uri().path();
        let (route, segment) = routes::find(request.method(), path).map_err(|why| match why {
            NoRoute::Path => response::not_found(),
            NoRoute::Method(allowed) => response::method_not_allowed(allowed),
        })?;
        let segment = segment.into_owned();
        let call = |request| Call { segment, request };
        Ok(match route.handler {
            Handler::Public(handler) => handler(self, path),
            Handler::Caller(handler) => {
                let caller = self.authenticate(request.headers())?;
                handler(self, caller, call(request)).await
            }
            Handler::Operator(handler) => {
                let operator = self.authenticate_operator(request.headers())?;
                handler(self, operator, call(request)).await
            }
        })
    }

    /// `GET /healthz` and `GET /readyz`
    pub(super) fn health(&self, path: &str) -> HttpResponse {
        self.parts.health.response(path).unwrap_or_else(response::not_found)
    }

    /// Waits for memory for a body that is read as a whole: its announced length, or the longest allowed one.
    ///
    /// # Errors
    ///
    /// When the gateway is shutting down.
    pub(super) async fn reserve_body(&self, request: &Request<Incoming>) -> Result<SemaphorePermit<'_>, AcquireError> {
        let bytes = request
            .body()
            .size_hint()
            .exact()
            .unwrap_or(u64::MAX)
            .min(self.publish_body_bytes);
        let kib = u32::try_from(bytes.div_ceil(1024))
            .unwrap_or(u32::MAX)
            .min(u32::try_from(BODY_KIB).unwrap_or(u32::MAX));
        self.body_kib.acquire_many(kib).await
    }
}
