//! From packets to [`ClientMessage`]: an event's name says what it is, its first argument holds the fields.

use std::borrow::Cow;

use super::TRADING_TYPES;
use super::encode::request_ref_of;
use super::packet::{Kind, Packet};
use crate::channel::Pattern;
use crate::dialect::engine_io;
use crate::dialect::native::{Envelope, Select, Selection, parse_with};
use crate::json::{self, Scratch, split_array};
use crate::message::{ClientMessage, ErrorCode, FieldError, Fields, Malformed, MessageType, RequestId, shorten};

/// Arguments of an event, its name included. The first one is read, the others are passed over.
const ARGUMENTS_MAX: usize = 64;

/// Names that the protocol keeps for itself: an event of such a name breaks it.
const RESERVED: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// Why a packet cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It breaks the protocol: the session ends.
    Broken,
    /// It is an event that means nothing here: the client is told.
    Malformed(Malformed),
}

/// Reads an event. `user` is whose account data `subscribe_trading` means; `None`: the client has none.
///
/// # Errors
/// What is wrong with it.
pub fn parse_event<'t>(
    packet: &Packet<'t>,
    user: Option<&str>,
    scratch: &mut Scratch,
) -> Result<ClientMessage<'t>, Unreadable> {
    let malformed = |code, message: String, message_type| {
        Unreadable::Malformed(Malformed {
            code,
            message: message.into(),
            request_ref: request_ref_of(packet.acknowledgement),
            message_type,
        })
    };
    let arguments = match split_array(packet.payload, ARGUMENTS_MAX) {
        Ok(arguments) => arguments,
        Err(error @ (json::Error::TooManyItems(_) | json::Error::TooDeep { .. } | json::Error::TooManyEscapes)) => {
            return Err(malformed(ErrorCode::InvalidMessage, error.to_string(), None));
        }
        Err(json::Error::Syntax { .. } | json::Error::WrongKind(_)) => return Err(Unreadable::Broken),
    };
    let name = name(&arguments).ok_or(Unreadable::Broken)?;
    let Some((message_type, select)) = meaning(&name, user) else {
        let message = format!("there is no event \"{}\" for the gateway", shorten(&name));
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
    parse_with(fields, scratch, &select, Some(envelope)).map_err(Unreadable::Malformed)
}

/// The token of a CONNECT packet's payload; `None`: it has none.
///
/// # Errors
/// What is wrong with the payload.
pub fn connect_token<'t>(packet: &Packet<'t>, scratch: &mut Scratch) -> Result<Option<Cow<'t, str>>, Unreadable> {
    if packet.payload.is_empty() {
        return Ok(None);
    }
    let mut fields = Fields::scan(packet.payload, scratch).map_err(|_| Unreadable::Broken)?;
    if !fields.has("token") {
        return Ok(None);
    }
    let token = fields.text("token").and_then(|token| {
        fields.each_once()?;
        Ok(token)
    });
    token.map(Some).map_err(|error| {
        Unreadable::Malformed(Malformed {
            code: ErrorCode::TokenInvalid,
            message: error.message,
            request_ref: request_ref_of(None),
            message_type: Some(MessageType::Auth),
        })
    })
}

/// What is answered to a binary event.
#[must_use]
pub fn refuse_binary(packet: &Packet<'_>) -> Malformed {
    Malformed {
        code: ErrorCode::InvalidMessage,
        message: "binary events are not supported".into(),
        request_ref: request_ref_of(packet.acknowledgement),
        message_type: None,
    }
}

