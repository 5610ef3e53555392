//! The state machine of one connection, without I/O, clock or randomness.
//!
//! [`Session::handle`] takes one [`Input`] and appends [`Output`]s; what takes long is asked for, not done. The
//! shard carries the outputs out in order and brings the answers back as inputs.
//!
//! Invariants:
//! - [`Output::Close`] is the last output and comes once, whatever comes in afterwards.
//! - Every command with a usable id gets exactly one `response` while the connection lives.
//! - Messages take effect in the order of their arrival. Where an answer must be awaited first (a token's
//!   verification, room for a publish, many subscription changes behind a join), [`Session::wants_input`] is `false`
//!   and the driver hands in no [`Input::Frame`] until it is `true` again; all other inputs are taken at any time.
//! - What a client can make the session hold is bounded: see [`COMMANDS_IN_FLIGHT_MAX`] and [`DEFERRED_MAX`].
//!
//! The driver calls, after each `handle`, [`Session::next_deadline_ms`] and hands in [`Input::Timer`] once it has
//! passed (earlier does no harm).

mod authentication;
mod engine_io;
mod extra;
mod heartbeat;
pub mod limits;
mod machine;
mod metering;
mod requests;
mod subscriptions;
#[cfg(test)]
mod tests;
pub mod transport;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::auth::{Identity, TokenError};
use crate::event::NewEvent;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::event::Epoch;
use tickgate_protocol::message::{ErrorCode, HistoryRange, Position, Recover, RequestId, RequestRef, SubscribeOutcome};
use tickgate_protocol::wire;

pub use engine_io::Opening;
pub use machine::Session;

/// Commands of one connection that may wait for their answers at a time; one more is `RATE_LIMITED`.
pub const COMMANDS_IN_FLIGHT_MAX: usize = 256;

/// Subscription changes that may wait behind a join before the session takes no more input.
pub const DEFERRED_MAX: usize = 8;

/// Ping and pong frames per second and connection (and the burst); more ends it.
pub const CONTROL_FRAMES_PER_SECOND: u32 = 100;

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection was adopted. The first input, once.
    Opened,
    /// A whole message or control frame arrived.
    Frame(wire::Message<'a>),
    /// What arrived broke the framing; nothing more will be read.
    Malformed(wire::Error),
    /// The peer closed its side without a Close frame, or the socket failed.
    Lost,
    /// Answer to [`Output::Verify`].
    Verified {
        /// The request's number.
        request: u32,
        /// Who it is, or why not.
        outcome: Result<Arc<Identity>, TokenError>,
    },
    /// Answer to [`Output::Join`]: the patterns are live from here on. Holds the shard's own (interned) instances.
    Joined {
        /// The request's number.
        request: u32,
        /// As asked for and in that order, interned.
        patterns: Vec<Pattern>,
        /// Where that puts the client in the channels' histories.
        standing: SubscribeOutcome,
    },
    /// Answer to [`Output::Publish`].
    Published {
        /// The request's number.
        request: u32,
        /// Position in the channel's history, where it keeps one.
        position: Option<Position>,
    },
    /// Answer to [`Output::History`].
    History {
        /// The request's.
        request_ref: RequestRef,
        /// What the channel keeps.
        page: HistoryPage,
    },
    /// Answer to [`Output::Command`].
    Responded {
        /// The request's number.
        request: u32,
        /// The backend's answer, or why there is none.
        outcome: CommandOutcome,
    },
    /// The deadline of [`Session::next_deadline_ms`] passed.
    Timer,
    /// The outbox's reply bound overflowed, an operator disconnects, the token was revoked, ...
    End(Disconnect),
    /// The gateway drains: tell the client when it will be closed. The close itself comes as [`Input::End`].
    GoingAway {
        /// Milliseconds until the close.
        close_in_ms: u64,
        /// Milliseconds the client should wait after it before it comes back; random per client.
        reconnect_after_ms: u64,
    },
}

/// A part of a channel's history.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// The store's.
    pub epoch: Epoch,
    /// Oldest first, each a JSON object as the dialect sends events.
    pub events: Vec<Bytes>,
    /// None between what was asked for and these is missing.
    pub complete: bool,
    /// The last one's: where the next page begins; `None`: the channel keeps no history.
    pub offset: Option<u64>,
    /// There are more.
    pub more: bool,
}

/// How a command ended. `data` and `error` are raw JSON, byte for byte as the backend wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandOutcome {
    /// The backend answered `success: true`.
    Success {
        /// Its `data`; `null` when absent.
        data: Bytes,
    },
    /// The backend answered `success: false`.
    Failure {
        /// Its `error` object.
        error: Bytes,
    },
    /// There is no answer: `UNKNOWN_ACTION`, `BACKEND_UNAVAILABLE`, `TIMEOUT`, ...
    Refused {
        /// The code.
        code: ErrorCode,
        /// For the client.
        message: Box<str>,
    },
}

