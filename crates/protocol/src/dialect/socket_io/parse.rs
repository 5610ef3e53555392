//! Parses event packets. The event's name is the type of the message, and its first argument has the fields.

use std::borrow::Cow;

use super::TRADING_TYPES;
use super::packet::{Kind, Packet};
use crate::channel::Pattern;
use crate::dialect::engine_io;
use crate::dialect::native::{Envelope, Select, Selection, parse_with};
use crate::json::{self, Scratch, split_array};
use crate::message::{
    ClientMessage, ErrorCode, FieldError, Fields, Malformed, MessageType, Offset, RequestHead, RequestId, RequestRef,
    shorten,
};

/// The limit on the items of an event's array: its name and its arguments. Only the first argument is read.
const ARGUMENTS_MAX: usize = 64;

/// The length limit of a `pid`, in bytes. The gateway's own are shorter.
const PID_BYTES_MAX: usize = 64;

/// Event names that the protocol reserves. An event with such a name is a protocol error.
const RESERVED: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// The reason why an event packet is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventError {
    /// The packet breaks this rule of the Socket.IO protocol. The session ends.
    Protocol(&'static str),
    /// The event is unknown or has invalid fields. The client gets an error reply.
    Malformed(Malformed),
}

/// Parses an event packet. `user` is the client's user, for `subscribe_trading`; `None` for a client without one.
///
/// # Errors
///
/// The packet breaks the protocol, the event is unknown, or its fields are invalid.
pub fn parse_event<'t>(
    packet: &Packet<'t>,
    user: Option<&str>,
    scratch: &mut Scratch,
) -> Result<ClientMessage<'t>, EventError> {
    let malformed = |code, message: String, message_type| {
        EventError::Malformed(Malformed {
            code,
            message: message.into(),
            request_ref: RequestRef::of_acknowledgement(packet.acknowledgement),
            message_type,
        })
    };
    let arguments = match split_array(packet.payload, ARGUMENTS_MAX) {
        Ok(arguments) => arguments,
        Err(error @ (json::Error::TooManyItems(_) | json::Error::TooDeep { .. } | json::Error::TooManyEscapes)) => {
            return Err(malformed(ErrorCode::InvalidMessage, error.to_string(), None));
        }
        Err(json::Error::Syntax { .. } | json::Error::WrongKind(_)) => {
            return Err(EventError::Protocol("payload of an event is not a JSON array"));
        }
    };
    let name = event_name(&arguments).ok_or(EventError::Protocol("event without a name, or with a reserved one"))?;
    let Some((message_type, select)) = interpret(&name, user) else {
        let message = format!(
            "the gateway has no event \"{}\" (known: subscribe, unsubscribe, subscribe_trading, unsubscribe_trading, command, \
             command_status, auth, get_status)",
            shorten(&name)
        );
        return Err(malformed(ErrorCode::UnknownType, message, None));
    };
    let envelope = Envelope {
        message_type,
        acknowledgement: packet.acknowledgement,
    };
    let fields = match arguments.get(1) {
        None | Some(&"null") => "{}",
        Some(fields) => fields,
    };
    parse_with(fields, scratch, &select, Some(envelope)).map_err(EventError::Malformed)
}

/// The token in the payload of a CONNECT packet; `None` if there is none, or an empty one.
///
/// # Errors
///
/// The payload is not a JSON object, or its `token` is not a string.
pub fn connect_token<'t>(packet: &Packet<'t>, scratch: &mut Scratch) -> Result<Option<Cow<'t, str>>, EventError> {
    if packet.payload.is_empty() {
        return Ok(None);
    }
    let mut fields = Fields::scan(packet.payload, scratch)
        .map_err(|_| EventError::Protocol("payload of CONNECT is not a JSON object"))?;
    if !fields.is_given("token") && !fields.is_duplicate("token") {
        return Ok(None);
    }
    let token = fields.text("token").and_then(|token| {
        fields.check_duplicates()?;
        Ok(Some(token))
    });
    token.map_err(|error| {
        EventError::Malformed(Malformed {
            code: ErrorCode::TokenInvalid,
            message: error.message,
            request_ref: RequestRef::default(),
            message_type: Some(MessageType::Auth),
        })
    })
}

/// The `pid` and the `offset` of a CONNECT packet's payload, of a client that had a session before; `None`: it has none, or
/// they are malformed, which is the same to the client.
#[must_use]
pub fn connect_return(packet: &Packet<'_>, scratch: &mut Scratch) -> Option<(Box<str>, Offset)> {
    let mut fields = Fields::scan(packet.payload, scratch).ok()?;
    if !fields.is_given("pid") || !fields.is_given("offset") {
        return None;
    }
    let (pid, offset) = (fields.text("pid").ok()?, fields.text("offset").ok()?);
    let offset = Offset::parse(&offset)?;
    (pid.len() <= PID_BYTES_MAX).then(|| (pid.into_owned().into(), offset))
}

/// The error reply to a binary event.
#[must_use]
pub fn refuse_binary(packet: &Packet<'_>) -> Malformed {
    Malformed {
        code: ErrorCode::InvalidMessage,
        message: "binary events are not supported".into(),
        request_ref: RequestRef::of_acknowledgement(packet.acknowledgement),
        message_type: None,
    }
}

