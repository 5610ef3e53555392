//! From text to [`ClientMessage`].

use crate::channel::Pattern;
use crate::event::{Epoch, OFFSET_MAX};
use crate::json::Scratch;
use crate::message::{
    ClientMessage, ErrorCode, FieldError, Fields, HISTORY_EVENTS_DEFAULT, HISTORY_EVENTS_MAX, HistoryRange, Malformed,
    MessageType, Recover, RequestId, RequestRef, shorten,
};

/// What a `subscribe` or `unsubscribe` asks for.
pub(in crate::dialect) struct Selection {
    pub(in crate::dialect) patterns: Vec<Pattern>,
    /// For [`RequestRef::members`].
    pub(in crate::dialect) members: Box<str>,
}

/// How a dialect's requests name what they subscribe: the one thing in which dialects' messages differ.
pub(in crate::dialect) trait Select {
    /// Reads the fields that do so, `None`: there are none of them.
    fn select(&self, fields: &mut Fields<'_, '_>) -> Result<Option<Selection>, FieldError>;

    /// What to say when there are none of them.
    fn missing(&self) -> FieldError;
}

/// The native way: `channels` and nothing else.
struct Channels;

impl Select for Channels {
    fn select(&self, fields: &mut Fields<'_, '_>) -> Result<Option<Selection>, FieldError> {
        if !fields.has("channels") {
            return Ok(None);
        }
        Ok(Some(Selection {
            patterns: fields.patterns()?,
            members: Box::default(),
        }))
    }

    fn missing(&self) -> FieldError {
        FieldError::wrong("channels", "must be an array of strings")
    }
}

/// Reads one message.
pub(in crate::dialect) fn parse<'t>(text: &'t str, scratch: &mut Scratch) -> Result<ClientMessage<'t>, Malformed> {
    parse_with(text, scratch, &Channels, None)
}

/// What is known of a message before its fields are read, where the dialect says it beside them.
#[derive(Clone, Copy, Debug)]
pub(in crate::dialect) struct Envelope {
    /// What it is: a field `type` has no meaning then.
    pub(in crate::dialect) message_type: MessageType,
    /// The acknowledgement that the client waits for.
    pub(in crate::dialect) acknowledgement: Option<u64>,
}

impl Envelope {
    // The `id` that answers are tied to.
    pub(in crate::dialect) fn id(self, given: Option<RequestId>) -> Option<RequestId> {
        let Some(number) = self.acknowledgement else {
            return given;
        };
        let id = given.and_then(|id| match id {
            RequestId::Text(text) => Some(text),
            RequestId::Number(number) => Some(number.to_string().into()),
            RequestId::Acknowledgement { id, .. } => id,
        });
        Some(RequestId::Acknowledgement { number, id })
    }
}

/// Reads one message whose subscriptions are named as `select` reads them. Unknown fields are ignored, a client's
/// `timestamp` too.
pub(in crate::dialect) fn parse_with<'t>(
    text: &'t str,
    scratch: &mut Scratch,
    select: &dyn Select,
    envelope: Option<Envelope>,
) -> Result<ClientMessage<'t>, Malformed> {
    let malformed = |error: FieldError, id, message_type| Malformed {
        code: error.code,
        message: error.message,
        request_ref: RequestRef::of_id(id),
        message_type,
    };
    let mut fields = Fields::scan(text, scratch).map_err(|error| {
        let id = envelope.and_then(|envelope| envelope.id(None));
        malformed(error, id, envelope.map(|envelope| envelope.message_type))
    })?;
    // The id comes first, so that every other complaint can be tied to it.
    let (id, id_error) = match unambiguous_id(&mut fields) {
        Ok(id) => (id, None),
        Err(error) => (None, Some(error)),
    };
    let (id, message_type) = match envelope {
        Some(envelope) => (envelope.id(id), envelope.message_type),
        None => match message_type(&mut fields) {
            Ok(message_type) => (id, message_type),
            Err(error) => return Err(malformed(error, id, None)),
        },
    };
    if let Some(error) = id_error.or(fields.each_once().err()) {
        return Err(malformed(error, id, Some(message_type)));
    }
    let data = fields.object("data");
    let recover = fields.object_if_any("recover");
    let read = match message(message_type, &mut fields, id.clone(), select) {
        Ok(Some(message)) => Ok((message, recover)),
        Ok(None) => nested(message_type, data, recover, scratch, id.clone(), select),
        Err(error) => Err(error),
    };
    let read = read.and_then(|(message, recover)| with_recover(message, recover, scratch));
    read.map_err(|error| malformed(error, id, Some(message_type)))
}

