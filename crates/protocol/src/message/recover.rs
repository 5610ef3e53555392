//! Positions in the histories of channels: a client gets them in `subscribed` and sends them back in `recover`.

use super::fields::object_members;
use super::{CHANNELS_PER_REQUEST_MAX, FieldError, Fields, shorten};
use crate::channel::Channel;
use crate::event::{Epoch, OFFSET_MAX};
use crate::json::Scratch;
use crate::message::ErrorCode;

/// The length limit of an `epoch`, in bytes. The gateway's own epochs have 16.
const EPOCH_BYTES_MAX: usize = 64;

/// A position in the history of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The store to which the offset belongs.
    pub epoch: Epoch,
    /// The offset of the last event before this position.
    pub offset: u64,
}

/// A position that a client claims to have reached. Its epoch may be unknown to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// `None` if the text is not an epoch of a tickgate gateway.
    pub epoch: Option<Epoch>,
    /// The offset of the last event that the client has.
    pub offset: u64,
}

/// The `recover` of a `subscribe`: at most [`CHANNELS_PER_REQUEST_MAX`] channels, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recover(pub Vec<(Channel, Reached)>);

impl Recover {
    /// Reads the text of the object.
    pub(crate) fn read(text: &str, scratch: &mut Scratch) -> Result<Self, FieldError> {
        let mut keys = Vec::new();
        object_members(text, scratch, |key, value| {
            if keys.len() >= CHANNELS_PER_REQUEST_MAX {
                return Err(FieldError::invalid("recover", "holds more than 1000 channels"));
            }
            let channel = Channel::parse(key).map_err(|error| {
                let message = format!("channel \"{}\" in `recover` {error}", shorten(key));
                FieldError::new(ErrorCode::InvalidChannel, message)
            })?;
            keys.push((channel, value));
            Ok(())
        })?;
        let read = |(channel, value): (Channel, &str)| {
            let reached = reached(value, scratch).map_err(|what| {
                let message = format!("`recover` of \"{channel}\" {what}");
                FieldError::new(ErrorCode::InvalidMessage, message)
            })?;
            Ok((channel, reached))
        };
        keys.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}

fn reached(text: &str, scratch: &mut Scratch) -> Result<Reached, &'static str> {
    let mut fields = Fields::scan(text, scratch).map_err(|_| "must be an object with `epoch` and `offset`")?;
    if fields.check_duplicates().is_err() {
        return Err("names a field twice");
    }
    let epoch = match fields.text("epoch") {
        Ok(epoch) if !epoch.is_empty() && epoch.len() <= EPOCH_BYTES_MAX => Epoch::parse(&epoch),
        _ => return Err("needs an `epoch`, a string of 1 to 64 bytes"),
    };
    match fields.unsigned("offset") {
        Ok(Some(offset @ ..=OFFSET_MAX)) => Ok(Reached { epoch, offset }),
        _ => Err("needs an `offset`, an integer from 0 to 2^53-1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Recover, FieldError> {
        Recover::read(text, &mut Scratch::default())
    }

    #[test]
    fn keys_are_read_in_order_and_may_have_unknown_epochs() {
        let recover = read(
            r#"{ "grid.a.order":{"epoch":"00000000000000ff","offset":41,"x":[]}, "grid.\u0062":{"offset":0,"epoch":"other"} }"#,
        );
        let named = |text: &str| Channel::parse(text).expect("valid");
        let of = |epoch, offset| Reached { epoch, offset };
        assert_eq!(
            recover,
            Ok(Recover(vec![
                (named("grid.a.order"), of(Some(Epoch(255)), 41)),
                (named("grid.b"), of(None, 0)),
            ]))
        );
        assert_eq!(read("{}"), Ok(Recover::default()));
    }

    #[test]
    fn the_error_names_the_invalid_key() {
        for (text, code, names) in [
            (r#"{"grid.*":{}}"#, ErrorCode::InvalidChannel, "grid.*"),
            (r#"{"a":7}"#, ErrorCode::InvalidMessage, "of \"a\" must be an object"),
            (r#"{"a":{"offset":1}}"#, ErrorCode::InvalidMessage, "`epoch`"),
            (r#"{"a":{"epoch":7,"offset":1}}"#, ErrorCode::InvalidMessage, "`epoch`"),
            (r#"{"a":{"epoch":"","offset":1}}"#, ErrorCode::InvalidMessage, "`epoch`"),
            (r#"{"a":{"epoch":"e"}}"#, ErrorCode::InvalidMessage, "`offset`"),
            (
                r#"{"a":{"epoch":"e","offset":-1}}"#,
                ErrorCode::InvalidMessage,
                "`offset`",
            ),
            (
                r#"{"a":{"epoch":"e","offset":"1"}}"#,
                ErrorCode::InvalidMessage,
                "`offset`",
            ),
            (
                r#"{"a":{"epoch":"e","offset":1.5}}"#,
                ErrorCode::InvalidMessage,
                "`offset`",
            ),
            (
                r#"{"a":{"epoch":"e","offset":9007199254740992}}"#,
                ErrorCode::InvalidMessage,
                "`offset`",
            ),
            (
                r#"{"a":{"epoch":"e","offset":1,"offset":2}}"#,
                ErrorCode::InvalidMessage,
                "twice",
            ),
            (
                r#"{"a":{"epoch":"e","offset":1},"a":{"epoch":"e","offset":1}}"#,
                ErrorCode::InvalidMessage,
                "twice",
            ),
        ] {
            let error = read(text).expect_err(text);
            assert_eq!(error.code, code, "{text}");
            assert!(error.message.contains(names), "{text}: {}", error.message);
        }
        let many: Vec<String> = (0..1001)
            .map(|n| format!(r#""c.{n}":{{"epoch":"e","offset":1}}"#))
            .collect();
        assert!(read(&format!("{{{}}}", many[..1000].join(","))).is_ok());
        assert!(read(&format!("{{{}}}", many.join(","))).is_err());
    }
}
