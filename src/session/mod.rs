//! The state machine of one connection, without I/O, clock or randomness.
//!
//! [`Session::handle`] takes one [`Input`] and appends [`Output`]s. The session performs no lengthy work itself: it
//! requests it by an output. The shard (the driver) carries the outputs out in order and hands in the answers as
//! inputs.
//!
//! Invariants:
//! - [`Output::Close`] is the last output and comes exactly once, whatever is handed in afterwards.
//! - Every command with a usable id gets exactly one `response` while the connection lives. Every other request with a
//!   usable id gets exactly one answer, unless its client leaves the namespace.
//! - Messages take effect in the order of their arrival. Some need an answer before the next message can be handled:
//!   the verification of a token, credit for a publish, or a subscribe request with too many changes waiting behind it.
//!   Then [`Session::wants_input`] is `false`, and the driver hands in no [`Input::Frame`] until it is `true` again.
//!   All other inputs are accepted at any time.
//! - The memory that a client can make the session hold is bounded: see [`COMMANDS_IN_FLIGHT_MAX`] and
//!   [`DEFERRED_MAX`].
//!
//! After each `handle` the driver reads [`Session::next_deadline_ms`]. It hands in [`Input::Timer`] when that time has
//! passed; an earlier [`Input::Timer`] does no harm.
//!
//! `state` has the struct, `dispatch` takes the inputs; `authentication`, `subscriptions`, `requests`, `engine_io` and
//! `heartbeat` handle one subject each.

mod activity;
mod authentication;
mod challenge;
mod dispatch;
mod engine_io;
mod heartbeat;
pub mod limits;
mod outputs;
mod parts;
mod rate_limit;
mod rates;
mod refused_value;
mod requests;
mod returning;
mod state;
mod subscriptions;
#[cfg(test)]
mod tests;
pub mod transport;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::auth::{Identity, TokenError};
use crate::event::{NewEvent, Refusal};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Classes, Pattern, Tenant};
use tickgate_protocol::dialect::engine_io::{Revision, SECRET_BYTES};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::event::Epoch;
use tickgate_protocol::json::BookError;
use tickgate_protocol::message::{
    Beyond, CommandKey, Cursor, ErrorCode, HistoryRange, Position, RequestId, RequestRef, Resume, SubscribeOutcome,
};
use tickgate_protocol::rate::Rate;
use tickgate_protocol::trace_context::TraceParent;
use tickgate_protocol::wire;

pub use refused_value::RefusedValue;
pub use returning::Suspended;
pub use state::Session;

/// Commands that one connection may have in flight. One more is refused with `RATE_LIMITED`.
pub const COMMANDS_IN_FLIGHT_MAX: usize = 256;

/// Subscription changes that may wait for a subscribe request under way. With this many, the session takes no frames.
pub const DEFERRED_MAX: usize = 8;

/// Ping and pong frames that one connection may send per second; the burst is the same number. More end the connection.
pub const CONTROL_FRAMES_PER_SECOND: u32 = 100;

