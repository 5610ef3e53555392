//! Reads the fields that messages share from a scanned object. An error names the field.

use std::borrow::Cow;

use super::{CHANNELS_PER_REQUEST_MAX, CommandKey, ErrorCode, ID_BYTES_MAX, RequestId, is_event_name};
use crate::channel::{Channel, Pattern};
use crate::json::{self, Kind, Object, Scratch, Value};
use crate::rate::Rate;

/// The reason why a field was refused, as an error code and a text for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) code: ErrorCode,
    pub(crate) message: Box<str>,
}

impl FieldError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<Box<str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// An `INVALID_MESSAGE` about the field `name`; `problem` completes the sentence that begins with the name.
    pub(crate) fn invalid(name: &str, problem: &str) -> Self {
        Self::new(ErrorCode::InvalidMessage, format!("`{name}` {problem}"))
    }
}

impl From<json::Error> for FieldError {
    fn from(error: json::Error) -> Self {
        let (code, message) = match error {
            json::Error::Syntax { .. } | json::Error::TooDeep { .. } | json::Error::TooManyEscapes => {
                (ErrorCode::InvalidJson, error.to_string())
            }
            json::Error::WrongKind(_) => (ErrorCode::InvalidMessage, "expected a JSON object".to_owned()),
            json::Error::TooManyItems(_) => (ErrorCode::InvalidMessage, error.to_string()),
        };
        Self::new(code, message)
    }
}

/// Cuts a client's text to at most 64 characters, for an error message.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(64) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
    }
}

/// Calls `each` with the members of an object, in order, until `each` fails. Refuses an object with duplicate keys.
pub(super) fn object_members<'t>(
    text: &'t str,
    scratch: &mut Scratch,
    mut each: impl FnMut(&str, &'t str) -> Result<(), FieldError>,
) -> Result<(), FieldError> {
    let fields = Fields::scan(text, scratch)?;
    fields.check_duplicates()?;
    fields.0.members().try_for_each(|(key, value)| each(key, value.raw))
}

/// The fields of an object, by name. A field that is `null` counts as absent, except in [`raw`](Self::raw). So does an
/// optional field whose text is empty or blank: it is what a form or a variable holds that nobody filled in.
pub(crate) struct Fields<'s, 't>(Object<'s, 't>);

impl<'s, 't> Fields<'s, 't> {
    pub(crate) fn scan(text: &'t str, scratch: &'s mut Scratch) -> Result<Self, FieldError> {
        Ok(Self(scratch.object(text)?))
    }

    /// Returns an error if a field occurs twice.
    pub(crate) fn check_duplicates(&self) -> Result<(), FieldError> {
        match self.0.duplicate_key() {
            None => Ok(()),
            Some(key) => Err(FieldError::invalid(&shorten(key), "occurs twice")),
        }
    }

    /// Whether the field `name` occurs twice.
    pub(crate) fn is_duplicate(&self, name: &str) -> bool {
        self.0.is_duplicate(name)
    }

