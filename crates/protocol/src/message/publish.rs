//! One item of `POST /api/publish`.

use std::borrow::Cow;

use super::{ErrorCode, FieldError, Fields, RequestId};
use crate::channel::Channel;
use crate::json::Scratch;

/// `{channel, event, data, timestamp?, id?}`, checked in form; borrowed from the request's body.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishItem<'a> {
    /// Where it goes.
    pub channel: Channel,
    /// Its name: 1 to 128 bytes without control characters.
    pub event: Cow<'a, str>,
    /// One JSON value, byte for byte; `null` when absent.
    pub data: &'a str,
    /// Unix milliseconds; `None`: the gateway's own time.
    pub timestamp_ms: Option<u64>,
    /// The publisher's name for it, by the rules of a request's `id`.
    pub id: Option<RequestId>,
}

impl<'a> PublishItem<'a> {
    /// Parses one item (to cut a body's array into items, see [`crate::json::split_array`]). Unknown fields are
    /// ignored.
    ///
    /// # Errors
    /// The code (`INVALID_JSON`, `INVALID_MESSAGE`, `INVALID_CHANNEL`) and a message that names the field.
    pub fn parse(text: &'a str, scratch: &mut Scratch) -> Result<Self, (ErrorCode, Box<str>)> {
        Self::read(text, scratch).map_err(|error| (error.code, error.message))
    }

    fn read(text: &'a str, scratch: &mut Scratch) -> Result<Self, FieldError> {
        let mut fields = Fields::scan(text, scratch)?;
        fields.each_once()?;
        Ok(Self {
            channel: fields.channel("channel", ErrorCode::InvalidChannel)?,
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
    fn an_item_keeps_its_data_as_given() {
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
    fn a_bad_item_names_its_field() {
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
