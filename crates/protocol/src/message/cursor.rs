//! The cursor: one number that says up to when a connection had everything.
//!
//! A client gets it in messages of the gateway, and gives the last one back when it returns. Its text is opaque to clients:
//! `<epoch>-<holder>-<version>`, in hexadecimal digits, with a `v` at the end while last values are owed.

use std::fmt;

use super::fields::object_members;
use super::{CHANNELS_PER_REQUEST_MAX, ErrorCode, FieldError, Recover, shorten};
use crate::channel::Channel;
use crate::event::{Epoch, OFFSET_MAX};
use crate::json::Scratch;

/// The length limit of a `cursor`, in bytes. The gateway's own are shorter; the rest is for those of later versions.
const CURSOR_BYTES_MAX: usize = 256;

/// Up to when a connection had everything that its patterns matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The store to which the version belongs.
    pub epoch: Epoch,
    /// A mark of the user who had the connection. A cursor says nothing of what another user had.
    pub holder: u32,
    /// Every event with this version or a lower one was sent before, or its loss was reported.
    pub version: u64,
    /// Last values of channels with a history are still to be sent.
    pub owes_values: bool,
}

impl Cursor {
    /// Reads a cursor as [`fmt::Display`] writes it; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (text, owes_values) = match text.strip_suffix('v') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let mut parts = text.split('-');
        let epoch = Epoch::parse(parts.next()?)?;
        let (holder, version) = (parts.next()?, parts.next()?);
        let is_hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if parts.next().is_some() || !is_hexadecimal(holder) || !is_hexadecimal(version) {
            return None;
        }
        let version = u64::from_str_radix(version, 16).ok()?;
        (version <= OFFSET_MAX).then_some(Self {
            epoch,
            holder: u32::from_str_radix(holder, 16).ok()?,
            version,
            owes_values,
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            epoch,
            holder,
            version,
            owes_values,
        } = self;
        write!(f, "{epoch}-{holder:08x}-{version:x}")?;
        f.write_str(if *owes_values { "v" } else { "" })
    }
}

/// What a client that returns says of what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Its positions in histories (`recover`).
    Keys(Recover),
    /// The cursor that it got last.
    Cursor {
        /// `None` if the text is not a cursor of a tickgate gateway, or not one of this user.
        cursor: Option<Cursor>,
        /// Of a Socket.IO client: stripes of the hub, and the versions of their newest events that the client has.
        newest: Vec<(u8, u64)>,
        /// The offsets of the newest events that the client has beyond the cursor. Their channels are distinct.
        seen: Vec<(Channel, u64)>,
    },
}

/// The members of a `subscribe` that say what the client has, as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResumeFields<'t> {
    /// An object.
    pub(crate) recover: Option<&'t str>,
    /// The text of a string, decoded.
    pub(crate) cursor: Option<Box<str>>,
    /// An object.
    pub(crate) seen: Option<&'t str>,
    /// Whether another message has more of `recover`.
    pub(crate) more: bool,
}

impl ResumeFields<'_> {
    /// Reads the members; `None` if the client does not return.
    pub(crate) fn read(self, scratch: &mut Scratch) -> Result<Option<Resume>, FieldError> {
        let Self {
            recover,
            cursor,
            seen,
            more,
        } = self;
        if more && recover.is_none() {
            return Err(FieldError::invalid("more", "needs a `recover`"));
        }
        match (recover, cursor) {
            (Some(_), Some(_)) => Err(FieldError::invalid(
                "cursor",
                "cannot stand beside `recover`: send one of them",
            )),
            (None, Some(text)) if text.len() > CURSOR_BYTES_MAX => Err(FieldError::invalid(
                "cursor",
                "is longer than 256 bytes: send it as you got it, or subscribe without it and reload your state",
            )),
            (None, Some(text)) => Ok(Some(Resume::Cursor {
                cursor: Cursor::parse(&text),
                newest: Vec::new(),
                seen: seen.map_or(Ok(Vec::new()), |seen| read_seen(seen, scratch))?,
            })),
            _ if seen.is_some() => Err(FieldError::invalid("seen", "needs a `cursor`")),
            (Some(recover), None) => Ok(Some(Resume::Keys(Recover::read(recover, scratch)?))),
            (None, None) => Ok(None),
        }
    }
}

