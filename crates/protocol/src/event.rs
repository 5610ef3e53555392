//! What identifies an event, and the formats it is encoded in.

use std::fmt;

use crate::channel::Channel;

/// The largest offset: the largest integer that every JSON parser reads exactly, 2^53 - 1.
pub const OFFSET_MAX: u64 = (1 << 53) - 1;

/// Names one store of events: offsets compare within it only. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Reads what [`fmt::Display`] wrote, and nothing else.
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

/// The forms an event can take on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// The native dialect's text frame.
    Native,
    /// The typed dialect's text frame, times with a `Z`.
    Typed,
    /// The typed dialect's text frame, times without one.
    TypedNaive,
    /// A Socket.IO event in a text frame, of both revisions; long polling takes the frame's payload. Times with a `Z`.
    SocketIo,
    /// The same, times without one.
    SocketIoNaive,
}

impl Encoding {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them, each at its own number.
    pub const ALL: [Self; 5] = [
        Self::Native,
        Self::Typed,
        Self::TypedNaive,
        Self::SocketIo,
        Self::SocketIoNaive,
    ];
    /// As it is, not compressed.
    #[must_use]
    pub const fn plain(self) -> WireFormat {
        WireFormat {
            encoding: self,
            deflated: false,
        }
    }
}

/// What one connection gets of every event: an encoding, compressed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireFormat {
    /// What it says.
    pub encoding: Encoding,
    /// Compressed (permessage-deflate), unless that does not make it shorter.
    pub deflated: bool,
}

impl WireFormat {
    /// How many there are.
    pub const COUNT: usize = 2 * Encoding::COUNT;

    /// All of them, the plain ones first: each stands at its [`index`](Self::index).
    pub fn all() -> impl Iterator<Item = Self> {
        [false, true]
            .into_iter()
            .flat_map(|deflated| Encoding::ALL.map(|encoding| Self { encoding, deflated }))
    }

    /// Its place among all.
    #[must_use]
    pub const fn index(self) -> usize {
        self.encoding as usize + if self.deflated { Encoding::COUNT } else { 0 }
    }
}

/// What a dialect encodes of an event, borrowed from wherever the event is kept.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    /// Where it goes.
    pub channel: &'a Channel,
    /// Its name: 1 to 128 bytes without control characters.
    pub name: &'a str,
    /// One JSON value, byte for byte as published.
    pub data: &'a [u8],
    /// Unix milliseconds.
    pub timestamp_ms: u64,
    /// Position in the channel's history, on channels that keep one.
    pub offset: Option<u64>,
}
