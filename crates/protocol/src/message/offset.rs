//! The offset of Socket.IO's connection state recovery: up to when a connection had everything, as the last argument of an
//! event.
//!
//! Connections share the frames of events, so an offset says what is true of all of them: what the shard has delivered with
//! this event. That is everything up to a version, and of some stripes of the hub, whose events come in the order of
//! versions, everything up to another one. It has the form `<epoch>-<version>[v][-<stripe>.<version>]*` in hexadecimal
//! digits, of the epoch only the last eight.

use std::fmt;

use super::Cursor;
use crate::event::{Epoch, OFFSET_MAX};

/// The most stripes in an offset.
const STRIPES_MAX: usize = 16;

/// Up to when a connection had everything; see the module's docs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offset {
    epoch: u32,
    /// Every event with this version or a lower one was sent before.
    pub version: u64,
    /// Last values of channels with a history are still to be sent.
    pub owes_values: bool,
    /// Stripes of the hub of which more was sent, and the versions of their newest events.
    pub newest: Vec<(u8, u64)>,
}

/// What was sent beyond a cursor, of stripes of the hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beyond<'a> {
    /// By stripe: the version of the newest event that was delivered.
    pub delivered: &'a [u64],
    /// Of what was delivered, the connection may lack what is newer than this version.
    pub up_to: u64,
    /// What the client had already when it came back: stripes, and the versions of their newest events.
    pub had: &'a [(u8, u64)],
}

impl Offset {
    /// The offset of an event.
    #[must_use]
    pub const fn new(epoch: Epoch, version: u64, newest: Vec<(u8, u64)>) -> Self {
        Self {
            epoch: mark(epoch),
            version,
            owes_values: false,
            newest,
        }
    }

    /// The offset of a message that is not an event: everything up to a cursor, and what was sent beyond it.
    #[must_use]
    pub fn beyond(cursor: Cursor, beyond: &Beyond<'_>) -> Self {
        let mut newest: Vec<(u8, u64)> = (0..).zip(beyond.delivered.iter().copied()).collect();
        for (stripe, version) in &mut newest {
            let had = beyond.had.iter().filter(|(of, _)| of == stripe);
            *version = had.map(|(_, had)| *had).fold((*version).min(beyond.up_to), u64::max);
        }
        newest.retain(|(_, version)| *version > cursor.version);
        Self {
            owes_values: cursor.owes_values,
            ..Self::new(cursor.epoch, cursor.version, newest)
        }
    }

    /// Whether it is an offset in this store.
    #[must_use]
    pub const fn is_of(&self, epoch: Epoch) -> bool {
        self.epoch == mark(epoch)
    }

    /// Reads an offset as [`fmt::Display`] writes it; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (epoch, version) = (parts.next()?, parts.next()?);
        let (version, owes_values) = match version.strip_suffix('v') {
            Some(version) => (version, true),
            None => (version, false),
        };
        let newest: Option<Vec<_>> = parts.by_ref().take(STRIPES_MAX).map(stripe).collect();
        let is_complete = parts.next().is_none();
        is_complete.then_some(Self {
            epoch: u32::try_from(number(epoch)?).ok()?,
            version: number(version)?,
            owes_values,
            newest: newest?,
        })
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:x}", self.epoch, self.version)?;
        f.write_str(if self.owes_values { "v" } else { "" })?;
        let mut newest = self.newest.iter();
        newest.try_for_each(|(stripe, version)| write!(f, "-{stripe:x}.{version:x}"))
    }
}

const fn mark(epoch: Epoch) -> u32 {
    (epoch.0 & 0xffff_ffff) as u32
}

fn stripe(text: &str) -> Option<(u8, u64)> {
    let (stripe, version) = text.split_once('.')?;
    Some((u8::try_from(number(stripe)?).ok()?, number(version)?))
}

fn number(text: &str) -> Option<u64> {
    let is_hexadecimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hexadecimal)?;
    (number <= OFFSET_MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_read_as_it_is_written() {
        let epoch = Epoch(0x1234_5678_9abc_def0);
        let offset = |newest| Offset::new(epoch, 42, newest);
        let owing = Offset {
            owes_values: true,
            ..offset(Vec::new())
        };
        for (offset, text) in [
            (offset(Vec::new()), "9abcdef0-2a"),
            (owing.clone(), "9abcdef0-2av"),
            (offset(vec![(15, 43)]), "9abcdef0-2a-f.2b"),
            (offset(vec![(0, 44), (15, 43)]), "9abcdef0-2a-0.2c-f.2b"),
        ] {
            assert_eq!(offset.to_string(), text);
            assert!(offset.is_of(epoch) && !offset.is_of(Epoch(7)));
            assert_eq!(Offset::parse(text), Some(offset));
        }
    }

    #[test]
    fn a_message_tells_what_was_sent_beyond_its_cursor() {
        let cursor = Cursor {
            epoch: Epoch(7),
            holder: 7,
            version: 42,
            owes_values: true,
        };
        let told = |beyond: &Beyond<'_>| Offset::beyond(cursor, beyond).to_string();
        assert_eq!(told(&Beyond::default()), "00000007-2av");
        let beyond = Beyond {
            delivered: &[41, 42, 43, 45],
            up_to: u64::MAX,
            had: &[],
        };
        assert_eq!(told(&beyond), "00000007-2av-2.2b-3.2d");
        // What comes behind a missing event does not count, unless the client had it.
        assert_eq!(told(&Beyond { up_to: 42, ..beyond }), "00000007-2av");
        let had = &[(0, 46), (3, 44)];
        assert_eq!(
            told(&Beyond {
                up_to: 43,
                had,
                ..beyond
            }),
            "00000007-2av-0.2e-2.2b-3.2c"
        );
    }

    #[test]
    fn any_other_text_is_no_offset() {
        for text in [
            "",
            "-",
            "2a",
            "9abcdef0-",
            "9abcdef0-2a-f",
            "9abcdef0-2a-f.",
            "9abcdef0-2a-100.2b",
            "9abcdef0-2a-f.2b.0",
            "9abcdef0-2a-0.1-1.1-2.1-3.1-4.1-5.1-6.1-7.1-8.1-9.1-a.1-b.1-c.1-d.1-e.1-f.1-f.1",
            "9abcdef0-+2a",
            "9abcdef0-2avv",
            "19abcdef0-2a",
            "9abcdef0-20000000000000",
        ] {
            assert_eq!(Offset::parse(text), None, "{text:?}");
        }
    }
}