/// See [`super::super::Dialect::command_id`].
pub(in crate::dialect) fn command_id(text: &str, scratch: &mut Scratch) -> Option<RequestId> {
    let Some(engine_io::Packet::Message(data)) = engine_io::Packet::parse(text) else {
        return None;
    };
    let packet = Packet::parse(data).filter(|packet| packet.kind == Kind::Event)?;
    // A command says so in these letters, unless some are escaped, and at once behind the bracket and white space.
    let begin = packet.payload.trim_start_matches(['[', ' ', '\t', '\n', '\r']);
    let begin = begin.get(..begin.len().min(64)).unwrap_or(begin);
    if !begin.contains("command") && !begin.contains("\\u") {
        return None;
    }
    let arguments = split_array(packet.payload, ARGUMENTS_MAX).ok()?;
    if name(&arguments)? != "command" {
        return None;
    }
    let envelope = Envelope {
        message_type: MessageType::Command,
        acknowledgement: packet.acknowledgement,
    };
    envelope.id(id_among(arguments.get(1).copied(), scratch))
}

// The `id` that a command's fields give, if they can be read.
fn id_among(fields: Option<&str>, scratch: &mut Scratch) -> Option<RequestId> {
    let mut fields = Fields::scan(fields?, scratch).ok()?;
    if fields.is_twice("id") {
        return None;
    }
    fields.id().ok()?
}

// The event's name; `None`: the packet has none that the protocol allows.
fn name<'t>(arguments: &[&'t str]) -> Option<Cow<'t, str>> {
    let first = *arguments.first()?;
    let name = match first.as_bytes() {
        [b'"', .., b'"'] if !first.contains('\\') => Cow::Borrowed(&first[1..first.len() - 1]),
        // An unpaired surrogate is the name of no event here.
        [b'"', ..] => Cow::Owned(serde_json::from_str(first).unwrap_or_else(|_| first.to_owned())),
        // The reference implementation lets numbers be names.
        [b'-' | b'0'..=b'9', ..] => Cow::Borrowed(first),
        _ => return None,
    };
    (!RESERVED.contains(&&*name)).then_some(name)
}

// What events mean, and how they name what they subscribe.
fn meaning<'u>(name: &str, user: Option<&'u str>) -> Option<(MessageType, Selects<'u>)> {
    let message_type = match name {
        "auth" => MessageType::Auth,
        "subscribe" | "subscribe_trading" => MessageType::Subscribe,
        "unsubscribe" | "unsubscribe_trading" => MessageType::Unsubscribe,
        "command" => MessageType::Command,
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
    /// `types` or `subscribeTypes`; neither: all of them.
    Trading { user: Option<&'u str> },
}

impl Select for Selects<'_> {
    fn select(&self, fields: &mut Fields<'_, '_>) -> Result<Option<Selection>, FieldError> {
        match *self {
            Self::Channels if !fields.has("channels") => Ok(None),
            Self::Channels => Ok(Some(Selection {
                patterns: fields.patterns()?,
                members: format!(",\"channels\":{}", fields.raw("channels")).into(),
            })),
            Self::Trading { user } => trading(fields, user).map(Some),
        }
    }

    fn missing(&self) -> FieldError {
        FieldError::wrong("channels", "must be an array of strings")
    }
}

fn trading(fields: &mut Fields<'_, '_>, user: Option<&str>) -> Result<Selection, FieldError> {
    let Some(user) = user else {
        let message = "account data is for users with a token";
        return Err(FieldError::new(ErrorCode::Forbidden, message));
    };
    let mut types: Vec<&'static str> = Vec::new();
    let given = ["types", "subscribeTypes"].into_iter().find(|name| fields.has(name));
    if let Some(field) = given {
        fields.texts(field, |wanted| {
            let Some(known) = TRADING_TYPES.into_iter().find(|known| *known == wanted) else {
                let message = format!("holds \"{}\"; known: {}", shorten(wanted), TRADING_TYPES.join(", "));
                return Err(FieldError::wrong(field, &message));
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
        let message = format!("the user's name {error}");
        FieldError::new(ErrorCode::InvalidChannel, message)
    })?;
    let names: Vec<String> = types.iter().map(|known| format!("\"{known}\"")).collect();
    Ok(Selection {
        patterns,
        members: format!(",\"types\":[{}]", names.join(",")).into(),
    })
}
