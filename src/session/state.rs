//! The state of one connection: the struct, its constructors and its accessors.

use std::fmt;
use std::sync::Arc;

use super::activity::Activity;
use super::limits::TokenBucket;
use super::rates::Wishes;
use super::returning::{Return, Returning};
use super::transport::Transport;
use super::{CONTROL_FRAMES_PER_SECOND, DEFERRED_MAX, Opening, Settings};
use crate::auth::{Identity, Mode, TokenError};
use crate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::dialect::engine_io::{Revision, SECRET_BYTES};

/// One connection. The docs of the module describe its contract.
///
/// A gateway holds up to millions of these, so everything that an idle subscriber does not need is in a box. Times
/// are monotonic milliseconds unless their name says `unix`.
#[derive(Debug)]
pub struct Session {
    /// `None`: the client has not authenticated yet, or this is an echo connection.
    pub(super) identity: Option<Arc<Identity>>,
    /// `None` while nothing is under way.
    pub(super) activity: Option<Box<Activity>>,
    /// `None` on endpoints whose dialect does not use Engine.IO.
    pub(super) engine_io: Option<Box<EngineIo>>,
    /// The distinct patterns held, in the order of their subscription.
    pub(super) patterns: Vec<Pattern>,
    pub(super) wishes: Wishes,
    pub(super) nonce: u64,
    pub(super) connected_unix_ms: u64,
    /// When [`Input::Timer`](super::Input::Timer) is due.
    pub(super) deadline_ms: u64,
    /// When the last frame arrived.
    pub(super) last_seen_ms: u64,
    pub(super) next_ping_ms: u64,
    pub(super) messages: TokenBucket,
    pub(super) control_frames: TokenBucket,
    // The low 32 bits of Unix milliseconds; 0: no pong has arrived yet.
    last_pong_low: u32,
    // The number of the last request.
    requests: u16,
    pub(super) expiry_warned: bool,
    pub(super) closed: bool,
}

/// The additional state of an Engine.IO session. Its `Debug` output leaves out the secret and the token.
pub(super) struct EngineIo {
    pub(super) revision: Revision,
    pub(super) secret: [u8; SECRET_BYTES],
    pub(super) transport: Transport,
    /// The token of the opening request.
    pub(super) token: Option<Box<str>>,
    /// Whether CONNECT was accepted.
    pub(super) is_connected: bool,
    /// How many binary messages are still to come that belong to a packet.
    pub(super) attachments: u32,
    /// Why the gateway has ended the session, in one clause.
    pub(super) ending_reason: Option<&'static str>,
    /// How long the client may be away and get its session back; `None`: it does not.
    pub(super) window_ms: Option<u64>,
    /// The name under which it does, while it is connected.
    pub(super) pid: Option<Box<str>>,
    /// The hub's newest version when the last subscribe request began that was answered.
    pub(super) subscribed_at: u64,
    /// What the client said in CONNECT of the session that it had.
    pub(super) back: Option<Box<Return>>,
    /// That session is being taken back.
    pub(super) returning: Option<Box<Returning>>,
}

