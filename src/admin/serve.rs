//! The admin listener: connections, and which request goes where.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

use super::route::Route;
use super::{Admin, BODY_KIB};
use crate::ingress::http::response::{self, HttpResponse};
use crate::ingress::http::{self, Socket};
use crate::metrics::Gauge;

/// Connections at one time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

/// For a request's head, and between two requests: backends keep their connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Accepts until the task is aborted; what it has accepted lives on in tasks of its own.
pub(super) async fn listener(admin: Arc<Admin>, listener: Arc<http::Listener>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let http = http::http1(HEAD_TIMEOUT);
    http::accept_forever(&listener, &slots, &admin.stats.accept, |socket, slot| {
        let (admin, http) = (Arc::clone(&admin), http.clone());
        tokio::spawn(async move {
            match socket.open() {
                Ok(socket) => connection(admin, http, socket).await,
                Err(error) => tracing::error!(%error, "a connection could not be served"),
            }
            drop(slot);
        });
    })
    .await;
}

async fn connection(admin: Arc<Admin>, http: hyper::server::conn::http1::Builder, socket: Socket) {
    let service = service_fn(|request| {
        let admin = Arc::clone(&admin);
        Box::pin(async move { Ok::<_, Infallible>(admin.handle(request).await) })
    });
    let mut connection = http.serve_connection(TokioIo::new(socket), service);
    let ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let answered = ended.as_ref().map_or_else(hyper::Error::is_parse, |()| true);
    if answered {
        Box::pin(http::linger(connection.into_parts().io.into_inner())).await;
    }
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
        self.stats.requests.add(1);
        let _in_flight = InFlight::count(&self.stats.in_flight);
        let path = request.uri().path().to_owned();
        let answer = self.dispatch(request).await.unwrap_or_else(|refused| *refused);
        // "Not ready" is what a probe came to hear.
        if answer.status().is_server_error() && path != "/readyz" {
            tracing::warn!(status = answer.status().as_u16(), path, "an admin request failed");
        }
        answer
    }

    /// Answers, or refuses, which is an answer too.
    async fn dispatch(&self, request: Request<Incoming>) -> Result<HttpResponse, Box<HttpResponse>> {
        let path = request.uri().path();
        if let Some(answer) = self.health.answer(path) {
            return match *request.method() {
                Method::GET | Method::HEAD => Ok(answer),
                _ => Err(response::method_not_allowed("GET, HEAD").into()),
            };
        }
        let route = Route::of(path).ok_or_else(response::not_found)?;
        if !route.allows(request.method()) {
            return Err(response::method_not_allowed(route.methods()).into());
        }
        let headers = request.headers();
        Ok(match route {
            Route::Metrics => response::with_body(StatusCode::OK, super::metrics::CONTENT_TYPE, self.metrics()),
            Route::Publish => {
                let caller = self.caller(headers)?;
                self.publish(caller, request).await
            }
            Route::Stats => {
                self.admin(headers)?;
                self.stats_answer().await
            }
            Route::Clients => {
                self.admin(headers)?;
                self.clients(request.uri().query().unwrap_or_default()).await
            }
            Route::Channel(name) => {
                self.admin(headers)?;
                self.channel(&name).await
            }
            Route::History(name) => {
                self.admin(headers)?;
                self.history(&name, request.uri().query().unwrap_or_default())
            }
            Route::Client(id) => {
                self.admin(headers)?;
                self.disconnect(&id).await
            }
            Route::UserConnections(user) => {
                self.admin(headers)?;
                self.disconnect_user(&user).await
            }
            Route::BroadcastTest => {
                self.admin(headers)?;
                self.broadcast_test(request.into_body()).await
            }
            Route::PushPrices => {
                self.admin(headers)?;
                self.push_prices(request.uri().query().unwrap_or_default()).await
            }
        })
    }

    /// Room for a body that is read as a whole: what it announces, or the most it may have.
    pub(super) async fn body_room(&self, request: &Request<Incoming>) -> Result<SemaphorePermit<'_>, AcquireError> {
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
