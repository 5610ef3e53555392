//! What the door tells a shard about Engine.IO sessions that have no socket (yet), and what it is answered.
//!
//! Invariant: a request is answered once, or its answer's sender is dropped because the session is gone; a request
//! whose client goes away is told of by [`PollRequest::Gone`].

use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{ConnectionId, ConnectionPermit};
use crate::session::{Opening, Settings};
use tickgate_protocol::dialect::engine_io::SECRET_BYTES;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::Deflate;

/// A new session, opened by a GET.
#[derive(Debug)]
pub struct Open {
    /// The endpoint's settings.
    pub settings: Arc<Settings>,
    /// How it was opened.
    pub opening: Opening,
    /// The client's address, as the trusted proxies tell it.
    pub address: Option<IpAddr>,
    /// Random bits for its heartbeat's phase.
    pub nonce: u64,
    /// Held while the session lives, whatever carries it.
    pub permit: Box<dyn ConnectionPermit>,
    /// The number of the GET.
    pub number: u64,
    /// Its answer's body.
    pub answer: oneshot::Sender<Bytes>,
}

/// One request of a session. Shown without what only its client may know.
pub struct Poll {
    /// The session, as its name says.
    pub to: ConnectionId,
    /// The name's random part.
    pub secret: [u8; SECRET_BYTES],
    /// Names the request; no two of a process have the same. All that is told of one POST bears one number.
    pub number: u64,
    /// What it is.
    pub request: PollRequest,
}

/// What a request asks. Shown by its kind: a body may hold a token.
pub enum PollRequest {
    /// A GET: what is queued, or what comes next. The answer says whether it waits, and for what.
    Get(oneshot::Sender<Result<oneshot::Receiver<Bytes>, PollError>>),
    /// The head of a POST has come; nobody reads a body for a session that does not exist.
    PostHead(oneshot::Sender<Result<(), PollError>>),
    /// Its body has come. Answered when the session has taken all of it.
    PostBody(Bytes, oneshot::Sender<Result<(), PollError>>),
    /// Whether a socket is wanted.
    MayUpgrade(oneshot::Sender<Result<(), PollError>>),
    /// The body of the POST is not read to its end: the session ends so.
    PostFailed(Disconnect),
    /// The client of this request is gone before it was answered, or before the answer was written.
    Gone,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollError {
    /// There is no such session (any more).
    UnknownSession,
    /// It may not be asked this now, or its body is no payload.
    BadRequest,
}

/// A socket on its way to a session, after the 101 went out. Shown like [`Poll`].
pub struct Upgrade {
    /// The session.
    pub to: ConnectionId,
    /// Its name's random part.
    pub secret: [u8; SECRET_BYTES],
    /// What was agreed on compression.
    pub deflate: Option<Deflate>,
    /// The bare socket, non-blocking.
    pub socket: OwnedFd,
    /// What was read behind the request's head.
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
    fn nothing_that_is_told_shows_a_secret_or_a_token() {
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
            secret: SECRET,
            number: 3,
            request: posted,
        };
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let upgrade = Upgrade {
            to,
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