/// See [`super::super::Dialect::request_head`].
pub(in crate::dialect) fn request_head(text: &str, scratch: &mut Scratch) -> Option<RequestHead> {
    let Some(engine_io::Packet::Message(data)) = engine_io::Packet::parse(text) else {
        return None;
    };
    let packet = Packet::parse(data).filter(|packet| matches!(packet.kind, Kind::Event | Kind::BinaryEvent))?;
    if let Some((id, message_type)) = command_id(&packet, scratch) {
        let message_type = Some(message_type);
        return Some(RequestHead { id, message_type });
    }
    // Every other event is answered by an id only if it asks for an acknowledgement.
    Some(RequestHead {
        id: RequestRef::of_acknowledgement(packet.acknowledgement).id?,
        message_type: None,
    })
}

/// The id of a command or `command_status` that has one; `None` for any other packet.
fn command_id(packet: &Packet<'_>, scratch: &mut Scratch) -> Option<(RequestId, MessageType)> {
    if packet.kind != Kind::Event {
        return None;
    }
    // Most other events have neither this word nor an escape at the start of their array.
    let begin = packet.payload.trim_start_matches(['[', ' ', '\t', '\n', '\r']);
    let begin = begin.get(..begin.len().min(64)).unwrap_or(begin);
    if !begin.contains("command") && !begin.contains("\\u") {
        return None;
    }
    let arguments = split_array(packet.payload, ARGUMENTS_MAX).ok()?;
    let message_type = match &*event_name(&arguments)? {
        "command" => MessageType::Command,
        "command_status" => MessageType::CommandStatus,
        _ => return None,
    };
    let envelope = Envelope {
        message_type,
        acknowledgement: packet.acknowledgement,
    };
    Some((
        envelope.id(readable_id(arguments.get(1).copied(), scratch))?,
        message_type,
    ))
}

/// The `id` among the fields of a command, if it can be read.
fn readable_id(fields: Option<&str>, scratch: &mut Scratch) -> Option<RequestId> {
    let mut fields = Fields::scan(fields?, scratch).ok()?;
    if fields.is_duplicate("id") {
        return None;
    }
    fields.id().ok()?
}

/// The name of an event; `None` if it has none or a reserved one.
fn event_name<'t>(arguments: &[&'t str]) -> Option<Cow<'t, str>> {
    let first = *arguments.first()?;
    let name = match first.as_bytes() {
        [b'"', .., b'"'] if !first.contains('\\') => Cow::Borrowed(&first[1..first.len() - 1]),
        // A name with an unpaired surrogate cannot be decoded. Its raw text is an unknown event.
        [b'"', ..] => Cow::Owned(serde_json::from_str(first).unwrap_or_else(|_| first.to_owned())),
        // The reference implementation allows numbers as names.
        [b'-' | b'0'..=b'9', ..] => Cow::Borrowed(first),
        _ => return None,
    };
    (!RESERVED.contains(&&*name)).then_some(name)
}

/// The message type of an event and how to read its patterns; `None` if the event is unknown.
fn interpret<'u>(name: &str, user: Option<&'u str>) -> Option<(MessageType, Selects<'u>)> {
    let message_type = match name {
        "auth" => MessageType::Auth,
        "subscribe" | "subscribe_trading" => MessageType::Subscribe,
        "unsubscribe" | "unsubscribe_trading" => MessageType::Unsubscribe,
        "command" => MessageType::Command,
        "command_status" => MessageType::CommandStatus,
        "get_status" => MessageType::GetStatus,
        _ => return None,
    };
    let select = if name.ends_with("_trading") {
        Selects::Trading { user }
    } else {
        Selects::Channels
    };
    Some((message_type, select))
}

enum Selects<'u> {
    /// `channels`
    Channels,
    /// `types` or `subscribeTypes`. Without both, all types.
    Trading { user: Option<&'u str> },
}

impl Select for Selects<'_> {
    fn select(&self, fields: &mut Fields<'_, '_>) -> Result<Option<Selection>, FieldError> {
        match *self {
            Self::Channels if !fields.is_given("channels") => Ok(None),
            Self::Channels => Ok(Some(Selection {
                patterns: fields.patterns()?,
                members: format!(",\"channels\":{}", fields.raw("channels")).into(),
            })),
            Self::Trading { user } => trading_selection(fields, user).map(Some),
        }
    }

    fn missing(&self) -> FieldError {
        FieldError::invalid("channels", "is missing: it must be an array of strings")
    }
}

fn trading_selection(fields: &mut Fields<'_, '_>, user: Option<&str>) -> Result<Selection, FieldError> {
    let Some(user) = user else {
        let message = "account data is for users with a token";
        return Err(FieldError::new(ErrorCode::Forbidden, message));
    };
    let mut types: Vec<&'static str> = Vec::new();
    let given = ["types", "subscribeTypes"]
        .into_iter()
        .find(|name| fields.is_given(name));
    if let Some(field) = given {
        fields.texts(field, |wanted| {
            let Some(known) = TRADING_TYPES.into_iter().find(|known| *known == wanted) else {
                let message = format!("holds \"{}\"; known: {}", shorten(wanted), TRADING_TYPES.join(", "));
                return Err(FieldError::invalid(field, &message));
            };
            if !types.contains(&known) {
                types.push(known);
            }
            Ok(())
        })?;
    } else {
        types.extend(TRADING_TYPES);
    }
    let patterns: Result<Vec<Pattern>, _> = types
        .iter()
        .map(|known| Pattern::parse(&format!("user.{user}.{known}")))
        .collect();
    let patterns = patterns.map_err(|error| {
        let message = format!("the user id {error}");
        FieldError::new(ErrorCode::InvalidChannel, message)
    })?;
    let names: Vec<String> = types.iter().map(|known| format!("\"{known}\"")).collect();
    Ok(Selection {
        patterns,
        members: format!(",\"types\":[{}]", names.join(",")).into(),
    })
}
