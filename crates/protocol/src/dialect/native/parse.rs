//! Parses text messages.

use crate::channel::Pattern;
use crate::event::{Epoch, OFFSET_MAX};
use crate::json::Scratch;
use crate::message::{
    ClientMessage, ErrorCode, FieldError, Fields, HISTORY_EVENTS_DEFAULT, HISTORY_EVENTS_MAX, HistoryRange, Malformed,
    MessageType, RequestHead, RequestId, RequestRef, ResumeFields, shorten,
};
use crate::rate::Rate;

/// The patterns of a `subscribe` or `unsubscribe`.
pub(in crate::dialect) struct Selection {
    pub(in crate::dialect) patterns: Vec<Pattern>,
    /// The value for [`RequestRef::members`].
    pub(in crate::dialect) members: Box<str>,
}

/// Reads the patterns of a request. The requests of the JSON dialects differ only in this.
pub(in crate::dialect) trait Select {
    /// Reads the fields that name patterns; `None` if there are none.
    ///
    /// # Errors
    ///
    /// A field is invalid, or the user lacks a permission.
    fn select(&self, fields: &mut Fields<'_, '_>) -> Result<Option<Selection>, FieldError>;

    /// The error for a request without such fields.
    fn missing(&self) -> FieldError;
}

/// The selection of the native dialect: `channels`.
struct Channels;

impl Select for Channels {
    fn select(&self, fields: &mut Fields<'_, '_>) -> Result<Option<Selection>, FieldError> {
        if !fields.is_given("channels") {
            return Ok(None);
        }
        Ok(Some(Selection {
            patterns: fields.patterns()?,
            members: Box::default(),
        }))
    }

    fn missing(&self) -> FieldError {
        FieldError::invalid("channels", "is missing: it must be an array of strings")
    }
}

/// Parses one message.
pub(in crate::dialect) fn parse<'t>(text: &'t str, scratch: &mut Scratch) -> Result<ClientMessage<'t>, Malformed> {
    parse_with(text, scratch, &Channels, None)
}

/// What a dialect knows about a message from outside its JSON object.
#[derive(Clone, Copy, Debug)]
pub(in crate::dialect) struct Envelope {
    /// The type of the message. A field `type` is ignored.
    pub(in crate::dialect) message_type: MessageType,
    /// The id of the acknowledgement that the client waits for.
    pub(in crate::dialect) acknowledgement: Option<u64>,
}

impl Envelope {
    /// Combines the acknowledgement id with the `id` in the message.
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

/// Parses one message, with `select` for its patterns. Unknown fields are ignored, including a client's `timestamp`.
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
    // The id comes first, so that every other error can refer to it.
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
    if let Some(error) = id_error.or(fields.check_duplicates().err()) {
        return Err(malformed(error, id, Some(message_type)));
    }
    let data = fields.object("data");
    let options = Options::read(message_type, &mut fields);
    let read = match message(message_type, &mut fields, id.clone(), select) {
        Ok(Some(message)) => Ok((message, options)),
        Ok(None) => nested(message_type, data, options, scratch, id.clone(), select),
        Err(error) => Err(error),
    };
    let read = read.and_then(|(message, options)| options.add_to(message, scratch));
    read.map_err(|error| malformed(error, id, Some(message_type)))
}

/// The optional fields of a `subscribe`. Other messages ignore them, whatever they hold.
struct Options<'t> {
    resume: Result<ResumeFields<'t>, FieldError>,
    max_rate: Result<Option<Rate>, FieldError>,
}

impl<'t> Options<'t> {
    fn read(message_type: MessageType, fields: &mut Fields<'_, 't>) -> Self {
        if message_type != MessageType::Subscribe {
            return Self {
                resume: Ok(ResumeFields::default()),
                max_rate: Ok(None),
            };
        }
        Self {
            resume: resume_fields(fields),
            max_rate: fields.max_rate(),
        }
    }

    /// Takes what is not given here from `nested`.
    fn or(self, nested: Self) -> Self {
        Self {
            resume: self.resume.and_then(|given| {
                let nested = nested.resume?;
                Ok(ResumeFields {
                    recover: given.recover.or(nested.recover),
                    cursor: given.cursor.or(nested.cursor),
                    seen: given.seen.or(nested.seen),
                    more: given.more || nested.more,
                })
            }),
            max_rate: match self.max_rate {
                Ok(None) => nested.max_rate,
                given => given,
            },
        }
    }

