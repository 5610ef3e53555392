//! Serves one connection, from accept until its socket is with a shard or closed.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

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
    let peer = socket.peer();
    if !context.admission.trusted_proxies.trusts(peer) {
        let http = context.http.clone();
        return serve_http(context, peer, http, socket, slot).await;
    }
    let deadline = Instant::now() + context.handshake_timeout;
    match timeout_at(deadline, read_proxy_header(&mut socket)).await {
        Ok(Ok(client)) => {
            // One deadline covers the PROXY header and the first request's head.
            let mut http = context.http.clone();
            http.header_read_timeout(deadline.saturating_duration_since(Instant::now()));
            serve_http(context, client.or(peer), http, socket, slot).await;
        }
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

async fn serve_http(
    context: Arc<Context>,
    hop: Option<IpAddr>,
    http: http1::Builder,
    socket: Socket,
    slot: PendingSlot,
) {
    let (pending, polling) = (Arc::clone(&context.pending), Arc::clone(&context.polling));
    let connection = HttpConnection::new(hop, &socket, slot, pending, polling);
    let service = HttpService::new(Arc::clone(&context), Arc::clone(&connection));
    let mut http = http.serve_connection(TokioIo::new(socket), service);
    let ended = loop {
        // Not hyper's own upgrade, which would box the socket: it is taken from the connection with its type.
        let until_ended = std::future::poll_fn(|cx| http.poll_without_shutdown(cx));
        match timeout_at(connection.deadline(), until_ended).await {
            Ok(ended) => break Ok(ended),
            Err(late) if connection.deadline() <= Instant::now() => break Err(late),
            // The deadline has moved on meanwhile.
            Err(_) => {}
        }
    };
    let http1::Parts { io, read_buf, .. } = http.into_parts();
    let admission = connection.finish();
    match ended {
        Ok(Ok(())) => match admission {
            Some(admission) => upgrade::hand_over(&context, io.into_inner(), &read_buf, admission),
            None => Box::pin(http::linger(io.into_inner())).await,
        },
        // hyper has answered with 400, 414 or 431.
        Ok(Err(error)) if error.is_parse() => {
            context.metrics.refuse(RefusalReason::Http);
            Box::pin(http::linger(io.into_inner())).await;
        }
        Ok(Err(error)) if !error.is_timeout() => tracing::trace!(%error, ?hop, "the connection failed"),
        // Between two requests a kept-alive connection may be silent. Without any request the handshake is missing.
        Ok(Err(_)) | Err(_) if !connection.has_requests() => context.metrics.refuse(RefusalReason::Timeout),
        Ok(Err(_)) | Err(_) => {}
    }
}