    fn get(&self, name: &str) -> Option<Value<'t>> {
        self.0.get(name).filter(|value| value.kind != Kind::Null)
    }

    /// The value of an optional field.
    fn given(&mut self, name: &str) -> Option<Value<'t>> {
        let value = self.get(name)?;
        let is_blank = self.0.text(value).is_some_and(|text| is_blank(&text));
        (!is_blank).then_some(value)
    }

    /// The text of a required string.
    pub(crate) fn text(&mut self, name: &str) -> Result<Cow<'t, str>, FieldError> {
        let value = self.get(name).ok_or_else(|| FieldError::invalid(name, "is missing"))?;
        self.0
            .text(value)
            .ok_or_else(|| FieldError::invalid(name, "must be a string of Unicode text"))
    }

    /// The raw text of a value; `null` if the field is absent.
    pub(crate) fn raw(&self, name: &str) -> &'t str {
        self.0.get(name).map_or("null", |value| value.raw)
    }

    /// The `id` of a request.
    pub(crate) fn id(&mut self) -> Result<Option<RequestId>, FieldError> {
        let Some(value) = self.get("id") else { return Ok(None) };
        let invalid = || {
            FieldError::invalid(
                "id",
                "must be a string of at most 128 bytes or an integer of at most 64 bits",
            )
        };
        if value.kind == Kind::Integer {
            let number: i128 = value.raw.parse().map_err(|_| invalid())?;
            let fits = (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number);
            return if fits {
                Ok(Some(RequestId::Number(number)))
            } else {
                Err(invalid())
            };
        }
        match self.0.text(value) {
            Some(text) if is_blank(&text) => Ok(None),
            Some(text) if text.len() <= ID_BYTES_MAX => Ok(Some(RequestId::Text(text.into()))),
            _ => Err(invalid()),
        }
    }

    /// The required `key` of a command.
    pub(crate) fn command_key(&mut self) -> Result<CommandKey, FieldError> {
        let text = self.text("key")?;
        CommandKey::parse(&text).ok_or_else(|| {
            FieldError::invalid(
                "key",
                "must be a string of 1 to 128 visible ASCII characters without spaces",
            )
        })
    }

    /// A required channel name. A name that breaks the grammar is reported as `code`.
    pub(crate) fn channel(&mut self, name: &str, code: ErrorCode) -> Result<Channel, FieldError> {
        let text = self.text(name)?;
        Channel::parse(&text).map_err(|error| FieldError::new(code, format!("`{name}` \"{}\" {error}", shorten(&text))))
    }

    /// The required name of an event, `event`.
    pub(crate) fn event_name(&mut self) -> Result<Cow<'t, str>, FieldError> {
        let name = self.text("event")?;
        if !is_event_name(&name) {
            return Err(FieldError::invalid(
                "event",
                "must have 1 to 128 bytes and no control characters",
            ));
        }
        Ok(name)
    }

    /// An optional non-negative integer of at most 64 bits.
    pub(crate) fn unsigned(&mut self, name: &str) -> Result<Option<u64>, FieldError> {
        let Some(value) = self.given(name) else {
            return Ok(None);
        };
        if value.kind != Kind::Integer {
            return Err(FieldError::invalid(name, "must be a non-negative integer"));
        }
        let parsed = value.raw.parse();
        parsed
            .map(Some)
            .map_err(|_| FieldError::invalid(name, "must be a non-negative integer of at most 64 bits"))
    }

    /// The optional `max_rate` of a subscription, rounded down to a rate that there is.
    pub(crate) fn max_rate(&mut self) -> Result<Option<Rate>, FieldError> {
        const NAME: &str = "max_rate";
        let Some(value) = self.given(NAME) else {
            return Ok(None);
        };
        let number = match value.kind {
            Kind::Integer | Kind::Number => value.raw.parse::<f64>().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| FieldError::invalid(NAME, "must be a number of updates per second"))?;
        let rate = Rate::at_most(number);
        rate.map(Some).ok_or_else(|| {
            let rule = format!("must be at least {} updates per second", Rate::ALL[0]);
            FieldError::invalid(NAME, &rule)
        })
    }

    /// An optional `true` or `false`; `false` if it is absent.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, FieldError> {
        match self.given(name) {
            None => Ok(false),
            Some(value) if value.kind == Kind::Bool => Ok(value.raw == "true"),
            Some(_) => Err(FieldError::invalid(name, "must be true or false")),
        }
    }

    /// The text of an optional string.
    pub(crate) fn optional_text(&mut self, name: &str) -> Result<Option<Cow<'t, str>>, FieldError> {
        if self.is_given(name) {
            self.text(name).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The raw text of an optional object.
    pub(crate) fn optional_object(&mut self, name: &str) -> Result<Option<&'t str>, FieldError> {
        match self.given(name) {
            None => Ok(None),
            Some(value) if value.kind == Kind::Object => Ok(Some(value.raw)),
            Some(_) => Err(FieldError::invalid(name, "must be an object")),
        }
    }

    /// Whether a field is absent or `null`.
    pub(crate) fn is_null(&self, name: &str) -> bool {
        self.get(name).is_none()
    }

    /// Whether an optional field is given.
    pub(crate) fn is_given(&mut self, name: &str) -> bool {
        self.given(name).is_some()
    }

    /// The raw text of an object; `None` if the field is absent or has another kind.
    pub(crate) fn object(&self, name: &str) -> Option<&'t str> {
        self.get(name)
            .filter(|value| value.kind == Kind::Object)
            .map(|value| value.raw)
    }

    /// The required `channels` of a request, as patterns.
    pub(crate) fn patterns(&mut self) -> Result<Vec<Pattern>, FieldError> {
        let mut patterns = Vec::new();
        self.texts("channels", |text| {
            let pattern = Pattern::parse(text).map_err(|error| {
                let message = format!("channel \"{}\" {error}", shorten(text));
                FieldError::new(ErrorCode::InvalidChannel, message)
            })?;
            patterns.push(pattern);
            Ok(())
        })?;
        Ok(patterns)
    }

    /// Calls `each` with the strings of a required array, in order, until `each` fails. An array may have at most
    /// [`CHANNELS_PER_REQUEST_MAX`] items.
    pub(crate) fn texts(
        &mut self,
        name: &str,
        mut each: impl FnMut(&str) -> Result<(), FieldError>,
    ) -> Result<(), FieldError> {
        let invalid = || FieldError::invalid(name, "must be an array of strings");
        let value = self.get(name).ok_or_else(|| FieldError::invalid(name, "is missing"))?;
        let read = self.0.texts(value, |index, text| {
            if index >= CHANNELS_PER_REQUEST_MAX {
                return Err(FieldError::invalid(name, "holds more than 1000 entries"));
            }
            each(text)
        });
        read.ok_or_else(invalid)?
    }
}

fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}