// A `subscribe` with what stands in its `recover`, which only they have.
fn with_recover<'t>(
    mut message: ClientMessage<'t>,
    text: Result<Option<&'t str>, FieldError>,
    scratch: &mut Scratch,
) -> Result<ClientMessage<'t>, FieldError> {
    if let ClientMessage::Subscribe { recover, .. } = &mut message
        && let Some(text) = text?
    {
        *recover = Some(Recover::read(text, scratch)?);
    }
    Ok(message)
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
        "history" => MessageType::History,
        _ => {
            let message = format!("there is no message of type \"{}\"", shorten(&name));
            return Err(FieldError::new(ErrorCode::UnknownType, message));
        }
    })
}

// `None`: what is subscribed does not stand here; under `data`, perhaps.
fn message<'t>(
    message_type: MessageType,
    fields: &mut Fields<'_, 't>,
    id: Option<RequestId>,
    select: &dyn Select,
) -> Result<Option<ClientMessage<'t>>, FieldError> {
    let request_ref = RequestRef::of_id(id);
    Ok(Some(match message_type {
        MessageType::Auth => ClientMessage::Auth {
            request_ref,
            token: fields.text("token")?,
        },
        MessageType::Subscribe | MessageType::Unsubscribe => match select.select(fields)? {
            Some(selection) => subscription(message_type, selection, request_ref),
            None => return Ok(None),
        },
        MessageType::Command => {
            let Some(id) = request_ref.id else {
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
            request_ref,
            channel: fields.channel("channel", ErrorCode::InvalidChannel)?,
            event: fields.event_name()?,
            data: fields.raw("data"),
        },
        MessageType::Ping => ClientMessage::Ping { request_ref },
        MessageType::Pong => ClientMessage::Pong,
        MessageType::GetStatus => ClientMessage::GetStatus { request_ref },
        MessageType::History => ClientMessage::History {
            request_ref,
            channel: fields.channel("channel", ErrorCode::InvalidChannel)?,
            range: range(fields)?,
        },
    }))
}

// The part of a history that is asked for.
fn range(fields: &mut Fields<'_, '_>) -> Result<HistoryRange, FieldError> {
    let since = fields.unsigned("since")?;
    if since.is_some_and(|since| since > OFFSET_MAX) {
        return Err(FieldError::wrong("since", "must be at most 2^53-1"));
    }
    let epoch = if fields.has("epoch") {
        Some(Epoch::parse(&fields.text("epoch")?))
    } else {
        None
    };
    let limit = match fields.unsigned("limit")? {
        None => HISTORY_EVENTS_DEFAULT,
        // More is not refused but cut, as a history that is longer than asked for is.
        Some(limit @ 1..) => u32::try_from(limit).unwrap_or(u32::MAX).min(HISTORY_EVENTS_MAX),
        Some(0) => return Err(FieldError::wrong("limit", "must be at least 1")),
    };
    Ok(HistoryRange { since, epoch, limit })
}

type Recoverable<'t> = (ClientMessage<'t>, Result<Option<&'t str>, FieldError>);

// What is subscribed stands under `data`, and with it perhaps what is to be recovered.
fn nested<'t>(
    message_type: MessageType,
    data: Option<&'t str>,
    recover: Result<Option<&'t str>, FieldError>,
    scratch: &mut Scratch,
    id: Option<RequestId>,
    select: &dyn Select,
) -> Result<Recoverable<'t>, FieldError> {
    let mut fields = Fields::scan(data.unwrap_or("{}"), scratch)?;
    fields.each_once()?;
    let selection = select.select(&mut fields)?.ok_or_else(|| select.missing())?;
    let recover = match recover {
        Ok(None) => fields.object_if_any("recover"),
        given => given,
    };
    Ok((subscription(message_type, selection, RequestRef::of_id(id)), recover))
}

fn subscription<'t>(message_type: MessageType, selection: Selection, request_ref: RequestRef) -> ClientMessage<'t> {
    let Selection { patterns, members } = selection;
    let request_ref = RequestRef { members, ..request_ref };
    if message_type == MessageType::Subscribe {
        ClientMessage::Subscribe {
            request_ref,
            patterns,
            recover: None,
        }
    } else {
        ClientMessage::Unsubscribe { request_ref, patterns }
    }
}