/// An event that the driver reports to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection was adopted. This is the first input and comes once.
    Opened,
    /// A whole message or control frame arrived.
    Frame(wire::Message<'a>),
    /// The client violated the framing of WebSocket, or the rules of long polling. No more frames follow.
    Malformed(wire::Error),
    /// The peer closed its side without a Close frame, or the socket failed.
    Lost,
    /// Answer to [`Output::Verify`].
    Verified {
        /// The request's number.
        request: u32,
        /// The client's identity, or why the token was refused.
        outcome: Result<Arc<Identity>, TokenError>,
    },
    /// Answer to [`Output::Subscribe`]: events of these patterns are delivered from now on.
    Subscribed {
        /// The request's number.
        request: u32,
        /// The requested patterns in the same order, as instances shared by the shard's connections.
        patterns: Vec<Pattern>,
        /// The client's positions in the histories of the channels, and which channels were recovered.
        outcome: SubscribeOutcome,
    },
    /// Answer to [`Output::Subscribe`], unless that is automatic: there is no memory for it now.
    Overloaded {
        /// The request's number.
        request: u32,
        /// When the client may try again, in milliseconds from now.
        retry_after_ms: u32,
    },
    /// The third answer to [`Output::Subscribe`]: the gateway has no connection to the other gateways.
    SubscribeRefused {
        /// The request's number.
        request: u32,
    },
    /// Answer to [`Output::TakeBack`].
    TakenBack {
        /// The request's number.
        request: u32,
        /// What was suspended, with the epoch of the hub's store then; `None`: nothing is there for this client.
        suspended: Option<(Suspended, Epoch)>,
    },
    /// Answer to [`Output::Publish`].
    Published {
        /// The request's number.
        request: u32,
        /// The event's position in the channel's history; `None`: the channel keeps no history.
        position: Option<Position>,
    },
    /// The other answer to [`Output::Publish`]: the event is refused, because its publisher is too fast.
    PublishLimited {
        /// The request's number.
        request: u32,
    },
    /// The other answer to [`Output::Publish`]: the channel has an order book, and the event is no update of one.
    PublishMalformed {
        /// The request's number.
        request: u32,
        /// What is wrong with it.
        error: BookError,
    },
    /// The third answer to [`Output::Publish`]: the event is not published, or may not be.
    PublishRefused {
        /// The request's number.
        request: u32,
        /// Why.
        refusal: Refusal,
    },
    /// Answer to [`Output::History`].
    History {
        /// From the request.
        request_ref: RequestRef,
        /// The requested part of the history.
        page: HistoryPage,
    },
    /// The other answer to [`Output::History`]: the client has asked for more than its share.
    HistoryLimited {
        /// From the request.
        request_ref: RequestRef,
        /// When the client may try again, in milliseconds from now.
        retry_after_ms: u32,
    },
    /// Answer to [`Output::Command`] or [`Output::CommandStatus`].
    Responded {
        /// The request's number.
        request: u32,
        /// The backend's answer, or why there is none.
        outcome: CommandOutcome,
    },
    /// The time of [`Session::next_deadline_ms`] has passed.
    Timer,
    /// Ask the client for a sign of life. Answered by [`Output::Challenged`].
    Challenge,
    /// End the session: the outbox has too many replies, an operator disconnects the client, the token was revoked, ...
    End(Disconnect),
    /// The gateway drains: tell the client when its connection will be closed. The close itself comes as
    /// [`Input::End`].
    GoingAway {
        /// Milliseconds until the close.
        close_in_ms: u64,
        /// Milliseconds that the client should wait after the close before it reconnects; random per client.
        reconnect_after_ms: u64,
    },
}

/// A page of a channel's history.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// The epoch of the hub's store.
    pub epoch: Epoch,
    /// The events, oldest first. Each is a JSON object in the form in which the dialect sends events.
    pub events: Vec<Bytes>,
    /// Whether no event is missing between the requested position and the first of `events`.
    pub complete: bool,
    /// The offset of the last event, after which the next page begins; `None`: the channel keeps no history.
    pub offset: Option<u64>,
    /// Whether there are more events after this page.
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
    /// The gateway refused the command or got no answer: `UNKNOWN_ACTION`, `BACKEND_UNAVAILABLE`, `TIMEOUT`, ...
    Refused {
        /// The error code.
        code: ErrorCode,
        /// The text for the client.
        message: Box<str>,
    },
}

