//! One connection, from its acceptance until its socket is with a shard or closed.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::visit::Visit;
use super::visitor::{Admission, Visitor};
use super::{Door, proxy};
use crate::ingress::http::{self, Accepted, Socket};
use crate::metrics::{IngressMetrics, Refused};
use crate::shard::mailbox::polling::Upgrade;
use crate::shard::mailbox::{Adopt, ShardMessage};

/// Serves one connection; `place` is its share of the pending ones.
pub(super) async fn connection(door: Arc<Door>, accepted: Accepted, place: OwnedSemaphorePermit) {
    let place = Pending::count(&door.stats, place);
    let mut socket = match accepted.open() {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "a connection could not be served"),
    };
    let peer = socket.peer();
    let (hop, http) = if door.trusted_proxies.trusts(peer) {
        let deadline = Instant::now() + door.handshake_timeout;
        match timeout_at(deadline, read_proxy_header(&mut socket)).await {
            Ok(Ok(client)) => {
                let mut http = door.http.clone();
                http.header_read_timeout(deadline.saturating_duration_since(Instant::now()));
                (client.or(peer), http)
            }
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    door.stats.refuse(Refused::ProxyHeader);
                    tracing::debug!(?peer, "bad PROXY header from a trusted proxy");
                }
                return;
            }
            Err(_) => return door.stats.refuse(Refused::Timeout),
        }
    } else {
        (peer, door.http.clone())
    };
    speak_http(door, hop, http, socket, place).await;
}

/// Reads the PROXY header of a trusted proxy, when there is one, and puts back what follows it. Gives the client it
/// names.
async fn read_proxy_header(socket: &mut Socket) -> io::Result<Option<IpAddr>> {
    let mut bytes = BytesMut::with_capacity(1024);
    loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let client = match proxy::header(&bytes) {
            proxy::Header::Incomplete => continue,
            proxy::Header::Invalid => return Err(io::ErrorKind::InvalidData.into()),
            proxy::Header::Absent => None,
            proxy::Header::Present { length, client } => {
                bytes.advance(length);
                client
            }
        };
        socket.unread(bytes.freeze());
        return Ok(client);
    }
}

async fn speak_http(door: Arc<Door>, hop: Option<IpAddr>, http: http1::Builder, socket: Socket, place: Pending) {
    let visit = Visit::new(Arc::clone(&door), hop, &socket, place);
    let mut connection = http.serve_connection(TokioIo::new(socket), Visitor(Arc::clone(&visit)));
    let ended = loop {
        // Without hyper's upgrade machinery: the socket is taken from the connection itself, so it keeps its type.
        let until_ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx));
        match timeout_at(visit.deadline(), until_ended).await {
            Ok(ended) => break Ok(ended),
            Err(late) if visit.deadline() <= Instant::now() => break Err(late),
            Err(_) => {}
        }
    };
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let admission = visit.finish();
    match ended {
        Ok(Ok(())) => match admission {
            Some(admission) => hand_over(&door, io.into_inner(), &read_buf, admission),
            None => Box::pin(http::linger(io.into_inner())).await,
        },
        // hyper has answered with 400, 414 or 431.
        Ok(Err(error)) if error.is_parse() => {
            door.stats.refuse(Refused::Http);
            Box::pin(http::linger(io.into_inner())).await;
        }
        Ok(Err(error)) if !error.is_timeout() => tracing::trace!(%error, ?hop, "connection failed"),
        // A kept-alive connection may fall silent after its requests; one without any was a handshake that never came.
        Ok(Err(_)) | Err(_) if !visit.has_asked() => door.stats.refuse(Refused::Timeout),
        Ok(Err(_)) | Err(_) => {}
    }
}

/// Gives the bare socket to the shard of its session, or to the least loaded one.
fn hand_over(door: &Door, socket: Socket, read_buf: &Bytes, admission: Admission) {
    let bare = socket
        .into_fd()
        .map(|(socket, ahead)| (socket, unread(read_buf, &ahead)))
        .and_then(|bare| Ok((bare, getrandom::u64().map_err(io::Error::other)?)));
    let ((socket, unread), nonce) = match bare {
        Ok(bare) => bare,
        Err(error) => return tracing::error!(%error, "cannot hand a connection over"),
    };
    let (shard, message) = match admission {
        Admission::Connection(connection) => {
            let adopt = Adopt {
                socket,
                unread,
                settings: connection.settings,
                engine_io: connection.engine_io,
                identity: connection.identity,
                address: connection.address,
                nonce,
                deflate: connection.deflate.map(|agreement| agreement.deflate),
                permit: Box::new(connection.permit),
            };
            let least_loaded = door.shards.iter().min_by_key(|shard| shard.load());
            (least_loaded, ShardMessage::Adopt(Box::new(adopt)))
        }
        Admission::Session { to, secret, deflate } => {
            let upgrade = Upgrade {
                to,
                secret,
                deflate: deflate.map(|agreement| agreement.deflate),
                socket,
                unread,
            };
            let shard = door.shards.get(usize::from(to.shard));
            (shard, ShardMessage::Upgrade(Box::new(upgrade)))
        }
    };
    match shard.map(|shard| shard.send(message)) {
        Some(Ok(())) => door.stats.upgraded.add(1),
        // The shards end first in a drain; then the socket closes here and the client comes back elsewhere.
        Some(Err(_)) | None => door.stats.refuse(Refused::Draining),
    }
}

/// What was read behind the request's head, in a buffer of its own: hyper's is kilobytes, mostly unused.
fn unread(read_buf: &Bytes, ahead: &Bytes) -> Bytes {
    match (read_buf.is_empty(), ahead.is_empty()) {
        (true, true) => Bytes::new(),
        (false, true) => Bytes::copy_from_slice(read_buf),
        _ => [&read_buf[..], &ahead[..]].concat().into(),
    }
}

/// Counts the connection among the pending ones while it lives.
pub(super) struct Pending {
    stats: Arc<IngressMetrics>,
    _place: OwnedSemaphorePermit,
}

impl Pending {
    pub(super) fn count(stats: &Arc<IngressMetrics>, place: OwnedSemaphorePermit) -> Self {
        stats.pending.add(1);
        Self {
            stats: Arc::clone(stats),
            _place: place,
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.stats.pending.add(-1);
    }
}
