//! Positions of events, and the formats that events are encoded in.

use std::fmt;

use crate::channel::Channel;

/// The largest offset: 2^53 - 1, the largest integer that every JSON parser reads exactly.
pub const OFFSET_MAX: u64 = (1 << 53) - 1;

/// Identifies one store of events. Offsets are comparable only within one epoch. Written as 16 lower-case hexadecimal
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Reads an epoch as [`fmt::Display`] writes it; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The encodings of an event. Each is a finished WebSocket text frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// The native dialect.
    Native,
    /// The typed dialect, with times that end with `Z`.
    Typed,
    /// The typed dialect, with times without a time zone.
    TypedNaive,
    /// A Socket.IO event packet, for both protocol revisions, with times that end with `Z`. Long polling sends the frame's
    /// payload.
    SocketIo,
    /// A Socket.IO event packet with times without a time zone.
    SocketIoNaive,
}

impl Encoding {
    /// The number of encodings.
    pub const COUNT: usize = Self::ALL.len();
    /// All encodings, each at the index of its discriminant.
    pub const ALL: [Self; 5] = [
        Self::Native,
        Self::Typed,
        Self::TypedNaive,
        Self::SocketIo,
        Self::SocketIoNaive,
    ];
    /// This encoding without compression.
    #[must_use]
    pub const fn plain(self) -> WireFormat {
        WireFormat {
            encoding: self,
            deflated: false,
        }
    }
}

/// The format in which a connection gets events: an encoding, compressed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireFormat {
    /// The encoding.
    pub encoding: Encoding,
    /// Whether frames are compressed with permessage-deflate. A frame that would not get shorter is sent uncompressed.
    pub deflated: bool,
}

impl WireFormat {
    /// The number of formats.
    pub const COUNT: usize = 2 * Encoding::COUNT;

    /// All formats in the order of their [`index`](Self::index): the uncompressed ones first.
    pub fn all() -> impl Iterator<Item = Self> {
        [false, true]
            .into_iter()
            .flat_map(|deflated| Encoding::ALL.map(|encoding| Self { encoding, deflated }))
    }

    /// The index of this format, less than [`COUNT`](Self::COUNT).
    #[must_use]
    pub const fn index(self) -> usize {
        self.encoding as usize + if self.deflated { Encoding::COUNT } else { 0 }
    }
}

/// The parts of an event that a dialect encodes, borrowed from the event's owner.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    /// The channel that the event is published to.
    pub channel: &'a Channel,
    /// The name of the event: 1 to 128 bytes without control characters.
    pub name: &'a str,
    /// One JSON value, byte for byte as published.
    pub data: &'a [u8],
    /// Unix milliseconds.
    pub timestamp_ms: u64,
    /// The offset in the channel's history; `None` if the channel keeps no history.
    pub offset: Option<u64>,
    /// Whether the event is sent as the state that the gateway keeps. Only the native dialect says so.
    pub is_snapshot: bool,
}
