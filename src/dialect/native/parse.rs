//! From text to [`ClientMessage`].

use crate::json::Scratch;
use crate::message::{ClientMessage, Echo, ErrorCode, FieldError, Fields, Malformed, MessageType, RequestId, shorten};

/// Reads one message. Unknown fields are ignored, a client's `timestamp` too.
pub(in crate::dialect) fn parse<'t>(text: &'t str, scratch: &mut Scratch) -> Result<ClientMessage<'t>, Malformed> {
    let malformed = |error: FieldError, id, message_type| Malformed {
        code: error.code,
        message: error.message,
        echo: Echo { id },
        message_type,
    };
    let mut fields = Fields::scan(text, scratch).map_err(|error| malformed(error, None, None))?;
    // The id comes first, so that every other complaint can be tied to it.
    let (id, id_error) = match unambiguous_id(&mut fields) {
        Ok(id) => (id, None),
        Err(error) => (None, Some(error)),
    };
    let message_type = match message_type(&mut fields) {
        Ok(message_type) => message_type,
        Err(error) => return Err(malformed(error, id, None)),
    };
    if let Some(error) = id_error.or(fields.each_once().err()) {
        return Err(malformed(error, id, Some(message_type)));
    }
    let data = fields.object("data");
    match message(message_type, &mut fields, id.clone()) {
        Ok(Some(message)) => Ok(message),
        Ok(None) => nested_channels(message_type, data, scratch, id.clone())
            .map_err(|error| malformed(error, id, Some(message_type))),
        Err(error) => Err(malformed(error, id, Some(message_type))),
    }
}

/// See [`super::super::Dialect::command_id`].
pub(in crate::dialect) fn command_id(text: &str, scratch: &mut Scratch) -> Option<RequestId> {
    // A command says so in these letters, unless some are escaped.
    if memchr::memmem::find(text.as_bytes(), b"command").is_none()
        && memchr::memmem::find(text.as_bytes(), b"\\u").is_none()
    {
        return None;
    }
    let mut fields = Fields::scan(text, scratch).ok()?;
    match message_type(&mut fields) {
        Ok(MessageType::Command) => unambiguous_id(&mut fields).ok()?,
        _ => None,
    }
}

fn unambiguous_id(fields: &mut Fields<'_, '_>) -> Result<Option<RequestId>, FieldError> {
    if fields.is_twice("id") {
        fields.each_once()?;
    }
    fields.id()
}

fn message_type(fields: &mut Fields<'_, '_>) -> Result<MessageType, FieldError> {
    if fields.is_twice("type") {
        fields.each_once()?;
    }
    let name = fields.text("type")?;
    Ok(match &*name {
        "auth" => MessageType::Auth,
        "subscribe" => MessageType::Subscribe,
        "unsubscribe" => MessageType::Unsubscribe,
        "command" => MessageType::Command,
        "publish" => MessageType::Publish,
        "ping" => MessageType::Ping,
        "pong" => MessageType::Pong,
        "get_status" => MessageType::GetStatus,
        _ => {
            let message = format!("there is no message of type \"{}\"", shorten(&name));
            return Err(FieldError::new(ErrorCode::UnknownType, message));
        }
    })
}

// `None`: the channels stand under `data`.
fn message<'t>(
    message_type: MessageType,
    fields: &mut Fields<'_, 't>,
    id: Option<RequestId>,
) -> Result<Option<ClientMessage<'t>>, FieldError> {
    let echo = Echo { id };
    Ok(Some(match message_type {
        MessageType::Auth => ClientMessage::Auth {
            echo,
            token: fields.text("token")?,
        },
        MessageType::Subscribe | MessageType::Unsubscribe => {
            if message_type == MessageType::Subscribe && !fields.is_empty_object("recover") {
                return Err(FieldError::new(
                    ErrorCode::InvalidMessage,
                    "`recover` cannot be served: recovery is not available",
                ));
            }
            if !fields.has("channels") && fields.object("data").is_some() {
                return Ok(None);
            }
            subscription(message_type, fields, echo)?
        }
        MessageType::Command => {
            let Some(id) = echo.id else {
                return Err(FieldError::new(ErrorCode::InvalidMessage, "`id` is missing"));
            };
            ClientMessage::Command {
                id,
                // The codes of a `response` are a closed list, and an action is no channel.
                action: fields.channel("action", ErrorCode::InvalidMessage)?,
                params: fields.raw("params"),
            }
        }
        MessageType::Publish => ClientMessage::Publish {
            echo,
            channel: fields.channel("channel", ErrorCode::InvalidChannel)?,
            event: fields.event_name()?,
            data: fields.raw("data"),
        },
        MessageType::Ping => ClientMessage::Ping { echo },
        MessageType::Pong => ClientMessage::Pong,
        MessageType::GetStatus => ClientMessage::GetStatus { echo },
    }))
}

fn nested_channels<'t>(
    message_type: MessageType,
    data: Option<&'t str>,
    scratch: &mut Scratch,
    id: Option<RequestId>,
) -> Result<ClientMessage<'t>, FieldError> {
    let mut fields = Fields::scan(data.unwrap_or("{}"), scratch)?;
    fields.each_once()?;
    subscription(message_type, &mut fields, Echo { id })
}

fn subscription<'t>(
    message_type: MessageType,
    fields: &mut Fields<'_, 't>,
    echo: Echo,
) -> Result<ClientMessage<'t>, FieldError> {
    let patterns = fields.patterns()?;
    Ok(if message_type == MessageType::Subscribe {
        ClientMessage::Subscribe { echo, patterns }
    } else {
        ClientMessage::Unsubscribe { echo, patterns }
    })
}