/// A request of a session to its shard. The shard carries them out in order.
#[derive(Debug)]
pub enum Output {
    /// Queue a finished frame as a reply or control message, which is never dropped. Its bytes are in
    /// [`Outputs::bytes`].
    Reply {
        /// The index of its first byte in [`Outputs::bytes`].
        start: usize,
        /// The index after its last byte.
        end: usize,
    },
    /// Verify a token; answered by [`Input::Verified`].
    Verify {
        /// Number of the request.
        request: u32,
        /// The JWT.
        token: Token,
    },
    /// Subscribe to patterns, none of which is held yet; answered by [`Input::Subscribed`].
    Subscribe {
        /// Number of the request.
        request: u32,
        /// Distinct patterns that the client may have, within its limit.
        patterns: Vec<Pattern>,
        /// What the client has from an earlier connection. These patterns cover each channel that it names; the patterns
        /// held before cover none.
        resume: Option<Resume>,
        /// The rate that is granted; `None`: no limit.
        max_rate: Option<Rate>,
        /// Whether they are the endpoint's automatic subscriptions, for which no client waits.
        is_automatic: bool,
    },
    /// Take back what was suspended under this name, for a client of the endpoint's tenant; answered by
    /// [`Input::TakenBack`].
    TakeBack {
        /// Number of the request.
        request: u32,
        /// The name.
        pid: Box<str>,
        /// The client's user.
        user: Option<Box<str>>,
    },
    /// Keep what the session had, until its client takes it back. [`Output::Close`] follows.
    Suspend {
        /// The name, which only the client knows.
        pid: Box<str>,
        /// What the session had.
        suspended: Suspended,
    },
    /// Give patterns another rate.
    SetRate {
        /// Patterns that are held.
        patterns: Vec<Pattern>,
        /// The rate; `None`: no limit.
        max_rate: Option<Rate>,
    },
    /// Send the client at most so many bytes in a second.
    LimitBytes {
        /// The bytes; 0: no limit.
        per_second: u32,
    },
    /// Note that the client may not have these automatic subscriptions. They were left out.
    Skipped {
        /// The patterns left out.
        patterns: Vec<Pattern>,
    },
    /// Unsubscribe from patterns. No event that only they match is delivered after this.
    Unsubscribe {
        /// Patterns that were held.
        patterns: Vec<Pattern>,
    },
    /// Publish an event; answered by [`Input::Published`] or
    /// [`Input::PublishLimited`]. Until the shard has the credit to do so, it reads nothing
    /// more from this connection.
    Publish {
        /// Number of the request.
        request: u32,
        /// The event.
        event: NewEvent,
    },
    /// Read a part of a channel's history; answered by [`Input::History`] or [`Input::HistoryLimited`] at once.
    History {
        /// To be handed back with the answer.
        request_ref: RequestRef,
        /// A channel that the client may subscribe to.
        channel: Channel,
        /// Which part of the history.
        range: HistoryRange,
    },
    /// Route a command to its backend; always answered by exactly one [`Input::Responded`].
    Command {
        /// Number of the request.
        request: u32,
        /// The command.
        command: Command,
    },
    /// Tell how the command with a key ended; always answered by exactly one [`Input::Responded`].
    CommandStatus {
        /// Number of the request.
        request: u32,
        /// The client's identity, which has a user.
        identity: Arc<Identity>,
        /// The key.
        key: CommandKey,
    },
    /// Record in the audit trail that a command was refused for lack of permission. The client already has its answer.
    Forbidden {
        /// The refused command.
        command: Command,
    },
    /// The outcome of [`Input::Challenge`].
    Challenged {
        /// Whether the client gave a sign of life in time.
        has_answered: bool,
    },
    /// The session has ended: write what is queued, shut the socket down, and discard input for a bounded time. If a
    /// Close frame is due, it is already among the replies. This is the last output and comes once.
    Close(Disconnect),
}

/// A token. Its `Debug` output hides the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub Box<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// How a client opened an Engine.IO session. The `Debug` output leaves out the secret and the token.
#[derive(Clone)]
pub struct Opening {
    /// The revision of Engine.IO that the client speaks.
    pub revision: Revision,
    /// Whether a poll opened it; `false`: a WebSocket did.
    pub by_poll: bool,
    /// The random part of the session's id.
    pub secret: [u8; SECRET_BYTES],
    /// The token of the opening request. It is verified when the client connects, and only if CONNECT has no token.
    pub token: Option<Box<str>>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revision, by_poll, .. } = self;
        f.debug_struct("Opening")
            .field("revision", revision)
            .field("by_poll", by_poll)
            .finish_non_exhaustive()
    }
}

