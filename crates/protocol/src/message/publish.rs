//! Items of `POST /api/publish`.

use std::borrow::Cow;

use super::{ErrorCode, FieldError, Fields, RequestId};
use crate::channel::Channel;
use crate::json::Scratch;

/// One item, `{channel, event, data, timestamp?, id?}`. Its syntax is checked. It borrows from the request's body.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishItem<'a> {
    /// The channel to publish to.
    pub channel: Channel,
    /// The name of the event: 1 to 128 bytes without control characters.
    pub event: Cow<'a, str>,
    /// One JSON value as sent; `null` if absent.
    pub data: &'a str,
    /// Unix milliseconds; `None` if the gateway is to set the time.
    pub timestamp_ms: Option<u64>,
    /// The publisher's id of the event, with the rules of a request's `id`.
    pub id: Option<RequestId>,
}

impl<'a> PublishItem<'a> {
    /// Parses one item. Unknown fields are ignored. [`crate::json::split_array`] splits the array of a body into items.
    ///
    /// # Errors
    ///
    /// `INVALID_JSON`, `INVALID_MESSAGE` or `INVALID_CHANNEL`, with a message that names the field.
    pub fn parse(text: &'a str, scratch: &mut Scratch) -> Result<Self, (ErrorCode, Box<str>)> {
        Self::read(text, None, scratch).map_err(|error| (error.code, error.message))
    }

    /// Parses one item of a channel that is named elsewhere. The item need not name it, and may not name another one.
    ///
    /// # Errors
    ///
    /// As [`PublishItem::parse`].
    pub fn parse_in(channel: &Channel, text: &'a str, scratch: &mut Scratch) -> Result<Self, (ErrorCode, Box<str>)> {
        Self::read(text, Some(channel), scratch).map_err(|error| (error.code, error.message))
    }

    fn read(text: &'a str, named: Option<&Channel>, scratch: &mut Scratch) -> Result<Self, FieldError> {
        let mut fields = Fields::scan(text, scratch)?;
        fields.check_duplicates()?;
        let channel = match named {
            Some(channel) if !fields.is_given("channel") => channel.clone(),
            _ => fields.channel("channel", ErrorCode::InvalidChannel)?,
        };
        if named.is_some_and(|named| *named != channel) {
            return Err(FieldError::invalid(
                "channel",
                "differs from the channel of the subject",
            ));
        }
        Ok(Self {
            channel,
            event: fields.event_name()?,
            data: fields.raw("data"),
            timestamp_ms: fields.unsigned("timestamp")?,
            id: fields.id()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_an_item_is_not_changed() {
        let mut scratch = Scratch::default();
        let text = r#"{"channel":"market.BTC/USDT.price","event":"price_update","data": {"p":1.50e400,"s":"\u0041"},"timestamp":7,"id":"a","x":1}"#;
        let item = PublishItem::parse(text, &mut scratch).unwrap();
        assert_eq!(item.channel.as_str(), "market.BTC/USDT.price");
        assert_eq!(item.event, "price_update");
        assert_eq!(item.data, r#"{"p":1.50e400,"s":"\u0041"}"#);
        assert_eq!(item.timestamp_ms, Some(7));
        assert_eq!(item.id, Some(RequestId::Text("a".into())));
        let bare = PublishItem::parse(r#"{"event":"e","channel":"a"}"#, &mut scratch).unwrap();
        assert_eq!((bare.data, bare.timestamp_ms, bare.id), ("null", None, None));
    }

    #[test]
    fn the_channel_may_be_named_elsewhere() {
        let (mut scratch, channel) = (Scratch::default(), Channel::parse("a.b").unwrap());
        for text in [r#"{"event":"e"}"#, r#"{"event":"e","channel":"a.b"}"#] {
            let item = PublishItem::parse_in(&channel, text, &mut scratch).expect("an item");
            assert_eq!(item.channel, channel, "{text}");
        }
        let other = PublishItem::parse_in(&channel, r#"{"event":"e","channel":"a.c"}"#, &mut scratch);
        let (code, message) = other.unwrap_err();
        assert_eq!(code, ErrorCode::InvalidMessage);
        assert!(message.contains("`channel`"), "{message}");
    }

    #[test]
    fn an_empty_id_is_no_id() {
        let mut scratch = Scratch::default();
        for (id, parsed) in [
            (r#""""#, None),
            (r#"" \t""#, None),
            ("null", None),
            ("0", Some(RequestId::Number(0))),
            (r#""0""#, Some(RequestId::Text("0".into()))),
        ] {
            let text = format!(r#"{{"channel":"a","event":"e","id":{id}}}"#);
            let item = PublishItem::parse(&text, &mut scratch).expect("an item");
            assert_eq!(item.id, parsed, "{text}");
        }
    }

    #[test]
    fn the_error_of_an_item_names_the_field() {
        let mut scratch = Scratch::default();
        for (text, code, names) in [
            ("", ErrorCode::InvalidJson, "unexpected end"),
            ("[]", ErrorCode::InvalidMessage, "object"),
            (r#"{"event":"e"}"#, ErrorCode::InvalidMessage, "`channel`"),
            (
                r#"{"channel":"a.*","event":"e"}"#,
                ErrorCode::InvalidChannel,
                "`channel`",
            ),
            (r#"{"channel":"a"}"#, ErrorCode::InvalidMessage, "`event`"),
            (r#"{"channel":"a","event":""}"#, ErrorCode::InvalidMessage, "`event`"),
            (
                r#"{"channel":"a","event":"x\ny"}"#,
                ErrorCode::InvalidMessage,
                "`event`",
            ),
            (
                r#"{"channel":"a","event":"e","timestamp":-1}"#,
                ErrorCode::InvalidMessage,
                "`timestamp`",
            ),
            (
                r#"{"channel":"a","event":"e","timestamp":1.5}"#,
                ErrorCode::InvalidMessage,
                "`timestamp`",
            ),
            (
                r#"{"channel":"a","event":"e","event":"e"}"#,
                ErrorCode::InvalidMessage,
                "`event`",
            ),
            (
                r#"{"channel":"a","event":"e","id":[]}"#,
                ErrorCode::InvalidMessage,
                "`id`",
            ),
        ] {
            let (got, message) = PublishItem::parse(text, &mut scratch).unwrap_err();
            assert_eq!(got, code, "{text}: {message}");
            assert!(message.contains(names), "{text}: {message}");
        }
    }
}
