//! Messages of the ingress to a shard about Engine.IO sessions that use long polling, and their answers.
//!
//! Invariant: each request is answered once, or the sender of its answer is dropped because the session has ended. The
//! ingress reports a request whose client has disconnected by [`PollRequest::Gone`].

use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{ConnectionId, ConnectionPermit};
use crate::session::{Opening, Settings};
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::dialect::engine_io::SECRET_BYTES;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::Deflate;

/// Opens a new session, by a GET.
#[derive(Debug)]
pub struct Open {
    /// The endpoint's settings.
    pub settings: Arc<Settings>,
    /// How the session was opened.
    pub opening: Opening,
    /// The client's address, as reported by trusted proxies.
    pub address: Option<IpAddr>,
    /// Random bits, from which the phase of the heartbeat follows.
    pub nonce: u64,
    /// Held while the session lives, whatever its transport.
    pub permit: Box<dyn ConnectionPermit>,
    /// The number of the GET, as [`Poll::number`].
    pub number: u64,
    /// Gets the body of the GET's response.
    pub answer: oneshot::Sender<Bytes>,
}

/// One HTTP request of a session. The `Debug` output leaves out the secret.
pub struct Poll {
    /// The session that the request names.
    pub to: ConnectionId,
    /// The tenant of the endpoint that the request came to. A session of another one does not exist for it.
    pub tenant: Tenant,
    /// The random part of the session's id.
    pub secret: [u8; SECRET_BYTES],
    /// The number of the HTTP request, unique in the process. All messages about one POST have the same number.
    pub number: u64,
    /// The request.
    pub request: PollRequest,
}

/// The kind of a request and its data. The `Debug` output shows only the kind, because a body may contain a token.
pub enum PollRequest {
    /// A GET. If the shard accepts it, the answer is a receiver that gets the body: the queued packets, or the next
    /// ones.
    Get(oneshot::Sender<Result<oneshot::Receiver<Bytes>, PollError>>),
    /// The head of a POST has arrived. The ingress reads the body only if the answer is `Ok`.
    PostHead(oneshot::Sender<Result<(), PollError>>),
    /// The body of a POST has arrived. Answered when the session has handled all of it.
    PostBody(Bytes, oneshot::Sender<Result<(), PollError>>),
    /// Asks whether the session accepts an upgrade to a WebSocket.
    MayUpgrade(oneshot::Sender<Result<(), PollError>>),
    /// The body of the POST could not be read completely. The session ends with this ending.
    PostFailed(Disconnect),
    /// The client of the request disconnected before the answer was written.
    Gone,
}

/// Why a request is refused. Both are errors of the Engine.IO protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollError {
    /// There is no such session, or it has ended.
    UnknownSession,
    /// The session does not accept this request now, or the body is not a valid payload. The text says what is wrong, in
    /// one clause.
    BadRequest(&'static str),
}

/// A WebSocket that the ingress hands to a session, after the response 101 was sent. The `Debug` output leaves out the
/// secret.
pub struct Upgrade {
    /// The session.
    pub to: ConnectionId,
    /// The tenant of the endpoint that the request came to. A session of another one does not exist for it.
    pub tenant: Tenant,
    /// The random part of the session's id.
    pub secret: [u8; SECRET_BYTES],
    /// The negotiated compression; `None`: none.
    pub deflate: Option<Deflate>,
    /// The socket, non-blocking.
    pub socket: OwnedFd,
    /// Bytes that were read after the request's head.
    pub unread: Bytes,
}

impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll")
            .field("to", &self.to)
            .field("number", &self.number)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PollRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get(_) => "Get",
            Self::PostHead(_) => "PostHead",
            Self::PostBody(..) => "PostBody",
            Self::MayUpgrade(_) => "MayUpgrade",
            Self::PostFailed(_) => "PostFailed",
            Self::Gone => "Gone",
        })
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade")
            .field("to", &self.to)
            .field("deflate", &self.deflate)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickgate_protocol::dialect::engine_io::Revision;

    const SECRET: [u8; SECRET_BYTES] = [211; SECRET_BYTES];

    #[test]
    fn debug_output_shows_no_secret_and_no_token() {
        let to = ConnectionId {
            shard: 0,
            slot: 1,
            generation: 2,
        };
        let opening = Opening {
            revision: Revision::Four,
            by_poll: true,
            secret: SECRET,
            token: Some("hush".into()),
        };
        let posted = PollRequest::PostBody(Bytes::from_static(b"40{\"token\":\"hush\"}"), oneshot::channel().0);
        let poll = Poll {
            to,
            tenant: Tenant::DEFAULT,
            secret: SECRET,
            number: 3,
            request: posted,
        };
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let upgrade = Upgrade {
            to,
            tenant: Tenant::DEFAULT,
            secret: SECRET,
            deflate: None,
            socket: socket.into(),
            unread: Bytes::from_static(b"hush"),
        };
        let shown = format!("{opening:?} {poll:?} {upgrade:?}");
        for name in ["Opening", "Poll", "PostBody", "Upgrade"] {
            assert!(shown.contains(name), "{shown}");
        }
        assert!(!shown.contains("211") && !shown.contains("hush"), "{shown}");
    }
}