/// What a session asks of its shard, in order.
#[derive(Debug)]
pub enum Output {
    /// Queue these finished frames (in [`Outputs::bytes`]) as replies or control messages; never dropped.
    Reply {
        /// Where in [`Outputs::bytes`] it begins.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// Have a token verified; answered by [`Input::Verified`].
    Verify {
        /// Number of the request.
        request: u32,
        /// The JWT.
        token: Token,
    },
    /// Join patterns (none of them held yet); answered by [`Input::Joined`].
    Join {
        /// Number of the request.
        request: u32,
        /// Distinct, permitted, within the limit.
        patterns: Vec<Pattern>,
        /// Where the client was in histories, each of a channel that these patterns cover and those held do not.
        recover: Option<Recover>,
    },
    /// Note that these automatic subscriptions are not allowed for this client; it goes without.
    Skipped {
        /// What it does not get.
        patterns: Vec<Pattern>,
    },
    /// Give patterns back. No event that only they match is delivered after this.
    Leave {
        /// Held patterns.
        patterns: Vec<Pattern>,
    },
    /// Publish; answered by [`Input::Published`]. The shard reads nothing more from this connection until it has
    /// the credit to do so.
    Publish {
        /// Number of the request.
        request: u32,
        /// What to publish.
        event: NewEvent,
    },
    /// Read a part of a channel's history; answered by [`Input::History`], at once.
    History {
        /// To be handed back.
        request_ref: RequestRef,
        /// One that the client may subscribe.
        channel: Channel,
        /// Which part.
        range: HistoryRange,
    },
    /// Route a command to its backend; answered by [`Input::Responded`], always, once.
    Command {
        /// Number of the request.
        request: u32,
        /// What to route.
        command: Command,
    },
    /// A command was refused because its sender may not send it; for the audit trail. The client has its answer.
    Forbidden {
        /// What was asked for.
        command: Command,
    },
    /// The session is over: flush what is queued, send the Close frame (already in the replies when one is due),
    /// shut down, discard input for at most five seconds. The last output, once.
    Close(Disconnect),
}

/// What only its owner may know: it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub Box<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A command on its way to a backend.
#[derive(Clone, Debug)]
pub struct Command {
    /// The client's `id`.
    pub id: RequestId,
    /// What to do.
    pub action: Channel,
    /// One JSON value, byte for byte.
    pub params: Bytes,
    /// Who asks.
    pub identity: Arc<Identity>,
}

/// The outputs of one or more inputs; one per shard, reused.
#[derive(Debug, Default)]
pub struct Outputs {
    /// In order.
    pub list: Vec<Output>,
    /// The bytes of all [`Output::Reply`]s; what lies between their ranges belongs to none.
    pub bytes: Vec<u8>,
    /// Messages refused because they came too fast.
    pub refused_messages: u64,
}

impl Outputs {
    /// Empties both; their memory stays.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
        self.refused_messages = 0;
    }
}

/// What a session may look at while it handles an input.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Both clocks.
    pub now: Now,
    /// The endpoint's settings.
    pub settings: &'a Settings,
    /// Messages delivered to this client so far (for `get_status`).
    pub delivered: u64,
    /// Events dropped for this client so far.
    pub dropped: u64,
}

/// What sessions of one endpoint share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which dialect it speaks.
    pub dialect: tickgate_protocol::dialect::Dialect,
    /// Limits, with the endpoint's overrides applied.
    pub limits: crate::session::limits::Limits,
    /// `[auth] mode`; an endpoint with `anonymous = true` has `Optional`.
    pub auth_mode: crate::auth::Mode,
    /// Who a connection without a token is (`mode` optional or off, or an anonymous endpoint).
    pub anonymous: Arc<Identity>,
    /// Distinct patterns that each connection holds from the moment on at which it is somebody (or anonymous), as far
    /// as it may. They do not count against the limit, now or when the client gives one back and takes it again.
    pub auto_subscribe: Box<[Pattern]>,
    /// Time to authenticate in-band.
    pub auth_timeout_ms: u64,
    /// How long before its end a token's owner is warned.
    pub expiry_warning_ms: u64,
    /// Between the server's pings (or, of Engine.IO 3, the client's).
    pub heartbeat_interval_ms: u64,
    /// Without any frame or packet for so long, the connection is closed. Of Engine.IO the interval and the time that
    /// the answer to a ping may take together.
    pub heartbeat_timeout_ms: u64,
}
