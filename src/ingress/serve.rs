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
use tokio::time::Instant;

use super::context::Context;
use super::endpoint_table::EndpointTable;
use super::http::{self, Accepted, Displaced, Place, PollAgain, Socket};
use super::http_connection::HttpConnection;
use super::pending::PendingSlot;
use super::proxy_protocol::{self, ProxyHeader};
use super::routing::HttpService;
use super::upgrade;
use crate::metrics::RefusalReason;
use crate::pause;

/// Serves one connection. `place` is its place among the pending ones.
pub(super) async fn connection(context: Arc<Context>, endpoints: Arc<EndpointTable>, accepted: Accepted, place: Place) {
    let mut slot = context.shared.pending.count(place);
    let mut socket = match accepted.open() {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "cannot serve a connection"),
    };
    let (accepted, peer) = (Instant::now(), socket.peer());
    if !context.admission.trusted_proxies.trusts(peer) {
        slot.place.set_address(peer);
        return serve_http(context, endpoints, peer, accepted, socket, slot).await;
    }
    // One deadline covers the PROXY header and the first request's head.
    let loss = slot.place.loss();
    slot.place.set_silent(true);
    let read = tokio::select! {
        biased;
        read = pause::timeout(context.handshake_timeout, read_proxy_header(&mut socket)) => read,
        why = loss.happened() => return context.shared.metrics.refuse(reason(why)),
    };
    match read {
        Ok(Ok(client)) => {
            slot.place.set_silent(false);
            slot.place
                .set_address(client.filter(|_| !context.admission.trusted_proxies.trusts(client)));
            serve_http(context, endpoints, client.or(peer), accepted, socket, slot).await;
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            context.shared.metrics.refuse(RefusalReason::ProxyHeader);
            tracing::debug!(?peer, "a trusted proxy sent an invalid PROXY header");
        }
        Ok(Err(_)) => {}
        Err(_) => context.shared.metrics.refuse(RefusalReason::Timeout),
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
async fn serve_http(
    context: Arc<Context>,
    endpoints: Arc<EndpointTable>,
    hop: Option<IpAddr>,
    accepted: Instant,
    socket: Socket,
    slot: PendingSlot,
) {
    let (pending, polling) = (Arc::clone(&context.shared.pending), Arc::clone(&context.shared.polling));
    let head_timeout = context.handshake_timeout;
    // A proxy's own connections are not those of one client.
    let address = hop.filter(|_| !context.admission.trusted_proxies.trusts(hop));
    let connection = HttpConnection::new(hop, accepted, head_timeout, &socket, (slot, address), pending, polling);
    let loss = connection.loss();
    let mut lost = pin!(loss.happened());
    let service = HttpService::new(Arc::clone(&context), endpoints, Arc::clone(&connection));
    let mut http = context.http.serve_connection(TokioIo::new(socket), service);
    let mut deadline = connection.deadline();
    let mut late = pause::Deadline::new(deadline.saturating_duration_since(Instant::now()));
    let again = PollAgain::default();
    // Not hyper's own upgrade, which would box the socket: it is taken from the connection with its type.
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = again.poll(cx, |cx| http.poll_without_shutdown(cx)) {
            return Poll::Ready(Ended::Http(ended));
        }
        // The poll may have moved the deadline, in both directions.
        loop {
            if let Poll::Ready(why) = lost.as_mut().poll(cx) {
                return Poll::Ready(Ended::Displaced(why));
            }
            let next = connection.deadline();
            if next != deadline {
                deadline = next;
                late.reset(deadline.saturating_duration_since(Instant::now()));
            }
            ready!(late.poll(cx));
            if connection.deadline() <= Instant::now() {
                return Poll::Ready(Ended::Late);
            }
        }
    })
    .await;
    let http1::Parts { io, read_buf, .. } = http.into_parts();
    let admission = connection.finish();
    match ended {
        Ended::Http(Ok(())) => match admission {
            Some(admission) => upgrade::hand_over(&context, io.into_inner(), &read_buf, admission),
            None => linger(&context, &connection, io.into_inner(), lost).await,
        },
        // hyper has answered with 400, 414 or 431.
        Ended::Http(Err(error)) if error.is_parse() => {
            context.shared.metrics.refuse(RefusalReason::Http);
            linger(&context, &connection, io.into_inner(), lost).await;
        }
        Ended::Http(Err(error)) => tracing::trace!(%error, ?hop, "the connection failed"),
        // Between two requests a kept-alive connection may be silent. Without any request the handshake is missing.
        Ended::Late if !connection.has_requests() => context.shared.metrics.refuse(RefusalReason::Timeout),
        Ended::Late => {}
        Ended::Displaced(why) => context.shared.metrics.refuse(reason(why)),
    }
}

/// Why a connection does not speak HTTP any more.
enum Ended {
    /// hyper is done with it.
    Http(hyper::Result<()>),
    /// It missed its deadline.
    Late,
    /// It lost its slot to a newer connection.
    Displaced(Displaced),
}

/// Closes a connection whose last response is written, at the latest when a newer connection needs its slot.
async fn linger(context: &Context, connection: &HttpConnection, socket: Socket, lost: impl Future<Output = Displaced>) {
    connection.begin_linger();
    tokio::select! {
        () = Box::pin(http::linger(socket)) => {}
        why = lost => context.shared.metrics.refuse(reason(why)),
    }
}

const fn reason(why: Displaced) -> RefusalReason {
    match why {
        Displaced::Total => RefusalReason::Pending,
        Displaced::PerAddress => RefusalReason::PendingPerAddress,
    }
}