    fn add_to(self, mut message: ClientMessage<'t>, scratch: &mut Scratch) -> Result<ClientMessage<'t>, FieldError> {
        if let ClientMessage::Subscribe {
            resume, max_rate, more, ..
        } = &mut message
        {
            let fields = self.resume?;
            *max_rate = self.max_rate?;
            *more = fields.more;
            *resume = fields.read(scratch)?;
        }
        Ok(message)
    }
}

/// The members of a `subscribe` that say what the client has.
fn resume_fields<'t>(fields: &mut Fields<'_, 't>) -> Result<ResumeFields<'t>, FieldError> {
    Ok(ResumeFields {
        recover: fields.optional_object("recover")?,
        cursor: fields.optional_text("cursor")?.map(Into::into),
        seen: fields.optional_object("seen")?,
        more: fields.flag("more")?,
    })
}

/// See [`super::super::Dialect::request_head`].
pub(in crate::dialect) fn request_head(text: &str, scratch: &mut Scratch) -> Option<RequestHead> {
    // A message without an id has neither this key nor an escape that could spell it.
    if memchr::memmem::find(text.as_bytes(), b"\"id\"").is_none()
        && memchr::memmem::find(text.as_bytes(), b"\\u").is_none()
    {
        return None;
    }
    let mut fields = Fields::scan(text, scratch).ok()?;
    let id = unambiguous_id(&mut fields).ok()??;
    let message_type = match message_type(&mut fields) {
        Ok(MessageType::Pong) => return None,
        Ok(message_type) if message_type.has_response() || message_type == MessageType::Auth => Some(message_type),
        // Without a known type, the answer is an `error` as well.
        Ok(_) | Err(_) => None,
    };
    Some(RequestHead { id, message_type })
}

fn unambiguous_id(fields: &mut Fields<'_, '_>) -> Result<Option<RequestId>, FieldError> {
    if fields.is_duplicate("id") {
        fields.check_duplicates()?;
    }
    fields.id()
}

fn message_type(fields: &mut Fields<'_, '_>) -> Result<MessageType, FieldError> {
    if fields.is_duplicate("type") {
        fields.check_duplicates()?;
    }
    let name = fields.text("type")?;
    Ok(match &*name {
        "auth" => MessageType::Auth,
        "subscribe" => MessageType::Subscribe,
        "unsubscribe" => MessageType::Unsubscribe,
        "command" => MessageType::Command,
        "command_status" => MessageType::CommandStatus,
        "publish" => MessageType::Publish,
        "ping" => MessageType::Ping,
        "pong" => MessageType::Pong,
        "get_status" => MessageType::GetStatus,
        "history" => MessageType::History,
        _ => {
            let message = format!(
                "there is no message of type \"{}\" (known: auth, subscribe, unsubscribe, history, command, command_status, \
                 publish, get_status, ping, pong)",
                shorten(&name)
            );
            return Err(FieldError::new(ErrorCode::UnknownType, message));
        }
    })
}

/// Reads the fields of a message. `None` if a subscription names no patterns here; they may be in `data`.
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
        MessageType::Command | MessageType::CommandStatus => {
            let Some(id) = request_ref.id else {
                return Err(FieldError::new(ErrorCode::InvalidMessage, "`id` is missing"));
            };
            if message_type == MessageType::CommandStatus {
                let key = fields.command_key()?;
                return Ok(Some(ClientMessage::CommandStatus { id, key }));
            }
            ClientMessage::Command {
                id,
                // An action is not a channel, and `INVALID_CHANNEL` is not among the codes of a `response`.
                action: fields.channel("action", ErrorCode::InvalidMessage)?,
                params: fields.raw("params"),
                key: if fields.is_null("key") {
                    None
                } else {
                    Some(fields.command_key()?)
                },
                // W3C Trace Context wants a text that cannot be read to be ignored.
                trace: (fields.optional_text("traceparent").ok().flatten()).and_then(|text| text.parse().ok()),
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

/// Reads the range of a `history` request.
fn range(fields: &mut Fields<'_, '_>) -> Result<HistoryRange, FieldError> {
    let since = fields.unsigned("since")?;
    if since.is_some_and(|since| since > OFFSET_MAX) {
        return Err(FieldError::invalid("since", "must be at most 2^53-1"));
    }
    let epoch = if fields.is_given("epoch") {
        Some(Epoch::parse(&fields.text("epoch")?))
    } else {
        None
    };
    let limit = match fields.unsigned("limit")? {
        None => HISTORY_EVENTS_DEFAULT,
        // A limit above the maximum is not an error: the reply says whether there are more events.
        Some(limit @ 1..) => u32::try_from(limit).unwrap_or(u32::MAX).min(HISTORY_EVENTS_MAX),
        Some(0) => return Err(FieldError::invalid("limit", "must be at least 1")),
    };
    Ok(HistoryRange { since, epoch, limit })
}

/// Reads the patterns of a subscription from `data`, and the options too that are not at the top level.
fn nested<'t>(
    message_type: MessageType,
    data: Option<&'t str>,
    options: Options<'t>,
    scratch: &mut Scratch,
    id: Option<RequestId>,
    select: &dyn Select,
) -> Result<(ClientMessage<'t>, Options<'t>), FieldError> {
    let mut fields = Fields::scan(data.unwrap_or("{}"), scratch)?;
    fields.check_duplicates()?;
    let selection = select.select(&mut fields)?.ok_or_else(|| select.missing())?;
    let options = options.or(Options::read(message_type, &mut fields));
    Ok((subscription(message_type, selection, RequestRef::of_id(id)), options))
}

fn subscription<'t>(message_type: MessageType, selection: Selection, request_ref: RequestRef) -> ClientMessage<'t> {
    let Selection { patterns, members } = selection;
    let request_ref = RequestRef { members, ..request_ref };
    if message_type == MessageType::Subscribe {
        ClientMessage::Subscribe {
            request_ref,
            patterns,
            resume: None,
            max_rate: None,
            more: false,
        }
    } else {
        ClientMessage::Unsubscribe { request_ref, patterns }
    }
}
