//! The admin listener: its connections, and from a request to its route.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;

use super::Admin;
use super::completed::{Completed, Panicked};
use super::connection::Connection;
use super::console;
use super::routes::{self, Call, Handler, NoRoute};
use crate::ingress::http::response::{self, HttpResponse};
use crate::ingress::http::{self, HttpErrorCode, PollAgain, Socket};
use crate::metrics::Gauge;
use crate::time::elapsed_us;

/// The time for the head of a request. It also limits the pause between two requests, since backends keep connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Accepts connections until the gate is closed. Accepted connections live on in their own tasks.
pub(super) async fn listener(admin: Arc<Admin>, listener: Arc<http::Listener>) {
    let mut http = http::http1(HEAD_TIMEOUT);
    // A client may end its side behind its last request.
    http.half_close(true);
    http::accept_until_closed(
        &listener,
        &admin.without_key,
        &admin.metrics.accept,
        admin.gate.enter(),
        |socket, mut place| {
            let (admin, http) = (Arc::clone(&admin), http.clone());
            tokio::spawn(async move {
                match socket.open() {
                    Ok(socket) => {
                        place.set_address(socket.peer());
                        let connection = Connection::new(admin, place, socket.peer());
                        serve(connection, http, socket).await;
                    }
                    Err(error) => tracing::error!(%error, "cannot serve an admin connection"),
                }
            });
        },
    )
    .await;
}

async fn serve(connection: Arc<Connection>, http: hyper::server::conn::http1::Builder, socket: Socket) {
    // The handler finishes even if the connection fails meanwhile: what a backend has sent as a whole is published.
    let service = service_fn(|request| {
        connection.begin_request();
        let connection = Arc::clone(&connection);
        Box::pin(async move {
            let handler = {
                let connection = Arc::clone(&connection);
                Completed::new(async move { connection.admin.handle(request, &connection).await })
            };
            let mut response = handler.await.unwrap_or_else(|Panicked| failed());
            if connection.admin.parts.health.is_draining() {
                // The next request of the client goes to another gateway, or to the next process.
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            connection.end_request();
            Ok::<_, Infallible>(response)
        })
    });
    let mut http = http.serve_connection(TokioIo::new(socket), service);
    let loss = connection.loss();
    let mut lost = pin!(loss.happened());
    let again = PollAgain::default();
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = again.poll(cx, |cx| http.poll_without_shutdown(cx)) {
            return Poll::Ready(Some(ended));
        }
        connection.polled();
        lost.as_mut().poll(cx).map(|_| None)
    })
    .await;
    if let (Some(Ok(())), Some(client)) = (&ended, connection.take_upgrade()) {
        let parts = http.into_parts();
        return console::socket::hand_over(&connection, client, parts.io.into_inner(), &parts.read_buf);
    }
    let answered = match &ended {
        Some(Ok(())) => true,
        Some(Err(error)) => error.is_parse(),
        None => false,
    };
    if answered {
        connection.polled();
        let linger = Box::pin(http::linger(http.into_parts().io.into_inner()));
        tokio::select! {
            () = linger => return,
            _ = lost => {}
        }
    } else if ended.is_some() {
        return;
    }
    connection.admin.metrics.displaced.add(1);
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
    async fn handle(&self, request: Request<Incoming>, connection: &Connection) -> HttpResponse {
        self.metrics.requests.add(1);
        let _in_flight = InFlight::count(&self.metrics.in_flight);
        // Not the path of the request, which may hold a token by mistake.
        let route = routes::find(request.method(), request.uri().path()).map_or("", |(route, _)| route.path);
        let method = request.method().clone();
        let start = Instant::now();
        let response = self
            .dispatch(request, connection)
            .await
            .unwrap_or_else(|refused| *refused);
        tracing::debug!(
            %method,
            route,
            status = response.status().as_u16(),
            duration_us = elapsed_us(start),
            address = connection.address().map(tracing::field::display),
            "admin request"
        );
        // A probe expects to be told that the gateway is not ready.
        if response.status().is_server_error() && route != "/readyz" {
            let line = self.failure_lines.lock().take(self.parts.clock.now().mono_ms);
            if let Some(left_out) = line {
                let status = response.status().as_u16();
                tracing::warn!(status, route, left_out, "an admin request failed");
            }
        }
        response
    }

    /// Finds the route, checks the access and runs the handler. The error is the response to a refused request.
    async fn dispatch(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Result<HttpResponse, Box<HttpResponse>> {
        let path = request.uri().path();
        let (route, segment) = routes::find(request.method(), path).map_err(|why| match why {
            NoRoute::Path => response::not_found(),
            NoRoute::Method(allowed) => response::method_not_allowed(allowed),
        })?;
        let segment = segment.into_owned();
        let address = connection.address();
        let call = |request| Call {
            segment,
            request,
            address,
        };
        Ok(match route.handler {
            Handler::Public(handler) => handler(self, &request),
            Handler::Session => self.session_route(call(request)).await,
            Handler::Socket => self.console_socket(request, connection)?,
            Handler::Caller(handler) => {
                let caller = self.authenticate(&request)?;
                connection.has_key()?;
                handler(self, caller, call(request)).await
            }
            Handler::Viewer(handler) => {
                let viewer = self.authenticate_viewer(&request)?;
                connection.has_key()?;
                handler(self, viewer, call(request)).await
            }
            Handler::Look { look, .. } if matches!(*request.method(), Method::GET | Method::HEAD) => {
                let viewer = self.authenticate_viewer(&request)?;
                connection.has_key()?;
                look(self, viewer, call(request)).await
            }
            Handler::Look { act: handler, .. } | Handler::Operator(handler) => {
                let operator = self.authenticate_operator(&request)?;
                connection.has_key()?;
                handler(self, operator, call(request)).await
            }
        })
    }

    /// `GET /healthz` and `GET /readyz`
    pub(super) fn health(&self, path: &str) -> HttpResponse {
        self.parts
            .health
            .response(path, true)
            .unwrap_or_else(response::not_found)
    }
}