fn read_seen(text: &str, scratch: &mut Scratch) -> Result<Vec<(Channel, u64)>, FieldError> {
    let mut seen = Vec::new();
    object_members(text, scratch, |key, value| {
        if seen.len() >= CHANNELS_PER_REQUEST_MAX {
            return Err(FieldError::invalid("seen", "holds more than 1000 channels"));
        }
        let channel = Channel::parse(key).map_err(|error| {
            let message = format!("channel \"{}\" in `seen` {error}", shorten(key));
            FieldError::new(ErrorCode::InvalidChannel, message)
        })?;
        match value.parse() {
            Ok(offset @ ..=OFFSET_MAX) => seen.push((channel, offset)),
            _ => {
                let message = format!("`seen` of \"{channel}\" must be an offset, an integer from 0 to 2^53-1");
                return Err(FieldError::new(ErrorCode::InvalidMessage, message));
            }
        }
        Ok(())
    })?;
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        for (owes_values, text) in [
            (false, "00000000000000e9-0000000a-2a"),
            (true, "00000000000000e9-0000000a-2av"),
        ] {
            let cursor = Cursor {
                epoch: Epoch(233),
                holder: 10,
                version: 42,
                owes_values,
            };
            assert_eq!(cursor.to_string(), text);
            assert_eq!(Cursor::parse(text), Some(cursor));
        }
    }

    #[test]
    fn any_other_text_is_no_cursor() {
        for text in [
            "",
            "v",
            "-",
            "--",
            "00000000000000e9",
            "00000000000000e9-0000000a",
            "00000000000000e9-0000000a-",
            "00000000000000e9--2a",
            "00000000000000e9-0000000a-2a-1",
            "00000000000000e9-0000000a-+2a",
            "00000000000000e9-0000000a-2avv",
            "00000000000000E9-0000000a-2a",
            "e9-0000000a-2a",
            "00000000000000e9-100000000-2a",
            "00000000000000e9-0000000a-20000000000000",
            "00000000000000e9-0000000a-10000000000000000",
            " 00000000000000e9-0000000a-2a",
            "1703836800000-0",
        ] {
            assert_eq!(Cursor::parse(text), None, "{text:?}");
        }
        let largest = Cursor::parse("00000000000000e9-ffffffff-1fffffffffffff").expect("a cursor");
        assert_eq!((largest.version, largest.holder), (OFFSET_MAX, u32::MAX));
    }

    #[test]
    fn a_client_returns_in_one_way() {
        let read = |recover, cursor: Option<&str>, seen| {
            let cursor = cursor.map(Into::into);
            let fields = ResumeFields {
                recover,
                cursor,
                seen,
                more: false,
            };
            fields.read(&mut Scratch::default())
        };
        assert_eq!(read(None, None, None), Ok(None));
        assert_eq!(read(Some("{}"), None, None), Ok(Some(Resume::Keys(Recover::default()))));
        let seen = vec![(Channel::parse("a.b").expect("valid"), 7)];
        assert_eq!(
            read(None, Some("of another gateway"), Some(r#"{"a.b":7}"#)),
            Ok(Some(Resume::Cursor {
                cursor: None,
                newest: Vec::new(),
                seen
            }))
        );
        let long = "x".repeat(257);
        for (recover, cursor, seen, names) in [
            (Some("{}"), Some("x"), None, "`cursor` cannot stand beside `recover`"),
            (None, Some(&*long), None, "`cursor` is longer"),
            (None, None, Some("{}"), "`seen` needs a `cursor`"),
            (Some("{}"), None, Some("{}"), "`seen` needs a `cursor`"),
            (None, Some("x"), Some(r#"{"a.*":7}"#), "`seen`"),
            (None, Some("x"), Some(r#"{"a":"7"}"#), "`seen` of \"a\""),
            (None, Some("x"), Some(r#"{"a":-7}"#), "`seen` of \"a\""),
            (None, Some("x"), Some(r#"{"a":1.5}"#), "`seen` of \"a\""),
            (None, Some("x"), Some(r#"{"a":9007199254740992}"#), "`seen` of \"a\""),
            (None, Some("x"), Some(r#"{"a":7,"a":7}"#), "twice"),
        ] {
            let error = read(recover, cursor, seen).expect_err(names);
            assert!(error.message.contains(names), "{}", error.message);
        }
        let many: Vec<String> = (0..1001).map(|n| format!(r#""c.{n}":1"#)).collect();
        let [enough, too_many] = [&many[..1000], &many[..]].map(|some| format!("{{{}}}", some.join(",")));
        assert!(read(None, Some("x"), Some(&*enough)).is_ok());
        assert!(read(None, Some("x"), Some(&*too_many)).is_err());
    }
}
