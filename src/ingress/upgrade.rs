//! The upgrade to a WebSocket: the 101 response, and handing the socket to its shard.
//!
//! Invariant: every byte that the client sent behind the request reaches the shard.

use std::io;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL};

use super::admission::Admission;
use super::context::Context;
use super::http::Socket;
use super::http::response::HttpResponse;
use super::refusal::Refusal;
use super::settings::Endpoint;
use crate::metrics::RefusalReason;
use crate::shard::mailbox::polling::Upgrade;
use crate::shard::mailbox::{Adopt, ShardMessage, UnclaimedSocket};
use tickgate_protocol::wire::negotiate::Agreement;

/// The 101 to a handshake that was checked and admitted.
///
/// # Errors
///
/// 400 when fastwebsockets finds a fault in the handshake.
pub(super) fn switching_protocols(
    endpoint: &Endpoint,
    deflate: Option<Agreement>,
    request: &mut Request<Incoming>,
) -> Result<HttpResponse, Refusal> {
    let subprotocol = endpoint.subprotocol(request.headers());
    // The future of the upgraded connection is not used: the socket is taken from hyper's connection itself.
    let (response, _upgraded) =
        fastwebsockets::upgrade::upgrade(request).map_err(|error| Refusal::bad_request(&error.to_string()))?;
    let mut response = response.map(|_| Full::new(Bytes::new()));
    if let Some(subprotocol) = subprotocol {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    if let Some(extensions) = deflate.and_then(|agreement| HeaderValue::try_from(agreement.answer()).ok()) {
        response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, extensions);
    }
    Ok(response)
}

/// Gives the socket to the shard of its session, or to the least loaded one. `read_buf` is what hyper read behind the
/// request.
pub(super) fn hand_over(context: &Context, socket: Socket, read_buf: &Bytes, admission: Admission) {
    let parts = socket
        .into_fd()
        .and_then(|(socket, ahead)| Ok((socket, ahead, getrandom::u64().map_err(io::Error::other)?)));
    let (socket, ahead, nonce) = match parts {
        Ok(parts) => parts,
        Err(error) => return tracing::error!(%error, "cannot hand a connection to a shard"),
    };
    let unread = unread(read_buf, &ahead);
    let (shard, message) = match admission {
        Admission::Connection(connection) => {
            let adopt = Adopt {
                socket: UnclaimedSocket::new(socket),
                unread,
                settings: connection.settings,
                engine_io: connection.engine_io,
                identity: connection.identity,
                address: connection.address,
                nonce,
                deflate: connection.deflate.map(|agreement| agreement.deflate),
                permit: Box::new(connection.permit),
            };
            (context.least_loaded_shard(), ShardMessage::Adopt(Box::new(adopt)))
        }
        Admission::Transport { session, deflate } => {
            let upgrade = Upgrade {
                to: session.to,
                tenant: session.tenant,
                secret: session.secret,
                deflate: deflate.map(|agreement| agreement.deflate),
                socket,
                unread,
            };
            let shard = context.shared.shards.get(usize::from(session.to.shard));
            (shard, ShardMessage::Upgrade(Box::new(upgrade)))
        }
    };
    match shard.map(|shard| shard.send(message)) {
        Some(Ok(())) => context.shared.metrics.upgraded.add(1),
        // In a drain the shards end first. The socket closes here with 1012, and the client reconnects to another gateway.
        Some(Err(_)) | None => context.shared.metrics.refuse(RefusalReason::Draining),
    }
}

/// The bytes that were read behind the request's head, in a buffer of their own: hyper's buffer has several kilobytes,
/// mostly unused.
fn unread(read_buf: &Bytes, ahead: &Bytes) -> Bytes {
    match (read_buf.is_empty(), ahead.is_empty()) {
        (true, true) => Bytes::new(),
        (false, true) => Bytes::copy_from_slice(read_buf),
        _ => [&read_buf[..], &ahead[..]].concat().into(),
    }
}