/// A command on its way to a backend.
#[derive(Clone, Debug)]
pub struct Command {
    /// The client's `id`.
    pub id: RequestId,
    /// The action.
    pub action: Channel,
    /// One JSON value, byte for byte as the client sent it.
    pub params: Bytes,
    /// The idempotency key. The identity has a user then.
    pub key: Option<CommandKey>,
    /// The trace that the client says it belongs to.
    pub trace: Option<TraceParent>,
    /// The client's identity.
    pub identity: Arc<Identity>,
}

/// The outputs of one or more inputs. A shard has one instance and reuses it.
#[derive(Debug, Default)]
pub struct Outputs {
    /// The outputs, in order.
    pub list: Vec<Output>,
    /// The bytes of all [`Output::Reply`]s. Bytes outside their ranges belong to none of them.
    pub bytes: Vec<u8>,
    /// How many messages were refused because they came too fast.
    pub refused_messages: u64,
    /// By which rule or limit requests were refused, for a trace; `None` for a connection that nobody follows.
    pub refusals: Option<Vec<String>>,
    /// How many clients got their sessions back.
    pub sessions_recovered: u64,
    /// How many clients came back and did not.
    pub sessions_unrecovered: u64,
}

/// What a session may read while it handles an input.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time, on both clocks.
    pub now: Now,
    /// When the shard last went on after a pause in which it read nothing, in monotonic milliseconds; 0: never. Until then
    /// nobody could be heard, so a client's time begins then at the earliest.
    pub resumed_ms: u64,
    /// The endpoint's settings.
    pub settings: &'a Settings,
    /// Messages delivered to this client so far, for `get_status`.
    pub delivered: u64,
    /// Events dropped for this client so far, for `get_status`.
    pub dropped: u64,
    /// Up to when the client had everything if it reads everything that is queued; `None`: that is unknown now. Its holder
    /// is not set.
    pub cursor: Option<Cursor>,
    /// What the client had beyond the cursor.
    pub beyond: Beyond<'a>,
}

/// The settings that all sessions of one endpoint share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The endpoint's dialect.
    pub dialect: tickgate_protocol::dialect::Dialect,
    /// The limits, with the endpoint's overrides applied.
    pub limits: crate::session::limits::Limits,
    /// `[auth] mode`; `Optional` for an endpoint with `anonymous = true`.
    pub auth_mode: crate::auth::Mode,
    /// The identity of a client without a token, where the mode is optional or off.
    pub anonymous: Arc<Identity>,
    /// Distinct patterns to which each client is subscribed as soon as it has an identity, as far as it may have them.
    /// They never count against the limit, not even if the client unsubscribes from one and subscribes to it again.
    pub auto_subscribe: Box<[Pattern]>,
    /// The classes of channels, which say where a rate has an effect.
    pub classes: Arc<Classes>,
    /// Channels to which no client may subscribe, because their source cannot serve them.
    pub refused_values: Arc<[RefusedValue]>,
    /// The endpoint's tenant. Every name that a client sends is one of this tenant.
    pub tenant: Tenant,
    /// The tenant's name, for log lines and cursors; `None` for the default one.
    pub tenant_name: Option<Box<str>>,
    /// How long a client may take to authenticate in-band, in milliseconds.
    pub auth_timeout_ms: u64,
    /// How long before its token expires a client is warned, in milliseconds.
    pub expiry_warning_ms: u64,
    /// Milliseconds between two pings of the server; in Engine.IO revision 3, of the client.
    pub heartbeat_interval_ms: u64,
    /// A connection without any frame or packet for this many milliseconds is closed. For Engine.IO this is the sum of
    /// the ping interval and the ping timeout.
    pub heartbeat_timeout_ms: u64,
}
