//! The Engine.IO session and its Socket.IO connection: packets, CONNECT, DISCONNECT, and endings.
//!
//! Invariants: the client connects within the authentication time; before that, only CONNECT packets and packets to
//! other namespaces are answered; exactly as many binary messages are accepted (and discarded) as a packet announces.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use super::returning::Return;
use super::transport::ends_with_close_packet;
use super::{Context, Output, Outputs, Session};
use crate::auth::{Identity, Mode, TokenError};
use tickgate_protocol::dialect::engine_io::{Handshake, Packet, Revision, Sid, encode_open, encode_packet};
use tickgate_protocol::dialect::socket_io::{self, EventError, Kind};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::{ErrorCode, Malformed, Reply, RequestRef};
use tickgate_protocol::wire::encode;

impl Session {
    /// Sends the Engine.IO handshake. A client of revision 3 is connected without sending CONNECT.
    pub(super) fn open_engine_io(&mut self, context: &Context<'_>, out: &mut Outputs) {
        let Some(engine_io) = &self.engine_io else { return };
        let settings = context.settings;
        let handshake = Handshake {
            sid: &Sid {
                connection: self.nonce,
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

    /// Handles a text packet of Engine.IO.
    pub(super) fn on_packet(&mut self, text: &str, context: &Context<'_>, scratch: &mut Scratch, out: &mut Outputs) {
        let Some(engine_io) = &self.engine_io else { return };
        match (Packet::parse(text), engine_io.revision) {
            (Some(Packet::Message(data)), _) => self.on_message_packet(text, data, context, scratch, out),
            (Some(Packet::Close), _) => {
                if engine_io.transport.is_polling() {
                    // Answers a waiting GET; the client expects nothing more.
                    out.frame(|bytes| encode_packet(bytes, Packet::Noop));
                } else {
                    out.frame(|bytes| encode::close(bytes, Disconnect::Normal));
                }
                self.close(Disconnect::Normal, out);
            }
            (Some(Packet::Ping(data)), Revision::Three) => {
                if self.count_control_frame(context, out) {
                    out.frame(|bytes| encode_packet(bytes, Packet::Pong(data)));
                }
            }
            (Some(Packet::Pong(_)), Revision::Four) => {
                self.note_pong(context.now);
                self.count_control_frame(context, out);
            }
            (Some(Packet::Upgrade | Packet::Noop), _) => {
                self.count_control_frame(context, out);
            }
            (Some(Packet::Ping(_)), Revision::Four) => self.breaks("ping packet: the server sends the pings", out),
            (Some(Packet::Pong(_)), Revision::Three) => self.breaks("pong packet: the client sends the pings", out),
            (Some(Packet::Open(_)), _) => self.breaks("open packet from a client", out),
            (None, _) => self.breaks("not an Engine.IO packet", out),
        }
    }

    fn on_message_packet(
        &mut self,
        text: &str,
        data: &str,
        context: &Context<'_>,
        scratch: &mut Scratch,
        out: &mut Outputs,
    ) {
        let Some(engine_io) = &mut self.engine_io else { return };
        if engine_io.attachments > 0 {
            return self.breaks("text message in place of an attachment", out);
        }
        let Some(packet) = socket_io::Packet::parse(data) else {
            return self.breaks("not a Socket.IO packet", out);
        };
        // Set even if the packet is refused below: the attachments follow it all the same.
        engine_io.attachments = packet.attachments;
        if packet.kind != Kind::Connect && !engine_io.is_connected {
            return self.breaks("packet before CONNECT", out);
        }
        if packet.kind != Kind::Connect && !packet.is_main() {
            return self.breaks("packet to a namespace that is not connected", out);
        }
        let rate = context.settings.limits.messages_per_second;
        if let Err(wait_ms) = self.messages.take(rate, context.now.mono_ms) {
            let revision = engine_io.revision;
            self.refuse_text(text, wait_ms, context, scratch, out);
            if packet.kind == Kind::Connect && !packet.is_main() && !self.closed {
                // A client waits for this answer without a time limit.
                out.range(|bytes| socket_io::encode_invalid_namespace(revision, packet.namespace, bytes));
            }
            return;
        }
        match packet.kind {
            Kind::Connect => self.on_connect_packet(&packet, context, scratch, out),
            Kind::Disconnect => self.leave_namespace(context, out),
            Kind::Event => {
                let user = self.identity.as_ref().and_then(|identity| identity.user.as_deref());
                match socket_io::parse_event(&packet, user, scratch) {
                    Ok(message) => self.on_message(message, context, out),
                    Err(EventError::Malformed(malformed)) => self.on_malformed(&malformed, context, out),
                    Err(EventError::Protocol(rule)) => self.breaks(rule, out),
                }
            }
            Kind::BinaryEvent => {
                let refusal = socket_io::refuse_binary(&packet);
                self.on_malformed(&refusal, context, out);
            }
            // The gateway never requests an acknowledgement, so it ignores those that clients send.
            Kind::Acknowledgement if packet.acknowledgement.is_some() => {}
            Kind::BinaryAcknowledgement => {}
            Kind::Acknowledgement => self.breaks("acknowledgement without an id", out),
            Kind::Error => self.breaks("error packet from a client", out),
        }
    }

    /// Handles a binary message. It is either an attachment of a refused packet or a violation of the protocol.
    pub(super) fn on_attachment(&mut self, context: &Context<'_>, out: &mut Outputs) {
        match &mut self.engine_io {
            Some(engine_io) if engine_io.attachments > 0 => engine_io.attachments -= 1,
            _ => return self.end(Disconnect::Unsupported, out),
        }
        let rate = context.settings.limits.messages_per_second;
        if self.messages.take(rate, context.now.mono_ms).is_err() {
            self.refuse_message(context, out);
        }
    }

    fn on_connect_packet(
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
            // The client was connected when the session opened; some clients send CONNECT nevertheless.
            return;
        }
        if engine_io.is_connected {
            return self.breaks("CONNECT while connected", out);
        }
        let back = engine_io
            .window_ms
            .and_then(|_| socket_io::connect_return(packet, scratch));
        let back = back.map(|(pid, offset)| Box::new(Return { pid, offset }));
        if let Some(engine_io) = &mut self.engine_io {
            engine_io.back = back;
        }
        match socket_io::connect_token(packet, scratch) {
            Ok(token) => self.connect(token, context, out),
            Err(EventError::Malformed(Malformed { code, message, .. })) => self.refuse_connect(code, &message, out),
            Err(EventError::Protocol(rule)) => self.breaks(rule, out),
        }
    }

    // The token of CONNECT takes precedence over that of the opening request.
    fn connect(&mut self, token: Option<Cow<'_, str>>, context: &Context<'_>, out: &mut Outputs) {
        let Some(engine_io) = &self.engine_io else { return };
        let token: Option<Box<str>> = match token {
            Some(token) => Some(token.into_owned().into()),
            None => engine_io.token.clone(),
        };
        match (context.settings.auth_mode, token) {
            (Mode::Off, _) | (Mode::Optional, None) => {
                self.accept_connect(context.settings.anonymous.clone(), context, out)
            }
            (Mode::Required, None) => {
                let message = "a token is needed: in `auth`, as Authorization: Bearer, or as ?token=";
                self.refuse_connect(ErrorCode::Unauthenticated, message, out);
            }
            (Mode::Required | Mode::Optional, Some(token)) => self.verify(RequestRef::default(), token, out),
        }
    }

    /// Whether the client has yet to connect, so that a verified token is CONNECT's.
    pub(super) fn is_connecting(&self) -> bool {
        self.engine_io.as_ref().is_some_and(|engine_io| !engine_io.is_connected)
    }

    /// Handles the result of verifying CONNECT's token.
    pub(super) fn on_connect_verified(
        &mut self,
        outcome: Result<Arc<Identity>, TokenError>,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        match outcome {
            Ok(identity) => self.accept_connect(identity, context, out),
            Err(TokenError { code, message }) => match passing_reason(code) {
                Some(reason) => self.postpone_connect(code, reason, out),
                None => self.refuse_connect(code, &message, out),
            },
        }
    }

    // Ends the session because of a refusal that will pass. Official clients come back when their transport is closed; after
    // CONNECT_ERROR those of revision 4 stay away. Clients of revision 3 are told and come back nevertheless.
    fn postpone_connect(&mut self, code: ErrorCode, reason: &'static str, out: &mut Outputs) {
        if self
            .engine_io
            .as_ref()
            .is_some_and(|engine_io| engine_io.revision == Revision::Three)
        {
            self.refuse_connect(code, reason, out);
        }
        self.end_because(Disconnect::Overload, reason, out);
    }

    /// Answers CONNECT. `pid`: the client has its session back.
    pub(super) fn connected(
        &mut self,
        identity: Arc<Identity>,
        pid: Option<Box<str>>,
        context: &Context<'_>,
        out: &mut Outputs,
    ) {
        let client_id = self.client_id();
        let is_returned = pid.is_some();
        // A client that leaves the namespace and connects again gets another one.
        let number = self.next_request();
        let Some(engine_io) = &mut self.engine_io else { return };
        engine_io.is_connected = true;
        engine_io.pid = match (engine_io.window_ms, pid) {
            (None, _) => None,
            (Some(_), Some(pid)) => Some(pid),
            (Some(_), None) => Some(new_pid(&engine_io.secret, number)),
        };
        let (revision, pid) = (engine_io.revision, engine_io.pid.as_deref());
        out.range(|bytes| socket_io::encode_connect(revision, &client_id, pid, bytes));
        let connected = Reply::Connected {
            client_id: &client_id,
            user: identity.user.as_deref(),
        };
        out.reply(&connected, context);
        let bytes_before = self.bytes_per_second(context.settings);
        self.identity = Some(identity);
        self.limit_bytes(bytes_before, context.settings, out);
        self.activity().auth_deadline_ms = None;
        self.expiry_warned = false;
        self.warn_of_expiry(context, out);
        if !is_returned {
            self.subscribe_automatically(context, out);
        }
    }

    // The session stays open: the client may send CONNECT again until the authentication time is over.
    fn refuse_connect(&mut self, code: ErrorCode, message: &str, out: &mut Outputs) {
        let Some(engine_io) = &self.engine_io else { return };
        let revision = engine_io.revision;
        out.range(|bytes| socket_io::encode_connect_error(revision, code, message, bytes));
    }

    // Handles DISCONNECT. Only the used parts of the client's limits are kept, and the session waits for CONNECT as a
    // new session does.
    fn leave_namespace(&mut self, context: &Context<'_>, out: &mut Outputs) {
        // What it has now is not taken back.
        if let Some(engine_io) = &mut self.engine_io {
            engine_io.pid = None;
        }
        if self.activity().subscribe.is_some() {
            // Its answer would reach the next connection of this client.
            return self.end(Disconnect::Normal, out);
        }
        if let Some(engine_io) = &mut self.engine_io {
            engine_io.is_connected = false;
        }
        let bytes_before = self.bytes_per_second(context.settings);
        self.identity = None;
        self.limit_bytes(bytes_before, context.settings, out);
        let before = self.activity.take().map(|activity| *activity).unwrap_or_default();
        let activity = self.activity();
        activity.command_meter = before.command_meter;
        activity.refusals = before.refusals;
        activity.orphaned_commands = before.orphaned_commands;
        activity.orphaned_commands.extend(before.commands);
        activity.auth_deadline_ms = Some(context.now.mono_ms + context.settings.auth_timeout_ms);
        let patterns = std::mem::take(&mut self.patterns);
        self.wishes.clear();
        if !patterns.is_empty() {
            out.list.push(Output::Unsubscribe { patterns });
        }
    }

    /// Ends the session because the client broke this rule of Engine.IO or Socket.IO.
    fn breaks(&mut self, rule: &'static str, out: &mut Outputs) {
        self.end_because(Disconnect::Protocol, rule, out);
    }

    /// Tells an Engine.IO client that the gateway ends the session: an `error`, a DISCONNECT if the client must not
    /// reconnect by itself, and the end of the transport. In a session that polls, a Close frame stands for a refused GET. Returns `false` if this is not an Engine.IO session.
    pub(super) fn send_ending(&self, ending: Disconnect, reason: &'static str, out: &mut Outputs) -> bool {
        let Some(engine_io) = &self.engine_io else { return false };
        if ending == Disconnect::Lost {
            return true;
        }
        if engine_io.is_connected {
            out.range(|bytes| socket_io::encode_ending(ending, reason, bytes));
            if matches!(
                ending,
                Disconnect::ByOperator | Disconnect::Displaced | Disconnect::RateLimitAbuse
            ) {
                out.range(socket_io::encode_disconnect);
            }
        }
        if engine_io.transport.is_polling() && ends_with_close_packet(ending) {
            out.frame(|bytes| encode_packet(bytes, Packet::Close));
        } else {
            out.frame(|bytes| encode::close_because(bytes, ending, reason));
        }
        true
    }
}

// The name under which a client may get its session back: as secret as the session's id, which only the client has.
fn new_pid(secret: &[u8], number: u32) -> Box<str> {
    let mut pid = String::new();
    for byte in secret {
        let _ = write!(pid, "{byte:02x}");
    }
    let _ = write!(pid, "-{number:x}");
    pid.into()
}

/// The reason of the Close frame if a token was refused with this code for a reason that will pass; `None` if the client needs
/// another token.
const fn passing_reason(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::RateLimited => Some("too many connections of this user; come back later"),
        ErrorCode::Internal => Some("tokens cannot be verified at present; come back later"),
        _ => None,
    }
}
