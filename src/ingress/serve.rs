//! Serves one connection, from accept until its socket is with a shard or closed.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::context::Context;
use super::http::{self, Accepted, Socket};
use super::http_connection::HttpConnection;
use super::pending::PendingSlot;
use super::proxy_protocol::{self, ProxyHeader};
use super::routing::HttpService;
use super::upgrade;
use crate::metrics::RefusalReason;

/// Serves one connection. `permit` is its slot among the pending ones.
pub(super) async fn connection(context: Arc<Context>, accepted: Accepted, permit: OwnedSemaphorePermit) {
    let slot = context.pending.count(permit);
    let mut socket = match accepted.open() {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "cannot serve a connection"),
    };
    let (accepted, peer) = (Instant::now(), socket.peer());
    if !context.admission.trusted_proxies.trusts(peer) {
        return serve_http(context, peer, accepted, socket, slot).await;
    }
    // One deadline covers the PROXY header and the first request's head.
    let deadline = accepted + context.handshake_timeout;
    match timeout_at(deadline, read_proxy_header(&mut socket)).await {
        Ok(Ok(client)) => serve_http(context, client.or(peer), accepted, socket, slot).await,
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            context.metrics.refuse(RefusalReason::ProxyHeader);
            tracing::debug!(?peer, "a trusted proxy sent an invalid PROXY header");
        }
        Ok(Err(_)) => {}
        Err(_) => context.metrics.refuse(RefusalReason::Timeout),
    }
}

/// Reads the PROXY header of a trusted proxy, if there is one, and puts back what follows it. Returns the client that
/// the header names.
async fn read_proxy_header(socket: &mut Socket) -> io::Result<Option<IpAddr>> {
    let mut bytes = BytesMut::with_capacity(1024);
    loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let client = match proxy_protocol::parse(&bytes) {
            ProxyHeader::Incomplete => continue,
            ProxyHeader::Invalid => return Err(io::ErrorKind::InvalidData.into()),
            ProxyHeader::Absent => None,
            ProxyHeader::Present { length, client } => {
                bytes.advance(length);
                client
            }
        };
        socket.unread(bytes.freeze());
        return Ok(client);
    }
}

/// Serves HTTP. `accepted` is when the connection was accepted.
async fn serve_http(context: Arc<Context>, hop: Option<IpAddr>, accepted: Instant, socket: Socket, slot: PendingSlot) {
    let (pending, polling) = (Arc::clone(&context.pending), Arc::clone(&context.polling));
    let head_timeout = context.handshake_timeout;
    let connection = HttpConnection::new(hop, accepted, head_timeout, &socket, slot, pending, polling);
    let service = HttpService::new(Arc::clone(&context), Arc::clone(&connection));
    let mut http = context.http.serve_connection(TokioIo::new(socket), service);
    let mut late = pin!(sleep_until(connection.deadline()));
    // Not hyper's own upgrade, which would box the socket: it is taken from the connection with its type.
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = http.poll_without_shutdown(cx) {
            return Poll::Ready(Some(ended));
        }
        // The poll may have moved the deadline, in both directions.
        loop {
            let deadline = connection.deadline();
            if late.deadline() != deadline {
                late.as_mut().reset(deadline);
            }
            ready!(late.as_mut().poll(cx));
            if connection.deadline() <= Instant::now() {
                return Poll::Ready(None);
            }
        }
    })
    .await;
    let http1::Parts { io, read_buf, .. } = http.into_parts();
    let admission = connection.finish();
    match ended {
        Some(Ok(())) => match admission {
            Some(admission) => upgrade::hand_over(&context, io.into_inner(), &read_buf, admission),
            None => Box::pin(http::linger(io.into_inner())).await,
        },
        // hyper has answered with 400, 414 or 431.
        Some(Err(error)) if error.is_parse() => {
            context.metrics.refuse(RefusalReason::Http);
            Box::pin(http::linger(io.into_inner())).await;
        }
        Some(Err(error)) => tracing::trace!(%error, ?hop, "the connection failed"),
        // Between two requests a kept-alive connection may be silent. Without any request the handshake is missing.
        None if !connection.has_requests() => context.metrics.refuse(RefusalReason::Timeout),
        None => {}
    }
}