impl fmt::Debug for EngineIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineIo")
            .field("revision", &self.revision)
            .field("transport", &self.transport)
            .field("is_connected", &self.is_connected)
            .field("attachments", &self.attachments)
            .field("ending_reason", &self.ending_reason)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// The session of a connection that was just adopted. Its first input is [`Input::Opened`](super::Input::Opened).
    ///
    /// `nonce` is random: the connection's public name and the phase of its heartbeat follow from it. `identity` is
    /// the result of verifying the handshake's token; `Ok(None)`: the handshake had none.
    #[must_use]
    pub fn new(nonce: u64, identity: Result<Option<Arc<Identity>>, TokenError>, now: Now, settings: &Settings) -> Self {
        let mut session = Self::unidentified(nonce, now, settings);
        if settings.dialect == Dialect::Echo {
            return session;
        }
        match (settings.auth_mode, identity) {
            (Mode::Off, _) | (Mode::Optional, Ok(None)) => session.identity = Some(settings.anonymous.clone()),
            (_, Ok(Some(identity))) => session.identity = Some(identity),
            (Mode::Required, Ok(None)) => {
                session.activity().auth_deadline_ms = Some(now.mono_ms + settings.auth_timeout_ms);
            }
            (_, Err(refusal)) => session.activity().handshake_refusal = Some(refusal),
        }
        session
    }

    /// As [`Session::new`], for an Engine.IO session.
    #[must_use]
    pub fn engine_io(nonce: u64, opening: Opening, now: Now, settings: &Settings) -> Self {
        let mut session = Self::unidentified(nonce, now, settings);
        session.next_ping_ms = match opening.revision {
            // The clients of this revision send the pings.
            Revision::Three => u64::MAX,
            // A random time within the second half of the interval, so that the first ping does not add to the work
            // of opening a session.
            Revision::Four => {
                let half_ms = settings.heartbeat_interval_ms / 2;
                now.mono_ms + half_ms + 1 + nonce % half_ms.max(1)
            }
        };
        session.activity().auth_deadline_ms = Some(now.mono_ms + settings.auth_timeout_ms);
        session.engine_io = Some(Box::new(EngineIo {
            revision: opening.revision,
            secret: opening.secret,
            transport: if opening.by_poll {
                Transport::polling()
            } else {
                Transport::web_socket()
            },
            token: opening.token,
            is_connected: false,
            attachments: 0,
            ending_reason: None,
            window_ms: settings
                .dialect
                .recovery_window_ms()
                .filter(|_| opening.revision == Revision::Four),
            pid: None,
            subscribed_at: 0,
            back: None,
            returning: None,
        }));
        session
    }

    // A session without an identity and without a deadline to get one.
    fn unidentified(nonce: u64, now: Now, settings: &Settings) -> Self {
        Self {
            identity: None,
            activity: None,
            engine_io: None,
            patterns: Vec::new(),
            wishes: Wishes::default(),
            nonce,
            connected_unix_ms: now.unix_ms,
            deadline_ms: now.mono_ms,
            last_seen_ms: now.mono_ms,
            next_ping_ms: now.mono_ms + 1 + nonce % settings.heartbeat_interval_ms.max(1),
            messages: TokenBucket::full(settings.limits.messages_per_second, now.mono_ms),
            control_frames: TokenBucket::full(CONTROL_FRAMES_PER_SECOND, now.mono_ms),
            last_pong_low: 0,
            requests: 0,
            expiry_warned: false,
            closed: false,
        }
    }

    /// Whether the driver may hand in an [`Input::Frame`](super::Input::Frame). While it may not, it keeps the bytes
    /// that it has and reads no more.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.activity.as_ref().is_none_or(|activity| {
            activity.verify.is_none() && activity.publish.is_none() && activity.deferred.len() < DEFERRED_MAX
        })
    }

    /// Whether a command or a publication of the client waits for its answer.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.activity
            .as_ref()
            .is_some_and(|activity| activity.publish.is_some() || !activity.commands.is_empty())
    }

    /// When [`Input::Timer`](super::Input::Timer) is due, in monotonic milliseconds.
    #[must_use]
    pub const fn next_deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// The client's identity; `None` before authentication and on echo endpoints.
    #[must_use]
    pub const fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// The distinct patterns held whose subscription is complete.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// The connection's public name: `client_` and 64 bits as 16 hexadecimal digits.
    #[must_use]
    pub fn client_id(&self) -> String {
        format!("client_{:016x}", self.nonce)
    }

    /// When the connection was adopted, in Unix milliseconds.
    #[must_use]
    pub const fn connected_at_ms(&self) -> u64 {
        self.connected_unix_ms
    }

    /// When a ping was last due to be sent, in Unix milliseconds; `None`: none was yet.
    #[must_use]
    pub fn last_ping_ms(&self, now: Now, settings: &Settings) -> Option<u64> {
        let last_ms = self.next_ping_ms.saturating_sub(settings.heartbeat_interval_ms.max(1));
        let last_unix_ms = now.unix_ms.saturating_sub(now.mono_ms.saturating_sub(last_ms));
        // The first ping is due within one interval of the start, so an earlier time is not that of a ping.
        (last_ms <= now.mono_ms && last_unix_ms > self.connected_unix_ms).then_some(last_unix_ms)
    }

    /// When a pong (frame, packet or message) last arrived, in Unix milliseconds; `None`: none has yet.
    ///
    /// Only 32 bits are kept, so a pong of more than 49 days ago would be reported as a younger one. The heartbeat
    /// closes the connection long before.
    #[must_use]
    pub fn last_pong_ms(&self, now: Now) -> Option<u64> {
        let ago_ms = low_bits(now.unix_ms).wrapping_sub(self.last_pong_low);
        (self.last_pong_low != 0).then(|| now.unix_ms.saturating_sub(ago_ms.into()))
    }

    pub(super) fn note_pong(&mut self, now: Now) {
        self.last_pong_low = low_bits(now.unix_ms).max(1);
    }

    /// Whether [`Output::Close`](super::Output::Close) was given.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Why the gateway has ended this Engine.IO session, in one clause. For the answer to a POST, which is a client's only
    /// way to learn it when the protocol forbids to poll on.
    #[must_use]
    pub fn ending_reason(&self) -> Option<&'static str> {
        self.engine_io.as_ref().and_then(|engine_io| engine_io.ending_reason)
    }

    /// The revision of Engine.IO that the client speaks; `None`: the dialect does not use Engine.IO.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.engine_io.as_ref().map(|engine_io| engine_io.revision)
    }

    /// The transport of an Engine.IO session.
    #[must_use]
    pub fn transport(&self) -> Option<&Transport> {
        self.engine_io.as_ref().map(|engine_io| &engine_io.transport)
    }

    /// The transport of an Engine.IO session, for the shard to report what happens to it.
    pub fn transport_mut(&mut self) -> Option<&mut Transport> {
        self.engine_io.as_mut().map(|engine_io| &mut engine_io.transport)
    }

    /// Whether `secret` is the secret part of this Engine.IO session's id. Takes the same time for every secret.
    #[must_use]
    pub fn has_secret(&self, secret: &[u8; SECRET_BYTES]) -> bool {
        let engine_io = self.engine_io.as_ref();
        engine_io.is_some_and(|engine_io| crate::auth::same_secret(secret, &engine_io.secret))
    }

    pub(super) fn activity(&mut self) -> &mut Activity {
        self.activity.get_or_insert_default()
    }

    /// A number for a new request. No request that waits for its answer has the same one.
    pub(super) fn next_request(&mut self) -> u32 {
        loop {
            self.requests = self.requests.wrapping_add(1);
            let number = self.requests.into();
            if self.activity.as_ref().is_none_or(|activity| !activity.awaits(number)) {
                return number;
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "only differences of less than 49 days are looked at"
)]
const fn low_bits(unix_ms: u64) -> u32 {
    unix_ms as u32
}
