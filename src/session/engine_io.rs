//! The Engine.IO session and the Socket.IO connection in it: packets, CONNECT, DISCONNECT, and the endings.
//!
//! Invariants: the first message is CONNECT, within the authentication time; only CONNECT and other namespaces are
//! answered before the client is connected; as many binary messages as a packet announces are swallowed, and no others
//! are let in.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::machine::Session;
use super::transport::Transport;
use super::{Context, Output, Outputs};
use crate::auth::{Identity, Mode, TokenError};
use crate::time::Now;
use tickgate_protocol::dialect::engine_io::{
    Handshake, Packet, Revision, SECRET_BYTES, Sid, encode_open, encode_packet,
};
use tickgate_protocol::dialect::socket_io::{self, Kind, Unreadable};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::{ErrorCode, Malformed, Reply, RequestRef};
use tickgate_protocol::wire::encode;

/// How a client opened an Engine.IO session. Shown without what only its client may know.
#[derive(Clone)]
pub struct Opening {
    /// What it speaks.
    pub revision: Revision,
    /// By a poll; else by a WebSocket.
    pub by_poll: bool,
    /// The random part of the session's name.
    pub secret: [u8; SECRET_BYTES],
    /// The token that the opening request brought. It is looked at when the client connects, and only if CONNECT
    /// brings none.
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

/// What a session has beside the others when it is one of Engine.IO. Shown like [`Opening`].
pub(super) struct EngineIo {
    revision: Revision,
    secret: [u8; SECRET_BYTES],
    pub(super) transport: Transport,
    token: Option<Box<str>>,
    /// CONNECT was accepted.
    is_connected: bool,
    // Binary messages to come that belong to a packet.
    attachments: u32,
}

impl fmt::Debug for EngineIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineIo")
            .field("revision", &self.revision)
            .field("transport", &self.transport)
            .field("is_connected", &self.is_connected)
            .field("attachments", &self.attachments)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// As [`Session::new`], for an Engine.IO session.
    #[must_use]
    pub fn engine_io(nonce: u64, opening: Opening, now: Now, settings: &super::Settings) -> Self {
        let mut session = Self::bare(nonce, now, settings);
        session.next_ping_ms = match opening.revision {
            // Its clients ping.
            Revision::Three => u64::MAX,
            // At random like everybody's, but not at once: a session begins with other things.
            Revision::Four => {
                let half_ms = settings.heartbeat_interval_ms / 2;
                now.mono_ms + half_ms + 1 + nonce % half_ms.max(1)
            }
        };
        session.extra().auth_deadline_ms = Some(now.mono_ms + settings.auth_timeout_ms);
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
        }));
        session
    }

    /// Which revision of Engine.IO it speaks; `None`: another dialect.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.engine_io.as_ref().map(|engine_io| engine_io.revision)
    }

    /// What carries it, when it is an Engine.IO session.
    #[must_use]
    pub fn transport(&self) -> Option<&Transport> {
        self.engine_io.as_ref().map(|engine_io| &engine_io.transport)
    }

    /// The same, to be told what happens to it.
    pub fn transport_mut(&mut self) -> Option<&mut Transport> {
        self.engine_io.as_mut().map(|engine_io| &mut engine_io.transport)
    }

    /// Whether a request that names this session knows its secret.
    #[must_use]
    pub fn is_named_by(&self, secret: &[u8; SECRET_BYTES]) -> bool {
        let engine_io = self.engine_io.as_ref();
        engine_io.is_some_and(|engine_io| crate::auth::same_secret(secret, &engine_io.secret))
    }

    /// Opens the session; a client of revision 3 is connected unasked.
    pub(super) fn open_engine_io(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let Some(engine_io) = &self.engine_io else { return };
        let settings = context.settings;
        let handshake = Handshake {
            sid: &Sid {
                place: self.nonce,
                secret: engine_io.secret,
            },
            may_upgrade: engine_io.transport.is_polling(),
            ping_interval_ms: settings.heartbeat_interval_ms,
            ping_timeout_ms: settings
                .heartbeat_timeout_ms
                .saturating_sub(settings.heartbeat_interval_ms),
            payload_bytes_max: settings.limits.message_bytes,
        };
        out.range(|bytes| encode_open(&handshake, bytes));
        if engine_io.revision == Revision::Three {
            self.connect(None, context, out);
        }
    }

    /// A text packet.
    pub(super) fn packet(&mut self, text: &str, context: &Context<'_>, scratch: &mut Scratch, out: &mut Outputs) {
        let Some(engine_io) = &self.engine_io else { return };
        match (Packet::parse(text), engine_io.revision) {
            (Some(Packet::Message(data)), _) => self.message_packet(text, data, context, scratch, out),
            (Some(Packet::Close), _) => {
                if engine_io.transport.is_polling() {
                    // A GET that waits is answered; the client wants to hear nothing more.
                    out.frame(|bytes| encode_packet(bytes, Packet::Noop));
                } else {
                    out.frame(|bytes| encode::close(bytes, Disconnect::Normal));
                }
                self.close(Disconnect::Normal, out);
            }
            (Some(Packet::Ping(data)), Revision::Three) => {
                if self.control_frame(context, out) {
                    out.frame(|bytes| encode_packet(bytes, Packet::Pong(data)));
                }
            }
            (Some(Packet::Pong(_)), Revision::Four) => {
                self.note_pong(context.now);
                self.control_frame(context, out);
            }
            (Some(Packet::Upgrade | Packet::Noop), _) => {
                self.control_frame(context, out);
            }
            // Among them heartbeats in the wrong direction.
            (Some(Packet::Open(_) | Packet::Ping(_) | Packet::Pong(_)) | None, _) => {
                self.end(Disconnect::Protocol, out);
            }
        }
    }

    fn message_packet(
        &mut self,
        text: &str,
        data: &str,
        context: &Context<'_>,
        scratch: &mut Scratch,
        out: &mut Outputs,
    ) {
        let Some(engine_io) = &mut self.engine_io else { return };
        let packet = socket_io::Packet::parse(data).filter(|_| engine_io.attachments == 0);
        let Some(packet) = packet else {
            return self.end(Disconnect::Protocol, out);
        };
        // Also when the packet itself is refused: what follows it belongs to it.
        engine_io.attachments = packet.attachments;
        let is_expected = packet.kind == Kind::Connect || (engine_io.is_connected && packet.is_main());
        if !is_expected {
            return self.end(Disconnect::Protocol, out);
        }
        let rate = context.settings.limits.messages_per_second;
        if let Err(wait_ms) = self.messages.take(rate, context.now.mono_ms) {
            return self.refuse_unread(text, wait_ms, context, scratch, out);
        }
        match packet.kind {
            Kind::Connect => self.connect_packet(&packet, context, scratch, out),
            Kind::Disconnect => self.leave_namespace(context, out),
            Kind::Event => {
                let user = self.identity.as_ref().and_then(|identity| identity.user.as_deref());
                match socket_io::parse_event(&packet, user, scratch) {
                    Ok(message) => self.message(message, context, out),
                    Err(Unreadable::Malformed(malformed)) => self.malformed(&malformed, context, out),
                    Err(Unreadable::Broken) => self.end(Disconnect::Protocol, out),
                }
            }
            Kind::BinaryEvent => {
                let refusal = socket_io::refuse_binary(&packet);
                self.malformed(&refusal, context, out);
            }
            // The gateway asks for no acknowledgement, so there is none that anybody waits for.
            Kind::Acknowledgement if packet.acknowledgement.is_some() => {}
            Kind::BinaryAcknowledgement => {}
            Kind::Acknowledgement | Kind::Error => self.end(Disconnect::Protocol, out),
        }
    }

    /// A binary message: an attachment of a packet that was refused, or what may not be.
    pub(super) fn attachment(&mut self, context: &Context<'_>, out: &mut Outputs) {
        match &mut self.engine_io {
            Some(engine_io) if engine_io.attachments > 0 => engine_io.attachments -= 1,
            _ => return self.end(Disconnect::Unsupported, out),
        }
        let rate = context.settings.limits.messages_per_second;
        if self.messages.take(rate, context.now.mono_ms).is_err() {
            self.refuse(context, out);
        }
    }

    fn connect_packet(
        &mut self,
        packet: &socket_io::Packet<'_>,
        context: &Context<'_>,
        scratch: &mut Scratch,
        out: &mut Outputs,
    ) {
        let Some(engine_io) = &self.engine_io else { return };
        if !packet.is_main() {
            let revision = engine_io.revision;
            return out.range(|bytes| socket_io::encode_invalid_namespace(revision, packet.namespace, bytes));
        }
        if engine_io.revision == Revision::Three {
            // Connected unasked; some of its clients say so once more.
            return;
        }
        if engine_io.is_connected {
            return self.end(Disconnect::Protocol, out);
        }
        match socket_io::connect_token(packet, scratch) {
            Ok(token) => self.connect(token, context, out),
            Err(Unreadable::Malformed(Malformed { code, message, .. })) => self.refuse_connect(code, &message, out),
            Err(Unreadable::Broken) => self.end(Disconnect::Protocol, out),
        }
    }

    // The token of CONNECT comes before that of the opening request.
    fn connect(&mut self, token: Option<Cow<'_, str>>, context: &Context<'_>, out: &mut Outputs) {
        let Some(engine_io) = &self.engine_io else { return };
        let token: Option<Box<str>> = match token {
            Some(token) => Some(token.into_owned().into()),
            None => engine_io.token.clone(),
        };
        match (context.settings.auth_mode, token) {
            (Mode::Off, _) | (Mode::Optional, None) => self.connected(context.settings.anonymous.clone(), context, out),
            (Mode::Required, None) => {
                let message = "a token is needed: in `auth`, as Authorization: Bearer, or as ?token=";
                self.refuse_connect(ErrorCode::Unauthenticated, message, out);
            }
            (Mode::Required | Mode::Optional, Some(token)) => self.verify(RequestRef::default(), token, out),
        }
    }

    /// Whether a verification is CONNECT's.
    pub(super) fn is_connecting(&self) -> bool {
        self.engine_io.as_ref().is_some_and(|engine_io| !engine_io.is_connected)
    }

    /// CONNECT's token was verified.
    pub(super) fn connect_verified(
        &mut self,
        outcome: Result<Arc<Identity>, TokenError>,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        match outcome {
            Ok(identity) => self.connected(identity, context, out),
            Err(TokenError { code, message }) => self.refuse_connect(code, &message, out),
        }
    }

    fn connected(&mut self, identity: Arc<Identity>, context: &Context<'_>, out: &mut Outputs) {
        let client_id = self.client_id();
        let Some(engine_io) = &mut self.engine_io else { return };
        engine_io.is_connected = true;
        let revision = engine_io.revision;
        out.range(|bytes| socket_io::encode_connect(revision, &client_id, bytes));
        let connected = Reply::Connected {
            client_id: &client_id,
            user: identity.user.as_deref(),
        };
        out.reply(&connected, context);
        self.identity = Some(identity);
        self.extra().auth_deadline_ms = None;
        self.expiry_warned = false;
        self.warn_of_expiry(context, out);
        self.subscribe_automatically(context, out);
    }

    // The client may try again until the authentication time is over.
    fn refuse_connect(&mut self, code: ErrorCode, message: &str, out: &mut Outputs) {
        let Some(engine_io) = &self.engine_io else { return };
        let revision = engine_io.revision;
        out.range(|bytes| socket_io::encode_connect_error(revision, code, message, bytes));
    }

    // DISCONNECT: nothing is left of the connection but what its client has used up of its limits, and the session waits
    // for another CONNECT as a new one does.
    fn leave_namespace(&mut self, context: &Context<'_>, out: &mut Outputs) {
        if self.extra().join.is_some() {
            // Whose answer would come to somebody else.
            return self.end(Disconnect::Normal, out);
        }
        if let Some(engine_io) = &mut self.engine_io {
            engine_io.is_connected = false;
        }
        self.identity = None;
        let before = self.extra.take().map(|extra| *extra).unwrap_or_default();
        let extra = self.extra();
        extra.command_meter = before.command_meter;
        extra.refusals = before.refusals;
        extra.left = before.left;
        extra.left.extend(before.commands);
        extra.auth_deadline_ms = Some(context.now.mono_ms + context.settings.auth_timeout_ms);
        let patterns = std::mem::take(&mut self.patterns);
        if !patterns.is_empty() {
            out.list.push(Output::Leave { patterns });
        }
    }

    /// What an Engine.IO client is told when the session ends from this side: the ending as an `error`, a DISCONNECT
    /// where it shall not come back by itself, and the end of the transport. `false`: it is no such session.
    pub(super) fn say_end(&self, ending: Disconnect, out: &mut Outputs) -> bool {
        let Some(engine_io) = &self.engine_io else { return false };
        if ending == Disconnect::Lost {
            return true;
        }
        if engine_io.is_connected {
            out.range(|bytes| socket_io::encode_ending(ending, bytes));
            if matches!(ending, Disconnect::ByOperator | Disconnect::RateLimitAbuse) {
                out.range(socket_io::encode_disconnect);
            }
        }
        if engine_io.transport.is_polling() {
            out.frame(|bytes| encode_packet(bytes, Packet::Close));
        } else {
            out.frame(|bytes| encode::close(bytes, ending));
        }
        true
    }

    /// The server's heartbeat, in revision 4. `false`: it is no Engine.IO session.
    pub(super) fn ping_engine_io(&self, out: &mut Outputs) -> bool {
        if self.engine_io.is_some() {
            out.frame(|bytes| encode_packet(bytes, Packet::Ping("")));
        }
        self.engine_io.is_some()
    }
}
