//! Routes the HTTP requests of one connection: to a health check, an endpoint's handshake, or long polling.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Method, Request};

use super::admission::Admission;
use super::context::Context;
use super::endpoint_table::{EndpointTable, Selection};
use super::handshake;
use super::http::Health;
use super::http::request::loggable_path;
use super::http::response::HttpResponse;
use super::http_connection::{HttpConnection, close_after};
use super::polling::{self, PollingResponse};
use super::refusal::Refusal;
use super::settings::Endpoint;
use super::upgrade::switching_protocols;
use crate::memory::Pressure;
use crate::time::elapsed_us;
use tickgate_protocol::channel::Tenant;

/// Serves the requests of one connection, in order, until one of them is an upgrade.
#[derive(Clone)]
pub(super) struct HttpService {
    context: Arc<Context>,
    endpoints: Arc<EndpointTable>,
    connection: Arc<HttpConnection>,
}

/// A response that is ready, or one that needs a shard.
pub(super) enum ResponseFuture {
    /// `None` after it was polled.
    Ready(Option<HttpResponse>),
    Polling(Pin<Box<dyn Future<Output = HttpResponse> + Send>>),
}

impl Future for ResponseFuture {
    type Output = Result<HttpResponse, std::convert::Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(response) => response
                .take()
                .map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Polling(response) => response.as_mut().poll(cx).map(Ok),
        }
    }
}

impl Service<Request<Incoming>> for HttpService {
    type Response = HttpResponse;
    type Error = std::convert::Infallible;
    type Future = ResponseFuture;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let start = Instant::now();
        let has_body = !request.body().is_end_stream();
        // The end of a body must be seen, because it may come too early. So must the end of a client whose session is
        // asked: the session ends with a client that has gone.
        let is_of_session = request.uri().query().is_some_and(|query| query.contains("sid="));
        let client = self
            .context
            .admission
            .proxied_client(self.connection.hop, request.headers());
        self.connection.begin_request(!has_body && !is_of_session, client);
        let selection = self.endpoints.select(request.uri().path(), request.headers());
        let tenant = match &selection {
            Selection::Endpoint(endpoint) => Some(endpoint.session.tenant),
            Selection::UnknownPath | Selection::Unfit => None,
        };
        let endpoint = match selection {
            Selection::Endpoint(endpoint) if endpoint.session.dialect.is_engine_io() => {
                let response = self
                    .clone()
                    .poll_session(Arc::clone(endpoint), request, has_body, start);
                return ResponseFuture::Polling(Box::pin(response));
            }
            Selection::Endpoint(endpoint) => Ok(Some(endpoint)),
            Selection::UnknownPath => Ok(None),
            Selection::Unfit => Err(Refusal::no_endpoint()),
        };
        let response = match endpoint.and_then(|endpoint| self.respond(endpoint, &mut request)) {
            Ok(response) => self.log(response, start, request.method(), request.uri().path()),
            Err(refusal) => self.refuse(tenant, refusal, start, request.method(), request.uri().path()),
        };
        let response = self.connection.count_request(response, has_body);
        self.connection.begin_response();
        ResponseFuture::Ready(Some(response))
    }
}

impl HttpService {
    pub(super) const fn new(
        context: Arc<Context>,
        endpoints: Arc<EndpointTable>,
        connection: Arc<HttpConnection>,
    ) -> Self {
        Self {
            context,
            endpoints,
            connection,
        }
    }

    /// Serves a request of an Engine.IO endpoint.
    async fn poll_session(
        self,
        endpoint: Arc<Endpoint>,
        request: Request<Incoming>,
        has_body: bool,
        start: Instant,
    ) -> HttpResponse {
        let (method, path) = (request.method().clone(), Box::<str>::from(request.uri().path()));
        let response = match polling::serve(&self.context, &self.connection, &endpoint, request).await {
            Ok(PollingResponse { response, is_poll }) => {
                let response = if is_poll {
                    response
                } else {
                    self.connection.count_request(response, has_body)
                };
                // In a drain the client reconnects, and so reaches another gateway.
                let is_last = !self.connection.has_slot() || self.context.shared.health.is_draining();
                close_after(self.log(response, start, &method, &path), is_last)
            }
            Err(refusal) => {
                let response = self.refuse(Some(endpoint.session.tenant), refusal, start, &method, &path);
                self.connection.count_request(response, has_body)
            }
        };
        self.connection.begin_response();
        response
    }

    /// Serves any other request. Without an endpoint it is for a health check.
    fn respond(
        &self,
        endpoint: Option<&Arc<Endpoint>>,
        request: &mut Request<Incoming>,
    ) -> Result<HttpResponse, Refusal> {
        let context = &*self.context;
        let Some(endpoint) = endpoint else {
            let path = request.uri().path();
            let response = context
                .shared
                .health
                .response(path, false)
                .ok_or_else(Refusal::unknown_path)?;
            return match *request.method() {
                Method::GET | Method::HEAD | Method::OPTIONS => Ok(response),
                _ => Err(Refusal::method(Health::METHODS)),
            };
        };
        let handshake = handshake::check(request.method(), request.version(), request.headers())?;
        if !request.body().is_end_stream() {
            return Err(Refusal::handshake_body());
        }
        if context.shared.health.refuses_clients() {
            return Err(Refusal::draining());
        }
        if context.shared.health.memory() >= Pressure::Joins {
            return Err(Refusal::memory());
        }
        if let Some(origin) = handshake.origin
            && !context.admission.allowed_origins.allows(origin, handshake.host)
        {
            return Err(Refusal::origin());
        }
        // The connection may have carried polls before.
        if !self.connection.is_flushed() {
            return Err(Refusal::unwritten_responses());
        }
        let hop = self.connection.hop;
        let connection = context.admission.websocket(hop, endpoint, &handshake, request)?;
        let response = switching_protocols(endpoint, connection.deflate, request)?;
        self.connection.admit(Admission::Connection(connection));
        Ok(response)
    }

    // The lines do not have the query, which may hold the token. So may the path, by mistake.
    fn refuse(
        &self,
        tenant: Option<Tenant>,
        refusal: Refusal,
        start: Instant,
        method: &Method,
        path: &str,
    ) -> HttpResponse {
        self.context.shared.metrics.refuse(refusal.reason);
        if let Some(tenant) = tenant {
            self.context.shared.metrics.tenant_refused[tenant.index()].add(1);
        }
        tracing::debug!(
            %method,
            path = %loggable_path(path),
            status = refusal.response.status().as_u16(),
            reason = refusal.reason.label(),
            duration_us = elapsed_us(start),
            hop = self.connection.hop.map(tracing::field::display),
            "request refused"
        );
        *refusal.response
    }

    fn log(&self, response: HttpResponse, start: Instant, method: &Method, path: &str) -> HttpResponse {
        tracing::debug!(
            %method,
            path = %loggable_path(path),
            status = response.status().as_u16(),
            duration_us = elapsed_us(start),
            hop = self.connection.hop.map(tracing::field::display),
            "request served"
        );
        response
    }
}
